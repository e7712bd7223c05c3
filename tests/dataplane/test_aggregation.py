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


def attempt(aggregation, series=SERIES, **changes):
    """Record an attempt that went well, but for `changes`."""
    measured = {
        "failed": False,
        "timed_out": False,
        "throttled": False,
        "latency_ms": 1.0,
        "ttft_ms": None,
        "tokens_per_second": None,
        "input_tokens": 0,
        "output_tokens": 0,
        "cost_micros": 0,
    }
    aggregation.record_attempt(series, **measured | changes)


def request(aggregation, series=SERIES, **changes):
    """Record a request that was answered, but for `changes`."""
    aggregation.record_request(
        series, **{"result": "ok", "schema_passed": None, "refused": False, "fallback": False} | changes
    )


def counted(rollup):
    """What a rollup counts that is not zero."""
    return {name: value for name, value in counts(rollup).items() if value}


def counts(rollup):
    return {
        name: value for name, value in rollup.items() if isinstance(value, int) and name not in ("bucket", "version")
    }


def test_attempts_and_their_request_are_counted_under_series_and_bucket(aggregation, clock):
    """Two attempts of one request: one rollup names the series and carries every count and all three sketches."""
    clock.advance(3)
    attempt(aggregation, failed=True, timed_out=True, latency_ms=3000.0, input_tokens=50, cost_micros=3)
    attempt(
        aggregation,
        throttled=True,
        latency_ms=812.0,
        ttft_ms=120.0,
        tokens_per_second=35.0,
        input_tokens=50,
        output_tokens=20,
        cost_micros=7,
    )
    request(aggregation, schema_passed=True, refused=True, fallback=True)

    [rollup] = aggregation.drain(clock.now())

    assert {name: rollup[name] for name in Series._fields} == SERIES._asdict()
    assert rollup["bucket"] == clock.now() - 3
    assert counts(rollup) == {
        "requests": 1,
        "errors": 0,
        "rejected": 0,
        "cancelled": 0,
        "fallbacks": 1,
        "attempts": 2,
        "failures": 1,
        "timeouts": 1,
        "throttled": 1,
        "input_tokens": 100,
        "output_tokens": 20,
        "cost_micros": 10,
        "schema_checked": 1,
        "schema_passed": 1,
        "refusals": 1,
    }
    latency, ttft, drain = (Sketch.from_json(rollup[name]) for name in ("latency_ms", "ttft_ms", "drain_tps"))
    assert (latency.count, latency.min, latency.max) == (2, 812.0, 3000.0)
    assert (ttft.count, ttft.max) == (1, 120.0)
    assert (drain.count, drain.max) == (1, 35.0)


@pytest.mark.parametrize(
    ("result", "column"), [("error", "errors"), ("rejected", "rejected"), ("cancelled", "cancelled")]
)
def test_each_result_has_a_column_of_its_own(aggregation, clock, result, column):
    """A caller's mistake and a caller who left are not our errors, and no result says anything of attempts."""
    request(aggregation, result=result)

    [rollup] = aggregation.drain(clock.now())

    assert counted(rollup) == {"requests": 1, column: 1}
    assert rollup["latency_ms"]["count"] == 0


def test_attempt_without_blame_is_no_failure_and_no_timeout(aggregation, clock):
    """Time-outs are a part of the failures, also when the two are told inconsistently; being throttled is neither."""
    attempt(aggregation, timed_out=True)
    attempt(aggregation, throttled=True)

    [rollup] = aggregation.drain(clock.now())

    assert counted(rollup) == {"attempts": 2, "throttled": 1}


def test_request_without_attempts_stands_under_no_lane(aggregation, clock):
    """Answered from signed copy: a request and a fallback, and no lane is any busier for it."""
    attempt(aggregation)
    request(aggregation, SERIES._replace(lane=""), fallback=True)

    found = {rollup["lane"]: counted(rollup) for rollup in aggregation.drain(clock.now())}

    assert found == {SERIES.lane: {"attempts": 1}, "": {"requests": 1, "fallbacks": 1}}


def test_unchecked_schema_counts_neither_way(aggregation, clock):
    """A pass rate is over the answers that were checked."""
    request(aggregation)
    request(aggregation, schema_passed=False)

    [rollup] = aggregation.drain(clock.now())

    assert (rollup["requests"], rollup["schema_checked"], rollup["schema_passed"]) == (2, 1, 0)


def test_second_drain_in_a_bucket_is_cumulative(aggregation, clock):
    """The receiver replaces the row, so each rollup says everything about its bucket so far."""
    attempt(aggregation)
    aggregation.drain(clock.now())
    clock.advance(1)
    attempt(aggregation)

    [rollup] = aggregation.drain(clock.now())

    assert rollup["attempts"] == 2


def test_series_that_did_not_change_is_not_shipped_again(aggregation, clock):
    """The volume depends on series that have traffic."""
    attempt(aggregation)
    attempt(aggregation, OTHER)
    aggregation.drain(clock.now())
    attempt(aggregation, OTHER)

    assert [rollup["cohort"] for rollup in aggregation.drain(clock.now())] == ["control"]
    assert aggregation.drain(clock.now()) == []


def test_closed_bucket_is_shipped_once_more_and_forgotten(aggregation, clock):
    """What was counted between the last drain and the end of a bucket is not lost, and memory does not grow."""
    attempt(aggregation)
    clock.advance(10)
    attempt(aggregation)

    buckets = [rollup["bucket"] for rollup in aggregation.drain(clock.now())]

    assert buckets == [clock.now() - 10, clock.now()]
    clock.advance(100)
    assert aggregation.drain(clock.now()) == []
    assert len(aggregation._buckets) == 1


def test_clock_set_back_never_reopens_a_bucket_that_was_shipped(aggregation, clock):
    """A reopened bucket would start at zero and replace what the control plane holds."""
    attempt(aggregation)
    clock.advance(10)
    aggregation.drain(clock.now())
    clock.advance(-10)
    attempt(aggregation)

    [rollup] = aggregation.drain(clock.now())

    assert rollup["bucket"] == clock.now() + 10


records = st.tuples(st.sampled_from([attempt, request]), st.sampled_from([SERIES, OTHER]))


@given(steps=st.lists(st.one_of(st.floats(0, 30), records, st.just("drain")), max_size=60))
def test_last_rollup_of_each_bucket_and_series_adds_up_to_every_attempt_and_request(steps):
    """However records, drains and time interleave, replacing rows by key loses nothing and doubles nothing."""
    now = 1_760_000_000.0
    aggregation = Aggregation(wall=lambda: now)
    rows, recorded = {}, [0, 0]

    def keep():
        for rollup in aggregation.drain(now):
            rows[rollup["bucket"], rollup["cohort"]] = (rollup["attempts"], rollup["requests"])

    for step in steps:
        if step == "drain":
            keep()
        elif isinstance(step, float):
            now += step
        else:
            what, series = step
            what(aggregation, series)
            recorded[what is request] += 1
    keep()

    assert [sum(column) for column in zip((0, 0), *rows.values(), strict=True)] == recorded
