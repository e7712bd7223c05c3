"""Sums of what shadows counted, over any time, to the last call: added up where they are, in two queries.

A minute whose 10 s rows have all been folded counts by its row, every other by its 10 s rows and what is sealed of it.
An hour that is in a range as a whole counts by its row, unless something of it is not folded yet.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, NamedTuple

from django.db import connection
from django.db.models.functions import TruncDate

from controlplane.telemetry.shadows import (
    SHADOW_SERIES,
    SHADOW_SKETCHES,
    TALLIES,
    ShadowHour,
    ShadowMinute,
    ShadowRollup,
)
from controlplane.telemetry.sketch_sums import sketches_summed, take_sketches
from controlplane.telemetry.surface_hours import whole_hours
from dataplane.shadow.counting import CANDIDATE, COUNTS, MOMENTS, NOISE, ShadowSeries
from dataplane.sketches import Sketch


class Moments(NamedTuple):
    """How many values, their sum, and the sum of their squares."""

    n: int
    total: float
    squares: float

    def plus(self, other: "Moments") -> "Moments":
        """Of both together."""
        return Moments(self.n + other.n, self.total + other.total, self.squares + other.squares)


NOTHING: Final = Moments(0, 0.0, 0.0)


@dataclass(slots=True)
class ShadowTally:
    """What several rows counted together. `counts` and `moments` have every name of COUNTS and MOMENTS."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    discarded: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    moments: dict[str, Moments] = field(default_factory=lambda: dict.fromkeys(MOMENTS, NOTHING))
    latency_ms: Sketch = field(default_factory=Sketch)
    control_latency_ms: Sketch = field(default_factory=Sketch)

    def add(self, other: "ShadowTally") -> None:
        """Add another; it stays as it is."""
        for name, value in other.counts.items():
            self.counts[name] += value
        for name in TALLIES:
            getattr(self, name).update(getattr(other, name))
        for name, moments in other.moments.items():
            self.moments[name] = self.moments[name].plus(moments)
        for name in SHADOW_SKETCHES:
            getattr(self, name).merge(getattr(other, name))


Sums = dict[ShadowSeries, ShadowTally]

_NAMES: Final = ", ".join(SHADOW_SERIES)
_COLUMNS: Final = ", ".join(
    f"c.{name}" for name in ("bucket_at", *SHADOW_SERIES, *COUNTS, *TALLIES, "moments", *SHADOW_SKETCHES)
)
_OF: Final = "(%(policy)s = '' OR c.policy = %(policy)s)"
_MINUTES: Final = f"""SELECT {_COLUMNS} FROM {ShadowMinute._meta.db_table} c
    WHERE {_OF} AND (c.sealed OR c.bucket_at NOT IN (SELECT minute FROM unfolded))"""  # noqa: S608 - as below
# Whole hours are [first, last); without any, both are the end of the range.
_PARTS: Final = f"""
WITH unfolded AS MATERIALIZED (
    SELECT DISTINCT date_trunc('minute', bucket_at) AS minute FROM {ShadowRollup._meta.db_table}
    WHERE NOT folded AND bucket_at >= %(since)s AND bucket_at < %(until)s
), open_hours AS MATERIALIZED (
    SELECT DISTINCT date_trunc('hour', minute, 'UTC') AS hour FROM unfolded
    WHERE minute >= %(first)s AND minute < %(last)s
), parts AS (
    SELECT {_COLUMNS} FROM {ShadowHour._meta.db_table} c
    WHERE {_OF} AND c.bucket_at >= %(first)s AND c.bucket_at < %(last)s
        AND c.bucket_at NOT IN (SELECT hour FROM open_hours)
    UNION ALL
    {_MINUTES} AND c.bucket_at >= %(since)s AND c.bucket_at < %(first)s
    UNION ALL
    {_MINUTES} AND c.bucket_at >= %(last)s AND c.bucket_at < %(until)s
    UNION ALL
    SELECT m.* FROM open_hours o CROSS JOIN LATERAL (
        {_MINUTES} AND c.bucket_at >= o.hour AND c.bucket_at < o.hour + interval '1 hour'
    ) m
    UNION ALL
    SELECT {_COLUMNS} FROM {ShadowRollup._meta.db_table} c
    WHERE {_OF} AND c.bucket_at >= %(since)s AND c.bucket_at < %(until)s
        AND date_trunc('minute', c.bucket_at) IN (SELECT minute FROM unfolded)
)
"""  # noqa: S608 - every name in it is a constant of ours; the values are parameters
_SUMMED: Final = ", ".join(
    [
        *(f"SUM({name})::bigint" for name in COUNTS),
        *(
            f"COALESCE(SUM((moments -> '{name}' ->> {place})::{kind}), 0)"
            for name in MOMENTS
            for place, kind in enumerate(("bigint", "float8", "float8"))
        ),
    ]
)
_SKETCHED: Final = sketches_summed(SHADOW_SKETCHES)
_WHOLE: Final = f"""{_PARTS}
SELECT {_NAMES}, {_SUMMED}, {_SKETCHED} FROM parts GROUP BY {_NAMES} ORDER BY {_NAMES}"""  # noqa: S608 - as above
# What is counted by key: of sketches, their bins.
_KEYED: Final = {name: name for name in TALLIES} | {name: f"{name} -> 'bins'" for name in SHADOW_SKETCHES}
_BY_KEY: Final = _PARTS + " UNION ALL ".join(
    f"SELECT {_NAMES}, '{name}', e.key, SUM(e.value::bigint)::bigint"  # noqa: S608 - as above
    f" FROM parts, jsonb_each_text({value}) AS e GROUP BY {_NAMES}, e.key"
    for name, value in _KEYED.items()
)
_OVER_TIME: Final = f"""{_PARTS}
SELECT date_bin(%(step)s, bucket_at, %(since)s), arm, {_SUMMED} FROM parts WHERE lane <> ''
GROUP BY 1, 2 ORDER BY 1, 2"""  # noqa: S608 - as above


