"""The ladders of several workers: one decides for all, none decides twice, each goes on where nobody can be asked."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

import pytest

from dataplane.ladder.decider import Standing
from dataplane.ladder.fleet import FleetLadders
from dataplane.ladder.signals import Told
from tests.dataplane.conftest import threshold
from tests.dataplane.virtual_time import in_virtual_time
from tests.ladders import trigger

from .fleet_world import CALM, HOT, SURFACE, WARM, Fleet, MemoryLadderStore, Worker, release_of


@pytest.fixture
def make_release(make_document):
    """Builds a release with one surface: see `release_of`."""
    return partial(release_of, make_document)


@pytest.fixture
def fleet(make_release, clock):
    """Three workers."""
    return Fleet(make_release(), clock)


async def test_one_decides_for_all_by_what_all_of_them_see(fleet):
    """Nobody has enough under way alone; one of them says it, all of them stand there a turn later."""
    fleet.are_busy(HOT)

    await fleet.run(12)

    assert fleet.levels == [1, 1, 1]
    assert [len(worker.told("ladder.moved")) for worker in fleet.workers] == [1, 0, 0]
    (moved,) = fleet.workers[0].told("ladder.moved")
    assert (moved.surface, moved.before, moved.after, moved.cause) == (SURFACE, 0, 1, "pressed")
    assert (moved.trigger, moved.reading, moved.readings, moved.generation) == ("load", 120.0, {"load": 120.0}, 1)
    assert fleet.workers[2].ladders.readings(SURFACE) == {"load": 120.0}


async def test_ladder_goes_up_and_down_one_rung_at_a_time_and_each_step_is_told_once(fleet):
    """As the decider says, whoever runs it."""
    fleet.are_busy(HOT)
    await fleet.run(60)
    fleet.are_busy(CALM)
    await fleet.run(400)

    assert fleet.levels == [0, 0, 0]
    assert fleet.moves == [
        (0, 1, "pressed"),
        (1, 2, "pressed"),
        (2, 4, "pressed"),
        (4, 2, "eased"),
        (2, 1, "eased"),
        (1, 0, "eased"),
    ]


async def test_two_that_think_they_lead_cannot_both_move(fleet):
    """The one that comes second follows the first, and says nothing."""
    one, two, _ = fleet.workers
    fleet.are_busy(HOT)
    await fleet.run(9)
    elsewhere = Standing(level=1, generation=1, moved_at=fleet.clock(), raised_at=fleet.clock(), trigger="load")
    fleet.store.before_move = lambda: fleet.store.standings.setdefault(SURFACE, elsewhere)

    await fleet.run(3)

    assert one.ladders.standing(SURFACE) == two.ladders.standing(SURFACE) == elsewhere
    assert fleet.moves == []


async def test_follower_that_takes_over_goes_on_where_the_leader_stopped(fleet):
    """It has seen what the leader saw, so pressure need not last from the beginning again."""
    leader, *others = fleet.workers
    fleet.are_busy(HOT)
    await fleet.run(8)
    for worker in others:  # what the leader had comes to them
        worker.is_busy(HOT // 2)

    await leader.ladders.stop()
    await fleet.run(4, workers=others)  # of the ten seconds, one was over before all had been heard

    assert [worker.level for worker in others] == [1, 1]
    assert others[0].told("ladder.moved")[0].generation == 1


async def test_silent_leader_is_followed_by_another_one(fleet):
    """It lost its event loop, say: three seconds later somebody else decides."""
    leader, *others = fleet.workers
    fleet.are_busy(HOT)
    await fleet.run(1)
    for worker in others:
        worker.is_busy(HOT // 2)

    await fleet.run(12, workers=others)

    assert [worker.ladders.leads for worker in others] == [True, False]
    assert [worker.level for worker in others] == [1, 1]
    await fleet.run(1)
    assert not leader.ladders.leads
    assert leader.level == 1


async def test_takeover_lets_nothing_down_and_presses_nothing(fleet):
    """Readings between both thresholds move nothing, whoever leads; the one that was calm long enough still is."""
    fleet.are_busy(HOT)
    await fleet.run(12)
    fleet.are_busy(WARM)

    for turn in range(60):
        fleet.store.leader = ("", 0.0)
        first = turn % 3
        await fleet.run(1, workers=[*fleet.workers[first:], *fleet.workers[:first]])

    assert fleet.levels == [1, 1, 1]
    assert len(fleet.moves) == 1


async def test_new_worker_stands_where_the_fleet_does_before_it_serves(fleet):
    """And decides nothing by what it has not seen yet."""
    fleet.are_busy(HOT)
    await fleet.run(12)

    newcomer = Worker("w9", fleet, store=fleet.store)
    await newcomer.ladders.start()

    assert newcomer.level == 1
    assert newcomer.events == []
    await newcomer.ladders.stop()


async def test_lost_answer_makes_nobody_decide_beside_the_leader(fleet):
    """A worker that cannot ask for a moment waits: whoever led may still do so."""
    fleet.are_busy(HOT)
    await fleet.run(9)
    fleet.store.is_away = True

    await fleet.run(2)

    assert [worker.ladders.is_alone or worker.ladders.leads for worker in fleet.workers] == [False] * 3
    fleet.store.is_away = False
    await fleet.run(1)
    assert [worker.events for worker in fleet.workers[1:]] == [[], []]
    assert fleet.levels[0] == 1


async def test_without_a_store_each_decides_alone_from_where_the_ladder_stood(fleet):
    """Up and down again, with one event for the loss; the others are taken to be as busy as oneself."""
    fleet.are_busy(HOT)
    await fleet.run(12)
    fleet.store.is_away = True

    await fleet.run(25)
    up = fleet.levels
    fleet.are_busy(WARM)
    await fleet.run(300)
    between = fleet.levels
    fleet.are_busy(CALM)
    await fleet.run(500)

    assert up == [2, 2, 2]
    assert between[0] > 0
    assert len(set(between)) == 1
    assert fleet.levels == [0, 0, 0]
    for worker in fleet.workers:
        assert len(worker.told("ladder.alone")) == 1
        assert worker.told("ladder.alone")[0].reason == "nobody is there"
        assert worker.ladders.is_alone


async def test_highest_generation_counts_when_the_store_is_back(fleet):
    """The one that moved most is followed by the others, and nothing is reported twice."""
    one, two, three = fleet.workers
    await fleet.run(1)
    fleet.store.is_away = True
    two.is_busy(HOT)
    await fleet.run(60)
    alone = [worker.ladders.standing(SURFACE) for worker in fleet.workers]
    fleet.are_busy(WARM)
    before = fleet.moves

    fleet.store.is_away = False
    await fleet.run(2)

    assert [standing.generation for standing in alone] == [0, alone[1].generation, 0]
    assert alone[1].generation >= 2
    assert [worker.ladders.standing(SURFACE) for worker in (one, two, three)] == [alone[1]] * 3
    assert fleet.moves == before
    assert [len(worker.told("ladder.shared")) for worker in fleet.workers] == [1, 1, 1]


async def test_store_that_forgot_everything_is_told_again(fleet):
    """An emptied Redis lets nobody down."""
    fleet.are_busy(HOT)
    await fleet.run(12)
    stood = fleet.store.standings[SURFACE]
    fleet.store.standings.clear()
    fleet.store.told.clear()
    fleet.store.leader = ("", 0.0)

    await fleet.run(2)

    assert fleet.levels == [1, 1, 1]
    assert fleet.store.standings == {SURFACE: stood}
    assert len(fleet.moves) == 1


async def test_move_whose_answer_was_lost_is_made_once(fleet):
    """Whoever decided it stands there, says so once, and finds later that the fleet knows."""
    fleet.are_busy(HOT)
    await fleet.run(9)
    fleet.store.before_move = lambda: setattr(fleet.store, "is_deaf", True)

    await fleet.run(2)
    fleet.store.is_deaf = False
    fleet.store.before_move = lambda: None
    await fleet.run(2)

    assert fleet.levels == [1, 1, 1]
    assert fleet.moves == [(0, 1, "pressed")]
    assert fleet.store.standings[SURFACE].generation == 1


async def test_worker_that_stops_gives_the_lease_back(fleet):
    """The next turn of another one decides; a store that is away keeps nobody from stopping."""
    await fleet.run(1)
    one, two, three = fleet.workers

    await one.ladders.stop()
    await fleet.run(1, workers=[two, three])
    fleet.store.is_away = True
    await three.ladders.stop()

    assert fleet.store.leader[0] == "w1"
    assert two.ladders.leads
    assert fleet.store.closed == 2


async def test_people_hold_a_ladder_down(fleet):
    """The leader takes it down to where they say, in one step, and not up again while they hold it."""
    fleet.are_busy(HOT)
    await fleet.run(45)
    for worker in fleet.workers:
        worker.ceiling = 1

    await fleet.run(40)

    assert fleet.levels == [1, 1, 1]
    assert fleet.moves[-1][1:] == (1, "held")


async def test_fleet_of_one_decides_and_is_never_alone(make_release, clock):
    """There is nobody to ask, and nobody else's places."""
    fleet = Fleet(make_release(), clock, workers=0)
    only = Worker("w0", fleet, store=None)
    only.is_busy(HOT)

    await fleet.run(12, workers=[only])

    assert only.level == 1
    assert [event.kind for event in only.events] == ["ladder.moved"]
    assert (only.ladders.leads, only.ladders.is_alone) == (True, False)
    assert only.ladders.allowance(SURFACE, "vip") == 40
    await only.ladders.stop()


