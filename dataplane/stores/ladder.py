"""What a fleet shares about its ladders, in Redis: what each worker tells of each surface, who decides, and where each
ladder stands by itself.

One round trip a turn, however many requests there are. All times are Redis' own, so hosts need not agree on any.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

import orjson
from redis.exceptions import RedisError

from dataplane.ladder.decider import Standing
from dataplane.ladder.signals import Told
from dataplane.stores.redis_client import make_redis

PREFIX: Final = "ballast:ladder:"
TOLD: Final = f"{PREFIX}told"
LEADER: Final = f"{PREFIX}leader"
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
        standings: Where each ladder that was told of stands by itself, if it moved within KEEP_MS.
    """

    now: float
    leads: bool
    tellings: Mapping[str, Tellings]
    standings: Mapping[str, Standing]


class LadderStore(Protocol):
    """Where workers of one fleet meet."""

    async def exchange(self, tellings: Tellings, *, worker: str) -> FleetView:
        """Tell of each surface, and hear what everybody tells. Where a ladder stands is kept as long as anybody tells
        of it, and KEEP_MS longer.

        Raises:
            LadderStoreUnavailable: nobody knows whether it arrived.
        """

    async def move(self, surface: str, standing: Standing) -> Standing | None:
        """Let a ladder stand elsewhere; returns where it stands instead, if it was moved as far or farther already.

        Raises:
            LadderStoreUnavailable: nobody knows whether it arrived.
        """

    async def leave(self, worker: str) -> None:
        """Be there no more: whoever comes next decides, and what the worker told counts no more.

        Raises:
            LadderStoreUnavailable: nobody knows whether it arrived; silence says the same a little later.
        """

    async def close(self) -> None:
        """Let go of connections."""


# KEYS: what workers tell, who decides, and for each surface where its ladder stands. ARGV: worker, what it tells.
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
local standings = {}
for i = 3, #KEYS do
  standings[i - 2] = redis.call('GET', KEYS[i])
  redis.call('PEXPIRE', KEYS[i], KEEP_MS)
end
return {tostring(now), leader == ARGV[1] and 1 or 0, told, standings}
""".replace("KEEP_MS", str(KEEP_MS)).replace("SILENT_MS", str(SILENT_MS))

# KEYS: where the ladder of the surface stands. ARGV: generation, standing.
_MOVE: Final = """
local known = redis.call('GET', KEYS[1])
if known and cjson.decode(known).generation >= tonumber(ARGV[1]) then return known end
redis.call('SET', KEYS[1], ARGV[2], 'PX', KEEP_MS)
return false
""".replace("KEEP_MS", str(KEEP_MS))

# KEYS: what workers tell, who decides. ARGV: worker.
_LEAVE: Final = """
redis.call('HDEL', KEYS[1], ARGV[1])
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
"""


class RedisLadderStore:
    """See the module."""

    def __init__(self, url: str, *, timeout_seconds: float = 0.25) -> None:
        # A worker that waits for Redis serves nobody; it decides by itself instead and asks again at the next turn.
        self._redis = make_redis(url, timeout_seconds=timeout_seconds)
        self._exchange = self._redis.register_script(_EXCHANGE)
        self._move = self._redis.register_script(_MOVE)
        self._leave = self._redis.register_script(_LEAVE)

    async def exchange(self, tellings: Tellings, *, worker: str) -> FleetView:
        """As `LadderStore.exchange`."""
        own = orjson.dumps({surface: told.to_json() for surface, told in tellings.items()})
        with _unavailable():
            now, leads, told, standings = await self._exchange(
                keys=[TOLD, LEADER, *map(_standing_key, tellings)], args=[worker, own]
            )
            return FleetView(
                now=int(now) / 1000,
                leads=bool(leads),
                tellings={name.decode(): _tellings(words) for name, words in zip(told[::2], told[1::2], strict=True)},
                standings={
                    surface: _standing(words)
                    for surface, words in zip(tellings, standings, strict=True)
                    if words is not None
                },
            )

    async def move(self, surface: str, standing: Standing) -> Standing | None:
        """As `LadderStore.move`."""
        with _unavailable():
            words = await self._move(keys=[_standing_key(surface)], args=[standing.generation, orjson.dumps(standing)])
            return None if words is None else _standing(words)

    async def leave(self, worker: str) -> None:
        """As `LadderStore.leave`."""
        with _unavailable():
            await self._leave(keys=[TOLD, LEADER], args=[worker])

    async def close(self) -> None:
        """As `LadderStore.close`."""
        await self._redis.aclose()


@contextmanager
def _unavailable() -> Iterator[None]:
    """Raise LadderStoreUnavailable where Redis cannot be asked, or says what this worker cannot read, as one that is of
    another version than its fleet.
    """
    try:
        yield
    except (RedisError, OSError, TimeoutError) as exc:
        raise LadderStoreUnavailable(f"redis: {type(exc).__name__}: {exc}") from exc
    except (LookupError, TypeError, ValueError) as exc:
        raise LadderStoreUnavailable(f"what the fleet says cannot be read: {type(exc).__name__}: {exc}") from exc


def _standing_key(surface: str) -> str:
    return f"{PREFIX}standing:{surface}"


def _standing(words: bytes) -> Standing:
    return Standing(**orjson.loads(words))


def _tellings(words: bytes) -> Tellings:
    return {surface: Told.from_json(told) for surface, told in orjson.loads(words).items()}
