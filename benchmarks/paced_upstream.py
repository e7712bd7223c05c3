"""An upstream that streams at a model's pace: so many tokens a second to each caller, each in a packet of its own.

Run as `python -m benchmarks.paced_upstream PORT TOKENS_PER_SECOND TOKENS`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import deque

import uvloop

# Streams do not all speak at the same moment: so many groups of them take turns within the time of a token.
GROUPS = 20
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
FRAME = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def chunk(choices: list[object], **more: object) -> bytes:
    """One event of a stream, as a chunk of HTTP."""
    line = b"data: %b\n\n" % json.dumps(FRAME | {"choices": choices} | more, separators=(",", ":")).encode()
    return b"%x\r\n%b\r\n" % (len(line), line)


TOKEN = chunk([{"index": 0, "delta": {"content": "word "}, "finish_reason": None}])
END = chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}])


class Pace:
    """Gives every stream its tokens."""

    def __init__(self, *, per_second: float, tokens: int) -> None:
        self._seconds = 1 / per_second / GROUPS
        self._tokens = tokens
        usage = {"prompt_tokens": 60, "completion_tokens": tokens}
        last = b"data: [DONE]\n\n"
        self._end = END + chunk([], usage=usage) + b"%x\r\n%b\r\n0\r\n\r\n" % (len(last), last)
        self._groups: deque[dict[Upstream, int]] = deque({} for _ in range(GROUPS))

    def add(self, stream: Upstream) -> None:
        """Its first token comes when its group's turn comes."""
        self._groups[-1][stream] = self._tokens

    def drop(self, stream: Upstream) -> None:
        """It is gone."""
        for group in self._groups:
            group.pop(stream, None)

    async def run(self) -> None:
        """For ever. A turn that comes late is made up for, so that the pace is kept."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due += self._seconds
            await asyncio.sleep(max(0.0, due - loop.time()))
            self._groups.rotate()
            group = self._groups[0]
            for stream, left in list(group.items()):
                stream.write(TOKEN)
                if left > 1:
                    group[stream] = left - 1
                else:
                    del group[stream]
                    stream.write(self._end)


class Upstream(asyncio.Protocol):
    """One connection. Whatever is asked begins a stream."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        self._pace.drop(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._buffer.endswith(b"}"):
            self._buffer = b""
            self._transport.write(HEAD)
            self._pace.add(self)

    def write(self, data: bytes) -> None:
        """Say the next thing."""
        self._transport.write(data)


async def _serve(port: int, pace: Pace) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Upstream(pace), "127.0.0.1", port, backlog=4096)
    async with server:
        await pace.run()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), Pace(per_second=float(sys.argv[2]), tokens=int(sys.argv[3]))))
