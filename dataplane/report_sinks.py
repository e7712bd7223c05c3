"""Where a worker's reports go: one stream in Redis, from which the control plane's ingest takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from redis.exceptions import RedisError

from dataplane.settings import ReportSettings
from dataplane.stores.redis_client import make_redis

STREAM: Final = "ballast:reports"


class SinkUnavailable(Exception):
    """Batches cannot be delivered now. The message says why; some of them may have arrived all the same."""


class ReportSink(Protocol):
    """Where batches go."""

    async def send(self, batches: Sequence[bytes], *, urgent: bool = False) -> None:
        """Deliver all of them, in order; `urgent` ones also when the stream is over its limit.

        Raises:
            SinkUnavailable: not all of them are known to have arrived.
        """

    async def close(self) -> None:
        """Let go of connections."""


class RedisSink:
    """The reports stream in Redis: each batch one entry with the field `batch`."""

    def __init__(self, url: str, *, stream_limit: int, timeout_seconds: float = 2.0) -> None:
        self._redis = make_redis(url, timeout_seconds=timeout_seconds)
        self._stream_limit = stream_limit

    async def send(self, batches: Sequence[bytes], *, urgent: bool = False) -> None:
        """As `ReportSink.send`."""
        try:
            if not urgent:
                length = await self._redis.xlen(STREAM)
                if length + len(batches) > self._stream_limit:
                    raise SinkUnavailable(f"stream {STREAM!r} holds {length} batches that nobody has taken")
            if len(batches) == 1:  # an acknowledgement or a heartbeat, as nearly always
                await self._redis.xadd(STREAM, {"batch": batches[0]})
                return
            async with self._redis.pipeline(transaction=False) as pipeline:
                for batch in batches:
                    pipeline.xadd(STREAM, {"batch": batch})
                await pipeline.execute()
        except (RedisError, OSError, TimeoutError) as exc:
            raise SinkUnavailable(f"redis: {type(exc).__name__}: {exc}") from exc

    async def close(self) -> None:
        """As `ReportSink.close`."""
        await self._redis.aclose()


class NoSink:
    """For a worker that is told of no Redis: everything waits in the spool."""

    async def send(self, batches: Sequence[bytes], *, urgent: bool = False) -> None:
        """As `ReportSink.send`: always unavailable."""
        raise SinkUnavailable("no REDIS_URL is set")

    async def close(self) -> None:
        """As `ReportSink.close`."""


def sink_for(settings: ReportSettings) -> ReportSink:
    """The sink of a worker that was set so."""
    if settings.redis_url is None:
        return NoSink()
    return RedisSink(settings.redis_url, stream_limit=settings.stream_limit)
