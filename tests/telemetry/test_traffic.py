from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from controlplane.telemetry.models import Rollup
from controlplane.telemetry.operations import compact_rollups, merge_rollups
from controlplane.telemetry.traffic import compare, fleet_traffic, lane_health, step_for, traffic_by_version
from dataplane.sketches import Sketch
from tests.worker_reports import NOON, report, rollup

pytestmark = pytest.mark.django_db

SECOND = timedelta(seconds=1)
SLUG = "support-answer-v13"


def test_quantiles_over_workers_are_those_of_the_union():
    """A fleet's p95 comes from the merge of its workers' sketches, to the bin."""
    slow, fast = tuple(float(n) for n in range(400, 500)), tuple(float(n) for n in range(1, 200))
    merge_rollups(
        [
            report(rollup(latencies=slow, requests=len(slow)), worker="a"),
            report(rollup(latencies=fast, requests=len(fast)), worker="b"),
        ],
        now=NOON,
    )
    union = Sketch()
    for value in slow + fast:
        union.add(value)

    totals = compare(SLUG, since=NOON, until=NOON + 10 * SECOND).arms["control"].totals

    assert totals["latency_p95_ms"].value == union.quantile(0.95)
    assert totals["latency_p95_ms"].n == len(slow) + len(fast)


def test_a_gap_is_no_data_and_not_zero():
    """A bucket that nobody reported is None in every measure; so is an arm without requests."""
    merge_rollups([report(rollup(NOON), rollup(NOON + 20 * SECOND))], now=NOON)

    comparison = compare(SLUG, since=NOON, until=NOON + 30 * SECOND)

    assert comparison.values("control", "requests_per_second") == [0.1, None, 0.1]
    assert comparison.values("canary", "error_rate") == [None, None, None]
    assert comparison.arms["canary"].totals["error_rate"] == (None, 0)


def test_the_bucket_under_way_is_measured_over_the_time_it_has_had():
    """Five requests in the first five seconds of a bucket are one a second, not half of it."""
    merge_rollups([report(rollup(NOON, requests=5))], now=NOON)

    assert compare(SLUG, since=NOON, until=NOON + 5 * SECOND).values("control", "requests_per_second") == [1.0]
    assert compare(SLUG, since=NOON, until=NOON + SECOND).values("control", "requests_per_second") == [None]


def test_callers_without_a_unit_are_in_neither_arm():
    """Unkeyed traffic is served control and kept out of the comparison."""
    merge_rollups([report(rollup(cohort="unkeyed"), rollup(cohort="none"), rollup(cohort="canary"))], now=NOON)

    comparison = compare(SLUG, since=NOON, until=NOON + 10 * SECOND)

    assert comparison.arms["canary"].totals["requests"].value == 1
    assert comparison.arms["control"].totals["requests"] == (None, 0)


def test_each_measure_says_what_it_is_out_of():
    """Errors are out of what could be answered, refusals out of what was, schema passes out of what was checked; what a
    lane did wrong is out of attempts, and a request costs what all its attempts cost.
    """
    counts = {
        "requests": 20,
        "errors": 3,
        "rejected": 4,
        "cancelled": 1,
        "schema_checked": 8,
        "schema_passed": 6,
        "refusals": 2,
        "fallbacks": 3,
        "attempts": 24,
        "failures": 6,
        "timeouts": 4,
        "throttled": 2,
        "drains": (*(40.0,) * 19, 2.0),
    }
    merge_rollups([report(rollup(**counts))], now=NOON)

    totals = compare(SLUG, since=NOON, until=NOON + 10 * SECOND).arms["control"].totals

    assert totals["error_rate"] == (3 / 15, 15)
    assert totals["refusal_rate"] == (2 / 12, 12)
    assert totals["schema_pass_rate"] == (6 / 8, 8)
    assert totals["cost_per_request_usd"] == (pytest.approx(20 * 300 / 1e6 / 16), 16)
    assert totals["ttft_p50_ms"] == (None, 0)
    assert totals["fallback_rate"] == (3 / 15, 15)
    assert totals["attempts"] == (24, 24)
    assert totals["failure_rate"] == (6 / 24, 24)
    assert totals["timeout_rate"] == (4 / 24, 24)
    assert totals["throttle_rate"] == (2 / 24, 24)
    assert totals["drain_tps_p5"] == (2.0, 20)


def test_minutes_and_their_buckets_tell_the_same_story():
    """A longer range reads minute rows, and 10 s rows for what is not folded yet; the totals agree."""
    merge_rollups(
        [
            report(
                *(
                    rollup(NOON + 10 * n * SECOND, requests=n + 1, latencies=(50.0 * (n + 1),) * (n + 1))
                    for n in range(18)
                )
            )
        ],
        now=NOON,
    )
    compact_rollups(now=NOON + timedelta(seconds=135))
    until = NOON + timedelta(minutes=3)

    coarse = compare(SLUG, since=NOON, until=until, step=timedelta(minutes=1))
    fine = compare(SLUG, since=NOON, until=until, step=timedelta(seconds=10))

    assert coarse.arms["control"].totals == fine.arms["control"].totals
    assert [point["requests"].n for point in coarse.arms["control"].points] == [21, 57, 93]


