"""How long rules take, counted in classes: a few counters a rule, from which a quantile is known to a step. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Final

# Microseconds, each class up to and with its bound: from a twentieth of a millisecond to a minute and a half.
BOUNDS: Final = (
    *(50, 100, 200, 500),
    *(1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000),
    *(1_000_000, 2_000_000, 5_000_000, 10_000_000, 20_000_000, 50_000_000, 100_000_000),
)


def bound_of(micros: int) -> int:
    """The bound of the class that so many microseconds fall into; what took longer than the last is counted there."""
    return BOUNDS[min(bisect_left(BOUNDS, micros), len(BOUNDS) - 1)]


def quantile(counts: Mapping[int, int], share: float) -> int | None:
    """The bound, in microseconds, that so large a share of all did not go beyond; None where nothing was counted.

    Args:
        counts: By bound.
        share: 0..1.
    """
    wanted = share * sum(counts.values())
    seen = 0
    for bound in sorted(counts):
        seen += counts[bound]
        if seen >= wanted and counts[bound]:
            return bound
    return None
