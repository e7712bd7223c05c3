"""What people sign about how a canary is judged: what it may cost, how sure one has to be, and what follows if nobody
can be.

A part of the plan, so that margins are reviewed like words are. How they are applied is for `controlplane.verdicts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from dataplane.documents import Node


class Stream(StrEnum):
    """Where evidence comes from."""

    LIVE = "live"  # matched arms of real traffic
    REPLAY = "replay"  # the same held-out query to both versions


class Scale(StrEnum):
    """What a margin is a part of."""

    POINTS = "points"  # of a share: 0.01 is one percentage point
    RELATIVE = "relative"  # of control's figure: 0.05 is five percent of it


@dataclass(frozen=True, slots=True)
class Rail:
    """One thing that a canary must not make worse.

    Attributes:
        label: As a person reads it, in a sentence: 'cost'.
        worse: How a person reads the direction in which it gets worse: 'above' or 'below' control.
        margin: How much worse is still acceptable unless a plan says otherwise, on `scale`.
        streams: Where there is evidence of it.
    """

    key: str
    label: str
    worse: str
    scale: Scale
    margin: float
    streams: tuple[Stream, ...]


_BOTH: Final = (Stream.LIVE, Stream.REPLAY)
RAILS: Final[Mapping[str, Rail]] = {
    rail.key: rail
    for rail in (
        Rail("error_rate", "error rate", "above", Scale.POINTS, 0.005, (Stream.LIVE,)),
        Rail("cost", "cost per request", "above", Scale.RELATIVE, 0.05, _BOTH),
        Rail("latency", "latency", "above", Scale.RELATIVE, 0.10, _BOTH),
        Rail("schema", "schema pass rate", "below", Scale.POINTS, 0.01, _BOTH),
        Rail("grounding", "grounding", "below", Scale.POINTS, 0.01, _BOTH),
        Rail("refusals", "refusal rate", "above", Scale.POINTS, 0.01, _BOTH),
        Rail("rejects", "validator rejects", "above", Scale.POINTS, 0.01, (Stream.LIVE,)),
        Rail("safety", "safety", "below", Scale.POINTS, 0.01, (Stream.REPLAY,)),
    )
}


# Of replayed answers, what somebody has to judge: the rest shows.
JUDGED: Final = frozenset({"grounding", "safety"})
NO_JUDGES: Final[Mapping[str, str]] = {}


class Unproven(StrEnum):
    """What follows at a stage while there is not enough evidence."""

    WAIT = "wait"  # the next stage waits for evidence
    ALLOW = "allow"  # people may go on without it once the stage has lasted its time
    ROLL_BACK = "roll_back"  # what is not shown to be good by then goes back


class Advance(StrEnum):
    """Who goes on to the next stage once evidence and sign-offs allow it."""

    BY_HAND = "by_hand"
    BY_ITSELF = "by_itself"


MAX_MINUTES: Final = 60 * 24 * 30


@dataclass(frozen=True, slots=True)
class StageEvidence:
    """What one stage asks for before the next. A regression ends the canary at any stage, whatever this says.

    Attributes:
        unproven: What follows while there is not enough evidence.
        after_minutes: At this stage, from when on it follows; of no matter to WAIT.
    """

    unproven: Unproven
    after_minutes: int
    advance: Advance

    @classmethod
    def parse(cls, value: object, *, path: str) -> StageEvidence:
        """Read a stage's member 'evidence'.

        Shape: {"unproven": wait | allow | roll_back, "after_minutes": int, "advance": by_hand | by_itself}.
        Raises:
            MalformedRelease: anything else, naming the place.
        """
        members = Node(value, path).members("unproven", "after_minutes", "advance")
        return cls(
            Unproven(members["unproven"].one_of(tuple(Unproven))),
            members["after_minutes"].integer(maximum=MAX_MINUTES),
            Advance(members["advance"].one_of(tuple(Advance))),
        )

    @classmethod
    def of(cls, stage: Mapping[str, Any]) -> StageEvidence:
        """That of a stored stage; people went on when they saw fit where nothing is said."""
        if "evidence" not in stage:
            return cls(Unproven.ALLOW, 0, Advance.BY_HAND)
        return cls.parse(stage["evidence"], path="evidence")

    def to_json(self) -> dict[str, Any]:
        """As `parse` reads it."""
        return {
            "unproven": self.unproven.value,
            "after_minutes": self.after_minutes,
            "advance": self.advance.value,
        }


# Of a stage that does not say it.
DEFAULT_STAGE_EVIDENCE: Final = StageEvidence(Unproven.WAIT, 0, Advance.BY_HAND)


# The share of all canaries without a regression that may be rolled back, over their whole life and all rails together.
DEFAULT_ROLLBACK_BUDGET: Final = 0.01
# The share of regressions up to the margin that may be called clear.
DEFAULT_CLEAR_BUDGET: Final = 0.05
DEFAULT_MINIMUM: Final = {"requests": 200, "groups": 20, "pairs": 50}
# With these, half of the canaries that make nothing worse are clear within two hours (benchmarks/canary_power.py).
DEFAULT_REPLAYS_PER_MINUTE: Final = 60
MAX_MARGIN: Final = 1.0
MAX_REPLAYS_PER_MINUTE: Final = 600


@dataclass(frozen=True, slots=True)
class Guardrails:
    """How a canary is judged.

    Attributes:
        rollback_budget: In (0, 0.2]; split over all rails and streams.
        clear_budget: In (0, 0.2]; split over the streams of each rail: a canary is clear only if every rail is.
        requests, groups: Per arm, below which nothing is concluded from live traffic.
        pairs: Below which nothing is concluded from replays.
        margins: By rail; those that are left out do not judge.
        held_out: The held-out set that is replayed, as 'slug@version'; None: none is.
        judges: By rail, who scores replayed answers, as 'slug@version'; without one, only what needs no judge is.
        replays_per_minute: Pairs of requests.
    """

    rollback_budget: float
    clear_budget: float
    requests: int
    groups: int
    pairs: int
    margins: Mapping[str, float]
    held_out: str | None
    judges: Mapping[str, str]
    replays_per_minute: int

    @classmethod
    def parse(cls, value: object, *, path: str = "guardrails") -> Guardrails:
        """Read the plan's member 'guardrails'.

        Shape: {"budget": {"rollback": float, "clear": float}, "minimum": {"requests", "groups", "pairs": int},
                "margins": {rail: float}, "held_out": "slug@version" or null, "judges": {rail: "slug@version"},
                "replays_per_minute": int}.
        Raises:
            MalformedRelease: anything else, naming the place.
        """
        members = Node(value, path).members("budget", "minimum", "margins", "held_out", "judges", "replays_per_minute")
        budget = members["budget"].members("rollback", "clear")
        minimum = members["minimum"].members("requests", "groups", "pairs")
        margins: dict[str, float] = {}
        for name, node in members["margins"].entries():
            if name not in RAILS:
                members["margins"].refuse(f"{name!r} is no guardrail; there are {', '.join(RAILS)}")
            margins[name] = node.number(above=0.0, maximum=MAX_MARGIN)
        if not margins:
            members["margins"].refuse("names no guardrail; a canary that nothing judges is no canary")
        held_out = members["held_out"].value
        if held_out is not None:
            held_out = _reference(members["held_out"])
        judges = {name: _reference(node) for name, node in members["judges"].entries()}
        if unknown := sorted(set(judges) - JUDGED):
            members["judges"].refuse(f"{unknown[0]!r} is judged by nobody; only {', '.join(sorted(JUDGED))} are")
        policy = cls(
            rollback_budget=budget["rollback"].number(above=0.0, maximum=0.2),
            clear_budget=budget["clear"].number(above=0.0, maximum=0.2),
            requests=minimum["requests"].integer(minimum=1, maximum=10_000_000),
            groups=minimum["groups"].integer(minimum=5, maximum=64),
            pairs=minimum["pairs"].integer(minimum=1, maximum=1_000_000),
            margins=margins,
            held_out=held_out,
            judges=judges,
            replays_per_minute=members["replays_per_minute"].integer(minimum=0, maximum=MAX_REPLAYS_PER_MINUTE),
        )
        seen = {rail.key for rail, _ in policy.judged}
        if blind := [key for key in margins if key not in seen]:
            asked = "a held-out set and a judge of it" if blind[0] in JUDGED else "a held-out set"
            members["margins"].refuse(f"only replays tell of {RAILS[blind[0]].label}; name {asked}, or leave it out")
        return policy

    def to_json(self) -> dict[str, Any]:
        """As `parse` reads it."""
        return {
            "budget": {"rollback": self.rollback_budget, "clear": self.clear_budget},
            "minimum": {"requests": self.requests, "groups": self.groups, "pairs": self.pairs},
            "margins": dict(self.margins),
            "held_out": self.held_out,
            "judges": dict(self.judges),
            "replays_per_minute": self.replays_per_minute,
        }

    @property
    def judged(self) -> tuple[tuple[Rail, Stream], ...]:
        """Each rail that judges with each stream that tells of it; without a held-out set, nothing is replayed."""
        return tuple(
            (rail, stream)
            for rail in RAILS.values()
            if rail.key in self.margins
            for stream in rail.streams
            if stream is Stream.LIVE or self.is_replayed(rail)
        )

    def is_replayed(self, rail: Rail) -> bool:
        """Whether replays tell of a rail: it can be seen in an answer, or there is a judge of it."""
        if self.held_out is None or Stream.REPLAY not in rail.streams:
            return False
        return rail.key not in JUDGED or rail.key in self.judges


def _reference(node: Node) -> str:
    text = node.text()
    slug, _, number = text.partition("@")
    if not slug or not number.isascii() or not number.isdecimal():
        node.refuse(f"expected 'slug@version', got {text!r}")
    return text


def default_guardrails(held_out: str | None = None, judges: Mapping[str, str] = NO_JUDGES) -> dict[str, Any]:
    """What a plan starts from, as JSON: every guardrail that there would be evidence of."""
    policy = Guardrails(
        rollback_budget=DEFAULT_ROLLBACK_BUDGET,
        clear_budget=DEFAULT_CLEAR_BUDGET,
        **DEFAULT_MINIMUM,
        margins={rail.key: rail.margin for rail in RAILS.values()},
        held_out=held_out,
        judges=judges,
        replays_per_minute=DEFAULT_REPLAYS_PER_MINUTE,
    )
    seen = {rail.key for rail, _ in policy.judged}
    return replace(policy, margins={key: margin for key, margin in policy.margins.items() if key in seen}).to_json()
