"""What a fleet shares about its lanes, in Redis: one verdict and one window of counts per lane, and leases of probes.

One round trip tells all lanes' news and hears all lanes' sums; how many there are grows with workers and time, never
with requests. All times are Redis' own, so hosts need not agree on any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import orjson
from redis.exceptions import RedisError

from dataplane.breaker import COUNTED, LATENCY_THRESHOLDS, SLICES, Counts, News, Verdict
from dataplane.stores.redis_client import make_redis

PREFIX: Final = "ballast:breaker:"
KEEP_MS: Final = 24 * 3600 * 1000
# Workers tell how long it stays open as they heard it, late by their way here and back. Taken at their word, each turn
# of each worker would add its way, and for a large fleet a lane would never be due.
ECHO_MS: Final = 1000


class BreakerStoreUnavailable(Exception):
    """The fleet cannot be asked now. The message says why; what was told may have arrived all the same."""


@dataclass(frozen=True, slots=True)
class FleetView:
    """What the fleet says about a lane: the joined verdict, and sums for its generation."""

    verdict: Verdict
    counts: Counts
    healthy: int


class BreakerStore(Protocol):
    """Where workers of one fleet meet."""

    async def exchange(self, news: Mapping[str, tuple[float, News]], *, teller: str, turn: int) -> dict[str, FleetView]:
        """Tell news, by lane with the length of its slices in seconds, and hear of the same lanes.

        Args:
            teller, turn: Who tells, and its how manyth news these are, from 1. What is told again as the same turn is
                counted once.
        Raises:
            BreakerStoreUnavailable: nobody knows whether it arrived.
        """

    async def lease_probe(self, lane: str, holder: str, *, generation: int, limit: int, ttl_seconds: float) -> bool:
        """Lease one of the fleet's `limit` probes of a lane; False when all are out, and when the fleet's verdict is
        newer than `generation`: whoever asks has not heard yet what another probe found. A lease ends by itself.

        Raises:
            BreakerStoreUnavailable.
        """

    async def return_probe(self, lane: str, holder: str) -> None:
        """Give a lease back; one that has ended is no mistake.

        Raises:
            BreakerStoreUnavailable.
        """

    async def claim(self, name: str, *, ttl_seconds: float) -> bool:
        """Claim something for this worker alone; False while another worker's claim lasts. A claim ends by itself.

        Raises:
            BreakerStoreUnavailable.
        """

    async def close(self) -> None:
        """Let go of connections."""


# One key and two arguments for who tells (the last turn heard); then for each lane two keys (verdict, counts) and
# one argument. A message of an older generation, or of a turn that was heard, is answered and not counted.
_EXCHANGE: Final = (
    """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local latency = cjson.decode(ARGV[1])
local turn = tonumber(ARGV[2])
local is_new = turn > tonumber(redis.call('GET', KEYS[1]) or 0)
redis.call('SET', KEYS[1], turn, 'PX', ARGV_KEEP)
local answers = {}

local function rank(name)
  for _, slow in ipairs(latency) do if slow == name then return 1 end end
  return 0
end

for i = 3, #ARGV do
  local told = cjson.decode(ARGV[i])
  local verdict_key, counts_key = KEYS[2 * i - 4], KEYS[2 * i - 3]
  local known = redis.call('HMGET', verdict_key, 'generation', 'open', 'until', 'flaps', 'closed_at', 'for', 'healthy')
  local generation = tonumber(known[1])
  local open, open_until, flaps = known[2] == '1', tonumber(known[3]), tonumber(known[4])
  local closed_at, opened_for, healthy = tonumber(known[5]), known[6], tonumber(known[7])
  if not generation or told.generation > generation or (told.generation == generation and told.open and not open) then
    generation, open, open_until, flaps = told.generation, told.open, now + told.open_ms, told.flaps
    closed_at, opened_for, healthy = now - told.closed_ms, told.opened_for, 0
    redis.call('DEL', counts_key)
  elseif told.generation == generation and told.open == open then
    if now + told.open_ms > open_until + ECHO_MS then open_until = now + told.open_ms end
    flaps = math.max(flaps, told.flaps)
    closed_at = math.min(closed_at, now - told.closed_ms)
    local mine, theirs = rank(opened_for), rank(told.opened_for)
    if theirs < mine or (theirs == mine and told.opened_for < opened_for) then opened_for = told.opened_for end
  end
  local slice = math.floor(now / told.slice_ms)
  if is_new and told.generation == generation and told.open == open then
    for place, count in ipairs(told.counts) do
      if count > 0 then redis.call('HINCRBY', counts_key, told.slice_ms .. ':' .. slice .. ':' .. place, count) end
    end
    healthy = healthy + told.healthy
  end
  redis.call('HSET', verdict_key, 'generation', generation, 'open', open and '1' or '0', 'until', open_until,
    'flaps', flaps, 'closed_at', closed_at, 'for', opened_for, 'healthy', healthy)
  redis.call('PEXPIRE', verdict_key, ARGV_KEEP)
  local sums = {}
  for place = 1, #told.counts do sums[place] = 0 end
  local fields = redis.call('HGETALL', counts_key)
  for j = 1, #fields, 2 do
    local length, at, place = string.match(fields[j], '^(%d+):(%d+):(%d+)$')
    if tonumber(length) == told.slice_ms and tonumber(at) > slice - SLICES then
      sums[tonumber(place)] = sums[tonumber(place)] + tonumber(fields[j + 1])
    else
      redis.call('HDEL', counts_key, fields[j])
    end
  end
  redis.call('PEXPIRE', counts_key, ARGV_KEEP)
  answers[i - 2] = cjson.encode({generation = generation, open = open, open_ms = math.max(0, open_until - now),
    flaps = flaps, closed_ms = open and 0 or math.max(0, now - closed_at), opened_for = opened_for,
    healthy = healthy, counts = sums})
