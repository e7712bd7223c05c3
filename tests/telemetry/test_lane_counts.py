from datetime import date, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.telemetry.lane_counts import counted_minutes
from controlplane.telemetry.lanes import lane_minutes
from controlplane.telemetry.models import LaneRollup
from controlplane.telemetry.operations import compact_rollups, merge_rollups
from dataplane.backtest import counts_of
from dataplane.policies import BREAKER_THRESHOLDS, BreakerPolicy
from dataplane.thresholds import Provenance, Threshold
from tests.worker_reports import NOON, report, rollup, sketch

pytestmark = pytest.mark.django_db

MINUTE = timedelta(minutes=1)
GUESSED = Provenance("guess", "a test wants it", "", "test", date(2026, 3, 1), date(2026, 6, 1))


def policy(latency_p95_ms=1000.0, ttft_p95_ms=500.0, drain_tokens_per_second=5.0):
    numbers = dict.fromkeys(BREAKER_THRESHOLDS, 1.0) | {
        "latency_p95_ms": latency_p95_ms,
        "ttft_p95_ms": ttft_p95_ms,
        "drain_tokens_per_second": drain_tokens_per_second,
    }
    return BreakerPolicy("test", **{name: Threshold(value, GUESSED) for name, value in numbers.items()})


def both(lane, policies, *, minutes):
    """As the database counts, and as the decider's own reading of the sketches does."""
    span = {"since": NOON, "until": NOON + minutes * MINUTE}
    read = [(one.at, [counts_of(policy, one) for policy in policies]) for one in lane_minutes(lane, **span)]
    return list(counted_minutes(lane, policies, **span)), read


def test_minutes_are_counted_in_the_database_as_the_sketches_say():
    """Folded minutes and fresh ones, under several policies, by as many queries for a month as for a minute."""
    busy = {"requests": 6, "throttled": 1, "failures": 2, "timeouts": 1, "lane": "a"}
    slow = {"latencies": (10.0, 900.0, 2000.0, 3000.0), "ttfts": (80.0, 700.0), "drains": (2.0, 6.0, 90.0)}
    merge_rollups(
        [
            report(
                rollup(NOON, **busy, **slow),
                rollup(NOON + MINUTE, lane="a", requests=3),
                rollup(NOON + 2 * MINUTE, **busy, **slow),
                rollup(NOON, lane="b", latencies=(9e9,)),
            )
        ],
        now=NOON,
    )
    compact_rollups(now=NOON + 2 * MINUTE + timedelta(seconds=15))
    policies = [policy(), policy(latency_p95_ms=2500.0, drain_tokens_per_second=1.0)]

    with CaptureQueriesContext(connection) as queries:
        counted = list(counted_minutes("a", policies, since=NOON, until=NOON + 3 * MINUTE))

    first = [5, 2, 1, 2, 2, 1, 3, 1]
    assert counted[0] == (NOON, [first, [5, 2, 1, 1, 2, 1, 3, 0]])
    assert counted[1][1][0][:4] == [3, 0, 0, 0]
    assert counted[2] == (NOON + 2 * MINUTE, counted[0][1])
    assert len([one for one in queries if "telemetry" in one["sql"]]) <= 5
    assert both("a", policies, minutes=3)[0] == both("a", policies, minutes=3)[1]


VALUES = st.lists(st.floats(0, 5000, allow_subnormal=False), max_size=8)


@settings(max_examples=25, deadline=None)
@given(latencies=VALUES, ttfts=VALUES, drains=VALUES, limit=st.floats(0.5, 5000))
def test_database_and_decider_agree_on_any_sketch(latencies, ttfts, drains, limit):
    """Whatever was measured, and wherever the limit lies."""
    LaneRollup.objects.all().delete()
    sketches = {
        name: sketch(*values) for name, values in (("latency_ms", latencies), ("ttft_ms", ttfts), ("drain_tps", drains))
    }
    counts = {"attempts": 20, "failures": 0, "timeouts": 0, "throttled": 0}
    LaneRollup.objects.create(bucket_at=NOON, lane="a", sealed=True, **counts, **sketches)
    merge_rollups([report(rollup(NOON + MINUTE, lane="b"))], now=NOON)
    compact_rollups(now=NOON + 3 * MINUTE)

    counted, read = both("a", [policy(limit, limit, limit)], minutes=1)

    assert counted == read
    assert len(counted) == 1
