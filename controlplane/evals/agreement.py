"""How far a judge and people agree on the same answers. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Final

# Landis and Koch (Biometrics 33, 1977) call a kappa from 0.61 on substantial; on fewer answers than these, its interval
# would reach far below that whatever was found.
MIN_KAPPA: Final = 0.6
MIN_LABELLED: Final = 50
_Z: Final = 1.959963984540054  # of the standard normal, 97.5 %


@dataclass(frozen=True, slots=True)
class Share:
    """A share with its 95 % interval; None and 0..1 where there was nothing to take a share of."""

    value: float | None
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """Answers by what people said (good, bad) and what the judge said (passed, failed).

    What is looked for are bad answers, so that sensitivity is the share of these that the judge fails, and specificity
    the share of good ones that it passes.
    """

    good_passed: int
    good_failed: int
    bad_passed: int
    bad_failed: int

    @property
    def n(self) -> int:
        """How many."""
        return self.good_passed + self.good_failed + self.bad_passed + self.bad_failed

    @property
    def agreed(self) -> Share:
        """The share on which both say the same."""
        return wilson(self.good_passed + self.bad_failed, self.n)

    @property
    def sensitivity(self) -> Share:
        return wilson(self.bad_failed, self.bad_failed + self.bad_passed)

    @property
    def specificity(self) -> Share:
        return wilson(self.good_passed, self.good_passed + self.good_failed)

    @property
    def kappa(self) -> float | None:
        """Agreement beyond what chance would give, 1 at most; None where chance alone would agree on everything.

        Source: Cohen, "A Coefficient of Agreement for Nominal Scales", Educational and Psychological Measurement 20,
        1960.
        """
        if not self.n:
            return None
        observed = (self.good_passed + self.bad_failed) / self.n
        good, passed = self.good_passed + self.good_failed, self.good_passed + self.bad_passed
        by_chance = (good * passed + (self.n - good) * (self.n - passed)) / self.n**2
        return None if by_chance == 1 else (observed - by_chance) / (1 - by_chance)


def wilson(hits: int, of: int) -> Share:
    """The share of `hits`, with Wilson's score interval.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22, 1927.
    """
    if not of:
        return Share(None, 0.0, 1.0)
    share = hits / of
    centre = share + _Z**2 / (2 * of)
    spread = _Z * sqrt(share * (1 - share) / of + _Z**2 / (4 * of**2))
    scale = 1 + _Z**2 / of
    return Share(share, max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale))
