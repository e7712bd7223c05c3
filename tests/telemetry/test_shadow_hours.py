"""What shadows counted by the hour: the minutes of it, however late they come, and whatever range is asked for."""

from datetime import timedelta
from importlib import import_module
from io import StringIO

import orjson
import pytest
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from controlplane.telemetry.operations import KEEP_BUCKETS
from controlplane.telemetry.reports import parse_report
from controlplane.telemetry.shadow_hours import rebuild_shadow_hours
from controlplane.telemetry.shadow_minutes import compact_shadows
from controlplane.telemetry.shadow_sums import ShadowTally, shadow_sums, shadow_timeline
from controlplane.telemetry.shadows import KEEP_SHADOWS, ShadowHour, ShadowMinute, record_shadows
from dataplane.shadow.counting import CANDIDATE
from tests.shadow_rows import POLICY, shadow_row
from tests.worker_reports import NOON, report

pytestmark = pytest.mark.django_db

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def tell(*ages, worker="w", now=NOON, fold=True, **counted):
    """Calls that long before NOON, each in a minute of its own; folded as beat does it at `now`."""
    rows = tuple(shadow_row(NOON - age, **counted) for age in ages)
    record_shadows([parse_report(orjson.dumps(report(worker=worker, shadow=rows)))], now=now)
    if fold:
        compact_shadows(now=now)


def total(since, until, policy=""):
    """All that was counted in the range."""
    found = ShadowTally()
    for tally in shadow_sums(since=since, until=until, policy=policy).values():
        found.add(tally)
    return found


def hours():
    return dict(ShadowHour.objects.values_list("bucket_at", "asked"))


def whole_rows():
    """Every column of every hour but its key."""
    return [{**row, "id": 0} for row in ShadowHour.objects.order_by("bucket_at", "lane").values()]


def test_an_hour_has_the_minutes_that_are_folded_with_all_that_they_counted():
    """Under its start; counts, counts by key, moments and sketches. What is not folded is in none."""
    tell(20 * MINUTE, 50 * MINUTE, 70 * MINUTE, asked=3, failed={"timeout": 1}, rules={"r@1:pass:block": 2})
    tell(5 * MINUTE, worker="b", fold=False)

    assert hours() == {NOON - HOUR: 6, NOON - 2 * HOUR: 3}
    row = ShadowHour.objects.get(bucket_at=NOON - HOUR)
    by_minute = list(ShadowMinute.objects.filter(bucket_at__gte=NOON - HOUR))
    assert (row.failed, row.rules, row.discarded) == ({"timeout": 2}, {"r@1:pass:block": 4}, {})
    summed = [sum(one.moments["overlap"][place] for one in by_minute) for place in range(3)]
    assert row.moments["overlap"] == pytest.approx(summed)
    assert row.latency_ms["count"] == sum(one.latency_ms["count"] for one in by_minute)
    assert sum(row.latency_ms["bins"].values()) == sum(sum(one.latency_ms["bins"].values()) for one in by_minute)


def test_what_is_late_is_in_the_hour_too_after_10_second_rows_are_sealed():
    """Counted once, however often it is folded."""
    tell(20 * MINUTE, -MINUTE, asked=1)
    long_after = NOON + KEEP_BUCKETS + 2 * HOUR
    compact_shadows(now=long_after)
    assert ShadowMinute.objects.filter(sealed=True).exists()

    tell(20 * MINUTE, worker="late", now=long_after, asked=1)
    compact_shadows(now=long_after + MINUTE)

    assert hours()[NOON - HOUR] == 2
    assert total(NOON - HOUR, NOON).counts["asked"] == 2


def test_ranges_say_what_was_told_wherever_they_begin_and_end():
    """Also while part of an hour waits to be folded; and so do the steps of a timeline."""
    ages = [place * 17 * MINUTE + MINUTE for place in range(60)]
    for place, age in enumerate(ages):
        tell(age, worker=f"w{place}", fold=False, asked=place + 1, failed={f"e{place % 3}": 1})
    compact_shadows(now=NOON)
    compact_shadows(now=NOON)
    tell(3 * HOUR + 7 * MINUTE, worker="late", fold=False, asked=500, failed={"late": 1})
    told = [*((NOON - age, place + 1) for place, age in enumerate(ages)), (NOON - 3 * HOUR - 7 * MINUTE, 500)]

    for since, until in [
        (NOON - DAY, NOON),
        (NOON - 9 * HOUR - 8 * MINUTE, NOON - 2 * HOUR),
        (NOON - 3 * HOUR - 30 * MINUTE, NOON - 50 * MINUTE),
        (NOON - 40 * MINUTE, NOON - 10 * MINUTE),
    ]:
        expected = [asked for at, asked in told if since <= at < until]
        steps = shadow_timeline(since=since, until=until, step=25 * MINUTE, policy=POLICY)[CANDIDATE]

        found = total(since, until)

        assert found.counts["asked"] == sum(expected)
        assert sum(found.failed.values()) == len(expected)
        assert found.latency_ms.count == sum(found.latency_ms.bins.values()) + found.latency_ms.zero
        assert sum(tally.counts["asked"] for _, tally in steps) == sum(expected)
        assert total(since, until, policy="another").counts["asked"] == 0


def test_weeks_are_read_without_their_minutes():
    """Of a range, only those at its edges are read."""
    tell(20 * MINUTE, 5 * HOUR, asked=1)
    ShadowMinute.objects.filter(bucket_at__lt=NOON - HOUR).delete()

    with CaptureQueriesContext(connection) as queries:
        found = total(NOON - DAY, NOON, policy=POLICY)

    assert found.counts["asked"] == 2
    assert len(queries) == 2


def test_days_are_added_up_anew_from_their_minutes():
    """What is wrong or missing comes right; other days stay as they are. The migration adds up the same."""
    tell(20 * MINUTE, 5 * HOUR, DAY, asked=3, discarded={"killed": 2})
    right, rows = hours(), whole_rows()
    ShadowHour.objects.filter(bucket_at=NOON - HOUR).delete()
    ShadowHour.objects.update(asked=99)
    out = StringIO()

    call_command("rebuild_shadows", NOON.date().isoformat(), stdout=out)

    assert hours() == right | {NOON - DAY: 99}
    assert out.getvalue() == f"{NOON.date()}: 2 rows\n"
    assert rebuild_shadow_hours((NOON - DAY).date()) == 1
    assert whole_rows() == rows
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE telemetry_shadowhour")
        cursor.execute(import_module("controlplane.telemetry.migrations.0016_shadow_hours").FROM_MINUTES)
    assert whole_rows() == rows


def test_an_hour_is_forgotten_after_its_last_minute():
    """Not before: it still says what its minutes said."""
    tell(20 * MINUTE, asked=1)

    compact_shadows(now=NOON - MINUTE + KEEP_SHADOWS)
    assert (ShadowMinute.objects.count(), ShadowHour.objects.count()) == (0, 1)
    compact_shadows(now=NOON + KEEP_SHADOWS)

    assert not ShadowHour.objects.exists()
