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
