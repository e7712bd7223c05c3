"""How late the event loop of a process turns: what every request in it waits for, besides its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

EVERY_SECONDS: Final = 0.25
# The largest lag of the last one to two of these is shown, so that whoever looks twice a minute misses none.
WINDOW_SECONDS: Final = 30.0


class LoopLag:
    """See the module. `worst_seconds` is of the last half minute or a little more."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` is monotonic seconds."""
        self._clock = clock
        self._began_at = clock()
        self._now = 0.0
        self._before = 0.0
        self._task: asyncio.Task[None] | None = None

    @property
    def worst_seconds(self) -> float:
        """How late it was at worst."""
        return max(self._now, self._before)

    def note(self, seconds: float) -> None:
        """It was so late."""
        now = self._clock()
        if now - self._began_at >= WINDOW_SECONDS:
            self._began_at, self._before, self._now = now, self._now, 0.0
        self._now = max(self._now, seconds)

    def start(self) -> None:
        """Begin to look, on the loop that calls this."""
        self._task = asyncio.create_task(self._look(), name="loop-lag")

    def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _look(self) -> None:
        while True:
            due = self._clock() + EVERY_SECONDS
            await asyncio.sleep(EVERY_SECONDS)
            self.note(max(0.0, self._clock() - due))
