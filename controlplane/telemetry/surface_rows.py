"""What workers counted on surfaces, and how loaded these were, as the control plane keeps it.

By series and bucket like rollups, never by request; how that is folded and forgotten is in `surface_minutes`.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final

import orjson
from django.db import connection, models
from django.db.models import Q

from dataplane.ladder.counting import COUNTS, SKETCHES, VALUES, SurfaceSeries

KEEP_SURFACES: Final = timedelta(days=35)
# After this, one reading a minute is kept: enough to say when anybody told of a surface.
KEEP_READINGS: Final = timedelta(days=14)
# A clock that is further ahead would put counts where no reader looks for hours.
MAX_CLOCK_AHEAD: Final = timedelta(minutes=5)
SURFACE_SERIES: Final = SurfaceSeries._fields


class SurfaceCounted(models.Model):
    """The columns of every row that counts what a surface served; see `dataplane.ladder.counting`."""

    bucket_at = models.DateTimeField()
    surface = models.CharField(max_length=100)
    region = models.CharField(max_length=100, blank=True, help_text="Of the gateway; empty: it tells of none")
    tier = models.CharField(max_length=10)
    rung = models.PositiveSmallIntegerField(help_text="What it was served on; 0 in a reserved place")
    outcome = models.CharField(max_length=10)
    requests = models.BigIntegerField()
    reserved = models.BigIntegerField(help_text="Of these: in a place that the tier is promised")
    cost_micros = models.BigIntegerField(help_text="Millionths of a US dollar, answered or not")
    latency_ms = models.JSONField(help_text="To the end of the answer")
    queued_ms = models.JSONField(help_text="Of those that waited for an account's quota")

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self.bucket_at:%Y-%m-%d %H:%M:%S} {self.surface} {self.tier} rung {self.rung} {self.outcome}"


class SurfaceRollup(SurfaceCounted):
    """One series of one process in one bucket of 10 s, cumulative: a newer report of the same bucket replaces it."""

    worker = models.CharField(max_length=120)
    boot = models.CharField(max_length=32)
    seq = models.BigIntegerField()
    changed_at = models.DateTimeField(help_text="When the control plane last took in something newer")
    folded = models.BooleanField(default=False, help_text="Whether the minute's row contains this state")

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["bucket_at", "worker", "boot", *SURFACE_SERIES], name="one_surface_rollup"),
        ]
        indexes: ClassVar = [
            models.Index(fields=["bucket_at"], condition=Q(folded=False), name="surface_rollup_to_fold"),
        ]


class SurfaceMinute(SurfaceCounted):
    """One series of the whole fleet in one minute, in the two parts of a `telemetry.models.MinuteRollup`."""

    sealed = models.BooleanField()

    class Meta:
        constraints: ClassVar = [
            # In this order, because it is read by surface, over a range.
            models.UniqueConstraint(
                fields=["surface", "bucket_at", "region", "tier", "rung", "outcome", "sealed"],
                name="one_surface_minute",
            ),
        ]
        indexes: ClassVar = [models.Index(fields=["bucket_at"], name="surface_minute_by_age")]


class SurfaceSource(models.Model):
    """One boot of one process, as far as what it counted of surfaces has been taken in: see `telemetry.models.Source`.

    Of its own, since what is reported in batches of its own may be cut off between them.
    """

    worker = models.CharField(max_length=120)
    boot = models.CharField(max_length=32)
    newest_bucket_at = models.DateTimeField()
    sealed_through_at = models.DateTimeField(null=True, blank=True)
    changed_at = models.DateTimeField()

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["worker", "boot"], name="one_surface_source")]

    def __str__(self) -> str:
        return f"{self.worker} {self.boot}"


class SurfaceReading(models.Model):
    """How loaded a surface was in 10 s, as one worker told it that decided for the fleet then, or by itself alone.

    Signals have the highest value of the bucket, null where nobody could take one; attempts add up. Where two told, the
    higher counts, and attempts of both.
    """

    bucket_at = models.DateTimeField()
    surface = models.CharField(max_length=100)
    worker = models.CharField(max_length=120)
    boot = models.CharField(max_length=32)
    seq = models.BigIntegerField()
    level = models.PositiveSmallIntegerField(help_text="The highest rung that triggers had engaged")
    generation = models.BigIntegerField(help_text="Of where the ladder stood")
    is_alone = models.BooleanField(help_text="It could not hear the fleet")
    in_flight = models.FloatField(null=True)
    requests_per_second = models.FloatField(null=True)
    backlog_age_seconds = models.FloatField(null=True)
    queue_age_seconds = models.FloatField(null=True)
    quota_utilisation = models.FloatField(null=True)
    breakers_open_share = models.FloatField(null=True)
    gauges = models.JSONField(help_text="{trigger: number}")
    attempts = models.BigIntegerField()
    failures = models.BigIntegerField()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["surface", "bucket_at", "worker", "boot"], name="one_surface_reading"),
        ]
        indexes: ClassVar = [models.Index(fields=["bucket_at"], name="surface_reading_by_age")]

    def __str__(self) -> str:
        return f"{self.bucket_at:%Y-%m-%d %H:%M:%S} {self.surface} rung {self.level}"


# --- taking in -------------------------------------------------------------------------------------------------------
MEASURED: Final = (*COUNTS, *SKETCHES)
_COLUMNS: Final = ("worker", "boot", "seq", "bucket_at", *SURFACE_SERIES, *MEASURED)
_TYPES: Final = {
    "seq": "bigint",
    "bucket_at": "timestamptz",
    "rung": "smallint",
    **dict.fromkeys(COUNTS, "bigint"),
    **dict.fromkeys(SKETCHES, "jsonb"),
}
_KEY: Final = ("bucket_at", "worker", "boot", *SURFACE_SERIES)
# One parameter, however many rows. Sorted, so that two processes never wait for each other in a circle.
_NOTE_SOURCES: Final = f"""
INSERT INTO {SurfaceSource._meta.db_table} AS s (worker, boot, newest_bucket_at, changed_at)
SELECT r.worker, r.boot, r.newest_bucket_at, %(now)s
FROM json_to_recordset(%(rows)s::json) AS r(worker text, boot text, newest_bucket_at timestamptz)
ORDER BY r.worker, r.boot
ON CONFLICT (worker, boot) DO UPDATE SET
    newest_bucket_at = greatest(s.newest_bucket_at, excluded.newest_bucket_at), changed_at = excluded.changed_at
