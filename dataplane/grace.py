"""How a server is told to stop without anybody's request being refused: it says so first, and closes its socket later.

Whoever sends it requests, a load balancer or a cluster's endpoints, takes some seconds to hear of that. Both planes'
servers are stopped this way.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

log = logging.getLogger("ballast.grace")


class GraceServer(uvicorn.Server):
    """uvicorn, in this order: told to stop, it is not ready, and serves on for a grace; then the socket is closed; then
    what is under way ends. SIGTERM may come twice, from a supervisor and from whoever told all processes of the host; a
    second SIGINT ends the grace.
    """

    def __init__(self, config: uvicorn.Config, *, announce: Callable[[], None], grace_seconds: float) -> None:
        """`announce` makes the application not ready; it is called on the event loop, perhaps twice."""
        super().__init__(config)
        self._announce = announce
        self._grace_seconds = grace_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_leaving = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop: uvicorn calls this in a signal's handler."""
        if self._loop is None or self._grace_seconds <= 0 or self.should_exit:
            super().handle_exit(sig, frame)
        elif not self._is_leaving:
            self._is_leaving = True
            self._loop.call_soon_threadsafe(self._leave, sig)
        elif sig == signal.SIGINT:
            super().handle_exit(sig, frame)

    def _leave(self, sig: int) -> None:
        log.info("told to stop: not ready, and the socket is closed in %g s", self._grace_seconds)
        self._announce()
        asyncio.get_running_loop().call_later(self._grace_seconds, self._close, sig)

    def _close(self, sig: int) -> None:
        if not self.should_exit:
            super().handle_exit(sig, None)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's."""
        self._announce()
        await super().shutdown(sockets)
