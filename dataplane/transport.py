"""The hot path's HTTP client: one POST to a vendor and what comes back, over HTTP/1.1 with kept-alive connections.

Why a client of ours: `benchmarks/http_client.py` compares it with pyreqwest, httpx and aiohttp. It is the fastest of
them under uvloop, and the one thing that a gateway cannot do without, closing the upstream the moment its caller
leaves, is something that pyreqwest 0.15 does not do. It speaks no HTTP/2 and no proxy.

Rules kept here and nowhere else:
- Every failure of the network becomes a `dataplane.errors.upstream.UpstreamError`, with the cause chained.
- Every wait is bounded by the lane's own time-outs; the deadline of the whole request is the pipeline's.
- `close()` gives a connection back only when the answer was read to its end; otherwise the connection is aborted,
  which is how the vendor learns that nobody listens any more.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import urlsplit

import httptools

from dataplane.errors.upstream import UpstreamInterrupted, UpstreamMalformed, UpstreamTimeout, UpstreamUnreachable
from dataplane.networks import AddressForbidden, Allowed
from dataplane.outbox import outbox_of
from dataplane.providers.base import UpstreamCall
from dataplane.records import record
from dataplane.timers import Timer, TimerWheel

KEEP_ALIVE_SECONDS: Final = 30.0
LINGER_SECONDS: Final = 1.0
MAX_IDLE_PER_ORIGIN: Final = 256
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
PAUSE_READING_BYTES: Final = 256 * 1024


@record
class Limits:
    """How long a lane may keep us waiting, in seconds.

    `first_byte_seconds` None: only the caller's deadline bounds the wait for the answer to begin. A vendor sends the
    head of a plain answer when the whole answer is written, so the time to its first byte says nothing about health.
    """

    connect_seconds: float
    first_byte_seconds: float | None
    idle_seconds: float


class Exchange(Protocol):
    """An answer whose head has arrived. Whoever holds one calls `close` in a `finally`, unless `finish` came first."""

    status: int

    def headers(self) -> Mapping[str, str]:
        """The answer's headers, names in lower case; of a repeated one the last."""

    async def read(self) -> bytes:
        """Return the rest of the body.

        Raises:
            UpstreamInterrupted: the connection ended before the body did.
            UpstreamTimeout: nothing came for `idle_seconds`.
            UpstreamMalformed: not HTTP, or over MAX_ANSWER_BYTES.
        """

    async def next_chunk(self) -> bytes | None:
        """Return what has arrived since the last call, or wait for more; None at the end. Raises as `read`."""

    def finish(self) -> None:
        """Say that the answer is complete by its own format (`[DONE]`, say).

        Then only the end of the HTTP body is still to come, and the connection is kept once it is here. It may carry
        somebody else's call by the next wait, so the exchange must not be touched after this, nor closed. Never waits.
        """

    def close(self) -> None:
        """Keep the connection if the body was read to its end, abort it otherwise. Idempotent, never waits."""


class Transport(Protocol):
    """Sends calls. Shared by all requests of a process."""

    async def send(self, call: UpstreamCall, *, lane: str, limits: Limits) -> Exchange:
        """POST `call` and wait for the head of the answer.

        Raises:
            UpstreamUnreachable: no connection; nothing was sent.
            UpstreamTimeout: `connect_seconds` or `first_byte_seconds` passed.
            UpstreamInterrupted: the connection ended before an answer began; the request may have been received.
            UpstreamMalformed: what came back is not HTTP.
        """

    async def close(self) -> None:
        """Drop every connection."""


class _Origin(NamedTuple):
    scheme: str
    host: str
    port: int