def shadow_sums(*, since: datetime, until: datetime, policy: str = "") -> Sums:
    """What was counted in [since, until), by series; two queries.

    Args:
        since, until: Whole minutes; what is within one belongs to it as a whole.
        policy: Its slug; "" takes all.
    """
    first, last = next(((begun, ended) for hourly, begun, ended in whole_hours(since, until) if hourly), (until, until))
    asked: dict[str, Any] = {"since": since, "first": first, "last": last, "until": until, "policy": policy}
    sums: Sums = {}
    with connection.cursor() as cursor:
        cursor.execute(_WHOLE, asked)
        for row in cursor.fetchall():
            series, values = ShadowSeries(*row[: len(SHADOW_SERIES)]), row[len(SHADOW_SERIES) :]
            tally = sums[series] = ShadowTally()
            _take_sums(tally, values)
            take_sketches(tally, SHADOW_SKETCHES, values[len(COUNTS) + 3 * len(MOMENTS) :])
        cursor.execute(_BY_KEY, asked)
        for row in cursor.fetchall():
            name, key, count = row[len(SHADOW_SERIES) :]
            kept = getattr(sums[ShadowSeries(*row[: len(SHADOW_SERIES)])], name)
            if isinstance(kept, Sketch):
                kept.bins[int(key)] = count
            else:
                kept[key] = count
    return sums


def shadow_timeline(
    *, since: datetime, until: datetime, step: timedelta, policy: str
) -> dict[str, list[tuple[datetime, ShadowTally]]]:
    """What was asked under a policy, by arm and in steps of time; one query. Sketches and counts by key stay empty.

    Shape: {"candidate": [(begin of the step, tally)], "noise": […]}, oldest first; a step in which nothing was asked is
    left out.
    """
    found: dict[str, list[tuple[datetime, ShadowTally]]] = {CANDIDATE: [], NOISE: []}
    # By minute alone: a step may end within an hour.
    asked: dict[str, Any] = {"since": since, "first": until, "last": until, "until": until, "policy": policy}
    asked["step"] = step
    with connection.cursor() as cursor:
        cursor.execute(_OVER_TIME, asked)
        for at, arm, *values in cursor.fetchall():
            tally = ShadowTally()
            _take_sums(tally, values)
            if arm in found and tally.counts["asked"]:
                found[arm].append((at, tally))
    return found


def shadow_days(*, digest: str, route: str, lane: str, since: datetime) -> int:
    """On how many UTC days a candidate gave answers that were compared; two queries."""
    days: set[date] = set()
    for model in (ShadowMinute, ShadowRollup):
        rows = model._default_manager.filter(
            digest=digest, route=route, lane=lane, arm=CANDIDATE, answered__gt=0, bucket_at__gte=since
        )
        days.update(rows.values_list(TruncDate("bucket_at", tzinfo=UTC), flat=True).distinct())
    return len(days)


def _take_sums(tally: ShadowTally, values: Sequence[Any]) -> None:
    """Take over counts and moments, in the order of `_SUMMED`."""
    tally.counts = {name: int(value) for name, value in zip(COUNTS, values[: len(COUNTS)], strict=True)}
    rest = values[len(COUNTS) :]
    tally.moments = {
        name: Moments(int(rest[3 * place]), float(rest[3 * place + 1]), float(rest[3 * place + 2]))
        for place, name in enumerate(MOMENTS)
    }
