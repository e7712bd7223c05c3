"""What people decide about the answers of a route: the rules that look at them, and what follows from what those find.

A part of the routing table, reviewed and signed with it, and referred to by name from routes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from dataplane.documents import Node
from dataplane.thresholds import Threshold
from dataplane.validators.checksums import ChecksumParams
from dataplane.validators.detector import Sieve
from dataplane.validators.figures import DateParams, NumberParams, UnitParams
from dataplane.validators.folding import Fold
from dataplane.validators.gate import Gate, Openings
from dataplane.validators.grounding import CitationParams, SupportParams
from dataplane.validators.personal import PersonalParams
from dataplane.validators.secrets import SecretParams
from dataplane.validators.structure import SchemaParams
from dataplane.validators.values import LAYERS, TEXT, Channel, Finding, Layer, Report, Verdict
from dataplane.validators.wording import PatternParams, TermParams, ToxicityParams

MAX_BUDGET_MS: Final = 60_000.0
MAX_WINDOW_CHARACTERS: Final = 20_000
MAX_RULES: Final = 200
MAX_QUESTION_CHARACTERS: Final = 2_000
_RULE_ID: Final = re.compile(r"[a-z0-9]+(?:[-_][a-z0-9]+)*\Z")

# How a stream reaches its caller: all but what may still turn out to be forbidden, or once all of it is checked.
WINDOW: Final = "window"
HOLD: Final = "hold"
STREAMS: Final = frozenset({WINDOW, HOLD})
# What an abstention comes to.
CLOSED: Final = "closed"
OPEN: Final = "open"
ON_ERROR: Final = frozenset({CLOSED, OPEN})
MIXED: Final = "mixed"
TOOL_ARGUMENTS: Final = "tool_arguments"
BOTH: Final = "both"
APPLIES_TO: Final = frozenset({TEXT, TOOL_ARGUMENTS, BOTH})
ON_FAILURE: Final = frozenset({Verdict.WARN, Verdict.REPAIR, Verdict.BLOCK})


@dataclass(frozen=True, slots=True)
class JudgeParams:
    """A judge is asked. `route` is where; `question` is what it decides, None: the usual one."""

    route: str
    question: str | None

    @classmethod
    def parse(cls, node: Node) -> JudgeParams:
        """Read them, or raise MalformedRelease. Shape: {"route": slug, "question"?: str or null}.

        Whether the route exists is for the table to say.
        """
        members = node.members("route", optional=("question",))
        question = members["question"].optional_text() if "question" in members else None
        if question is not None and len(question) > MAX_QUESTION_CHARACTERS:
            members["question"].refuse(f"{len(question)} characters, more than {MAX_QUESTION_CHARACTERS}; ask less")
        return cls(members["route"].text(), question)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of rule: its layer, how its parameters are read, and the texts that it can look at, the usual first."""

    layer: Layer
    parse: Callable[[Node], Any]
    applies_to: tuple[str, ...]


