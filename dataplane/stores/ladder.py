"""What a fleet shares about its ladders, in Redis: what each worker tells of each surface, who decides, and where each
ladder stands by itself.

One round trip a turn, however many requests there are. All times are Redis' own, so hosts need not agree on any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import orjson
from redis.exceptions import RedisError

from dataplane.ladder.decider import Standing
from dataplane.ladder.signals import Told
from dataplane.stores.redis_client import make_redis

PREFIX: Final = "ballast:ladder:"
# Who was silent for so long is not there any more, neither with what it told nor to decide.
SILENT_MS: Final = 3_000
KEEP_MS: Final = 24 * 3600 * 1000

Tellings = Mapping[str, Told]


class LadderStoreUnavailable(Exception):
    """The fleet cannot be asked now. The message says why; what was told may have arrived all the same."""


@dataclass(frozen=True, slots=True)
class FleetView:
    """What a fleet knows at one moment.

    Attributes:
        now: Epoch seconds, by the store's clock.
        leads: Whether this worker is the one that decides until its next turn.
        tellings: What the workers tell that are there, this one among them, by worker.
        standings: Where each ladder stands by itself, of those that ever moved.
    """

    now: float
    leads: bool
    tellings: Mapping[str, Tellings]
    standings: Mapping[str, Standing]


class LadderStore(Protocol):
    """Where workers of one fleet meet."""

    async def exchange(self, tellings: Tellings, *, worker: str) -> FleetView:
        """Tell of each surface, and hear what everybody tells.

        Raises:
            LadderStoreUnavailable: nobody knows whether it arrived.
        """

    async def move(self, surface: str, standing: Standing) -> Standing:
        """Let a ladder stand elsewhere, and return where it stands now: another's word, if that is as new or newer.

        Raises:
            LadderStoreUnavailable: nobody knows whether it arrived.
        """

    async def close(self) -> None:
        """Let go of connections."""


# KEYS: what workers tell, who decides, standings. ARGV: worker, what it tells.
_EXCHANGE: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], ARGV[1], now .. ' ' .. ARGV[2])
redis.call('PEXPIRE', KEYS[1], KEEP_MS)
local told = {}
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  local at, words = string.match(fields[i + 1], '^(%d+) (.*)$')
  if now - tonumber(at) > SILENT_MS then redis.call('HDEL', KEYS[1], fields[i])
  else told[#told + 1] = fields[i] told[#told + 1] = words end
end
local leader = redis.call('GET', KEYS[2])
if not leader or leader == ARGV[1] then
  redis.call('SET', KEYS[2], ARGV[1], 'PX', SILENT_MS)
  leader = ARGV[1]
end
return {tostring(now), leader == ARGV[1] and 1 or 0, told, redis.call('HGETALL', KEYS[3])}
""".replace("KEEP_MS", str(KEEP_MS)).replace("SILENT_MS", str(SILENT_MS))

# KEYS: standings. ARGV: surface, generation, standing.
_MOVE: Final = """
local known = redis.call('HGET', KEYS[1], ARGV[1])
if known and cjson.decode(known).generation >= tonumber(ARGV[2]) then return known end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return ARGV[3]
"""


class RedisLadderStore:
    """See the module."""

    def __init__(self, url: str, *, timeout_seconds: float = 0.25) -> None:
        # A worker that waits for Redis serves nobody; it decides by itself instead and asks again at the next turn.
        self._redis = make_redis(url, timeout_seconds=timeout_seconds)
        self._exchange = self._redis.register_script(_EXCHANGE)
        self._move = self._redis.register_script(_MOVE)

    async def exchange(self, tellings: Tellings, *, worker: str) -> FleetView:
        """As `LadderStore.exchange`."""
        own = orjson.dumps({surface: told.to_json() for surface, told in tellings.items()})
        try:
            now, leads, told, standings = await self._exchange(
                keys=[f"{PREFIX}told", f"{PREFIX}leader", f"{PREFIX}standings"], args=[worker, own]
            )
        except (RedisError, OSError, TimeoutError) as exc:
            raise LadderStoreUnavailable(f"redis: {type(exc).__name__}: {exc}") from exc
        return FleetView(
            now=int(now) / 1000,
            leads=bool(leads),
            tellings={name.decode(): _tellings(words) for name, words in zip(told[::2], told[1::2], strict=True)},
            standings={
                surface.decode(): Standing(**orjson.loads(standing))
                for surface, standing in zip(standings[::2], standings[1::2], strict=True)
            },
        )

    async def move(self, surface: str, standing: Standing) -> Standing:
        """As `LadderStore.move`."""
        try:
            now = await self._move(
                keys=[f"{PREFIX}standings"], args=[surface, standing.generation, orjson.dumps(standing)]
            )
        except (RedisError, OSError, TimeoutError) as exc:
            raise LadderStoreUnavailable(f"redis: {type(exc).__name__}: {exc}") from exc
        return Standing(**orjson.loads(now))

    async def close(self) -> None:
        """As `LadderStore.close`."""
        await self._redis.aclose()


def _tellings(words: bytes) -> Tellings:
    return {surface: Told.from_json(told) for surface, told in orjson.loads(words).items()}
