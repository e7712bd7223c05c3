"""What every store of breakers promises its workers, tried on the real one."""

from __future__ import annotations

import asyncio
import os
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplane.breaker import COUNTED, News, Verdict
from dataplane.stores.breakers import _EXCHANGE, BreakerStoreUnavailable, RedisBreakerStore

SLICE_SECONDS = 60.0  # long enough that no test sees its window move on
NOTHING = (0,) * len(COUNTED)
CLOSED = Verdict(0, False, 0.0, 0)


@pytest.fixture
async def store():
    """A store on the run's Redis."""
    store = RedisBreakerStore(os.environ["REDIS_URL"], timeout_seconds=60)
    yield store
    await store.close()


@pytest.fixture
def lane():
    """A lane of this test's own."""
    return f"test/{uuid.uuid4().hex}"


def news(verdict=CLOSED, *, counts=NOTHING, healthy=0):
    return News(tuple(counts), healthy, verdict)


async def exchange(store, lane, one, *, teller=None, turn=1):
    """What somebody who has told nothing before hears, or `teller` at one of its turns."""
    teller = teller or uuid.uuid4().hex
    return (await store.exchange({lane: (SLICE_SECONDS, one)}, teller=teller, turn=turn))[lane]


async def test_counts_of_all_workers_add_up_lane_by_lane(store, lane):
    """What two workers tell comes back as one sum, and another lane's stays its own."""
    other = lane + "/other"
    both = {lane: (SLICE_SECONDS, news(counts=range(8))), other: (SLICE_SECONDS, news(counts=[5] * 8))}
    await store.exchange(both, teller=lane, turn=1)

    view = await exchange(store, lane, news(counts=[1] * 8))

    assert view.counts == [1, 2, 3, 4, 5, 6, 7, 8]
    assert (await exchange(store, other, news())).counts == [5] * 8


async def test_turn_that_is_told_again_is_counted_once(store, lane):
    """Whoever heard no answer tells it again; the next turn, and another worker's, is counted."""
    told = news(counts=[1] * 8)
    one = {"teller": f"{lane}/one"}

    again = [(await exchange(store, lane, told, turn=1, **one)).counts for _ in range(3)]
    after = (await exchange(store, lane, told, turn=2, **one)).counts

    assert again == [[1] * 8] * 3
    assert after == [2] * 8
    assert (await exchange(store, lane, told, teller=f"{lane}/two")).counts == [3] * 8


async def test_healthy_probes_that_are_told_again_are_counted_once(store, lane):
    """They close the breaker of a fleet, so one must not be two."""
    told = news(Verdict(1, True, 0.0, 1), healthy=1)

    assert [(await exchange(store, lane, told, teller=lane, turn=1)).healthy for _ in range(2)] == [1, 1]


async def test_opening_is_heard_with_the_time_that_is_left(store, lane):
    """Another worker learns that it is open, for how long and what for; counts begin anew."""
    await exchange(store, lane, news(counts=[9] * 8))
    await exchange(store, lane, news(Verdict(1, True, 3000.0, 1, 0.0, "failure_rate")))

    view = await exchange(store, lane, news(counts=[3] * 8))

    assert (view.verdict.generation, view.verdict.is_open, view.verdict.flaps) == (1, True, 1)
    assert 2900 < view.verdict.open_seconds <= 3000
    assert view.verdict.opened_for == "failure_rate"
    assert view.counts == [0] * 8


async def test_later_deadline_wins_whoever_comes_first(store, lane):
    """A shorter one told later changes nothing, a longer one does."""
    for seconds in (3000.0, 500.0, 6000.0):
        view = await exchange(store, lane, news(Verdict(1, True, seconds, 1, 0.0, "failure_rate")))

    assert 5900 < view.verdict.open_seconds <= 6000


class Still(RedisBreakerStore):
    """A store whose time stands still, so that only the test says how late somebody is."""

    def __init__(self, url):
        super().__init__(url, timeout_seconds=60)
        self._exchange = self._redis.register_script(_EXCHANGE.replace("redis.call('TIME')", "{1764129000, 0}"))