KINDS: Final[Mapping[str, Kind]] = {
    "schema": Kind(Layer.STRUCTURE, SchemaParams.parse, (TEXT, TOOL_ARGUMENTS)),
    "pattern": Kind(Layer.RULES, PatternParams.parse, (TEXT, TOOL_ARGUMENTS, BOTH)),
    "terms": Kind(Layer.RULES, TermParams.parse, (TEXT, TOOL_ARGUMENTS, BOTH)),
    "toxicity": Kind(Layer.RULES, ToxicityParams.parse, (TEXT, TOOL_ARGUMENTS, BOTH)),
    "numbers": Kind(Layer.RULES, NumberParams.parse, (TEXT, TOOL_ARGUMENTS, BOTH)),
    "dates": Kind(Layer.RULES, DateParams.parse, (TEXT, TOOL_ARGUMENTS, BOTH)),
    "units": Kind(Layer.RULES, UnitParams.parse, (TEXT, TOOL_ARGUMENTS, BOTH)),
    "checksums": Kind(Layer.RULES, ChecksumParams.parse, (BOTH, TEXT, TOOL_ARGUMENTS)),
    "pii": Kind(Layer.RULES, PersonalParams.parse, (BOTH, TEXT, TOOL_ARGUMENTS)),
    "secrets": Kind(Layer.RULES, SecretParams.parse, (BOTH, TEXT, TOOL_ARGUMENTS)),
    "citations": Kind(Layer.GROUNDING, CitationParams.parse, (TEXT,)),
    "support": Kind(Layer.GROUNDING, SupportParams.parse, (TEXT, TOOL_ARGUMENTS, BOTH)),
    "judge": Kind(Layer.JUDGE, JudgeParams.parse, (TEXT,)),
}


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        version: Grows with each change of it, so that findings can be told apart.
        params: Of its kind.
        on_failure: WARN, REPAIR or BLOCK.
        on_error: What follows where it cannot say: it is treated as blocked ("closed"), or as a warning ("open").
        budget_ms: Processor time for one answer; over it, the rule abstains.
        applies_to: The answer's text, the arguments of its tool calls, or both.
    """

    id: str
    version: int
    kind: str
    layer: Layer
    params: Any
    on_failure: Verdict
    on_error: str
    budget_ms: Threshold
    applies_to: str

    @property
    def is_judge(self) -> bool:
        """Whether a model decides it, on a lane, and not this process."""
        return self.layer is Layer.JUDGE

    @property
    def is_closed(self) -> bool:
        """Whether its abstention blocks."""
        return self.on_error == CLOSED

    @property
    def sieve(self) -> Sieve | None:
        """What finds the things that must not be in a text, where that is all that it asks; such a rule can be run on a
        stream, and can repair.
        """
        found: Sieve | None = getattr(self.params, "sieve", None)
        return found

    @property
    def openings(self) -> Openings | None:
        """What stands wherever it could find anything; None: it always looks."""
        if self.sieve is not None:
            return Openings(self.sieve.fold, tuple(one.opening for one in self.sieve.detectors))
        found: Openings | None = getattr(self.params, "openings", None)
        return found

    @property
    def replacement(self) -> str:
        """What takes the place of what it removes."""
        return str(self.params.replacement)

    @property
    def sort_key(self) -> tuple[int, str]:
        """As `Finding.sort_key`."""
        return LAYERS[self.layer], self.id

    def looks_at(self, channel: Channel) -> bool:
        """Whether it applies to a text."""
        return self.applies_to == BOTH or (channel.tool is None) == (self.applies_to == TEXT)


@dataclass(frozen=True, slots=True)
class Watch:
    """The rules that look at the same fold of a stream, as one sieve. `owners` are the rules of its detectors."""

    sieve: Sieve
    owners: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class ValidatorPolicy:
    """The rules of a route.

    Attributes:
        streams: Member of STREAMS.
        window_characters: With "window", what is held back of a stream at most, counted after folding.
        escalation: Signed copy that takes the place of an answer that is blocked; None: an error without such words.
        regulated: Whether nothing may pass that a rule could not look at.
        deciding: Those of the rules that need no model.
        gate: Tells of most answers that many of these would find nothing; None: there is none.
        fails: "closed", "open" or "mixed", by what all rules do where they cannot say.
    """

    slug: str
    rules: tuple[Rule, ...]
    streams: str
    window_characters: Threshold
    escalation: str | None
    regulated: bool
    deciding: tuple[Rule, ...] = field(repr=False, compare=False)
    gate: Gate | None = field(repr=False, compare=False)
    _watches: Mapping[bool, tuple[Watch, ...]] = field(repr=False, compare=False)

    @classmethod
    def parse(cls, slug: str, node: Node) -> ValidatorPolicy:
        """Read one policy, or raise MalformedRelease. Whether `escalation` exists is for the release to say.

        Shape: {"rules": [{"id": str, "version": int, "kind": name of KINDS, "on_failure": warn | repair | block,
                "on_error": closed | open, "budget_ms": see `Threshold.parse`, "applies_to"?: text | tool_arguments |
                both, "params": see the kind}], "streams": window | hold, "window_characters": see `Threshold.parse`,
                "escalation": slug or null, "regulated": bool}.
        """
        members = node.members("rules", "streams", "window_characters", "escalation", "regulated")
        regulated = members["regulated"].flag()
        rules = parse_rules(members["rules"], regulated=regulated)
        streams = members["streams"].one_of(STREAMS)
        window = Threshold.parse_whole(members["window_characters"], minimum=1, maximum=MAX_WINDOW_CHARACTERS)
        ordered = tuple(sorted(rules, key=lambda rule: rule.sort_key))
        watches: Mapping[bool, tuple[Watch, ...]] = {False: (), True: ()}
        if streams == WINDOW:
            for item, rule in zip(members["rules"].items(), rules, strict=True):
                _refuse_unbounded(item, rule, members["window_characters"], int(window.value))
            try:
                watches = {is_tool: _watches(ordered, is_tool=is_tool) for is_tool in (False, True)}
            except ValueError as exc:
                members["rules"].refuse(
                    f"too large together to be looked for in a stream: {exc}; set streams to 'hold'"
                )
        deciding = tuple(rule for rule in ordered if not rule.is_judge)
        escalation = members["escalation"].optional_text()
        return cls(slug, ordered, streams, window, escalation, regulated, deciding, _gate(deciding), watches)

    @property
    def fails(self) -> str:
        """See the class."""
        found = {rule.on_error for rule in self.rules}
        return found.pop() if len(found) == 1 else MIXED

    @property
    def judges(self) -> tuple[Rule, ...]:
        """The rules that a model decides."""
        return self.rules[len(self.deciding) :]  # in the last of the layers

    def watches(self, *, is_tool: bool) -> tuple[Watch, ...]:
        """What is looked for in a stream while it comes: in the answer's text, or in the arguments of a tool."""
        return self._watches[is_tool]

    def thresholds(self) -> Mapping[str, Threshold]:
        """Every number of the policy by its name: VALIDATOR_THRESHOLDS, and `<rule>.budget_ms` of each rule."""
        return {"window_characters": self.window_characters} | {
            f"{rule.id}.budget_ms": rule.budget_ms for rule in self.rules
        }