"""  # noqa: S608 - every name in it is a constant of ours; the values are parameters
_MERGE: Final = f"""
INSERT INTO {SurfaceRollup._meta.db_table} AS s ({", ".join(_COLUMNS)}, changed_at, folded)
SELECT {", ".join(f"r.{name}" for name in _COLUMNS)}, %(now)s, false
FROM json_to_recordset(%(rows)s::json) AS r({", ".join(f"{name} {_TYPES.get(name, 'text')}" for name in _COLUMNS)})
WHERE NOT EXISTS (
    SELECT 1 FROM {SurfaceSource._meta.db_table} o
    WHERE o.worker = r.worker AND o.boot = r.boot AND o.sealed_through_at >= r.bucket_at
)
ORDER BY {", ".join(f"r.{name}" for name in _KEY)}
ON CONFLICT ({", ".join(_KEY)}) DO UPDATE SET
    {", ".join(f"{name} = excluded.{name}" for name in ("seq", *MEASURED))},
    changed_at = excluded.changed_at, folded = false
WHERE excluded.seq > s.seq
"""  # noqa: S608 - as above
_LOAD_KEY: Final = ("surface", "bucket_at", "worker", "boot")
_READ: Final = {
    "level": "smallint",
    "generation": "bigint",
    "is_alone": "boolean",
    **dict.fromkeys(VALUES, "double precision"),
    "gauges": "jsonb",
    **dict.fromkeys(("attempts", "failures"), "bigint"),
}
_LOAD_COLUMNS: Final = {**dict.fromkeys(_LOAD_KEY, "text"), "bucket_at": "timestamptz", "seq": "bigint", **_READ}
_KEEP_LOADS: Final = f"""
INSERT INTO {SurfaceReading._meta.db_table} AS s ({", ".join(_LOAD_COLUMNS)})
SELECT {", ".join(f"r.{name}" for name in _LOAD_COLUMNS)}
FROM json_to_recordset(%(rows)s::json) AS r({", ".join(f"{name} {kind}" for name, kind in _LOAD_COLUMNS.items())})
ORDER BY {", ".join(f"r.{name}" for name in _LOAD_KEY)}
ON CONFLICT ({", ".join(_LOAD_KEY)}) DO UPDATE SET
    {", ".join(f"{name} = excluded.{name}" for name in ("seq", *_READ))}
WHERE excluded.seq > s.seq
"""  # noqa: S608 - as above


def record_surfaces(reports: Iterable[Mapping[str, Any]], *, now: datetime) -> set[str]:
    """Take in what reports tell of surfaces; delivered twice, late or out of order, it gives the same tables.

    At most three statements, however many rows, and none where there are none.

    Args:
        reports: Each with `worker`, `boot`, `seq`, `surfaces` and `surface_readings`, as
            `telemetry.reports.parse_report` returns them. Buckets over 5 min ahead are left out, and so are those older
            than what is kept.
    Returns:
        The surfaces that something was told of.
    """
    heard = list(reports)
    rows = _newest(heard, "surfaces", key=_KEY, keep=KEEP_SURFACES, now=now)
    loads = _newest(heard, "surface_readings", key=_LOAD_KEY, keep=KEEP_READINGS, now=now)
    if rows:
        newest: dict[tuple[str, str], datetime] = {}
        for row in rows:
            who = (row["worker"], row["boot"])
            newest[who] = max(newest.get(who, row["bucket_at"]), row["bucket_at"])
        sources = [
            {"worker": worker, "boot": boot, "newest_bucket_at": bucket_at}
            for (worker, boot), bucket_at in newest.items()
        ]
        with connection.cursor() as cursor:
            # First, because it waits for a sealing of the same source, which the second statement then sees.
            cursor.execute(_NOTE_SOURCES, {"rows": orjson.dumps(sources).decode(), "now": now})
            cursor.execute(_MERGE, {"rows": orjson.dumps(rows).decode(), "now": now})
    if loads:
        flat = [row | row["values"] for row in loads]
        with connection.cursor() as cursor:
            cursor.execute(_KEEP_LOADS, {"rows": orjson.dumps(flat).decode()})
    return {row["surface"] for row in (*rows, *loads)}


def _newest(
    reports: Iterable[Mapping[str, Any]], member: str, *, key: tuple[str, ...], keep: timedelta, now: datetime
) -> list[dict[str, Any]]:
    """The rows of a member with whose they are, each once: one statement may touch a row once only."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for report in reports:
        source = {name: report[name] for name in ("worker", "boot", "seq")}
        for told in report[member]:
            bucket_at = datetime.fromtimestamp(told["bucket"], UTC)
            if not now - keep <= bucket_at <= now + MAX_CLOCK_AHEAD:
                continue
            row = source | told | {"bucket_at": bucket_at}
            which = tuple(row[name] for name in key)
            if which not in found or row["seq"] > found[which]["seq"]:
                found[which] = row
    return list(found.values())
