"""What surfaces served and how loaded they were, as the control plane keeps it, folds it, adds it up and forgets it."""

from datetime import timedelta
from importlib import import_module
from itertools import pairwise

import orjson
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.telemetry.operations import KEEP_BUCKETS
from controlplane.telemetry.reports import MalformedReport, parse_report
from controlplane.telemetry.surface_hours import rebuild_hours
from controlplane.telemetry.surface_load import raw_readings, readings
from controlplane.telemetry.surface_minutes import compact_surfaces
from controlplane.telemetry.surface_rows import (
    KEEP_READINGS,
    KEEP_SURFACES,
    SurfaceMinute,
    SurfaceReading,
    SurfaceRollup,
    record_surfaces,
)
from controlplane.telemetry.surface_sums import requests_by_hour, surface_sums
from controlplane.telemetry.surface_told import SurfaceTold, keep_told, told_stretches
from controlplane.telemetry.surfaces import served, traffic_share
from dataplane.ladder.counting import SKETCHES
from dataplane.ladder.policy import Ladder
from tests.ladders import surface
from tests.worker_reports import NOON, report, sketch, surface_load, surface_row

pytestmark = pytest.mark.django_db

SURFACE = "web-chat"
DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
BUCKET = timedelta(seconds=10)
PROMISES = Ladder.parse({SURFACE: surface()})[SURFACE].promises


def take(*reports, now=NOON):
    return record_surfaces(map(parse_report, map(orjson.dumps, reports)), now=now)


def sums(since=NOON - HOUR, until=NOON + HOUR):
    return surface_sums(SURFACE, {"": (since, until)}, sketches=SKETCHES)[""]


def asked(**range_of_time):
    return sum(tally.requests for tally in sums(**range_of_time).values())


@pytest.mark.parametrize("together", [True, False])
def test_newest_report_of_a_bucket_is_what_counts(together):
    """Rows are cumulative: delivered twice, late or out of order, they come to the same."""
    reports = [
        report(
            surfaces=(surface_row(requests=10 * seq),),
            surface_readings=(surface_load(in_flight=float(seq)),),
            seq=seq,
        )
        for seq in (2, 3, 1, 3)
    ]

    if together:
        take(*reports)
    else:
        for one in reports:
            take(one)

    assert asked() == 30
    assert (SurfaceRollup.objects.get().seq, SurfaceReading.objects.get().in_flight) == (3, 3.0)


def test_batch_takes_as_many_statements_whatever_it_holds():
    """The ingest's time must not grow with surfaces and processes."""
    rows = tuple(surface_row(NOON + number * BUCKET) for number in range(30))
    loads = tuple(surface_load(NOON + number * BUCKET) for number in range(30))

    with CaptureQueriesContext(connection) as few:
        take(report(surfaces=rows[:1], surface_readings=loads[:1]))
    with CaptureQueriesContext(connection) as many:
        take(*(report(surfaces=rows, surface_readings=loads, worker=f"h/g{number}") for number in range(5)))
    with CaptureQueriesContext(connection) as none:
        told = take(report())

    assert (len(few), len(many), len(none), told) == (4, 4, 0, set())


def test_sums_hold_all_that_was_counted():
    """Counts and sketches of every process come together, by series."""
    take(
        report(surfaces=(surface_row(requests=4, ms=100.0), surface_row(tier="vip", requests=2, reserved=1))),
        report(surfaces=(surface_row(requests=2, ms=400.0, queued_ms=sketch(50.0)),), worker="host-b/gateway-0"),
    )

    found = {series.tier: tally for series, tally in sums().items()}

    assert (found["free"].requests, found["free"].cost_micros, found["vip"].reserved) == (6, 1800, 1)
    assert found["free"].latency_ms.count == 6
    assert found["free"].latency_ms.quantile(0.95) == pytest.approx(400, rel=0.02)
    assert found["free"].queued_ms.quantile(0.5) == pytest.approx(50, rel=0.02)
    assert found["vip"].queued_ms.count == 0


