"""What workers tell of a surface, and what a fleet reads from it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from dataplane.documents import Node
from dataplane.ladder.signals import MIN_ATTEMPTS, Budget, Told, gather
from dataplane.thresholds import Threshold
from tests.dataplane.conftest import threshold

NOTHING: dict[str, Any] = {
    "in_flight": {},
    "queue_age_seconds": 0.0,
    "quota_utilisation": None,
    "breakers_open_share": None,
    "windows": {},
    "gauges": {},
}
BUDGET = Budget(
    Threshold.parse(Node(threshold(0.99), "$"), above=0, maximum=1),
    Threshold.parse_whole(Node(threshold(60), "$"), minimum=1, maximum=600),
)


def told(**changes: Any) -> Told:
    return Told(**(NOTHING | changes))


def test_what_is_told_reads_back_as_it_was() -> None:
    """Through the JSON in which the fleet keeps it."""
    one = told(
        in_flight={"vip": 3, "free": 9},
        queue_age_seconds=1.5,
        quota_utilisation=0.9,
        breakers_open_share=0.25,
        windows={"burn": (100, 7)},
        gauges={"gpu": 0.97},
        requests_per_second=12.5,
        backlog_age_seconds=30.0,
    )

    assert Told.from_json(orjson.loads(orjson.dumps(one.to_json()))) == one


def test_worker_of_another_version_is_understood_as_far_as_it_goes() -> None:
    """While a fleet is upgraded, one tells of what another does not know, and the other way round."""
    older = {name: value for name, value in told().to_json().items() if "backlog" not in name}

    assert Told.from_json(older | {"mood": "good"}) == told()


def test_what_is_under_way_adds_up_and_of_ages_and_shares_the_worst_counts() -> None:
    """Each worker sees its own callers, and its own part of the queues."""
    fleet = [
        told(in_flight={"vip": 3, "free": 9}, queue_age_seconds=2.0, quota_utilisation=0.4, breakers_open_share=0.5),
        told(in_flight={"free": 1}, queue_age_seconds=5.0, quota_utilisation=None, breakers_open_share=0.25),
    ]

    assert gather("in_flight", "t", fleet) == 13.0
    assert gather("queue_age_seconds", "t", fleet) == 5.0
    assert gather("quota_utilisation", "t", fleet) == 0.4
    assert gather("breakers_open_share", "t", fleet) == 0.5


def test_requests_that_come_in_add_up_and_of_backlogs_the_oldest_counts() -> None:
    """Whoever does not know adds nothing."""
    fleet = [told(requests_per_second=4.0, backlog_age_seconds=2.0), told(requests_per_second=1.5), told()]

    assert gather("requests_per_second", "t", fleet) == 5.5
    assert gather("backlog_age_seconds", "t", fleet) == 2.0
    assert gather("requests_per_second", "t", [told()]) is None
    assert gather("backlog_age_seconds", "t", [told()]) is None


def test_what_nobody_could_read_is_not_known_rather_than_nothing() -> None:
    """Zero would let a ladder down."""
    assert gather("in_flight", "t", []) is None
    assert gather("quota_utilisation", "t", [told(), told()]) is None
    assert gather("breakers_open_share", "t", [told()]) is None
    assert gather("gpu_utilisation", "gpu", [told(gauges={"other": 1.0})]) is None
    assert gather("gpu_utilisation", "gpu", [told(), told(gauges={"gpu": 0.5})]) == 0.5


def test_budget_burns_by_the_sums_of_the_fleet() -> None:
    """One worker with few attempts says little, all together say enough; 1 spends exactly what may be spent."""
    fleet = [told(windows={"burn": (60, 1)}), told(windows={"burn": (40, 1)}), told(windows={"other": (1000, 1000)})]

    assert gather("error_budget_burn", "burn", fleet, BUDGET) == pytest.approx(2.0)
    assert gather("error_budget_burn", "burn", [told(windows={"burn": (MIN_ATTEMPTS - 1, 9)})], BUDGET) is None
    assert gather("error_budget_burn", "burn", [told()], BUDGET) is None
    with pytest.raises(ValueError, match="trigger 'burn' looks at 'error_budget_burn', which needs a budget"):
        gather("error_budget_burn", "burn", fleet)


def test_budget_of_which_nothing_failed_is_not_burning_however_few_asked() -> None:
    """On a rung that asks no lane, a ladder that its errors engaged is let down again."""
    assert gather("error_budget_burn", "burn", [told(windows={"burn": (0, 0)})], BUDGET) == 0.0
    assert gather("error_budget_burn", "burn", [told(windows={"burn": (3, 0)}), told()], BUDGET) == 0.0
