"""A provider for `benchmarks.shadow`, which answers control well, and shadows as it is told to, and counts both.

Run as `python -m benchmarks.shadow_upstream PORT [--give-way]`. What is asked below `/control` gets the canned answer;
below `/eu` and `/us` it gets what the mode says: healthy, hang, reset, 429 or large (10 MB). `POST /admin/<mode>` sets
it, `GET /admin` tells the counts: {place: {"calls", "marked"}}, where calls are marked whose body has MARK in it.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys

import uvloop

from benchmarks.canned_upstream import PLAIN, STREAM
from dataplane.shadow.process import give_way

MARK = b"stays in the EU"
PLACES = ("control", "eu", "us")
MODES = ("healthy", "hang", "reset", "429", "large")
LARGE_BYTES = 10_000_000
TOO_MANY = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\ncontent-length: 2\r\n\r\n{}"
_FILLING = json.dumps({"choices": [{"message": {"content": "x" * LARGE_BYTES}, "finish_reason": "stop"}]}).encode()
LARGE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(_FILLING), _FILLING)
# As it would come over a network: piece by piece, and no more than the other side takes.
PIECE_BYTES = 64 * 1024
# Closes with a reset.
AT_ONCE = struct.pack("ii", 1, 0)


class Told:
    """What all connections share."""

    mode = "healthy"
    counts = {place: {"calls": 0, "marked": 0} for place in PLACES}


class Upstream(asyncio.Protocol):
    """Answers as soon as a request is whole."""

    def __init__(self) -> None:
        self._buffer = b""
        self._unsent = memoryview(b"")
        self._is_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._transport.set_write_buffer_limits(high=PIECE_BYTES)
        peer: socket.socket = self._transport.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIECE_BYTES)

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        while self._unsent and not self._is_paused and not self._transport.is_closing():
            piece, self._unsent = self._unsent[:PIECE_BYTES], self._unsent[PIECE_BYTES:]
            self._transport.write(piece)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        mark = head.find(b"content-length:")
        length = int(head[mark + 15 :].split(b"\r\n", 1)[0]) if mark >= 0 else 0
        if len(self._buffer) < end + 4 + length:
            return
        request, self._buffer = self._buffer, b""
        self._answer(request.split(b" ", 2)[1].decode().strip("/").split("/"), request)

    def _answer(self, path: list[str], request: bytes) -> None:
        if path[0] == "admin":
            if len(path) > 1 and path[1] in MODES:
                Told.mode = path[1]
            body = json.dumps(Told.counts).encode()
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
            return
        counts = Told.counts[path[0]]
        counts["calls"] += 1
        counts["marked"] += MARK in request
        mode = "healthy" if path[0] == "control" else Told.mode
        if mode == "healthy":
            self._transport.write(STREAM if b'"stream":true' in request else PLAIN)
        elif mode == "429":
            self._transport.write(TOO_MANY)
        elif mode == "large":
            self._unsent = memoryview(LARGE)
            self.resume_writing()
        elif mode == "reset":
            peer: socket.socket = self._transport.get_extra_info("socket")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
            self._transport.abort()


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    if "--give-way" in sys.argv:
        give_way()
    uvloop.run(_serve(int(sys.argv[1])))