class Http1Transport:
    """The Transport of a gateway process. Belongs to one event loop."""

    def __init__(
        self,
        *,
        timers: TimerWheel | None = None,
        tls: ssl.SSLContext | None = None,
        allowed: Allowed | None = None,
    ) -> None:
        """`timers` are shared with whoever has others; `tls` None trusts the system's certificate authorities.
        `allowed` says where lanes may be; None: anywhere.
        """
        self._allowed = allowed
        self._timers = timers or TimerWheel()
        self._tls = tls or ssl.create_default_context()
        self._idle: dict[_Origin, deque[_Connection]] = {}

    async def send(self, call: UpstreamCall, *, lane: str, limits: Limits) -> _Connection:
        """As `Transport.send`."""
        origin, head = _request_head(call.url, call.headers)
        if call.traceparent:
            head += b"traceparent: %b\r\n" % call.traceparent.encode("ascii")
        connection = self._take_idle(origin)
        if connection is None:
            connection = await self._connect(origin, lane=lane, connect_seconds=limits.connect_seconds)
        try:
            connection.begin(
                b"%bcontent-length: %d\r\n\r\n%b" % (head, len(call.body), call.body), lane=lane, limits=limits
            )
            await connection.wait_head()
        except BaseException:
            connection.close()
            raise
        return connection

    async def close(self) -> None:
        """As `Transport.close`."""
        for connections in self._idle.values():
            for connection in list(connections):
                connection.abort()
        self._idle.clear()

    def _take_idle(self, origin: _Origin) -> _Connection | None:
        connections = self._idle.get(origin)
        if not connections:
            return None
        now = self._timers.loop.time()
        # The most recently used first, so that surplus connections grow old and go.
        while connections:
            connection = connections.pop()
            if now < connection.keep_until and connection.is_open:
                return connection
            connection.abort()
        return None

    def _give_back(self, connection: _Connection) -> None:
        connections = self._idle.setdefault(connection.origin, deque())
        connections.append(connection)
        if len(connections) > MAX_IDLE_PER_ORIGIN:
            connections.popleft().abort()

    def _forget(self, connection: _Connection) -> None:
        connections = self._idle.get(connection.origin)
        if connections is not None and connection in connections:
            connections.remove(connection)

    async def _connect(self, origin: _Origin, *, lane: str, connect_seconds: float) -> _Connection:
        try:
            async with asyncio.timeout(connect_seconds):
                hosts = (origin.host,) if self._allowed is None else await self._judged(self._allowed, origin)
                return await self._open(origin, hosts)
        except AddressForbidden as forbidden:
            raise UpstreamUnreachable(f"lane {lane!r} is where no lane may be: {forbidden}", lane=lane) from forbidden
        except TimeoutError as late:
            raise UpstreamTimeout(lane=lane, phase="connect", waited_seconds=connect_seconds) from late
        except OSError as exc:  # refused, unknown host, and every TLS failure: ssl.SSLError is one
            raise UpstreamUnreachable(
                f"lane {lane!r} cannot be reached at {origin.host}:{origin.port}: {exc}", lane=lane
            ) from exc

    async def _open(self, origin: _Origin, hosts: Iterable[str]) -> _Connection:
        """Connect to the first of these that answers."""
        secure = origin.scheme == "https"
        problem = OSError(f"the name {origin.host!r} has no address")
        for host in hosts:
            try:
                _, connection = await self._timers.loop.create_connection(
                    lambda: _Connection(self, origin, self._timers.loop),
                    host,
                    origin.port,
                    ssl=self._tls if secure else None,
                    server_hostname=origin.host if secure else None,
                )
            except OSError as exc:
                problem = exc
            else:
                return connection
        raise problem

    async def _judged(self, allowed: Allowed, origin: _Origin) -> tuple[str, ...]:
        """The addresses of a lane's host, all of them allowed; these are connected to, and the name not asked again."""
        found = await self._timers.loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
        return allowed.choose(origin.host, dict.fromkeys(str(one[4][0]) for one in found), scheme=origin.scheme)


@lru_cache(maxsize=4096)
def _split(url: str) -> tuple[_Origin, bytes]:
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    start = f"POST {target} HTTP/1.1\r\nhost: {parts.netloc}\r\nuser-agent: ballast\r\naccept-encoding: identity\r\n"
    return _Origin(parts.scheme, host, port), start.encode("ascii")


@lru_cache(maxsize=4096)
def _header_lines(headers: tuple[tuple[str, str], ...]) -> bytes:
    for name, value in headers:
        if not value.isprintable() or not value.isascii():
            # The value may be a secret, so the message has the name only.
            raise ValueError(f"header {name!r} holds characters that HTTP does not allow; check the lane's secret")
    return "".join(f"{name}: {value}\r\n" for name, value in headers).encode("ascii")


def _request_head(url: str, headers: tuple[tuple[str, str], ...]) -> tuple[_Origin, bytes]:
    origin, start = _split(url)
    return origin, start + _header_lines(headers)


