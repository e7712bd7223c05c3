"""Keep what shadows counted small: minutes of the fleet for the past."""

from datetime import datetime
from typing import Any, Final

from controlplane.telemetry.folding import Folding
from controlplane.telemetry.shadow_sums import Moments, ShadowTally
from controlplane.telemetry.shadows import (
    KEEP_SHADOWS,
    MEASURED,
    SHADOW_SKETCHES,
    TALLIES,
    ShadowCounted,
    ShadowMinute,
    ShadowRollup,
    ShadowSource,
)
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


_SHADOWS: Final = Folding(
    lock=0x0BA11A59,
    rows=ShadowRollup,
    minutes=ShadowMinute,
    sources=ShadowSource,
    keep=KEEP_SHADOWS,
    series=ShadowSeries,
    measured=MEASURED,
    tally=ShadowTally,
    tally_of=_tally_of,
    columns=_columns,
)
