"""What workers counted on surfaces, and how loaded these were, as the control plane keeps it.

By series and bucket like rollups, never by request; how that is folded and forgotten is in `surface_minutes`.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final

import orjson
from django.db import connection, models
from django.db.models import Q

from controlplane.telemetry.reported import (
    Bucketed,
    MinuteRow,
    ReportedRow,
    ReportingSource,
    intake,
    newest_rows,
    row_key,
    take_rows,
)
from controlplane.telemetry.surface_told import keep_told
from dataplane.ladder.counting import COUNTS, SKETCHES, VALUES, SurfaceSeries

KEEP_SURFACES: Final = timedelta(days=35)
# After this, one reading a minute is kept: enough to say where the ladder stood.
KEEP_READINGS: Final = timedelta(days=14)
SURFACE_SERIES: Final = SurfaceSeries._fields


class SurfaceCounted(Bucketed):
    """The columns of every row that counts what a surface served; see `dataplane.ladder.counting`."""

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


class SurfaceRollup(SurfaceCounted, ReportedRow):
    """What one process counted in 10 s."""

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["bucket_at", "worker", "boot", *SURFACE_SERIES], name="one_surface_rollup"),
        ]
        indexes: ClassVar = [
            models.Index(fields=["bucket_at"], condition=Q(folded=False), name="surface_rollup_to_fold"),
        ]


class SurfaceMinute(SurfaceCounted, MinuteRow):
    """What the fleet counted in a minute."""

    class Meta:
        constraints: ClassVar = [
            # In this order, because it is read by surface, over a range.
            models.UniqueConstraint(
                fields=["surface", "bucket_at", "region", "tier", "rung", "outcome", "sealed"],
                name="one_surface_minute",
            ),
        ]
        indexes: ClassVar = [models.Index(fields=["bucket_at"], name="surface_minute_by_age")]


class SurfaceHour(SurfaceCounted):
    """What the fleet counted in an hour of UTC. Derived from minutes, and never the other way round."""

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["surface", "bucket_at", *SURFACE_SERIES[1:]], name="one_surface_hour"),
        ]
        indexes: ClassVar = [models.Index(fields=["bucket_at"], name="surface_hour_by_age")]


class SurfaceSource(ReportingSource):
    """A process that told of surfaces."""

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["worker", "boot"], name="one_surface_source")]


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
        indexes: ClassVar = [
            models.Index(fields=["bucket_at"], name="surface_reading_by_age"),
            models.Index(
                fields=["surface", "generation", "bucket_at"],
                condition=Q(is_alone=False),
                name="surface_reading_by_step",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.bucket_at:%Y-%m-%d %H:%M:%S} {self.surface} rung {self.level}"


# --- taking in -------------------------------------------------------------------------------------------------------
MEASURED: Final = (*COUNTS, *SKETCHES)
_INTAKE: Final = intake(
    SurfaceRollup,
    SurfaceSource,
    series=SURFACE_SERIES,
    measured=MEASURED,
    types={"rung": "smallint", **dict.fromkeys(COUNTS, "bigint"), **dict.fromkeys(SKETCHES, "jsonb")},
)
_LOAD_KEY: Final = ("surface", "bucket_at", "worker", "boot")
_LOADED: Final = (*VALUES, "gauges", "attempts", "failures")
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
"""  # noqa: S608 - every name in it is a constant of ours; the values are parameters


def record_surfaces(reports: Iterable[Mapping[str, Any]], *, now: datetime) -> set[str]:
    """Take in what reports tell of surfaces; delivered twice, late or out of order, it gives the same tables.

    At most four statements, however many rows, and none where there are none.

    Args:
        reports: Each with `worker`, `boot`, `seq`, `surfaces` and `surface_readings`, as
            `telemetry.reports.parse_report` returns them. Buckets over 5 min ahead are left out, and so are those older
            than what is kept.
    Returns:
        The surfaces that something was told of.
    """
    heard = list(reports)
    rows = newest_rows(heard, "surfaces", key=row_key(SURFACE_SERIES), keep=KEEP_SURFACES, now=now)
    loads = newest_rows(heard, "surface_readings", key=_LOAD_KEY, keep=KEEP_READINGS, now=now)
    if rows:
        take_rows(_INTAKE, rows, now=now)
    if loads:
        flat = [row | {name: row["values"][name] for name in _LOADED} for row in loads]
        with connection.cursor() as cursor:
            cursor.execute(_KEEP_LOADS, {"rows": orjson.dumps(flat).decode()})
    keep_told((row["surface"], row["bucket_at"]) for row in (*rows, *loads))
    return {row["surface"] for row in (*rows, *loads)}
