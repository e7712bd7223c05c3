"""Keep what surfaces counted small: minutes of the fleet for the past, as `operations.compact_rollups` does."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from django.db import connection, transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.db.models.functions import TruncMinute

from controlplane.telemetry.models import MINUTE
from controlplane.telemetry.operations import CLOSING_GRACE, DELETIONS_PER_RUN, KEEP_BUCKETS, MINUTES_PER_RUN
from controlplane.telemetry.surface_rows import (
    KEEP_READINGS,
    KEEP_SURFACES,
    MEASURED,
    SURFACE_SERIES,
    SurfaceCounted,
    SurfaceMinute,
    SurfaceReading,
    SurfaceRollup,
    SurfaceSource,
)
from controlplane.telemetry.surface_sums import SurfaceTally
from dataplane.ladder.counting import COUNTS, SKETCHES, SurfaceSeries
from dataplane.sketches import Sketch

# Any constant would do; it only has to be the same in every process of this deployment.
_LOCK: Final = 0x0BA11A5A


@transaction.atomic
def compact_surfaces(*, now: datetime) -> int:
    """Fold closed minutes, seal and delete 10 s rows after 2 h, delete minutes after 35 days; returns how many were
    folded. Of readings, keep one a minute after 14 days, and none after 35.

    Idempotent, and bounded: what is left over is done by the next run. Does nothing while another is under way.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [_LOCK])
        if not cursor.fetchone()[0]:
            return 0
    folded = 0
    closed = (now - CLOSING_GRACE).replace(second=0, microsecond=0)
    for minute in _minutes(SurfaceRollup.objects.filter(folded=False, bucket_at__lt=closed)):
        _fold(minute)
        folded += 1
    for minute in _minutes(_final(now)):
        _seal(minute, now=now)
    _forget(now)
    return folded


def _minutes(rows: QuerySet[SurfaceRollup]) -> list[datetime]:
    """The oldest minutes of these rows."""
    minutes = rows.annotate(minute=TruncMinute("bucket_at")).order_by("minute").values_list("minute", flat=True)
    return list(minutes.distinct()[:MINUTES_PER_RUN])


def _in(minute: datetime) -> QuerySet[SurfaceRollup]:
    return SurfaceRollup.objects.filter(bucket_at__gte=minute, bucket_at__lt=minute + MINUTE)


def _fold(minute: datetime) -> None:
    """Compute the minute's unsealed part from the 10 s rows that are there. One that is replaced meanwhile keeps its
    mark, because its number has grown.
    """
    rows = list(_in(minute))
    _write(minute, _tallied(rows), sealed=False)
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {SurfaceRollup._meta.db_table} r SET folded = true"  # noqa: S608 - names are constants of ours
            " FROM unnest(%s::bigint[], %s::bigint[]) AS f(id, seq) WHERE r.id = f.id AND r.seq = f.seq",
            [[row.pk for row in rows], [row.seq for row in rows]],
        )


def _final(now: datetime) -> QuerySet[SurfaceRollup]:
    """Rows that nothing newer can come for: old, in their minute's row, and of a process that has told of a later
    bucket, or was not heard of for as long as anything is kept.
    """
    old = now - KEEP_BUCKETS
    later = SurfaceSource.objects.filter(worker=OuterRef("worker"), boot=OuterRef("boot")).filter(
        Q(newest_bucket_at__gt=OuterRef("bucket_at")) | Q(changed_at__lt=now - KEEP_SURFACES)
    )
    return SurfaceRollup.objects.filter(Exists(later), bucket_at__lt=old, changed_at__lt=old, folded=True)


