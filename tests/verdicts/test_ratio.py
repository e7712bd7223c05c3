"""Alarms about units: arms of unequal size, and units that saw both sides."""

import numpy as np
import pytest

from controlplane.verdicts.ratio import is_exposed, split_of


def test_fair_splits_do_not_ring_however_often_one_looks():
    """Of 1,000 fair splits of 2,000 units, looked at after every 20th, at most 5 ever ring at 1 in 1,000."""
    rng = np.random.default_rng(1)
    rung = 0
    for _ in range(1_000):
        canary = np.cumsum(rng.random(2_000) < 0.5)[19::20]
        rung += any(split_of(int(x), n - int(x)).rings for n, x in zip(range(20, 2_001, 20), canary, strict=True))

    assert rung <= 5


@pytest.mark.parametrize(
    ("canary", "control", "rings"),
    [
        (0, 0, False),
        (5, 0, False),
        (200, 170, False),
        (2_000, 2_050, False),
        (2_000, 2_300, True),
        (2_300, 2_000, True),
        (40, 400, True),
        (0, 70, True),
    ],
)
def test_an_arm_that_loses_units_rings(canary, control, rings):
    """By how much depends on how many there are, and not on which arm it is."""
    assert split_of(canary, control).rings is rings
    assert split_of(canary, control).p_value == split_of(control, canary).p_value


def test_units_are_counted_from_nothing():
    """A negative count is a mistake of whoever counts."""
    with pytest.raises(ValueError, match="units are counted from 0"):
        split_of(-1, 3)


@pytest.mark.parametrize(
    ("both", "seen", "exposed"), [(0, 0, False), (4, 4, False), (5, 400, True), (5, 500, False), (6, 500, True)]
)
def test_more_than_one_in_a_hundred_units_on_both_sides_rings(both, seen, exposed):
    """If there are five at least; four may be one household."""
    assert is_exposed(both, seen) is exposed
