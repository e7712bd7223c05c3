"""Whatever order workers take their turns in, and whatever happens to the store between them: what is moved is moved
once, and once the store answers all of them stand in the same place.
"""

from __future__ import annotations

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.dataplane.conftest import FakeClock, threshold
from tests.ladders import trigger

from .fleet_world import CALM, HOT, SURFACE, WARM, Fleet, Worker, release_of

WORKERS = 3


class EveryOrder(RuleBasedStateMachine):
    """Three workers on one store and one clock."""

    loop: asyncio.AbstractEventLoop
    release = None

    @initialize(is_calm=st.booleans())
    def begin(self, is_calm):
        self.is_calm = is_calm  # nothing happens to the store
        self.clock = FakeClock(1_764_129_000.0)
        self.fleet = Fleet(self.release, self.clock, workers=WORKERS)
        self.past = []  # workers that were started again
        self.was_troubled = False
        self.generation = 0

    @rule(in_flight=st.sampled_from([CALM, WARM, HOT]), only=st.sampled_from([None, 0, 1, 2]))
    def load_changes(self, in_flight, only):
        for number, worker in enumerate(self.fleet.workers):
            if only in (None, number):
                worker.is_busy(in_flight if only is not None else in_flight // WORKERS)

    @rule(
        seconds=st.sampled_from([1, 1, 5, 12, 70]), turn=st.permutations(range(WORKERS)), count=st.integers(1, WORKERS)
    )
    def some_take_turns(self, seconds, turn, count):
        """One after the other, each second anew; the others are silent meanwhile."""
        chosen = [self.fleet.workers[number] for number in turn[:count]]
        self.loop.run_until_complete(self.fleet.run(seconds, workers=chosen))

    @rule(seconds=st.integers(1, 12), all_lead=st.booleans())
    def all_take_turns_at_once(self, seconds, all_lead):
        """Perhaps each of them with a lease that it thinks it has."""
        self.fleet.store.all_lead = all_lead

        async def at_once():
            for _ in range(seconds):
                self.clock.advance(1)
                await asyncio.gather(*(worker.ladders.exchange() for worker in self.fleet.workers))

        self.loop.run_until_complete(at_once())
        self.fleet.store.all_lead = False

    @rule()
    def lease_ends(self):
        self.fleet.store.leader = ("", 0.0)

    @rule(number=st.integers(0, WORKERS - 1))
    def worker_starts_again(self, number):
        before = self.fleet.workers[number]
        self.loop.run_until_complete(before.ladders.stop())
        self.past.append(before)
        after = Worker(f"w{number}-{len(self.past)}", self.fleet, store=self.fleet.store)
        after.sees = before.sees
        self.fleet.workers[number] = after

    @rule(ceiling=st.sampled_from([0, 1, 6]))
    def people_hold_it_down_or_let_go(self, ceiling):
        for worker in self.fleet.workers:
            worker.ceiling = ceiling

    @precondition(lambda self: not self.is_calm)
    @rule(trouble=st.sampled_from(["is_away", "is_deaf"]), seconds=st.sampled_from([1, 2, 5, 30]))
    def store_is_in_trouble(self, trouble, seconds):
        self.was_troubled = True
        setattr(self.fleet.store, trouble, True)
        self.loop.run_until_complete(self.fleet.run(seconds))
        setattr(self.fleet.store, trouble, False)

    @precondition(lambda self: not self.is_calm)
    @rule()
    def store_forgets_everything(self):
        store = self.fleet.store
        store.standings.clear()
        store.told.clear()
        store.leader = ("", 0.0)
        self.was_troubled, self.generation = True, 0

    @rule()
    def all_agree_once_everybody_has_come_twice(self):
        for worker in self.fleet.workers:
            worker.ceiling = 6
            worker.is_busy(WARM // WORKERS)  # which moves nothing by itself

        self.loop.run_until_complete(self.fleet.run(2))

        standings = {worker.ladders.standing(SURFACE) for worker in self.fleet.workers}
        assert len(standings) == 1
        shared = self.fleet.store.standings.get(SURFACE)
        assert shared is None or standings == {shared}
        assert [worker.ladders.leads for worker in self.fleet.workers].count(True) == 1
        assert not any(worker.ladders.is_alone for worker in self.fleet.workers)

    @precondition(lambda self: not self.was_troubled)
    @invariant()
    def each_step_is_made_and_told_once(self):
        told = sorted(
            event.generation for worker in (*self.past, *self.fleet.workers) for event in worker.told("ladder.moved")
        )
        assert told == list(range(1, len(told) + 1))

    @invariant()
    def fleet_goes_on_from_where_it_stood(self):
        shared = self.fleet.store.standings.get(SURFACE)
        generation = 0 if shared is None else shared.generation
        assert generation >= self.generation
        self.generation = generation

    @invariant()
    def events_of_loss_and_return_alternate(self):
        for worker in self.fleet.workers:
            kinds = [event.kind for event in worker.events if event.kind in ("ladder.alone", "ladder.shared")]
            assert kinds == (["ladder.alone", "ladder.shared"] * len(kinds))[: len(kinds)]

    @invariant()
    def reserved_places_are_handed_out_once_to_those_that_heard_the_same(self):
        total = sum(worker.ladders.allowance(SURFACE, "vip") for worker in self.fleet.workers)
        heard = [worker.ladders._heard for worker in self.fleet.workers]
        if all(one == heard[0] for one in heard) and len(heard[0]) == WORKERS:
            assert total == 40


def test_every_order(make_document):
    """Hypothesis looks for one that breaks what is promised."""
    quick = {"load": trigger(sustain_seconds=threshold(3))}
    loop = asyncio.new_event_loop()
    try:
        EveryOrder.loop, EveryOrder.release = loop, release_of(make_document, triggers=quick)
        run_state_machine_as_test(EveryOrder, settings=settings(max_examples=60, stateful_step_count=30, deadline=None))
    finally:
        loop.close()
