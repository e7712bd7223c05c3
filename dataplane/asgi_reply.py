"""The caller's side of one request, over ASGI: whole answers, event streams, and word of a queue before either."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Final

from dataplane.envelope import Header
from dataplane.frames import Ending, encode_events
from dataplane.quota import Place
from dataplane.relay import EVENT_STREAM, NO_CACHE

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

NO_CONTENT: Final = 204
# What says of itself that it is ours; the others belong to HTTP.
OURS: Final = b"ballast-"


class AsgiReply:
    """The caller's side of one request."""

    __slots__ = ("_send", "opened", "position")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.opened = False
        self.position = 0

    async def send_whole(self, status: int, headers: list[Header], body: bytes) -> None:
        """As `Reply.send_whole`."""
        self.opened = True
        if status != NO_CONTENT:
            headers.append((b"content-length", b"%d" % len(body)))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def open_stream(self, headers: list[Header]) -> None:
        """As `Reply.open_stream`."""
        self.opened = True
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def send_events(self, payloads: Sequence[bytes], *, ending: Ending | None = None) -> None:
        """As `Reply.send_events`."""
        first = self.position + 1
        self.position += len(payloads)
        body = encode_events(first, payloads)
        await self._send({"type": "http.response.body", "body": body, "more_body": ending is None})

    async def send_unnumbered(self, event: str, data: bytes) -> None:
        """As `EventReply.send_unnumbered`."""
        body = b"event: %b\ndata: %b\n\n" % (event.encode(), data)
        await self._send({"type": "http.response.body", "body": body, "more_body": True})


class QueueReply(AsgiReply):
    """A reply whose caller asked to be told where it stands while it waits: in comments of an event stream, which every
    client passes over that does not look for them.

    The first comment opens the response, with status 200 and before anybody knows what will answer. So the headers that
    are known later come as comments too, and an error as the stream's only event.
    """

    __slots__ = ("_is_begun", "_place", "_telling")

    def __init__(self, send: Send) -> None:
        super().__init__(send)
        self._is_begun = False
        self._place: Place | None = None
        self._telling: asyncio.Task[None] | None = None

    def announce(self, place: Place) -> None:
        """Say where the request stands; never waits. A caller who reads too slowly hears of the latest only."""
        if self.opened:
            return
        self._place = place
        if self._telling is None:
            self._telling = asyncio.get_running_loop().create_task(self._tell())

    async def send_whole(self, status: int, headers: list[Header], body: bytes) -> None:
        """As `Reply.send_whole`."""
        if not await self._is_too_late():
            await super().send_whole(status, headers, body)
            return
        self.opened = True
        await self._comment(headers)
        await self.send_events([body], ending=Ending.FAILED)

    async def open_stream(self, headers: list[Header]) -> None:
        """As `Reply.open_stream`."""
        if not await self._is_too_late():
            await super().open_stream(headers)
            return
        self.opened = True
        await self._comment(headers)

    async def _is_too_late(self) -> bool:
        """True when the response has begun already."""
        if self._telling is not None:
            await self._telling
        return self._is_begun

    async def _tell(self) -> None:
        while (place := self._place) is not None:
            self._place = None
            if not self._is_begun:
                self._is_begun = True
                headers = [EVENT_STREAM, NO_CACHE, (b"ballast-queue", b"comments")]
                await self._send({"type": "http.response.start", "status": 200, "headers": headers})
            body = b": queue position=%d eta_ms=%d\n\n" % (place.position, place.eta_ms)
            await self._send({"type": "http.response.body", "body": body, "more_body": True})
        self._telling = None

    async def _comment(self, headers: list[Header]) -> None:
        lines = [b": %b=%b\n" % header for header in headers if header[0].startswith(OURS)]
        if lines:
            await self._send({"type": "http.response.body", "body": b"".join(lines) + b"\n", "more_body": True})
