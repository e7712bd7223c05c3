"""Vectors in a Qdrant beside PostgreSQL: kept to the bit, never taken for more than they are, and gone in the end."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from django.db import connection
from qdrant_client import QdrantClient, models

from controlplane.corpora import operations, vectors
from controlplane.corpora.checks import policy_problems
from controlplane.corpora.errors import VectorsNowhere, VectorsUnavailable
from controlplane.corpora.leftovers import ON_THE_WAY, collect_leftovers
from controlplane.corpora.models import Corpus, Namespace, NamespaceState, Pending
from controlplane.corpora.namespaces import drop_namespace
from controlplane.corpora.qdrant import MOST_AT_ONCE, QdrantVectors
from controlplane.corpora.reconciling import reconcile_store
from dataplane.retrieval.tables import vectors_collection
from tests.corpora.changes import HashEmbedder, accept, delete, index, searchable, upsert, vector_of
from tests.corpora.kept_corpora import crew, make_corpus, make_namespace, policy_document
from tests.factories import NOW
from tests.qdrant_local import PREFIX, LocalQdrant

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]

LATER = NOW + ON_THE_WAY + timedelta(seconds=1)
WIDE = Namespace(pk=7, dimensions=384)


@pytest.fixture
def qdrant(monkeypatch: pytest.MonkeyPatch) -> LocalQdrant:
    """The store that is set up under the name that policies have for it."""
    local = LocalQdrant()
    monkeypatch.setattr(vectors, "_stores", {"qdrant": local.vectors})
    return local


@pytest.fixture
def corpus(qdrant: LocalQdrant) -> Corpus:
    return make_corpus(store="qdrant")


@pytest.fixture
def namespace(corpus: Corpus) -> Namespace:
    """Of three documents, all of them searchable."""
    made = make_namespace(corpus)
    accept(corpus, *(upsert(key, 1, f"Words of {key}") for key in "abc"))
    index(made)
    return made


def chunk_ids(namespace: Namespace, where: str = "true") -> list[int]:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT id FROM {namespace.table} WHERE {where} ORDER BY id")  # noqa: S608 - names of ours
        return [pk for (pk,) in cursor.fetchall()]


def kept_ids(namespace: Namespace) -> list[int]:
    """Of which chunks there are vectors."""
    store = vectors.external("qdrant")
    assert store is not None
    return list(store.ids(namespace, after=0, limit=1_000))


def unit_rows(count: int, dimensions: int) -> np.ndarray:
    rows = np.random.default_rng(11).normal(size=(count, dimensions)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


# --- the store -------------------------------------------------------------------------------------------------------
def test_vectors_come_back_to_the_bit() -> None:
    """More of them than go into one request; also the smallest numbers, and what is no exact decimal."""
    store = LocalQdrant().vectors()
    rows = unit_rows(MOST_AT_ONCE + 90, WIDE.dimensions)
    rows[0, :3] = [np.float32(1e-42), np.float32(0.1), np.float32(-0.0)]
    put = dict(enumerate(rows, start=1))
    store.create(WIDE)

    store.put(WIDE, put)
    found = store.fetch(WIDE, [*put, 10**6])

    assert set(found) == set(put)
    assert all(found[one].dtype == np.float32 and found[one].tobytes() == put[one].tobytes() for one in put)


def test_ids_are_told_in_their_order_and_what_is_removed_is_gone() -> None:
    """Put, removed and dropped twice is as once."""
    store = LocalQdrant().vectors()
    rows = unit_rows(6, WIDE.dimensions)
    store.create(WIDE)
    for _ in range(2):
        store.put(WIDE, {9 - number: row for number, row in enumerate(rows)})
    for _ in range(2):
        store.remove(WIDE, [5, 77])

    pages = [list(store.ids(WIDE, after=after, limit=3)) for after in (0, 7, 9)]
    for _ in range(2):
        store.drop(WIDE)

    assert pages == [[4, 6, 7], [8, 9], []]
    assert store.namespaces() == []
    store.remove(WIDE, [6])


def test_room_that_is_there_stays_unless_it_is_of_another_shape() -> None:
    """Such as that of a database whose namespaces were counted before this one's."""
    local = LocalQdrant()
    store = local.vectors()
    store.create(WIDE)
    store.put(WIDE, {1: unit_rows(1, WIDE.dimensions)[0]})
    store.create(WIDE)

    kept = list(store.ids(WIDE, after=0, limit=9))
    store.create(Namespace(pk=WIDE.pk, dimensions=8))
    shape = local.get_collection(vectors_collection(PREFIX, WIDE.pk)).config.params.vectors

    assert kept == [1]
    assert (shape.size, shape.distance) == (8, models.Distance.DOT)
    assert list(store.ids(Namespace(pk=WIDE.pk, dimensions=8), after=0, limit=9)) == []


