"""One worker's part in a pool, in virtual time: what it hands out, who waits, what the fleet hears of it."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from dataplane.errors.admission import QuotaExhausted
from dataplane.events import QuotaAlone, QuotaLearned, QuotaPaused, QuotaShared
from dataplane.messages import Usage
from dataplane.quota_grants import Asking
from dataplane.simulator.limits import LimitKind
from tests.dataplane.quota_world import Fleet, Tenant, policy
from tests.dataplane.virtual_time import in_virtual_time

ADA = Asking("acme", "vip", "interactive", 100, 50)
BOB = Asking("globex", "standard", "interactive", 100, 50)
JOB = Asking("globex", "standard", "batch", 100, 50)


async def take(share, asking=ADA, *, seconds=30.0):
    return share.take_nowait(asking) or await share.wait(asking, seconds=seconds)


async def exhaust(fleet, share=None, *, count=400):
    """Take all that is there, and leave a queue."""
    waiting = [asyncio.create_task(take(share or fleet.shares[0], BOB, seconds=1000)) for _ in range(count)]
    await asyncio.sleep(0.5)
    return waiting


async def end(fleet, waiting=()):
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await fleet.stop()


@in_virtual_time
async def test_most_requests_of_a_quiet_fleet_ask_nobody():
    """From the lease, at once; turns grow with time and not with requests."""
    fleet = Fleet(own_policy=policy(requests=60_000), limits={"requests": 60_000}, workers=1)
    [share] = fleet.shares
    waited = []

    for _ in range(2_000):
        grant = await take(share)
        waited.append(grant.waited_ms)
        await asyncio.sleep(0.002)
        grant.settle(Usage(100, 50), is_complete=True)

    assert sum(map(bool, waited)) < 0.05 * len(waited)
    assert max(waited) < 10
    assert fleet.store.turns < 0.1 * len(waited)
    await end(fleet)


@in_virtual_time
async def test_a_worker_that_is_asked_nothing_asks_nothing():
    """No turn passes while nothing happens."""
    fleet = Fleet(workers=1)
    (await take(fleet.shares[0])).give_back()
    await asyncio.sleep(5)
    before = fleet.store.turns

    await asyncio.sleep(3600)

    assert fleet.store.turns == before
    await end(fleet)


@in_virtual_time
async def test_what_was_heard_long_ago_is_not_reported():
    """A worker that has nothing to do knows nothing of who waits elsewhere."""
    fleet = Fleet(workers=2)
    waiting = await exhaust(fleet, count=100)
    (await take(fleet.shares[1])).give_back()
    at_once = fleet.shares[1].state()
    await end(fleet, waiting)
    await asyncio.sleep(10)

    later = fleet.shares[1].state()

    assert at_once["waiting"]["interactive"] > 50
    assert at_once["granted"] == 1
    assert (later["waiting"], later["used_share"], later["ramp"]) == ({"interactive": 0, "batch": 0}, 0.0, 1.0)
    assert later["eta_seconds"] == {"interactive": None, "batch": None}
    assert later["granted"] == 0


@in_virtual_time
async def test_one_429_stops_every_worker_until_the_provider_said_and_then_they_begin_slowly():
    """A tenth of the second says it to all; afterwards the limits open over the ramp."""
    fleet = Fleet(own_policy=policy(ramp_seconds=10), workers=4)
    began, granted = fleet.clock(), []

    async def keep_asking(share):
        while True:
            grant = await take(share, seconds=60)
            granted.append(fleet.clock() - began)
            await asyncio.sleep(0.05)
            grant.settle(Usage(100, 50), is_complete=True)

    asking = [asyncio.create_task(keep_asking(share)) for share in fleet.shares for _ in range(8)]
    await asyncio.sleep(4)
    fleet.shares[0].refused(retry_after_seconds=3.0, lane="l")
    fleet.shares[0].refused(retry_after_seconds=1.0, lane="l")
    await asyncio.sleep(20)

    by_second = Counter(int(at) for at in granted)
    assert [at for at in granted if 4.1 < at < 7.0] == []
    assert 1 <= by_second[8] <= 20
    assert by_second[8] < by_second[12] < by_second[20]
    assert by_second[20] >= 50
    [event] = [one for one in fleet.events if isinstance(one, QuotaPaused)]
    assert (event.account, event.lane, event.seconds) == ("main", "l", 3.0)
    await end(fleet, asking)


@in_virtual_time
async def test_a_429_that_names_no_time_pauses_longer_each_time():
    """One second, two, four: until it helps."""
    fleet = Fleet(own_policy=policy(ramp_seconds=30), workers=1)
    pauses = []

    for _ in range(3):
        fleet.shares[0].refused(retry_after_seconds=None, lane="l")
        began = fleet.clock()
        (await take(fleet.shares[0])).give_back()
        pauses.append(fleet.clock() - began)

    assert pauses == pytest.approx([1, 2, 4], abs=0.3)
    await end(fleet)


@in_virtual_time
async def test_who_cannot_be_served_in_time_hears_it_at_once_with_place_and_eta():
    """Nobody is kept for what they cannot have."""
    fleet = Fleet(workers=2)
    waiting = await exhaust(fleet)
    began = fleet.clock()

    with pytest.raises(QuotaExhausted) as refused:
        await take(fleet.shares[1], BOB, seconds=2.0)

    assert fleet.clock() - began < 0.05
    assert 300 < refused.value.position <= 400
    assert refused.value.retry_after_seconds == pytest.approx(refused.value.position / 56.4, rel=0.2)
    assert "account 'main' is at its limit" in refused.value.message
    assert "this request may wait 2.0 s" in refused.value.message
    await end(fleet, waiting)


@in_virtual_time
async def test_eta_holds():
    """It takes about as long as was said."""
    fleet = Fleet(workers=2)
    waiting = await exhaust(fleet, count=200)
    state = fleet.shares[0].state()
    began = fleet.clock()

    grant = await take(fleet.shares[1], BOB, seconds=60)

    assert state["waiting"] == {"interactive": pytest.approx(150, abs=30), "batch": 0}
    assert fleet.clock() - began == pytest.approx(state["eta_seconds"]["interactive"], rel=0.15)
    assert grant.position == pytest.approx(state["waiting"]["interactive"], abs=10)
    await end(fleet, waiting)


@in_virtual_time
async def test_who_leaves_the_queue_is_in_nobodys_way():
    """Also when leave came at the moment at which they left."""
    fleet = Fleet(workers=1)
    [share] = fleet.shares
    waiting = await exhaust(fleet, count=150)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)

    began = fleet.clock()
    await take(share)

    assert fleet.clock() - began < 1.0
    assert share.waiting == 0
    assert fleet.store.pools["main/shared"]._entries == {}
    await end(fleet)


@pytest.mark.python_only
@in_virtual_time
async def test_leave_that_comes_with_the_cancellation_goes_back():
    """The caller is gone, the slot is not."""
    fleet = Fleet(own_policy=policy(concurrency=8, fleet_workers=1), workers=1)
    [share] = fleet.shares
    task = asyncio.create_task(share.wait(ADA, seconds=5))
    real = share._hear

    def hear(heard, *, told_at):
        real(heard, told_at=told_at)
        task.cancel()  # granted, and not yet awake

    share._hear = hear

    [ended] = await asyncio.gather(task, return_exceptions=True)

    assert isinstance(ended, asyncio.CancelledError)
    assert (share.granted, share.in_flight, share.vip_in_flight) == (1, 0, 0)
    await end(fleet)


@pytest.mark.python_only
@in_virtual_time
async def test_leave_for_who_has_just_been_told_that_it_takes_too_long_goes_back():
    """All of it: the next request finds what it would have taken."""
    fleet = Fleet(own_policy=policy(requests=None, tokens=60_000), limits={"tokens": 60_000}, workers=1)
    [share] = fleet.shares
    (await take(share)).give_back()
    await asyncio.sleep(1)
    real = share._hear

    def hear(heard, *, told_at):
        for waiter in share._line.waiters.values():
            waiter.future.set_exception(share._exhausted(waiter, allowed_seconds=1.0))
        real(heard, told_at=told_at)

    share._hear = hear
    with pytest.raises(QuotaExhausted):
        await share.wait(ADA, seconds=5)

    assert (share._settled[0], share._settled[1], share.granted) == (1.0, 150.0, 1)
    await end(fleet)


@pytest.mark.parametrize("how", ["is_away", "is_deaf"])
@in_virtual_time
async def test_without_the_store_all_parts_together_stay_within_the_limit(how):
    """It is lost in the middle of a storm and comes back: no 429 at any time, work goes on, and each says so once."""
    fleet = Fleet(LimitKind.SLIDING_WINDOW)
    mix = [Tenant("acme", "vip", callers=24), Tenant("globex", callers=24)]
    storm = asyncio.create_task(fleet.storm(mix, seconds=60, settle_seconds=0))
    await asyncio.sleep(15)
    setattr(fleet.store, how, True)
    await asyncio.sleep(1)
    before = len(fleet.admitted_at)
    alone = all(share.is_alone for share in fleet.shares)
    await asyncio.sleep(15)
    meanwhile = (len(fleet.admitted_at) - before) / 15
    setattr(fleet.store, how, False)
    await asyncio.sleep(3)
    assert not any(share.is_alone for share in fleet.shares)
    before = len(fleet.admitted_at)
    await asyncio.sleep(20)
    afterwards = (len(fleet.admitted_at) - before) / 20
    await storm

    assert alone
    assert fleet.throttled_share == 0
    assert 50 <= meanwhile <= 60
    assert 50 <= afterwards <= 60
    assert Counter(type(event) for event in fleet.events) == {QuotaAlone: 8, QuotaShared: 8}
    assert all(share.in_flight == 0 for share in fleet.shares)
    await end(fleet)


@in_virtual_time
async def test_a_concurrency_keeps_places_for_vips():
    """Twelve at once, two of them for VIPs alone: others who hold on and on never take those."""
    fleet = Fleet(own_policy=policy(requests=None, concurrency=12, vip_concurrency=2, fleet_workers=4), workers=4)
    others = [asyncio.create_task(take(share, asking)) for share in fleet.shares for asking in [BOB, JOB] * 4]
    await asyncio.sleep(1)
    held = [task.result() for task in others if task.done()]

    vips = [await take(share, ADA, seconds=1) for share in fleet.shares[:2]]
    with pytest.raises(QuotaExhausted):
        await take(fleet.shares[2], ADA, seconds=1)

    assert len(held) == 10
    held[0].settle(Usage(100, 50), is_complete=True)
    await asyncio.sleep(1)
    assert sum(task.done() for task in others) == 11
    for grant in [*held, *vips]:
        grant.give_back()
    await end(fleet, others)


@in_virtual_time
async def test_what_a_dead_worker_had_under_way_is_free_again_after_a_while():
    """And who waited there holds up nobody."""
    fleet = Fleet(own_policy=policy(requests=None, concurrency=8, fleet_workers=2), workers=2)
    dead, alive = fleet.shares
    for _ in range(8):
        await take(dead, BOB)
    waiting = [asyncio.create_task(dead.wait(BOB, seconds=100)) for _ in range(5)]
    await asyncio.sleep(0.1)
    await dead.stop()
    began = fleet.clock()

    await take(alive, BOB, seconds=60)

    assert 10 < fleet.clock() - began < 20
    await end(fleet, waiting)


@in_virtual_time
async def test_tokens_are_charged_as_the_provider_counts_them():
    """Estimates are half of the truth: after a while they are right, and nothing is refused."""
    fleet = Fleet(LimitKind.SLIDING_WINDOW, own_policy=policy(requests=None, tokens=60_000), limits={"tokens": 60_000})
    talkers = Tenant("acme", callers=64, input_tokens=200, output_tokens=100, estimated_tokens=100)
    await fleet.storm([talkers], seconds=60, settle_seconds=10)

    assert fleet.throttled_share <= 0.01
    assert sum(300 for at in fleet.admitted_at[-10_000:] if at >= fleet.clock() - 30) >= 0.85 * 3 * 60_000
    await end(fleet)


@in_virtual_time
async def test_a_lower_limit_that_the_provider_names_is_kept_to():
    """Per minute in the headers, per window in the pool, and told once."""
    fleet = Fleet(own_policy=policy(learn=True), workers=2)
    (await take(fleet.shares[0])).give_back()
    for _ in range(2):
        fleet.shares[0].learn({0: 600.0, 1: 1e9})
    await asyncio.sleep(1)
    (await take(fleet.shares[1])).give_back()
    await asyncio.sleep(1)

    states = [share.state() for share in fleet.shares]

    assert states[0]["limits"]["requests"] == 100.0
    assert fleet.shares[1]._heard.limits[0] == 100.0
    learned = [event for event in fleet.events if isinstance(event, QuotaLearned)]
    assert [(event.limit, event.declared, event.learned) for event in learned] == [
        ("requests", 600.0, 100.0),
        ("tokens", None, pytest.approx(1e9 / 6)),
    ]
    await end(fleet)


@in_virtual_time
async def test_a_turn_that_goes_wrong_is_not_the_last():
    """Whoever waits is served by the next."""
    fleet = Fleet(workers=1)
    [share] = fleet.shares
    turn, failures = fleet.store.turn, []

    async def broken(*arguments):
        if len(failures) < 2:
            failures.append(arguments)
            raise ValueError("a mistake of ours")
        return await turn(*arguments)

    fleet.store.turn = broken

    grant = await take(share, seconds=10)

    assert len(failures) == 2
    grant.give_back()
    await end(fleet)


@in_virtual_time
async def test_how_much_is_in_use_is_a_share_of_what_may_be_handed_out():
    """Half of it at half the rate, however few turns that takes; nothing before anybody asked."""
    fleet = Fleet(workers=1)
    [share] = fleet.shares
    before = share.utilisation

    for _ in range(1500):
        (await take(share)).settle(Usage(100, 50), is_complete=True)
        await asyncio.sleep(1 / 28.2)  # of the 600 in 10 s, six per cent are kept as headroom

    assert before == 0.0
    assert share.utilisation == pytest.approx(0.5, abs=0.08)
    assert share.oldest_seconds == 0.0
    await end(fleet)


@in_virtual_time
async def test_pool_in_which_somebody_waits_is_in_use_to_the_last():
    """Its concurrency is, though its rate is not; who waits longest is known, jobs left aside."""
    fleet = Fleet(own_policy=policy(concurrency=1, fleet_workers=1), workers=1)
    [share] = fleet.shares
    held = await take(share)
    free = share.utilisation

    waiting = [asyncio.create_task(take(share, asking, seconds=1000)) for asking in (JOB, ADA, BOB)]
    await asyncio.sleep(0.5)
    shortly = share.utilisation
    await asyncio.sleep(4)

    assert free < 0.1
    assert shortly < 0.1
    assert share.utilisation == 1.0
    assert share.oldest_seconds == pytest.approx(4.5, abs=0.1)
    held.give_back()
    await end(fleet, waiting)
    assert share.oldest_seconds == 0.0
