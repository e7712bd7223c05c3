"""Who waits for a record of a key hears when it changes: one listening connection per process, however many wait.

PostgreSQL tells of a change at once (LISTEN); a look at all awaited records together, once in a while, is the floor
under it. So nothing that is lost delays anybody for longer than that: a notification, the connection, a proxy that does
not pass notifications on. Only the look sees that an owner has died, which nobody tells.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import psycopg

from dataplane.errors.idempotency import IdempotencyUnavailable
from dataplane.idempotency import Running

log = logging.getLogger("ballast.idempotency")

LISTENING: Final = "ballast-idempotency-listen"


@dataclass(frozen=True, slots=True)
class Sight:
    """A record as it is seen at one moment. `is_running`: its owner lives."""

    is_running: bool
    epoch: int
    stream_id: str

    def is_news(self, running: Running) -> bool:
        """True when it is not what a duplicate was told when it came."""
        return not self.is_running or (self.epoch, self.stream_id) != (running.epoch, running.stream_id)


@dataclass(eq=False, slots=True)
class _Watch:
    running: Running
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Lookout:
    """See the module. One per process, on one event loop."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[psycopg.AsyncConnection[object]]],
        look: Callable[[Collection[UUID]], Awaitable[dict[UUID, Sight]]],
        *,
        channel: str,
        poll_seconds: float,
    ) -> None:
        """`connect` gives a connection of its own to listen on; `look` sees records, of which those are absent that are
        gone.
        """
        self._connect = connect
        self._look = look
        self._channel = channel
        self._poll_seconds = poll_seconds
        self._watches: dict[UUID, set[_Watch]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.is_listening = asyncio.Event()

    def start(self) -> None:
        """Begin to listen and to look."""
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._poll())]

    async def stop(self) -> None:
        """Stop both; whoever waits then waits until the end of its time."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def wait(self, running: Running, *, timeout_seconds: float) -> bool:
        """Wait until a record is not what it was; False when it still is after `timeout_seconds`.

        Raises:
            IdempotencyUnavailable: it could not even be looked at once.
        """
        watch = _Watch(running)
        watches = self._watches.setdefault(running.record_id, set())
        watches.add(watch)
        try:
            # What happened between the claim and this is not told any more.
            self._tell(await self._look([running.record_id]), [running.record_id])
            async with asyncio.timeout(timeout_seconds):
                await watch.changed.wait()
            return True
        except TimeoutError:
            return watch.changed.is_set()
        finally:
            watches.discard(watch)
            if not watches and self._watches.get(running.record_id) is watches:
                del self._watches[running.record_id]

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds)
            if self._watches:
                records = list(self._watches)
                try:
                    self._tell(await self._look(records), records)
                except IdempotencyUnavailable as exc:
                    log.info("awaited records cannot be looked at: %s", exc.reason)

    async def _listen(self) -> None:
        while True:
            try:
                async with await self._connect() as connection:
                    await connection.execute(f"LISTEN {self._channel}")
                    self.is_listening.set()
                    async for notification in connection.notifies():
                        self._hear(notification.payload)
            except (psycopg.Error, OSError) as exc:
                log.info("nobody tells when records change, they are looked at instead: %s", exc)
            self.is_listening.clear()
            await asyncio.sleep(self._poll_seconds)

    def _hear(self, payload: str) -> None:
        try:
            record = UUID(payload)
        except ValueError:
            return  # everybody may notify on any channel
        for watch in self._watches.get(record, ()):
            watch.changed.set()

    def _tell(self, sights: dict[UUID, Sight], records: Collection[UUID]) -> None:
        for record in records:
            sight = sights.get(record)
            for watch in self._watches.get(record, ()):
                if sight is None or sight.is_news(watch.running):
                    watch.changed.set()
