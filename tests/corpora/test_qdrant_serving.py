"""A corpus whose vectors are in Qdrant, in earnest: dumped, restored, searched, and in the place of one in pgvector."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count, cycle, pairwise
from pathlib import Path

import pytest
from django.db import connection, transaction

from controlplane.corpora import vectors
from controlplane.corpora.dumping import make_dump
from controlplane.corpora.errors import DumpRefused
from controlplane.corpora.leftovers import ON_THE_WAY, collect_leftovers
from controlplane.corpora.models import Corpus, Namespace, Pending
from controlplane.corpora.namespaces import create_namespace, mark_ready, switch
from controlplane.corpora.policies import promised
from controlplane.corpora.restoring import restore_dump
from dataplane.retrieval.found import Found
from dataplane.retrieval.modes import ANY, Mode
from dataplane.stores.corpora import PostgresCorpusStore
from tests.corpora.changes import accept, delete, index, searchable, upsert, vector_of
from tests.corpora.kept_corpora import make_corpus
from tests.corpora.kept_dumps import AlteredVault, chunk_rows, directory_vault
from tests.corpora_documents import SLUG
from tests.factories import NOW, make_deployment
from tests.qdrant_local import LocalQdrant

pytestmark = pytest.mark.django_db(transaction=True)

KEYS = [f"page/{number}" for number in range(8)]
QUERIES = 1_000
ASKERS = 3


@pytest.fixture
def qdrant(monkeypatch: pytest.MonkeyPatch) -> LocalQdrant:
    """The store that is set up under the name that policies have for it."""
    local = LocalQdrant()
    monkeypatch.setattr(vectors, "_stores", {"qdrant": local.vectors})
    return local


@pytest.fixture
def corpus(qdrant: LocalQdrant) -> Corpus:
    """Of eight documents."""
    make_deployment()
    corpus = make_corpus(store="qdrant")
    accept(corpus, *(upsert(key, 1, f"Words of {key}") for key in KEYS))
    return corpus


def namespace_in(store: str, corpus: Corpus, *, is_filled: bool = True) -> Namespace:
    """A ready namespace whose vectors are there, with every document in it."""
    with transaction.atomic():
        made = create_namespace(corpus, replace(promised(corpus.slug), store=store), now=NOW, fill=is_filled)
    mark_ready(made, now=NOW)
    index(made)
    return made


def serve_from(namespace: Namespace) -> None:
    switch(corpus=namespace.corpus, namespace=namespace, reason="r", actor="tests", now=NOW)


def search(qdrant: LocalQdrant, url: str, *, mode: Mode = ANY, words: str = "Words of page/3") -> Found:
    """What a gateway that has just started finds for these words."""

    async def ask() -> Found:
        store = PostgresCorpusStore(url, beside={"qdrant": qdrant.nearest_ids()}, timeout_seconds=60)
        await store.start()
        try:
            return await ask_of(store, mode=mode, words=words)
        finally:
            await store.close()

    return asyncio.run(ask())


async def ask_of(store: PostgresCorpusStore, *, mode: Mode = ANY, words: str = "Words of page/3") -> Found:
    model = "text-embedding-3-small"
    return await store.search(SLUG, model, vector_of(words), k=len(KEYS), mode=mode, filters={}, now=NOW)


def keys(found: Found) -> set[str]:
    return {chunk.source_key for chunk in found.chunks}


def test_dump_goes_from_store_to_store_and_loses_no_bit(qdrant: LocalQdrant, corpus: Corpus, tmp_path: Path) -> None:
    """From pgvector to Qdrant, from there to another namespace of it, and back: the same rows, the same vectors."""
    kept = directory_vault(tmp_path / "dumps")
    beside = namespace_in("pgvector", corpus)
    there = [namespace_in("qdrant", corpus, is_filled=False) for _ in range(2)]
    back = namespace_in("pgvector", corpus, is_filled=False)
    path = [beside, *there, back]

    for origin, target in pairwise(path):
        dump = make_dump(namespace=origin, actor="tests", now=NOW, kept=kept)
        restore_dump(dump, namespace=target, now=NOW, kept=kept)

    assert chunk_rows(back) == chunk_rows(beside)
    assert {row[-1] for one in there for row in chunk_rows(one)} == {None}
    for one in there:
        found = qdrant.vectors().fetch(one, [row[0] for row in chunk_rows(one)])
        assert {pk: vector.astype(">f4").tobytes().hex() for pk, vector in found.items()} == {
            row[0]: row[-1].removeprefix("00080000") for row in chunk_rows(beside)
        }


def test_dump_needs_no_qdrant_and_one_flipped_byte_of_a_vector_is_refused(
    qdrant: LocalQdrant, corpus: Corpus, tmp_path: Path
) -> None:
    """It comes back where the collection that it was made of is lost, and whoever restores is told chunk by chunk, of
    rows and of vectors. With a byte of one vector changed nothing is put there, and what a namespace held stays.
    """
    kept, store = directory_vault(tmp_path / "dumps"), qdrant.vectors()
    origin = namespace_in("qdrant", corpus)
    dump = make_dump(namespace=origin, actor="tests", now=NOW, kept=kept)
    before = store.fetch(origin, [row[0] for row in chunk_rows(origin)])
    store.drop(origin)
    back, empty = (namespace_in("qdrant", corpus, is_filled=False) for _ in range(2))
    told: list[tuple[int, int]] = []

    restore_dump(dump, namespace=back, now=NOW, kept=kept, progress=lambda done, of: told.append((done, of)))

    def held() -> tuple[object, dict[int, bytes]]:
        found = store.fetch(back, list(before))
        return chunk_rows(back), {pk: vector.tobytes() for pk, vector in found.items()}

    vector = vector_of("Words of page/3").astype(">f4").tobytes()
    altered = AlteredVault(kept, lambda name, data: data.replace(vector, vector[:-1] + bytes([vector[-1] ^ 1])))
    restored = held()
    for namespace in (back, empty):
        with pytest.raises(DumpRefused, match="is not restored: chunks-000000: "):
            restore_dump(dump, namespace=namespace, now=NOW, kept=altered)
    assert restored[1] == {pk: one.tobytes() for pk, one in before.items()}
    assert len(restored[1]) == len(KEYS)
    assert told == [(len(KEYS) // 2, len(KEYS)), (len(KEYS), len(KEYS))]
    assert held() == restored
    assert (chunk_rows(empty), list(store.ids(empty, after=0, limit=9))) == ([], [])


def test_restore_leaves_what_it_does_not_replace_and_that_is_let_go_of(
    qdrant: LocalQdrant, corpus: Corpus, keys_url: str, tmp_path: Path
) -> None:
    """A namespace is restored over what it held: it is searched as it was dumped, and the rest goes by and by."""
    kept = directory_vault(tmp_path / "dumps")
    namespace = namespace_in("qdrant", corpus)
    dump = make_dump(namespace=namespace, actor="tests", now=NOW, kept=kept)
    first = {row[0] for row in chunk_rows(namespace)}
    accept(corpus, *(upsert(key, 2, f"Other words of {key}") for key in KEYS))
    index(namespace)

    restore_dump(dump, namespace=namespace, now=NOW, kept=kept)
    serve_from(namespace)
    found = search(qdrant, keys_url)
    index(namespace, now=NOW + 2 * ON_THE_WAY)  # what has changed since is pending for it
    gone = collect_leftovers(now=NOW + 4 * ON_THE_WAY)

    assert {chunk.id for chunk in found.chunks} == first
    assert gone == len(KEYS)
    assert set(searchable(namespace)) == set(KEYS)
    assert search(qdrant, keys_url).chunks[0].source_rev == 2


def test_acknowledged_delete_is_not_retrieved_while_its_vectors_are_there(
    qdrant: LocalQdrant, corpus: Corpus, keys_url: str
) -> None:
    """Qdrant was away; neither the newest state has it, nor a snapshot from before, nor a replay brings it back."""
    namespace = namespace_in("qdrant", corpus)
    serve_from(namespace)
    before = search(qdrant, keys_url)
    qdrant.is_away = True
    accept(corpus, delete("page/3", 2))
    accept(corpus, upsert("page/3", 1, "Words of page/3"))
    qdrant.is_away = False

    found = search(qdrant, keys_url)
    snapshot = search(qdrant, keys_url, mode=Mode(snapshot=before.standing.snapshot))

    [deleted] = {chunk.id for chunk in before.chunks if chunk.source_key == "page/3"}
    assert qdrant.vectors().fetch(namespace, [deleted])
    assert keys(before) == set(KEYS)
    assert keys(found) == keys(snapshot) == set(KEYS) - {"page/3"}


def test_warm_second_in_qdrant_takes_over_and_gives_back_under_queries(
    qdrant: LocalQdrant, corpus: Corpus, keys_url: str
) -> None:
    """Both are fed; of a thousand queries none fails, misses a document, or sees two namespaces or revisions."""
    both = [namespace_in("pgvector", corpus), namespace_in("qdrant", corpus)]
    serve_from(both[0])

    with ThreadPoolExecutor(max_workers=1) as other:
        asked = other.submit(lambda: asyncio.run(ask_often(qdrant, keys_url)))
        switches = 0
        turns: Iterator[Namespace] = cycle([both[1], both[0]])
        for rev in count(2):
            serve_from(next(turns))
            switches += 1
            key = KEYS[rev % len(KEYS)]
            accept(corpus, upsert(key, rev, f"Words of {key} in revision {rev}"))
            for namespace in both:
                index(namespace)
            if asked.done():
                break
        found = asked.result()

    assert len(found) >= QUERIES
    assert switches >= 2
    owners = {pk: namespace.pk for namespace in both for pk in all_ids(namespace)}
    for one in found:
        assert keys(one) == set(KEYS)
        assert len(one.chunks) == len(KEYS)
        assert {owners[chunk.id] for chunk in one.chunks} == {one.standing.snapshot.namespace}
    assert {one.standing.snapshot.namespace for one in found} == {namespace.pk for namespace in both}
    assert searchable(both[0]) == searchable(both[1])
    assert not Pending.objects.exists()


async def ask_often(qdrant: LocalQdrant, url: str) -> list[Found]:
    """A thousand answers to several who ask one question after the other."""
    store = PostgresCorpusStore(url, beside={"qdrant": qdrant.nearest_ids()}, timeout_seconds=60)
    await store.start()
    found: list[Found] = []

    async def ask() -> None:
        while len(found) < QUERIES:
            found.append(await ask_of(store))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(ASKERS):
                group.create_task(ask())
    finally:
        await store.close()
    return found


def all_ids(namespace: Namespace) -> list[int]:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT id FROM {namespace.table}")  # noqa: S608 - a name of ours
        return [pk for (pk,) in cursor.fetchall()]
