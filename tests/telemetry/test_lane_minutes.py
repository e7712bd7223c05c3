from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from controlplane.telemetry.lanes import lane_minutes
from controlplane.telemetry.operations import compact_rollups, merge_rollups
from tests.worker_reports import NOON, report, rollup, sketch

pytestmark = pytest.mark.django_db

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


def test_minutes_of_a_lane_add_up_every_series_and_worker():
    """Folded minutes and 10 s rows alike, of this lane alone; a minute without an attempt is left out."""
    failing = {"lane": "a", "requests": 2, "failures": 2, "timeouts": 1, "throttled": 1}
    merge_rollups(
        [
            report(
                rollup(NOON, **failing, latencies=(9000.0, 50.0), drains=(4.0,)),
                rollup(NOON + 40 * SECOND, lane="a", prompt="other", ttfts=(70.0,)),
                rollup(NOON, lane="b", requests=99),
                rollup(NOON + MINUTE, lane="a", requests=1, attempts=0, latencies=()),
                rollup(NOON + 2 * MINUTE, lane="a", requests=3),
                rollup(NOON + 2 * MINUTE + 50 * SECOND, lane="a", requests=1),
                worker="v",
            ),
            report(rollup(NOON, **failing, latencies=(8000.0, 60.0)), worker="w"),
        ],
        now=NOON,
    )
    compact_rollups(now=NOON + 2 * MINUTE + 15 * SECOND)

    with CaptureQueriesContext(connection) as queries:
        first, third = lane_minutes("a", since=NOON, until=NOON + 3 * MINUTE)

    assert len([one for one in queries if "telemetry" in one["sql"]]) == 3
    assert (first.at, third.at) == (NOON, NOON + 2 * MINUTE)
    assert (first.attempts, first.failures, first.timeouts, first.throttled) == (5, 4, 2, 2)
    assert first.latency_ms.to_json() == sketch(9000.0, 50.0, 100.0, 8000.0, 60.0)
    assert (first.ttft_ms.max, first.drain_tps.max) == (70.0, 4.0)
    assert first.latency_ms.share_above(1000.0) == 2 / 5
    assert (third.attempts, third.failures, third.latency_ms.count) == (4, 0, 4)


def test_minute_of_which_a_part_came_hours_later_is_one_minute():
    """A worker that was cut off brings its share after the others' rows are gone; the minute is told once, whole."""
    later = NOON + timedelta(hours=3)
    merge_rollups([report(rollup(NOON, requests=3), rollup(NOON + MINUTE, lane="b"))], now=NOON)
    for _ in range(2):
        compact_rollups(now=later)
    merge_rollups([report(rollup(NOON, requests=2), worker="cut off")], now=later)
    compact_rollups(now=later)

    (minute,) = lane_minutes(rollup()["lane"], since=NOON, until=NOON + MINUTE)

    assert (minute.at, minute.attempts, minute.latency_ms.count) == (NOON, 5, 5)


def test_range_of_minutes_is_what_was_asked_for():
    """From the minute of its beginning on, up to its end; a lane that nobody tried has none."""
    merge_rollups([report(*(rollup(NOON + n * MINUTE, requests=n + 1) for n in range(4)))], now=NOON)
    lane = rollup()["lane"]

    def attempts(since, until):
        return [minute.attempts for minute in lane_minutes(lane, since=since, until=until)]

    before = attempts(NOON + MINUTE + SECOND, NOON + 3 * MINUTE)
    compact_rollups(now=NOON + 10 * MINUTE)

    assert before == attempts(NOON + MINUTE + SECOND, NOON + 3 * MINUTE) == [2, 3]
    assert list(lane_minutes("none-such", since=NOON, until=NOON + MINUTE)) == []
