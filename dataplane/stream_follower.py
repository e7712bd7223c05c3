"""Brings the frames of streams that other processes generate, to whoever reads them here: one wait for all of them."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from dataplane.errors.streams import StreamLogUnavailable
from dataplane.productions import View
from dataplane.stores.streams import StreamLog

log = logging.getLogger("ballast.streams")

WAIT_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 0.25
# Readers of a log that has been away for so long are let go; their clients come back by themselves.
PATIENCE: Final = 20


class StreamFollower:
    """See the module."""

    def __init__(self, store: StreamLog) -> None:
        self._store = store
        self._views: dict[str, View] = {}
        self._wanted = asyncio.Event()
        self._failures = 0

    async def follow(self, view: View) -> None:
        """Bring the frames of `view` from now on, until it is over, lost, or let go."""
        self._views[view.id] = view
        self._wanted.set()
        try:
            await self._store.interrupt()  # the wait under way does not know of it
        except StreamLogUnavailable:
            pass  # the wait ends by itself

    def let_go(self, view: View) -> None:
        """Follow `view` no more."""
        if self._views.get(view.id) is view:
            del self._views[view.id]

    def follows(self, view: View) -> bool:
        """True while the frames of `view` are brought as they come."""
        return self._views.get(view.id) is view

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            if not self._views:
                self._wanted.clear()
                await self._wanted.wait()
            try:
                await self._step()
                self._failures = 0
            except StreamLogUnavailable as exc:
                await self._stumble(exc)
            except Exception:  # every reader of another process' streams waits for this task
                log.exception("following streams failed")
                await asyncio.sleep(RETRY_SECONDS)

    async def _step(self) -> None:
        places = {view.id: view.buffer.shown for view in self._views.values()}
        found = await self._store.follow(places, wait_seconds=WAIT_SECONDS)
        for stream, followed in found.items():
            view = self._views.get(stream)
            if view is None or view.buffer.shown != places[stream]:
                continue
            view.buffer.add(followed.payloads, ending=followed.ending)
            view.buffer.show(len(view.buffer.payloads))
            if view.buffer.is_over:
                self.let_go(view)

    async def _stumble(self, error: StreamLogUnavailable) -> None:
        self._failures += 1
        if self._failures == PATIENCE:
            log.warning("streams of other processes cannot be followed: %s", error.reason)
            for view in list(self._views.values()):
                self.let_go(view)
                view.lose()
            self._failures = 0
        await asyncio.sleep(RETRY_SECONDS)
