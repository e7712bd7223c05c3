"""What a canary's verdict is made from, and what it says: values, without a clock, a query or a decision.

Harm is always a number in the rail's own unit, positive where the canary is worse: points of a share (0.01 is one
percentage point) or a part of control's figure (0.05 is five percent of it).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Final, Self

from controlplane.rollouts.guardrails import RAILS, Rail, Scale, Stream
from controlplane.verdicts.paired import Pairs


class Ruling(StrEnum):
    """What can be said."""

    REGRESSED = "regressed"  # worse than the margin allows
    CLEAR = "clear"  # not worse than the margin allows
    UNPROVEN = "unproven"  # not enough evidence for either


class AlarmKind(StrEnum):
    """Why live traffic cannot be compared."""

    SAMPLE_RATIO = "sample_ratio"
    EXPOSURE = "exposure"
    TURNED_BACK = "turned_back"


@dataclass(frozen=True, slots=True)
class LiveEvidence:
    """Sums of matched arms by group of units: {group: a number for each of `dataplane.evidence.CELL`}."""

    canary: Mapping[int, tuple[float, ...]]
    control: Mapping[int, tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class ReplayEvidence:
    """What was replayed, by rail; a rail without a pair may be missing."""

    pairs: Mapping[str, Pairs]

    def with_scores(self, scores: Mapping[str, Mapping[str, float]]) -> ReplayEvidence:
        """This, and one more pair.

        Args:
            scores: {rail: {"candidate": float, "control": float}}, of the rails that could be scored.
        Raises:
            ValueError: see `paired.paired_harm`.
        """
        added = {
            key: self.pairs.get(key, Pairs()).with_pair(
                RAILS[key], candidate=both["candidate"], control=both["control"]
            )
            for key, both in scores.items()
        }
        return ReplayEvidence({**self.pairs, **added})

    def to_json(self) -> dict[str, Any]:
        """Shape: {rail: as `Pairs.to_json`}."""
        return {rail: pairs.to_json() for rail, pairs in self.pairs.items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """As `to_json` wrote it."""
        return cls({rail: Pairs.from_json(pairs) for rail, pairs in value.items()})


@dataclass(frozen=True, slots=True)
class Exposure:
    """Which units were seen where, of a sample that thins both arms alike.

    Attributes:
        canary_units, control_units: Units that fall into each arm.
        both: Of these, that saw both sides.
        contaminated_groups: Groups of `dataplane.evidence` that hold such a unit.
        matched: Whether arms are of one size, so that their counts can be compared at all.
        turned_back: Whether the canary reached beyond half of the units once and does not any more: control has units
            then that were in the canary.
    """

    canary_units: int = 0
    control_units: int = 0
    both: int = 0
    contaminated_groups: frozenset[int] = frozenset()
    matched: bool = True
    turned_back: bool = False


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that makes live traffic incomparable, in words and numbers."""

    kind: AlarmKind
    sentence: str
    facts: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Shape: {"kind": str, "sentence": str, "facts": {str: number}}."""
        return {"kind": self.kind.value, "sentence": self.sentence, "facts": dict(self.facts)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """As `to_json` wrote it."""
        return cls(AlarmKind(value["kind"]), value["sentence"], dict(value["facts"]))


@dataclass(frozen=True, slots=True)
class Reading:
    """What one stream of evidence says of one rail.

    Attributes:
        harm: The estimate; None where there is none.
        lower, upper: Bounds of it that hold at every look: from below at the level of the rollback budget, from above
            at that of the clear budget. None where nothing may be concluded.
        canary, control: The rail's figure on each side: a share, microdollars, milliseconds; None where nothing was
            counted.
        canary_n, control_n: Out of how many; of replays, pairs.
        needed_n: Below which, on either side, nothing is concluded.
        enough_n: About how many on each side would make it clear, if the canary is no worse; None: cannot be told.
        margin: Of the policy.
        why: In words and numbers, why nothing is concluded; empty if something is.
    """

    rail: str
    stream: Stream
    harm: float | None
    lower: float | None
    upper: float | None
    canary: float | None
    control: float | None
    canary_n: int
    control_n: int
    needed_n: int
    enough_n: int | None
    margin: float
    ruling: Ruling
    why: str

    @property
    def excess(self) -> float:
        """By how much the lower bound exceeds the margin, in units of the interval between it and the estimate."""
        if self.harm is None or self.lower is None:
            return float("-inf")
        return (self.lower - self.margin) / max(self.harm - self.lower, 1e-12)

    @property
    def sentence(self) -> str:
        """What it says, for people; without a capital or a full stop."""
        rail = RAILS[self.rail]
        if self.ruling is Ruling.UNPROVEN or self.harm is None or self.lower is None or self.upper is None:
            return f"{rail.label}: not enough evidence; {self.why}"
        said = f"{rail.label} is {compared(rail, self.harm)}"
        if self.ruling is Ruling.REGRESSED:
            bound = f"at least {amount(rail, self.lower)}"
        else:
            bound = f"at most {amount(rail, self.upper)} {rail.worse}" if self.upper > 0 else f"not {rail.worse} it"
        return f"{said}, {bound} with all looks counted; margin {amount(rail, self.margin)}"

    def to_json(self) -> dict[str, Any]:
        """Shape: the attributes by their names."""
        return {name: getattr(self, name) for name in _READING} | {
            "stream": self.stream.value,
            "ruling": self.ruling.value,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """As `to_json` wrote it."""
        members = {name: value[name] for name in _READING}
        return cls(**members | {"stream": Stream(value["stream"]), "ruling": Ruling(value["ruling"])})


_READING: Final = tuple(field.name for field in fields(Reading))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What can be said of a canary.

    Attributes:
        readings: One for each rail that judges and each stream that tells of it, in the policy's order.
        alarms: Why live readings count for nothing, if they do.
        sentence: For people; one sentence with a full stop.
    """

    ruling: Ruling
    readings: tuple[Reading, ...]
    alarms: tuple[Alarm, ...]
    sentence: str

    @property
    def failing(self) -> Reading | None:
        """The reading that regressed most surely; None if none did."""
        failed = [reading for reading in self.readings if reading.ruling is Ruling.REGRESSED]
        return max(failed, key=lambda reading: reading.excess, default=None)

    def reading_of(self, rail: str, stream: Stream) -> Reading | None:
        """What `stream` says of `rail`; None if it does not judge."""
        return next((each for each in self.readings if each.rail == rail and each.stream is stream), None)

    def to_json(self) -> dict[str, Any]:
        """Shape: {"ruling", "sentence": str, "readings": [as Reading], "alarms": [as Alarm]}."""
        return {
            "ruling": self.ruling.value,
            "sentence": self.sentence,
            "readings": [reading.to_json() for reading in self.readings],
            "alarms": [alarm.to_json() for alarm in self.alarms],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """As `to_json` wrote it."""
        return cls(
            ruling=Ruling(value["ruling"]),
            readings=tuple(Reading.from_json(reading) for reading in value["readings"]),
            alarms=tuple(Alarm.from_json(alarm) for alarm in value["alarms"]),
            sentence=value["sentence"],
        )


def amount(rail: Rail, harm: float) -> str:
    """How much, without a direction: '14.2 %' of control's figure, '3.1 points' of a share."""
    figure = f"{abs(harm) * 100:.1f}".removesuffix(".0")
    if rail.scale is Scale.RELATIVE:
        return f"{figure} %"
    return f"{figure} point{'' if figure == '1' else 's'}"


def compared(rail: Rail, harm: float) -> str:
    """How the canary compares: '14.2 % above control', 'level with control'."""
    if round(abs(harm), 3) == 0.0:
        return "level with control"
    better = "below" if rail.worse == "above" else "above"
    return f"{amount(rail, harm)} {rail.worse if harm > 0 else better} control"