def test_namespaces_of_other_deployments_are_nobodys_here() -> None:
    """They have another prefix, or names that are no namespace's."""
    local = LocalQdrant()
    store = local.vectors()
    for name in ("other_ns_3", f"{PREFIX}_ns_x", "notes"):
        local.create_collection(name, vectors_config=models.VectorParams(size=2, distance=models.Distance.DOT))
    store.create(WIDE)

    assert store.namespaces() == [WIDE.pk]


def test_collection_that_was_lost_is_not_made_anew_by_the_way() -> None:
    """The few vectors that came since would be taken for all."""
    store = LocalQdrant().vectors()
    row = unit_rows(1, WIDE.dimensions)[0]

    for act in (
        lambda: store.put(WIDE, {1: row}),
        lambda: store.fetch(WIDE, [1]),
        lambda: store.nearest(WIDE, [row], limit=1, is_exact=True),
        lambda: store.is_built(WIDE),
    ):
        with pytest.raises(VectorsUnavailable, match=r"'tests_ns_7': it was lost"):
            act()
    assert store.namespaces() == []


def test_server_that_nobody_reaches_is_unavailable() -> None:
    """Over HTTP, as in earnest; what it says is one line."""
    away = QdrantVectors(QdrantClient(url="http://127.0.0.1:1", check_compatibility=False), prefix=PREFIX)
    row = unit_rows(1, WIDE.dimensions)[0]

    for act in (
        lambda: away.create(WIDE),
        lambda: away.put(WIDE, {1: row}),
        lambda: away.fetch(WIDE, [1]),
        lambda: away.ids(WIDE, after=0, limit=1),
        lambda: away.nearest(WIDE, [row], limit=1, is_exact=False),
        lambda: away.is_built(WIDE),
        lambda: away.remove(WIDE, [1]),
        lambda: away.drop(WIDE),
        away.namespaces,
    ):
        with pytest.raises(VectorsUnavailable, match="cannot be asked"):
            act()


# --- what is not set up ----------------------------------------------------------------------------------------------
def test_store_that_is_not_set_up_is_said_before_anything_rests_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reviews the policy reads it; whoever rebuilds is refused, and nothing was made."""
    monkeypatch.setattr(vectors, "_stores", {})
    corpus = make_corpus(store="qdrant")

    problems = [problem for problem in policy_problems(policy_document(store="qdrant")) if "store" in problem.path]
    with pytest.raises(VectorsNowhere, match=r"no vector store 'qdrant' is set up here; see docs/corpora\.md"):
        operations.rebuild(corpus=corpus, reason="larger", actor=crew.oncall, now=NOW)

    assert [(problem.path, problem.is_error) for problem in problems] == [('$["help-centre"].store', False)]
    assert not Namespace.objects.exists()


def test_rebuild_is_refused_while_qdrant_is_away(qdrant: LocalQdrant, corpus: Corpus) -> None:
    """Nothing was made."""
    qdrant.is_away = True

    with pytest.raises(VectorsUnavailable, match="cannot be asked about 'tests_ns_"):
        operations.rebuild(corpus=corpus, reason="larger", actor=crew.oncall, now=NOW)

    assert not Namespace.objects.exists()


# --- indexing --------------------------------------------------------------------------------------------------------
def test_what_is_indexed_has_its_vectors_there_and_none_in_its_table(namespace: Namespace) -> None:
    """By the ids of chunks; a document that changes keeps the vectors of words that stayed."""
    store = vectors.external("qdrant")
    assert store is not None
    first = kept_ids(namespace)
    accept(namespace.corpus, upsert("a", 2, "Words of a"), upsert("b", 2, "Other words"))
    embedder = HashEmbedder()
    index(namespace, embedder)

    assert first == chunk_ids(namespace, "born = 1")
    assert kept_ids(namespace) == chunk_ids(namespace)
    assert chunk_ids(namespace, "embedding IS NOT NULL") == []
    assert embedder.texts == ["Other words"]
    [newest] = store.fetch(namespace, chunk_ids(namespace, "source_key = 'b' AND died IS NULL")).values()
    assert newest.tobytes() == vector_of("Other words").tobytes()


def test_while_qdrant_is_away_changes_wait(qdrant: LocalQdrant, namespace: Namespace) -> None:
    """It is no document's fault; afterwards they are searchable."""
    accept(namespace.corpus, upsert("a", 2, "New words"))
    qdrant.is_away = True
    with pytest.raises(VectorsUnavailable):
        index(namespace)
    [waiting] = Pending.objects.all()
    qdrant.is_away = False

    index(namespace)

    assert (waiting.failures, waiting.owner, waiting.is_poisoned) == (0, "", False)
    assert searchable(namespace)["a"] == (2, "New words")


