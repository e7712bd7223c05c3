"""Bounds hold at all looks together, and say what their formulae say."""

from statistics import NormalDist

import numpy as np
import pytest

from controlplane.verdicts.sequences import BETS, PRICES, SHARES, bounded_reach, normal_quantile, student_quantile

PATHS = 1_500
ALPHA = 0.05
# The chance that a bound which is crossed in 5 of 100 paths is crossed in more than 100 of 1,500 is 3 in 1,000; these
# bounds are crossed in fewer.
MOST_CROSSINGS = 100


def test_normal_bound_covers_a_brownian_motion_at_every_look():
    """Of 1,500 motions without a drift, looked at 2,000 times, at most those that the level admits ever cross."""
    rng = np.random.default_rng(1)
    steps = np.arange(1.0, 2_001.0)
    motions = np.cumsum(rng.normal(size=(PATHS, steps.size)), axis=1)

    z = normal_quantile(steps, effect=0.2, alpha=ALPHA)
    crossed = (motions / np.sqrt(steps) > z).any(axis=1).sum()

    assert 0 < crossed <= MOST_CROSSINGS


@pytest.mark.parametrize("alpha", [0.0001, 0.01, 0.2])
def test_normal_bound_is_wider_than_that_of_a_single_look(alpha):
    """Whatever the information, looking at all times costs something."""
    z = normal_quantile(np.logspace(-3, 6, 200), effect=1.0, alpha=alpha)

    assert z.min() > NormalDist().inv_cdf(1 - alpha)


def test_normal_bound_is_tightest_about_where_its_effect_shows():
    """The interval in units of an effect is smallest relative to what one look needs near the effect it is made for."""
    information = np.logspace(-2, 6, 2_000)
    z = normal_quantile(information, effect=0.1, alpha=0.001)

    seen = information[np.argmax(z / np.sqrt(information) < 0.1)]

    assert z[np.searchsorted(information, seen)] < 1.02 * z.min()


def test_bounds_are_monotone_in_alpha():
    """Whoever risks less gets a wider interval."""
    alphas = [0.0001, 0.001, 0.01, 0.1, 0.4]
    normal = [float(normal_quantile(7.0, effect=0.3, alpha=alpha)) for alpha in alphas]
    bounded = [float(bounded_reach(7.0, alpha=alpha)) for alpha in alphas]

    assert normal == sorted(normal, reverse=True)
    assert bounded == sorted(bounded, reverse=True)


@pytest.mark.parametrize("alpha", [0.0, -0.1, 0.5, 1.0, float("nan")])
def test_a_level_is_between_nothing_and_a_half(alpha):
    """Anything else is refused by both bounds."""
    with pytest.raises(ValueError, match="a level is between"):
        normal_quantile(1.0, effect=1.0, alpha=alpha)
    with pytest.raises(ValueError, match="a level is between"):
        bounded_reach(1.0, alpha=alpha)


@pytest.mark.parametrize(
    ("tail", "freedom", "expected"),
    [(0.025, 10, 2.2281), (0.001, 30, 3.3852), (0.0005, 60, 3.4602), (0.005, 8, 3.3554), (0.0005, 20, 3.8495)],
)
def test_student_quantiles_are_those_of_the_tables(tail, freedom, expected):
    """The expansion agrees with printed quantiles to one in a thousand, from above or below."""
    z = NormalDist().inv_cdf(1 - tail)

    assert float(student_quantile(z, freedom)) == pytest.approx(expected, rel=1e-3)


def test_bounded_reach_solves_its_equation():
    """At the reach, the mixture of bets has won exactly 1 / alpha."""
    spreads = np.array([0.0, 0.01, 1.0, 30.0, 1_000.0, 1e6])

    reach = bounded_reach(spreads, alpha=0.003)

    won = [np.log(np.sum(SHARES * np.exp(BETS * u - PRICES * v))) for u, v in zip(reach, spreads, strict=True)]
    assert won == pytest.approx([np.log(1 / 0.003)] * 6, rel=1e-9)


@pytest.mark.parametrize("mean", [0.02, 0.5, 0.9])
def test_bounded_reach_covers_coins_at_every_toss(mean):
    """Of 1,500 coins, tossed 1,000 times and looked at after every 20th, at most those that the level admits are ever
    farther off, on either side.
    """
    rng = np.random.default_rng(2)
    coins = (rng.random((PATHS, 1_000)) < mean).astype(float)
    tosses = np.arange(1, 1_001)
    sums = np.cumsum(coins, axis=1)
    guesses = np.concatenate([np.full((PATHS, 1), 0.5), (sums[:, :-1] + 0.5) / tosses[1:]], axis=1)

    reach = bounded_reach(np.cumsum((coins - guesses) ** 2, axis=1)[:, 19::20], alpha=ALPHA)
    distance = (sums - mean * tosses)[:, 19::20]

    assert (distance > reach).any(axis=1).sum() <= MOST_CROSSINGS
    assert (distance < -reach).any(axis=1).sum() <= MOST_CROSSINGS
