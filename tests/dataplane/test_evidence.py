"""What is told of a canary: sums by arm and group, when they are due, and who saw which version, by a sample."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from dataplane.cohorts import GROUPS, CanaryPlan, Stage, assign
from dataplane.evidence import CELL, FORGET_SECONDS, MAX_SAMPLED, MAX_STRAYED, SHIP_SECONDS, Evidence, part_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PLAN = CanaryPlan("c", "p", 1, 2, "user", "salt", None, (Stage("all", "all", frozenset(), frozenset(), 5000),))
SEEN = {
    "result": "ok",
    "cost_micros": 3,
    "milliseconds": 8.0,
    "is_copy": False,
    "refused": False,
    "schema_passed": None,
    "blocked": None,
    "grounded": None,
}


def part(unit, *, pinned=None, plan=PLAN):
    """The part of a request of this unit; with half of all in either arm, each has one."""
    caller = {"tenant": "acme", "internal": False, "region": "eu-west"}
    return part_of(plan, assign(plan, unit_values={"user": unit}, now=NOW, **caller), pinned=pinned)


def other_version(unit):
    return PLAN.control if part(unit).served == "candidate" else PLAN.candidate


@pytest.fixture
def evidence(clock):
    """Counts for one running canary."""
    evidence = Evidence(clock=clock)
    evidence.adopt(["c"])
    return evidence


def test_sums_are_those_of_each_arm_and_group(evidence):
    """Every request counts in the cell of its unit, and rows hold them in the published order."""
    units = [f"u{number}" for number in range(500)]
    for unit in units:
        evidence.record(part(unit), **SEEN)

    rows = {row["arm"]: row["cells"] for row in evidence.drain()}

    for arm, cells in rows.items():
        groups = [part(unit).group for unit in units if part(unit).arm == arm]
        assert [group for group, *_ in cells] == sorted(set(groups))
        assert all(0 <= group < GROUPS for group in groups)
        for group, *sums in cells:
            requests = groups.count(group)
            found = dict(zip(CELL, sums, strict=True))
            assert (found["reached"], found["cost_micros"]) == (requests, 3 * requests)
            assert (found["timed"], found["log2_ms"]) == (requests, 3.0 * requests)


def test_cells_are_told_when_they_have_changed_and_not_too_often(evidence, clock):
    """Cumulative since the process began; what stays the same is not told again, and the last report waits for none."""
    evidence.record(part("a"), **SEEN)
    first = evidence.drain()
    evidence.record(part("a"), **SEEN)
    too_early = evidence.drain()
    clock.advance(SHIP_SECONDS)
    second, third = evidence.drain(), evidence.drain()
    evidence.record(part("a"), **SEEN)

    last = evidence.drain(is_last=True)

    reached = [[cell[1 + CELL.index("reached")] for row in rows for cell in row["cells"]] for rows in (first, second)]
    assert (reached, too_early, third) == ([[1], [2]], [], [])
    assert [cell[1 + CELL.index("reached")] for row in last for cell in row["cells"]] == [3]


def test_canary_that_is_over_is_told_once_more_and_forgotten(evidence, clock):
    """Requests that it has begun may end after it; those that take too long would begin at zero, and count no more."""
    evidence.record(part("a"), **SEEN)
    evidence.drain()
    evidence.drain_exposures()
    evidence.adopt([])
    once_more = evidence.drain()
    evidence.record(part("a"), **SEEN)
    clock.advance(FORGET_SECONDS)
    late = evidence.drain()

    evidence.record(part("a"), **SEEN)
    clock.advance(SHIP_SECONDS)

    reached = [[cell[1 + CELL.index("reached")] for row in rows for cell in row["cells"]] for rows in (once_more, late)]
    assert reached == [[1], [2]]
    assert evidence.drain(is_last=True) == []


def test_unit_is_told_of_once_for_each_version_that_it_saw(evidence):
    """However often it asks."""
    for _ in range(3):
        evidence.record(part("a"), **SEEN)
        evidence.record(part("a", pinned=other_version("a")), **SEEN)

    rows = evidence.drain_exposures()

    assert sorted(row["served"] for row in rows) == ["candidate", "control"]
    assert {(row["canary"], row["unit"], row["group"]) for row in rows} == {("c", part("a").unit, part("a").group)}
    assert evidence.drain_exposures() == []


def test_units_are_thinned_alike_in_both_arms(evidence):
    """What is told of a canary is bounded; whichever unit is left out, it is left out for its hash."""
    units = [f"u{number}" for number in range(8 * MAX_SAMPLED)]
    for unit in units:
        evidence.record(part(unit), **SEEN)
    told_first = len(evidence.drain_exposures())
    late = [f"v{number}" for number in range(8 * MAX_SAMPLED)]
    for unit in late:
        evidence.record(part(unit), **SEEN)

    arms = [row["arm"] for row in evidence.drain_exposures()]

    assert MAX_SAMPLED < told_first < 4 * MAX_SAMPLED
    share = len(arms) / len(late)
    asked = {arm: sum(part(unit).arm == arm for unit in late) for arm in ("canary", "control")}
    for arm, number in asked.items():
        expected = share * number
        assert abs(arms.count(arm) - expected) < 5 * expected**0.5


def test_units_that_strayed_are_told_of_however_many_are_thinned_out(evidence):
    """They are the ones that a comparison must do without; a bound there is all the same."""
    for number in range(3 * MAX_SAMPLED):
        evidence.record(part(f"u{number}"), **SEEN)
    evidence.drain_exposures()

    for number in range(2 * MAX_STRAYED):
        evidence.record(part(f"w{number}", pinned=other_version(f"w{number}")), **SEEN)

    assert len(evidence.drain_exposures()) == MAX_STRAYED