class _Connection(asyncio.Protocol):
    """One connection, which is also the Exchange that runs on it at the moment."""

    def __init__(self, pool: Http1Transport, origin: _Origin, loop: asyncio.AbstractEventLoop) -> None:
        self.origin = origin
        self.status = 0
        self.keep_until = 0.0
        self.is_open = False
        self._pool = pool
        self._loop = loop
        self._outbox = outbox_of(loop)
        self._transport: Any = None
        self._parser: Any = None
        self._waiter: asyncio.Future[None] | None = None
        self._in_use = False
        self._paused = False
        self._lingering: Timer | None = None
        self._lane = ""
        self._limits = Limits(0, 0, 0)
        self._reset()

    def _reset(self) -> None:
        self._raw_headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._buffered = 0
        self._head_seen = False
        self._complete = False
        self._keep_alive = False
        self._framed = False
        self._error: BaseException | None = None

    # What the transport and the pipeline call.

    def begin(self, request: bytes, *, lane: str, limits: Limits) -> None:
        """Write a request. The connection is the caller's until `close`."""
        self._reset()
        self._in_use = True
        self._lane = lane
        self._limits = limits
        self._outbox.write(self._transport, request)

    async def wait_head(self) -> None:
        """Wait until the status and the headers are here."""
        while not self._head_seen:
            self._raise_if_broken(before_answer=True)
            await self._wait(self._limits.first_byte_seconds, "first_byte")

    def headers(self) -> Mapping[str, str]:
        """As `Exchange.headers`."""
        return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in self._raw_headers}

    async def read(self) -> bytes:
        """As `Exchange.read`."""
        size = 0
        parts: list[bytes] = []
        while (chunk := await self.next_chunk()) is not None:
            parts.append(chunk)
            size += len(chunk)
            if size > MAX_ANSWER_BYTES:
                raise UpstreamMalformed(f"lane {self._lane!r} sent more than {MAX_ANSWER_BYTES} bytes", lane=self._lane)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def next_chunk(self) -> bytes | None:
        """As `Exchange.next_chunk`."""
        while not self._body:
            if self._complete:
                return None
            self._raise_if_broken(before_answer=False)
            await self._wait(self._limits.idle_seconds, "idle")
        chunk = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self._buffered = 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return chunk

    def close(self) -> None:
        """As `Exchange.close`."""
        if not self._in_use:
            return
        self._in_use = False
        self._keep_or_abort()

    def _keep_or_abort(self) -> None:
        if self._complete and not self._body and self.is_open and self._error is None and self._keep_alive:
            self.keep_until = self._loop.time() + KEEP_ALIVE_SECONDS
            self._pool._give_back(self)
        else:
            self.abort()

    def finish(self) -> None:
        """As `Exchange.finish`."""
        if self._in_use and not self._complete and self.is_open:
            self._in_use = False
            self._lingering = self._pool._timers.set(LINGER_SECONDS, self.abort)
        else:
            self._body.clear()
            self.close()

    def abort(self) -> None:
        """Drop the connection at once, whatever is under way."""
        self.is_open = False
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        if self._transport is not None:
            self._transport.abort()

    async def _wait(self, seconds: float | None, phase: str) -> None:
        """Wait until something happens on the connection, or raise UpstreamTimeout."""
        waiter = self._waiter = self._loop.create_future()
        timer = None
        if seconds is not None:
            timer = self._pool._timers.set(seconds, lambda: _expire(waiter, self._lane, phase, seconds))
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _raise_if_broken(self, *, before_answer: bool) -> None:
        error = self._error
        if isinstance(error, httptools.HttpParserError):
            raise UpstreamMalformed(f"lane {self._lane!r} does not speak HTTP/1.1: {error}", lane=self._lane) from error
        if error is not None or not self.is_open:
            when = "before it answered" if before_answer else "in the middle of its answer"
            raise UpstreamInterrupted(f"lane {self._lane!r} closed the connection {when}", lane=self._lane) from error

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
            self._outbox.expect()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        # One for all answers of the connection: what is kept ended where the parser expects the next one.
        self._parser = httptools.HttpResponseParser(self)
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        lingering = self._lingering
        if self._complete or not (self._in_use or lingering):
            # Bytes that nobody asked for: whatever they are, they must not become the next caller's answer.
            self._error = ConnectionError("the server sent bytes outside an answer")
            self._pool._forget(self)
            self.abort()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self._error = exc
            self.abort()
        if lingering is not None:
            self._body.clear()
            if self._complete and self.is_open:
                lingering.cancel()
                self._lingering = None
                self._keep_or_abort()
            return
        if self._buffered > PAUSE_READING_BYTES and not self._paused and self.is_open:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.is_open = False
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        if self._error is None:
            self._error = exc
        if self._head_seen and not self._framed and exc is None:
            self._complete = True  # neither content-length nor chunks: the body ends where the connection does
        self._pool._forget(self)
        self._wake()
        self._parser = None  # which holds this connection

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self._complete:
            raise ConnectionError("the server sent bytes outside an answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._raw_headers.append((name, value))
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self._framed = True

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if self.status >= 200:
            self._head_seen = True

    def on_body(self, body: bytes) -> None:
        self._body.append(body)
        self._buffered += len(body)

    def on_message_complete(self) -> None:
        if self.status < 200:
            self._raw_headers.clear()  # 100 Continue and its like announce the answer, they are not it
        else:
            self._complete = True
            self._keep_alive = self._parser.should_keep_alive()


def _expire(waiter: asyncio.Future[None], lane: str, phase: str, seconds: float) -> None:
    if not waiter.done():
        waiter.set_exception(UpstreamTimeout(lane=lane, phase=phase, waited_seconds=seconds))
