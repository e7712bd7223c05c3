"""Figures of a candidate beside the noise floor: against published values, and by their coverage."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.shadows.statistics import NOTHING, beyond, mean_of, ratio_of, share_of
from controlplane.telemetry.shadow_sums import Moments


def moments(*values):
    return Moments(len(values), sum(values), sum(value * value for value in values))


def test_difference_of_shares_is_newcombes():
    """His table II, method 10: 56/70 against 48/80, and 9/10 against 3/10."""
    first, second = beyond(share_of(56, 70), share_of(48, 80)), beyond(share_of(9, 10), share_of(3, 10))

    assert (first.low, first.high) == (pytest.approx(0.0524, abs=5e-5), pytest.approx(0.3339, abs=5e-5))
    assert (second.low, second.high) == (pytest.approx(0.1705, abs=5e-5), pytest.approx(0.8090, abs=5e-5))


def test_nothing_is_said_of_too_few():
    """No share of nothing, no mean of one, and no difference from nothing."""
    assert share_of(0, 0) == NOTHING
    assert mean_of(moments(3.0)) == NOTHING
    assert beyond(share_of(1, 2), NOTHING) == NOTHING
    assert ratio_of(moments()) == NOTHING


def test_ratio_is_a_geometric_mean():
    """Twice as long and half as long are as long on the whole."""
    found = ratio_of(moments(1.0, -1.0, 1.0, -1.0))

    assert found.value == pytest.approx(1.0)
    assert found.low < 1 < found.high


@given(st.integers(0, 200), st.integers(1, 200), st.integers(0, 200), st.integers(1, 200))
def test_interval_of_a_difference_holds_it(hits, of, other_hits, other_of):
    """Whatever was counted, it lies within, and within what shares can differ by."""
    found = beyond(share_of(min(hits, of), of), share_of(min(other_hits, other_of), other_of))

    assert -1 - 1e-9 <= found.low <= found.value <= found.high <= 1 + 1e-9


def test_interval_covers_what_is_true():
    """Over many draws, the interval of a difference of rare shares holds it at least 93 % of the time."""
    rng, held = Random(7), 0
    for _ in range(1000):
        candidate = sum(rng.random() < 0.08 for _ in range(300))
        noise = sum(rng.random() < 0.05 for _ in range(200))
        found = beyond(share_of(candidate, 300), share_of(noise, 200))
        held += found.low <= 0.03 <= found.high

    assert held >= 930
