"""What a validator looks at, and what it says: verdicts with the place that they are about. Pure values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from dataplane.records import record

MAX_SPANS_TOLD: Final = 20


class Verdict(StrEnum):
    """What one rule says of an answer, or what all of them say together."""

    PASS = "pass"  # noqa: S105 - a word, not a password
    WARN = "warn"
    REPAIR = "repair"
    BLOCK = "block"
    ABSTAIN = "abstain"  # nothing could be said: no time was left, or the rule itself failed


class Layer(StrEnum):
    """The layers in the order of what they cost, which is the order in which they are run."""

    STRUCTURE = "structure"
    RULES = "rules"
    GROUNDING = "grounding"
    JUDGE = "judge"


# Of decisions. An abstention is none: its rule says what follows from it.
SEVERITY: Final = {Verdict.PASS: 0, Verdict.WARN: 1, Verdict.REPAIR: 2, Verdict.BLOCK: 3}
LAYERS: Final = {layer: place for place, layer in enumerate(Layer)}
TEXT: Final = "text"
# Under what an answer is counted as a whole, beside its rules, whose names carry a version: two of them may block the
# same one. With it stands whether a rule could not say.
ANSWER: Final = "answer"
ABSTAINED: Final = "abstained"


@dataclass(frozen=True, slots=True)
class Source:
    """A text that an answer may rest on, by the name under which it is cited."""

    id: str
    text: str


@record
class Output:
    """A finished answer. `tool_calls` are (name, arguments as the model wrote them); `is_json` says that the caller
    asked for JSON, so that `text` is to be JSON.
    """

    text: str
    tool_calls: tuple[tuple[str, str], ...] = ()
    sources: tuple[Source, ...] = ()
    question: str = ""
    is_json: bool = False


@record
class Channel:
    """One text of an answer: the answer itself, or the arguments of one of its tool calls. `tool` names the latter's
    function.
    """

    where: str
    text: str
    is_json: bool
    tool: str | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `start` to `end` of the answer's text, or of the arguments of the tool call that `where` names.

    `what` is the name of the kind of thing that stands there, such as "card number"; what it is, is not told again.
    """

    start: int
    end: int
    what: str
    where: str = TEXT

    def to_json(self) -> dict[str, Any]:
        """Shape: {"where", "start", "end", "what"}."""
        return {"where": self.where, "start": self.start, "end": self.end, "what": self.what}


@record
class Finding:
    """What one rule said.

    Attributes:
        version: Of the rule.
        why: In words, without the words of the answer.
        micros: Microseconds of processor time that it took.
        is_closed: Whether the rule's abstention blocks; else it warns.
    """

    rule: str
    version: int
    layer: Layer
    kind: str
    verdict: Verdict
    why: str = ""
    spans: tuple[Span, ...] = ()
    micros: int = 0
    is_closed: bool = True

    @property
    def effect(self) -> Verdict:
        """The decision that it comes to; never ABSTAIN."""
        if self.verdict is Verdict.ABSTAIN:
            return Verdict.BLOCK if self.is_closed else Verdict.WARN
        return self.verdict

    @property
    def sort_key(self) -> tuple[int, str]:
        """Cheapest layer first, then by the rule's name."""
        return LAYERS[self.layer], self.rule

    def told(self) -> dict[str, Any]:
        """What a caller hears of it: which rule, and why, and none of the answer's words.

        Shape: {"rule", "version", "verdict", "why"}.
        """
        return {"rule": self.rule, "version": self.version, "verdict": self.verdict.value, "why": self.why}

    def to_json(self) -> dict[str, Any]:
        """Shape: {"rule", "version", "layer", "kind", "verdict", "effect", "why", "spans": [see `Span.to_json`],
        "span_count", "micros"}; `spans` are the first MAX_SPANS_TOLD.
        """
        return {
            "rule": self.rule,
            "version": self.version,
            "layer": self.layer.value,
            "kind": self.kind,
            "verdict": self.verdict.value,
            "effect": self.effect.value,
            "why": self.why,
            "spans": [span.to_json() for span in self.spans[:MAX_SPANS_TOLD]],
            "span_count": len(self.spans),
            "micros": self.micros,
        }


@record
class Report:
    """What all rules said, in the order of `Finding.sort_key`, whatever order they were asked in.

    `repairs` is the answer without what the rules that repair found; None unless the verdict is REPAIR.
    """

    findings: tuple[Finding, ...]
    repairs: Output | None = field(default=None, repr=False)

    @classmethod
    def of(cls, findings: Iterable[Finding], *, repairs: Output | None = None) -> Report:
        """Put findings in order."""
        return cls(tuple(sorted(findings, key=lambda finding: finding.sort_key)), repairs)

    @property
    def verdict(self) -> Verdict:
        """The worst effect."""
        worst, severity = Verdict.PASS, 0
        for finding in self.findings:
            if finding.verdict is not Verdict.PASS:
                effect = finding.effect
                if SEVERITY[effect] > severity:
                    worst, severity = effect, SEVERITY[effect]
        return worst

    @property
    def blocked_by(self) -> Finding | None:
        """The first finding that blocks."""
        return next((finding for finding in self.findings if finding.effect is Verdict.BLOCK), None)

    @property
    def failed(self) -> tuple[Finding, ...]:
        """The findings that are no pass."""
        return tuple(finding for finding in self.findings if finding.verdict is not Verdict.PASS)

    def to_json(self) -> Mapping[str, Any]:
        """Shape: {"verdict", "blocked_by": rule or null, "findings": [see `Finding.to_json`]}."""
        blocked_by = self.blocked_by
        return {
            "verdict": self.verdict.value,
            "blocked_by": None if blocked_by is None else blocked_by.rule,
            "findings": [finding.to_json() for finding in self.findings],
        }
