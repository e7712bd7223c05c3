"""No order of turns, deaths and lost answers exceeds an account's limits, and Redis decides as the pool does."""

from __future__ import annotations

import asyncio
import os
import uuid
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from dataplane.quota import NOTHING, Entry, QuotaPool, Telling, Terms
from dataplane.stores.quota import QuotaStoreUnavailable, RedisQuotaStore

WORKERS = ("w1", "w2", "w3")
TENANTS = {"acme": (4.0, True), "globex": (2.0, False), "initech": (1.0, False)}
TERMS = Terms(
    limits=(20.0, None, 4_000.0, None),
    concurrency=6.0,
    vip_concurrency=2.0,
    window_ms=2_000.0,
    headroom=0.3,
    batch_share=0.25,
    ramp_ms=1_500.0,
)
LEARNED = 10.0


@dataclass
class Worker:
    """What a worker keeps of its own: who waits, what runs, what it may hand out, and what it is about to tell."""

    number: int = 0
    waiting: dict[str, Entry] = field(default_factory=dict)
    came: list[Entry] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    running: dict[str, bool] = field(default_factory=dict)
    settled: list[float] = field(default_factory=lambda: list(NOTHING))
    lease: list[float] = field(default_factory=lambda: list(NOTHING))
    spare: int = 0
    lease_until: float = 0.0
    pause_ms: float | None = None
    learned: dict[int, float] = field(default_factory=dict)
    unheard: Telling | None = None


