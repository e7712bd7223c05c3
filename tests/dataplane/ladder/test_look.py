"""What one worker sees of a surface and says of its ladders, with real breakers and a real quota beside it."""

from __future__ import annotations

import asyncio

import pytest

from dataplane.blame import Blame
from dataplane.breaker import Observation
from dataplane.ladder.look import Past
from dataplane.quota_grants import Asking
from tests.dataplane.conftest import threshold
from tests.dataplane.virtual_time import in_virtual_time
from tests.ladders import activation, trigger

from .look_world import CHEAP, FIRST, SECOND, SURFACE, World, document_of

FAILED = Observation(Blame.LANE, False, 100.0)
GAUGE = {"url": "http://vllm.internal:8000/metrics", "metric": "vllm:gpu_cache_usage_perc", "full": 1}


def burn(window_seconds=60):
    """A trigger that looks at an error budget of one per cent."""
    source = {"objective": threshold(0.99), "window_seconds": threshold(window_seconds)}
    return trigger(signal="error_budget_burn", enter=14.4, leave=6) | source


@in_virtual_time
async def test_idle_surface_has_nothing_under_way_and_nothing_in_use(make_document):
    """Zeroes where something was looked at and nothing is there; None where there is nothing to look at."""
    world = World(document_of(make_document, triggers={"burn": burn()}))
    without = World(document_of(make_document, quota=False))

    told = world.told

    assert (told.in_flight, told.queue_age_seconds, told.quota_utilisation) == ({}, 0.0, 0.0)
    assert (told.breakers_open_share, told.windows, told.gauges) == (0.0, {"burn": (0, 0)}, {})
    assert (without.told.quota_utilisation, without.told.windows) == (None, {})


@in_virtual_time
async def test_requests_under_way_are_told_by_tier(make_document):
    """Those of the desk, until they leave; a runner's are not among them, since nobody waits who could be relieved."""
    world = World(document_of(make_document))
    desk = world.ladders.desk

    stands = [desk.enter("chat", "vip"), desk.enter("chat", "free"), desk.enter("chat", "free", is_job=True)]
    desk.enter("cheap", "vip")
    both = world.told.in_flight
    for stand in stands[:2]:
        desk.leave(stand)

    assert both == {"vip": 1, "free": 1}
    assert world.told.in_flight == {}
    desk.leave(stands[2])
    assert world.told.in_flight == {}


@in_virtual_time
async def test_requests_that_came_in_lately_are_told_whatever_became_of_them(make_document):
    """Over ten seconds; those of runners came in when they were handed in."""
    world = World(document_of(make_document))
    desk = world.ladders.desk
    assert world.told.requests_per_second == 0.0

    for _ in range(30):
        desk.leave(desk.enter("chat", "free"))
    desk.enter("chat", "free", is_job=True)
    await asyncio.sleep(1)
    rushing = world.told.requests_per_second
    for _ in range(11):
        await asyncio.sleep(1)
        calm = world.told.requests_per_second

    assert rushing == 3.0
    assert calm == 0.0


@in_virtual_time
async def test_longest_wait_for_quota_is_told_and_what_is_batch_is_left_out(make_document):
    """A job may wait for as long as it takes; who asks for an answer now may not."""
    world = World(document_of(make_document))
    await world.ask(FIRST, count=30, asking=Asking("acme", "vip", "batch", 10, 10))
    await asyncio.sleep(2)
    only_batch = world.told.queue_age_seconds

    await world.ask(SECOND, count=40)
    await asyncio.sleep(1.5)

    assert only_batch == 0.0
    assert 1.5 <= world.told.queue_age_seconds < 3
    await world.end()


@in_virtual_time
async def test_accounts_of_other_surfaces_are_not_looked_at(make_document):
    """The cheaper model's account is full, and nobody of this surface asks it."""
    world = World(document_of(make_document))

    await world.ask(CHEAP, count=40)
    await asyncio.sleep(2)

    assert (world.told.queue_age_seconds, world.told.quota_utilisation) == (0.0, 0.0)
    await world.end()


@in_virtual_time
async def test_on_the_rung_of_the_cheaper_model_its_lanes_are_looked_at_too(make_document):
    """Who waits for them is this surface's; that the others are idle then says nothing."""
    world = World(document_of(make_document, activations=[activation(tiers=["free"])]))

    await world.ask(CHEAP, count=40)
    await asyncio.sleep(2)

    assert world.told.queue_age_seconds > 1.5
    assert world.told.quota_utilisation == 1.0
    await world.end()


@in_virtual_time
async def test_use_of_an_account_fades_once_nobody_asks_it(make_document):
    """All that may be handed out, then less and less, though no turn is taken any more."""
    world = World(document_of(make_document))
    await world.ask(FIRST, count=70)
    await asyncio.sleep(5)
    full = world.told.quota_utilisation
    await world.end()

    after = []
    for _ in range(3):
        await asyncio.sleep(10)
        after.append(world.told.quota_utilisation)

    assert full == 1.0
    assert 0.3 > after[0] > after[1] > after[2] > 0


@in_virtual_time
async def test_account_that_a_provider_told_to_rest_is_full(make_document):
    """Nobody may go, however little was used."""
    world = World(document_of(make_document))
    share = world.quotas.shares_of([world.lane(FIRST)])[0]

    share.refused(retry_after_seconds=5.0, lane=FIRST)
    paused = world.told.quota_utilisation
    await asyncio.sleep(7)

    assert paused == 1.0
    assert world.told.quota_utilisation < 0.5
    await world.end()


