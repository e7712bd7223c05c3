"""Short questions of our own at lanes that nobody uses: so that a lane's health is known before a caller needs it, and
a lane that cooled down is tried by us even when no caller comes by.

One worker of the fleet asks an idle lane; whether it may is settled in the store. Without the store nobody asks: what
callers do then has to be enough. Every probe is an attempt like any other: judged, counted, and billed to ourselves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from enum import Enum
from typing import Any, Final

from dataplane.attempts import Attempts, Work
from dataplane.breaker import ATTEMPTS, State
from dataplane.errors import GatewayError
from dataplane.fleet import FleetBreakers
from dataplane.journey import Attempt, own_journey
from dataplane.lane_caller import LaneCaller
from dataplane.messages import ChatRequest, EmbeddingRequest
from dataplane.policies import ProbePolicy
from dataplane.providers.base import Adapter, UpstreamCall
from dataplane.release import Release
from dataplane.routing import Lane
from dataplane.stores.breakers import BreakerStore, BreakerStoreUnavailable
from dataplane.timers import TimerWheel

LOOK_EVERY_SECONDS: Final = 1.0
GRACE_SECONDS: Final = 2.0
QUESTION: Final = ChatRequest(
    route="", messages=[{"role": "user", "content": "Reply with the word ok."}], parameters={"max_tokens": 8}
)
EMBEDDED: Final = EmbeddingRequest(route="", input="ok", parameters={})

log = logging.getLogger("ballast.probes")


class Due(Enum):
    """Whether a lane is to be asked, and why."""

    NO = "no"
    IDLE = "idle"
    COOLED_DOWN = "cooled down"


class LaneProbes:
    """See the module. Belongs to one event loop."""

    def __init__(
        self,
        *,
        attempts: Attempts,
        caller: LaneCaller,
        breakers: FleetBreakers,
        store: BreakerStore | None,
        timers: TimerWheel,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        """`store` None: this worker is its whole fleet."""
        self._attempts = attempts
        self._caller = caller
        self._breakers = breakers
        self._store = store
        self._timers = timers
        self._clock = clock
        self._wall = wall
        self._release: Release | None = None
        self._asked_at: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None
        self._asking: set[asyncio.Task[None]] = set()

    def adopt(self, release: Release) -> None:
        """Follow another release. A lane that is new to this worker has its idle time before it."""
        self._release = release
        now = self._clock()
        self._asked_at = {lane: self._asked_at.get(lane, now) for lane in release.routing.lanes}

    async def start(self) -> None:
        """Begin to look for lanes that nobody uses."""
        self._task = asyncio.create_task(self._look_regularly(), name="probe-lanes")

    async def stop(self) -> None:
        """Ask no more; what is under way is dropped."""
        tasks = [*self._asking] if self._task is None else [self._task, *self._asking]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._task = None

    async def look(self) -> None:
        """Ask every lane whose turn it is. The regular turn does only this; the answers are not waited for."""
        release = self._release
        if release is None:
            return
        now = self._clock()
        for lane in release.routing.lanes.values():
            due = self._due(lane, now)
            if due is Due.NO or lane.probe is None:
                continue
            self._asked_at[lane.id] = now
            # How many may probe an open lane at once is the breaker's business, and leased; an idle one is claimed.
            if due is Due.IDLE and self._store is not None:
                try:
                    if not await self._store.claim(f"probe:{lane.id}", ttl_seconds=lane.probe.idle_seconds.value):
                        continue
                except BreakerStoreUnavailable:
                    continue
            task = asyncio.create_task(self._ask(release, lane, lane.probe))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def settle(self) -> None:
        """Wait for the answers to what has been asked."""
        await asyncio.gather(*self._asking)

    def _due(self, lane: Lane, now: float) -> Due:
        """Whether the lane's turn has come: it cooled down, or nobody used it for its idle time."""
        if lane.probe is None:
            return Due.NO
        breaker = self._breakers.board.breakers().get(lane.id)
        if breaker is not None:
            if breaker.forced is not None or breaker.open_for(now=now) > 0:
                return Due.NO
            if breaker.state is not State.CLOSED:
                return Due.COOLED_DOWN
        if now - self._asked_at[lane.id] < lane.probe.idle_seconds.value:
            return Due.NO
        # The window is the fleet's: traffic that others sent to the lane says as much as a probe would.
        return Due.IDLE if breaker is None or breaker.counts(now=now)[ATTEMPTS] == 0 else Due.NO

    async def _ask(self, release: Release, lane: Lane, policy: ProbePolicy) -> None:
        # The limit is the lane's to meet; the deadline only bounds what is ours (leases, a connection that hangs).
        seconds = policy.timeout_seconds.value + GRACE_SECONDS
        journey = own_journey(started=self._clock(), wall=self._wall(), kind="probe")
        journey.lanes = (lane,)

        def prepare(lane: Lane) -> tuple[UpstreamCall, Adapter]:
            account, adapter, secret = self._caller.access(release, lane)
            if "chat" in lane.capabilities:
                return adapter.chat_call(QUESTION, lane=lane, account=account, secret=secret), adapter
            return adapter.embedding_call(EMBEDDED, lane=lane, account=account, secret=secret), adapter

        async def make(attempt: Attempt, call: UpstreamCall, adapter: Adapter) -> Any:
            if "chat" in lane.capabilities:
                return await self._caller.chat(attempt, call, adapter, QUESTION, limit=policy.timeout_seconds)
            return await self._caller.embed(attempt, call, adapter, limit=policy.timeout_seconds)

        try:
            with self._timers.deadline(seconds) as deadline:
                await self._attempts.until_answered(
                    journey,
                    journey.lanes,
                    Work(
                        prepare=prepare,
                        make=make,
                        deadline=deadline,
                        deadline_ms=seconds * 1000,
                        limit=policy.timeout_seconds,
                    ),
                )
        except (GatewayError, TimeoutError) as exc:
            log.info("lane %r did not answer its probe: %s", lane.id, exc)

    async def _look_regularly(self) -> None:
        while True:
            try:
                await self.look()
            except Exception:  # a probe must never end probing
                log.exception("lanes could not be probed")
            await asyncio.sleep(LOOK_EVERY_SECONDS)
