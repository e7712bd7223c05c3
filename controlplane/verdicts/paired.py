"""Paired replays: the same held-out query to candidate and control, and how much worse the candidate did. Pure.

Each pair gives one bounded number, the harm: for scores control - candidate (or the other way round, where more is
worse); for cost and latency the natural logarithm of their ratio, clipped, so that a mean of it is a geometric mean of
ratios. The bounds are not asymptotic: they need boundedness alone, and hold from the first pair on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Self

from controlplane.rollouts.guardrails import Rail, Scale
from controlplane.verdicts.sequences import bounded_reach

# A ratio beyond four counts as four: the wider the range, the more pairs it takes to be sure of a few percent, and
# nobody needs to know of a candidate that costs ten times as much that it does not cost five times.
CLIP: Final = math.log(4.0)
# Microdollars, or milliseconds: less counts as this, so that an answer from a free lane has a ratio to others.
_LEAST: Final = 1e-3


@dataclass(frozen=True, slots=True)
class PairedBound:
    """All that has to be remembered of harms from [-1, 1] to bound their mean from both sides, at any level.

    Attributes:
        n: Pairs.
        total: Sum of their harms.
        spread: Sum of (harm - guess) ** 2, where each guess is the mean of those before it and of one zero.
    """

    n: int = 0
    total: float = 0.0
    spread: float = 0.0

    def with_pair(self, harm: float) -> PairedBound:
        """This, and one more pair.

        Raises:
            ValueError: `harm` is not in [-1, 1].
        """
        if not -1.0 <= harm <= 1.0:  # also refuses what is not a number
            raise ValueError(f"the harm of a pair is in [-1, 1], got {harm!r}")
        guess = self.total / (self.n + 1)
        return PairedBound(self.n + 1, self.total + harm, self.spread + (harm - guess) ** 2)

    @classmethod
    def of(cls, harms: Iterable[float]) -> PairedBound:
        """All of these, in their order."""
        bound = cls()
        for harm in harms:
            bound = bound.with_pair(harm)
        return bound

    @property
    def mean(self) -> float:
        """Mean harm; 0 without a pair."""
        return self.total / self.n if self.n else 0.0

    def lower(self, alpha: float) -> float:
        """What the mean harm is not below; wrong at any time ever with a chance of at most `alpha`."""
        return max(-1.0, self.mean - self._reach(alpha))

    def upper(self, alpha: float) -> float:
        """What the mean harm is not above; wrong at any time ever with a chance of at most `alpha`."""
        return min(1.0, self.mean + self._reach(alpha))

    def _reach(self, alpha: float) -> float:
        if not self.n:
            return 2.0
        # `bounded_reach` is about (harm + 1) / 2, whose variance is a quarter and whose distances are half as large.
        return 2.0 * float(bounded_reach(self.spread / 4.0, alpha=alpha)) / self.n

    def to_json(self) -> dict[str, Any]:
        """Shape: {"n": int, "total": float, "spread": float}."""
        return {"n": self.n, "total": self.total, "spread": self.spread}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """As `to_json` wrote it."""
        return cls(n=int(value["n"]), total=float(value["total"]), spread=float(value["spread"]))


def paired_harm(rail: Rail, *, candidate: float, control: float) -> float:
    """The harm of one pair, in [-1, 1].

    Args:
        candidate, control: Of a rail in points, scores in [0, 1] (a share that is better or worse when larger, as
            `rail.worse` has it); of a relative rail, microdollars or milliseconds.
    Raises:
        ValueError: a value is negative or no number, or a score is above 1.
    """
    for name, value in (("candidate", candidate), ("control", control)):
        if not (0.0 <= value < math.inf) or (rail.scale is Scale.POINTS and value > 1.0):
            raise ValueError(f"{name}'s {rail.label} cannot be {value!r}")
    if rail.scale is Scale.RELATIVE:
        ratio = math.log(max(candidate, _LEAST) / max(control, _LEAST))
        return max(-CLIP, min(CLIP, ratio)) / CLIP
    return control - candidate if rail.worse == "below" else candidate - control


def margin_of(rail: Rail, margin: float) -> float:
    """A margin in the rail's own unit as a mean harm of pairs; `in_unit` the other way round."""
    return math.log1p(margin) / CLIP if rail.scale is Scale.RELATIVE else margin


def in_unit(rail: Rail, harm: float) -> float:
    """A harm from [-1, 1], or a bound of its mean, in the rail's own unit: points of a share, or part of control's."""
    return math.expm1(harm * CLIP) if rail.scale is Scale.RELATIVE else harm


@dataclass(frozen=True, slots=True)
class Pairs:
    """What was replayed of one rail: the bound, and the sums of both sides in the rail's values.

    Attributes:
        bound: See `PairedBound`.
        candidate_total, control_total: Sums of what each side scored, cost (microdollars) or took (milliseconds).
    """

    bound: PairedBound = PairedBound()
    candidate_total: float = 0.0
    control_total: float = 0.0

    def with_pair(self, rail: Rail, *, candidate: float, control: float) -> Pairs:
        """This, and one more pair.

        Raises:
            ValueError: see `paired_harm`.
        """
        return Pairs(
            self.bound.with_pair(paired_harm(rail, candidate=candidate, control=control)),
            self.candidate_total + candidate,
            self.control_total + control,
        )

    @property
    def n(self) -> int:
        """Pairs."""
        return self.bound.n

    @property
    def candidate(self) -> float | None:
        """The candidate's mean; None without a pair."""
        return self.candidate_total / self.n if self.n else None

    @property
    def control(self) -> float | None:
        """Control's mean; None without a pair."""
        return self.control_total / self.n if self.n else None

    def to_json(self) -> dict[str, Any]:
        """Shape: {"bound": as PairedBound, "candidate": float, "control": float}, the latter two sums."""
        return {"bound": self.bound.to_json(), "candidate": self.candidate_total, "control": self.control_total}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """As `to_json` wrote it."""
        return cls(PairedBound.from_json(value["bound"]), float(value["candidate"]), float(value["control"]))
