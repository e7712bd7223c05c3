"""The fleet's budget for shadows, in a real Redis: never overspent, whoever reserves at once, and settled once."""

from __future__ import annotations

import asyncio
import uuid

import pytest
import redis.asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplane.shadow.budget import Amounts
from dataplane.shadow.switch import killed_key
from dataplane.stores.shadow_budget import (
    EPOCH_KEY,
    Killed,
    RedisShadowStore,
    Reserved,
    ShadowStoreUnavailable,
    Spent,
)
from tests.dataplane.conftest import broker, redis_url  # noqa: F401  # fixtures

DAY = "2026-01-02"
LIMITS = Amounts(10, 1000, 500)
# Long enough for a machine that stands still; only a Redis that is away is found out sooner.
PATIENT_SECONDS = 60.0


@pytest.fixture
async def store(redis_url):  # noqa: F811
    """A store on a real Redis."""
    store = RedisShadowStore(redis_url, timeout_seconds=PATIENT_SECONDS)
    yield store
    await store.close()


@pytest.fixture
def digest():
    """A policy that nobody else has."""
    return uuid.uuid4().hex * 2


async def reserve(store, digest, amounts, *, name=None, day=DAY, limits=LIMITS):
    name = name or uuid.uuid4().hex
    return await store.reserve(digest, day=day, reservation=name, amounts=amounts, limits=limits)


async def settle(store, digest, name, amounts):
    await store.settle(digest, day=DAY, reservation=name, amounts=amounts)


@pytest.mark.parametrize(
    ("amounts", "budget"),
    [(Amounts(11, 1, 1), "calls"), (Amounts(1, 1001, 1), "tokens"), (Amounts(1, 1, 501), "cost_micros")],
)
async def test_more_than_a_day_has_is_refused_by_its_name(store, digest, amounts, budget):
    """Any of the three is enough, and nothing of the others is taken."""
    refused = await reserve(store, digest, amounts)

    assert refused == Spent(budget, is_used=True)
    assert await reserve(store, digest, LIMITS) == Reserved()


async def test_what_is_reserved_is_not_used_yet(store, digest):
    """What is under way may come back, so whoever is refused for it may ask again; once it is used, nobody need."""
    await reserve(store, digest, LIMITS, name="a")
    held = await reserve(store, digest, Amounts(1, 1, 1))

    await settle(store, digest, "a", Amounts(1, 1000, 20))
    used = await reserve(store, digest, Amounts(1, 1, 1))

    assert (held, used) == (Spent("calls", is_used=False), Spent("tokens", is_used=True))


async def test_settling_gives_back_what_was_not_taken(store, digest):
    """A short answer leaves the rest of its reservation to others."""
    await reserve(store, digest, LIMITS, name="a")

    await settle(store, digest, "a", Amounts(1, 10, 10))

    assert await reserve(store, digest, Amounts(9, 990, 490)) == Reserved()


async def test_settled_twice_counts_once(store, digest):
    """Whoever heard no answer settles again, and whoever never reserved settles nothing."""
    await reserve(store, digest, Amounts(1, 100, 100), name="a")

    for name in ("a", "a", "b"):
        await settle(store, digest, name, Amounts(1, 100, 100))

    assert await reserve(store, digest, Amounts(9, 900, 400)) == Reserved()


async def test_reserved_twice_under_one_name_counts_once(store, digest):
    """An answer that got lost on its way costs nothing."""
    await reserve(store, digest, LIMITS, name="a")

    assert await reserve(store, digest, LIMITS, name="a") == Reserved()


async def test_each_day_and_each_policy_has_its_own(store, digest):
    """A new day begins at nothing, and so does a policy that has changed."""
    await reserve(store, digest, LIMITS)

    assert await reserve(store, digest, LIMITS, day="2026-01-03") == Reserved()
    assert await reserve(store, uuid.uuid4().hex * 2, LIMITS) == Reserved()


async def test_killed_policy_reserves_nothing_until_somebody_deletes_the_flag(store, digest, redis_url):  # noqa: F811
    """The first reason stays; whoever lifts it need only know where it stands."""
    await store.kill(digest, "failure_rate")
    await store.kill(digest, "cost_ratio")
    refused, standing = await reserve(store, digest, Amounts(1, 1, 1)), await store.look([digest, "other"])
    async with redis.asyncio.Redis.from_url(redis_url) as console:
        await console.delete(killed_key(digest))

    assert (refused, standing.killed) == (Killed("failure_rate"), {digest: "failure_rate"})
    assert await reserve(store, digest, Amounts(1, 1, 1)) == Reserved()
    assert (await store.look([digest])).killed == {}


async def test_epoch_changes_when_redis_has_lost_what_it_knew(store, digest, redis_url):  # noqa: F811
    """So a flag that is gone with all the rest is not taken for one that somebody deleted."""
    before = await store.look([digest])
    again = await store.look([digest])
    async with redis.asyncio.Redis.from_url(redis_url) as console:
        await console.delete(EPOCH_KEY)

    after = await store.look([digest])

    assert before.epoch == again.epoch != after.epoch


async def test_redis_that_is_away_is_told_of_as_such(broker, digest):  # noqa: F811
    """Every question says so, so that nothing is asked of a lane."""
    store = RedisShadowStore(broker.url)
    broker.stop()

    for question in (
        reserve(store, digest, LIMITS),
        settle(store, digest, "a", LIMITS),
        store.kill(digest, "cost_ratio"),
        store.look([digest]),
    ):
        with pytest.raises(ShadowStoreUnavailable, match="redis"):
            await question
    await store.close()


amount = st.builds(Amounts, st.integers(1, 2), st.integers(0, 400), st.integers(0, 200))


@given(calls=st.lists(st.tuples(amount, st.none() | st.floats(0, 1)), min_size=1, max_size=40))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_budget_is_never_overspent_by_reservations_at_once(redis_url, calls):  # noqa: F811
    """Several processes reserve and settle at once, as the test draws them, some of which never settle: what is settled
    and held never adds up to more than the day has, and what is refused did not fit.
    """
    digest = uuid.uuid4().hex * 2
    stores = [RedisShadowStore(redis_url, timeout_seconds=PATIENT_SECONDS) for _ in range(4)]
    spent = []

    async def one(number, amounts, share):
        store, name = stores[number % len(stores)], f"{number}"
        if await reserve(store, digest, amounts, name=name) != Reserved():
            return
        taken = (
            amounts
            if share is None
            else Amounts(*(int(part * share) for part in (amounts.calls, amounts.tokens, amounts.cost_micros)))
        )
        spent.append(taken)
        if share is not None:
            await settle(store, digest, name, taken)

    try:
        await asyncio.gather(*(one(number, *call) for number, call in enumerate(calls)))
    finally:
        for store in stores:
            await store.close()
    async with redis.asyncio.Redis.from_url(redis_url) as console:
        sums = {
            key.decode(): int(value)
            for key, value in (await console.hgetall(f"ballast:shadow:{{{digest}}}:{DAY}")).items()
        }

    for name in ("calls", "tokens", "cost_micros"):
        total = sums.get(name, 0) + sums.get(f"held_{name}", 0)
        assert total == sum(getattr(one, name) for one in spent) <= getattr(LIMITS, name)