def test_folding_sealing_and_repetition_change_no_sum():
    """However often it is folded, and whatever comes again after it was sealed, every request counts once."""
    row, later = surface_row(requests=7), surface_row(NOON + 2 * MINUTE, requests=5)
    take(report(surfaces=(row,)), report(surfaces=(later,), seq=2))
    before = sums()

    compact_surfaces(now=NOON + MINUTE + timedelta(seconds=20))
    assert sums() == before
    take(report(surfaces=(surface_row(requests=8),), seq=3), now=NOON + 2 * MINUTE)
    assert asked() == 13
    long_after = NOON + KEEP_BUCKETS + 10 * MINUTE
    compact_surfaces(now=long_after)
    compact_surfaces(now=long_after)

    assert SurfaceRollup.objects.count() == 1  # of the newest bucket, which more may come for
    assert SurfaceMinute.objects.filter(sealed=True).count() == 1
    assert asked() == 13
    take(report(surfaces=(surface_row(requests=8),), seq=3), now=long_after)
    compact_surfaces(now=long_after + MINUTE)
    assert asked() == 13


def test_late_bucket_of_a_sealed_minute_still_counts():
    """A process that was cut off for hours tells of its minutes when it is back, beside what others told then."""
    take(report(surfaces=(surface_row(requests=7), surface_row(NOON + MINUTE))))
    long_after = NOON + KEEP_BUCKETS + 10 * MINUTE
    compact_surfaces(now=long_after)

    take(report(surfaces=(surface_row(requests=100),), worker="host-b/gateway-0"), now=long_after)
    assert asked() == 108
    compact_surfaces(now=long_after + MINUTE)

    assert asked() == 108


def test_old_and_future_buckets_are_left_out():
    """Where no reader looks, nothing is kept."""
    take(
        report(
            surfaces=(surface_row(NOON - KEEP_SURFACES - MINUTE), surface_row(NOON + timedelta(minutes=6))),
            surface_readings=(surface_load(NOON - KEEP_READINGS - MINUTE), surface_load(NOON + timedelta(minutes=6))),
        )
    )

    assert not SurfaceRollup.objects.exists()
    assert not SurfaceReading.objects.exists()


def test_readings_are_thinned_and_then_forgotten():
    """One a minute is enough to say when anybody told of a surface."""
    take(report(surface_readings=tuple(surface_load(NOON + number * BUCKET) for number in range(12))), now=NOON + HOUR)

    compact_surfaces(now=NOON + KEEP_READINGS + HOUR)
    thinned = list(SurfaceReading.objects.order_by("bucket_at").values_list("bucket_at", flat=True))
    compact_surfaces(now=NOON + KEEP_SURFACES + HOUR)

    assert thinned == [NOON, NOON + MINUTE]
    assert not SurfaceReading.objects.exists()


def test_served_says_what_became_of_each_tier_beside_its_promise():
    """Of what could be answered: what a model said at once is what the promise is about, the rest stands beside it."""
    outcomes = {"answered": 60, "later": 20, "copy": 10, "refused": 5, "failed": 5, "cancelled": 7, "rejected": 3}
    rows = tuple(surface_row(outcome=outcome, requests=count) for outcome, count in outcomes.items())
    take(
        report(
            surfaces=(*rows, surface_row(outcome="job", requests=99), surface_row(tier="vip", requests=4, reserved=1))
        )
    )

    with CaptureQueriesContext(connection) as asked_of:
        vip, standard, free = served(SURFACE, since=NOON, until=NOON + MINUTE, promises=PROMISES)

    assert len(asked_of) == 1
    assert [one.tier for one in (vip, standard, free)] == ["vip", "standard", "free"]
    assert (free.requests, free.answerable) == (110, 100)
    assert [free.share(outcome).value for outcome in ("answered", "later", "copy", "refused", "failed")] == [
        0.6,
        0.2,
        0.1,
        0.05,
        0.05,
    ]
    assert (free.answered.low, free.answered.high) == (pytest.approx(0.502, abs=0.001), pytest.approx(0.691, abs=0.001))
    assert (free.promise.served_share.value, free.is_kept, free.reserved_share) == (0.1, True, 0.0)
    assert (vip.reserved_share, vip.answered.value, vip.is_kept) == (0.25, 1.0, True)
    assert (standard.requests, standard.answered.value, standard.is_kept, standard.reserved_share) == (
        0,
        None,
        None,
        None,
    )


