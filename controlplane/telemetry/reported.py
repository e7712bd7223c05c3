"""Rows that processes report by bucket of 10 s, and how they are taken in: rollups, shadows and surfaces alike.

A row is cumulative in its bucket, so what is delivered twice, late or out of order gives the same table.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson
from django.db import connection, models

# A clock that is further ahead than this would put counts where no reader looks for hours.
MAX_CLOCK_AHEAD: Final = timedelta(minutes=5)


# --- columns that shadows and surfaces share -------------------------------------------------------------------------
class Bucketed(models.Model):
    """A row of 10 s or of a minute, told by its begin."""

    bucket_at = models.DateTimeField()

    class Meta:
        abstract = True


class ReportedRow(Bucketed):
    """One series of one process in one bucket of 10 s, cumulative: a newer report of the same bucket replaces it."""

    worker = models.CharField(max_length=120)
    boot = models.CharField(max_length=32)
    seq = models.BigIntegerField()
    changed_at = models.DateTimeField(help_text="When the control plane last took in something newer")
    folded = models.BooleanField(default=False, help_text="Whether the minute's row contains this state")

    class Meta:
        abstract = True


class MinuteRow(Bucketed):
    """One series of the whole fleet in one minute, in the two parts of a `telemetry.models.MinuteRollup`."""

    sealed = models.BooleanField()

    class Meta:
        abstract = True


class ReportingSource(models.Model):
    """One boot of one process, as far as its rows of one kind have been taken in: see `telemetry.models.Source`.

    Each kind has its own, since what comes in batches of its own may come hours apart, when cut off between them.
    """

    worker = models.CharField(max_length=120)
    boot = models.CharField(max_length=32)
    newest_bucket_at = models.DateTimeField()
    sealed_through_at = models.DateTimeField(null=True, blank=True)
    changed_at = models.DateTimeField()

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self.worker} {self.boot}"


# --- taking in -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Intake:
    """How rows of one kind are taken in: the statement that notes whose they are, and the one that merges them.

    Each has one parameter for its rows, however many. Sorted, so that two processes never wait for each other in a
    circle.
    """

    note_sources: str
    merge: str


def row_key(series: Sequence[str]) -> tuple[str, ...]:
    """The columns of which a row of 10 s is the only one."""
    return ("bucket_at", "worker", "boot", *series)


def intake(
    rows: type[models.Model],
    sources: type[models.Model],
    *,
    series: Sequence[str],
    measured: Sequence[str],
    types: Mapping[str, str],
) -> Intake:
    """How rows of these tables are taken in.

    Args:
        rows, sources: With the columns of a `ReportedRow` and of a `ReportingSource`.
        series: The columns that tell series apart.
        measured: What a newer state of a row replaces.
        types: The SQL types of those of both that are not text.
    """
    table, columns = rows._meta.db_table, ("worker", "boot", "seq", "bucket_at", *series, *measured)
    key = row_key(series)
    known = {"seq": "bigint", "bucket_at": "timestamptz", **types}
    note_sources = f"""
INSERT INTO {sources._meta.db_table} AS s (worker, boot, newest_bucket_at, changed_at)
SELECT r.worker, r.boot, r.newest_bucket_at, %(now)s
FROM json_to_recordset(%(rows)s::json) AS r(worker text, boot text, newest_bucket_at timestamptz)
ORDER BY r.worker, r.boot
ON CONFLICT (worker, boot) DO UPDATE SET
    newest_bucket_at = greatest(s.newest_bucket_at, excluded.newest_bucket_at), changed_at = excluded.changed_at
"""  # noqa: S608 - every name in it is a constant of ours; the values are parameters
    merge = f"""
INSERT INTO {table} AS s ({", ".join(columns)}, changed_at, folded)
SELECT {", ".join(f"r.{name}" for name in columns)}, %(now)s, false
FROM json_to_recordset(%(rows)s::json) AS r({", ".join(f"{name} {known.get(name, 'text')}" for name in columns)})
WHERE NOT EXISTS (
    SELECT 1 FROM {sources._meta.db_table} o
    WHERE o.worker = r.worker AND o.boot = r.boot AND o.sealed_through_at >= r.bucket_at
)
ORDER BY {", ".join(f"r.{name}" for name in key)}
ON CONFLICT ({", ".join(key)}) DO UPDATE SET
    {", ".join(f"{name} = excluded.{name}" for name in ("seq", *measured))},
    changed_at = excluded.changed_at, folded = false
WHERE excluded.seq > s.seq
"""  # noqa: S608 - as above
    return Intake(note_sources=note_sources, merge=merge)


def newest_rows(
    reports: Iterable[Mapping[str, Any]], member: str, *, key: Sequence[str], keep: timedelta, now: datetime
) -> list[dict[str, Any]]:
    """The rows of a member with whose they are, each once: one statement may touch a row once only.

    Args:
        reports: Each with `worker`, `boot`, `seq` and `member`, as `telemetry.reports.parse_report` returns them.
            Buckets over 5 min ahead are left out, and so are those older than `keep`.
        key: What a row is known by, as columns.
    """
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for report in reports:
        source = {name: report[name] for name in ("worker", "boot", "seq")}
        for told in report[member]:
            bucket_at = datetime.fromtimestamp(told["bucket"], UTC)
            if not now - keep <= bucket_at <= now + MAX_CLOCK_AHEAD:
                continue
            # In this order: a row may have members that nobody knows, and whose it is, only its report says.
            row = {**told, **source, "bucket_at": bucket_at}
            which = tuple(row[name] for name in key)
            if which not in found or row["seq"] > found[which]["seq"]:
                found[which] = row
    return list(found.values())


def take_rows(into: Intake, rows: Sequence[Mapping[str, Any]], *, now: datetime) -> None:
    """Take in rows, each once, with `worker`, `boot`, `seq`, `bucket_at` and what the kind has; two statements."""
    newest: dict[tuple[str, str], datetime] = {}
    for row in rows:
        who = (row["worker"], row["boot"])
        newest[who] = max(newest.get(who, row["bucket_at"]), row["bucket_at"])
    sources = [
        {"worker": worker, "boot": boot, "newest_bucket_at": bucket_at} for (worker, boot), bucket_at in newest.items()
    ]
    with connection.cursor() as cursor:
        # First, because it waits for a sealing of the same source, which the second statement then sees.
        cursor.execute(into.note_sources, {"rows": orjson.dumps(sources).decode(), "now": now})
        cursor.execute(into.merge, {"rows": orjson.dumps(rows).decode(), "now": now})
