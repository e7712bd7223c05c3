"""What surfaces served is added up by the hour, which says what minutes say, whatever is late or repeated."""

from datetime import UTC, datetime, timedelta
from io import StringIO

import orjson
import pytest
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import given
from hypothesis import strategies as st

from controlplane.telemetry.operations import KEEP_BUCKETS
from controlplane.telemetry.reports import parse_report
from controlplane.telemetry.surface_hours import hour_of, rebuild_hours, whole_hours
from controlplane.telemetry.surface_minutes import compact_surfaces
from controlplane.telemetry.surface_rows import KEEP_SURFACES, SurfaceHour, SurfaceMinute, record_surfaces
from controlplane.telemetry.surface_sums import SurfaceTally, requests_by_hour, surface_sums
from dataplane.ladder.counting import SKETCHES
from dataplane.sketches import Sketch
from tests.worker_reports import NOON, report, sketch, surface_row

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
SURFACE = "web-chat"


def tell(*ages, worker="w", now=NOON, fold=True, **counted):
    """Traffic that long before NOON, each in a minute of its own; folded as beat does it at `now`."""
    rows = tuple(surface_row(NOON - age, **counted) for age in ages)
    record_surfaces([parse_report(orjson.dumps(report(worker=worker, surfaces=rows)))], now=now)
    if fold:
        compact_surfaces(now=now)


def total(since, until):
    """All that was counted in the range, with its sketches."""
    found = SurfaceTally()
    for tally in surface_sums(SURFACE, {"": (since, until)}, sketches=SKETCHES)[""].values():
        found.add(tally)
    return found


def hours():
    return dict(SurfaceHour.objects.values_list("bucket_at", "requests"))


@pytest.mark.django_db
def test_an_hour_has_the_minutes_that_are_folded_with_their_sketches():
    """Under its start; what is not folded is in none."""
    tell(20 * MINUTE, 50 * MINUTE, 70 * MINUTE, requests=3, latency_ms=sketch(10.0, 0.0, 400.0))
    tell(5 * MINUTE, worker="b", fold=False)

    assert hours() == {NOON - HOUR: 6, NOON - 2 * HOUR: 3}
    row = SurfaceHour.objects.get(bucket_at=NOON - HOUR)
    assert Sketch.from_json(row.latency_ms).to_json() == sketch(*(10.0, 0.0, 400.0) * 2)
    assert row.queued_ms == sketch()


@pytest.mark.django_db
def test_what_is_late_is_in_the_hour_too_after_10_second_rows_are_sealed():
    """Counted once, however often it is folded."""
    tell(20 * MINUTE, -MINUTE)
    long_after = NOON + KEEP_BUCKETS + 2 * HOUR
    compact_surfaces(now=long_after)
    assert SurfaceMinute.objects.filter(sealed=True).exists()

    tell(20 * MINUTE, worker="late", now=long_after)
    compact_surfaces(now=long_after + MINUTE)

    assert hours()[NOON - HOUR] == 2
    assert total(NOON - HOUR, NOON).requests == 2


@pytest.mark.django_db
def test_ranges_say_what_was_told_wherever_they_begin_and_end():
    """Counts, sketches and hours, also while part of an hour waits to be folded."""
    ages = [place * 17 * MINUTE + MINUTE for place in range(60)]
    for place, age in enumerate(ages):
        tell(age, worker=f"w{place}", fold=False, latency_ms=sketch(float(place)))
    compact_surfaces(now=NOON)
    compact_surfaces(now=NOON)
    tell(3 * HOUR + 7 * MINUTE, worker="late", fold=False, latency_ms=sketch(500.0))
    told = [*((NOON - age, float(place)) for place, age in enumerate(ages)), (NOON - 3 * HOUR - 7 * MINUTE, 500.0)]

    for since, until in [
        (NOON - DAY, NOON),
        (NOON - 9 * HOUR - 8 * MINUTE, NOON - 2 * HOUR),
        (NOON - 3 * HOUR, NOON - 50 * MINUTE),
        (NOON - 40 * MINUTE, NOON - 10 * MINUTE),
    ]:
        expected = [ms for at, ms in told if since <= at < until]
        by_hour = requests_by_hour(SURFACE, since=since, until=until)

        found = total(since, until)

        assert found.requests == len(expected)
        assert found.latency_ms == Sketch.from_json(sketch(*expected))
        assert {hour: by_rung[0] for hour, by_rung in by_hour.items()} == {
            hour: sum(since <= at < until and hour_of(at) == hour for at, _ in told) for hour in by_hour
        }
        assert sum(by_rung[0] for by_rung in by_hour.values()) == len(expected)


@pytest.mark.django_db
def test_weeks_are_read_without_their_minutes():
    """Of a range, only those at its edges are read."""
    tell(20 * MINUTE, 5 * HOUR)
    SurfaceMinute.objects.filter(bucket_at__lt=NOON - HOUR).delete()

    with CaptureQueriesContext(connection) as queries:
        found = surface_sums(SURFACE, {"": (NOON - DAY, NOON)})

    assert sum(tally.requests for tally in found[""].values()) == 2
    assert len(queries) == 1


@pytest.mark.django_db
def test_days_are_added_up_anew_from_their_minutes():
    """What is wrong or missing comes right; other days stay as they are."""
    tell(20 * MINUTE, 5 * HOUR, DAY)
    right = hours()
    SurfaceHour.objects.filter(bucket_at=NOON - HOUR).delete()
    SurfaceHour.objects.update(requests=99)
    out = StringIO()

    call_command("rebuild_surfaces", NOON.date().isoformat(), stdout=out)

    assert hours() == right | {NOON - DAY: 99}
    assert out.getvalue() == f"{NOON.date()}: 2 rows\n"
    assert rebuild_hours((NOON - DAY).date()) == 1
    assert hours() == right


@pytest.mark.django_db
def test_an_hour_is_forgotten_after_its_last_minute():
    """Not before: it still says what its minutes said."""
    tell(20 * MINUTE)

    compact_surfaces(now=NOON - MINUTE + KEEP_SURFACES)
    assert (SurfaceMinute.objects.count(), SurfaceHour.objects.count()) == (0, 1)
    compact_surfaces(now=NOON + KEEP_SURFACES)

    assert not SurfaceHour.objects.exists()


@given(first=st.integers(0, 10_000), minutes=st.integers(0, 10_000))
def test_tiles_of_a_range_are_its_whole_hours_and_the_minutes_at_its_edges(first, minutes):
    """Together the range, without a gap or an overlap."""
    since = datetime(2026, 3, 1, tzinfo=UTC) + first * MINUTE
    until = since + minutes * MINUTE

    found = whole_hours(since, until)

    assert [begins for _, begins, _ in found] == [since, *(ends for *_, ends in found)][:-1]
    assert found[-1][2] == until
    for hourly, begins, ends in found:
        assert hourly == (begins < ends and hour_of(begins) == begins and hour_of(ends) == ends)
