"""The reports stream as its consumer sees it: take entries, say they are done, take over what a dead consumer left.

Delivery is at least once. An entry belongs to one consumer until it is done; it is deleted then, never before.
"""

from dataclasses import dataclass
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError
from redis.retry import Retry

GROUP: Final = "ingest"
# An entry that its consumer has held for so long without finishing is taken over; handling one twice changes nothing.
ABANDONED_AFTER_MS: Final = 15_000
# A consumer that has not been heard of for so long, and holds nothing, is forgotten.
FORGOTTEN_AFTER_MS: Final = 3_600_000
TIMEOUT_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the stream: its id, and its field `batch` as it came; None when it has no such field."""

    id: str
    batch: bytes | None


class ReportStream:
    """The consumer group's view of one stream. Every method raises `redis.RedisError` when Redis is away."""

    def __init__(self, url: str, *, stream: str, consumer: str) -> None:
        # The consumer has its own way of waiting; a retry inside the client would only hide an outage from it.
        self._redis = redis.Redis.from_url(
            url,
            socket_connect_timeout=TIMEOUT_SECONDS,
            socket_timeout=TIMEOUT_SECONDS,
            health_check_interval=30,
            retry=Retry(NoBackoff(), 0),
        )
        self._stream = stream
        self.consumer = consumer

    def open(self) -> None:
        """Make the group, from the first entry on, if Redis does not know it; forget consumers that are long gone."""
        try:
            self._redis.xgroup_create(self._stream, GROUP, id="0", mkstream=True)
        except ResponseError as exc:
            if "BUSYGROUP" not in str(exc):
                raise
        for consumer in self._redis.xinfo_consumers(self._stream, GROUP):
            if consumer["pending"] == 0 and consumer["idle"] > FORGOTTEN_AFTER_MS:
                self._redis.xgroup_delconsumer(self._stream, GROUP, consumer["name"])

    def take(self, *, count: int, wait_ms: int) -> list[Entry]:
        """The next entries that nobody has taken; empty when none comes within `wait_ms` (0: do not wait)."""
        found = self._with_group(
            lambda: self._redis.xreadgroup(
                GROUP, self.consumer, {self._stream: ">"}, count=count, block=wait_ms if wait_ms > 0 else None
            )
        )
        return [entry for _, entries in found or () for entry in _entries(entries)]

    def take_over(self, *, count: int) -> list[Entry]:
        """Entries that another consumer took and never finished."""
        answer = self._with_group(
            lambda: self._redis.xautoclaim(
                self._stream, GROUP, self.consumer, min_idle_time=ABANDONED_AFTER_MS, start_id="0-0", count=count
            )
        )
        return _entries(answer[1])

    def done(self, entries: list[Entry]) -> None:
        """Delete entries that have been stored."""
        ids = [entry.id for entry in entries]
        if ids:
            with self._redis.pipeline(transaction=True) as pipeline:
                pipeline.xack(self._stream, GROUP, *ids)
                pipeline.xdel(self._stream, *ids)
                pipeline.execute()

    def close(self) -> None:
        """Let go of the connection."""
        self._redis.close()

    def _with_group(self, command: Any) -> Any:
        """Run a command, making the group first if a restarted Redis has forgotten it."""
        try:
            return command()
        except ResponseError as exc:
            if "NOGROUP" not in str(exc):
                raise
        self.open()
        return command()


def _entries(raw: Any) -> list[Entry]:
    # Redis 6 hands out (id, None), or leaves a hole, for a pending entry that has been deleted.
    return [
        Entry(item[0].decode(), (item[1] or {}).get(b"batch"))
        for item in raw
        if item is not None and item[0] is not None
    ]
