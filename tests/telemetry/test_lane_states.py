from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.releases.models import GONE_AFTER, SILENT_AFTER
from controlplane.telemetry.feed import lanes_message
from controlplane.telemetry.lanes import lane_states, lane_workers, open_now
from controlplane.telemetry.models import LaneState
from controlplane.telemetry.operations import compact_rollups, record_lane_states
from tests.worker_reports import NOON, lane_state, report, rollup

pytestmark = pytest.mark.django_db

SECOND = timedelta(seconds=1)


def said():
    return sorted(LaneState.objects.values_list("worker", "lane", "state"))


def test_newest_report_of_a_worker_says_how_it_holds_its_lanes():
    """What came later in the worker's own order counts, in one batch and across; a lane it names no more is gone."""
    first = report(lanes=(lane_state("a"), lane_state("b")), worker="w", seq=7)
    second = report(lanes=(lane_state("a", "open"),), worker="w", seq=8)

    assert record_lane_states([first], now=NOON) == {"a", "b"}
    assert record_lane_states([first], now=NOON) == set()
    assert record_lane_states([second, first], now=NOON) == {"a", "b"}
    assert record_lane_states([first], now=NOON) == set()
    assert said() == [("w", "a", "open")]

    restarted = report(lanes=(lane_state("a", "half_open"), lane_state("c")), worker="w", seq=1, started_at=NOON)
    assert record_lane_states([restarted], now=NOON) == {"a", "c"}
    assert record_lane_states([second], now=NOON) == set()
    assert said() == [("w", "a", "half_open"), ("w", "c", "closed")]

    assert record_lane_states([report(worker="w", seq=2, started_at=NOON)], now=NOON) == set()
    assert len(said()) == 2
    assert record_lane_states([report(worker="w", seq=3, started_at=NOON, status="stopped")], now=NOON) == {"a", "c"}
    assert said() == []


def test_lanes_that_are_shut_and_who_holds_them_back_are_found_first():
    """A lane is shut once any worker's breaker is; of its workers, those that hold anything back come first."""
    states = {"w1": "closed", "w2": "closed", "w3": "half_open", "w4": "open"}
    record_lane_states(
        [report(lanes=(lane_state("a", state), lane_state("b")), worker=name) for name, state in states.items()],
        now=NOON,
    )

    assert open_now(NOON) == ["a"]
    assert [one.worker for one in lane_workers("a", now=NOON, most=3)] == ["w3", "w4", "w1"]
    assert open_now(NOON + SILENT_AFTER + SECOND) == []