def test_batch_that_is_not_shown_takes_its_vectors_back(namespace: Namespace) -> None:
    """The document was deleted while it was embedded."""
    accept(namespace.corpus, upsert("d", 1, "Words of d"))

    index(namespace, HashEmbedder(before=lambda texts: accept(namespace.corpus, delete("d", 2)) and None))

    assert "d" not in searchable(namespace)
    assert kept_ids(namespace) == chunk_ids(namespace)


# --- deletes and leftovers -------------------------------------------------------------------------------------------
def test_delete_takes_the_vectors_along(namespace: Namespace, django_capture_on_commit_callbacks) -> None:
    """Once it has committed."""
    with django_capture_on_commit_callbacks(execute=True):
        accept(namespace.corpus, delete("b", 2))

    assert kept_ids(namespace) == chunk_ids(namespace)
    assert len(kept_ids(namespace)) == 2


def test_vectors_that_stayed_are_found_and_let_go_of(
    qdrant: LocalQdrant, namespace: Namespace, django_capture_on_commit_callbacks
) -> None:
    """A comparison names them, and removes them when it repairs; so does whoever collects. Nothing else goes."""
    [lost] = chunk_ids(namespace, "source_key = 'b'")
    qdrant.is_away = True
    with django_capture_on_commit_callbacks(execute=True):
        accept(namespace.corpus, delete("b", 2))
    qdrant.is_away = False
    told = {"corpus": namespace.corpus, "namespace": namespace, "actor": crew.oncall, "clock": lambda: 0.0}

    soon = reconcile_store(**told, now=NOW, repair=True)
    later = reconcile_store(**told, now=LATER, repair=False)
    there = kept_ids(namespace)
    collected = collect_leftovers(now=LATER)
    after = reconcile_store(**told, now=LATER, repair=True)

    assert (soon.is_clean, later.counts["leftover"], later.repaired) == (True, 1, 0)
    assert later.findings == [{"kind": "leftover", "source_key": "", "detail": f"vector {lost} has no chunk"}]
    assert lost in there
    assert collected == 1
    assert kept_ids(namespace) == chunk_ids(namespace)
    assert after.is_clean


def test_vectors_on_their_way_are_no_leftovers(namespace: Namespace) -> None:
    """They are put before their chunks can be seen, and nobody knows which those are."""
    store = vectors.external("qdrant")
    assert store is not None
    ahead = chunk_ids(namespace)[-1] + 1
    store.put(namespace, {ahead: vector_of("on its way")})

    gone = collect_leftovers(now=LATER)

    assert gone == 0
    assert ahead in kept_ids(namespace)


def test_dropped_namespace_loses_its_vectors(
    qdrant: LocalQdrant, namespace: Namespace, django_capture_on_commit_callbacks
) -> None:
    """Should Qdrant be away just then, by and by."""
    other = make_namespace(namespace.corpus)
    with django_capture_on_commit_callbacks(execute=True):
        drop_namespace(other, now=NOW)
    before = qdrant.vectors().namespaces()
    qdrant.is_away = True
    with django_capture_on_commit_callbacks(execute=True):
        drop_namespace(namespace, now=NOW)
    qdrant.is_away = False

    gone = collect_leftovers(now=LATER)

    assert before == [namespace.pk]
    assert (gone, qdrant.vectors().namespaces()) == (1, [])
    assert namespace.state == NamespaceState.DROPPED


def test_vector_that_is_not_what_it_was_is_found_and_embedded_anew(
    qdrant: LocalQdrant, namespace: Namespace, django_capture_on_commit_callbacks
) -> None:
    """By the digest of its chunk; until then the document is out of the search."""
    store = vectors.external("qdrant")
    assert store is not None
    [damaged] = chunk_ids(namespace, "source_key = 'c'")
    store.put(namespace, {damaged: vector_of("other words")})

    with django_capture_on_commit_callbacks(execute=True):
        row = reconcile_store(
            corpus=namespace.corpus, namespace=namespace, actor=crew.oncall, now=NOW, repair=True, clock=lambda: 0.0
        )
    without = searchable(namespace)
    index(namespace)

    assert row.counts["corrupt"] == 1
    assert "c" not in without
    assert searchable(namespace)["c"] == (1, "Words of c")
    assert kept_ids(namespace) == chunk_ids(namespace)