async def test_reserved_places_are_shared_out_by_who_needs_them(fleet):
    """All of them, no more; whoever has more of the tier under way has more, and a store that is away changes none."""
    one, two, _ = fleet.workers
    one.sees = replace(one.sees, in_flight={"vip": 30, "free": 200})
    two.sees = replace(two.sees, in_flight={"vip": 7})
    await fleet.run(2)

    shared = [worker.ladders.allowance(SURFACE, "vip") for worker in fleet.workers]
    fleet.store.is_away = True
    one.sees = replace(one.sees, in_flight={})
    await fleet.run(5)

    assert shared == [31, 8, 1]
    assert [worker.ladders.allowance(SURFACE, "vip") for worker in fleet.workers] == shared
    assert one.ladders.allowance(SURFACE, "free") == 0
    assert one.ladders.allowance("elsewhere", "vip") == 0


async def test_surface_that_is_gone_stands_nowhere_and_follows_the_fleet_when_it_is_back(fleet, make_release):
    """The store keeps where it stood."""
    fleet.are_busy(HOT)
    await fleet.run(12)
    one, *_ = fleet.workers
    released = fleet.release

    one.ladders.adopt(replace(released, ladder=type(released.ladder)()))
    gone = (one.level, one.ladders.readings(SURFACE), one.ladders.allowance(SURFACE, "vip"), one.ladders.surfaces())
    one.ladders.adopt(released)
    await fleet.run(1)

    assert gone == (0, {}, 0, ())
    assert one.level == 1


