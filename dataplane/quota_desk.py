"""Where requests get leave to use an account: one `QuotaShare` for each pool of the release, and nothing else.

A lane without a quota policy needs no leave, and no request of it comes here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import Any

from dataplane.errors.upstream import UpstreamRateLimited
from dataplane.events import Event
from dataplane.policies import QuotaPolicy
from dataplane.quota import Place
from dataplane.quota_grants import Asking, Grant
from dataplane.quota_share import QuotaShare
from dataplane.release import Release
from dataplane.routing import Lane
from dataplane.stores.quota import QuotaStore
from dataplane.timers import TimerWheel


class QuotaDesk:
    """See the module. Belongs to one event loop."""

    def __init__(
        self,
        *,
        store: QuotaStore | None,
        worker: str,
        report: Callable[[Event], None],
        timers: TimerWheel,
        clock: Callable[[], float],
        wall: Callable[[], float],
        rng: Random | None = None,
    ) -> None:
        """`store` None: each worker keeps to its part. `worker` is unique in the fleet, also over restarts; `clock` is
        monotonic seconds, `wall` epoch seconds.
        """
        self._store = store
        self._worker = worker
        self._report = report
        self._timers = timers
        self._clock = clock
        self._wall = wall
        self._rng = rng or Random()  # noqa: S311 - spreads load, guards nothing
        self._shares: dict[str, QuotaShare] = {}
        self._retired: list[QuotaShare] = []

    def adopt(self, release: Release) -> None:
        """Follow another release. Pools that are still there go on as they are."""
        shares: dict[str, QuotaShare] = {}
        for lane in release.routing.lanes.values():
            if lane.quota is None or lane.quota_pool in shares:
                continue
            share = self._shares.pop(lane.quota_pool, None) or self._make(lane, lane.quota)
            share.adopt(lane.quota)
            shares[lane.quota_pool] = share
        # Who waits in a pool that is gone was let in by the old release, and is served by it.
        self._retired = [share for share in (*self._retired, *self._shares.values()) if not share.is_idle]
        self._shares = shares

    async def stop(self) -> None:
        """Take no more turns."""
        await asyncio.gather(*(share.stop() for share in (*self._retired, *self._shares.values())))
        if self._store is not None:
            await self._store.close()

    def take_nowait(self, lane: Lane, asking: Asking) -> Grant | None:
        """Leave for an attempt at `lane` that needs no waiting, or None."""
        return self._share(lane).take_nowait(asking)

    async def wait(
        self, lane: Lane, asking: Asking, *, seconds: float, announce: Callable[[Place], None] | None = None
    ) -> Grant:
        """Wait for leave, for so long at most; `announce` is told the place as it changes.

        Raises:
            QuotaExhausted: it takes longer.
        """
        return await self._share(lane).wait(asking, seconds=seconds, announce=announce)

    def refused(self, lane: Lane, error: UpstreamRateLimited) -> None:
        """A provider said 429 to an attempt at `lane`."""
        if lane.quota is not None:
            self._share(lane).refused(retry_after_seconds=error.retry_after_seconds, lane=lane.id)

    def learn(self, lane: Lane, limits: Mapping[int, float]) -> None:
        """A provider named its limits in an answer: see `QuotaShare.learn`."""
        if lane.quota is not None and lane.quota.learn:
            self._share(lane).learn(limits)

    def states(self) -> list[dict[str, Any]]:
        """How every pool stands: see `QuotaShare.state`."""
        return [share.state() for share in self._shares.values()]

    def shares(self) -> Iterable[QuotaShare]:
        """Every pool's."""
        return self._shares.values()

    def shares_of(self, lanes: Iterable[Lane]) -> list[QuotaShare]:
        """Those of the pools that requests of these lanes take from, each once."""
        pools = {lane.quota_pool for lane in lanes if lane.quota is not None}
        return [share for pool, share in self._shares.items() if pool in pools]

    def _share(self, lane: Lane) -> QuotaShare:
        share = self._shares.get(lane.quota_pool)
        if share is not None:
            return share
        if lane.quota is None:
            raise ValueError(f"lane {lane.id!r} has no quota policy, so there is nothing to wait for")
        # A request of the release before this one.
        share = next((one for one in self._retired if one.name == lane.quota_pool), None)
        if share is None:
            share = self._make(lane, lane.quota)
            self._retired.append(share)
        return share

    def _make(self, lane: Lane, policy: QuotaPolicy) -> QuotaShare:
        return QuotaShare(
            lane.quota_pool,
            lane.account,
            policy,
            worker=self._worker,
            store=self._store,
            timers=self._timers,
            report=self._report,
            clock=self._clock,
            wall=self._wall,
            rng=self._rng,
        )