end
return answers
""".replace("ARGV_KEEP", str(KEEP_MS))
    .replace("- SLICES", f"- {SLICES}")
    .replace("ECHO_MS", str(ECHO_MS))
)

_LEASE: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local generation = tonumber(redis.call('HGET', KEYS[2], 'generation') or 0)
if generation > tonumber(ARGV[4]) then return 0 end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV_KEEP)
return 1
""".replace("ARGV_KEEP", str(KEEP_MS))


class RedisBreakerStore:
    """See the module."""

    def __init__(self, url: str, *, timeout_seconds: float = 0.25) -> None:
        # A worker that waits for Redis serves nobody; it judges by itself instead and asks again at the next turn.
        self._redis = make_redis(url, timeout_seconds=timeout_seconds)
        self._exchange = self._redis.register_script(_EXCHANGE)
        self._lease = self._redis.register_script(_LEASE)

    async def exchange(self, news: Mapping[str, tuple[float, News]], *, teller: str, turn: int) -> dict[str, FleetView]:
        """As `BreakerStore.exchange`."""
        keys = [key for lane in news for key in (f"{PREFIX}{lane}:verdict", f"{PREFIX}{lane}:counts")]
        arguments = [_telling(slice_seconds, one) for slice_seconds, one in news.values()]
        try:
            answers = await self._exchange(
                keys=[f"{PREFIX}heard:{teller}", *keys],
                args=[orjson.dumps(sorted(LATENCY_THRESHOLDS)), turn, *arguments],
            )
        except (RedisError, OSError, TimeoutError) as exc:
            raise BreakerStoreUnavailable(f"redis: {type(exc).__name__}: {exc}") from exc
        return {lane: _hearing(orjson.loads(answer)) for lane, answer in zip(news, answers, strict=True)}

    async def lease_probe(self, lane: str, holder: str, *, generation: int, limit: int, ttl_seconds: float) -> bool:
        """As `BreakerStore.lease_probe`."""
        try:
            granted = await self._lease(
                keys=[f"{PREFIX}{lane}:probes", f"{PREFIX}{lane}:verdict"],
                args=[holder, limit, int(ttl_seconds * 1000), generation],
            )
        except (RedisError, OSError, TimeoutError) as exc:
            raise BreakerStoreUnavailable(f"redis: {type(exc).__name__}: {exc}") from exc
        return bool(granted)

    async def return_probe(self, lane: str, holder: str) -> None:
        """As `BreakerStore.return_probe`."""
        try:
            await self._redis.zrem(f"{PREFIX}{lane}:probes", holder)
        except (RedisError, OSError, TimeoutError) as exc:
            raise BreakerStoreUnavailable(f"redis: {type(exc).__name__}: {exc}") from exc

    async def claim(self, name: str, *, ttl_seconds: float) -> bool:
        """As `BreakerStore.claim`."""
        try:
            return bool(await self._redis.set(PREFIX + name, b"1", nx=True, px=max(1, int(ttl_seconds * 1000))))
        except (RedisError, OSError, TimeoutError) as exc:
            raise BreakerStoreUnavailable(f"redis: {type(exc).__name__}: {exc}") from exc

    async def close(self) -> None:
        """As `BreakerStore.close`."""
        await self._redis.aclose()


def _telling(slice_seconds: float, news: News) -> bytes:
    verdict = news.verdict
    return orjson.dumps(
        {
            "slice_ms": max(1, round(slice_seconds * 1000)),
            "generation": verdict.generation,
            "open": verdict.is_open,
            "open_ms": round(verdict.open_seconds * 1000),
            "flaps": verdict.flaps,
            "closed_ms": round(verdict.closed_seconds * 1000),
            "opened_for": verdict.opened_for,
            "counts": news.counts,
            "healthy": news.healthy,
        }
    )


def _hearing(answer: Mapping[str, Any]) -> FleetView:
    return FleetView(
        Verdict(
            int(answer["generation"]),
            bool(answer["open"]),
            answer["open_ms"] / 1000,
            int(answer["flaps"]),
            answer["closed_ms"] / 1000,
            str(answer["opened_for"]),
        ),
        [int(count) for count in answer["counts"][: len(COUNTED)]],
        int(answer["healthy"]),
    )