async def test_policy_that_changes_keeps_where_the_ladder_stands(fleet, make_release):
    """A threshold is raised in the middle of it."""
    fleet.are_busy(HOT)
    await fleet.run(12)

    for worker in fleet.workers:
        worker.ladders.adopt(make_release(triggers={"load": trigger(enter=1000, leave=900)}))

    assert fleet.levels == [1, 1, 1]


async def test_worker_that_is_alone_takes_no_echo_for_evidence(make_release, clock):
    """Few attempts of its own that failed stay few, however many workers there were."""
    budget = {"objective": threshold(0.99), "window_seconds": threshold(60)}
    burn = trigger(signal="error_budget_burn", enter=2, leave=1, **budget)
    fleet = Fleet(make_release(triggers={"burn": burn}), clock)
    for worker in fleet.workers:
        worker.sees = replace(worker.sees, windows={"burn": (10, 5)})
    await fleet.run(2)
    together = fleet.workers[0].ladders.readings(SURFACE)
    fleet.store.is_away = True

    await fleet.run(5)

    assert together == {"burn": pytest.approx(50.0)}
    assert fleet.workers[0].ladders.readings(SURFACE) == {"burn": None}


async def test_clock_of_the_fleet_that_goes_back_moves_nothing_back(fleet):
    """Another Redis takes over whose clock is behind: time stands still until it has caught up."""
    fleet.are_busy(HOT)
    await fleet.run(12)
    stood = fleet.workers[0].ladders.standing(SURFACE)
    fleet.store.clock = lambda: fleet.clock() - 3600
    fleet.store.leader = ("", 0.0)
    fleet.are_busy(CALM)

    await fleet.run(30)

    assert fleet.workers[0].ladders.standing(SURFACE) == stood


