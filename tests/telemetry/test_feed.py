from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from controlplane.telemetry.feed import CANARY_WINDOW, CanaryFeed, OverviewFeed
from controlplane.telemetry.operations import merge_rollups
from controlplane.telemetry.traffic import compare
from tests.worker_reports import NOON, report, rollup

pytestmark = pytest.mark.django_db

SLUG = "support-answer-v13"
SECOND = timedelta(seconds=1)


def fresh(now):
    """The same window, read anew."""
    return compare(SLUG, since=now - CANARY_WINDOW, until=now, step=10 * SECOND)


def test_a_sliding_window_says_what_a_fresh_reading_says():
    """Reading only the newest buckets gives the same figures as reading all of them, as time goes on."""
    feed = CanaryFeed(SLUG)
    for step in range(12):
        now = NOON + step * 7 * SECOND
        bucket = NOON + (step * 7 // 10) * 10 * SECOND
        merge_rollups([report(rollup(bucket, requests=step + 1), seq=step + 1)], now=now)

        assert feed.comparison(now=now) == fresh(now)


def test_an_old_bucket_that_was_touched_is_read_again():
    """A replayed spool shows up in the totals at once, not when the window is next read whole."""
    feed = CanaryFeed(SLUG)
    now = NOON + timedelta(minutes=5)
    feed.comparison(now=now)
    merge_rollups([report(rollup(NOON, requests=40))], now=now)

    comparison = feed.comparison(now=now + SECOND, touched=NOON)

    assert comparison.arms["control"].totals["requests"].value == 40


def test_what_another_process_took_in_is_seen_within_half_a_minute():
    """Two ingest processes share the work; each reads its windows whole now and then."""
    feed = CanaryFeed(SLUG)
    now = NOON + timedelta(minutes=5)
    feed.comparison(now=now)
    merge_rollups([report(rollup(NOON, requests=40))], now=now)

    comparison = feed.comparison(now=now + 31 * SECOND)

    assert comparison.arms["control"].totals["requests"].value == 40


def test_a_refresh_is_one_query():
    """However many watch, and however long the window is."""
    feed = CanaryFeed(SLUG)
    feed.comparison(now=NOON)

    with CaptureQueriesContext(connection) as queries:
        feed.message(now=NOON + SECOND)

    assert len([query for query in queries if "telemetry_rollup" in query["sql"]]) == 1


def test_a_message_carries_two_points_per_chart_and_the_totals():
    """Charts append what is new; tiles show the window's totals."""
    merge_rollups([report(rollup(NOON, requests=3), rollup(NOON + 10 * SECOND, cohort="canary"))], now=NOON)

    message = CanaryFeed(SLUG).message(now=NOON + 20 * SECOND)

    assert message["charts"]["requests"] == {
        "x": [NOON.isoformat(), (NOON + 10 * SECOND).isoformat()],
        "y": [[None, 1], [3, None]],
    }
    assert message["totals"]["control"]["requests"] == {"value": 3, "n": 3}
    assert message["window_seconds"] == 900


def test_the_overview_is_everybodys_traffic():
    """One arm, of every lane, prompt and cohort."""
    merge_rollups([report(rollup(), rollup(prompt="", version=0, canary="", cohort="none"))], now=NOON)

    message = OverviewFeed().message(now=NOON + 10 * SECOND)

    assert message["totals"]["fleet"]["requests"]["value"] == 2
