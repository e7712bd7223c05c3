"""Sums of what surfaces served, over any time, to the last request: added up where they are.

A minute whose 10 s rows have all been folded counts by its row, every other by its 10 s rows and what is sealed of it.
An hour that is in a range as a whole counts by its row, unless something of it is not folded yet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any, Final

import orjson
from django.db import connection

from controlplane.telemetry.models import MINUTE
from controlplane.telemetry.sketch_sums import sketches_summed, take_sketches
from controlplane.telemetry.surface_hours import whole_hours
from controlplane.telemetry.surface_rows import SurfaceHour, SurfaceMinute, SurfaceRollup
from controlplane.telemetry.surface_told import Range
from dataplane.ladder.counting import COUNTS, JOB, SKETCHES, SurfaceSeries
from dataplane.sketches import Sketch


@dataclass(slots=True)
class SurfaceTally:
    """What several rows counted together."""

    requests: int = 0
    reserved: int = 0
    cost_micros: int = 0
    latency_ms: Sketch = field(default_factory=Sketch)
    queued_ms: Sketch = field(default_factory=Sketch)

    def add(self, other: "SurfaceTally") -> None:
        """Add another; it stays as it is."""
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in SKETCHES:
            getattr(self, name).merge(getattr(other, name))


Sums = dict[SurfaceSeries, SurfaceTally]

_NAMES: Final = ", ".join(SurfaceSeries._fields)
_OF: Final = "c.surface = %(surface)s AND c.bucket_at >= r.since AND c.bucket_at < r.until"


def _parts(measured: Sequence[str]) -> str:
    """The rows of the ranges, with these columns alone: 35 days of sketches that nobody asked for fill a disk."""
    part = ", ".join(("r.key", "c.bucket_at", *(f"c.{name}" for name in (*SurfaceSeries._fields, *measured))))
    return f"""
WITH ranges AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%(ranges)s::json)
        AS r(key text, hourly boolean, since timestamptz, until timestamptz)
), unfolded AS MATERIALIZED (
    SELECT DISTINCT date_trunc('minute', bucket_at) AS minute FROM {SurfaceRollup._meta.db_table} WHERE NOT folded
), open_hours AS MATERIALIZED (
    SELECT DISTINCT date_trunc('hour', minute, 'UTC') AS hour FROM unfolded
), by_minute AS MATERIALIZED (
    SELECT key, since, until FROM ranges WHERE NOT hourly
    UNION ALL
    SELECT r.key, o.hour, o.hour + interval '1 hour'
    FROM ranges r JOIN open_hours o ON o.hour >= r.since AND o.hour < r.until WHERE r.hourly
), parts AS {"NOT MATERIALIZED" if set(SKETCHES).isdisjoint(measured) else "MATERIALIZED"} (
    SELECT {part} FROM ranges r JOIN {SurfaceHour._meta.db_table} c ON {_OF}
    WHERE r.hourly AND c.bucket_at NOT IN (SELECT hour FROM open_hours)
    UNION ALL
    SELECT {part} FROM by_minute r JOIN {SurfaceMinute._meta.db_table} c ON {_OF}
    WHERE c.sealed OR c.bucket_at NOT IN (SELECT minute FROM unfolded)
    UNION ALL
    SELECT {part} FROM ranges r JOIN {SurfaceRollup._meta.db_table} c ON {_OF}
    WHERE date_trunc('minute', c.bucket_at) IN (SELECT minute FROM unfolded)
)
"""  # noqa: S608 - every name in it is a constant of ours; the values are parameters


_SUMMED: Final = ", ".join(f"SUM({name})::bigint" for name in COUNTS)
_GROUPED: Final = f"FROM parts GROUP BY key, {_NAMES} ORDER BY key, {_NAMES}"
_COUNTED: Final = f"{_parts(COUNTS)} SELECT key, {_NAMES}, {_SUMMED} {_GROUPED}"
_BY_RUNG: Final = f"""{_parts(COUNTS)}
SELECT date_trunc('hour', bucket_at, 'UTC'), rung, SUM(requests)::bigint FROM parts WHERE outcome <> '{JOB}'
GROUP BY 1, 2 ORDER BY 1, 2
"""  # noqa: S608 - as above


@cache
def _whole(sketches: tuple[str, ...]) -> str:
    return f"{_parts((*COUNTS, *sketches))} SELECT key, {_NAMES}, {_SUMMED}, {sketches_summed(sketches)} {_GROUPED}"


@cache
def _bins(sketches: tuple[str, ...]) -> str:
    return _parts((*COUNTS, *sketches)) + " UNION ALL ".join(
        f"SELECT parts.key, {_NAMES}, '{name}', e.bin, SUM(e.value::bigint)::bigint"  # noqa: S608 - as above
        f" FROM parts, jsonb_each_text({name} -> 'bins') AS e(bin, value) GROUP BY parts.key, {_NAMES}, e.bin"
        for name in sketches
    )


def surface_sums(surface: str, ranges: Mapping[str, Range], *, sketches: tuple[str, ...] = ()) -> dict[str, Sums]:
    """What was counted on a surface in each of the ranges, by series; one query, and one more for the sketches' bins.

    Args:
        ranges: By any key: [since, until), each to the whole minute that it lies in.
        sketches: Those of SKETCHES that are read; the others stay empty.
    """
    found: dict[str, Sums] = {key: {} for key in ranges}
    if not ranges:
        return found
    asked = {"surface": surface, "ranges": _ranges(ranges)}
    with connection.cursor() as cursor:
        cursor.execute(_whole(sketches) if sketches else _COUNTED, asked)
        for key, *row in cursor.fetchall():
            values = row[len(SurfaceSeries._fields) :]
            tally = found[key][SurfaceSeries(*row[: len(SurfaceSeries._fields)])] = SurfaceTally(*values[: len(COUNTS)])
            take_sketches(tally, sketches, values[len(COUNTS) :])
        if sketches:
            cursor.execute(_bins(sketches), asked)
            for key, *row in cursor.fetchall():
                name, index, count = row[len(SurfaceSeries._fields) :]
                tally = found[key][SurfaceSeries(*row[: len(SurfaceSeries._fields)])]
                getattr(tally, name).bins[int(index)] = count
    return found


def requests_by_hour(surface: str, *, since: datetime, until: datetime) -> dict[datetime, dict[int, int]]:
    """How many requests of callers were served on which rung, by the hour of UTC; one query."""
    hours: dict[datetime, dict[int, int]] = {}
    with connection.cursor() as cursor:
        cursor.execute(_BY_RUNG, {"surface": surface, "ranges": _ranges({"": (since, until)})})
        for hour, rung, requests in cursor.fetchall():
            hours.setdefault(hour, {})[rung] = requests
    return hours


def _ranges(ranges: Mapping[str, Range]) -> str:
    rows: list[dict[str, Any]] = []
    for key, (since, until) in ranges.items():
        end = until.replace(second=0, microsecond=0)
        tiles = whole_hours(since.replace(second=0, microsecond=0), end if end == until else end + MINUTE)
        rows += [{"key": key, "hourly": hourly, "since": begun, "until": ended} for hourly, begun, ended in tiles]
    return orjson.dumps(rows).decode()