@in_virtual_time
async def test_share_of_lanes_that_are_held_back_counts_those_that_operators_hold(make_document):
    """One of two by its breaker, then the other by hand."""
    document = document_of(make_document)
    world = World(document)
    for _ in range(2):
        world.breakers.record(world.breakers.acquire_nowait(FIRST), FAILED)
    one = world.told.breakers_open_share

    until = "2026-03-04T09:00:00Z"
    hold = {"mode": "open", "until": until, "reason": "vendor incident", "by": "oncall"}
    document["sections"]["lane_overrides"] = {SECOND: hold}
    world.adopt(document)

    assert one == 0.5
    assert world.told.breakers_open_share == 1.0


@in_virtual_time
async def test_attempts_of_the_last_seconds_are_told(make_document):
    """At the surface's lanes only, and only those that say something about a lane."""
    world = World(document_of(make_document, triggers={"burn": burn(30), "slow": burn(120)}))
    look = world.ladders.look
    for blame in (Blame.NOBODY, Blame.LANE, Blame.CALLER, Blame.QUOTA, Blame.GATEWAY):
        look.count(FIRST, blame)
        look.count(CHEAP, blame)
    windows = []
    for _ in range(60):
        await asyncio.sleep(1)
        windows.append(world.told.windows)
    look.count(SECOND, Blame.LANE)

    assert windows[0] == {"burn": (2, 1), "slow": (2, 1)}
    assert windows[28] == {"burn": (2, 1), "slow": (2, 1)}
    assert windows[45] == {"burn": (0, 0), "slow": (2, 1)}
    assert world.told.windows == {"burn": (1, 1), "slow": (3, 2)}


@in_virtual_time
async def test_attempts_that_were_counted_outlive_a_release(make_document):
    """Not the surface's end, nor that of its last budget."""
    world = World(document_of(make_document, triggers={"burn": burn()}))
    world.ladders.look.count(FIRST, Blame.LANE)

    world.adopt(document_of(make_document, triggers={"again": burn()}))
    kept = world.told.windows
    world.adopt(document_of(make_document))
    world.ladders.look.count(FIRST, Blame.LANE)
    world.adopt(document_of(make_document, triggers={"burn": burn()}))

    assert kept == {"again": (1, 1)}
    assert world.told.windows == {"burn": (0, 0)}


def test_window_is_remembered_for_as_long_as_it_is_and_no_longer():
    """An hour of looks, each a second apart, keeps what the longest window needs."""
    past = Past((0, 0), now=0.0)
    for second in range(1, 3601):
        past.mark((10 * second, (second + 1) // 2), now=float(second), longest_seconds=60)

    assert past.growth(60, now=3600.0) == (600, 30)
    assert past.growth(1, now=3600.0) == (10, 0)
    assert past.growth(5000, now=3600.0) == (600, 30)


@in_virtual_time
async def test_worker_says_how_its_ladders_stand(make_document):
    """What stands for each tier, what people engaged, what triggers read, and the reserved places in use."""
    document = document_of(
        make_document,
        activations=[
            activation(rung=2, tiers=["free"]),
            activation(rung=4, regions=["us-east"]),
            activation(mode="hold", rung=1),
            activation(until="2026-03-04T05:10:00Z"),
        ],
        triggers={"load": trigger(), "gpu": trigger(signal="gpu_utilisation", enter=0.9, leave=0.5) | GAUGE},
    )
    world = World(document)
    for _ in range(60):
        world.ladders.desk.enter("chat", "standard")
    await world.ladders.fleet.exchange()
    for _ in range(2):
        world.ladders.desk.enter("chat", "vip")

    (state,) = world.ladders.states()

    assert state == {
        "surface": SURFACE,
        "level": 0,
        "engaged": {"free": 2, "standard": 0, "vip": 0},
        "ids": ["a0", "a2"],
        "readings": {"load": 60.0, "gpu": None},
        "generation": 0,
        "is_alone": False,
        "reserved": {},
    }


@in_virtual_time
async def test_worker_says_how_many_reserved_places_are_in_use(make_document):
    """Of a tier that is served in full where others are not."""
    world = World(document_of(make_document, activations=[activation(rung=4)]))
    await world.ladders.fleet.exchange()

    stands = [world.ladders.desk.enter("chat", tier) for tier in ("vip", "vip", "free")]
    (state,) = world.ladders.states()

    assert [stand.rung for stand in stands] == [0, 0, 4]
    assert state["reserved"] == {"vip": 2}
    assert state["engaged"] == {"free": 4, "standard": 4, "vip": 4}


@pytest.mark.parametrize("blame", list(Blame))
@in_virtual_time
async def test_surface_without_a_budget_counts_nothing(make_document, blame):
    """Nor does a worker without surfaces."""
    world = World(document_of(make_document))

    world.ladders.look.count(FIRST, blame)

    assert world.told.windows == {}


@in_virtual_time
async def test_attempts_are_told_also_where_no_budget_is_looked_at(make_document):
    """What is kept of the load has them, so that a budget can be tried on it later."""
    world = World(document_of(make_document))

    world.ladders.look.count(FIRST, Blame.LANE)
    world.ladders.look.count(FIRST, Blame.NOBODY)

    assert (world.told.attempts, world.told.failures, world.told.windows) == (2, 1, {})
