"""Whether units fall into both arms alike, and whether some saw both: what has to hold before arms can be compared.

A hash puts a unit into either arm of a comparison with the same chance. If the counts say otherwise, something loses
units of one side (a crash, a cache, a client that falls back), and whatever else the two differ in may come from that.
Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

# With how small a chance a fair split rings, ever.
ALARM_LEVEL: Final = 0.001
# The prior is Beta(100, 100): shares of one arm between 43 and 57 in a hundred are what faults look like.
_PRIOR: Final = 100.0
# The share of units that may have seen both sides, and how many it takes before the share is looked at.
EXPOSED_SHARE: Final = 0.01
EXPOSED_LEAST: Final = 5


@dataclass(frozen=True, slots=True)
class Split:
    """Units by arm, and how strongly they speak against a fair split.

    Attributes:
        p_value: Of the hypothesis that both arms get units alike; valid at every look, since it is 1 / e-value.
    """

    canary: int
    control: int
    p_value: float

    @property
    def rings(self) -> bool:
        """Whether the arms cannot be compared."""
        return self.p_value <= ALARM_LEVEL


def split_of(canary: int, control: int) -> Split:
    """Hold the counts of units against a fair split.

    The e-value is that of a Beta-binomial mixture: B(a + x, a + y) / B(a, a) * 2 ** (x + y). Its inverse bounds the
    chance that a fair split ever looks like this, at whichever moments one looks.

    Raises:
        ValueError: a count is negative.
    Source: Lindon and Malek, "Anytime-valid inference for multinomial count data", NeurIPS 2022.
    """
    if canary < 0 or control < 0:
        raise ValueError(f"units are counted from 0, got {canary} and {control}")
    n = canary + control
    log_e = (
        math.lgamma(_PRIOR + canary)
        + math.lgamma(_PRIOR + control)
        - math.lgamma(2 * _PRIOR + n)
        - (2 * math.lgamma(_PRIOR) - math.lgamma(2 * _PRIOR))
        + n * math.log(2.0)
    )
    return Split(canary, control, math.exp(min(0.0, -log_e)))


def is_exposed(both: int, seen: int) -> bool:
    """Whether too many of the `seen` units saw both sides."""
    return both >= EXPOSED_LEAST and both > EXPOSED_SHARE * seen
