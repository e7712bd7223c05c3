"""What a caller sends, over ASGI: headers and body of one request, and the word that the caller has left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, cast

from dataplane.asgi_reply import Message
from dataplane.envelope import BodyTooLarge, BodyTooSlow, UnsupportedMediaType
from dataplane.idempotency import single_key
from dataplane.journey import Inbound
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
    receive: Receive,
    timers: TimerWheel,
    *,
    let_in: LetIn,
    limit_bytes: int,
    request_id: str,
    started: float,
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
    body = await read_body(receive, timers, limit_bytes=limit_bytes)
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
    )


async def read_body(receive: Receive, timers: TimerWheel, *, limit_bytes: int, seconds: float = BODY_SECONDS) -> bytes:
    """Read the body, within so many seconds.

    Raises:
        BodyTooLarge, BodyTooSlow, CallerLeft.
    """
    patience = _Patience(timers, seconds)
    try:
        return await _read_all(receive, limit_bytes=limit_bytes)
    except asyncio.CancelledError:
        if not patience.is_over or patience.task.uncancel():
            raise  # somebody else cancelled it, too
        raise BodyTooSlow(seconds=seconds) from None
    finally:
        patience.stop()


class _Patience:
    """Cancels the current task when a time is over; costs less than a time-out of asyncio's, and every request pays."""

    __slots__ = ("_timer", "is_over", "task")

    def __init__(self, timers: TimerWheel, seconds: float) -> None:
        self.is_over = False
        self.task = cast("asyncio.Task[Any]", asyncio.current_task(timers.loop))
        self._timer = timers.set(seconds, self._end)

    def stop(self) -> None:
        """Wait on. Idempotent."""
        self._timer.cancel()

    def _end(self) -> None:
        self.is_over = True
        self.task.cancel()


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
    """Cancels the current task when the caller hangs up. It begins to look a moment after the request came: a quick
    answer is out by then, and a task per request is a tenth of what it costs.
    """

    __slots__ = ("_looking", "_loop", "_receive", "_task", "_timer", "caller_left")

    def __init__(self, receive: Receive, timers: TimerWheel) -> None:
        self.caller_left = False
        self._receive = receive
        self._loop = timers.loop
        self._task = cast("asyncio.Task[Any]", asyncio.current_task(timers.loop))
        self._looking: asyncio.Task[None] | None = None
        self._timer = timers.set(WATCH_AFTER_SECONDS, self._begin)

    def stop(self) -> None:
        """Look no longer. Idempotent, never waits."""
        self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()
            # A task keeps what it was cancelled with, whose traceback has this object in it: held on to, it would be a
            # ring around the whole request that only the garbage collector could take apart.
            self._looking = None

    def _begin(self) -> None:
        self._looking = self._loop.create_task(self._look())

    async def _look(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.caller_left = True
        self._task.cancel()
