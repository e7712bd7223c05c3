"""What the store of corpora promises gateways, tried on the real one."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from dataplane.retrieval.errors import CorpusEmpty, CorpusPaused, CorpusUnavailable, ModelMoved, SnapshotGone
from dataplane.retrieval.hashes import chunk_digest
from dataplane.retrieval.modes import ANY, Mode
from dataplane.retrieval.tables import Snapshot
from dataplane.stores.corpora import PostgresCorpusStore
from tests.corpora_documents import MODEL, SLUG
from tests.qdrant_local import LocalQdrant

from .conftest import QUESTION, fill, keys, namespace_of, search
from .corpus_tables import NOW, ago, unit

pytestmark = pytest.mark.django_db  # asks for the tables; what is written there is committed


@pytest.fixture(params=[None, LocalQdrant], ids=["pgvector", "qdrant"])
def qdrant(request):
    """All of it holds wherever vectors are."""
    return request.param and request.param()


async def test_nearest_chunks_come_first_and_say_what_they_are(store, tables, corpus):
    """At most as many as are asked for; each with its revision, its words and how near it is."""
    found = await search(store, k=2)

    assert keys(found) == ["refunds", "returns"]
    first = found.chunks[0]
    assert (first.source_rev, first.ordinal, first.text, first.event_at) == (1, 0, "Within 30 days.", NOW)
    assert first.metadata == {"lang": "en", "page": 3}
    assert first.score == pytest.approx(float(QUESTION[0]), abs=1e-6)
    assert first.chunk_sha256 == chunk_digest(
        source_key="refunds", source_rev=1, ordinal=0, text="Within 30 days.", model=MODEL, vector=unit(1)
    )
    standing = found.standing
    assert (standing.snapshot, standing.lag_seconds, standing.pending) == (Snapshot(namespace_of(tables), 1), 0, 0)
    assert first.is_current


@pytest.mark.parametrize(
    ("pending", "source", "lag_seconds"),
    [
        ([], None, 0),
        ([(40, False), (90, False)], None, 90),
        ([(40, False), (90, True)], None, 40),
        ([], (1, 70), 70),
        ([], (14, None), 0),
        ([], (16, None), 16),
        ([(40, False)], (200, 100), 200),
        ([(-30, False)], None, 0),
    ],
    ids=["nothing", "pending", "poisoned", "waiting", "just looked", "not looked", "all", "from the future"],
)
async def test_lag_is_the_age_of_the_oldest_change_that_is_not_searchable(
    store, tables, corpus, pending, source, lag_seconds
):
    """Accepted or still at its source; of a source that nobody looks at, nobody knows. What is poisoned is counted
    apart, and holds nobody up.
    """
    for number, (seconds, is_poisoned) in enumerate(pending):
        tables.pending(namespace_of(tables), f"doc-{number}", since=ago(seconds), is_poisoned=is_poisoned)
    if source is not None:
        checked, oldest = source
        tables.source(corpus, checked_at=ago(checked), oldest_at=None if oldest is None else ago(oldest))

    standing = (await search(store)).standing

    assert standing.lag_seconds == lag_seconds
    poisoned = sum(is_poisoned for _, is_poisoned in pending)
    assert (standing.pending, standing.poisoned) == (len(pending) - poisoned, poisoned)


async def test_chunk_is_not_current_once_a_newer_revision_of_its_document_is_accepted(store, tables, corpus):
    """It is told still, until that one is searchable."""
    tables.pending(namespace_of(tables), "refunds", since=ago(1))

    found = await search(store)

    assert {chunk.source_key: chunk.is_current for chunk in found.chunks} == {
        "refunds": False,
        "returns": True,
        "hours": True,
    }


async def test_change_is_waited_for_until_it_and_all_before_are_searchable(store, tables, corpus):
    """By its number; what nothing could index is waited for by nobody."""
    tables.pending(namespace_of(tables), "refunds", since=ago(1), seqs=(7, 9))
    tables.pending(namespace_of(tables), "hours", since=ago(1), seqs=(2, 3), is_poisoned=True)

    waits = [(await search(store, mode=Mode(at_least=token))).standing.waited_for for token in (6, 7, 8, 10)]

    assert waits == [False, True, True, True]


async def test_snapshot_shows_exactly_what_was_searchable_then(store, tables, corpus):
    """Every revision of a document by itself; its lag is that of the oldest change which it lacks."""
    namespace = namespace_of(tables)
    tables.chunks(namespace, "UPDATE {table} SET died = 2 WHERE source_key = 'refunds'")
    tables.chunk(namespace, "refunds", "Within 60 days.", unit(1), rev=2, born=2, event_at=ago(120))
    tables.chunk(namespace, "fees", "None.", unit(1), rev=1, born=3, event_at=ago(60))
    tables.run("UPDATE corpora_namespace SET index_rev = 3 WHERE id = %s", namespace)

    found = [await search(store, mode=Mode(snapshot=Snapshot(namespace, rev))) for rev in (1, 2, 3)]
    newest = await search(store)

    texts = [{chunk.source_key: chunk.text for chunk in one.chunks}.get("refunds") for one in found]
    assert texts == ["Within 30 days.", "Within 60 days.", "Within 60 days."]
    assert ["fees" in keys(one) for one in found] == [False, False, True]
    assert [one.standing.lag_seconds for one in found] == [120, 60, 0]
    assert not next(chunk for chunk in found[0].chunks if chunk.source_key == "refunds").is_current
    assert [str(one.standing.snapshot) for one in found] == [f"ns_{namespace}.{rev}" for rev in (1, 2, 3)]
    assert newest.chunks == found[2].chunks
    assert newest.standing.snapshot == Snapshot(namespace, 3)


async def test_snapshot_that_is_not_kept_is_gone(store, tables, corpus):
    """Older than what is kept, never there, of another corpus, of a drill, or of a namespace that was dropped."""
    namespace = namespace_of(tables)
    tables.run("UPDATE corpora_namespace SET index_rev = 9, kept_rev = 5 WHERE id = %s", namespace)
    drill = fill(tables, corpus, purpose="drill")
    other = fill(tables, tables.corpus("manuals"))
    dropped = fill(tables, corpus)
    tables.drop(dropped)

    gone = [(namespace, 4), (namespace, 10), (drill, 1), (other, 1), (dropped, 1), (10**12, 1)]

    for snapshot in gone:
        with pytest.raises(SnapshotGone):
            await search(store, mode=Mode(snapshot=Snapshot(*snapshot)))
    assert (await search(store, mode=Mode(snapshot=Snapshot(namespace, 5)))).chunks


async def test_pinned_corpus_is_read_as_it_was(store, tables, corpus):
    """By everybody who names no older snapshot; what came after is withdrawn, and no change is known to be in it."""
    namespace = namespace_of(tables)
    tables.chunks(namespace, "UPDATE {table} SET died = 3 WHERE source_key = 'refunds'")
    tables.chunk(namespace, "refunds", "Never.", unit(1), rev=2, born=3, event_at=ago(30))
    tables.run("UPDATE corpora_namespace SET index_rev = 3 WHERE id = %s", namespace)
    await search(store)
    tables.pin(corpus, Snapshot(namespace, 2))

    pinned = await search(store)
    waiting = await search(store, mode=Mode(at_least=1))
    older = await search(store, mode=Mode(snapshot=Snapshot(namespace, 1)))

    assert pinned.chunks[0].text == "Within 30 days."
    assert (str(pinned.standing.snapshot), pinned.standing.is_pinned) == (f"ns_{namespace}.2", True)
    assert pinned.standing.lag_seconds == 30
    assert waiting.standing.waited_for
    assert not older.standing.is_pinned
    with pytest.raises(SnapshotGone):
        await search(store, mode=Mode(snapshot=Snapshot(namespace, 3)))
    tables.pin(corpus, None)
    assert (await search(store)).chunks[0].text == "Never."


async def test_pin_of_what_is_no_longer_kept_serves_nothing(store, tables, corpus):
    """Nobody guesses what the operators meant."""
    namespace = namespace_of(tables)
    tables.run("UPDATE corpora_namespace SET index_rev = 9, kept_rev = 5 WHERE id = %s", namespace)
    tables.pin(corpus, Snapshot(namespace, 4))

    with pytest.raises(CorpusUnavailable, match="no longer kept"):
        await search(store)


async def test_deleted_document_is_found_nowhere(store, tables, corpus):
    """Neither in the newest state nor in a snapshot from before: its chunks are gone from the table."""
    namespace = namespace_of(tables)
    before = await search(store)
    tables.chunks(namespace, "DELETE FROM {table} WHERE source_key = 'refunds'")

    for mode in (ANY, Mode(snapshot=before.standing.snapshot)):
        assert keys(await search(store, mode=mode)) == ["returns", "hours"]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"lang": "en"}, ["refunds", "returns"]),
        ({"lang": "en", "page": 3}, ["refunds"]),
        ({"page": 3.0}, ["refunds"]),
        ({"is_old": True}, ["returns"]),
        ({"lang": "fr"}, []),
        ({"page": "3"}, []),
        ({"it's": '"; --'}, []),
    ],
)
async def test_filters_are_equalities_of_metadata(store, corpus, filters, expected):
    """All of them hold; a string is no number. Where nothing passes, the standing is told all the same."""
    found = await search(store, filters=filters)

    assert keys(found) == expected
    assert found.standing.snapshot.index_rev == 1


async def test_paused_and_unbuilt_corpora_are_refused(store, tables, corpus):
    """Each by a name of its own; a corpus that is not there yet is as one that nobody built."""
    unbuilt = tables.corpus("manuals")
    tables.namespace(unbuilt)

    for slug in ("manuals", "nowhere"):
        with pytest.raises(CorpusEmpty):
            await search(store, slug=slug)
    snapshot = (await search(store)).standing.snapshot
    tables.pause(corpus)
    with pytest.raises(CorpusPaused):
        await search(store)
    for one in (None, snapshot):  # from now on it is known before a question is embedded
        with pytest.raises(CorpusPaused):
            await store.place(SLUG, one)


async def test_search_goes_after_an_alias_that_moved(store, tables, corpus):
    """To another namespace, also when the one that served is dropped at once; then to none."""
    await search(store)
    second = tables.namespace(corpus)
    tables.chunk(second, "refunds", "Within 60 days.", unit(1))

    tables.serve(corpus, second)
    moved = await search(store)
    third = fill(tables, corpus)
    tables.serve(corpus, third)
    tables.drop(second)
    again = await search(store)
    tables.serve(corpus, None)

    assert [chunk.text for chunk in moved.chunks] == ["Within 60 days."]
    assert again.standing.snapshot.namespace == third
    with pytest.raises(CorpusEmpty):
        await search(store)


async def test_vector_of_another_model_is_compared_with_nothing(store, tables, corpus):
    """Whoever asks is told by which model to embed the question."""
    await search(store)
    larger = tables.namespace(corpus, model="large", dimensions=3)
    tables.chunk(larger, "refunds", "Within 30 days.", unit(1, dimensions=3))
    tables.serve(corpus, larger)

    with pytest.raises(ModelMoved) as caught:
        await search(store)

    place = caught.value.place
    assert (place.namespace, place.model, place.dimensions) == (larger, "large", 3)
    found = await search(store, model="large", vector=unit(1, dimensions=3))
    assert keys(found) == ["refunds"]
    old = Snapshot(namespace_of(tables), 1)
    assert (await store.place(SLUG, old)).model == MODEL
    assert (await search(store, mode=Mode(snapshot=old))).chunks


async def test_queries_during_200_switches_see_one_namespace_each(store, tables, keys_url, corpus):
    """Not one fails, and none sees chunks of both."""
    names = {namespace_of(tables): "one", tables.namespace(corpus): "two"}
    for namespace, name in names.items():
        tables.chunks(namespace, "DELETE FROM {table}")
        for number in range(8):
            tables.chunk(namespace, f"doc-{number}", name, unit(1, number))
    over, looked = asyncio.Event(), asyncio.Event()
    seen = []

    async def ask():
        while not over.is_set():
            seen.append(await search(store, k=8))
            looked.set()

    async def switch():
        async with await psycopg.AsyncConnection.connect(keys_url, autocommit=True) as other:
            for turn in range(200):
                namespace = list(names)[(turn + 1) % 2]
                await other.execute(
                    "UPDATE corpora_corpus SET live_namespace_id = %s WHERE id = %s", [namespace, corpus]
                )
                looked.clear()
                await looked.wait()  # some query has ended, and others are under way
        over.set()

    await asyncio.gather(switch(), *(ask() for _ in range(3)))

    for found in seen:
        assert {chunk.text for chunk in found.chunks} == {names[found.standing.snapshot.namespace]}
        assert len(found.chunks) == 8
    assert {found.standing.snapshot.namespace for found in seen} == set(names)


async def test_database_that_is_away_or_does_not_answer_is_an_error(tables, corpus, keys_url):
    """Nothing is told of what cannot be looked up."""
    away = PostgresCorpusStore("postgresql://nobody@127.0.0.1:1/none", timeout_seconds=0.2)
    held_up = PostgresCorpusStore(keys_url, timeout_seconds=0.5)
    await away.start()
    await held_up.start()
    try:
        with pytest.raises(CorpusUnavailable, match="the database fails"):
            await search(away)
        with tables.sql.transaction():
            tables.run("LOCK TABLE corpora_corpus IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(CorpusUnavailable, match="the database fails"):
                await search(held_up)
    finally:
        await away.close()
        await held_up.close()
