"""What a fleet shares about its shadows, in Redis: what is left of each policy's day, and which policies are killed.

Nothing is asked that was not reserved before, so without Redis nothing is. A reservation that is never settled, because
its process died, counts as spent until the day is over.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from redis.exceptions import RedisError

from dataplane.records import record
from dataplane.shadow.budget import Amounts
from dataplane.shadow.switch import PREFIX, killed_key
from dataplane.stores.redis_client import make_redis

EPOCH_KEY: Final = f"{PREFIX}epoch"
KEEP_SECONDS: Final = 3 * 86_400
SCRIPT: Final = Path(__file__).with_name("shadow_budget.lua")


class ShadowStoreUnavailable(Exception):
    """The fleet cannot be asked now. The message says why; what was told may have arrived all the same."""


@record
class Reserved:
    """A call may be made."""


@record
class Spent:
    """It may not: of the day's `budget`, less is left. `is_used`: so it stays, whatever comes of what is under way."""

    budget: str
    is_used: bool


@record
class Killed:
    """It may not: the policy was killed, for this reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class Standing:
    """What the fleet says. `epoch` changes when Redis has lost what it knew; `killed` gives reasons by digest."""

    epoch: str
    killed: Mapping[str, str]


class ShadowStore(Protocol):
    """Where the shadow processes of a fleet meet."""

    async def reserve(
        self, digest: str, *, day: str, reservation: str, amounts: Amounts, limits: Amounts
    ) -> Reserved | Spent | Killed:
        """Set `amounts` aside of the UTC day `day` of a policy, if all of its `limits` allow; once for each id.

        Raises:
            ShadowStoreUnavailable: nobody knows whether it did.
        """

    async def settle(self, digest: str, *, day: str, reservation: str, amounts: Amounts) -> None:
        """Take back what was reserved, and count what was used; once for each id.

        Raises:
            ShadowStoreUnavailable: to be told again.
        """

    async def kill(self, digest: str, reason: str) -> None:
        """Let the fleet know that a policy is killed; the first reason stays.

        Raises:
            ShadowStoreUnavailable: to be told again.
        """

    async def look(self, digests: Iterable[str]) -> Standing:
        """Say which of these policies are killed.

        Raises:
            ShadowStoreUnavailable.
        """

    async def close(self) -> None:
        """Let go of connections."""


class RedisShadowStore:
    """See the module."""

    def __init__(self, url: str, *, timeout_seconds: float = 2.0) -> None:
        self._redis = make_redis(url, timeout_seconds=timeout_seconds)
        self._step = self._redis.register_script(SCRIPT.read_text(encoding="utf-8"))

    async def reserve(
        self, digest: str, *, day: str, reservation: str, amounts: Amounts, limits: Amounts
    ) -> Reserved | Spent | Killed:
        """As `ShadowStore.reserve`."""
        what, why, is_used = await self._run("reserve", digest, day, reservation, amounts, limits)
        if what == b"killed":
            return Killed(_text(why))
        return Reserved() if what == b"reserved" else Spent(_text(why), bool(is_used))

    async def settle(self, digest: str, *, day: str, reservation: str, amounts: Amounts) -> None:
        """As `ShadowStore.settle`."""
        await self._run("settle", digest, day, reservation, amounts, Amounts(0, 0, 0))

    async def kill(self, digest: str, reason: str) -> None:
        """As `ShadowStore.kill`."""
        try:
            await self._redis.set(killed_key(digest), reason, nx=True)
        except (RedisError, OSError, TimeoutError) as exc:
            raise ShadowStoreUnavailable(f"redis: {type(exc).__name__}: {exc}") from exc

    async def look(self, digests: Iterable[str]) -> Standing:
        """As `ShadowStore.look`."""
        wanted = list(digests)
        try:
            await self._redis.set(EPOCH_KEY, uuid.uuid4().hex, nx=True)
            epoch = await self._redis.get(EPOCH_KEY)
            reasons = [await self._redis.get(killed_key(digest)) for digest in wanted]
        except (RedisError, OSError, TimeoutError) as exc:
            raise ShadowStoreUnavailable(f"redis: {type(exc).__name__}: {exc}") from exc
        killed = {digest: _text(reason) for digest, reason in zip(wanted, reasons, strict=True) if reason is not None}
        return Standing("" if epoch is None else _text(epoch), killed)

    async def close(self) -> None:
        """As `ShadowStore.close`."""
        await self._redis.aclose()

    async def _run(
        self, step: str, digest: str, day: str, reservation: str, amounts: Amounts, limits: Amounts
    ) -> tuple[bytes, bytes, int]:
        numbers = [
            *(amounts.calls, amounts.tokens, amounts.cost_micros),
            *(limits.calls, limits.tokens, limits.cost_micros),
        ]
        slot = f"{PREFIX}{{{digest}}}"
        try:
            what, why, is_used = await self._step(
                keys=[f"{slot}:{day}", f"{slot}:{day}:open", killed_key(digest)],
                args=[step, reservation, *numbers, KEEP_SECONDS],
            )
        except (RedisError, OSError, TimeoutError) as exc:
            raise ShadowStoreUnavailable(f"redis: {type(exc).__name__}: {exc}") from exc
        return what, why, int(is_used)


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
