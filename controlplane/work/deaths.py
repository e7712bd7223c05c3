"""Who is told of work that has failed for good: whatever app keeps dead letters hands itself in at start-up."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from dataplane.deadletters import Failure


@dataclass(frozen=True, slots=True)
class Death:
    """A piece of work that nobody will try again by himself.

    Attributes:
        kind: Of work, a slug: task, push, webhook, message …
        name: Of its handler or address.
        causes: Of its last attempts: {"at", "owner", "code", "message", "status"}.
        payload: What it takes to do it.
    """

    kind: str
    name: str
    work_id: UUID
    failure: Failure
    payload: bytes
    attempts: int
    causes: Sequence[Mapping[str, Any]]
    tenant: str = ""
    user_hash: str = ""
    key: str = ""
    has_tools: bool = False
    redriven_from: UUID | None = None


Bury = Callable[[Death, datetime], object]
_undertakers: list[Bury] = []


def register(bury: Bury) -> None:
    """Have `bury(death, now)` called in the transaction that writes the final state of such work."""
    if bury not in _undertakers:
        _undertakers.append(bury)


def tell(death: Death, *, now: datetime) -> None:
    """Tell everybody who asked. What they raise undoes the transaction: no work ends without its letter."""
    for bury in _undertakers:
        bury(death, now)