class EveryOrder(RuleBasedStateMachine):
    """Three workers, one pool in Redis and one beside it, one clock."""

    loop: asyncio.AbstractEventLoop
    url: str

    @initialize()
    def begin(self):
        self.now = 1_764_129_000_000.0
        self.pool = QuotaPool(now=self.now)
        self.name = f"test/{uuid.uuid4().hex}"
        self.store = RedisQuotaStore(self.url, timeout_seconds=60, clock_ms=lambda: self.now)
        self.workers = {name: Worker() for name in WORKERS}
        self.tickets = 0
        self.sent: list[tuple[float, float, float]] = []
        self.paused_until = 0.0

    def teardown(self):
        if hasattr(self, "store"):
            self.loop.run_until_complete(self.store.close())

    @rule(milliseconds=st.sampled_from([1.0, 20.0, 20.0, 150.0, 700.0, 2_500.0]))
    def time_passes(self, milliseconds):
        self.now += milliseconds

    @rule(
        name=st.sampled_from(WORKERS),
        workload=st.sampled_from(["interactive", "batch"]),
        tenant=st.sampled_from(sorted(TENANTS)),
        tokens=st.sampled_from([10.0, 100.0, 900.0]),
        count=st.integers(1, 5),
    )
    def requests_come(self, name, workload, tenant, tokens, count):
        worker = self.workers[name]
        for _ in range(count):
            self.tickets += 1
            weight, is_vip = TENANTS[tenant]
            entry = Entry(
                f"{name}:{self.tickets}",
                workload,
                tenant,
                weight,
                is_vip and workload == "interactive",
                (1.0, tokens, tokens, 0.0),
            )
            if self.may_go_at_once(worker, entry):
                self.go(worker, entry)
            else:
                worker.waiting[entry.ticket] = entry
                worker.came.append(entry)

    def may_go_at_once(self, worker, entry):
        if worker.waiting or self.now >= worker.lease_until or worker.spare < 1:
            return False
        if any(worker.lease[rate] < entry.amounts[rate] for rate in (0, 2)):
            return False
        worker.spare -= 1
        for rate, amount in enumerate(entry.amounts):
            worker.lease[rate] -= amount
        return True

    def go(self, worker, entry):
        worker.running[entry.ticket] = entry.is_vip
        self.sent.append((self.now, *[entry.amounts[rate] for rate in (0, 2)]))

    @rule(name=st.sampled_from(WORKERS))
    def somebody_leaves(self, name):
        worker = self.workers[name]
        if worker.waiting:
            ticket = min(worker.waiting)
            del worker.waiting[ticket]
            worker.left.append(ticket)

    @rule(name=st.sampled_from(WORKERS), count=st.integers(1, 4), unused=st.sampled_from([0.0, 5.0, 80.0]))
    def requests_end(self, name, count, unused):
        worker = self.workers[name]
        for ticket in sorted(worker.running)[:count]:
            del worker.running[ticket]
            worker.settled[2] += min(unused, 10.0)

    @rule(name=st.sampled_from(WORKERS), milliseconds=st.sampled_from([0.0, 400.0, 3_000.0]))
    def provider_refuses(self, name, milliseconds):
        self.workers[name].pause_ms = milliseconds

    @rule(name=st.sampled_from(WORKERS))
    def provider_names_a_lower_limit(self, name):
        self.workers[name].learned = {0: LEARNED}

    def telling(self, worker, wants):
        if worker.unheard is not None:
            return worker.unheard
        # What is left of a lease goes back with the next turn, whether it still lives or not.
        worker.settled = [have + unused for have, unused in zip(worker.settled, worker.lease, strict=True)]
        worker.lease, worker.spare = list(NOTHING), 0
        worker.number += 1
        told = Telling(
            number=worker.number,
            entries=worker.came,
            left=worker.left,
            settled=tuple(worker.settled),
            in_flight=len(worker.running),
            vip_in_flight=sum(worker.running.values()),
            held_ms=40.0,
            wants=(float(wants), 100.0 * wants, 100.0 * wants, 0.0),
            wants_slots=wants,
            pause_ms=worker.pause_ms,
            learned=worker.learned,
            places=list(worker.waiting),
        )
        worker.came, worker.left, worker.settled = [], [], list(NOTHING)
        worker.pause_ms, worker.learned = None, {}
        return told

    @rule(name=st.sampled_from(WORKERS), wants=st.sampled_from([0, 2, 6]), is_lost=st.booleans())
    def turn(self, name, wants, is_lost):
        worker = self.workers[name]
        told = self.telling(worker, wants)
        asked = self.store.turn(self.name, name, told, TERMS)
        heard = self.loop.run_until_complete(asked)
        expected = self.pool.turn(name, told, TERMS, now=self.now)

        assert heard.granted == list(expected.granted)
        for member in ("number", "is_new", "slots", "waiting", "limits"):
            assert getattr(heard, member) == getattr(expected, member), member
        for member in ("lease", "paused_ms", "open_share", "eta_ms", "used_share"):
            assert getattr(heard, member) == pytest.approx(getattr(expected, member), rel=1e-6, abs=0.01), member
        assert {ticket: place.position for ticket, place in heard.places.items()} == {
            ticket: place.position for ticket, place in expected.places.items()
        }
        if told.pause_ms is not None and worker.unheard is None:
            self.paused_until = max(self.paused_until, self.now + told.pause_ms)
        worker.unheard = told if is_lost else None
        if is_lost:
            return
        self.hear(worker, heard)

    def hear(self, worker, heard):
        for ticket in heard.granted:
            entry = worker.waiting.pop(ticket, None)
            if entry is not None:
                self.go(worker, entry)
                continue
            # It left before it heard, and what it was given goes back.
            worker.settled[0] += 1.0
        if heard.is_new:
            worker.came = list(worker.waiting.values())
        if heard.slots:
            worker.lease, worker.spare = list(heard.lease), heard.slots
            worker.lease_until = self.now + TERMS.lease_ms

    @invariant()
    def no_window_holds_more_than_the_limit(self):
        if not hasattr(self, "sent"):
            return
        since = self.now - TERMS.window_ms
        window = [one for one in self.sent if one[0] > since]
        assert sum(one[1] for one in window) <= TERMS.limits[0] + 1e-6
        # What is larger than a whole bucket may leave a debt of its own size, once.
        assert sum(one[2] for one in window) <= TERMS.limits[2] + 900.0

    @invariant()
    def no_more_run_than_the_concurrency(self):
        if hasattr(self, "workers"):
            running = [is_vip for worker in self.workers.values() for is_vip in worker.running.values()]
            assert len(running) <= TERMS.concurrency
            assert running.count(False) <= TERMS.concurrency


def test_no_order_of_turns_exceeds_a_limit_or_divides_the_two():
    """Both decide alike, and neither a window of the limits nor the concurrency is ever exceeded."""
    deep = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
    bounds = {} if deep else {"max_examples": 40, "stateful_step_count": 60}
    with asyncio.Runner() as runner:
        EveryOrder.loop, EveryOrder.url = runner.get_loop(), os.environ["REDIS_URL"]

        run_state_machine_as_test(EveryOrder, settings=settings(suppress_health_check=list(HealthCheck), **bounds))


async def test_a_store_that_is_away_says_so():
    """Within its time-out, whatever is wrong with it."""
    store = RedisQuotaStore("redis://127.0.0.1:1/0")

    with pytest.raises(QuotaStoreUnavailable, match="redis: ConnectionError"):
        await store.turn("a/b", "w", Telling(1), TERMS)

    await store.close()
