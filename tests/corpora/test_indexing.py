"""Indexing: what was accepted becomes searchable, each document whole, and what cannot stands in nobody's way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta

import pytest
from django.db import connection, transaction

from controlplane.corpora import indexing
from controlplane.corpora.embedding import MAX_TEXTS
from controlplane.corpora.errors import NotEmbedded
from controlplane.corpora.indexing import (
    INDEX_AGAIN,
    LEASE,
    MAX_DOCUMENTS,
    MAX_OCTETS,
    Indexed,
    index_again,
    index_pending,
)
from controlplane.corpora.models import Namespace, Pending
from controlplane.corpora.namespaces import drop_namespace
from controlplane.deadletters.models import DeadLetter
from controlplane.work.handlers import find
from dataplane.retrieval.hashes import CHUNK_DIGEST_SQL
from tests.corpora.changes import HashEmbedder, accept, delete, index, searchable, upsert
from tests.corpora.kept_corpora import make_corpus, make_namespace
from tests.factories import NOW

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]

LATER = NOW + timedelta(hours=1)
TWO_PARAGRAPHS = "a" * 150 + "\n\n" + "b" * 150


@pytest.fixture
def namespace() -> Namespace:
    return make_namespace(make_corpus())


def rows(namespace: Namespace, what: str, where: str = "true") -> list[tuple[object, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {what} FROM {namespace.table} c WHERE {where} ORDER BY id")  # noqa: S608 - names of ours
        return list(cursor.fetchall())


def test_accepted_documents_become_searchable_at_one_revision(namespace: Namespace) -> None:
    """Cut by the namespace's rule, with the model, the event and a digest that the database computes the same."""
    accept(namespace.corpus, upsert("a", 3, TWO_PARAGRAPHS, title="A"), upsert("b", 1, "short"), upsert("c", 1, " \n"))

    done = index(namespace)

    assert done == Indexed(documents=3, chunks=3, tokens=3, cost_micros=3, taken=3)
    assert searchable(namespace) == {"a": (3, "a" * 150 + "\n" + "b" * 150), "b": (1, "short")}
    assert set(rows(namespace, "born, model")) == {(1, namespace.model)}
    assert len(rows(namespace, "id", f"chunk_sha256 = {CHUNK_DIGEST_SQL}")) == 3
    assert not Pending.objects.exists()


def test_new_revision_replaces_all_chunks_of_the_old_at_once(namespace: Namespace) -> None:
    """What was there ends at the revision at which the new begins, and stays for snapshots."""
    accept(namespace.corpus, upsert("a", 1, TWO_PARAGRAPHS))
    index(namespace)
    accept(namespace.corpus, upsert("a", 2, "new"))
    index(namespace)

    assert rows(namespace, "source_rev, born, died") == [(1, 1, 2), (1, 1, 2), (2, 2, None)]


def test_unchanged_words_of_a_document_keep_their_vectors(namespace: Namespace) -> None:
    """Whoever edits one paragraph pays for one."""
    accept(namespace.corpus, upsert("a", 1, TWO_PARAGRAPHS))
    index(namespace)
    embedder = HashEmbedder()

    accept(namespace.corpus, upsert("a", 2, TWO_PARAGRAPHS.replace("b", "c")))
    done = index(namespace, embedder)

    assert (embedder.texts, done.tokens) == (["c" * 150], 1)
    first, _, same, _ = rows(namespace, "text, embedding::text")
    assert first == same


def test_vector_that_is_not_what_its_digest_says_is_embedded_again(namespace: Namespace) -> None:
    """So that repairing a document mends it."""
    accept(namespace.corpus, upsert("a", 1, "words"))
    index(namespace)
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {namespace.table} SET embedding = '[1,0,0,0,0,0,0,0]'")  # noqa: S608 - a name of ours
    embedder = HashEmbedder()

    accept(namespace.corpus, upsert("a", 2, "words"))
    index(namespace, embedder)

    assert embedder.texts == ["words"]


def test_texts_of_several_documents_are_embedded_together(namespace: Namespace) -> None:
    """Up to so many in one request, and the same words once."""
    many = [upsert(f"k{at}", 1, f"words {at}") for at in range(MAX_TEXTS - 4)]
    accept(namespace.corpus, *many, upsert("same", 1, "words 1"))
    accept(namespace.corpus, upsert("long", 1, "\n\n".join(f"{at:03}" * 60 for at in range(10))))
    embedder = HashEmbedder()

    index(namespace, embedder)

    assert [len(texts) for texts in embedder.asked] == [MAX_TEXTS, 6]


def test_batch_is_larger_while_a_namespace_is_built_than_when_it_serves(namespace: Namespace) -> None:
    """Nobody waits for the first of what is being built; of what serves, changes are found batch by batch."""
    accept(namespace.corpus, *(upsert(f"k{at}", 1, "words") for at in range(MAX_DOCUMENTS + 1)))
    built = make_namespace(namespace.corpus, is_ready=False)

    serving = index_pending(namespace=namespace, embedder=HashEmbedder(), owner="t", now=NOW)
    building = index_pending(namespace=built, embedder=HashEmbedder(), owner="t", now=NOW)

    assert (serving.taken, building.taken) == (MAX_DOCUMENTS, MAX_DOCUMENTS + 1)


def test_batch_that_has_much_text_takes_no_further_document(namespace: Namespace) -> None:
    """One that is longer than that is taken all the same, alone."""
    accept(namespace.corpus, upsert("a", 1, "\n" * MAX_OCTETS), upsert("b", 1, "\n" * MAX_OCTETS), upsert("c", 1, "c"))

    taken = [index_pending(namespace=namespace, embedder=HashEmbedder(), owner="t", now=NOW).taken for _ in range(4)]

    assert taken == [1, 1, 1, 0]


