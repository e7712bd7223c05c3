"""Where each gateway process is scraped by itself: behind the port that all of them share a scrape meets any of them,
and counters that jump between processes count nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

from dataplane.vitals import Vitals

# An event loop that is too busy for a scrape within so long answers none: that is told, too.
ANSWER_SECONDS: Final = 5.0


class ScrapePort(Vitals):
    """`/metrics` of one process, rendered on its event loop, whose figures are nobody else's to read."""

    def __init__(self, render: Callable[[], Awaitable[bytes]], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._on_loop = render
        self._loop = loop

    def answer(self, path: str) -> tuple[HTTPStatus, Mapping[str, Any]] | None:
        """None: probes of a gateway come to its own port."""
        return None

    def render(self) -> bytes:
        """As `Vitals.render`."""

        async def rendered() -> bytes:
            return await self._on_loop()

        return asyncio.run_coroutine_threadsafe(rendered(), self._loop).result(ANSWER_SECONDS)
