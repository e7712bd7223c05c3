"""Writes the frames of all streams of a process to the log: what came while one round trip ran goes into the next.

So the log costs a round trip per moment and not per frame, and a stream waits for at most two of them. While the log is
away, frames are shown without it and written later, in order, so that no number is ever missing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol

from dataplane.errors.streams import StreamLogUnavailable
from dataplane.events import Event, StreamLogBack, StreamLogLost
from dataplane.productions import Production
from dataplane.stores.streams import Append, StreamLog

log = logging.getLogger("ballast.streams")

# An owner that was not heard of for so long is held to be dead, and its streams are ended by another process.
LEASE_SECONDS: Final = 5.0
RETRY_SECONDS: Final = 1.0
MAX_STREAMS_PER_ROUND: Final = 200


class EventSink(Protocol):
    """Takes events, such as `ReportShipper`."""

    def add_event(self, event: Event) -> None:
        """Take over something that happened; must not wait."""


class StreamWriter:
    """See the module. One task of the process writes; everybody else only marks."""

    def __init__(
        self,
        *,
        store: StreamLog,
        owner: str,
        events: EventSink,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        """`owner` names this process and no other, not even its successor. `clock` is monotonic, `wall` epoch."""
        self._store = store
        self._owner = owner
        self._events = events
        self._clock = clock
        self._wall = wall
        self._due: dict[str, Production] = {}
        self._marked = asyncio.Event()
        self._is_down = False
        self._retry_at = 0.0
        self.up_since = clock()
        self._came_back = False

    @property
    def is_down(self) -> bool:
        """True while the log cannot be written."""
        return self._is_down

    @property
    def is_filling(self) -> bool:
        """True when the log was away a moment ago: it may lack streams that their owners are about to write again."""
        return self._came_back and self._clock() - self.up_since < LEASE_SECONDS

    def mark(self, production: Production) -> None:
        """Note that `production` has something to write; while the log is away, it is shown at once."""
        if self._is_down and self._clock() < self._retry_at:
            production.show()
            return
        self._due[production.id] = production
        self._marked.set()

    def lost(self, error: StreamLogUnavailable) -> None:
        """Note that the log cannot be asked."""
        self._retry_at = self._clock() + RETRY_SECONDS
        if not self._is_down:
            self._is_down = True
            log.warning("the log of streams cannot be written: %s", error.reason)
            self._events.add_event(StreamLogLost(at=self._wall(), reason=error.reason))

    def heard(self) -> None:
        """Note that the log answers."""
        if self._is_down:
            self._is_down = False
            self._came_back = True
            self.up_since = self._clock()
            log.warning("the log of streams is written again")
            self._events.add_event(StreamLogBack(at=self._wall()))

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._marked.wait()
            self._marked.clear()
            try:
                await self._write_due()
            except Exception:  # every stream of the process waits for this task; what was due comes with the next tick
                log.exception("writing streams failed")

    async def _write_due(self) -> None:
        due, self._due = self._due, {}
        productions = [production for production in due.values() if production.is_unwritten]
        for start in range(0, len(productions), MAX_STREAMS_PER_ROUND):
            await self._write(productions[start : start + MAX_STREAMS_PER_ROUND])

    async def _write(self, productions: list[Production]) -> None:
        appends: dict[Production, Append] = {}
        for production in productions:
            try:
                appends[production] = production.next_append()
            except Exception:  # a stream that cannot be written must hold up neither the others, nor its caller
                log.exception("stream %s cannot be written", production.id)
                production.show()
        if not appends:
            return
        try:
            answers = await self._store.append(list(appends.values()), owner=self._owner, lease_seconds=LEASE_SECONDS)
        except StreamLogUnavailable as exc:
            self.lost(exc)
            for production in appends:
                production.show()
            return
        except Exception:  # as above
            log.exception("streams could not be written")
            for production in appends:
                production.show()
            return
        self.heard()
        for (production, append), answer in zip(appends.items(), answers, strict=True):
            production.settle(append, answer)
            if production.is_unwritten:
                self.mark(production)
