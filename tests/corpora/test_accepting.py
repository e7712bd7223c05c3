"""Taking changes in: the newest revision wins, whatever order they come in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from controlplane.corpora.accepting import MAX_CHANGES, Accepted, Change, Fate, accept_changes
from controlplane.corpora.errors import InvalidChanges, TooManyChanges
from controlplane.corpora.models import Corpus, Document, Pending, Purpose
from controlplane.corpora.namespaces import drop_namespace
from dataplane.retrieval.tables import read_token
from tests.corpora.changes import accept, delete, upsert
from tests.corpora.kept_corpora import make_corpus, make_namespace
from tests.factories import NOW

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]

LATER = NOW + timedelta(minutes=1)


def fates(corpus: Corpus, *changes: Change) -> list[str]:
    return [str(fate) for fate in accept(corpus, *changes).fates]


def head(key: str = "a") -> tuple[int, bool, str]:
    document = Document.objects.get(source_key=key)
    return document.source_rev, document.is_deleted, document.content


def test_newest_revision_wins_whatever_order_changes_come_in() -> None:
    """An older one is told that it is superseded, and changes nothing."""
    corpus = make_corpus()

    told = [fates(corpus, upsert("a", rev, f"r{rev}")) for rev in (2, 1, 3, 2)]

    assert told == [["accepted"], ["superseded"], ["accepted"], ["superseded"]]
    assert head() == (3, False, "r3")


def test_tombstone_wins_a_tie_and_outlives_a_replay() -> None:
    """What was deleted comes back by a newer revision, and by nothing else."""
    corpus = make_corpus()
    accept(corpus, upsert("a", 1))

    told = fates(corpus, delete("a", 1)), fates(corpus, upsert("a", 1)), fates(corpus, delete("a", 1))

    assert told == (["accepted"], ["superseded"], ["duplicate"])
    assert head() == (1, True, "")
    assert fates(corpus, upsert("a", 2, "again")) == ["accepted"]


def test_same_change_again_is_a_duplicate_and_another_of_its_revision_a_conflict() -> None:
    """Of two contents of one revision the first stays; the second is told so."""
    corpus = make_corpus()
    accept(corpus, upsert("a", 1, "one", title="t"))
    before = Document.objects.get().seq

    told = fates(corpus, upsert("a", 1, "one", title="t")), fates(corpus, upsert("a", 1, "one", title="u"))

    assert told == (["duplicate"], ["conflict"])
    assert Document.objects.get().seq == before


def test_changes_of_one_document_in_a_batch_are_applied_by_revision() -> None:
    """Each is told what it would have been told alone, in the order of revisions."""
    corpus = make_corpus()
    accept(corpus, upsert("a", 2, "two"))

    told = fates(
        corpus,
        upsert("a", 5, "five"),
        upsert("b", 1),
        upsert("a", 1),
        upsert("a", 3, "three"),
        upsert("a", 2, "two"),
        delete("a", 3),
        upsert("a", 5, "other"),
        upsert("a", 5, "five"),
    )

    assert told == ["accepted", "accepted", "superseded", "accepted", "duplicate", "accepted", "conflict", "duplicate"]
    assert head() == (5, False, "five")


def test_token_names_the_newest_change_of_the_documents_of_a_batch() -> None:
    """Also for what had been taken in before: whoever wrote it again may wait for it."""
    corpus = make_corpus()
    first = accept(corpus, upsert("a", 1), upsert("b", 1))
    again = accept(corpus, upsert("b", 1), upsert("a", 1))
    stale = accept(corpus, upsert("a", 0))

    assert first.token == again.token
    assert read_token(first.token or "") == max(Document.objects.values_list("seq", flat=True))
    assert read_token(stale.token or "") == Document.objects.get(source_key="a").seq
    assert accept(corpus) == Accepted((), None)


def test_accepted_change_waits_in_every_namespace_that_may_serve() -> None:
    """One row however often it changes, from its oldest change on; drills' and dropped namespaces are left out."""
    corpus = make_corpus()
    live, building = make_namespace(corpus), make_namespace(corpus, is_ready=False)
    make_namespace(corpus, purpose=Purpose.DRILL)
    drop_namespace(make_namespace(corpus), now=NOW)

    accept(corpus, upsert("a", 1))
    accept(corpus, upsert("a", 2, at=LATER), now=LATER)

    waiting = list(Pending.objects.order_by("namespace_id"))
    assert [row.namespace_id for row in waiting] == [live.pk, building.pk]
    assert {(row.since, row.due_at) for row in waiting} == {(NOW, LATER)}
    assert all(row.first_seq < row.last_seq == Document.objects.get().seq for row in waiting)


def test_new_revision_of_a_poisoned_document_is_tried_afresh() -> None:
    """It waits since the new one happened, and nobody counts the failures of the old."""
    corpus = make_corpus()
    make_namespace(corpus)
    accept(corpus, upsert("a", 1))
    Pending.objects.update(is_poisoned=True, failures=3, owner="x", leased_until=LATER)

    accept(corpus, upsert("a", 2, at=LATER), now=LATER)

    row = Pending.objects.get()
    assert (row.is_poisoned, row.failures, row.owner, row.leased_until) == (False, 0, "", None)
    assert row.since == LATER


