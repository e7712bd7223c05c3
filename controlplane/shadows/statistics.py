"""How far a candidate is from control beyond how far control is from itself, and what so many answers show. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp2, isfinite, sqrt
from typing import Final

from controlplane.evals.agreement import Share, wilson
from controlplane.telemetry.shadow_sums import Moments

_Z: Final = 1.959963984540054  # of the standard normal, 97.5 %


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % interval, and of how many answers it is; None where there were too few to say."""

    value: float | None
    low: float | None
    high: float | None
    n: int

    @classmethod
    def of_share(cls, share: Share, n: int) -> Interval:
        """A share with Wilson's interval."""
        return cls(None, None, None, 0) if share.value is None else cls(share.value, share.low, share.high, n)

    def to_json(self) -> dict[str, float | int | None]:
        """Shape: {"value", "low", "high": number or null, "n": int}."""
        return {name: _short(getattr(self, name)) for name in ("value", "low", "high")} | {"n": self.n}


NOTHING: Final = Interval(None, None, None, 0)


def share_of(hits: int, of: int) -> Interval:
    """The share of `hits`; Wilson's score interval."""
    return Interval.of_share(wilson(hits, of), of)


def mean_of(moments: Moments) -> Interval:
    """The mean; the normal interval, from two values on."""
    n = moments.n
    if n < 2:
        return NOTHING
    mean = moments.total / n
    variance = max(moments.squares - n * mean * mean, 0.0) / (n - 1)
    spread = _Z * sqrt(variance / n)
    return Interval(mean, mean - spread, mean + spread, n)


def ratio_of(moments: Moments) -> Interval:
    """The geometric mean of ratios, from the moments of their binary logarithms."""
    found = mean_of(moments)
    return Interval(_power(found.value), _power(found.low), _power(found.high), found.n)


def beyond(candidate: Interval, noise: Interval) -> Interval:
    """How much more a candidate has of something than control asked once more, as a difference.

    From the two intervals, which need not be symmetric: of two shares this is Newcombe's hybrid score interval, of two
    means the normal one.

    Source: Newcombe, "Interval Estimation for the Difference Between Independent Proportions", Statistics in Medicine
    17, 1998, method 10.
    """
    if candidate.value is None or candidate.low is None or candidate.high is None:
        return NOTHING
    if noise.value is None or noise.low is None or noise.high is None:
        return NOTHING
    value = candidate.value - noise.value
    below = sqrt((candidate.value - candidate.low) ** 2 + (noise.high - noise.value) ** 2)
    above = sqrt((candidate.high - candidate.value) ** 2 + (noise.value - noise.low) ** 2)
    return Interval(value, value - below, value + above, min(candidate.n, noise.n))


def _power(exponent: float | None) -> float | None:
    """Two to it; what no float holds is nothing that anybody measured."""
    if exponent is None:
        return None
    return exp2(max(min(exponent, 1000.0), -1000.0))


def _short(value: float | None) -> float | None:
    return None if value is None or not isfinite(value) else round(value, 6)