def test_traffic_share_is_what_an_activation_would_touch():
    """Of the last 15 minutes, by the scope's regions and tiers; a runner's own requests are nobody's traffic."""
    take(
        report(
            surfaces=(
                surface_row(requests=60),
                surface_row(region="us-east", requests=30),
                surface_row(tier="vip", requests=10, reserved=4),
                surface_row(outcome="job", requests=50),
                surface_row(NOON - timedelta(minutes=30), requests=1000),
            )
        )
    )
    now = NOON + MINUTE

    everybody = traffic_share(SURFACE, regions=(), tiers=(), now=now)
    some = traffic_share(SURFACE, regions=["eu-west"], tiers=["vip"], now=now)

    assert (everybody.share, everybody.of, everybody.reserved) == (1.0, 100, {"vip": 0.4, "free": 0.0})
    assert (some.share, some.requests, some.reserved) == (0.1, 10, {"vip": 0.4})
    assert traffic_share("elsewhere", regions=(), tiers=(), now=now).share is None


def test_load_is_the_highest_reading_of_each_step_and_all_attempts():
    """Where two workers told of the same seconds, as when one takes over, the higher counts."""
    take(
        report(
            surface_readings=(
                surface_load(in_flight=10.0, gauges={"gpu": 0.4}, attempts=5, level=1, generation=3),
                surface_load(NOON + BUCKET, in_flight=30.0, backlog_age_seconds=7.0),
                surface_load(NOON + 5 * BUCKET, in_flight=5.0),
            )
        ),
        report(
            surface_readings=(
                surface_load(in_flight=20.0, gauges={"gpu": 0.9}, attempts=2, failures=1, is_alone=True),
            ),
            worker="host-b/gateway-0",
        ),
    )

    raw = raw_readings(SURFACE, since=NOON - HOUR, until=NOON + HOUR, now=NOON + HOUR)
    with CaptureQueriesContext(connection) as asked_of:
        by_minute = readings(SURFACE, since=NOON, until=NOON + HOUR, step=MINUTE)

    first = raw.points[0]
    assert (first.values["in_flight"], first.gauges, first.attempts, first.failures) == (20.0, {"gpu": 0.9}, 7, 1)
    assert (first.level, first.generation, first.is_alone) == (1, 3, True)
    assert (first.values["backlog_age_seconds"], raw.points[1].values["backlog_age_seconds"]) == (None, 7.0)
    assert (len(raw.points), raw.gaps, raw.sentence) == (3, 1, "0.0 h of readings, 1 gap")
    (point,) = by_minute.points
    assert (point.at, point.values["in_flight"], point.attempts) == (NOON, 30.0, 47)
    assert len(asked_of) == 1


