"""Keep what surfaces counted small: minutes of the fleet for the past, and fewer readings of how loaded they were."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from django.db.models import Q, QuerySet

from controlplane.telemetry.folding import Folding
from controlplane.telemetry.surface_hours import HOUR, LOCK, add_up
from controlplane.telemetry.surface_rows import (
    KEEP_READINGS,
    KEEP_SURFACES,
    MEASURED,
    SurfaceCounted,
    SurfaceHour,
    SurfaceMinute,
    SurfaceReading,
    SurfaceRollup,
    SurfaceSource,
)
from controlplane.telemetry.surface_sums import SurfaceTally
from controlplane.telemetry.surface_told import SurfaceTold
from dataplane.ladder.counting import COUNTS, SKETCHES, SurfaceSeries
from dataplane.sketches import Sketch


def compact_surfaces(*, now: datetime) -> int:
    """Fold, seal and delete, as `Folding.compact` says; returns how many minutes were folded. Of readings, keep one a
    minute after 14 days, and none after 35.
    """
    return _SURFACES.compact(now=now)


def _tally_of(row: SurfaceCounted) -> SurfaceTally:
    tally = SurfaceTally(*(getattr(row, name) for name in COUNTS))
    for name in SKETCHES:
        setattr(tally, name, Sketch.from_json(getattr(row, name)))
    return tally


def _columns(tally: SurfaceTally) -> dict[str, Any]:
    return {name: getattr(tally, name) for name in COUNTS} | {name: getattr(tally, name).to_json() for name in SKETCHES}


def _also_old(now: datetime) -> Iterable[QuerySet[Any]]:
    thinned = Q(bucket_at__lt=now - KEEP_READINGS, bucket_at__second__gte=10)
    yield SurfaceReading.objects.filter(thinned | Q(bucket_at__lt=now - KEEP_SURFACES))
    # An hour goes when the last of its minutes has.
    for hours in (SurfaceHour, SurfaceTold):
        yield hours._default_manager.filter(bucket_at__lte=now - KEEP_SURFACES - HOUR)


_SURFACES: Final = Folding(
    lock=LOCK,
    rows=SurfaceRollup,
    minutes=SurfaceMinute,
    sources=SurfaceSource,
    keep=KEEP_SURFACES,
    series=SurfaceSeries,
    measured=MEASURED,
    tally=SurfaceTally,
    tally_of=_tally_of,
    columns=_columns,
    also_old=_also_old,
    also_write=add_up,
)
