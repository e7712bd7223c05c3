"""HTTP/1.1 between the gateway's callers and its ASGI application: what uvicorn calls for each connection.

uvicorn has a protocol of its own, on the same parser, and takes any other in its place. This one does what the gateway
needs at half the cost, and bounds what uvicorn leaves open: how large the head of a request may be, and how long a
request may be in coming. `tests/dataplane/test_http_protocol.py` holds both against the same requests. Neither TLS nor
WebSockets: those end in front of the gateway.

Rules kept here:
- One request of a connection is served at a time. Whoever sends the next one early waits, and is not read further.
- Of a body no more is read ahead of the application than WINDOW_BYTES, and what comes in one piece.
- A response that the application did not finish is never made to look complete: the connection is aborted.
- Names and values of headers that would write something into the head that is no header are refused.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections import deque
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final, Protocol, cast
from urllib.parse import unquote

import httptools

from dataplane.asgi_reply import Message, Send
from dataplane.asgi_request import Receive, Scope
from dataplane.envelope import Header
from dataplane.outbox import Outbox, outbox_of

MAX_HEAD_BYTES: Final = 64 * 1024
WINDOW_BYTES: Final = 64 * 1024
MAX_WAITING: Final = 64
HEAD_SECONDS: Final = 30.0
REQUEST_SECONDS: Final = 300.0
LOOK_SECONDS: Final = 5.0
NO_BODY: Final = frozenset({204, 304})
FAILED: Final = b"Internal Server Error"
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"
END_OF_LINE: Final = b"\r\n"
ASGI: Final = {"version": "3.0", "spec_version": "2.3"}
CLOSE_LINE: Final = b"connection: close\r\n"
CHUNKED_LINE: Final = b"transfer-encoding: chunked\r\n"
STATUS_LINES: Final = {one.value: b"HTTP/1.1 %d %b\r\n" % (one.value, one.phrase.encode()) for one in HTTPStatus}
# Names as RFC 9110 has them, and no control character but a tab in a value. A value with the end of a line in it looks
# like two fields, so whoever looks counts them.
FIELDS: Final = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n)*")

log = logging.getLogger("ballast.http")


class BadResponse(Exception):
    """The application sent something that is no response; the message says what."""


class Application(Protocol):
    """What serves requests."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""


