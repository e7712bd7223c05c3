"""The breakers of one worker in their fleet: a board that decides, a store that shares, and the loop between them.

Redis away: the board goes on with what this worker sees, probes are bounded per process, and an event says so.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dataplane.board import BreakerBoard, Moment
from dataplane.breaker import News, Observation, Permit
from dataplane.errors.admission import BreakerOpen
from dataplane.events import BreakersAlone, BreakersShared, Event
from dataplane.release import Release
from dataplane.stores.breakers import BreakerStore, BreakerStoreUnavailable

EXCHANGE_SECONDS: Final = 0.25

log = logging.getLogger("ballast.fleet")


@dataclass(frozen=True, slots=True)
class _Telling:
    """What one turn tells the fleet: news by lane, and the probes (lane and lease) whose findings they hold."""

    news: dict[str, News]
    found: tuple[tuple[str, str], ...]


class FleetBreakers:
    """See the module. Belongs to one event loop."""

    def __init__(
        self,
        *,
        store: BreakerStore | None,
        report: Callable[[Event], None],
        exchange_seconds: float = EXCHANGE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`store` None: a fleet of one. `clock` is monotonic seconds, `wall` epoch seconds."""
        self.board = BreakerBoard()
        self._store = store
        self._report = report
        self._exchange_seconds = exchange_seconds
        self._clock = clock
        self._wall = wall
        self._holder = uuid.uuid4().hex
        self._leases = 0
        self._held: dict[Permit, str] = {}
        self._found: list[tuple[str, str]] = []  # probes that are over: lane and lease
        self._turn = 0
        self._telling: _Telling | None = None  # until the fleet is known to have heard it
        self._is_alone = False
        self._wake = asyncio.Event()
        self._loop_task: asyncio.Task[None] | None = None
        self._returning: set[asyncio.Task[None]] = set()

    def adopt(self, release: Release) -> None:
        """Follow another release."""
        self.board.adopt(release.routing, release.lane_overrides, at=self._moment())

    async def start(self) -> None:
        """Begin to exchange verdicts."""
        self._loop_task = asyncio.create_task(self._exchange_regularly(), name="exchange-breakers")

    async def stop(self) -> None:
        """Return the probes that are out, and let go of the store."""
        if self._loop_task is not None:
            self._loop_task.cancel()
            await asyncio.gather(self._loop_task, return_exceptions=True)
            self._loop_task = None
        await self.settle()
        if self._store is not None:
            untold = () if self._telling is None else self._telling.found
            for lane, name in (*untold, *self._found):
                await self._give_lease_back(self._store, lane, name)
            await self._store.close()

    def acquire_nowait(self, lane: str) -> Permit | None:
        """Return leave to make an attempt at `lane`; None for a lane without a breaker. A probe's permit also needs
        `lease`.

        Raises:
            BreakerOpen: not now.
        """
        breaker = self.board.breakers().get(lane)
        if breaker is None:
            return None
        permit = breaker.let_through()  # nearly always: no time is asked for, and nothing happens because of it
        if permit is None:
            permit, events = self.board.acquire(lane, at=self._moment())
            if events:
                self._tell(events)
        return permit

    async def lease(self, permit: Permit, *, ttl_seconds: float) -> None:
        """Ask the fleet for the probe that `permit` stands for. If nobody can be asked, this process' own bound holds.

        Args:
            ttl_seconds: After which the fleet takes it back, should this worker die.
        Raises:
            BreakerOpen: other workers are probing, or have found something that this one is yet to hear; the permit is
                back.
        """
        breaker = self.board.breakers().get(permit.lane)
        if self._store is None or breaker is None:
            return
        self._leases += 1
        name = f"{self._holder}:{self._leases}"
        # Noted first, so that a request that is cancelled while it asks returns what it may have been granted.
        self._held[permit] = name
        try:
            granted = await self._store.lease_probe(
                permit.lane,
                name,
                generation=permit.generation,
                limit=int(breaker.policy.probes.value),
                ttl_seconds=ttl_seconds,
            )
        except BreakerStoreUnavailable:
            return
        if not granted:
            del self._held[permit]
            self.board.give_back(permit)
            raise BreakerOpen(permit.lane, open_seconds=0.0)

    def record(self, permit: Permit | None, seen: Observation) -> None:
        """Take a permit back with what its attempt came to. Never waits."""
        if permit is None:
            return
        events = self.board.record(permit, seen, at=self._moment())
        if permit.is_probe:
            # Its lease goes back once the fleet knows what it found, or another worker would try again right now.
            if (name := self._held.pop(permit, None)) is not None:
                self._found.append((permit.lane, name))
            self._wake.set()
        if events:
            self._tell(events)

    def give_back(self, permit: Permit | None) -> None:
        """Take a permit back whose attempt says nothing about its lane. Idempotent, never waits."""
        if permit is not None:
            self.board.give_back(permit)
            if permit.is_probe:
                self._return_lease(permit)

    async def exchange(self) -> None:
        """Tell the fleet what is new here, and act on what it says. The regular turn does only this."""
        at = self._moment()
        self.board.expire(at=at)
        breakers = self.board.breakers()
        if self._store is None or not breakers:
            return
        if self._telling is None:
            self._turn += 1
            news = {lane: breaker.take_news(now=at.now) for lane, breaker in breakers.items()}
            self._telling, self._found = _Telling(news, tuple(self._found)), []
        telling = self._telling
        try:
            views = await self._store.exchange(
                {
                    lane: (breakers[lane].slice_seconds, breakers[lane].again(one, now=at.now))
                    for lane, one in telling.news.items()
                    if lane in breakers
                },
                teller=self._holder,
                turn=self._turn,
            )
        except BaseException as exc:
            # It may have arrived all the same. Told again as the same turn, it is counted once.
            if not isinstance(exc, BreakerStoreUnavailable):
                raise
            if not self._is_alone:
                self._is_alone = True
                log.warning("breakers are judged by this worker alone: %s", exc)
                self._report(BreakersAlone(at=self._wall(), reason=str(exc)))
            return
        self._telling = None
        if self._is_alone:
            self._is_alone = False
            log.warning("breakers are shared with the fleet again")
            self._report(BreakersShared(at=self._wall()))
        at = self._moment()
        for lane, view in views.items():
            self._tell(self.board.hear(lane, view.verdict, counts=view.counts, healthy=view.healthy, at=at))
        for lane, name in telling.found:
            await self._give_lease_back(self._store, lane, name)

    async def settle(self) -> None:
        """Wait until the probes that came back without a finding are returned to the fleet too."""
        await asyncio.gather(*self._returning, return_exceptions=True)

    def last_resort(self, lanes: Iterable[str]) -> str | None:
        """See `BreakerBoard.last_resort`."""
        return self.board.last_resort(lanes)

    def open_seconds(self, lanes: Iterable[str]) -> dict[str, float | None]:
        """How long each of `lanes` that is held back stays so, in seconds; None when nobody can say."""
        return self.board.open_seconds(lanes, at=self._moment())

    def states(self) -> list[dict[str, Any]]:
        """See `BreakerBoard.states`."""
        return self.board.states(now=self._clock())

    def _tell(self, events: Sequence[Event]) -> None:
        for event in events:
            self._report(event)
        if events:
            self._wake.set()

    def _return_lease(self, permit: Permit) -> None:
        name = self._held.pop(permit, None)
        if name is not None and self._store is not None:
            self._spawn(self._give_lease_back(self._store, permit.lane, name))

    async def _give_lease_back(self, store: BreakerStore, lane: str, name: str) -> None:
        try:
            await store.return_probe(lane, name)
        except BreakerStoreUnavailable as exc:
            log.info("a probe of lane %r stays leased until its time is up: %s", lane, exc)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    async def _exchange_regularly(self) -> None:
        while True:
            try:
                await self.exchange()
            except Exception:  # breakers must outlive their own mistakes; requests are served meanwhile
                log.exception("breakers could not be exchanged")
            try:
                async with asyncio.timeout(self._exchange_seconds):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    def _moment(self) -> Moment:
        return Moment(self._clock(), self._wall())
