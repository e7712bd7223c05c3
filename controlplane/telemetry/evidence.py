"""What gateways counted of canaries for the decision about them: sums per arm and group of units, and who saw what.

Kept by canary, worker and boot, and by unit; never by request.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final

import orjson
from django.db import connection, models
from django.db.models import Count, Q

from dataplane.cohorts import Arm
from dataplane.evidence import CANDIDATE, CELL, CONTROL

KEEP_EVIDENCE: Final = timedelta(days=35)

Sums = tuple[float, ...]


class CanaryCells(models.Model):
    """What one boot of one worker counted in one arm of a canary since it began; a newer report replaces it."""

    canary = models.CharField(max_length=100)
    worker = models.CharField(max_length=120)
    boot = models.CharField(max_length=32)
    arm = models.CharField(max_length=10, help_text="canary or control")
    seq = models.BigIntegerField(help_text="Of the report, per boot")
    cells = models.JSONField(help_text="[[group, *sums in the order of `dataplane.evidence.CELL`]]")
    changed_at = models.DateTimeField(help_text="When the control plane last took in something newer")

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["canary", "worker", "boot", "arm"], name="one_canary_cells"),
        ]

    def __str__(self) -> str:
        return f"{self.canary} {self.arm} {self.worker} {self.boot}"


class ExposedUnitQuerySet(models.QuerySet["ExposedUnit"]):
    """Reads of who saw what."""

    def of_canary(self, slug: str) -> "ExposedUnitQuerySet":
        """Units in the arms of one canary."""
        return self.filter(canary=slug)

    def strayed(self) -> "ExposedUnitQuerySet":
        """Units that saw the version of the other arm."""
        return self.filter(Q(arm=Arm.CANARY, saw_control=True) | Q(arm=Arm.CONTROL, saw_candidate=True))


class ExposedUnit(models.Model):
    """One unit of a canary's arms, and which of the two versions it was ever served, at any worker.

    A sample: see `dataplane.evidence`. The unit is a part of a salted hash, not who it is.
    """

    canary = models.CharField(max_length=100)
    unit = models.CharField(max_length=16)
    group = models.SmallIntegerField(help_text="Of the arm's groups, the one that counts the unit")
    arm = models.CharField(max_length=10, help_text="canary or control")
    saw_candidate = models.BooleanField()
    saw_control = models.BooleanField()
    changed_at = models.DateTimeField()

    objects = ExposedUnitQuerySet.as_manager()

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["canary", "unit"], name="one_exposed_unit")]
        indexes: ClassVar = [
            # All that is counted, so that counting reads nothing else.
            models.Index(fields=["canary", "arm", "saw_candidate", "saw_control", "group"], name="exposed_of_canary"),
            models.Index(fields=["changed_at"], name="exposed_by_age"),
        ]

    def __str__(self) -> str:
        return f"{self.canary} {self.unit}"


@dataclass(frozen=True, slots=True)
class Exposed:
    """Who saw a canary's versions, as far as gateways told.

    Attributes:
        canary_units, control_units: Units that were served the version of their own arm, thinned alike in both.
        both: Of these, those that were served the other one as well.
        contaminated_groups: Groups with a unit that was served the version of the other arm, thinned out or not.
    """

    canary_units: int
    control_units: int
    both: int
    contaminated_groups: frozenset[int]


# One parameter, however many rows. Sorted, so that two processes never wait for each other in a circle.
_TAKE_CELLS: Final = f"""
INSERT INTO {CanaryCells._meta.db_table} AS c (canary, worker, boot, arm, seq, cells, changed_at)
SELECT r.canary, r.worker, r.boot, r.arm, r.seq, r.cells, %(now)s
FROM json_to_recordset(%(rows)s::json) AS r(canary text, worker text, boot text, arm text, seq bigint, cells jsonb)
ORDER BY r.canary, r.worker, r.boot, r.arm
ON CONFLICT (canary, worker, boot, arm) DO UPDATE
SET seq = excluded.seq, cells = excluded.cells, changed_at = excluded.changed_at
WHERE excluded.seq > c.seq
"""  # noqa: S608 - every name in it is a constant of ours; the values are parameters
_TAKE_EXPOSURES: Final = f"""
INSERT INTO {ExposedUnit._meta.db_table} AS e (canary, unit, "group", arm, saw_candidate, saw_control, changed_at)
SELECT r.canary, r.unit, r."group", r.arm, r.saw_candidate, r.saw_control, %(now)s
FROM json_to_recordset(%(rows)s::json)
    AS r(canary text, unit text, "group" smallint, arm text, saw_candidate boolean, saw_control boolean)
ORDER BY r.canary, r.unit
ON CONFLICT (canary, unit) DO UPDATE
SET saw_candidate = e.saw_candidate OR excluded.saw_candidate, saw_control = e.saw_control OR excluded.saw_control,
    changed_at = excluded.changed_at
