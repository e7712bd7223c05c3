"""How far two answers to one request are apart, in numbers that can be kept where their words may not. Pure.

The answers are compared as lanes gave them, before anything is repaired or taken out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import orjson

from dataplane.shadow.offers import Given
from dataplane.validators.folding import words
from dataplane.validators.grounding import cited
from dataplane.validators.values import LAYERS, SEVERITY, Report, Verdict

# Of each text; what comes behind is not looked at.
MAX_COMPARED_CHARACTERS: Final = 100_000
FINISH_REASONS: Final = frozenset({"stop", "length", "tool_calls", "content_filter"})
OTHER: Final = "other"

BOTH, CONTROL_ONLY, SHADOW_ONLY, NEITHER = "both", "control", "shadow", "neither"


@dataclass(frozen=True, slots=True)
class Side:
    """One answer, and what was found out about it here.

    Attributes:
        schema_passed: None where there is no schema, it cannot be read, or there is no answer that it could be about.
        report: What the validators of the route say, but for judges; None where there are none, or it is a refusal.
    """

    given: Given
    schema_passed: bool | None = None
    report: Report | None = None


@dataclass(frozen=True, slots=True)
class Tools:
    """How far two answers call the same tools (0..1).

    Attributes:
        names: Of the calls of both, how many call a tool that the other calls as well.
        arguments: The mean over calls of the same tool, in order: 1 for equal ones, else the share of their members
            that are equal; None where no tool is called by both.
    """

    names: float
    arguments: float | None

    @property
    def agree(self) -> bool:
        """Whether they call the same tools with the same arguments."""
        return self.names == 1 and self.arguments in (None, 1)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two answers to one request have in common.

    Attributes:
        schema: Which of them meet the schema: both, control, shadow or neither; None where it was not looked at.
        overlap: Of the words of both, how many are in both (Dice, each as often as it occurs); None: neither has any.
        length_ratio: Words of the shadow's to words of control's; None where either has none.
        citations: Of the sources that either cites, how many both do (Jaccard); None: neither cites any.
        tools: None: neither calls any.
        layers: By layer of the validators, the worst that they say of control's answer and of the shadow's.
        rules: Rule with version, and what it says of either, where it does not let both pass.
        verdicts_agree: Whether validators decide the same of both; None where they did not look at both.
    """

    schema: str | None
    overlap: float | None
    length_ratio: float | None
    citations: float | None
    tools: Tools | None
    refused: tuple[bool, bool]
    layers: tuple[tuple[str, str, str], ...]
    rules: tuple[tuple[str, str, str], ...]
    verdicts_agree: bool | None
    finish_reasons: tuple[str, str]
    cost_micros: tuple[int, int]
    latency_ms: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        """The compact diff, which holds none of the words. Shape: the attributes; pairs are [control's, shadow's]."""
        tools = self.tools
        return {
            "schema": self.schema,
            "overlap": _short(self.overlap),
            "length_ratio": _short(self.length_ratio),
            "citations": _short(self.citations),
            "tools": None if tools is None else {"names": _short(tools.names), "arguments": _short(tools.arguments)},
            "refused": list(self.refused),
            "layers": {layer: [control, shadow] for layer, control, shadow in self.layers},
            "rules": [list(rule) for rule in self.rules],
            "finish_reasons": list(self.finish_reasons),
            "cost_micros": list(self.cost_micros),
            "latency_ms": [round(one, 1) for one in self.latency_ms],
        }


def compare(control: Side, shadow: Side) -> Comparison:
    """Compare the shadow's answer to control's."""
    one, other = control.given, shadow.given
    own, theirs = words(one.text[:MAX_COMPARED_CHARACTERS]), words(other.text[:MAX_COMPARED_CHARACTERS])
    layers, rules, agree = _verdicts(control.report, shadow.report)
    return Comparison(
        schema=_schema(control.schema_passed, shadow.schema_passed),
        overlap=overlap(own, theirs),
        length_ratio=len(theirs) / len(own) if own and theirs else None,
        citations=_jaccard(_cited(one), _cited(other)),
        tools=compare_tools(one.tool_calls, other.tool_calls),
        refused=(one.refused, other.refused),
        layers=layers,
        rules=rules,
        verdicts_agree=agree,
        finish_reasons=(_finish(one), _finish(other)),
        cost_micros=(one.cost_micros, other.cost_micros),
        latency_ms=(one.latency_ms, other.latency_ms),
    )


