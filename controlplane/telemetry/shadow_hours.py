"""What shadows counted, added up by the hour, as surfaces' counts are: see `surface_hours`."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

from django.db import connection, transaction
from django.db.models import QuerySet

from controlplane.telemetry.shadows import SHADOW_SERIES, SHADOW_SKETCHES, TALLIES, ShadowHour, ShadowMinute
from controlplane.telemetry.sketch_sums import keys_summed, sketch_summed
from controlplane.telemetry.surface_hours import HOUR, hour_of
from dataplane.shadow.counting import COUNTS, MOMENTS

# Of compaction: whoever writes minutes or hours of shadows holds it.
LOCK: Final = 0x0BA11A59

_KEY: Final = ", ".join(("at", *SHADOW_SERIES))
_MEASURED: Final = ", ".join((*COUNTS, *TALLIES, "moments", *SHADOW_SKETCHES))


def _moments(name: str) -> str:
    parts = enumerate(("bigint", "float8", "float8"))
    summed = ", ".join(f"COALESCE(SUM((moments -> '{name}' ->> {place})::{kind}), 0)" for place, kind in parts)
    return f"'{name}', jsonb_build_array({summed})"


# What is counted by key: of sketches, their bins.
_KEYED: Final = {name: name for name in TALLIES} | {name: f"{name} -> 'bins'" for name in SHADOW_SKETCHES}
_JOINED: Final = " ".join(
    f"LEFT JOIN {keys_summed(value, rows='minutes', key=_KEY, name=f'{name}_keys')} USING ({_KEY})"
    for name, value in _KEYED.items()
)
_SUMMED: Final = ", ".join(
    [
        *(f"SUM({name})::bigint AS {name}" for name in COUNTS),
        f"jsonb_build_object({', '.join(map(_moments, MOMENTS))}) AS moments",
        *map(sketch_summed, SHADOW_SKETCHES),
    ]
)
_WHOLE: Final = ", ".join(
    [
        *COUNTS,
        *(f"COALESCE({name}_keys, '{{}}')" for name in TALLIES),
        "moments",
        *(f"{name} || jsonb_build_object('bins', COALESCE({name}_keys, '{{}}'))" for name in SHADOW_SKETCHES),
    ]
)
_ADD_UP: Final = f"""
INSERT INTO {ShadowHour._meta.db_table} (bucket_at, {", ".join(SHADOW_SERIES)}, {_MEASURED})
WITH minutes AS MATERIALIZED (
    SELECT date_trunc('hour', bucket_at, 'UTC') AS at, {", ".join(SHADOW_SERIES)}, {_MEASURED}
    FROM {ShadowMinute._meta.db_table} WHERE bucket_at >= %(since)s AND bucket_at < %(until)s
), sums AS (
    SELECT {_KEY}, {_SUMMED} FROM minutes GROUP BY {_KEY}
)
SELECT {_KEY}, {_WHOLE} FROM sums {_JOINED} ORDER BY {_KEY}
"""  # noqa: S608 - every name in it is a constant of ours; the values are parameters


def add_up(minutes: Iterable[datetime]) -> None:
    """Compute the hours that these minutes lie in anew; called where they are written, in that transaction."""
    for hour in sorted({hour_of(minute) for minute in minutes}):
        _compute(hour, hour + HOUR)


@transaction.atomic
def rebuild_shadow_hours(day: date) -> int:
    """Compute the hours of one UTC day anew from its minutes, whatever they said before; returns how many rows there
    are now. Compaction waits meanwhile; reading goes on.
    """
    since = datetime.combine(day, time(), UTC)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
    _compute(since, since + timedelta(days=1))
    return _hours(since, since + timedelta(days=1)).count()


def _hours(since: datetime, until: datetime) -> QuerySet[ShadowHour]:
    return ShadowHour._default_manager.filter(bucket_at__gte=since, bucket_at__lt=until)


def _compute(since: datetime, until: datetime) -> None:
    # Deleted and not only replaced: a series may be gone that a late seal has put into another row.
    _hours(since, until).delete()
    with connection.cursor() as cursor:
        cursor.execute(_ADD_UP, {"since": since, "until": until})
