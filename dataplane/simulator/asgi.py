"""The little of ASGI that the simulator uses: names for its types, reading a body, sending JSON, playing a script."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

import orjson

from dataplane.simulator.connection import Connection
from dataplane.simulator.script import Chunk, Close, End, Head, Pause, Reset, Silence, Step
from dataplane.simulator.wire import JSON_TYPE, Header

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MAX_BODY_BYTES = 10 * 1024 * 1024
WATCHED_PAUSE_SECONDS = 0.5


class BodyTooLarge(Exception):
    """The request body is over MAX_BODY_BYTES."""


class ClientLeft(Exception):
    """The client closed the connection before the response was complete."""


async def read_body(receive: Receive) -> bytes:
    """Return the whole request body, or raise BodyTooLarge or ClientLeft."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientLeft
    body: bytes = message.get("body", b"")
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise BodyTooLarge
    return body


async def send_plain(send: Send, status: int, headers: Iterable[Header], body: bytes) -> None:
    """Send one complete response."""
    await send(
        {"type": "http.response.start", "status": status, "headers": [*headers, (b"content-length", b"%d" % len(body))]}
    )
    await send({"type": "http.response.body", "body": body})


async def send_json(send: Send, status: int, value: Any) -> None:
    """Send one complete JSON response."""
    await send_plain(send, status, (JSON_TYPE,), orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))


async def play_script(steps: Iterable[Step], *, receive: Receive, send: Send, connection: Connection) -> None:
    """Carry out `steps`, chunks with no pause between them in one write; raise ClientLeft as soon as the client
    has gone.
    """
    held: list[bytes] = []
    for step in steps:
        if isinstance(step, Chunk):
            held.append(step.data)
            continue
        if held and not isinstance(step, End):
            await send({"type": "http.response.body", "body": b"".join(held), "more_body": True})
            held.clear()
        match step:
            case Pause(seconds):
                await _pause(seconds, receive)
                if connection.lost:
                    raise ClientLeft
            case Head(status, headers):
                await send({"type": "http.response.start", "status": status, "headers": list(headers)})
            case End():
                await send({"type": "http.response.body", "body": b"".join(held)})
            case Reset():
                await connection.reset()
                await _wait_for_disconnect(receive)
            case Close():
                await connection.close()
                await _wait_for_disconnect(receive)
            case Silence():
                await _wait_for_disconnect(receive)


async def _pause(seconds: float, receive: Receive) -> None:
    """Wait for so long, or until the client has gone, if it is worth asking whether it has."""
    if seconds < WATCHED_PAUSE_SECONDS:  # between tokens, thousands of times a second
        await asyncio.sleep(seconds)
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await _wait_for_disconnect(receive)


async def _wait_for_disconnect(receive: Receive) -> None:
    # uvicorn has to have noticed before the application returns, or it would try to finish the response itself.
    while (await receive())["type"] != "http.disconnect":
        pass
