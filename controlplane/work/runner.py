"""Does what is due, one piece after the other, in one process."""

import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable
from datetime import datetime
from random import Random
from types import TracebackType
from typing import Final, Self

from django.db import Error, connection, transaction

from controlplane import tracing
from controlplane.work import arguments, handlers, operations
from controlplane.work.errors import LeaseLost
from controlplane.work.operations import Taken
from dataplane.tracing import Facts

logger = logging.getLogger(__name__)

RENEW_SECONDS: Final = 10.0
# For how long one word keeps a process at it: what comes after has word of its own, or the sweep's.
BUSY_SECONDS: Final = 5.0


def end_process() -> None:
    """End this process as if it had been killed: what hangs cannot be asked to stop. The pool starts another one."""
    os.kill(os.getpid(), signal.SIGKILL)


class Holding:
    """Holds on to a piece of work while it is being done, from a thread with a connection of its own; one that is soon
    done never needs it. One that takes longer than it may is let go of, and `end` is called.
    """

    def __init__(
        self,
        taken: Taken,
        *,
        limit_seconds: float = handlers.LIMIT_SECONDS,
        seconds: float = RENEW_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        end: Callable[[], None] = end_process,
    ) -> None:
        """`clock` is monotonic seconds."""
        self._taken = taken
        self._seconds = seconds
        self._clock = clock
        self._end = end
        self._until = clock() + limit_seconds
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._hold, name=f"work-{taken.id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join()

    def _hold(self) -> None:
        renewed = False
        while not self._is_over.wait(self._seconds):
            if self._clock() >= self._until:
                logger.error("work %s of kind %r takes longer than it may", self._taken.id, self._taken.kind)
                self._end()
                break
            renewed = True
            try:
                if not operations.renew(self._taken):
                    logger.warning("work %s is somebody else's by now", self._taken.id)
                    break
            except Error as exc:  # the next turn may succeed; until the lease is over nobody else has it
                logger.info("the lease of work %s cannot be renewed now: %s", self._taken.id, exc)
                connection.close()
        if renewed:
            connection.close()


def new_owner() -> str:
    """A name for whoever takes the next work: this process, and no other, not even its successor of the same number."""
    return f"{socket.gethostname()}/work/{os.getpid()}/{uuid.uuid4().hex[:8]}"


def run_next(*, owner: str, rng: Random, now: Callable[[], datetime], is_urgent: bool = False) -> bool:
    """Try what is due first, of what is urgent alone or of all, to the end of this attempt. False: nothing is."""
    taken = operations.take(owner=owner, is_urgent=is_urgent)
    if taken is None:
        return False
    try:
        facts: Facts = {"ballast.work.kind": taken.kind, "ballast.work.id": str(taken.id)}
        with (
            Holding(taken, limit_seconds=handlers.limit_of(taken.kind)),
            tracing.continued(f"work {taken.kind}", parent=taken.traceparent, facts=facts),
        ):
            _do(taken)
    except LeaseLost as exc:
        logger.warning("%s; drop what it did", exc)
    except Exception as exc:
        logger.warning("work %s of kind %r failed", taken.id, taken.kind, exc_info=True)
        try:
            operations.fail(taken, exc, rng=rng, now=now())
        except LeaseLost as lost:
            logger.warning("%s; drop why it failed", lost)
    return True


def _do(taken: Taken) -> None:
    handler = handlers.find(taken.kind)
    told = arguments.read(taken.arguments)
    if not handler.is_atomic:
        handler.run(told, taken.attempt)
        operations.finish(taken)
        return
    with transaction.atomic():
        handler.run(told, taken.attempt)
        operations.finish(taken)


def run_due(*, rng: Random, now: Callable[[], datetime], clock: Callable[[], float], is_urgent: bool = False) -> int:
    """Do what is due, of what is urgent alone or of all, until nothing is, or for BUSY_SECONDS; returns how many pieces
    were tried. `clock` is monotonic seconds.
    """
    begun, tried, owner = clock(), 0, new_owner()
    while run_next(owner=owner, rng=rng, now=now, is_urgent=is_urgent):
        tried += 1
        if clock() - begun >= BUSY_SECONDS:
            operations.send_word(is_urgent=is_urgent)
            break
    return tried
