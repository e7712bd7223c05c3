"""Bounds that hold at every look, however often one looks and whenever one stops. Pure; on numbers or arrays.

Two processes need one: an estimate that is nearly normal, watched as its information grows (live traffic), and a sum of
bounded numbers, watched as it gets longer (replays). Both bounds come from a mixture of supermartingales: a bet for
every size that the effect might have, all of which together win 1 / alpha with a chance of at most alpha (Ville).

Sources: Robbins, "Statistical methods related to the law of the iterated logarithm", 1970; Howard, Ramdas, McAuliffe
and Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of Statistics 49, 2021.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# The bets on a mean of numbers from [0, 1]: the first is for effects that show within hundreds, the last for those that
# take tens of thousands. The money is put on them by halves, since whoever needs so many can wait for a few more.
BETS: Final[Floats] = np.array([0.6 / 2.5**k for k in range(5)])
SHARES: Final[Floats] = np.array([0.5**k for k in range(5)]) / sum(0.5**k for k in range(5))
# What a bet has to pay for each unit of variance: psi_E of Waudby-Smith and Ramdas, times four.
PRICES: Final[Floats] = -np.log1p(-BETS) - BETS
# Newton's steps from above on a convex function; from where it starts, six reach the last digit.
_STEPS: Final = 8
_LEAST_INFORMATION: Final = 1e-12


def check_level(alpha: float) -> None:
    """Raise ValueError unless `alpha` is a level of one side: in (0, 0.5)."""
    if not 0.0 < alpha < 0.5:
        raise ValueError(f"a level is between 0 and 0.5, got {alpha!r}")


def normal_quantile(information: Any, *, effect: float, alpha: float) -> Floats:
    """How many standard errors an estimate may be off to one side, at any look, with a chance of at most `alpha`.

    The one-sided normal mixture in its closed form: with I the information and rho = 1 / effect ** 2,

        z(I) = sqrt(2 (1 + rho / I) ln(1 + sqrt((I + rho) / rho) / (2 alpha))).

    The bet is half-normal with standard deviation `effect`. At alpha 0.001 an effect from a quarter of `effect` to
    twice of it shows with at most an eighth more information than if the bet had been made for it, one of four times
    as much with 1.4 times as much.

    Args:
        information: 1 / standard error ** 2, in any shape; not negative.
        effect: The size of effect that one would like to see soonest, in the estimate's unit; > 0.
        alpha: Of this side; in (0, 0.5).
    Source: Howard et al. 2021, equation 3.7 (bound on Proposition 6); Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas,
    "Time-uniform central limit theory and asymptotic confidence sequences", Annals of Statistics 52, 2024.
    """
    check_level(alpha)
    share = 1.0 / (effect * effect * np.maximum(information, _LEAST_INFORMATION))
    grown: Floats = np.sqrt(2.0 * (1.0 + share) * np.log1p(np.sqrt(1.0 + 1.0 / share) / (2.0 * alpha)))
    return grown


def student_quantile(z: Any, freedom: Any) -> Floats:
    """The quantile of Student's t that has the tail of the normal quantile `z`.

    Args:
        z: Not negative.
        freedom: Degrees of freedom; >= 4, below which the expansion is too small.
    Source: Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.7.5 (Cornish and Fisher).
    """
    x = np.asarray(z, dtype=np.float64)
    n = np.asarray(freedom, dtype=np.float64)
    s = x * x
    first = x * (s + 1.0) / 4.0
    second = x * ((5.0 * s + 16.0) * s + 3.0) / 96.0
    third = x * (((3.0 * s + 19.0) * s + 17.0) * s - 15.0) / 384.0
    fourth = x * ((((79.0 * s + 776.0) * s + 1482.0) * s - 1920.0) * s - 945.0) / 92160.0
    quantile: Floats = x + (first + (second + (third + fourth / n) / n) / n) / n
    return quantile


def bounded_reach(spread: Any, *, alpha: float) -> Floats:
    """How far a sum of numbers from [0, 1] may be from the sum of their expectations to one side, at any time.

    With a chance of at most `alpha` it is ever farther. u solves

        sum over k of SHARES[k] exp(BETS[k] u - psi(BETS[k]) V) = 1 / alpha,   psi(b) = -ln(1 - b) - b.

    Nothing is asked of the numbers but that they lie in [0, 1]: no normality, no independence beyond that each one's
    expectation given those before is what is meant by its expectation. Bets of fixed sizes, mixed, rather than one
    whose size follows the data (the paper's plug-in): the state is a sum that serves every level, and small effects
    take a third fewer pairs, large ones up to a quarter more (`docs/statistics.md` has the comparison).

    Args:
        spread: V, the sum of squared distances of each number from a guess made before it, in any shape.
        alpha: Of this side; in (0, 0.5).
    Sources: Howard et al. 2021, Theorem 4 and the discrete mixtures of section 3; Fan, Grama and Liu, "Exponential
    inequalities for martingales with applications", 2015, Lemma 4.1; the supermartingale is that of Theorem 2 of
    Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86, 2024.
    """
    check_level(alpha)
    variance = np.asarray(spread, dtype=np.float64)
    price = PRICES * variance[..., None]
    target = -math.log(alpha)
    # From where the best single bet alone would have won all, Newton on a convex function comes down to the root.
    u: Floats = np.min((target - np.log(SHARES) + price) / BETS, axis=-1)
    for _ in range(_STEPS):
        exponents = BETS * u[..., None] - price
        top = exponents.max(axis=-1, keepdims=True)
        weights = SHARES * np.exp(exponents - top)
        total = weights.sum(axis=-1)
        u = u - (top[..., 0] + np.log(total) - target) * total / (weights * BETS).sum(axis=-1)
    return u
