"""Workers whose ladders are decided together, on a store and a clock of the test's."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from dataplane.ladder.counting import SurfaceCounting
from dataplane.ladder.fleet import FleetLadders
from dataplane.ladder.signals import Told
from dataplane.release import parse_document
from dataplane.stores.ladder import FleetView, LadderStoreUnavailable
from tests.ladders import rung_copy, rungs, surface

SURFACE = "web-chat"
SILENT_SECONDS = 3.0
# Of the fleet, not of a worker: what presses, what lets go, and in between.
HOT, CALM, WARM = 120, 20, 80


class MemoryLadderStore:
    """A store in this process, on a clock of the test's. `is_away`: nobody can ask it; `is_deaf`: what is told arrives,
    and nobody hears the answer; `all_lead`: each worker is told that it does; `before_move` runs when somebody is
    about to move a ladder.
    """

    def __init__(self, clock):
        self.clock = clock
        self.told = {}
        self.leader = ("", 0.0)
        self.standings = {}
        self.is_away = self.is_deaf = self.all_lead = False
        self.before_move = lambda: None
        self.closed = 0

    async def exchange(self, tellings, *, worker):
        await self._ask()
        now = self.clock()
        self.told[worker] = (now, dict(tellings))
        self.told = {name: one for name, one in self.told.items() if now - one[0] <= SILENT_SECONDS}
        if self.leader[0] in ("", worker) or now > self.leader[1]:
            self.leader = (worker, now + SILENT_SECONDS)
        view = FleetView(
            now=now,
            leads=self.all_lead or self.leader[0] == worker,
            tellings={name: told for name, (_, told) in self.told.items()},
            standings={slug: one for slug, one in self.standings.items() if slug in tellings},
        )
        await self._answer()
        return view

    async def move(self, surface, standing):
        await self._ask()
        self.before_move()
        known = self.standings.get(surface)
        is_newer = known is None or known.generation < standing.generation
        if is_newer:
            self.standings[surface] = standing
        await self._answer()
        return None if is_newer else known

    async def leave(self, worker):
        await self._ask()
        self.told.pop(worker, None)
        if self.leader[0] == worker:
            self.leader = ("", 0.0)

    async def close(self):
        self.closed += 1

    async def _ask(self):
        await asyncio.sleep(0)  # others may come in between
        if self.is_away:
            raise LadderStoreUnavailable("nobody is there")

    async def _answer(self):
        await asyncio.sleep(0)
        if self.is_deaf:
            raise LadderStoreUnavailable("nobody answers")


class Worker:
    """One worker's ladders, what it sees, and what it reported."""

    def __init__(self, name, fleet, *, store):
        self.sees = Told({}, 0.0, None, 0.0, {}, {})
        self.ceiling = 6
        self.events = []
        self.counting = SurfaceCounting(wall=fleet.clock)
        self.ladders = FleetLadders(
            store=store,
            worker=name,
            look=lambda surface: self.sees,
            ceiling=lambda surface: self.ceiling,
            report=self.events.append,
            clock=fleet.clock,
            wall=fleet.clock,
            counting=self.counting,
        )
        self.ladders.adopt(fleet.release)

    @property
    def level(self):
        return self.ladders.level(SURFACE)

    def is_busy(self, in_flight, **changes):
        self.sees = replace(self.sees, in_flight={"free": in_flight}, **changes)

    def told(self, kind):
        return [event for event in self.events if event.kind == kind]


class Fleet:
    """So many workers on one store and one clock; steps of a second."""

    def __init__(self, release, clock, *, workers=3):
        self.release = release
        self.clock = clock
        self.store = MemoryLadderStore(clock)
        self.workers = [Worker(f"w{number}", self, store=self.store) for number in range(workers)]

    def are_busy(self, in_flight):
        """The whole fleet has so many under way, spread evenly."""
        for worker in self.workers:
            worker.is_busy(in_flight // len(self.workers))

    async def run(self, seconds, *, workers=None):
        for _ in range(seconds):
            self.clock.advance(1)
            for worker in self.workers if workers is None else workers:
                await worker.ladders.exchange()

    @property
    def levels(self):
        return [worker.level for worker in self.workers]

    @property
    def moves(self):
        return [(one.before, one.after, one.cause) for worker in self.workers for one in worker.told("ladder.moved")]


def release_of(make_document, **changes):
    """A release with one surface, whose rungs need no other route and no signed answers; `changes` are what else it
    says. Without any, its trigger looks at what is under way.
    """
    signed = {number: rung for number, rung in rungs().items() if number not in ("3", "5")}
    ladder = {SURFACE: surface(rungs=signed, **changes)}
    return parse_document(make_document(ladder=ladder, copy=rung_copy()) | {"schema": 4}, digest="d" * 64)
