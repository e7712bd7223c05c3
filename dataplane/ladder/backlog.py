"""How long the oldest question has waited that rung 4 put off: asked of the store of jobs, by the fleet's leader alone.

It is what holds a ladder on that rung: from there on fewer requests are under way, however many come, and what was
promised is still to be kept.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

from dataplane.errors.jobs import JobsUnavailable
from dataplane.stores.jobs import JobStore

log = logging.getLogger("ballast.ladder")

LOOK_SECONDS: Final = 2.0


class Backlog:
    """See the module. Belongs to one event loop. The store is somebody else's to start and to stop."""

    def __init__(
        self, store: JobStore | None, *, leads: Callable[[], bool], look_seconds: float = LOOK_SECONDS
    ) -> None:
        """`store` None: nobody can be asked. `leads` says whether this worker decides."""
        self._store = store
        self._leads = leads
        self._look_seconds = look_seconds
        self._ages: Mapping[str, float] | None = None
        self._task: asyncio.Task[None] | None = None

    def age_seconds(self, surface: str) -> float | None:
        """How long the oldest question of a surface has waited by now; 0.0 where none waits, None where nobody knows.
        Never waits.
        """
        return None if self._ages is None else self._ages.get(surface, 0.0)

    async def start(self) -> None:
        """Begin to look."""
        if self._store is not None:
            self._task = asyncio.create_task(self._look_regularly(self._store), name="ladder-backlog")

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def look(self, store: JobStore) -> None:
        """Look once. Whoever does not lead, or cannot be told, knows nothing rather than what was so a while ago."""
        if not self._leads():
            self._ages = None
            return
        try:
            self._ages = await store.oldest_put_off()
        except JobsUnavailable as exc:
            self._ages = None
            log.info("nobody knows how long questions have waited that were put off: %s", exc.reason)

    async def _look_regularly(self, store: JobStore) -> None:
        while True:
            try:
                await self.look(store)
            except Exception:  # whatever it was, the next turn comes
                self._ages = None
                log.exception("the questions that were put off cannot be looked at")
            await asyncio.sleep(self._look_seconds)