def _gate(deciding: tuple[Rule, ...]) -> Gate | None:
    spared = [rule for rule in deciding if rule.openings is not None]
    openings = {rule.id: one for rule in spared if (one := rule.openings) is not None}
    budget_micros = min((rule.budget_ms.value * 1000 for rule in spared), default=0.0)
    passed = {rule.id: passing(rule, micros=1) for rule in spared}
    report = Report(tuple(passed.values())) if len(spared) == len(deciding) else None
    return Gate.of(openings, passed, report=report, budget_micros=budget_micros)


def passing(rule: Rule, *, micros: int) -> Finding:
    """What a rule says that found nothing."""
    return Finding(rule.id, rule.version, rule.layer, rule.kind, Verdict.PASS, micros=micros, is_closed=rule.is_closed)


VALIDATOR_THRESHOLDS: Final = ("window_characters",)


def parse_rules(node: Node, *, regulated: bool = False) -> tuple[Rule, ...]:
    """Read the rules of a policy, in the order given, or raise MalformedRelease. Shape: see `ValidatorPolicy.parse`."""
    items = node.items(minimum=1)
    if len(items) > MAX_RULES:
        node.refuse(f"{len(items)} rules, more than {MAX_RULES}")
    rules: dict[str, Rule] = {}
    for item in items:
        rule = _parse_rule(item, regulated=regulated)
        if rule.id in rules:
            item.refuse(f"rule {rule.id!r} is given twice; findings are told by their rule")
        rules[rule.id] = rule
    return tuple(rules.values())


def _parse_rule(node: Node, *, regulated: bool) -> Rule:
    members = node.members(
        "id", "version", "kind", "on_failure", "on_error", "budget_ms", "params", optional=("applies_to",)
    )
    name = members["id"].text()
    if not _RULE_ID.match(name) or len(name) > 60:
        members["id"].refuse(
            f"{name[:80]!r} is not a name of at most 60 lower-case letters and digits, with single '-' or '_' between"
        )
    kind = members["kind"].one_of(KINDS)
    params = KINDS[kind].parse(members["params"])
    on_failure = Verdict(members["on_failure"].one_of(ON_FAILURE))
    if on_failure is Verdict.REPAIR and (getattr(params, "sieve", None) is None or not hasattr(params, "replacement")):
        members["on_failure"].refuse(
            "only what must not be there can be taken out: denied terms, 'pii', 'secrets' and patterns that must not "
            "match; use 'block' or 'warn'"
        )
    on_error = members["on_error"].one_of(ON_ERROR)
    if regulated and on_error != CLOSED:
        members["on_error"].refuse("the policy is regulated, so a rule that cannot say must block; set it to 'closed'")
    return Rule(
        id=name,
        version=members["version"].integer(minimum=1),
        kind=kind,
        layer=KINDS[kind].layer,
        params=params,
        on_failure=on_failure,
        on_error=on_error,
        budget_ms=Threshold.parse(members["budget_ms"], above=0, maximum=MAX_BUDGET_MS),
        applies_to=_parse_applies_to(members, kind, params),
    )


def _parse_applies_to(members: Mapping[str, Node], kind: str, params: Any) -> str:
    choices = KINDS[kind].applies_to
    usual = choices[0]
    if isinstance(params, SchemaParams):
        usual = TEXT if params.tool is None else TOOL_ARGUMENTS
        choices = (usual,)
    if "applies_to" not in members:
        return usual
    node = members["applies_to"]
    given = node.one_of(APPLIES_TO)
    if given not in choices:
        node.refuse(f"a rule of kind {kind!r} with these parameters looks at {' or '.join(map(repr, choices))} only")
    return given


def _refuse_unbounded(item: Node, rule: Rule, window: Node, characters: int) -> None:
    if rule.sieve is None:
        return
    longest = rule.sieve.longest
    if longest is None:
        item.members(*item.value)["params"].refuse(
            f"a match of rule {rule.id!r} has no greatest length, so that no part of a stream is ever certain; bound "
            "it, as in [a-z]{1,80}, or set streams to 'hold'"
        )
    if longest > characters:
        window.refuse(
            f"{characters}, less than the {longest} characters that a match of rule {rule.id!r} may have; raise it, or "
            "set streams to 'hold'"
        )


def _watches(rules: tuple[Rule, ...], *, is_tool: bool) -> tuple[Watch, ...]:
    where = Channel("", "", is_json=is_tool, tool="" if is_tool else None)
    watches = []
    for how in Fold:
        pairs = [
            (detector, rule)
            for rule in rules
            if rule.sieve is not None and rule.sieve.fold is how and rule.looks_at(where)
            for detector in rule.sieve.detectors
        ]
        if pairs:
            sieve = Sieve.of(how, tuple(detector for detector, _ in pairs))
            watches.append(Watch(sieve, tuple(rule for _, rule in pairs)))
    return tuple(watches)