def test_the_number_of_queries_does_not_depend_on_rows_or_range():
    """A dashboard of a hundred workers costs the queries of an empty one."""

    def queries():
        with CaptureQueriesContext(connection) as captured:
            compare(SLUG, since=NOON - timedelta(hours=5), until=NOON + timedelta(minutes=3))
            fleet_traffic(since=NOON - timedelta(hours=5), until=NOON + timedelta(minutes=3))
            lane_health(since=NOON, until=NOON + timedelta(minutes=3))
            traffic_by_version("support-answer", since=NOON, until=NOON + timedelta(minutes=3))
        return len(captured)

    merge_rollups([report(rollup(NOON - timedelta(hours=1)))], now=NOON)
    compact_rollups(now=NOON)
    before = queries()
    for lane in ("x", "y", "z"):
        many = [
            report(rollup(lane=lane), rollup(NOON + timedelta(minutes=1), lane=lane), worker=f"w{n}")
            for n in range(100)
        ]
        merge_rollups(many, now=NOON)

    assert queries() == before


def test_lanes_come_busiest_first_with_their_share_of_attempts():
    """What carries the traffic stands on top, failed attempts included; what reached no lane is no lane."""
    merge_rollups(
        [
            report(
                rollup(lane="quiet", requests=9, attempts=1),
                rollup(lane="busy", requests=0, attempts=3, failures=1, latencies=(5.0, 5.0, 5.0)),
                rollup(lane="", requests=4, attempts=0, fallbacks=4, latencies=()),
                rollup(lane="waiting", requests=1, attempts=0, latencies=()),
            )
        ],
        now=NOON,
    )

    busy, quiet = lane_health(since=NOON, until=NOON + 10 * SECOND)

    assert (busy.lane, busy.share, busy.totals["failure_rate"]) == ("busy", 0.75, (pytest.approx(1 / 3), 3))
    assert (quiet.lane, quiet.share, quiet.totals["failure_rate"].value) == ("quiet", 0.25, 0)


def test_rows_older_than_the_count_of_attempts_are_read_as_one_attempt_per_request():
    """Before and after they are folded, beside newer rows of the same minute; a retried request still counts once."""
    older = {"attempts": 0, "failures": 0}
    merge_rollups(
        [
            report(rollup(lane="a", requests=10, errors=4) | older),
            report(rollup(lane="a", requests=1, attempts=2, failures=1, latencies=(5.0, 5.0)), worker="b"),
        ],
        now=NOON,
    )
    until = NOON + timedelta(hours=1)

    def judged():
        (lane,) = lane_health(since=NOON, until=until)
        return lane.totals["attempts"].value, lane.totals["failure_rate"].value, lane.totals["requests"].value

    before = judged()
    for _ in range(2):
        compact_rollups(now=until)
        assert judged() == before == (12, 5 / 12, 11)
        Rollup.objects.update(folded=False)


def test_versions_of_a_prompt_are_told_apart_whoever_they_served():
    """A version's traffic is that of every cohort, and of no other prompt."""
    merge_rollups(
        [
            report(
                rollup(version=12),
                rollup(version=12, cohort="unkeyed"),
                rollup(version=13, cohort="canary"),
                rollup(version=1, prompt="other"),
            )
        ],
        now=NOON,
    )

    versions = traffic_by_version("support-answer", since=NOON, until=NOON + 10 * SECOND)

    assert [(one.version, one.totals["requests"].n) for one in versions] == [(12, 2), (13, 1)]


def test_charts_are_in_the_unit_of_their_axis():
    """Shares are percent on an axis, with one line per arm and the same times for both."""
    merge_rollups([report(rollup(requests=4, errors=1))], now=NOON)

    shown = compare(SLUG, since=NOON, until=NOON + 20 * SECOND).to_json(last=2)

    chart = shown["charts"]["error-rate"]
    assert chart == {"x": [NOON.isoformat(), (NOON + 10 * SECOND).isoformat()], "y": [[None, None], [25.0, None]]}
    assert shown["totals"]["control"]["error_rate"] == {"value": 0.25, "n": 4}


@pytest.mark.parametrize(
    ("minutes", "step_seconds"),
    [(5, 10), (15, 10), (60, 60), (24 * 60, 900), (7 * 24 * 60, 3600), (35 * 24 * 60, 21600)],
)
def test_a_range_gets_a_readable_number_of_points(minutes, step_seconds):
    """Whatever the range, a chart has at most some two hundred points."""
    step = step_for(NOON, NOON + timedelta(minutes=minutes))

    assert step.total_seconds() == step_seconds
    assert timedelta(minutes=minutes) / step <= 201