class HttpProtocol(asyncio.Protocol):
    """One connection of a caller. `config`, `server_state` and `app_state` are uvicorn's."""

    def __init__(self, config: Any, server_state: Any, app_state: Any, _loop: Any = None) -> None:
        if not config.loaded:
            config.load()
        self.loop: asyncio.AbstractEventLoop = _loop or asyncio.get_running_loop()
        self.outbox: Outbox = outbox_of(self.loop)
        self.state: Any = server_state
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._app: Application = config.loaded_app
        self._keep_alive_seconds: float = config.timeout_keep_alive
        self._parser: Any = httptools.HttpRequestParser(self)
        # The request that is served now, those that came early, and the one that is being read.
        self._call: Call | None = None
        self._waiting: deque[Call] = deque()
        self._newest: Call | None = None
        self._client: tuple[str, int] | None = None
        self._server: tuple[str, int] | None = None
        self._url = b""
        self._headers: list[Header] = []
        self._head_bytes = 0
        self._is_reading_head = False
        self._expects_continue = False
        self._is_paused = False
        self._drained: asyncio.Future[None] | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._since = 0.0  # this connection began, its last response ended, or the request began that is being read

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._client = _address(transport, "peername")
        self._server = _address(transport, "sockname")
        self.state.connections.add(self)
        self._since = self.loop.time()
        self._looking = self.loop.call_later(LOOK_SECONDS, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        self.state.connections.discard(self)
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        self._parser = self._newest = None
        self._waiting.clear()
        if self._call is not None:
            self._call.leave()
        self.resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._parser = None  # nothing here is upgraded to: the request is served, and nothing after it
        except httptools.HttpParserError:
            self._refuse(400, b"This is not HTTP/1.1.")
        if self._is_reading_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(431, b"The head of the request is over %d bytes." % MAX_HEAD_BYTES)

    def pause_writing(self) -> None:
        if self._drained is None:
            self._drained = self.loop.create_future()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # What the parser calls.

    def on_message_begin(self) -> None:
        """A request begins."""
        self._url = b""
        self._headers = []
        self._head_bytes = 0
        self._is_reading_head = True
        self._expects_continue = False
        self._since = self.loop.time()

    def on_url(self, url: bytes) -> None:
        """A part of its target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One of its headers."""
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self._expects_continue = True
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Its head is complete: it is served, or waits for the one before."""
        self._is_reading_head = False
        parser = self._parser
        version: str = parser.get_http_version()
        keeps = version == "1.1" and parser.should_keep_alive() and not parser.should_upgrade()
        call = Call(self, self._scope(version), keep_alive=keeps, expects_continue=self._expects_continue)
        self._newest = call
        if self._call is None:
            self._begin(call)
            return
        self._waiting.append(call)
        self.pause_reading()
        if len(self._waiting) > MAX_WAITING:
            raise ValueError("too many requests at once on one connection")

    def on_body(self, body: bytes) -> None:
        """A part of its body."""
        if self._newest is not None:
            self._newest.take(body)

    def on_message_complete(self) -> None:
        """It is complete."""
        if self._newest is not None:
            self._newest.complete()

    # What uvicorn calls, and this connection's requests.

    def shutdown(self) -> None:
        """Serve what is under way, and nothing after that."""
        if self._call is None:
            self._close()
        else:
            self._call.keep_alive = False

    def pause_reading(self) -> None:
        """Read nothing more for now."""
        if not self._is_paused and not self.transport.is_closing():
            self._is_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on, unless requests wait that came early."""
        if self._is_paused and not self._waiting and not self.transport.is_closing():
            self._is_paused = False
            self.transport.resume_reading()

    async def drain(self) -> None:
        """Wait while the caller does not read what was written."""
        if self._drained is not None:
            await asyncio.shield(self._drained)

    @property
    def is_slow(self) -> bool:
        """Whether the caller does not read what was written."""
        return self._drained is not None

    def finished(self, call: Call) -> None:
        """The response to `call` is written."""
        self.state.total_requests += 1
        self._call = None
        if self._newest is call:
            self._newest = None
        if not call.keep_alive or not call.is_complete:
            self._close()  # the rest of a body that nobody reads would be taken for the next request
            return
        self._since = self.loop.time()
        if self._waiting:
            self._begin(self._waiting.popleft())
        elif self._parser is None:
            self._close()
            return
        self.resume_reading()

    def write(self, data: bytes) -> None:
        """Send `data`, behind all that was written before."""
        self.outbox.write(self.transport, data)

    def abort(self) -> None:
        """Hang up, so that what was begun does not look complete."""
        self.outbox.flush()
        self.transport.abort()

    def _close(self) -> None:
        self.outbox.flush()
        self.transport.close()

    def _begin(self, call: Call) -> None:
        self._call = call
        call.task = self.loop.create_task(call.run(self._app))
        self.state.tasks.add(call.task)

    def _scope(self, version: str) -> Scope:
        url = self._url
        if not url.startswith(b"/"):  # a proxy's form of it, which names the host too
            parsed = httptools.parse_url(url)
            url = (parsed.path or b"/") + (b"?" + parsed.query if parsed.query else b"")
        raw_path, _, query = url.partition(b"#")[0].partition(b"?")
        path = raw_path.decode("latin-1")
        return {
            "type": "http",
            "asgi": ASGI,
            "http_version": version,
            "method": self._parser.get_method().decode("ascii"),
            "scheme": "http",
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": self._headers,
            "client": self._client,
            "server": self._server,
        }

    def _refuse(self, status: int, words: bytes) -> None:
        """Take nothing more from this connection, whose bytes are no request, and say so unless a response is due."""
        self._parser = None
        self._is_reading_head = False
        self._waiting.clear()
        call = self._call
        if call is None:
            self.write(_head(status, words) + words)
            self._close()
        elif call.is_complete:
            call.keep_alive = False
        else:
            self.abort()  # it is its body that is broken

    def _look(self) -> None:
        """Close the connection when nothing has come on it for long, or when a request is long in coming."""
        quiet = self.loop.time() - self._since
        if self._is_reading_head:
            limit = HEAD_SECONDS
        elif self._newest is not None and not self._newest.is_complete:
            limit = REQUEST_SECONDS
        else:
            limit = self._keep_alive_seconds if self._call is None else math.inf
        if quiet > limit and self._call is None:
            self._close()
        elif quiet > limit:
            self.abort()
        self._looking = self.loop.call_later(LOOK_SECONDS, self._look)


class Call:
    """One request, and the response to it: what its application receives and sends."""

    __slots__ = (
        "_body",
        "_body_bytes",
        "_expects_continue",
        "_has_body",
        "_has_left",
        "_head",
        "_is_chunked",
        "_is_done",
        "_is_given",
        "_is_started",
        "_line",
        "_missing_bytes",
        "_scope",
        "_waiter",
        "is_complete",
        "keep_alive",
        "task",
    )

    def __init__(self, line: HttpProtocol, scope: Scope, *, keep_alive: bool, expects_continue: bool) -> None:
        self.keep_alive = keep_alive
        self.is_complete = False
        self.task: asyncio.Task[None] | None = None
        self._line = line
        self._scope = scope
        self._expects_continue = expects_continue
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._is_given = False
        self._has_left = False
        self._waiter: asyncio.Future[None] | None = None
        self._head = b""
        self._is_started = False
        self._is_done = False
        self._has_body = True
        self._is_chunked = False
        self._missing_bytes: int | None = None

    def take(self, body: bytes) -> None:
        """A part of the request's body came."""
        if self._is_done:
            return
        self._body.append(body)
        self._body_bytes += len(body)
        if self._body_bytes > WINDOW_BYTES:
            self._line.pause_reading()
        self._wake()

    def complete(self) -> None:
        """All of the request came."""
        self.is_complete = True
        self._line.outbox.expect()
        self._wake()

    def leave(self) -> None:
        """The caller is gone."""
        self._has_left = True
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def run(self, app: Application) -> None:
        """Have the request served; whatever becomes of that, the caller gets a response or is hung up on."""
        try:
            await app(self._scope, self.receive, self.send)
        except Exception:
            log.exception("%s %s: the application failed", self._scope["method"], self._scope["path"])
        finally:
            if not self._is_done and not self._has_left:
                self._give_up()
            # Here and not when the task is done: that would be one more turn of the loop for every request.
            self._line.state.tasks.discard(self.task)
            self.task = None

    def _give_up(self) -> None:
        """Say that it failed, while nothing was said yet; what was begun must not look complete."""
        if self._is_started and not self._head:
            self._line.abort()
            return
        self._is_done = True
        self.keep_alive = False
        self._line.write(_head(500, FAILED) + FAILED)
        self._line.finished(self)

    async def receive(self) -> Message:
        """As ASGI's `receive`: parts of the body as they come, then word that the caller is gone."""
        if self._expects_continue:
            self._expects_continue = False
            if not self._is_started and not self._has_left:
                self._line.write(CONTINUE)
        while not self._has_left and not self._is_done:
            if self._body or (self.is_complete and not self._is_given):
                return self._next_part()
            self._line.resume_reading()
            self._waiter = self._line.loop.create_future()
            await self._waiter
        return {"type": "http.disconnect"}

    def _next_part(self) -> Message:
        parts, self._body, self._body_bytes = self._body, [], 0
        self._is_given = self.is_complete
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        return {"type": "http.request", "body": body, "more_body": not self.is_complete}

    async def send(self, message: Message) -> None:
        """As ASGI's `send`: waits while the caller does not read, and does nothing once it is gone.

        Raises:
            BadResponse: nothing of `message` was sent.
        """
        if self._line.is_slow and not self._has_left:
            await self._line.drain()
        if self._has_left:
            return
        kind: str = message["type"]
        if kind == "http.response.body" and self._is_started and not self._is_done:
            self._send_body(message.get("body", b""), more=message.get("more_body", False))
        elif kind == "http.response.start" and not self._is_started:
            self._start(message["status"], message.get("headers", ()))
        else:
            raise BadResponse(f"{kind!r} is not what comes next in a response")

    def _start(self, status: int, headers: Iterable[Header]) -> None:
        """Write the head, or keep it until its body comes where its length is known: they leave together then."""
        lines = []
        closes = False
        for name, value in [*self._line.state.default_headers, *headers]:
            if name == b"content-length":
                self._missing_bytes = int(value)
            elif name == b"connection" and b"close" in value.lower():
                closes = True
            lines.append(b"%b: %b\r\n" % (name, value))
        fields = b"".join(lines)
        if fields.count(b"\n") != len(lines) or FIELDS.fullmatch(fields) is None:
            self._missing_bytes = None
            raise BadResponse("a header's name or value would break the head of the response")
        lines = [STATUS_LINES[status], fields]
        self._has_body = self._scope["method"] != "HEAD" and status not in NO_BODY
        if self._has_body and self._missing_bytes is None:
            self._is_chunked = self._scope["http_version"] == "1.1"
            if self._is_chunked:
                lines.append(CHUNKED_LINE)
            else:
                self.keep_alive = False  # its end is the connection's
        if closes:
            self.keep_alive = False
        elif not self.keep_alive:
            lines.append(CLOSE_LINE)
        lines.append(END_OF_LINE)
        self._is_started = True
        head = b"".join(lines)
        if self._has_body and self._missing_bytes:
            self._head = head
        else:
            self._line.write(head)

    def _send_body(self, body: bytes, *, more: bool) -> None:
        if not self._has_body:
            data = b""
        elif self._is_chunked:
            data = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if not more:
                data += LAST_CHUNK
        else:
            data = body
            if self._missing_bytes is not None:
                if len(body) > self._missing_bytes or (not more and len(body) < self._missing_bytes):
                    raise BadResponse(f"{len(body)} bytes of a body that lacks {self._missing_bytes}")
                self._missing_bytes -= len(body)
        if self._head:
            data, self._head = self._head + data, b""
        if data:
            self._line.write(data)
        if not more:
            self._is_done = True
            self._line.finished(self)


def _head(status: int, words: bytes) -> bytes:
    """The head of a plain response that ends its connection."""
    head = b"%bcontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n%b\r\n"
    return head % (STATUS_LINES[status], len(words), CLOSE_LINE)


def _address(transport: asyncio.BaseTransport, name: str) -> tuple[str, int] | None:
    address = transport.get_extra_info(name)
    return (str(address[0]), int(address[1])) if isinstance(address, tuple) else None
