"""What every store of ladders promises its workers, tried on the real one."""

from __future__ import annotations

import os
import uuid

import pytest

from dataplane.ladder.decider import Standing
from dataplane.ladder.signals import Told
from dataplane.stores.ladder import _EXCHANGE, KEEP_MS, LEADER, TOLD, LadderStoreUnavailable, RedisLadderStore

MORNING = 1_764_129_000


class StoreInItsOwnTime(RedisLadderStore):
    """A store whose time the test says, in epoch seconds; leases that would end by themselves end by it too."""

    def __init__(self, url):
        super().__init__(url, timeout_seconds=60)
        self.now = float(MORNING)

    async def exchange(self, tellings, *, worker):
        micros = int(self.now % 1 * 1_000_000)
        self._exchange = self._redis.register_script(
            _EXCHANGE.replace("redis.call('TIME')", f"{{{int(self.now)}, {micros}}}")
        )
        return await super().exchange(tellings, worker=worker)

    async def let_the_lease_end(self):
        """As Redis does by itself."""
        await self._redis.delete(LEADER)


@pytest.fixture
async def store():
    """A store on the run's Redis, in which nobody has said anything."""
    store = StoreInItsOwnTime(os.environ["REDIS_URL"])
    await store._redis.delete(TOLD, LEADER)
    yield store
    await store._redis.delete(TOLD, LEADER)
    await store.close()


@pytest.fixture
def surface():
    """A surface of this test's own."""
    return f"test-{uuid.uuid4().hex}"


def told(**changes):
    facts = {
        "in_flight": {"vip": 2, "free": 5},
        "queue_age_seconds": 1.5,
        "quota_utilisation": None,
        "breakers_open_share": 0.5,
        "windows": {"burn": (40, 3)},
        "gauges": {"gpu": 0.75},
    }
    return Told(**facts | changes)


async def test_workers_hear_what_each_of_them_tells(store, surface):
    """All of it, of every surface, by worker, their own words among them; and the store's time."""
    other = f"{surface}-other"
    busy, idle = told(), told(in_flight={}, quota_utilisation=0.25, windows={}, gauges={})
    await store.exchange({surface: busy, other: idle}, worker="w1")

    view = await store.exchange({surface: idle}, worker="w2")

    assert view.tellings == {"w1": {surface: busy, other: idle}, "w2": {surface: idle}}
    assert view.now == MORNING
    assert view.standings == {}


async def test_who_is_silent_counts_no_more(store, surface):
    """What it told is forgotten after three seconds, not before."""
    await store.exchange({surface: told()}, worker="w1")
    store.now += 3

    still = await store.exchange({surface: told()}, worker="w2")
    store.now += 0.1
    gone = await store.exchange({surface: told()}, worker="w2")

    assert sorted(still.tellings) == ["w1", "w2"]
    assert sorted(gone.tellings) == ["w2"]


async def test_one_worker_decides_as_long_as_it_comes(store, surface):
    """Nobody else leads meanwhile; its lease is renewed by each of its turns."""
    turns = [await store.exchange({surface: told()}, worker=worker) for worker in ("w1", "w2", "w3", "w1", "w2")]

    assert [view.leads for view in turns] == [True, False, False, True, False]
    assert 0 < await store._redis.pttl(LEADER) <= 3000


async def test_lease_passes_on_when_its_holder_is_silent(store, surface):
    """Whoever comes first afterwards has it, and who had it before has not."""
    await store.exchange({surface: told()}, worker="w1")
    await store.let_the_lease_end()

    turns = [await store.exchange({surface: told()}, worker=worker) for worker in ("w2", "w1")]

    assert [view.leads for view in turns] == [True, False]


async def test_who_leaves_gives_the_lease_back_at_once(store, surface):
    """The next one decides, and what the one that left told counts no more; a follower that leaves takes no lease."""
    for worker in ("w1", "w2", "w3"):
        await store.exchange({surface: told()}, worker=worker)

    await store.leave("w2")
    kept = await store.exchange({surface: told()}, worker="w3")
    await store.leave("w1")
    view = await store.exchange({surface: told()}, worker="w3")

    assert (kept.leads, view.leads) == (False, True)
    assert sorted(view.tellings) == ["w3"]


async def test_where_a_ladder_stands_is_heard_by_everybody(store, surface):
    """As it was moved, with every member; other surfaces are not told of."""
    standing = Standing(3, 7, 1.5, 2.25, 0.0, 1, "queue", 12.5)
    moved = await store.move(surface, standing)

    view = await store.exchange({surface: told(), f"{surface}-other": told()}, worker="w1")

    assert moved is None
    assert view.standings == {surface: standing}


@pytest.mark.parametrize("generation", [6, 7])
async def test_older_and_equal_word_changes_nothing(store, surface, generation):
    """Of two that decided at once the first one's word stands, and the second one learns of it."""
    first = Standing(level=3, generation=7)
    await store.move(surface, first)

    stands = await store.move(surface, Standing(level=2, generation=generation))
    again = await store.move(surface, first)

    assert stands == again == first
    assert (await store.exchange({surface: told()}, worker="w1")).standings == {surface: first}


async def test_newer_word_stands_however_much_newer(store, surface):
    """A worker that decided alone for a while brings several steps at once."""
    await store.move(surface, Standing(level=1, generation=1))

    await store.move(surface, Standing(level=4, generation=9))

    view = await store.exchange({surface: told()}, worker="w1")
    assert view.standings == {surface: Standing(level=4, generation=9)}


async def test_where_a_ladder_stands_is_kept_a_day_longer_than_anybody_tells_of_it(store, surface):
    """Each telling makes it last a day again; the telling of another surface does not."""
    await store.move(surface, Standing(level=1, generation=1))
    key = f"ballast:ladder:standing:{surface}"
    await store._redis.pexpire(key, KEEP_MS // 2)

    await store.exchange({f"{surface}-other": told()}, worker="w1")
    before = await store._redis.pttl(key)
    await store.exchange({surface: told()}, worker="w1")

    assert before <= KEEP_MS // 2
    assert KEEP_MS // 2 < await store._redis.pttl(key) <= KEEP_MS


async def test_absent_store_says_so(surface):
    """Nobody waits for a store that is not there."""
    store = RedisLadderStore("redis://127.0.0.1:1/0")

    with pytest.raises(LadderStoreUnavailable, match="redis"):
        await store.exchange({surface: told()}, worker="w1")
    with pytest.raises(LadderStoreUnavailable, match="redis"):
        await store.move(surface, Standing())
    with pytest.raises(LadderStoreUnavailable, match="redis"):
        await store.leave("w1")
    await store.close()


@pytest.mark.parametrize(
    "words", ["no JSON", '{"s": {"in_flight": {}}}', '{"s": {"in_flight": {}, "windows": {}, "mood": 1}}']
)
async def test_words_of_another_version_are_as_good_as_none(store, surface, words):
    """A worker that cannot read its fleet is alone, and says why."""
    await store._redis.hset(TOLD, "w9", f"{MORNING * 1000} {words}")

    with pytest.raises(LadderStoreUnavailable, match="cannot be read"):
        await store.exchange({surface: told()}, worker="w1")


async def test_redis_that_lost_its_scripts_is_taught_them_again(store, surface):
    """As after a restart."""
    await store._redis.script_flush()

    view = await store.exchange({surface: told()}, worker="w1")

    assert view.leads
