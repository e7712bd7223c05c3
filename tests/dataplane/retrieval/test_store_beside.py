"""What Qdrant proposes is no answer yet: PostgreSQL decides what is alive, and without either there is none."""

from __future__ import annotations

import asyncio

import pytest

from dataplane.retrieval.errors import CorpusUnavailable, SnapshotGone
from dataplane.retrieval.modes import Mode
from dataplane.retrieval.tables import Snapshot, vectors_collection
from dataplane.stores.corpora import PostgresCorpusStore
from dataplane.stores.qdrant import QdrantNearestIds, connect
from tests.qdrant_local import PREFIX, LocalQdrant

from .conftest import fill, keys, namespace_of, search
from .corpus_tables import unit

pytestmark = pytest.mark.django_db  # asks for the tables; what is written there is committed


@pytest.fixture
def qdrant() -> LocalQdrant:
    """A Qdrant beside PostgreSQL, where vectors are."""
    return LocalQdrant()


class Interrupted:
    """A store beside; `after` is called with each namespace once it has proposed something of it."""

    def __init__(self, inner, after):
        self._inner = inner
        self._after = after
        self.asked = []

    async def start(self):
        """There is nothing to connect to."""

    async def close(self):
        """There is nothing to let go of."""

    async def nearest(self, namespace, vector, *, limit):
        self.asked.append(namespace)
        found = await self._inner.nearest(namespace, vector, limit=limit)
        self._after(len(self.asked))
        return found


@pytest.fixture
async def interrupted(keys_url, qdrant):
    """Makes a store, and what it asks, that something happens to between proposal and statement."""
    stores = []

    async def make(after):
        beside = Interrupted(qdrant.nearest_ids(), after)
        store = PostgresCorpusStore(keys_url, beside={"qdrant": beside}, timeout_seconds=60)
        await store.start()
        stores.append(store)
        return store, beside

    yield make
    for store in stores:
        await store.close()


async def test_more_is_asked_for_until_enough_of_it_lives(store, tables, qdrant):
    """However many dead chunks, and chunks that the filters leave out, are nearer."""
    corpus = tables.corpus()
    namespace = tables.namespace(corpus)
    tables.serve(corpus, namespace)
    for number in range(300):
        is_dead, lang = number < 150, "de" if number < 290 else "en"
        tables.chunk(
            namespace,
            f"doc-{number}",
            "t",
            unit(1, number / 100),
            died=1 if is_dead else None,
            metadata={"lang": lang},
        )

    found = await search(store, k=3, vector=unit(1), filters={"lang": "en"})

    assert keys(found) == ["doc-290", "doc-291", "doc-292"]


async def test_what_becomes_searchable_after_the_proposal_is_proposed_anew(interrupted, tables, corpus, qdrant):
    """Whoever waited for his own change finds it, and no document is missing because it changed at that moment."""
    namespace = namespace_of(tables)

    def change(turn):
        if turn == 1:
            tables.chunk(namespace, "refunds", "Within 60 days.", unit(1), rev=2, ordinal=1, born=2)
            tables.chunks(namespace, "UPDATE {table} SET died = 2 WHERE source_key = 'refunds' AND source_rev = 1")
            tables.run("UPDATE corpora_namespace SET index_rev = 2 WHERE id = %s", namespace)

    store, beside = await interrupted(change)

    found = await search(store, mode=Mode(at_least=1))
    again = await search(store)

    assert [(chunk.source_key, chunk.source_rev) for chunk in found.chunks] == [
        ("refunds", 2),
        ("returns", 1),
        ("hours", 1),
    ]
    assert found.standing.snapshot == Snapshot(namespace, 2)
    assert again.chunks == found.chunks
    assert len(beside.asked) == 3


async def test_ids_of_one_namespace_are_looked_up_in_no_other(interrupted, tables, corpus, qdrant):
    """When the alias moves after the proposal, the other namespace is asked for its own."""
    first = namespace_of(tables)
    second = tables.namespace(corpus)
    tables.chunk(second, "refunds", "Within 60 days.", unit(1))
    store, beside = await interrupted(lambda turn: tables.serve(corpus, second))

    found = await search(store)

    assert [chunk.text for chunk in found.chunks] == ["Within 60 days."]
    assert beside.asked[:2] == [first, second]


async def test_namespace_that_was_dropped_is_looked_for_elsewhere(store, tables, corpus):
    """Its vectors go with it; whoever looks there goes on where the corpus serves from by now."""
    await search(store)
    old = Snapshot(namespace_of(tables), 1)
    second = fill(tables, corpus)
    tables.serve(corpus, second)
    tables.drop(old.namespace)

    found = await search(store)

    assert found.standing.snapshot.namespace == second
    with pytest.raises(SnapshotGone):
        await search(store, mode=Mode(snapshot=old))


async def test_deleted_document_is_not_found_though_its_vectors_are_there(store, tables, corpus, qdrant):
    """They stay when Qdrant is away as it is deleted; nothing is told of them."""
    tables.chunks(namespace_of(tables), "DELETE FROM {table} WHERE source_key = 'refunds'")

    found = await search(store)

    assert qdrant.count(vectors_collection(PREFIX, namespace_of(tables))).count == 3
    assert keys(found) == ["returns", "hours"]


async def test_nothing_is_told_without_qdrant(store, tables, corpus, qdrant):
    """Neither while it is away, nor when it has lost a namespace that serves: who has fewer vectors knows less."""
    qdrant.is_away = True
    with pytest.raises(CorpusUnavailable, match="the vector store fails"):
        await search(store)
    qdrant.is_away = False
    assert (await search(store)).chunks
    qdrant.delete_collection(vectors_collection(PREFIX, namespace_of(tables)))

    with pytest.raises(CorpusUnavailable, match="are gone from their store"):
        await search(store)


async def test_server_that_nobody_reaches_is_unavailable(tables, corpus, keys_url):
    """Over HTTP, as gateways ask."""
    beside = connect("http://127.0.0.1:1", key=None, prefix=PREFIX)
    store = PostgresCorpusStore(keys_url, beside={"qdrant": beside}, timeout_seconds=60)
    await store.start()
    try:
        with pytest.raises(CorpusUnavailable, match="the vector store fails"):
            await search(store)
    finally:
        await store.close()


async def test_server_that_does_not_answer_is_not_waited_for():
    """Longer than the time that it has."""

    class Silent:
        async def query_points(self, *args, **kwargs):
            await asyncio.Event().wait()

    beside = QdrantNearestIds(Silent(), prefix=PREFIX, timeout_seconds=0.01)

    with pytest.raises(CorpusUnavailable, match="TimeoutError"):
        await beside.nearest(1, unit(1), limit=3)
