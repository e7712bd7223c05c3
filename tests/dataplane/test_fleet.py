"""The breakers of several workers: what one finds out the others act on, and what is left when nobody can be asked."""

from __future__ import annotations

import uuid

import pytest

from dataplane.blame import Blame
from dataplane.breaker import Observation
from dataplane.errors.admission import BreakerOpen
from dataplane.fleet import FleetBreakers
from dataplane.release import parse_document
from dataplane.stores.breakers import BreakerStoreUnavailable, RedisBreakerStore

from .conftest import breaker_policy

FAILED = Observation(Blame.LANE, False, 100.0)
FINE = Observation(Blame.NOBODY, False, 100.0)


@pytest.fixture
def release(make_document):
    """A release whose first lane, alone in having a breaker, has a name of this test's own."""
    document = make_document()
    routing = document["sections"]["routing"]
    lane = f"test/{uuid.uuid4().hex}"
    first, second = routing["routes"]["chat"]["lanes"]
    routing["lanes"] = {
        lane: routing["lanes"][first] | {"breaker": "b"},
        second: routing["lanes"][second],
    }
    routing["routes"]["chat"]["lanes"] = [lane, second]
    routing["breakers"] = {"b": breaker_policy(minimum_attempts=4, healthy_probes=2, window_seconds=60)}
    return parse_document(document, digest="d" * 64)


class Worker:
    """One worker's breakers on a clock of the test's, and what it reported."""

    def __init__(self, release, clock, *, store):
        self.events = []
        self.lane = release.routing.routes["chat"].lanes[0].id
        self.breakers = FleetBreakers(store=store, report=self.events.append, clock=clock, wall=clock)
        self.breakers.adopt(release)

    def attempt(self, seen):
        self.breakers.record(self.breakers.acquire_nowait(self.lane), seen)

    @property
    def state(self):
        return self.breakers.states()[0]["state"]


@pytest.fixture
async def workers(release, clock, redis_url):
    """Three workers that share the run's Redis."""
    fleet = [Worker(release, clock, store=RedisBreakerStore(redis_url, timeout_seconds=5)) for _ in range(3)]
    yield fleet
    for worker in fleet:
        await worker.breakers.stop()


async def exchange(workers, *, times=1):
    for _ in range(times):
        for worker in workers:
            await worker.breakers.exchange()


async def test_failures_of_all_workers_open_all_of_them(workers):
    """Nobody saw enough alone; together they did, and each hears of it."""
    for worker in workers:
        worker.attempt(FAILED)
        worker.attempt(FAILED)

    await exchange(workers, times=2)

    assert [worker.state for worker in workers] == ["open"] * 3
    told = {(event.kind, event.after, event.generation) for worker in workers for event in worker.events}
    assert told == {("breaker.changed", "open", 1)}


class AnswerLost(RedisBreakerStore):
    """Tells, and does not live to hear the answer, as often as asked: a Redis that is slower than its limit."""

    times = 0

    async def exchange(self, news, **who):
        views = await super().exchange(news, **who)
        if self.times:
            self.times -= 1
            raise BreakerStoreUnavailable("redis: TimeoutError: no answer in time")
        return views


async def test_failures_whose_telling_was_not_answered_count_once(release, clock, redis_url):
    """Told again because nobody knows whether they arrived; what failed since comes with the next turn."""
    worker, other = (Worker(release, clock, store=AnswerLost(redis_url, timeout_seconds=60)) for _ in range(2))
    worker.breakers._store.times = 2
    worker.attempt(FAILED)
    worker.attempt(FAILED)

    await exchange([worker], times=2)
    worker.attempt(FAILED)
    await exchange([worker, other], times=2)

    assert [one.breakers.board.breakers()[one.lane].counts(now=clock()) for one in (worker, other)] == [
        (3, 3, 0, 0, 0, 0, 0, 0)
    ] * 2
    assert (worker.state, other.state) == ("closed", "closed")
    for one in (worker, other):
        await one.breakers.stop()


