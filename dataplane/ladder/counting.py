"""What is counted of surfaces per 10 seconds: what became of their requests, and how loaded the fleet was. Pure.

Rows are cumulative for their bucket, like rollups, so that one that comes twice changes nothing; what is shipped grows
with surfaces, tiers and rungs, never with requests. Loads are told by whoever decides for the fleet, so that another
policy can be tried later on what the fleet saw, for triggers too that did not exist then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from dataplane.aggregation import BUCKET_SECONDS, Result
from dataplane.ladder.desk import Stand
from dataplane.ladder.policy import LATER
from dataplane.ladder.signals import ARRIVALS, BACKLOG, BREAKERS, IN_FLIGHT, QUEUE_AGE, QUOTA, Told, gather
from dataplane.sketches import Sketch

ANSWERED: Final = "answered"  # a lane's answer
COPIED: Final = "copy"  # signed words, or a known answer
PUT_OFF: Final = "later"  # a promise
REFUSED: Final = "refused"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"  # callers who left
REJECTED: Final = "rejected"  # callers' own mistakes
JOB: Final = "job"  # a runner's own request, whatever became of it: its caller was counted when it was put off
OUTCOMES: Final = (ANSWERED, COPIED, PUT_OFF, REFUSED, FAILED, CANCELLED, REJECTED, JOB)
COUNTS: Final = (
    "requests",
    "reserved",  # of these: in a place that their tier is promised
    "cost_micros",  # in millionths of a US dollar, answered or not
)
SKETCHES: Final = (
    "latency_ms",  # from the request to the end of its answer
    "queued_ms",  # of this, of those that waited for an account's quota
)
# Of a fleet, its highest in the bucket; gauges beside them, by trigger.
VALUES: Final = (IN_FLIGHT, ARRIVALS, BACKLOG, QUEUE_AGE, QUOTA, BREAKERS)
# What a ladder, or a quota, refuses on purpose; each is told when to come again.
_REFUSALS: Final = frozenset({"shed", "maintenance", "quota_exhausted"})


class SurfaceSeries(NamedTuple):
    """What is told apart: `rung` is what a request was served on, OFF in a reserved place; `region` is the gateway's,
    empty where it tells of none.
    """

    surface: str
    region: str
    tier: str
    rung: int
    outcome: str


def outcome_of(stand: Stand, *, result: Result, code: str, is_copy: bool, is_asked: bool) -> str:
    """Return which of OUTCOMES a request came to.

    Args:
        result: As telemetry counts it.
        code: Of the error that it ended with; anything else for one that did not.
        is_copy: Signed copy answered.
        is_asked: A lane was asked.
    """
    if stand.is_job:
        return JOB
    if code in _REFUSALS and result == "error":
        return REFUSED
    if result != "ok":
        return {"error": FAILED, "rejected": REJECTED, "cancelled": CANCELLED}[result]
    if stand.rung == LATER and not is_asked:
        return PUT_OFF  # in signed words, which are no answer here
    return COPIED if is_copy else ANSWERED


class _Row:
    """What one series counted in one bucket so far."""

    __slots__ = ("changed", "cost_micros", "latency_ms", "queued_ms", "requests", "reserved")

    def __init__(self) -> None:
        self.changed = True
        self.requests = 0
        self.reserved = 0
        self.cost_micros = 0
        self.latency_ms = Sketch()
        self.queued_ms = Sketch()

    def to_json(self, bucket: int, series: SurfaceSeries) -> dict[str, Any]:
        """Shape: see `SurfaceCounting.drain`."""
        return {
            "bucket": bucket,
            **series._asdict(),
            **{name: getattr(self, name) for name in COUNTS},
            **{name: getattr(self, name).to_json() for name in SKETCHES},
        }


class _Load:
    """What was seen of one surface in one bucket so far."""

    __slots__ = ("attempts", "changed", "failures", "gauges", "generation", "is_alone", "level", "values")

    def __init__(self) -> None:
        self.changed = True
        self.values: dict[str, float] = {}
        self.gauges: dict[str, float] = {}
        self.attempts = 0
        self.failures = 0
        self.level = 0
        self.generation = 0
        self.is_alone = False

    def to_json(self, bucket: int, surface: str) -> dict[str, Any]:
        """Shape: see `SurfaceCounting.drain_loads`."""
        return {
            "bucket": bucket,
            "surface": surface,
            "level": self.level,
            "generation": self.generation,
            "is_alone": self.is_alone,
            "values": {
                **{name: self.values.get(name) for name in VALUES},
                "gauges": dict(self.gauges),
                "attempts": self.attempts,
                "failures": self.failures,
            },
        }


class SurfaceCounting:
    """The rows of one process. Belongs to one event loop: nothing here waits, nothing is locked."""

    __slots__ = ("_current", "_loads", "_region", "_rows", "_totals", "_wall")

    def __init__(self, *, region: str = "", wall: Callable[[], float] = time.time) -> None:
        """`region` is the gateway's; `wall` epoch seconds."""
        self._region = region
        self._wall = wall
        self._rows: dict[int, dict[SurfaceSeries, _Row]] = {}
        self._loads: dict[int, dict[str, _Load]] = {}
        # By surface and worker: attempts and failures as last heard, of which only the growth counts.
        self._totals: dict[str, dict[str, tuple[int, int]]] = {}
        self._current = 0

    def record(
        self, stand: Stand, outcome: str, *, cost_micros: int, latency_ms: float, queued_ms: float | None
    ) -> None:
        """Count a request that has ended, under the bucket of this moment.

        Args:
            outcome: One of OUTCOMES.
            queued_ms: How long it waited for an account's quota; None: it did not.
        """
        self._open(self._wall())
        series = SurfaceSeries(stand.surface.slug, self._region, stand.tier, stand.rung, outcome)
        rows = self._rows.setdefault(self._current, {})
        row = rows.get(series)
        if row is None:
            row = rows[series] = _Row()
        row.changed = True
        row.requests += 1
        row.reserved += stand.is_reserved
        row.cost_micros += cost_micros
        row.latency_ms.add(latency_ms)
        if queued_ms is not None:
            row.queued_ms.add(queued_ms)

    def see(
        self,
        surface: str,
        tellings: Mapping[str, Told],
        *,
        counted: Mapping[str, Told],
        level: int,
        generation: int,
        leads: bool,
        is_alone: bool,
    ) -> None:
        """Take in one turn of the fleet.

        Args:
            tellings: Of a surface, by worker: what triggers look at.
            counted: The same, of those whose attempts are to be counted.
            leads: Whether this worker tells of the load; one that does not only learns where counts begin, so that it
                can go on with them.
            is_alone: It decides by itself because the fleet cannot be heard.
        """
        attempts, failures = self._growth(surface, counted)
        if not leads or not tellings:
            return
        self._open(self._wall())
        loads = self._loads.setdefault(self._current, {})
        load = loads.get(surface)
        if load is None:
            load = loads[surface] = _Load()
        load.changed = True
        told = list(tellings.values())
        for name in VALUES:
            _raise(load.values, name, gather(name, "", told))
        for one in told:
            for trigger, value in one.gauges.items():
                _raise(load.gauges, trigger, value)
        load.attempts += attempts
        load.failures += failures
        load.level, load.generation = max(load.level, level), max(load.generation, generation)
        load.is_alone = load.is_alone or is_alone

    def drain(self, now: float) -> list[dict[str, Any]]:
        """The rows that changed since the last drain, each cumulative for its bucket; closed buckets are forgotten.

        Shape: [{"bucket": epoch seconds, "surface", "region", "tier": str, "rung": 0..6, "outcome": one of OUTCOMES,
                each of COUNTS: int, each of SKETCHES: see `Sketch.to_json`}].

        Args:
            now: Epoch seconds.
        """
        self._open(now)
        return _drained(self._rows, self._current)

    def drain_loads(self, now: float) -> list[dict[str, Any]]:
        """As `drain`, of loads.

        Shape: [{"bucket", "surface", "level": the highest rung that triggers had engaged, "generation": int,
                "is_alone": bool, "values": {each of VALUES: float or null, "gauges": {trigger: float}, "attempts",
                "failures": int}}].
        """
        self._open(now)
        return _drained(self._loads, self._current)

    def _growth(self, surface: str, counted: Mapping[str, Told]) -> tuple[int, int]:
        """How many attempts were made, and failed, since the turn before, by workers that were heard then too."""
        before = self._totals.get(surface, {})
        attempts = failures = 0
        for worker, told in counted.items():
            known = before.get(worker)
            if known is not None:
                attempts += max(0, told.attempts - known[0])
                failures += max(0, told.failures - known[1])
        self._totals[surface] = {worker: (told.attempts, told.failures) for worker, told in counted.items()}
        return attempts, failures

    def _open(self, at: float) -> None:
        """Buckets only move forwards: one that was forgotten would begin at zero again, and replace what was told."""
        self._current = max(self._current, int(at) // BUCKET_SECONDS * BUCKET_SECONDS)


def _drained(buckets: dict[int, Any], current: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for bucket, rows in list(buckets.items()):
        for key, row in rows.items():
            if row.changed:
                row.changed = False
                found.append(row.to_json(bucket, key))
        if bucket != current:
            del buckets[bucket]
    return found


def _raise(values: dict[str, float], name: str, value: float | None) -> None:
    if value is not None:
        values[name] = max(values.get(name, value), value)