@in_virtual_time
async def test_turns_go_on_by_themselves_and_survive_mistakes(make_release):
    """One a second, the first before the worker serves; a look that fails ends none of the others."""
    looks = []

    def look(surface):
        looks.append(asyncio.get_running_loop().time())
        if len(looks) == 2:
            raise RuntimeError("it cannot see")
        return Told({"free": HOT}, 0.0, None, 0.0, {}, {})

    now = asyncio.get_running_loop().time
    ladders = FleetLadders(
        store=None, worker="w", look=look, ceiling=lambda _: 6, report=lambda _: None, clock=now, wall=now
    )
    ladders.adopt(make_release())
    began = now()

    await ladders.start()
    await asyncio.sleep(12.5)

    assert [at - began for at in looks[:4]] == [0, 1, 2, 3]
    assert ladders.level(SURFACE) == 1
    await ladders.stop()
    await asyncio.sleep(5)
    assert len(looks) == 13


@in_virtual_time
async def test_new_surface_is_asked_for_at_once(make_release):
    """Nobody is served for a second above a rung that the fleet has engaged already."""
    now = asyncio.get_running_loop().time
    store = MemoryLadderStore(now)
    store.standings[SURFACE] = Standing(level=4, generation=3)
    ladders = FleetLadders(
        store=store,
        worker="w",
        look=lambda _: Told({}, 0.0, None, 0.0, {}, {}),
        ceiling=lambda _: 6,
        report=lambda _: None,
        clock=now,
        wall=now,
    )
    await ladders.start()
    await asyncio.sleep(0.5)

    ladders.adopt(make_release())
    await asyncio.sleep(0)
    await asyncio.sleep(0.01)

    assert ladders.level(SURFACE) == 4
    await ladders.stop()


async def test_leader_keeps_what_the_whole_fleet_read(fleet):
    """Once, with where the ladder stands, and what was tried by those that were heard before."""
    fleet.are_busy(HOT)
    for number in range(12):
        for worker in fleet.workers:
            worker.sees = replace(worker.sees, attempts=3 * number, failures=number)
        await fleet.run(1)

    told = [worker.counting.drain_loads(fleet.clock()) for worker in fleet.workers]

    (loads,) = [one for one in told if one]
    assert {load["surface"] for load in loads} == {SURFACE}
    assert max(load["values"]["in_flight"] for load in loads) == HOT
    assert max(load["level"] for load in loads) == fleet.levels[0] == 1
    # All but the last worker's last turn, which the leader has not heard yet, and nothing of the first.
    assert sum(load["values"]["attempts"] for load in loads) >= 3 * 10 * len(fleet.workers)
    assert not any(load["is_alone"] for load in loads)


async def test_worker_that_is_alone_keeps_its_own_attempts_only(fleet):
    """Each takes the others for as busy as itself; what they tried, they keep themselves."""
    await fleet.run(2)
    fleet.store.is_away = True
    first, *_ = fleet.workers
    for number in range(10):
        first.sees = replace(first.sees, in_flight={"free": 10}, attempts=number)
        await fleet.run(1, workers=[first])
    first.counting.drain_loads(fleet.clock())
    fleet.clock.advance(10)
    first.sees = replace(first.sees, attempts=14)
    await fleet.run(1, workers=[first])

    (load,) = first.counting.drain_loads(fleet.clock())

    assert (load["is_alone"], load["values"]["attempts"]) == (True, 5)
    assert load["values"]["in_flight"] == 10.0 * len(fleet.workers)
