"""Keep what shadows counted small: minutes of the fleet for the past."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from django.db.models import QuerySet

from controlplane.telemetry.folding import Folding
from controlplane.telemetry.shadow_hours import LOCK, add_up
from controlplane.telemetry.shadow_sums import Moments, ShadowTally
from controlplane.telemetry.shadows import (
    KEEP_SHADOWS,
    MEASURED,
    SHADOW_SKETCHES,
    TALLIES,
    ShadowCounted,
    ShadowHour,
    ShadowMinute,
    ShadowRollup,
    ShadowSource,
)
from controlplane.telemetry.surface_hours import HOUR
from dataplane.shadow.counting import COUNTS, ShadowSeries
from dataplane.sketches import Sketch


def compact_shadows(*, now: datetime) -> int:
    """Fold, seal and delete, as `Folding.compact` says; returns how many minutes were folded."""
    return _SHADOWS.compact(now=now)


def _tally_of(row: ShadowCounted) -> ShadowTally:
    tally = ShadowTally()
    tally.counts = {name: getattr(row, name) for name in COUNTS}
    for name in TALLIES:
        getattr(tally, name).update(getattr(row, name))
    tally.moments = {name: Moments(*row.moments[name]) for name in tally.moments}
    for name in SHADOW_SKETCHES:
        setattr(tally, name, Sketch.from_json(getattr(row, name)))
    return tally


def _columns(tally: ShadowTally) -> dict[str, Any]:
    return {
        **tally.counts,
        **{name: dict(getattr(tally, name)) for name in TALLIES},
        "moments": {name: list(one) for name, one in tally.moments.items()},
        **{name: getattr(tally, name).to_json() for name in SHADOW_SKETCHES},
    }


def _also_old(now: datetime) -> Iterable[QuerySet[Any]]:
    # An hour goes when the last of its minutes has.
    yield ShadowHour._default_manager.filter(bucket_at__lte=now - KEEP_SHADOWS - HOUR)


_SHADOWS: Final = Folding(
    lock=LOCK,
    rows=ShadowRollup,
    minutes=ShadowMinute,
    sources=ShadowSource,
    keep=KEEP_SHADOWS,
    series=ShadowSeries,
    measured=MEASURED,
    tally=ShadowTally,
    tally_of=_tally_of,
    columns=_columns,
    also_old=_also_old,
    also_write=add_up,
)
