"""How much worse live traffic of the canary is, when users come back and only sums over groups of them are known."""

import math

import numpy as np
import pytest

from controlplane.rollouts.guardrails import RAILS, Stream
from controlplane.verdicts.live import COLUMNS, LEAST_FREEDOM, cells_of, estimate, in_unit, margin_of, reach
from dataplane.evidence import CELL, GROUPS

ERRORS = RAILS["error_rate"]
COST = RAILS["cost"]


def arm(**columns):
    """Cells of an arm from what each group counts; a number stands for every group."""
    cells = np.zeros((GROUPS, len(CELL)))
    for name, values in columns.items():
        cells[:, CELL.index(name)] = values
    return cells


def spread_over(count):
    """So many events, each in a group of its own until there is one in every group."""
    return np.bincount(np.arange(count) % GROUPS, minlength=GROUPS)


def lower_bound(rail, canary, control, *, alpha):
    """In the estimate's scale."""
    found = estimate(rail, canary=canary, control=control)
    return found.harm - reach(found, margin=margin_of(rail, rail.margin), alpha=alpha)


def test_every_rail_that_live_traffic_tells_of_has_its_columns():
    """And no other has."""
    assert set(COLUMNS) == {rail.key for rail in RAILS.values() if Stream.LIVE in rail.streams}


@pytest.mark.parametrize(
    ("rail", "canary", "control", "harm", "figures"),
    [
        ("error_rate", {"answerable": 10, "errors": 2}, {"answerable": 10, "errors": 1}, 0.1, (0.2, 0.1)),
        ("cost", {"reached": 2, "cost_micros": 240}, {"reached": 4, "cost_micros": 400}, 0.2, (120, 100)),
        ("latency", {"timed": 2, "log2_ms": 22}, {"timed": 1, "log2_ms": 10}, 1.0, (2048, 1024)),
        (
            "schema",
            {"schema_checked": 4, "schema_passed": 3},
            {"schema_checked": 4, "schema_passed": 4},
            0.25,
            (0.75, 1),
        ),
        ("grounding", {"grounding_checked": 4, "grounded": 4}, {"grounding_checked": 4, "grounded": 2}, -0.5, (1, 0.5)),
        ("refusals", {"answered": 5, "refused": 1}, {"answered": 5, "refused": 0}, 0.2, (0.2, 0)),
        ("rejects", {"validated": 5, "blocked": 0}, {"validated": 5, "blocked": 1}, -0.2, (0, 0.2)),
    ],
)
def test_harm_is_positive_where_the_canary_is_worse(rail, canary, control, harm, figures):
    """In the rail's own unit, beside the figures of both arms in theirs."""
    found = estimate(RAILS[rail], canary=arm(**canary), control=arm(**control))

    assert float(in_unit(RAILS[rail], found.harm)) == pytest.approx(harm)
    assert (float(found.canary), float(found.control)) == pytest.approx(figures)


def test_order_and_arms_make_no_difference():
    """Groups in another order say the same, and exchanged arms the opposite."""
    rng = np.random.default_rng(1)
    sides = [arm(reached=rng.integers(1, 50, GROUPS), cost_micros=rng.integers(1, 5_000, GROUPS)) for _ in range(2)]

    found = estimate(COST, canary=sides[0], control=sides[1])
    shuffled = estimate(COST, canary=sides[0][rng.permutation(GROUPS)], control=sides[1])
    exchanged = estimate(COST, canary=sides[1], control=sides[0])

    assert (float(shuffled.harm), float(shuffled.error)) == pytest.approx((float(found.harm), float(found.error)))
    assert (float(-exchanged.harm), float(exchanged.error)) == pytest.approx((float(found.harm), float(found.error)))


def test_many_canaries_at_once_are_judged_as_one_by_one():
    """Leading dimensions change nothing."""
    rng = np.random.default_rng(2)
    sides = rng.integers(1, 90, (2, 3, GROUPS, len(CELL))).astype(float)

    together = estimate(COST, canary=sides[0], control=sides[1])

    alone = [estimate(COST, canary=sides[0, index], control=sides[1, index]) for index in range(3)]
    assert together.harm == pytest.approx([float(each.harm) for each in alone])
    assert together.error == pytest.approx([float(each.error) for each in alone])
    assert together.freedom == pytest.approx([float(each.freedom) for each in alone])


def test_error_is_that_of_users_rather_than_requests():
    """With 20 requests of each of 640 users who differ, the standard error is that which simulation finds."""
    rng = np.random.default_rng(3)
    harms, errors = [], []
    for _ in range(400):
        sides = []
        for _ in range(2):
            luck = np.repeat(rng.gamma(0.5, 0.1 / 0.5, 640).clip(0, 1), 20)
            groups = np.repeat(rng.integers(0, GROUPS, 640), 20)
            failed = rng.random(luck.size) < luck
            requests = np.bincount(groups, minlength=GROUPS)
            sides.append(arm(answerable=requests, errors=np.bincount(groups[failed], minlength=GROUPS)))
        found = estimate(ERRORS, canary=sides[0], control=sides[1])
        harms.append(float(found.harm))
        errors.append(float(found.error))

    assert np.mean(errors) == pytest.approx(np.std(harms), rel=0.12)
    assert np.std(harms) > 1.4 * math.sqrt(2 * 0.1 * 0.9 / 12_800)


