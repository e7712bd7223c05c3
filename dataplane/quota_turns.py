"""When one worker takes its turns in a pool of `quota`: as soon as somebody needs one, and no oftener than all bear.
Times are monotonic milliseconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from math import inf
from typing import Final

log = logging.getLogger("ballast.quota")

# After a turn that went wrong.
AGAIN_MS: Final = 250.0


class Turns:
    """See the module. Belongs to one event loop; the first turn that somebody needs begins it.

    Attributes:
        due: When the next one is taken.
        last_at: When the last one was; whoever takes it says so.
        apart_ms: They are at least so far apart.
    """

    def __init__(self, name: str, take: Callable[[], Awaitable[None]], *, now: Callable[[], float]) -> None:
        """`name` is the pool's; `take` takes a turn."""
        self.due = inf
        self.last_at = -inf
        self.apart_ms = 0.0
        self._name = name
        self._take = take
        self._now = now
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def hurry(self, within_ms: float) -> None:
        """Have one taken within so long, or earlier."""
        due = self._now() + within_ms
        if due >= self.due:
            return
        self.due = due
        if self._task is None:
            self._task = asyncio.create_task(self._take_regularly(), name=f"quota {self._name}")
        self._wake.set()

    async def stop(self) -> None:
        """Take no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _take_regularly(self) -> None:
        while True:
            delay = max(self.due, self.last_at + self.apart_ms) - self._now()
            if delay > 0:
                self._wake.clear()
                try:
                    async with asyncio.timeout(None if delay == inf else delay / 1000.0):
                        await self._wake.wait()
                except TimeoutError:
                    pass
                continue
            self.due = inf
            try:
                await self._take()
            except Exception:  # whoever waits must not wait for ever because of one mistake
                log.exception("a turn at quota %r failed", self._name)
                self.hurry(AGAIN_MS)