def test_change_that_comes_while_its_document_is_embedded_is_not_lost(namespace: Namespace) -> None:
    """What was embedded is of no use by then; the newer revision is taken next."""
    accept(namespace.corpus, upsert("a", 1, "old"), upsert("b", 1, "fine"))

    def overtake(texts: Sequence[str]) -> None:
        if "old" in texts:
            accept(namespace.corpus, upsert("a", 2, "new"))

    one = index_pending(namespace=namespace, embedder=HashEmbedder(before=overtake), owner="t", now=NOW)

    assert (one.taken, one.documents) == (2, 1)
    assert searchable(namespace) == {"b": (1, "fine")}
    index(namespace)
    assert searchable(namespace)["a"] == (2, "new")


def test_delete_that_comes_while_its_document_is_embedded_wins(namespace: Namespace) -> None:
    """Nothing of it becomes searchable, at any time."""
    accept(namespace.corpus, upsert("a", 1, "old"))

    done = index(namespace, HashEmbedder(before=lambda texts: accept(namespace.corpus, delete("a", 1)) and None))

    assert done.documents == 0
    assert not rows(namespace, "id")


def test_document_that_another_process_has_is_left_to_it(namespace: Namespace) -> None:
    """Until its lease runs out: then it is held dead."""
    accept(namespace.corpus, upsert("a", 1))
    Pending.objects.update(owner="other", leased_until=NOW + LEASE)

    assert index(namespace).taken == 0
    assert index(namespace, now=NOW + LEASE).documents == 1


def test_whoever_comes_too_late_changes_nothing(namespace: Namespace) -> None:
    """Two processes have embedded the same document: one of them made it searchable."""
    accept(namespace.corpus, upsert("a", 1))

    late = index(namespace, HashEmbedder(before=lambda texts: _index_as_other(namespace)))

    assert late.documents == 0
    assert len(rows(namespace, "id")) == 1


def _index_as_other(namespace: Namespace) -> None:
    Pending.objects.update(owner="", leased_until=None)
    index(namespace, owner="other")


def test_gateway_that_is_away_is_no_documents_fault(namespace: Namespace) -> None:
    """Nothing is counted, and whoever comes next may take it at once."""
    accept(namespace.corpus, upsert("a", 1))

    with pytest.raises(NotEmbedded):
        index(namespace, HashEmbedder(away=True))

    assert list(Pending.objects.values_list("failures", "owner", "leased_until")) == [(0, "", None)]
    assert index(namespace).documents == 1


def test_refusal_of_everything_is_no_documents_fault(namespace: Namespace) -> None:
    """A route that would refuse anybody's words says nothing of a document."""
    accept(namespace.corpus, upsert("a", 1))

    with pytest.raises(NotEmbedded):
        index(namespace, HashEmbedder(refused=("",)))

    assert Pending.objects.get().failures == 0


def test_document_that_nothing_can_index_is_buried_alone(namespace: Namespace) -> None:
    """After three tries it is a dead letter; the others of its batch were searchable after the first."""
    accept(namespace.corpus, upsert("bad", 1, "a bomb"), upsert("good", 1))
    embedder, done = HashEmbedder(refused=("bomb",)), []

    for hours in range(4):
        done.append(index(namespace, embedder, now=NOW + timedelta(hours=hours)))

    assert [(one.documents, one.poisoned) for one in done] == [(1, 0), (0, 0), (0, 1), (0, 0)]
    assert Pending.objects.get().is_poisoned
    letter = DeadLetter.objects.get()
    assert (letter.kind, letter.name, letter.code, letter.attempts) == ("index", INDEX_AGAIN, "content_filter", 3)
    assert json.loads(bytes(letter.payload_body)) == {
        "corpus": namespace.corpus.slug,
        "namespace": namespace.pk,
        "source_key": "bad",
    }


def test_redriven_document_is_tried_afresh(namespace: Namespace) -> None:
    """As the work of its letter; one that is not poisoned any more is left alone."""
    accept(namespace.corpus, upsert("bad", 1, "a bomb"))
    Pending.objects.update(is_poisoned=True, failures=3)
    work = find(INDEX_AGAIN)

    work.run({"corpus": namespace.corpus.slug, "namespace": namespace.pk, "source_key": "bad"}, None)  # type: ignore[arg-type]  # it does not look

    assert work.work == "index"
    assert (Pending.objects.get().is_poisoned, Pending.objects.get().failures) == (False, 0)
    assert not index_again(namespace.pk, "bad", now=NOW)


def test_document_that_cannot_be_cut_is_its_own_fault(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong there goes wrong the next time too."""
    accept(namespace.corpus, upsert("bad", 1, "bad"), upsert("good", 1, "good"))
    plain = indexing.cut_head

    def cut(namespace: Namespace, head: indexing.Head) -> list[str]:
        if head.source_key == "bad":
            raise RecursionError("too deep")
        return plain(namespace, head)

    monkeypatch.setattr(indexing, "cut_head", cut)

    assert index(namespace).documents == 1
    assert Pending.objects.get().failures == 1


def test_dropped_namespace_is_left_alone(namespace: Namespace) -> None:
    """Also when it is dropped while its documents are embedded."""
    accept(namespace.corpus, upsert("a", 1))

    def drop(texts: Sequence[str]) -> None:
        with transaction.atomic():
            drop_namespace(Namespace.objects.get(pk=namespace.pk), now=NOW)

    assert index(namespace, HashEmbedder(before=drop)).documents == 0
    assert index(namespace).taken == 0
