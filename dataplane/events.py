"""What happened in a worker that a person may want to see on a timeline.

Deciders return events; the edge reports them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class Event:
    """Root of all events. `at` is wall-clock time in epoch seconds.

    `kind` is stable and names the class for consumers.
    """

    kind: ClassVar[str]

    at: float

    def to_json(self) -> dict[str, Any]:
        """Shape: {"at": float, "kind": str, "data": {the other fields}}."""
        data = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "at"}
        return {"at": self.at, "kind": self.kind, "data": data}


@dataclass(frozen=True, slots=True)
class ReportsDropped(Event):
    """The spool was full: the oldest batches are gone, and with them some telemetry and usage rows."""

    kind = "reports.dropped"

    batches: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ReportsDelayed(Event):
    """Reports could not be delivered and go to the local spool from here on; `reason` says why."""

    kind = "reports.delayed"

    reason: str


@dataclass(frozen=True, slots=True)
class ReportsCaughtUp(Event):
    """The spool has been replayed: `batches` of them, since delivery failed."""

    kind = "reports.caught_up"

    batches: int


@dataclass(frozen=True, slots=True)
class BreakerChanged(Event):
    """The breaker of a lane moved in this worker, because of a window or a probe; another worker's verdict that it took
    over is no event of its own. Workers that conclude the same from the fleet's sums all say so: their `generation` is
    then the same. `measured` is what made it open: see `breaker.Trip.to_json`.
    """

    kind = "breaker.changed"

    lane: str
    before: str
    after: str
    cause: str
    generation: int
    open_seconds: float
    measured: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BreakerWithheld(Event):
    """A breaker stayed closed, or opened and is passed by, because a route would have too little left; `reason` says
    which and why.
    """

    kind = "breaker.withheld"

    lane: str
    reason: str
    measured: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BreakersAlone(Event):
    """The fleet's breakers cannot be heard; this worker judges lanes by what it sees itself. `reason` says why."""

    kind = "breakers.alone"

    reason: str


@dataclass(frozen=True, slots=True)
class BreakersShared(Event):
    """The fleet's breakers are heard again."""

    kind = "breakers.shared"


@dataclass(frozen=True, slots=True)
class StreamLogLost(Event):
    """The log of streams cannot be written; streams go on in this worker's memory alone. `reason` says why."""

    kind = "streams.log_lost"

    reason: str


@dataclass(frozen=True, slots=True)
class StreamLogBack(Event):
    """The log of streams is written again, with what it lacked."""

    kind = "streams.log_back"


@dataclass(frozen=True, slots=True)
class QuotaPaused(Event):
    """A provider said 429 on `lane`: nobody of the fleet asks the account of the pool for `seconds` (0: it named no
    time).
    """

    kind = "quota.paused"

    pool: str
    account: str
    lane: str
    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class QuotaLearned(Event):
    """A provider names a limit that is lower than the declared one, or that nobody declared."""

    kind = "quota.learned"

    pool: str
    limit: str
    declared: float | None
    learned: float


@dataclass(frozen=True, slots=True)
class QuotaAlone(Event):
    """The pool cannot be shared; this worker keeps to its part of the limits. `reason` says why."""

    kind = "quota.alone"

    pool: str
    reason: str


@dataclass(frozen=True, slots=True)
class QuotaShared(Event):
    """The pool is shared with the fleet again."""

    kind = "quota.shared"

    pool: str


@dataclass(frozen=True, slots=True)
class ShadowKilled(Event):
    """The shadow of a policy was stopped, for the whole fleet and until somebody lifts it or the policy changes: its
    calls failed, or cost too much. `cause` is the threshold, `measured` what was seen: see `shadow.switch`.
    """

    kind = "shadow.killed"

    policy: str
    digest: str
    cause: str
    measured: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ShadowPaused(Event):
    """The shadow of a policy rests until the next UTC day, because a budget of this one is spent."""

    kind = "shadow.paused"

    policy: str
    digest: str
    measured: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ShadowResumed(Event):
    """The shadow of a policy goes on: somebody lifted what killed it (`cause` lifted), or it is another day
    (new_day).
    """

    kind = "shadow.resumed"

    policy: str
    digest: str
    cause: str


@dataclass(frozen=True, slots=True)
class LadderMoved(Event):
    """The ladder of a surface took one step by itself. `trigger` is what raised it, `reading` what that read then (None
    of a step down), `readings` what every trigger read; `generation` counts a surface's steps in its fleet.
    """

    kind = "ladder.moved"

    surface: str
    before: int
    after: int
    cause: str
    trigger: str
    reading: float | None
    readings: dict[str, float | None]
    generation: int


@dataclass(frozen=True, slots=True)
class LadderOrdered(Event):
    """Somebody engaged a rung on this worker's host, with an order that was signed beforehand; `by` is who they said
    they are. `until` is epoch seconds.
    """

    kind = "ladder.ordered"

    id: str
    surface: str
    rung: int
    until: float
    reason: str
    by: str


@dataclass(frozen=True, slots=True)
class LadderAlone(Event):
    """The fleet's ladders cannot be heard; this worker decides by what it sees itself. `reason` says why."""

    kind = "ladder.alone"

    reason: str


@dataclass(frozen=True, slots=True)
class LadderShared(Event):
    """The fleet's ladders are heard again."""

    kind = "ladder.shared"
