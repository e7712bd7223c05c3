"""A namespace compared with its documents: every kind of difference is named, and put right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from django.db import connection

from controlplane.audit.models import AuditEvent
from controlplane.corpora import reconciling, vectors
from controlplane.corpora.errors import NamespaceNotReady
from controlplane.corpora.models import Namespace, Pending, Reconciliation
from controlplane.corpora.namespaces import drop_namespace
from controlplane.corpora.reconciling import reconcile_store, sample_ghosts
from dataplane.retrieval.acceptance import upper_bound
from tests.corpora.changes import accept, index, searchable, upsert
from tests.corpora.kept_corpora import crew, make_corpus, make_namespace
from tests.factories import NOW

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]

LONG = "\n\n".join(f"Paragraph {number} of many words about returns, refunds and replacements." for number in range(9))


def run(statement: str, *parameters: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)


@pytest.fixture
def namespace() -> Namespace:
    """Of five documents, all of them searchable as they are; the third is long and the fifth empty."""
    corpus = make_corpus()
    made = make_namespace(corpus)
    contents = {"1": "One", "2": "Two", "3": LONG, "4": "Four\r\n", "5": "\x1c "}
    accept(corpus, *(upsert(key, 7, content) for key, content in contents.items()))
    index(made)
    return made


def reconcile(namespace: Namespace, *, repair: bool = False) -> Reconciliation:
    return reconcile_store(
        corpus=namespace.corpus, namespace=namespace, actor=crew.oncall, now=NOW, repair=repair, clock=lambda: 0.0
    )


def named(row: Reconciliation) -> list[tuple[str, str]]:
    return [(one["kind"], one["source_key"]) for one in row.findings]


def chunks(namespace: Namespace, key: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {namespace.table} WHERE source_key = %s", [key])  # noqa: S608 - a name of ours
        return int(cursor.fetchone()[0])


def pending(namespace: Namespace) -> set[str]:
    return set(Pending.objects.filter(namespace=namespace).values_list("document__source_key", flat=True))


def test_namespace_that_shows_every_document_is_clean(namespace):
    """All of it was compared by buckets; an empty document has nothing to show."""
    row = reconcile(namespace)

    assert row.is_clean
    assert (row.scope, row.buckets, row.findings) == ("store", 256, [])
    assert row.compared == 5  # the database cannot tell that nothing is left of a separator


PLANTED = {
    "lost": ("DELETE FROM {table} WHERE source_key = '1'", ("missing", "1")),
    "lost in part": ("DELETE FROM {table} WHERE source_key = '3' AND ordinal = 1", ("missing", "3")),
    "lost its end": (
        "DELETE FROM {table} c WHERE source_key = '3' AND ordinal = (SELECT max(ordinal) FROM {table})",
        ("missing", "3"),
    ),
    "died": ("UPDATE {table} SET died = 2 WHERE source_key = '1'", ("missing", "1")),
    "deleted": (
        "UPDATE corpora_document SET is_deleted = true, content = '' WHERE source_key = '2'",
        ("extra", "2"),
    ),
    "deleted, and in a snapshot": (
        "UPDATE corpora_document SET is_deleted = true, content = '' WHERE source_key = '2';"
        "UPDATE {table} SET died = 2 WHERE source_key = '2'",
        ("extra", "2"),
    ),
    "unknown": ("UPDATE {table} SET document_id = 0 WHERE source_key = '2'", ("extra", "2")),
    "old": ("UPDATE {table} SET source_rev = 6 WHERE source_key = '4'", ("stale", "4")),
    "newer than its document": ("UPDATE {table} SET source_rev = 8 WHERE source_key = '4'", ("stale", "4")),
    "of two revisions": (
        "UPDATE {table} SET source_rev = 6 WHERE source_key = '3' AND ordinal = 0",
        ("stale", "3"),
    ),
    "of another model": ("UPDATE {table} SET model = 'other' WHERE source_key = '1'", ("wrong_model", "1")),
    "other words": ("UPDATE {table} SET text = 'Ones' WHERE source_key = '1'", ("corrupt", "1")),
    "other vector": (
        "UPDATE {table} SET embedding = '[2,2,2,2,2,2,2,2]' WHERE source_key = '1'",
        ("corrupt", "1"),
    ),
}


@pytest.mark.parametrize(("statement", "found"), PLANTED.values(), ids=PLANTED.keys())
def test_every_kind_of_difference_is_named_by_bucket_and_row(namespace, statement, found):
    """And nothing else is."""
    run(statement.format(table=namespace.table))

    row = reconcile(namespace)

    assert found in named(row)
    assert {key for _, key in named(row)} == {found[1]}
    assert row.counts[found[0]] == 1
    assert 1 <= row.buckets_differing <= 3
    assert row.repaired == 0


@pytest.mark.parametrize(("statement", "found"), PLANTED.values(), ids=PLANTED.keys())
def test_what_was_repaired_and_indexed_again_is_clean(namespace, statement, found):
    """Ghosts go, what is wrong is taken out, the rest is pending until it is indexed; the record tells of it."""
    run(statement.format(table=namespace.table))

    repaired = reconcile(namespace, repair=True)
    waiting = pending(namespace)
    between = reconcile(namespace)
    index(namespace)
    after = reconcile(namespace)

    assert repaired.repaired == sum(repaired.counts.values()) > 0
    assert between.is_clean
    assert after.is_clean
    if found[0] in {"extra", "wrong_model", "corrupt"}:
        assert chunks(namespace, found[1]) == (1 if found[1] in waiting else 0)
    assert found[1] not in waiting or searchable(namespace)[found[1]][0] == 7
    assert AuditEvent.objects.filter(action="corpus.repaired").count() == 1


def test_what_is_pending_is_on_its_way_and_no_difference(namespace):
    """A change that was taken in and not indexed yet, and one that was never indexed."""
    accept(namespace.corpus, upsert("1", 8), upsert("9", 1))

    assert reconcile(namespace).is_clean


def test_namespace_whose_chunks_are_all_gone_counts_every_document_and_names_some(namespace, monkeypatch):
    """The record of one comparison stays small."""
    monkeypatch.setattr("controlplane.corpora.findings.NAMED", 2)
    run(f"TRUNCATE {namespace.table}")

    row = reconcile(namespace, repair=True)

    assert row.counts["missing"] == 4
    assert len(row.findings) == 2
    assert pending(namespace) == {"1", "2", "3", "4"}


def test_dropped_namespace_is_not_compared(namespace):
    """There is nothing left of it."""
    drop_namespace(namespace, now=NOW)

    with pytest.raises(NamespaceNotReady, match="was dropped"):
        reconcile(namespace)


class Elsewhere:
    """A store that keeps vectors in a dictionary, and forgets or bends some."""

    def __init__(self) -> None:
        self.vectors: dict[int, np.ndarray] = {}
        self.removed: list[int] = []

    def create(self, namespace: Namespace) -> None:
        """There is always room."""

    def drop(self, namespace: Namespace) -> None:
        self.vectors.clear()

    def put(self, namespace: Namespace, vectors: dict[int, np.ndarray]) -> None:
        self.vectors.update(vectors)

    def remove(self, namespace: Namespace, ids: Sequence[int]) -> None:
        self.removed += ids

    def fetch(self, namespace: Namespace, ids: Sequence[int]) -> dict[int, np.ndarray]:
        return {pk: self.vectors[pk] for pk in ids if pk in self.vectors}

    def ids(self, namespace: Namespace, *, after: int, limit: int) -> list[int]:
        return sorted(pk for pk in self.vectors if pk > after)[:limit]


def test_vectors_that_are_kept_elsewhere_are_fetched_and_compared(monkeypatch, django_capture_on_commit_callbacks):
    """One that is gone and one that is not what was put there; repaired, they are let go of once that is committed."""
    store = Elsewhere()
    monkeypatch.setitem(vectors._stores, "qdrant", lambda: store)
    monkeypatch.setattr(reconciling, "CHUNKS_AT_ONCE", 2)
    corpus = make_corpus(store="qdrant")
    namespace = make_namespace(corpus)
    accept(corpus, *(upsert(key, 7, f"Words of {key}") for key in "abcde"))
    index(namespace)
    before = reconcile(namespace)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT id FROM {namespace.table} ORDER BY source_key")  # noqa: S608 - a name of ours
        (first,), _, (third,), *_ = cursor.fetchall()
    del store.vectors[first]
    store.vectors[third] = store.vectors[third] * 2

    with django_capture_on_commit_callbacks(execute=True):
        row = reconcile(namespace, repair=True)

    assert before.is_clean
    assert named(row) == [("corrupt", "a"), ("corrupt", "c")]
    assert sorted(store.removed) == sorted([first, third])
    assert pending(namespace) == {"a", "c"}


def test_comparison_that_failed_says_why_and_is_not_clean(monkeypatch):
    """Where its vectors are nobody answers, say."""
    store = Elsewhere()
    monkeypatch.setitem(vectors._stores, "qdrant", lambda: store)
    corpus = make_corpus(store="qdrant")
    namespace = make_namespace(corpus)
    accept(corpus, upsert("a", 7))
    index(namespace)
    monkeypatch.setattr(store, "fetch", lambda *_: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        reconcile(namespace)

    row = Reconciliation.objects.get()
    assert (row.error, row.ended_at, row.compared) == ("division by zero", NOW, 1)
    assert not row.is_clean


def test_sample_counts_ghosts_and_says_what_it_cannot_rule_out(namespace):
    """A quarter of what can be found is of a document that was deleted."""
    run("UPDATE corpora_document SET is_deleted = true WHERE source_key = '2'")
    alive = sum(chunks(namespace, key) for key in "1234")

    ghosts = sample_ghosts(namespace, 1_000)

    assert (ghosts.sampled, ghosts.ghosts) == (alive, 1)
    assert ghosts.rate == 1 / alive
    assert ghosts.rate < ghosts.most < 1


def test_299_without_a_ghost_leave_less_than_one_percent():
    """With 95 % confidence; without a sample nothing is ruled out."""
    assert 0.0099 < upper_bound(0, 299) < 0.01
    assert upper_bound(0, 298) > 0.01
    assert upper_bound(3, 100) == pytest.approx(0.0758, abs=1e-4)
    assert upper_bound(0, 0) == 1.0
    assert upper_bound(5, 5) == 1.0
