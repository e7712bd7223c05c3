"""What a caller sends, over ASGI: headers and body of one request, and the word that the caller has left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, cast

from dataplane.asgi_reply import Message
from dataplane.envelope import BodyTooLarge, BodyTooSlow, UnsupportedMediaType
from dataplane.idempotency import single_key
from dataplane.journey import Inbound
from dataplane.request_trace import RequestTrace
from dataplane.timers import TimerWheel

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
# Of a request, what it shows as its key, and its idempotency key; raises where that is no good.
LetIn = Callable[[Scope, str | None, str | None], None]

WATCH_AFTER_SECONDS: Final = 0.05
# For all of a body, however slowly it comes: 8 MiB at 1.2 Mbit/s. Who sends half a request and nothing more holds a
# place for no longer.
BODY_SECONDS: Final = 60.0


class CallerLeft(Exception):
    """The caller closed the connection before its request was complete."""


async def read_inbound(
    scope: Scope,
    watch: CallerWatch,
    *,
    let_in: LetIn,
    limit_bytes: int,
    request_id: str,
    started: float,
    trace: RequestTrace | None = None,
) -> Inbound:
    """Read headers and body.

    Args:
        let_in: Asked once the headers are read: whoever has no good key need not be listened to.
    Raises:
        UnsupportedMediaType, BodyTooLarge, BodyTooSlow, InvalidRequest, CallerLeft, and what `let_in` does.
    """
    authorization = user = deadline_ms = accept_language = workload = queue = deliver = later = None
    idempotency_keys: tuple[str, ...] = ()
    media_type = ""
    length = 0
    for name, value in scope["headers"]:
        if name == b"authorization":
            authorization = value.decode("latin-1")
        elif name == b"content-type":
            media_type = value.decode("latin-1")
        elif name == b"content-length":
            length = int(value)
        elif name == b"ballast-user":
            user = value.decode("latin-1")
        elif name == b"ballast-deadline-ms":
            deadline_ms = value.decode("latin-1")
        elif name == b"ballast-class":
            workload = value.decode("latin-1")
        elif name == b"ballast-queue":
            queue = value.decode("latin-1")
        elif name == b"accept-language":
            accept_language = value.decode("latin-1")
        elif name == b"ballast-deliver":
            deliver = value.decode("latin-1")
        elif name == b"ballast-later":
            later = value.decode("latin-1")
        elif name == b"idempotency-key":
            idempotency_keys += (value.decode("latin-1"),)
    if media_type != "application/json" and media_type.partition(";")[0].strip().lower() != "application/json":
        raise UnsupportedMediaType(media_type[:100])
    if length > limit_bytes:
        raise BodyTooLarge(limit_bytes=limit_bytes)
    idempotency_key = single_key(idempotency_keys)
    let_in(scope, authorization, idempotency_key)
    body = await watch.read_body(limit_bytes=limit_bytes)
    return Inbound(
        request_id,
        body,
        started,
        authorization,
        user or None,
        deadline_ms,
        accept_language,
        idempotency_key,
        workload,
        queue,
        deliver=deliver,
        later=later,
        trace=trace,
    )


async def _read_all(receive: Receive, *, limit_bytes: int) -> bytes:
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        parts = [body]
        size = len(body)
        while message.get("more_body"):
            message = await receive()
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit_bytes:
                raise BodyTooLarge(limit_bytes=limit_bytes)
        body = b"".join(parts)
    if message["type"] == "http.disconnect":
        raise CallerLeft
    return body


class CallerWatch:
    """Watches over the caller of one request, for the current task: reads the body, for so long at most, and from then
    on cancels the task when the caller hangs up.

    It begins to look a moment after the request came, by one timer for both: a body is here by then, and a quick answer
    is out; and a task per request is a tenth of what it costs.
    """

    __slots__ = (
        "_body_seconds",
        "_is_late",
        "_is_read",
        "_is_too_slow",
        "_looking",
        "_loop",
        "_receive",
        "_task",
        "_timer",
        "_timers",
        "caller_left",
    )

    def __init__(self, receive: Receive, timers: TimerWheel, *, body_seconds: float = BODY_SECONDS) -> None:
        self.caller_left = False
        self._receive = receive
        self._timers = timers
        self._loop = timers.loop
        self._task = cast("asyncio.Task[Any]", asyncio.current_task(timers.loop))
        self._body_seconds = body_seconds
        self._is_read = False
        self._is_late = False
        self._is_too_slow = False
        self._looking: asyncio.Task[None] | None = None
        self._timer = timers.set(WATCH_AFTER_SECONDS, self._begin)

    async def read_body(self, *, limit_bytes: int) -> bytes:
        """Read the body.

        Raises:
            BodyTooLarge, BodyTooSlow, CallerLeft.
        """
        try:
            body = await _read_all(self._receive, limit_bytes=limit_bytes)
        except asyncio.CancelledError:
            if not self._is_too_slow or self._task.uncancel():
                raise  # somebody else cancelled it, too
            raise BodyTooSlow(seconds=self._body_seconds) from None
        self.body_is_here()
        return body

    def body_is_here(self) -> None:
        """There is no more to read of the request: from now on, look whether its caller hangs up."""
        self._is_read = True
        if self._is_late:
            self._timer.cancel()
            self._timer = self._timers.set(WATCH_AFTER_SECONDS, self._begin)

    def stop(self) -> None:
        """Look no longer. Idempotent, never waits."""
        self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()
            # A task keeps what it was cancelled with, whose traceback has this object in it: held on to, it would be a
            # ring around the whole request that only the garbage collector could take apart.
            self._looking = None

    def _begin(self) -> None:
        if self._is_read:
            self._looking = self._loop.create_task(self._look())
        else:
            self._is_late = True
            self._timer = self._timers.set(self._body_seconds - WATCH_AFTER_SECONDS, self._end)

    def _end(self) -> None:
        self._is_too_slow = True
        self._task.cancel()

    async def _look(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.caller_left = True
        self._task.cancel()
