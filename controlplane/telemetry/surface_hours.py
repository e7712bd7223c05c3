"""What the fleet counted on surfaces, added up by the hour, so that weeks are not read by minute.

An hour is computed anew from its minutes in the transaction that writes any of them: at every moment it contains
exactly the minutes that are there, however late one of them is folded again.
"""

from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import Final

from django.db import connection, transaction
from django.db.models import QuerySet

from controlplane.telemetry.sketch_sums import keys_summed, sketch_summed
from controlplane.telemetry.surface_rows import SURFACE_SERIES, SurfaceHour, SurfaceMinute, SurfaceReading
from controlplane.telemetry.surface_told import keep_told
from dataplane.ladder.counting import COUNTS, SKETCHES

HOUR: Final = timedelta(hours=1)
# Of compaction: whoever writes minutes or hours of surfaces holds it.
LOCK: Final = 0x0BA11A5A

_TABLE: Final = SurfaceHour._meta.db_table
_KEY: Final = ", ".join(("at", *SURFACE_SERIES))


def _bins(name: str) -> str:
    return keys_summed(f"{name} -> 'bins'", rows="minutes", key=_KEY, name=f"{name}_bins")


_ADD_UP: Final = f"""
INSERT INTO {_TABLE} (bucket_at, {", ".join((*SURFACE_SERIES, *COUNTS, *SKETCHES))})
WITH minutes AS MATERIALIZED (
    SELECT date_trunc('hour', bucket_at, 'UTC') AS at, {", ".join((*SURFACE_SERIES, *COUNTS, *SKETCHES))}
    FROM {SurfaceMinute._meta.db_table} WHERE bucket_at >= %(since)s AND bucket_at < %(until)s
), sums AS (
    SELECT {_KEY}, {", ".join(f"SUM({name})::bigint AS {name}" for name in COUNTS)},
        {", ".join(map(sketch_summed, SKETCHES))}
    FROM minutes GROUP BY {_KEY}
)
SELECT {_KEY}, {", ".join(COUNTS)},
    {", ".join(f"{name} || jsonb_build_object('bins', COALESCE({name}_bins, '{{}}'))" for name in SKETCHES)}
FROM sums {" ".join(f"LEFT JOIN {_bins(name)} USING ({_KEY})" for name in SKETCHES)} ORDER BY {_KEY}
"""  # noqa: S608 - as above


def add_up(minutes: Iterable[datetime]) -> None:
    """Compute the hours that these minutes lie in anew; called where they are written, in that transaction."""
    for hour in sorted({hour_of(minute) for minute in minutes}):
        _compute(hour, hour + HOUR)


@transaction.atomic
def rebuild_hours(day: date) -> int:
    """Compute the hours of one UTC day anew from its minutes, whatever they said before, and note which minutes were
    told of; returns how many rows there are now. Compaction waits meanwhile; reading goes on.
    """
    since = datetime.combine(day, time(), UTC)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
    _compute(since, since + timedelta(days=1))
    for kind in (SurfaceMinute, SurfaceReading):
        of_day = kind._default_manager.filter(bucket_at__gte=since, bucket_at__lt=since + timedelta(days=1))
        keep_told(of_day.values_list("surface", "bucket_at"))
    return _hours(since, since + timedelta(days=1)).count()


def hour_of(moment: datetime) -> datetime:
    """When the hour of UTC begins that a moment lies in."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def whole_hours(since: datetime, until: datetime) -> list[tuple[bool, datetime, datetime]]:
    """A range of whole minutes as its whole hours, which are True, and the minutes at its edges; together the range."""
    first, last = hour_of(since + HOUR - timedelta(microseconds=1)), hour_of(until)
    if first >= last:
        return [(False, since, until)]
    edges = pairwise((since, first, last, until))
    return [(begun == first, begun, ended) for begun, ended in edges if begun < ended]


def _hours(since: datetime, until: datetime) -> QuerySet[SurfaceHour]:
    return SurfaceHour._default_manager.filter(bucket_at__gte=since, bucket_at__lt=until)


def _compute(since: datetime, until: datetime) -> None:
    # Deleted and not only replaced: a series may be gone that a late seal has put into another row.
    _hours(since, until).delete()
    with connection.cursor() as cursor:
        cursor.execute(_ADD_UP, {"since": since, "until": until})
