"""Outcomes of checks of answers are added up by spans, which say what minutes say, whatever is late or repeated."""

from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import given
from hypothesis import strategies as st

from controlplane.telemetry.models import MinuteRollup
from controlplane.telemetry.operations import KEEP_BUCKETS, KEEP_MINUTES, compact_rollups, merge_rollups
from controlplane.telemetry.outcome_spans import SPANS, rebuild_outcomes, tiles
from controlplane.telemetry.outcomes import REPAIR, OutcomeRollup, OutcomeTotal
from controlplane.telemetry.outputs import Key, read_outputs, read_total
from dataplane.aggregation import output_key
from tests.worker_reports import NOON, report, rollup

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
STRICT = Key("none", "r0_strict", "lossless")


def strict(number):
    return {output_key(REPAIR, *STRICT): number, "repair:odd": 7}


def counted(*ages, now=NOON, worker="w"):
    """One outcome that long before NOON, each in a minute of its own; folded as beat does it at `now`."""
    rows = [rollup(NOON - age, outputs=strict(1)) for age in ages]
    merge_rollups([report(*rows, worker=worker)], now=now)
    compact_rollups(now=now)


def stored():
    return set(OutcomeRollup.objects.values_list("span", "bucket_at", "system", "outputs__none:r0_strict:lossless"))


@pytest.mark.django_db
def test_a_minute_is_in_each_of_its_spans_once_it_is_folded():
    """A quarter of an hour, an hour and six hours, each under its start; odd keys are in none."""
    counted(20 * MINUTE, 25 * MINUTE, 50 * MINUTE)

    assert stored() == {
        (SPANS[0], NOON - 30 * MINUTE, REPAIR, 2),
        (SPANS[0], NOON - 60 * MINUTE, REPAIR, 1),
        (SPANS[1], NOON - HOUR, REPAIR, 3),
        (SPANS[2], NOON - 6 * HOUR, REPAIR, 3),
        (SPANS[3], NOON - 12 * HOUR, REPAIR, 3),
    }
    assert not any("odd" in row.outputs for row in OutcomeRollup.objects.all())


@pytest.mark.django_db
def test_what_is_late_is_in_the_spans_too_after_10_second_rows_are_deleted():
    """Folded again it counts what came, and nothing twice."""
    counted(20 * MINUTE)
    merge_rollups([report(rollup(NOON), worker="w", seq=2)], now=NOON)
    later = NOON + KEEP_BUCKETS + HOUR
    compact_rollups(now=later)
    assert MinuteRollup.objects.filter(sealed=True).exists()

    counted(20 * MINUTE, now=later, worker="late")
    compact_rollups(now=later + MINUTE)

    assert {number for *_, number in stored()} == {2}
    assert read_total(REPAIR, since=NOON - DAY, until=later) == {STRICT: 2}


@pytest.mark.django_db
def test_spans_say_what_minutes_say_wherever_a_range_begins_and_ends():
    """By steps, and all together; the span in which a range ends is read by its parts."""
    ages = [timedelta(minutes=17 * n) for n in range(1, 200)]
    for age in ages:
        merge_rollups([report(rollup(NOON - age, outputs=strict(1)), worker=f"w{age}")], now=NOON)
    compact_rollups(now=NOON)
    compact_rollups(now=NOON)

    for since, until in [(NOON - DAY, NOON), (NOON - 2 * DAY, NOON - 7 * HOUR - 8 * MINUTE), (NOON - 20 * HOUR, NOON)]:
        for step in (None, *SPANS):
            found = read_outputs(REPAIR, since=since, until=until, step=step)

            expected = sum(found.since <= NOON - age < until for age in ages)
            assert found.total == {STRICT: expected}
            assert sum(point.get(STRICT, 0) for point in found.points) == expected
        assert read_total(REPAIR, since=since, until=until) == read_outputs(REPAIR, since=since, until=until).total


@pytest.mark.django_db
def test_what_is_not_folded_yet_is_counted_beside_the_spans():
    """From 10 s rows, by one query each way."""
    counted(20 * MINUTE)
    merge_rollups([report(rollup(NOON, outputs=strict(4)), worker="b")], now=NOON)

    with CaptureQueriesContext(connection) as queries:
        found = read_outputs(REPAIR, since=NOON - DAY, until=NOON + MINUTE)
        total = read_total(REPAIR, since=NOON - DAY, until=NOON + MINUTE)

    assert found.total == total == {STRICT: 5}
    assert len(queries) == 2


@pytest.mark.django_db
def test_a_day_is_read_without_its_minutes():
    """However many minutes there are, only those of the span under way are read."""
    counted(20 * MINUTE, 5 * HOUR)
    MinuteRollup.objects.filter(bucket_at__lt=NOON - 20 * MINUTE).delete()

    found = read_outputs(REPAIR, since=NOON - DAY, until=NOON)

    assert found.total == {STRICT: 2}


@pytest.mark.django_db
def test_days_are_added_up_anew_from_their_minutes():
    """What is wrong or missing comes right; other days stay as they are."""
    counted(20 * MINUTE, DAY)
    right = stored()
    OutcomeRollup.objects.filter(bucket_at__gte=NOON - 12 * HOUR, span=SPANS[1]).delete()
    OutcomeRollup.objects.filter(bucket_at__gte=NOON - 12 * HOUR).update(outputs={":".join(STRICT): 99})
    out = StringIO()

    call_command("rebuild_outcomes", NOON.date().isoformat(), stdout=out)

    assert stored() == right
    assert out.getvalue() == f"{NOON.date()}: 4 rows\n"
    assert rebuild_outcomes(NOON.date()) == 4
    with pytest.raises(CommandError, match="before the first"):
        call_command("rebuild_outcomes", "2026-03-04", "2026-03-03")


@pytest.mark.django_db
def test_spans_are_deleted_with_their_minutes():
    """After 35 days."""
    counted(20 * MINUTE)

    compact_rollups(now=NOON + KEEP_MINUTES + DAY)

    assert not OutcomeRollup.objects.exists()
    assert not OutcomeTotal.objects.exists()


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.sampled_from([MINUTE, *SPANS]))
def test_tiles_are_the_range_without_a_gap(first, minutes, step):
    """In order, each of whole spans, none longer than the step."""
    since = datetime(2026, 3, 1, tzinfo=UTC) + first * MINUTE
    until = since + minutes * MINUTE

    found = tiles(since, until, step=step)

    assert [begins for _, begins, _ in found] == ([since] if minutes else []) + [ends for *_, ends in found][:-1]
    assert not minutes or found[-1][2] == until
    for span, begins, ends in found:
        assert span <= step
        assert begins < ends
        assert (begins.timestamp() % span.total_seconds(), ends.timestamp() % span.total_seconds()) == (0, 0)