async def test_telling_what_was_heard_does_not_lengthen_it(lane):
    """However often workers repeat it, each a little late, the lane is due when it was."""
    store = Still(os.environ["REDIS_URL"])
    view = await exchange(store, lane, news(Verdict(1, True, 30.0, 1, 0.0, "failure_rate")))

    for _ in range(50):
        late = view.verdict.open_seconds + 0.2
        view = await exchange(store, lane, news(Verdict(1, True, late, 1, 0.0, "failure_rate")))

    assert view.verdict.open_seconds == 30
    await store.close()


async def test_healthy_probes_add_up_until_the_next_generation(store, lane):
    """Two workers' probes count together; a failed one, which is a new generation, starts at nothing."""
    is_open = Verdict(1, True, 0.0, 1)
    await exchange(store, lane, news(is_open, healthy=1))

    assert (await exchange(store, lane, news(is_open, healthy=1))).healthy == 2
    assert (await exchange(store, lane, news(Verdict(2, True, 20.0, 2)))).healthy == 0
    assert (await exchange(store, lane, news(is_open, healthy=1))).healthy == 0


async def test_closing_is_heard_with_how_long_it_has_been(store, lane):
    """Flaps are forgotten by calm time, so that time travels too."""
    await exchange(store, lane, news(Verdict(2, False, 0.0, 3, closed_seconds=4000.0)))

    view = await exchange(store, lane, news())

    assert (view.verdict.generation, view.verdict.is_open, view.verdict.flaps) == (2, False, 3)
    assert 4000 <= view.verdict.closed_seconds < 4100


async def test_only_so_many_probes_are_out_at_once(store, lane):
    """A lease that came back makes room; so does one whose time is up."""
    assert await store.lease_probe(lane, "w1:1", generation=0, limit=2, ttl_seconds=3600)
    assert await store.lease_probe(lane, "w2:1", generation=0, limit=2, ttl_seconds=0.002)
    async with asyncio.timeout(60):
        while not await store.lease_probe(lane, "w2:2", generation=0, limit=2, ttl_seconds=3600):
            pass  # the time of the lease before it is Redis' own

    assert not await store.lease_probe(lane, "w3:1", generation=0, limit=2, ttl_seconds=3600)
    await store.return_probe(lane, "w1:1")
    await store.return_probe(lane, "w1:1")

    assert await store.lease_probe(lane, "w3:1", generation=0, limit=2, ttl_seconds=3600)


async def test_worker_that_has_not_heard_the_last_verdict_gets_no_probe(store, lane):
    """What it would try has just been found out by another one."""
    await exchange(store, lane, news(Verdict(2, True, 20.0, 2)))

    assert not await store.lease_probe(lane, "w1:1", generation=1, limit=2, ttl_seconds=3600)
    assert await store.lease_probe(lane, "w1:1", generation=2, limit=2, ttl_seconds=3600)


async def test_absent_store_says_so():
    """Nobody waits for a store that is not there."""
    store = RedisBreakerStore("redis://127.0.0.1:1/0")

    with pytest.raises(BreakerStoreUnavailable, match="redis"):
        await exchange(store, "lane", news())
    with pytest.raises(BreakerStoreUnavailable):
        await store.lease_probe("lane", "w", generation=0, limit=1, ttl_seconds=1)
    with pytest.raises(BreakerStoreUnavailable):
        await store.return_probe("lane", "w")
    await store.close()


verdicts = st.builds(
    Verdict,
    generation=st.integers(0, 3),
    is_open=st.booleans(),
    open_seconds=st.just(0.0),
    flaps=st.integers(0, 3),
    closed_seconds=st.just(0.0),
    opened_for=st.sampled_from(["", "failure_rate", "latency_p95_ms", "dragging_rate"]),
)


@given(told=st.lists(verdicts, min_size=1, max_size=6))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_store_joins_verdicts_as_workers_do(store, told):
    """Whatever is told in whatever order, the store ends where joining in Python ends, but for times."""
    lane = f"test/{uuid.uuid4().hex}"
    joined = told[0]
    for verdict in told[1:]:
        joined = joined.join(verdict)

    for verdict in told:
        view = await exchange(store, lane, news(verdict))

    heard = view.verdict
    assert (heard.generation, heard.is_open, heard.flaps, heard.opened_for) == (
        joined.generation,
        joined.is_open,
        joined.flaps,
        joined.opened_for,
    )