def test_sticky_users_cause_no_more_crossings_than_the_level_admits():
    """Of 200 pairs of arms of 300 users who come back 80 times, with nothing wrong and a margin of nothing, at most 18
    ever cross at 5 % on one side (if the level were just kept, more would with a chance of 1 in 200).
    """
    rng = np.random.default_rng(4)
    users, pairs, looks = 300, 200, 80
    activity = rng.gamma(1.0, 1.0, (pairs, 2, users))
    costs = rng.lognormal(4.0, 0.6, (pairs, 2, users))
    cell = (rng.integers(0, GROUPS, (pairs, 2, users)) + np.arange(pairs * 2).reshape(pairs, 2, 1) * GROUPS).ravel()
    size = pairs * 2 * GROUPS
    sums = np.zeros((2, size))
    ever = np.zeros(pairs, dtype=bool)
    for look in range(looks):
        asked = rng.poisson(activity)
        spent = costs * rng.gamma(np.maximum(asked * 2.0, 1e-9), 0.5)
        for kept, now in zip(sums, (asked, spent * (asked > 0)), strict=True):
            kept += np.bincount(cell, weights=now.ravel(), minlength=size)
        if look < 2:
            continue
        cells = np.zeros((pairs, 2, GROUPS, len(CELL)))
        for column, kept in zip(("reached", "cost_micros"), sums, strict=True):
            cells[..., CELL.index(column)] = kept.reshape(pairs, 2, GROUPS)
        ever |= lower_bound(COST, cells[:, 0], cells[:, 1], alpha=0.05) > 0

    assert ever.sum() <= 18


@pytest.mark.parametrize("requests", [200, 400, 1_000, 5_000])
@pytest.mark.parametrize("errors", [1, 2, 3, 5])
def test_a_few_errors_against_none_are_no_regression(requests, errors):
    """However few requests there were: the bound stays below nothing, let alone the margin."""
    canary = arm(answerable=requests / GROUPS, errors=spread_over(errors))

    assert lower_bound(ERRORS, canary, arm(answerable=requests / GROUPS), alpha=0.001) < 0


@pytest.mark.parametrize("errors", [10, 100, 1_000])
def test_a_burst_of_one_unit_is_no_regression(errors):
    """All errors are in one group, as those of one unit are: the scatter of groups is as large as the harm."""
    burst = np.zeros(GROUPS)
    burst[7] = errors
    canary = arm(answerable=100 + burst, errors=burst)

    assert lower_bound(ERRORS, canary, arm(answerable=100), alpha=0.001) < 0


def test_the_same_errors_among_all_units_are_one():
    """The bound does see what befalls everybody."""
    canary = arm(answerable=100, errors=spread_over(320))

    assert lower_bound(ERRORS, canary, arm(answerable=100, errors=spread_over(64)), alpha=0.001) > ERRORS.margin


def test_an_arm_without_an_error_may_have_some():
    """None of 200 and none of 200 leaves more room than half a point; none of 20,000 does not."""
    few, many = (
        estimate(ERRORS, canary=arm(answerable=n / GROUPS), control=arm(answerable=n / GROUPS)) for n in (200, 20_000)
    )

    assert reach(few, margin=0.005, alpha=0.025) > 0.005
    assert reach(many, margin=0.005, alpha=0.025) < 0.005


def test_bound_is_monotone_in_alpha():
    """Whoever risks less rolls back later."""
    found = estimate(ERRORS, canary=arm(answerable=50, errors=spread_over(90)), control=arm(answerable=50))

    widths = [float(reach(found, margin=0.005, alpha=alpha)) for alpha in (0.0001, 0.001, 0.01, 0.1)]

    assert widths == sorted(widths, reverse=True)


def test_one_unit_that_makes_most_of_the_traffic_leaves_little_freedom():
    """63 groups of one request and one of a thousand say nothing of how much units differ."""
    requests = np.ones(GROUPS)
    requests[0] = 1_000
    side = arm(answerable=requests)

    assert float(estimate(ERRORS, canary=side, control=side).freedom) < LEAST_FREEDOM


def test_equal_units_leave_all_freedom_that_groups_have():
    """With groups of one size, it is that of both arms together."""
    side = arm(answerable=10, errors=spread_over(20))

    assert float(estimate(ERRORS, canary=side, control=side).freedom) == pytest.approx(2 * (GROUPS - 1))


def test_where_everything_costs_the_same_the_bound_is_still_one():
    """A simulator's constant price leaves no scatter; the harm is known well, but not without any error."""
    found = estimate(COST, canary=arm(reached=10, cost_micros=1_100), control=arm(reached=10, cost_micros=1_000))

    assert math.isfinite(float(found.freedom))
    assert 0 < float(reach(found, margin=margin_of(COST, 0.05), alpha=0.001)) < 0.01


@pytest.mark.parametrize("costs", [(0, 0), (0, 100), (100, 0)])
def test_nothing_is_relative_to_nothing(costs):
    """Where an arm costs nothing there is no ratio."""
    found = estimate(COST, canary=arm(reached=10, cost_micros=costs[0]), control=arm(reached=10, cost_micros=costs[1]))

    assert math.isnan(float(found.harm))


def test_an_empty_arm_has_no_figure():
    """And no warning is raised over it."""
    found = estimate(ERRORS, canary=arm(), control=arm(answerable=10))

    assert math.isnan(float(found.harm))
    assert (float(found.canary_n), float(found.canary_groups)) == (0, 0)


def test_groups_that_are_left_out_are_empty():
    """Whatever a contaminated group counted is not in the array."""
    cells = cells_of({0: (1,) * len(CELL), 5: (2,) * len(CELL)}, without={5, 9})

    assert cells.sum() == len(CELL)


@pytest.mark.parametrize("groups", [{GROUPS: (0,) * len(CELL)}, {-1: (0,) * len(CELL)}, {0: (1, 2)}])
def test_sums_that_are_no_cells_are_refused(groups):
    """A group that there is not, or too few sums."""
    with pytest.raises(ValueError, match="groups are 0"):
        cells_of(groups)