WHERE excluded.saw_candidate > e.saw_candidate OR excluded.saw_control > e.saw_control
"""  # noqa: S608 - as above


def record_evidence(reports: Iterable[Mapping[str, Any]], *, now: datetime) -> set[str]:
    """Take in what reports tell of canaries; delivered twice, late or out of order, it gives the same tables.

    Cells are cumulative since their boot began, so the newest replace those before them; who saw a version has seen it
    for ever. At most two statements, however many rows, and none where there are none.

    Args:
        reports: Each with `worker`, `boot`, `seq`, `sent_at`, `evidence` and `exposures`, as
            `telemetry.reports.parse_report` returns them. What was sent more than KEEP_EVIDENCE ago is left out.
    Returns:
        The canaries that something was told of.
    """
    cells: dict[tuple[str, ...], dict[str, Any]] = {}
    exposed: dict[tuple[str, str], dict[str, Any]] = {}
    for report in reports:
        if datetime.fromtimestamp(report["sent_at"], UTC) < now - KEEP_EVIDENCE:
            continue
        source = {name: report[name] for name in ("worker", "boot", "seq")}
        for row in report["evidence"]:
            # One statement may touch a row once only, so the newest of the batch is found here, and so below.
            key = (row["canary"], source["worker"], source["boot"], row["arm"])
            known = cells.get(key)
            if known is None or source["seq"] > known["seq"]:
                cells[key] = source | {name: row[name] for name in ("canary", "arm", "cells")}
        for row in report["exposures"]:
            unit = exposed.setdefault(
                (row["canary"], row["unit"]),
                {name: row[name] for name in ("canary", "unit", "group", "arm")}
                | {"saw_candidate": False, "saw_control": False},
            )
            unit["saw_candidate"] |= row["served"] == CANDIDATE
            unit["saw_control"] |= row["served"] == CONTROL
    for statement, rows in ((_TAKE_CELLS, cells.values()), (_TAKE_EXPOSURES, exposed.values())):
        if rows:
            with connection.cursor() as cursor:
                cursor.execute(statement, {"rows": orjson.dumps(list(rows)).decode(), "now": now})
    return {key[0] for key in cells} | {key[0] for key in exposed}


_TYPES: Final = {"log2_ms": "float8"}
# Added up where they are: a fleet's rows of a long canary are megabytes, their sums a few kilobytes.
_SUM: Final = f"""
SELECT arm, (cell ->> 0)::int,
    {", ".join(f"SUM((cell ->> {place})::{_TYPES.get(name, 'bigint')})" for place, name in enumerate(CELL, 1))}
FROM {CanaryCells._meta.db_table}, jsonb_array_elements(cells) AS cell
WHERE canary = %s GROUP BY 1, 2 ORDER BY 1, 2
"""  # noqa: S608 - as above


def live_sums(canary: str) -> dict[str, dict[int, Sums]]:
    """What was counted in both arms of a canary, over all workers and boots; one query.

    Shape: {"canary": {group: sums in the order of CELL}, "control": {...}}; a group without requests is left out.
    """
    arms: dict[str, dict[int, Sums]] = {Arm.CANARY.value: {}, Arm.CONTROL.value: {}}
    with connection.cursor() as cursor:
        cursor.execute(_SUM, [canary])
        for arm, group, *sums in cursor.fetchall():
            arms[arm][group] = tuple(
                float(value) if name == "log2_ms" else int(value) for name, value in zip(CELL, sums, strict=True)
            )
    return arms


def exposure_of(canary: str) -> Exposed:
    """Who saw the versions of a canary; two queries."""
    units = ExposedUnit.objects.of_canary(canary)
    counts = units.aggregate(
        canary=Count("pk", filter=Q(arm=Arm.CANARY, saw_candidate=True)),
        control=Count("pk", filter=Q(arm=Arm.CONTROL, saw_control=True)),
        both=Count("pk", filter=Q(saw_candidate=True, saw_control=True)),
    )
    groups = units.strayed().order_by().values_list("group", flat=True).distinct()
    return Exposed(counts["canary"], counts["control"], counts["both"], frozenset(groups))


def forget_evidence(*, now: datetime, limit: int) -> int:
    """Delete what is known of canaries of which nothing new has come for KEEP_EVIDENCE; returns how many rows.

    A worker that was replaced while its canary went on is kept with it: its part of the evidence is still that.

    Args:
        limit: Rows of each table; what is over is left to the next run.
    """
    horizon = now - KEEP_EVIDENCE
    alive = set(CanaryCells.objects.filter(changed_at__gte=horizon).values_list("canary", flat=True).distinct())
    deleted = 0
    kept: tuple[type[models.Model], ...] = (CanaryCells, ExposedUnit)
    for model in kept:
        old = model._default_manager.filter(changed_at__lt=horizon).exclude(canary__in=alive).order_by("changed_at")
        deleted += model._default_manager.filter(pk__in=old.values("pk")[:limit]).delete()[0]
    return deleted