def overlap(control: Iterable[bytes], shadow: Iterable[bytes]) -> float | None:
    """See `Comparison.overlap`.

    Source: Dice, "Measures of the Amount of Ecologic Association Between Species", Ecology, 1945.
    """
    own, theirs = Counter(control), Counter(shadow)
    total = own.total() + theirs.total()
    return 2 * (own & theirs).total() / total if total else None


def compare_tools(control: Iterable[tuple[str, str]], shadow: Iterable[tuple[str, str]]) -> Tools | None:
    """See `Tools`. Each side is names and arguments, as the model wrote these."""
    own, theirs = list(control), list(shadow)
    if not own and not theirs:
        return None
    called, also = Counter(name for name, _ in own), Counter(name for name, _ in theirs)
    names = 2 * (called & also).total() / (len(own) + len(theirs))
    shares = []
    for name in called & also:
        mine = [arguments for one, arguments in own if one == name]
        others = [arguments for one, arguments in theirs if one == name]
        shares += [_equal_share(a, b) for a, b in zip(mine, others, strict=False)]
    return Tools(names, sum(shares) / len(shares) if shares else None)


def _equal_share(control: str, shadow: str) -> float:
    """How much of two tools' arguments is equal."""
    if control == shadow:
        return 1.0
    try:
        own, theirs = orjson.loads(control), orjson.loads(shadow)
    except orjson.JSONDecodeError:
        return 0.0
    if _is_equal(own, theirs):
        return 1.0
    if not isinstance(own, dict) or not isinstance(theirs, dict):
        return 0.0
    names = own.keys() | theirs.keys()
    equal = sum(1 for name in own.keys() & theirs.keys() if _is_equal(own[name], theirs[name]))
    return equal / len(names)


def _is_equal(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal; to Python, true is 1 and 1.0 as well, which is right of the last alone."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_equal(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_equal, one, other))
    return bool(one == other)


def _schema(control: bool | None, shadow: bool | None) -> str | None:
    if control is None or shadow is None:
        return None
    if control:
        return BOTH if shadow else CONTROL_ONLY
    return SHADOW_ONLY if shadow else NEITHER


def _cited(given: Given) -> frozenset[str]:
    return cited(given.text[:MAX_COMPARED_CHARACTERS])


def _jaccard(control: frozenset[str], shadow: frozenset[str]) -> float | None:
    either = control | shadow
    return len(control & shadow) / len(either) if either else None


def _verdicts(
    control: Report | None, shadow: Report | None
) -> tuple[tuple[tuple[str, str, str], ...], tuple[tuple[str, str, str], ...], bool | None]:
    """What `Comparison` says of validators: `layers`, `rules` and `verdicts_agree`."""
    if control is None or shadow is None:
        return (), (), None
    own, theirs = _worst_by_layer(control), _worst_by_layer(shadow)
    layers = tuple(
        (layer.value, own[layer.value], theirs[layer.value])
        for layer in LAYERS
        if layer.value in own and layer.value in theirs
    )
    said = {(finding.rule, finding.version): finding.verdict for finding in control.findings}
    rules = tuple(
        (f"{finding.rule}@{finding.version}", before.value, finding.verdict.value)
        for finding in shadow.findings
        if (before := said.get((finding.rule, finding.version))) is not None
        and (before is not Verdict.PASS or finding.verdict is not Verdict.PASS)
    )
    return layers, rules, control.verdict is shadow.verdict


def _worst_by_layer(report: Report) -> dict[str, str]:
    worst: dict[str, Verdict] = {}
    for finding in report.findings:
        name = finding.layer.value
        worst[name] = max(worst.get(name, Verdict.PASS), finding.effect, key=SEVERITY.__getitem__)
    return {name: verdict.value for name, verdict in worst.items()}


def _finish(given: Given) -> str:
    """Why an answer ended, in one of the known words: providers may send any."""
    return given.finish_reason if given.finish_reason in FINISH_REASONS else OTHER


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
