"""Rollups: cumulative within their bucket, shipped when changed, forgotten when closed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.aggregation import Aggregation, Series
from dataplane.sketches import Sketch

SERIES = Series("openai/eu-west/main/gpt-4o", "support-answer", 2, "support-answer-2", "canary", "vip")
OTHER = SERIES._replace(cohort="control", version=1)


@pytest.fixture
def aggregation(clock):
    """An empty aggregation on a clock that stands at an even ten seconds."""
    return Aggregation(wall=clock)


def counts(rollup):
    return {
        name: value for name, value in rollup.items() if isinstance(value, int) and name not in ("bucket", "version")
    }


def test_finished_attempt_is_counted_under_its_series_and_bucket(aggregation, clock):
    """One rollup names its series and carries every count and both sketches."""
    clock.advance(3)
    aggregation.record(
        SERIES,
        result="ok",
        latency_ms=812.0,
        ttft_ms=120.0,
        input_tokens=50,
        output_tokens=20,
        cost_micros=7,
        schema_passed=True,
        refused=True,
    )

    [rollup] = aggregation.drain(clock.now())

    assert {name: rollup[name] for name in Series._fields} == SERIES._asdict()
    assert rollup["bucket"] == clock.now() - 3
    assert counts(rollup) == {
        "requests": 1,
        "errors": 0,
        "rejected": 0,
        "cancelled": 0,
        "input_tokens": 50,
        "output_tokens": 20,
        "cost_micros": 7,
        "schema_checked": 1,
        "schema_passed": 1,
        "refusals": 1,
    }
    assert Sketch.from_json(rollup["latency_ms"]).quantile(0.5) == pytest.approx(812, rel=0.01)
    assert Sketch.from_json(rollup["ttft_ms"]).count == 1


@pytest.mark.parametrize(
    ("result", "column"), [("error", "errors"), ("rejected", "rejected"), ("cancelled", "cancelled")]
)
def test_each_result_has_a_column_of_its_own(aggregation, clock, result, column):
    """A caller's mistake and a caller who left are not the lane's errors."""
    aggregation.record(SERIES, result=result, latency_ms=1.0)

    [rollup] = aggregation.drain(clock.now())

    assert {name: value for name, value in counts(rollup).items() if value} == {"requests": 1, column: 1}


def test_unchecked_schema_counts_neither_way(aggregation, clock):
    """A pass rate is over the answers that were checked."""
    aggregation.record(SERIES, result="ok", latency_ms=1.0, schema_passed=None)
    aggregation.record(SERIES, result="ok", latency_ms=1.0, schema_passed=False)

    [rollup] = aggregation.drain(clock.now())

    assert (rollup["requests"], rollup["schema_checked"], rollup["schema_passed"]) == (2, 1, 0)


def test_second_drain_in_a_bucket_is_cumulative(aggregation, clock):
    """The receiver replaces the row, so each rollup says everything about its bucket so far."""
    aggregation.record(SERIES, result="ok", latency_ms=1.0)
    aggregation.drain(clock.now())
    clock.advance(1)
    aggregation.record(SERIES, result="ok", latency_ms=1.0)

    [rollup] = aggregation.drain(clock.now())

    assert rollup["requests"] == 2


def test_series_that_did_not_change_is_not_shipped_again(aggregation, clock):
    """The volume depends on series that have traffic."""
    aggregation.record(SERIES, result="ok", latency_ms=1.0)
    aggregation.record(OTHER, result="ok", latency_ms=1.0)
    aggregation.drain(clock.now())
    aggregation.record(OTHER, result="ok", latency_ms=1.0)

    assert [rollup["cohort"] for rollup in aggregation.drain(clock.now())] == ["control"]
    assert aggregation.drain(clock.now()) == []


def test_closed_bucket_is_shipped_once_more_and_forgotten(aggregation, clock):
    """What was counted between the last drain and the end of a bucket is not lost, and memory does not grow."""
    aggregation.record(SERIES, result="ok", latency_ms=1.0)
    clock.advance(10)
    aggregation.record(SERIES, result="ok", latency_ms=1.0)

    buckets = [rollup["bucket"] for rollup in aggregation.drain(clock.now())]

    assert buckets == [clock.now() - 10, clock.now()]
    clock.advance(100)
    assert aggregation.drain(clock.now()) == []
    assert len(aggregation._buckets) == 1


def test_clock_set_back_never_reopens_a_bucket_that_was_shipped(aggregation, clock):
    """A reopened bucket would start at zero and replace what the control plane holds."""
    aggregation.record(SERIES, result="ok", latency_ms=1.0)
    clock.advance(10)
    aggregation.drain(clock.now())
    clock.advance(-10)
    aggregation.record(SERIES, result="ok", latency_ms=1.0)

    [rollup] = aggregation.drain(clock.now())

    assert rollup["bucket"] == clock.now() + 10


@given(steps=st.lists(st.one_of(st.floats(0, 30), st.sampled_from([SERIES, OTHER]), st.just("drain")), max_size=60))
def test_last_rollup_of_each_bucket_and_series_adds_up_to_every_attempt(steps):
    """However records, drains and time interleave, replacing rows by key loses nothing and doubles nothing."""
    now = 1_760_000_000.0
    aggregation = Aggregation(wall=lambda: now)
    rows, recorded = {}, 0

    def keep():
        for rollup in aggregation.drain(now):
            rows[rollup["bucket"], rollup["cohort"]] = rollup["requests"]

    for step in steps:
        if step == "drain":
            keep()
        elif isinstance(step, float):
            now += step
        else:
            aggregation.record(step, result="ok", latency_ms=1.0)
            recorded += 1
    keep()

    assert sum(rows.values()) == recorded