def test_breaker_that_opened_anew_stands_differently_and_one_that_counts_down_does_not():
    """Between two reports it may have let probes through and opened again: its state is the same, its end is not."""

    def taken(seq, *, open_for):
        at = NOON + seq * SECOND
        lanes = (lane_state("a", "open", open_for_seconds=open_for),)
        return record_lane_states([report(lanes=lanes, seq=seq, sent_at=at)], now=at)

    assert taken(1, open_for=30.0) == {"a"}
    assert taken(2, open_for=29.1) == set()
    assert taken(3, open_for=60.0) == {"a"}


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_order_and_any_repetition_ends_with_the_newest_word_of_each_worker(data):
    """However reports are shuffled, repeated and batched, the table is what the newest report of each worker says."""
    LaneState.objects.all().delete()
    states = ["closed", "open", "half_open", "open"]
    reports = [
        report(
            lanes=tuple(lane_state(lane, state) for lane in ("a", "b", "c")[: 3 - seq // 2]),
            worker=worker,
            seq=seq + 1,
            started_at=NOON - timedelta(hours=2 - boot),
        )
        for worker in ("v", "w")
        for boot in range(2)
        for seq, state in enumerate(states)
    ]
    extra = data.draw(st.lists(st.sampled_from(reports), max_size=6))
    order = data.draw(st.permutations([*reports, *extra]))
    size = data.draw(st.integers(1, len(order)))

    for start in range(0, len(order), size):
        record_lane_states(order[start : start + size], now=NOON)

    assert said() == [(worker, lane, "open") for worker in ("v", "w") for lane in ("a", "b")]


def test_lane_stands_as_the_workers_that_are_heard_of_say():
    """Counted by state, with the longest time that one keeps it open and the probes of all; the silent do not count."""
    known = {"probes": 2, "attempts": 50, "failures": 40, "cause": "timeout_rate", "wait_ms": 300.0}
    batch = [
        report(lanes=(lane_state("a"), lane_state("b")), worker="w1"),
        report(
            lanes=(lane_state("a", "open", open_for_seconds=12.5, cause="failure_rate", wait_ms=100.0),), worker="w2"
        ),
        report(lanes=(lane_state("a", "open", open_for_seconds=20.0, **known),), worker="w3"),
        report(lanes=(lane_state("a", "open", cause="timeout_rate"),), worker="w4"),
        report(lanes=(lane_state("a", "forced_open"), lane_state("c")), worker="w5", sent_at=NOON - SILENT_AFTER),
        report(lanes=(lane_state("b", "forced_closed"),), worker="w6"),
    ]
    with CaptureQueriesContext(connection) as writing:
        record_lane_states(batch, now=NOON)
    with CaptureQueriesContext(connection) as reading:
        standings = lane_states(NOON + 2 * SECOND)

    assert (len(writing), len(reading)) == (1, 1)
    assert set(standings) == {"a", "b"}
    assert lane_states(NOON + 2 * SECOND, open_now(NOON + 2 * SECOND)) == {"a": standings["a"]}
    with CaptureQueriesContext(connection) as reading:
        assert lane_states(NOON + 2 * SECOND, []) == {}
    assert len(reading) == 0
    a, b = standings["a"], standings["b"]
    assert (a.state, dict(a.workers)) == ("open", {"closed": 1, "open": 3})
    assert (a.open_for_seconds, a.probes, a.attempts, a.failures, a.cause) == (28.0, 2, 50, 40, "timeout_rate")
    assert a.wait_ms == 200.0  # of the two workers that saw enough
    assert (b.state, b.workers["closed"], b.open_for_seconds, b.cause) == ("forced_closed", 1, None, "")
    assert lanes_message({"c", "b"}, now=NOON + 2 * SECOND) == {
        "now": (NOON + 2 * SECOND).isoformat(),
        "lanes": {
            "b": {
                "lane": "b",
                "state": "forced_closed",
                "workers": {"closed": 1, "forced_closed": 1},
                "open_for_seconds": None,
                "probes": 0,
                "attempts": 40,
                "failures": 0,
                "cause": "",
                "wait_ms": None,
            },
            "c": None,
        },
    }
    assert lane_states(NOON + SILENT_AFTER) == {}


def test_breakers_of_a_worker_that_is_gone_are_forgotten():
    """Nothing says any more that they exist; those of a worker that is only silent stay until then."""
    record_lane_states([report(lanes=(lane_state("a"),), worker="gone")], now=NOON)
    record_lane_states([report(lanes=(lane_state("a"),), worker="silent", sent_at=NOON + SECOND)], now=NOON + SECOND)

    compact_rollups(now=NOON + GONE_AFTER + SECOND)

    assert said() == [("silent", "a", "closed")]


@pytest.mark.django_db(transaction=True)
def test_breaker_that_moves_is_told_at_once_and_its_followers_together(line, clock):
    """The page hears of the first worker without waiting, of the rest in one message, and of no heartbeat."""
    ingest = line.ingest()

    def beat(worker, state, seq):
        lanes = (lane_state("a", state), lane_state("b"))
        line.add(report(rollup(), lanes=lanes, worker=worker, seq=seq, sent_at=clock.now))
        ingest.round()

    for worker in ("w1", "w2", "w3"):
        beat(worker, "closed", 1)
    clock.advance(1)
    ingest.round()
    clock.advance(1)
    line.told.clear()

    beat("w1", "open", 2)
    for worker in ("w2", "w3"):
        clock.advance(0.05)
        beat(worker, "open", 2)
    clock.advance(1)
    beat("w1", "open", 3)

    first, second = line.messages("lanes")
    assert first["lanes"]["a"]["workers"] == {"closed": 2, "open": 1}
    assert (set(second["lanes"]), second["lanes"]["a"]["workers"]) == ({"a"}, {"open": 3})