def _seal(minute: datetime, *, now: datetime) -> None:
    """Add what is final of a minute to its sealed part, and delete it.

    Sources are locked first, so that no repetition of a row slips in between its deletion and the mark that refuses it.
    """
    who = set(_in(minute).values_list("worker", "boot").distinct())
    of_these = Q(worker__in=[worker for worker, _ in who], boot__in=[boot for _, boot in who])
    sources = {
        (source.worker, source.boot): source
        for source in SurfaceSource.objects.select_for_update().filter(of_these).order_by("worker", "boot")
    }
    final = list(_final(now).filter(bucket_at__gte=minute, bucket_at__lt=minute + MINUTE).select_for_update())
    if not final:
        return
    tallies = _tallied(final)
    for known in SurfaceMinute.objects.filter(bucket_at=minute, sealed=True):
        tallies[_series_of(known)].add(_tally_of(known))
    _write(minute, tallies, sealed=True)
    SurfaceMinute.objects.filter(bucket_at=minute, sealed=False).delete()
    rest = list(_in(minute).exclude(pk__in=[row.pk for row in final]).select_for_update())
    _write(minute, _tallied(rest), sealed=False)
    SurfaceRollup.objects.filter(pk__in=[row.pk for row in final]).delete()
    SurfaceRollup.objects.filter(pk__in=[row.pk for row in rest]).update(folded=True)
    for row in final:
        source = sources[row.worker, row.boot]
        source.sealed_through_at = max(source.sealed_through_at or row.bucket_at, row.bucket_at)
    SurfaceSource.objects.bulk_update(sources.values(), ["sealed_through_at"])


def _forget(now: datetime) -> None:
    """Delete what is past its time. A source outlives its rows: its mark tells a repetition from news."""
    horizon = now - KEEP_SURFACES
    old = SurfaceMinute.objects.filter(bucket_at__lt=horizon).order_by("bucket_at")
    SurfaceMinute.objects.filter(pk__in=old.values("pk")[:DELETIONS_PER_RUN]).delete()
    thinned = Q(bucket_at__lt=now - KEEP_READINGS, bucket_at__second__gte=10) | Q(bucket_at__lt=horizon)
    readings = SurfaceReading.objects.filter(thinned).order_by("bucket_at")
    SurfaceReading.objects.filter(pk__in=readings.values("pk")[:DELETIONS_PER_RUN]).delete()
    stale = SurfaceSource.objects.filter(changed_at__lt=horizon - MINUTE)
    held = set(SurfaceRollup.objects.filter(worker__in=stale.values("worker")).values_list("worker", "boot").distinct())
    gone = [source.pk for source in stale[:DELETIONS_PER_RUN] if (source.worker, source.boot) not in held]
    SurfaceSource.objects.filter(pk__in=gone).delete()


def _series_of(row: SurfaceCounted) -> SurfaceSeries:
    return SurfaceSeries(*(getattr(row, name) for name in SURFACE_SERIES))


def _tally_of(row: SurfaceCounted) -> SurfaceTally:
    tally = SurfaceTally(*(getattr(row, name) for name in COUNTS))
    for name in SKETCHES:
        setattr(tally, name, Sketch.from_json(getattr(row, name)))
    return tally


def _tallied(rows: Iterable[SurfaceCounted]) -> defaultdict[SurfaceSeries, SurfaceTally]:
    tallies: defaultdict[SurfaceSeries, SurfaceTally] = defaultdict(SurfaceTally)
    for row in rows:
        tallies[_series_of(row)].add(_tally_of(row))
    return tallies


def _columns(tally: SurfaceTally) -> dict[str, Any]:
    return {name: getattr(tally, name) for name in COUNTS} | {name: getattr(tally, name).to_json() for name in SKETCHES}


def _write(minute: datetime, tallies: defaultdict[SurfaceSeries, SurfaceTally], *, sealed: bool) -> None:
    """Write one part of a minute; `tallies` is all that this part has counted."""
    SurfaceMinute.objects.bulk_create(
        [
            SurfaceMinute(bucket_at=minute, sealed=sealed, **series._asdict(), **_columns(tally))
            for series, tally in sorted(tallies.items(), key=lambda item: item[0])
        ],
        update_conflicts=True,
        unique_fields=["surface", "bucket_at", "region", "tier", "rung", "outcome", "sealed"],
        update_fields=list(MEASURED),
        batch_size=500,
    )
