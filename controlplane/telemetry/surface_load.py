"""How loaded a surface was, as whoever decided for the fleet read it: for charts, and to try another policy on."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import pairwise
from typing import Any, Final, NamedTuple

import orjson
from django.db import connection

from controlplane.telemetry.models import BUCKET
from controlplane.telemetry.surface_rows import KEEP_READINGS, SurfaceReading
from controlplane.telemetry.traffic import step_for
from dataplane.ladder.counting import VALUES

_HIGHEST: Final = ", ".join(f"max({name})" for name in VALUES)
# Alone, each worker told the whole of what it took the fleet for, and its own attempts; both come to the same here.
_STEPS: Final = f"""
WITH rows AS MATERIALIZED (
    SELECT extract(epoch FROM date_bin(%(step)s, bucket_at, %(origin)s))::bigint AS at, *
    FROM {SurfaceReading._meta.db_table}
    WHERE surface = %(surface)s AND bucket_at >= %(since)s AND bucket_at < %(until)s
), gauges AS (
    SELECT at, jsonb_object_agg(key, value) AS gauges FROM (
        SELECT at, e.key, max(e.value::float8) AS value FROM rows, jsonb_each_text(gauges) AS e(key, value)
        GROUP BY 1, 2
    ) g GROUP BY at
)
SELECT s.*, g.gauges FROM (
    SELECT at, {_HIGHEST}, sum(attempts)::bigint, sum(failures)::bigint, max(level), max(generation), bool_or(is_alone)
    FROM rows GROUP BY at
) s LEFT JOIN gauges g ON g.at = s.at ORDER BY s.at
"""  # noqa: S608 - every name in it is a constant of ours; the values are parameters
_ORIGIN: Final = datetime(2020, 1, 1, tzinfo=UTC)


class LoadPoint(NamedTuple):
    """What the fleet read in one step of time. A tuple, since a week has sixty thousand of them.

    Attributes:
        values: Each of `dataplane.ladder.counting.VALUES`, its highest; None: nobody could take it.
        gauges: By trigger.
        attempts, failures: How many were made at the surface's lanes, and failed.
        level: The highest rung that triggers had engaged.
        is_alone: A worker that could not hear the fleet told of it, too.
    """

    at: datetime
    values: Mapping[str, float | None]
    gauges: Mapping[str, float]
    attempts: int
    failures: int
    level: int
    generation: int
    is_alone: bool

    def to_json(self) -> dict[str, Any]:
        """Shape: {"at": ISO-8601, "values": {signal: float or null}, "gauges": {trigger: float}, "attempts",
        "failures", "level", "generation": int, "is_alone": bool}.
        """
        return {
            "at": self.at.isoformat(),
            "values": dict(self.values),
            "gauges": dict(self.gauges),
            "attempts": self.attempts,
            "failures": self.failures,
            "level": self.level,
            "generation": self.generation,
            "is_alone": self.is_alone,
        }


@dataclass(frozen=True)
class Load:
    """The stored load of a surface in [since, until): `points`, oldest first, a `step` each; where none is, nobody told
    of it.
    """

    surface: str
    since: datetime
    until: datetime
    step: timedelta
    points: tuple[LoadPoint, ...]

    @cached_property
    def gaps(self) -> int:
        """In how many stretches between its readings nobody told."""
        return sum(later.at - earlier.at > self.step for earlier, later in pairwise(self.points))

    @property
    def told_seconds(self) -> float:
        """Of how much time there are readings."""
        return len(self.points) * self.step.total_seconds()

    @property
    def sentence(self) -> str:
        """How much there is, such as '23.5 h of readings, 2 gaps'."""
        if not self.points:
            return "no readings"
        gaps = {0: "no gap", 1: "1 gap"}.get(self.gaps, f"{self.gaps} gaps")
        return f"{self.told_seconds / 3600:.1f} h of readings, {gaps}"


def readings(surface: str, *, since: datetime, until: datetime, step: timedelta | None = None) -> Load:
    """The load of a surface in [since, until); one query.

    10 s rows are kept for 14 days; after that, of each minute those of its first 10 s.

    Args:
        step: A multiple of 10 s; None: what gives a chart at most some 200 points.
    """
    step = step or step_for(since, until)
    asked: dict[str, Any] = {"surface": surface, "since": since, "until": until, "step": step, "origin": _ORIGIN}
    points = []
    with connection.cursor() as cursor:
        cursor.execute(_STEPS, asked)
        for at, *values, attempts, failures, level, generation, is_alone, gauges in cursor.fetchall():
            points.append(
                LoadPoint(
                    at=datetime.fromtimestamp(at, UTC),
                    values=dict(zip(VALUES, values, strict=True)),
                    gauges=_parsed(gauges),
                    attempts=attempts,
                    failures=failures,
                    level=level,
                    generation=generation,
                    is_alone=is_alone,
                )
            )
    return Load(surface, since, until, step, tuple(points))


def raw_readings(surface: str, *, since: datetime, until: datetime, now: datetime) -> Load:
    """The same in the steps that were told, as a policy is tried on: of the last 14 days at most."""
    return readings(surface, since=max(since, now - KEEP_READINGS), until=until, step=BUCKET)


def _parsed(gauges: Any) -> dict[str, float]:
    if gauges is None:
        return {}
    # Of a cursor of Django's, jsonb is text.
    found: dict[str, float] = orjson.loads(gauges) if isinstance(gauges, str) else gauges
    return found
