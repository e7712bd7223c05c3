"""What a fleet shares of an account's limits, in Redis: `quota.QuotaPool`, one script a turn.

Everything there is said in `dataplane.quota`, which the script follows step by step; tests/contracts holds the two
together. A turn takes as long as what is told and granted in it, and a logarithm of who waits; workers come by every
few milliseconds while somebody waits, a few times a second otherwise, and not at all while nothing happens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import orjson
from redis.exceptions import RedisError

from dataplane.quota import (
    FIRST_PAUSE_MS,
    GONE_MS,
    LEASE_SHARE,
    MEMORY,
    MOST_GRANTS,
    NEARLY,
    RAMP_FLOOR,
    RECOVER_MS,
    SILENT_MS,
    Hearing,
    Place,
    Telling,
    Terms,
)
from dataplane.stores.redis_client import make_redis

PREFIX: Final = "ballast:quota:"
KEEP_MS: Final = 24 * 3600 * 1000
SCRIPT: Final = Path(__file__).with_name("quota.lua")
PARTS: Final = (
    "pool",
    "workers",
    "heard",
    "granted",
    "tickets",
    "finish:interactive",
    "finish:batch",
    "queue:interactive",
    "queue:batch",
    "vips",
    "seen",
)


class QuotaStoreUnavailable(Exception):
    """The fleet cannot be asked now. The message says why; what was told may have arrived all the same."""


class QuotaStore(Protocol):
    """Where workers of one fleet share quotas."""

    async def turn(self, pool: str, worker: str, told: Telling, terms: Terms) -> Hearing:
        """Take one worker's turn at a pool. The same `told` may be told again.

        Raises:
            QuotaStoreUnavailable: nothing is known to have arrived.
        """

    async def close(self) -> None:
        """Let go of connections."""


CONSTANTS: Final[dict[str, float]] = {
    "RECOVER_MS": RECOVER_MS,
    "SILENT_MS": SILENT_MS,
    "GONE_MS": GONE_MS,
    "FIRST_PAUSE_MS": FIRST_PAUSE_MS,
    "RAMP_FLOOR": RAMP_FLOOR,
    "LEASE_SHARE": LEASE_SHARE,
    "MOST_GRANTS": MOST_GRANTS,
    "MEMORY": MEMORY,
    "NEARLY": NEARLY,
    "KEEP_MS": KEEP_MS,
}


class RedisQuotaStore:
    """See the module."""

    def __init__(self, url: str, *, timeout_seconds: float = 0.25, clock_ms: Callable[[], float] | None = None) -> None:
        """`clock_ms` takes the place of Redis' own clock, in tests."""
        # A worker that waits for Redis serves nobody; it keeps to its part of the limits instead, and asks again.
        self._redis = make_redis(url, timeout_seconds=timeout_seconds)
        constants = "".join(f"local {name} = {value:.17g}\n" for name, value in CONSTANTS.items())
        self._turn = self._redis.register_script(constants + SCRIPT.read_text(encoding="utf-8"))
        self._clock_ms = clock_ms

    async def turn(self, pool: str, worker: str, told: Telling, terms: Terms) -> Hearing:
        """As `QuotaStore.turn`."""
        now = "" if self._clock_ms is None else repr(self._clock_ms())
        try:
            heard = await self._turn(
                keys=[f"{PREFIX}{{{pool}}}:{part}" for part in PARTS],
                args=[worker, _terms(terms), _telling(told), now],
            )
        except (RedisError, OSError, TimeoutError) as exc:
            raise QuotaStoreUnavailable(f"redis: {type(exc).__name__}: {exc}") from exc
        return _hearing(orjson.loads(heard))

    async def close(self) -> None:
        """As `QuotaStore.close`."""
        await self._redis.aclose()


def _terms(terms: Terms) -> bytes:
    return orjson.dumps(
        {
            "limits": [_number(limit) for limit in terms.limits],
            "concurrency": _number(terms.concurrency),
            "vip_concurrency": terms.vip_concurrency,
            "window_ms": terms.window_ms,
            "headroom": terms.headroom,
            "batch_share": terms.batch_share,
            "ramp_ms": terms.ramp_ms,
        }
    )


def _telling(told: Telling) -> bytes:
    return orjson.dumps(
        {
            "number": told.number,
            "entries": [
                (entry.ticket, entry.workload, entry.tenant, entry.weight, int(entry.is_vip), entry.amounts)
                for entry in told.entries
            ],
            "left": told.left,
            "settled": told.settled,
            "in_flight": told.in_flight,
            "vip_in_flight": told.vip_in_flight,
            "held_ms": told.held_ms,
            "wants": told.wants,
            "wants_slots": told.wants_slots,
            "pause_ms": _number(told.pause_ms),
            "learned": {str(rate + 1): limit for rate, limit in told.learned.items()},
            "places": told.places,
            "is_back": told.is_back,
        }
    )


def _hearing(heard: Mapping[str, Any]) -> Hearing:
    requests, tokens, input_tokens, output_tokens = heard["lease"]
    interactive, batch = heard["waiting"]
    interactive_ms, batch_ms = heard["eta_ms"]
    return Hearing(
        number=int(heard["number"]),
        is_new=bool(heard["is_new"]),
        granted=list(heard["granted"]),  # an empty list comes as an empty object
        lease=(requests, tokens, input_tokens, output_tokens),
        slots=int(heard["slots"]),
        paused_ms=float(heard["paused_ms"]),
        open_share=float(heard["open_share"]),
        places={ticket: Place(int(position), float(eta_ms)) for ticket, position, eta_ms in heard["places"]},
        waiting=(int(interactive), int(batch)),
        eta_ms=(float(interactive_ms), float(batch_ms)),
        limits=tuple(None if limit < 0 else float(limit) for limit in heard["limits"]),
        used_share=float(heard["used_share"]),
    )


def _number(value: float | None) -> float:
    """Lua's tables have no holes: below zero stands for nothing."""
    return -1.0 if value is None else value