def test_hours_and_told_stretches():
    """By hour and rung how much was served, and in which stretches of minutes anybody told of the surface at all."""
    take(
        report(
            surfaces=(surface_row(rung=4, outcome="later", requests=3), surface_row(NOON + HOUR, requests=2)),
            surface_readings=tuple(
                surface_load(NOON + age) for age in (MINUTE + BUCKET, 3 * MINUTE, 3 * MINUTE + BUCKET)
            ),
        ),
        now=NOON + 2 * HOUR,
    )
    compact_surfaces(now=NOON + 2 * HOUR)

    assert requests_by_hour(SURFACE, since=NOON, until=NOON + 2 * HOUR) == {NOON: {4: 3}, NOON + HOUR: {0: 2}}
    assert told_stretches(SURFACE, since=NOON, until=NOON + 2 * HOUR) == [
        (NOON, NOON + 2 * MINUTE),
        (NOON + 3 * MINUTE, NOON + 4 * MINUTE),
        (NOON + HOUR, NOON + HOUR + MINUTE),
    ]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sets(st.integers(-70, 200), max_size=90), max_size=3),
    st.integers(-80, 60),
    st.integers(1, 280),
)
def test_stretches_are_those_minutes_of_the_range_that_were_told_of(told, first, length):
    """In any order, again and again; joined across hours, and cut where the range begins and ends."""
    SurfaceTold.objects.all().delete()
    for minutes in told:
        keep_told((SURFACE, NOON + minute * MINUTE + 3 * BUCKET) for minute in minutes)
    keep_told([("elsewhere", NOON)])
    since, until = NOON + first * MINUTE, NOON + (first + length) * MINUTE

    found = told_stretches(SURFACE, since=since, until=until)

    in_order = sorted(minute for minute in set().union(*told) if first <= minute < first + length)
    assert [NOON + minute * MINUTE for minute in in_order] == [
        begun + number * MINUTE for begun, ended in found for number in range((ended - begun) // MINUTE)
    ]
    assert all(ended < begun for (_, ended), (begun, _) in pairwise(found))


def test_what_was_told_is_written_once_and_forgotten_with_its_minutes():
    """A minute that is known is not written again, so that batches do not wait for each other."""
    loads = (surface_load(NOON), surface_load(NOON + BUCKET), surface_load(NOON + 59 * MINUTE))
    take(report(surface_readings=loads), now=NOON + HOUR)
    written = {row["ctid"]: row["minutes"] for row in _told_rows()}

    take(report(surface_readings=(surface_load(NOON + 2 * BUCKET),), seq=2), now=NOON + HOUR)

    assert written == {row["ctid"]: row["minutes"] for row in _told_rows()}
    assert list(written.values()) == [1 | 1 << 59]
    compact_surfaces(now=NOON + 35 * DAY)
    assert SurfaceTold.objects.count() == 1
    compact_surfaces(now=NOON + 35 * DAY + HOUR)
    assert not SurfaceTold.objects.exists()


def test_days_that_were_told_of_before_it_was_noted_are_noted_anew():
    """Of minutes that are folded and of readings; as the migration does it."""
    take(
        report(surfaces=(surface_row(),), surface_readings=(surface_load(NOON + 3 * MINUTE + BUCKET),)),
        now=NOON + HOUR,
    )
    compact_surfaces(now=NOON + HOUR)
    known = list(SurfaceTold.objects.values_list("surface", "bucket_at", "minutes"))

    for again in (
        lambda: rebuild_hours(NOON.date()),
        lambda: connection.cursor().execute(
            import_module("controlplane.telemetry.migrations.0015_surface_told").BACKFILL
        ),
    ):
        SurfaceTold.objects.all().delete()
        again()
        assert list(SurfaceTold.objects.values_list("surface", "bucket_at", "minutes")) == known
    assert [row[2] for row in known] == [1 | 1 << 3]


def _told_rows():
    """Each row, and where it lies: another place is another writing."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT ctid::text, minutes FROM telemetry_surfacetold ORDER BY bucket_at")
        return [{"ctid": ctid, "minutes": minutes} for ctid, minutes in cursor.fetchall()]


@pytest.mark.parametrize(
    "wrong",
    [
        {"rung": 7},
        {"outcome": "lost"},
        {"surface": ""},
        {"bucket": int(NOON.timestamp()) + 1},
        {"latency_ms": {"count": 1}},
    ],
)
def test_malformed_row_is_refused(wrong):
    """Whatever passes fits the tables."""
    with pytest.raises(MalformedReport, match=r"\$\.surfaces\[0\]"):
        take(report(surfaces=(surface_row() | wrong,)))


@pytest.mark.parametrize("wrong", [{"level": 7}, {"gauges": {"gpu": "full"}}, {"in_flight": -1.0}, {"attempts": 1.5}])
def test_malformed_load_is_refused(wrong):
    """As rows of any other kind."""
    with pytest.raises(MalformedReport, match=r"\$\.surface_readings\[0\]"):
        take(report(surface_readings=(surface_load(**wrong),)))
