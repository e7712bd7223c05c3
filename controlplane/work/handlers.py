"""Who does which kind of work: each app registers its own at start-up."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from controlplane.work.errors import UnknownKind

MAX_ATTEMPTS: Final = 8
# So long an attempt may take where its handler says nothing else.
LIMIT_SECONDS: Final = 300.0
# And so long any: a transfer of all there is. Whoever hangs for longer is ended by Celery, whatever it does.
LONGEST_SECONDS: Final = 24 * 3600
TASK: Final = "task"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a piece of work. `number` counts from 1; `key` is the same for all of them, for whoever is asked to do
    something outside.
    """

    id: UUID
    kind: str
    number: int
    tenant: str

    @property
    def key(self) -> str:
        """The idempotency key for whatever is done outside in the name of this work."""
        return str(self.id)


Run = Callable[[dict[str, Any], Attempt], object]


@dataclass(frozen=True, slots=True)
class Handler:
    """How one kind of work is done.

    Attributes:
        run: Does it, or raises; after an exception it is tried again later, after GiveUp it is not.
        work: What its dead letters are called: task, push, webhook …
        max_attempts: Counts the first.
        is_atomic: `run` and the note that it is done are one transaction, so its writes to the database happen exactly
            once. Otherwise it may happen again after a crash, and must not mind.
        limit_seconds: An attempt that takes longer ends with its process, as if that had died: it hangs, or will.
        is_urgent: It is soon done and somebody waits for it: processes of its own do it, so that it never stands behind
            what takes long.
    """

    kind: str
    run: Run
    work: str = TASK
    max_attempts: int = MAX_ATTEMPTS
    is_atomic: bool = False
    limit_seconds: float = LIMIT_SECONDS
    is_urgent: bool = False


_handlers: dict[str, Handler] = {}


def register(handler: Handler) -> None:
    """Have work of its kind done by this handler; the last one counts."""
    _handlers[handler.kind] = handler


def urgent_kinds() -> list[str]:
    """The kinds that processes of their own do."""
    return sorted(handler.kind for handler in _handlers.values() if handler.is_urgent)


def find(kind: str) -> Handler:
    """The handler of a kind.

    Raises:
        UnknownKind: there is none.
    """
    handler = _handlers.get(kind)
    if handler is None:
        raise UnknownKind(kind)
    return handler


def limit_of(kind: str) -> float:
    """How long an attempt at work of a kind may take, in seconds; of an unknown one, as long as most."""
    handler = _handlers.get(kind)
    return LIMIT_SECONDS if handler is None else handler.limit_seconds
