"""The one thing ASGI has no words for: breaking a connection with a TCP RST, or closing it with a response unfinished.

uvicorn's httptools protocol is subclassed, and each request's scope gets the extension below; nothing else changes. The
extension also writes a whole response at once, which spares the benchmark's path uvicorn's check of every header.
"""

from __future__ import annotations

import asyncio
import socket
import struct

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from dataplane.simulator.wire import Header

EXTENSION = "ballast.simulator.connection"

# struct linger {on, 0 seconds}: close() drops what is unsent and answers the peer with RST in place of FIN.
_LINGER_ZERO = struct.pack("ii", 1, 0)


class Connection:
    """One client connection, as far as faults need it."""

    __slots__ = ("_protocol", "_transport")

    def __init__(self, protocol: HttpToolsProtocol, transport: asyncio.Transport) -> None:
        self._protocol = protocol
        self._transport = transport

    @property
    def lost(self) -> bool:
        """True once either side has gone."""
        return self._transport.is_closing()

    def write_whole_nowait(self, scope: object, headers: tuple[Header, ...], body: bytes) -> bool:
        """Write a complete 200 response and end the request of `scope`; False, and nothing done, where that is unsafe.

        `headers` come without date and content-length. Unsafe are a pipelined request, a client that
        reads too slowly, and a connection that the response would have to close.
        """
        protocol, cycle = self._protocol, self._protocol.cycle
        if protocol.pipeline or cycle.scope is not scope or not cycle.keep_alive or protocol.flow.write_paused:
            return False
        lines = b"".join([b"%b: %b\r\n" % header for header in (*protocol.server_state.default_headers, *headers)])
        self._transport.write(b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\n\r\n%b" % (lines, len(body), body))
        # What RequestResponseCycle.send does after the last byte, in the same order.
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        cycle.on_response()
        return True

    async def drain(self) -> None:
        """Wait until all that was sent is out of the process; the kernel has it then."""
        # One turn always: uvloop gathers the writes of a turn and sends them at its end.
        await asyncio.sleep(0)
        while not self._transport.is_closing() and self._transport.get_write_buffer_size():  # noqa: ASYNC110 - a transport tells its buffer, not an event, to any but its protocol
            await asyncio.sleep(0.001)

    async def reset(self) -> None:
        """Break the connection: the client has all that was sent, then reads ECONNRESET."""
        await self.drain()
        fileno = self._transport.get_extra_info("socket").fileno()
        if fileno < 0:
            return
        # uvloop's stand-in for a socket cannot set options; a duplicate of its descriptor shares the socket and so
        # the option.
        with socket.fromfd(fileno, socket.AF_INET, socket.SOCK_STREAM) as duplicate:
            duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        self._transport.abort()

    async def close(self) -> None:
        """Close the connection in order (FIN), whatever the response still owed."""
        await self.drain()
        self._transport.close()


class SimulatorProtocol(HttpToolsProtocol):
    """uvicorn's protocol that hands its connection to the application."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn narrows the argument the same way
        """Keep the connection for the scopes to come."""
        super().connection_made(transport)
        self._extensions = {EXTENSION: Connection(self, transport)}

    def on_message_begin(self) -> None:
        """Put the connection into the new request's scope."""
        super().on_message_begin()
        self.scope["extensions"] = self._extensions  # type: ignore[typeddict-item]  # typed there as plain dicts
