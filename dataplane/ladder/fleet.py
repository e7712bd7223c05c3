"""The ladders of one worker in their fleet: it tells what it sees, hears what others see, and one of them decides.

Redis away for longer than a leader may be silent: each worker decides by what it sees itself, from where the ladder
stood, and an event says so. It takes the others for as busy as itself, since callers are spread over all of them: what
the whole fleet has under way is what triggers look at, and a part of it would let the ladder down in the middle of the
rush. Back again, the highest generation counts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from dataplane.events import Event, LadderAlone, LadderMoved, LadderShared
from dataplane.ladder.counting import SurfaceCounting
from dataplane.ladder.decider import LadderDecider, Readings, Standing
from dataplane.ladder.policy import Surface
from dataplane.ladder.reserve import allowance
from dataplane.ladder.signals import Told, gather
from dataplane.release import Release
from dataplane.stores.ladder import SILENT_MS, LadderStore, LadderStoreUnavailable, Tellings

EXCHANGE_SECONDS: Final = 1.0

log = logging.getLogger("ballast.ladder")


class FleetLadders:
    """See the module. Belongs to one event loop."""

    def __init__(
        self,
        *,
        store: LadderStore | None,
        worker: str,
        look: Callable[[Surface], Told],
        ceiling: Callable[[str], int],
        report: Callable[[Event], None],
        clock: Callable[[], float],
        wall: Callable[[], float],
        counting: SurfaceCounting | None = None,
        exchange_seconds: float = EXCHANGE_SECONDS,
    ) -> None:
        """
        Args:
            store: None: a fleet of one.
            worker: Unique in the fleet, also over restarts.
            look: What this worker sees of a surface now.
            ceiling: The highest rung that people let triggers engage on a surface.
            clock, wall: Monotonic seconds, and epoch seconds.
            counting: Keeps what the fleet read; None: nobody does.
        """
        self._store = store
        self._worker = worker
        self._look = look
        self._ceiling = ceiling
        self._report = report
        self._clock = clock
        self._wall = wall
        self._counting = counting
        self._exchange_seconds = exchange_seconds
        # What the fleet's clock is ahead of this worker's monotonic one; before it was ever heard, this host's counts.
        self._ahead_seconds = wall() - clock()
        self._latest = float("-inf")
        self._deciders: dict[str, LadderDecider] = {}
        self._readings: dict[str, Readings] = {}
        self._heard: Mapping[str, Tellings] = {}
        self._allowances: dict[tuple[str, str], int] = {}
        self._leads = store is None
        self._silent_since: float | None = None  # nobody answered from then on, by `clock`
        self._is_alone = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def leads(self) -> bool:
        """Whether this worker decides, as one that is alone does too."""
        return self._is_alone or (self._leads and self._silent_since is None)

    @property
    def is_alone(self) -> bool:
        """True while the fleet cannot be asked, and could not for so long that whoever led does so no more. A fleet of
        one is never alone.
        """
        return self._is_alone

    def adopt(self, release: Release) -> None:
        """Follow another release. Where a ladder stands is kept as long as its surface stays."""
        deciders: dict[str, LadderDecider] = {}
        for slug, surface in release.ladder.items():
            known = self._deciders.get(slug)
            if known is None:
                known = LadderDecider(surface)
                self._wake.set()  # where it stands, the fleet may know
            else:
                known.adopt(surface)
            deciders[slug] = known
        self._deciders = deciders
        self._readings = {slug: seen for slug, seen in self._readings.items() if slug in deciders}
        self._share_places()

    async def start(self) -> None:
        """Hear where the ladders stand, so that nobody is served above it, and begin to take turns."""
        await self._turn()
        self._task = asyncio.create_task(self._turn_regularly(), name="exchange-ladders")

    async def stop(self) -> None:
        """Take no more turns, let others decide at once, and let go of the store."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self._store is not None:
            try:
                await self._store.leave(self._worker)
            except LadderStoreUnavailable as exc:
                log.info("others decide only once this worker was silent for a while: %s", exc)
            await self._store.close()

    def level(self, surface: str) -> int:
        """As `Fleet.level`."""
        return self.standing(surface).level

    def allowance(self, surface: str, tier: str) -> int:
        """As `Fleet.allowance`; by what the fleet was last heard to have under way. A worker that never heard it takes
        all places for its own: too many of the tier are served in full then, rather than none. A dict is looked into,
        no more: each request that would be degraded comes by here.
        """
        return self._allowances.get((surface, tier), 0)

    def standing(self, surface: str) -> Standing:
        """Where the ladder of a surface stands by itself."""
        decider = self._deciders.get(surface)
        return Standing() if decider is None else decider.standing

    def readings(self, surface: str) -> Readings:
        """What each trigger of a surface read at the last turn, for the whole fleet; empty before the first."""
        return self._readings.get(surface, {})

    def surfaces(self) -> tuple[Surface, ...]:
        """Those that the fleet has ladders of."""
        return tuple(decider.surface for decider in self._deciders.values())

    async def exchange(self) -> None:
        """Take one turn: tell, hear, and decide if that is this worker's part. The regular turn does only this."""
        if not self._deciders:
            return
        own = {slug: self._look(decider.surface) for slug, decider in self._deciders.items()}
        if self._store is None:
            self._hear({self._worker: own})
            await self._decide({self._worker: own})
            return
        try:
            view = await self._store.exchange(own, worker=self._worker)
            self._ahead_seconds = view.now - self._clock()
            self._leads = view.leads
            self._hear(view.tellings)
            await self._follow(self._store, view.standings)
        except LadderStoreUnavailable as exc:
            self._be_silent(exc)
            await self._decide(self._as_busy_as(own))
            return
        self._be_heard()
        await self._decide(view.tellings)

    async def _turn_regularly(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._exchange_seconds):
                    await self._wake.wait()
            except TimeoutError:
                pass
            await self._turn()

    async def _turn(self) -> None:
        self._wake.clear()
        try:
            await self.exchange()
        except Exception:  # ladders must outlive their own mistakes; requests are served meanwhile
            log.exception("ladders could not be exchanged")

    def _now(self) -> float:
        """The fleet's time in epoch seconds, as far as it is known here. Unlike Redis' own, it never goes back."""
        self._latest = max(self._latest, self._clock() + self._ahead_seconds)
        return self._latest

    def _hear(self, tellings: Mapping[str, Tellings]) -> None:
        self._heard = tellings
        self._share_places()

    def _share_places(self) -> None:
        """Work out beforehand what is asked for with every request."""
        shared: dict[tuple[str, str], int] = {}
        for slug, decider in self._deciders.items():
            for tier, promise in decider.surface.promises.items():
                demands = {
                    worker: told[slug].in_flight.get(tier, 0) for worker, told in self._heard.items() if slug in told
                }
                # Not heard of by itself yet, as with a surface that is new.
                demands.setdefault(self._worker, 0)
                shared[slug, tier] = allowance(int(promise.reserved_concurrency.value), demands, worker=self._worker)
        self._allowances = shared

    async def _follow(self, store: LadderStore, standings: Mapping[str, Standing]) -> None:
        """Stand where the fleet does; a ladder that it knows less of than this worker is told to it."""
        for slug, decider in list(self._deciders.items()):
            shared = standings.get(slug, Standing())
            if decider.standing.generation > shared.generation:
                # Decided here while the fleet could not be asked, or lost by the store. It was reported then.
                shared = await store.move(slug, decider.standing) or decider.standing
            decider.follow(shared)

    def _as_busy_as(self, own: Tellings) -> Mapping[str, Tellings]:
        """What a fleet that cannot be asked is taken to see. Attempts are counted once: as many that failed alike would
        look like evidence.
        """
        echo = {slug: replace(told, windows={}) for slug, told in own.items()}
        return {**dict.fromkeys(self._heard, echo), self._worker: own}

    async def _decide(self, tellings: Mapping[str, Tellings]) -> None:
        now = self._now()
        for slug, decider in list(self._deciders.items()):
            if self._deciders.get(slug) is not decider:
                continue  # a release came while another ladder was moved
            told = [one[slug] for one in tellings.values() if slug in one]
            readings = {
                name: gather(trigger.signal, name, told, trigger.budget)
                for name, trigger in decider.surface.triggers.items()
            }
            self._readings[slug] = readings
            if self.leads:
                await self._judge(slug, decider, readings, now=now)
            else:
                # Whoever leads next has then seen what this worker saw, and neither presses nor lets go too soon.
                decider.observe(readings, now=now)
            self._keep(slug, tellings)

    def _keep(self, slug: str, tellings: Mapping[str, Tellings]) -> None:
        """Keep what was read at this turn, and where the ladder stands after it."""
        if self._counting is None:
            return
        told = {worker: one[slug] for worker, one in tellings.items() if slug in one}
        # Others that cannot be heard are taken for as busy as this worker, but nobody knows what they tried.
        counted = {worker: one for worker, one in told.items() if self._silent_since is None or worker == self._worker}
        standing = self.standing(slug)
        self._counting.see(
            slug,
            told,
            counted=counted,
            level=standing.level,
            generation=standing.generation,
            leads=self.leads,
            is_alone=self._is_alone,
        )

    async def _judge(self, slug: str, decider: LadderDecider, readings: Readings, *, now: float) -> None:
        moved = decider.judge(readings, now=now, ceiling=self._ceiling(slug))
        if moved is None:
            return
        if self._store is not None and not self._is_alone:
            try:
                elsewhere = await self._store.move(slug, decider.standing)
            except LadderStoreUnavailable as exc:
                # It may have arrived all the same. This worker stands there from now on, and tells it again.
                self._be_silent(exc)
            else:
                if elsewhere is not None:
                    log.info("the ladder of %r was moved by another worker, to rung %d", slug, elsewhere.level)
                    decider.follow(elsewhere)
                    return
        log.warning("the ladder of %r moved from rung %d to %d: %s", slug, moved.before, moved.after, moved.cause)
        self._report(
            LadderMoved(
                at=self._wall(),
                surface=slug,
                before=moved.before,
                after=moved.after,
                cause=str(moved.cause),
                trigger=moved.trigger,
                reading=moved.reading,
                readings=dict(readings),
                generation=moved.generation,
            )
        )

    def _be_silent(self, why: LadderStoreUnavailable) -> None:
        now = self._clock()
        if self._silent_since is None:
            self._silent_since = now
        # Whoever led may go on until its lease is over, so one lost answer makes nobody decide beside it.
        if self._is_alone or now - self._silent_since < SILENT_MS / 1000:
            return
        self._is_alone = True
        log.warning("ladders are decided by this worker alone: %s", why)
        self._report(LadderAlone(at=self._wall(), reason=str(why)))

    def _be_heard(self) -> None:
        self._silent_since = None
        if not self._is_alone:
            return
        self._is_alone = False
        log.warning("ladders are shared with the fleet again")
        self._report(LadderShared(at=self._wall()))
