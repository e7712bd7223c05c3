"""A transport whose answers are read up to a bound: nothing that a candidate sends can fill this process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dataplane.errors.upstream import UpstreamMalformed
from dataplane.providers.base import UpstreamCall
from dataplane.transport import Exchange, Limits, Transport

MAX_ANSWER_BYTES: Final = 1024 * 1024


class BoundedTransport:
    """A `Transport` before another."""

    def __init__(self, transport: Transport, *, limit_bytes: int = MAX_ANSWER_BYTES) -> None:
        self._transport = transport
        self._limit_bytes = limit_bytes

    async def send(self, call: UpstreamCall, *, lane: str, limits: Limits) -> Exchange:
        """As `Transport.send`."""
        exchange = await self._transport.send(call, lane=lane, limits=limits)
        bounded = _BoundedExchange(exchange, lane=lane, limit_bytes=self._limit_bytes)
        announced = exchange.headers().get("content-length", "")
        if announced.isdecimal() and int(announced) > self._limit_bytes:
            exchange.close()  # and the connection with it: none of it is worth the time to take it
            raise bounded.too_long()
        return bounded

    async def close(self) -> None:
        """As `Transport.close`."""
        await self._transport.close()


class _BoundedExchange:
    """An `Exchange` that raises UpstreamMalformed once more has come than is read."""

    def __init__(self, exchange: Exchange, *, lane: str, limit_bytes: int) -> None:
        self.status = exchange.status
        self._exchange = exchange
        self._lane = lane
        self._limit_bytes = limit_bytes
        self._read_bytes = 0

    def headers(self) -> Mapping[str, str]:
        """As `Exchange.headers`."""
        return self._exchange.headers()

    async def read(self) -> bytes:
        """As `Exchange.read`."""
        parts = []
        while (chunk := await self.next_chunk()) is not None:
            parts.append(chunk)
        return b"".join(parts)

    async def next_chunk(self) -> bytes | None:
        """As `Exchange.next_chunk`."""
        chunk = await self._exchange.next_chunk()
        self._read_bytes += 0 if chunk is None else len(chunk)
        if self._read_bytes > self._limit_bytes:
            # Whoever holds it closes it, and the connection with it, since it was not read to its end.
            raise self.too_long()
        return chunk

    def too_long(self) -> UpstreamMalformed:
        """The error that an answer over the bound is."""
        return UpstreamMalformed(
            f"lane {self._lane!r} answers a shadow with more than {self._limit_bytes} bytes", lane=self._lane
        )

    def finish(self) -> None:
        """As `Exchange.finish`."""
        self._exchange.finish()

    def close(self) -> None:
        """As `Exchange.close`."""
        self._exchange.close()
