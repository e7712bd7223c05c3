"""Questions of our own at idle lanes: whose turn it is, who asks, and what the answer does."""

from __future__ import annotations

import asyncio

import pytest

from dataplane.errors.upstream import UpstreamUnreachable
from dataplane.lane_caller import LaneCaller
from dataplane.probes import LaneProbes
from dataplane.providers import ADAPTERS
from dataplane.stores.breakers import BreakerStoreUnavailable
from dataplane.timers import TimerWheel

from .bench import ANSWER, Bench, FakeExchange, FixedSecrets, Gate
from .conftest import LANE, ROUTING, breaker_policy, threshold

IDLE, USED, QUIET = "lane/idle", "lane/used", "lane/never-probed"


class Claims:
    """A store that grants every claim once, or is away."""

    def __init__(self):
        self.claimed = []
        self.is_away = False

    async def claim(self, name, *, ttl_seconds):
        if self.is_away:
            raise BreakerStoreUnavailable("redis: gone")
        granted = name not in self.claimed
        self.claimed.append(name)
        return granted


class Probed(Bench):
    """A bench with probes, on a clock of the test's."""

    def __init__(self, document, clock, *, store=None, **options):
        super().__init__(document, clock=clock, **options)
        timers = TimerWheel()
        caller = LaneCaller(
            transport=self.transport,
            secrets=FixedSecrets(),
            adapters=ADAPTERS,
            timers=timers,
            clock=clock,
            wall=self.wall,
        )
        self.probes = LaneProbes(
            attempts=self.attempts,
            caller=caller,
            breakers=self.breakers,
            store=store,
            timers=timers,
            clock=clock,
            wall=self.wall,
        )
        self.probes.adopt(self.current)
        clock.advance(31)  # nobody has used any lane since

    async def look(self):
        await self.probes.look()
        await self.probes.settle()


@pytest.fixture
def probed(make_document, clock):
    """Makes benches whose first two lanes are probed after 30 idle seconds."""

    def make(**options):
        policy = breaker_policy(minimum_attempts=1, healthy_probes=2, window_seconds=20)
        lanes = {
            name: LANE | {"model": name, "breaker": "b", "probe": None if name == QUIET else "p"}
            for name in (IDLE, USED, QUIET)
        }
        routing = ROUTING | {
            "lanes": lanes,
            "routes": {"chat": {"lanes": list(lanes), "deadline_ms": 30_000}},
            "breakers": {"b": policy},
            "probes": {"p": {"idle_seconds": threshold(30), "timeout_seconds": threshold(5)}},
        }
        return Probed(make_document(routing=routing), clock, **options)

    return make


def good():
    return FakeExchange((ANSWER,), Gate())


async def test_idle_lane_is_asked_and_the_used_one_is_not(probed):
    """Traffic says as much as a probe; a lane without a probe policy is never asked."""
    bench = probed(lanes={IDLE: [good()], USED: [good()]})
    bench.attempt_at(USED)

    await bench.look()

    assert bench.transport.lanes == [IDLE]
    (row,) = bench.rows
    assert (row["kind"], row["tenant"], row["outcome"]) == ("probe", "ballast", "ok")
    assert bench.breakers.states()[0]["attempts"] == 1


async def test_lane_is_asked_again_only_after_its_idle_time(probed, clock):
    """Looking more often does not ask more often."""
    bench = probed(lanes={IDLE: [good()], USED: [good()]})
    await bench.look()
    await bench.look()
    clock.advance(31)
    bench.exchange_again(IDLE, good())
    bench.exchange_again(USED, good())
    await bench.look()

    assert bench.transport.lanes == [IDLE, USED, IDLE, USED]


async def test_one_worker_of_the_fleet_asks(probed):
    """What another worker has claimed is left to it; without the store nobody asks."""
    store = Claims()
    store.claimed.append(f"probe:{IDLE}")
    bench = probed(store=store, lanes={USED: [good()]})

    await bench.look()

    assert bench.transport.lanes == [USED]
    store.is_away = True
    other = probed(store=store)
    await other.look()
    assert other.transport.lanes == []


async def test_failing_probe_opens_a_breaker_before_a_caller_meets_the_lane(probed):
    """A probe counts like any other attempt."""
    bench = probed(failure=UpstreamUnreachable("gone", lane=IDLE))

    await bench.look()

    assert bench.breakers.states()[0]["state"] == "open"


async def test_probes_close_a_breaker_without_risking_a_caller(probed, clock):
    """Once its time is over, our own questions are the probes; two good ones close it."""
    bench = probed(failure=UpstreamUnreachable("gone", lane=IDLE))
    await bench.look()
    clock.advance(10)  # as long as it opens for, and less than its idle time
    for _ in range(2):
        bench.exchange_again(IDLE, good())
        await bench.look()

    assert bench.breakers.states()[0]["state"] == "closed"


async def test_lane_that_is_open_or_held_is_not_asked(probed, clock):
    """Not before its time, and not against an operator's word."""
    bench = probed(failure=UpstreamUnreachable("gone", lane=IDLE))
    bench.hold_open(USED, seconds=300)
    bench.probes.adopt(bench.current)
    await bench.look()
    clock.advance(5)
    await bench.look()

    assert bench.transport.lanes == [IDLE]


async def test_stopping_drops_what_is_under_way(probed):
    """A worker that stops does not wait for a provider."""
    gate = Gate("send")
    bench = probed(gate=gate)
    await bench.probes.look()
    await gate.reached.wait()

    await bench.probes.stop()

    assert "cancelled" in [row["outcome"] for row in bench.rows]
    assert asyncio.all_tasks() == {asyncio.current_task()}