async def test_probes_are_leased_across_the_fleet_and_close_it_for_all(workers, clock):
    """One probe at a time among three workers; two healthy ones in a row close every breaker."""
    one, two, three = workers
    for _ in range(4):
        one.attempt(FAILED)
    await exchange(workers)
    clock.advance(10)

    permit = one.breakers.acquire_nowait(one.lane)
    await one.breakers.lease(permit, ttl_seconds=30)
    rival = two.breakers.acquire_nowait(two.lane)
    with pytest.raises(BreakerOpen, match="is being probed"):
        await two.breakers.lease(rival, ttl_seconds=30)
    one.breakers.record(permit, FINE)
    await exchange(workers)

    permit = two.breakers.acquire_nowait(two.lane)
    await two.breakers.lease(permit, ttl_seconds=30)
    two.breakers.record(permit, FINE)
    await exchange([two, one, three])

    assert [worker.state for worker in workers] == ["closed"] * 3
    assert three.breakers.acquire_nowait(three.lane).is_probe is False


async def test_cancelled_probe_gives_its_lease_back(workers, clock):
    """A caller who leaves during a probe does not keep the fleet from the next one."""
    one, two, _ = workers
    for _ in range(4):
        one.attempt(FAILED)
    await exchange(workers)
    clock.advance(10)
    permit = one.breakers.acquire_nowait(one.lane)
    await one.breakers.lease(permit, ttl_seconds=30)

    one.breakers.give_back(permit)
    await one.breakers.settle()

    rival = two.breakers.acquire_nowait(two.lane)
    await two.breakers.lease(rival, ttl_seconds=30)


async def test_failed_probe_is_the_only_one_until_the_lane_is_due_again(workers, clock):
    """Others whose time is up too get no probe before they have heard what it found, and none after that."""
    one, two, three = workers
    for _ in range(4):
        one.attempt(FAILED)
    await exchange(workers)
    clock.advance(10)
    permit = one.breakers.acquire_nowait(one.lane)
    await one.breakers.lease(permit, ttl_seconds=30)
    one.breakers.record(permit, FAILED)

    await refused(two, "is being probed")  # not told yet
    await one.breakers.exchange()
    await refused(three, "is being probed")  # told, not heard yet
    await exchange(workers)
    await refused(two, "is open for")

    clock.advance(20)
    await two.breakers.lease(two.breakers.acquire_nowait(two.lane), ttl_seconds=30)


async def refused(worker, because):
    with pytest.raises(BreakerOpen, match=because):
        await worker.breakers.lease(worker.breakers.acquire_nowait(worker.lane), ttl_seconds=30)


async def test_without_redis_a_worker_judges_by_itself_and_says_so(release, clock, broker):
    """Local verdicts while it is away, one event for its loss and one for its return, nothing told twice."""
    worker = Worker(release, clock, store=RedisBreakerStore(broker.url))
    worker.attempt(FAILED)
    await worker.breakers.exchange()
    broker.stop()

    await exchange([worker], times=2)
    for _ in range(3):
        worker.attempt(FAILED)
    clock.advance(10)
    permit = worker.breakers.acquire_nowait(worker.lane)
    await worker.breakers.lease(permit, ttl_seconds=30)

    assert permit.is_probe
    with pytest.raises(BreakerOpen):
        worker.breakers.acquire_nowait(worker.lane)
    worker.breakers.give_back(permit)
    await worker.breakers.settle()
    broker.start()
    await exchange([worker], times=2)

    assert [event.kind for event in worker.events] == [
        "breakers.alone",
        "breaker.changed",
        "breaker.changed",
        "breakers.shared",
    ]
    await worker.breakers.stop()


async def test_worker_that_lost_its_redis_mid_way_tells_its_verdict_when_it_is_back(release, clock, broker):
    """An emptied Redis learns from its workers what they know, instead of closing their breakers."""
    one = Worker(release, clock, store=RedisBreakerStore(broker.url))
    for _ in range(4):
        one.attempt(FAILED)
    await one.breakers.exchange()
    broker.stop()
    broker.start()
    two = Worker(release, clock, store=RedisBreakerStore(broker.url))

    await exchange([two, one], times=3)  # the first finds the connection gone

    assert (one.state, two.state) == ("open", "open")
    await one.breakers.stop()
    await two.breakers.stop()
