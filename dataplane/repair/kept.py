"""Answers that nothing could repair, kept for somebody to complete: what is known of one. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from dataplane.errors.answers import RepairNotFound
from dataplane.ids import read_named

OPEN: Final = "open"
COMPLETED: Final = "completed"
EXPIRED: Final = "expired"
STATES: Final = (OPEN, COMPLETED, EXPIRED)
ID_PREFIX: Final = "rep_"


@dataclass(frozen=True, slots=True)
class OpenAnswer:
    """An answer of which a part is not what it has to be.

    Attributes:
        at: The part: "text", or "tool_calls[i]".
        missing: JSON pointers of required fields that it lacks.
        payload: What it takes to complete it. Shape: {"body": a `chat.completion`, "asked": {"response_format"?,
            "tools"?: as the request had them}, "value": as much of the part as could be read, as JSON text, or null}.
    """

    id: UUID
    tenant: str
    user_hash: str
    request_id: str
    route: str
    prompt: str
    version: int
    lane: str
    at: str
    mode: str
    why: str
    missing: Sequence[str]
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StillBroken:
    """What is wrong with a part of it."""

    at: str
    mode: str
    why: str
    missing: tuple[str, ...]

    @property
    def words(self) -> str:
        """For people."""
        return f"{self.at} is not: {self.why}"


@dataclass(frozen=True, slots=True)
class Standing:
    """An answer as it stands. `payload` is None once its time is over."""

    id: UUID
    state: str
    at: str
    mode: str
    why: str
    missing: tuple[str, ...]
    payload: Mapping[str, Any] | None
    created_at: datetime
    expires_at: datetime
    completed_at: datetime | None
    completed_by: str

    @property
    def name(self) -> str:
        """Its id as callers know it."""
        return f"{ID_PREFIX}{self.id.hex}"


def read_id(name: str) -> UUID:
    """Return the id that a caller names.

    Raises:
        RepairNotFound: it is none.
    """
    found = read_named(name, prefix=ID_PREFIX)
    if found is None:
        raise RepairNotFound(name)
    return found