def test_change_from_the_future_is_in_no_lag_before_it_happened() -> None:
    """A source whose clock runs ahead makes nothing younger than now."""
    corpus = make_corpus()
    make_namespace(corpus)

    accept(corpus, upsert("a", 1, at=LATER), now=NOW)

    assert Pending.objects.get().since == NOW


def test_acknowledged_delete_leaves_no_chunk_in_any_namespace() -> None:
    """Not in the serving one, not for snapshots, not in a drill's; and nothing waits for it any more."""
    corpus = make_corpus()
    namespaces = make_namespace(corpus), make_namespace(corpus, purpose=Purpose.DRILL)
    accept(corpus, upsert("a", 1), upsert("b", 1))
    for namespace in namespaces:
        for key, died in (("a", None), ("a", 1), ("b", None)):
            insert_chunk(namespace.table, Document.objects.get(source_key=key), ordinal=died or 0, died=died)

    accept(corpus, delete("a", 2))

    assert [keys_in(namespace.table) for namespace in namespaces] == [["b"], ["b"]]
    assert list(Pending.objects.values_list("document__source_key", flat=True)) == ["b"]


def test_replay_from_below_the_low_water_mark_is_superseded() -> None:
    """Where a source counts all its changes by one clock, what is older than the mark and unknown was deleted."""
    corpus = make_corpus(revisions="global")
    accept(corpus, upsert("known", 3))
    Corpus.objects.update(low_water=10)

    told = accept(corpus, upsert("unknown", 10), upsert("known", 9), upsert("new", 11))

    assert told.fates == (Fate.SUPERSEDED, Fate.ACCEPTED, Fate.ACCEPTED)
    assert accept(corpus, upsert("unknown", 10)) == Accepted((Fate.SUPERSEDED,), None)
    assert set(Document.objects.values_list("source_key", flat=True)) == {"known", "new"}


def test_statements_do_not_grow_with_a_batch() -> None:
    """A thousand changes take as many as three."""
    corpus = make_corpus()
    make_namespace(corpus)

    def statements(count: int, rev: int) -> int:
        changes = [upsert(f"k{at // 2}", rev + at % 2) for at in range(count)]
        with CaptureQueriesContext(
            connection,
        ) as asked:
            accept(corpus, *changes)
        return len(asked)

    assert statements(3, 1) == statements(MAX_CHANGES, 11)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (upsert("", 1), "changes[1].key: expected 1 to 500 characters, not 0"),
        (upsert("k" * 501, 1), "changes[1].key: expected 1 to 500 characters, not 501"),
        (upsert("a", -1), "changes[1].rev: expected a whole number"),
        (upsert("a", 2**63), "changes[1].rev: expected a whole number"),
        (upsert("a", 1, "a\x00b"), "changes[1].content: it holds the character U+0000"),
        (upsert("a", 1, "\ud800"), "changes[1].content: it holds half of a character"),
        (upsert("a", 1, title="a\x00b"), "changes[1].metadata: it holds the character U+0000"),
        (upsert("a", 1, title=float("nan")), "changes[1].metadata: it cannot be written as JSON"),
        (upsert("a", 1, title="x" * 40_000), "changes[1].metadata: 40012 bytes of JSON; at most 32768"),
        (Change("a", 1, True, "words", {}, NOW), "changes[1].content: a delete has no content"),
        (upsert("a", 1, at=datetime(2026, 1, 1)), "changes[1].event_time: expected a time with its zone"),  # noqa: DTZ001 - that is what is wrong
    ],
)
def test_batch_with_a_malformed_change_is_refused_whole(change: Change, told: str) -> None:
    """The refusal names which change, what of it, and why; nothing of the batch was taken in."""
    corpus = make_corpus()

    with pytest.raises(InvalidChanges) as refused:
        accept(corpus, upsert("fine", 1), change)

    assert str(refused.value).startswith(told)
    assert not Document.objects.exists()


def test_literal_words_of_an_escape_are_kept() -> None:
    """Only the character itself cannot be: a backslash and what follows it are words like others."""
    corpus = make_corpus()

    accept(corpus, upsert("a", 1, "\\u0000", title="\\u0000"))

    assert Document.objects.get().metadata == {"title": "\\u0000"}


def test_too_many_changes_at_once_are_refused() -> None:
    """Whoever has more sends batches."""
    with pytest.raises(TooManyChanges, match="at most 1000"):
        accept_changes(corpus=make_corpus(), changes=[upsert("a", 1)] * 1001, now=NOW.astimezone(UTC))


def insert_chunk(table: str, document: Document, *, ordinal: int, died: int | None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} VALUES (nextval('corpora_chunk_id'), %s, %s, %s, %s, 1, %s, %s, %s, 't', '{{}}', '',"  # noqa: S608 - a name of ours
            " 'm', %s)",
            [document.pk, document.source_key, 1, ordinal, died, NOW, NOW, str([0.5] * 8)],
        )


def keys_in(table: str) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT source_key FROM {table}")  # noqa: S608 - a name of ours
        return [key for (key,) in cursor.fetchall()]
