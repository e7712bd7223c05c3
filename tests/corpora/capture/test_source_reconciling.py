"""Documents compared with the table that they come from, while both go on changing."""

from __future__ import annotations

from datetime import timedelta
from itertools import count

import pytest

from controlplane.corpora.accepting import Change, accept_changes
from controlplane.corpora.capturing import capture_all
from controlplane.corpora.errors import UnknownCorpus
from controlplane.corpora.models import Corpus, Document, Reconciliation
from controlplane.corpora.outbox import Outbox, outbox_sql
from controlplane.corpora.source_reconciling import SourceEmpty, reconcile_source
from controlplane.corpora.sources import Address, SourceUnavailable
from tests.corpora.capture.conftest import ADDRESS, SOURCE, TABLE, VARIABLE
from tests.corpora.kept_corpora import crew, make_corpus, make_policy, policy_document
from tests.corpora_documents import SLUG
from tests.factories import NOW

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]

# Changes of which nobody is told, as if a trigger had been off for a while.
UNTOLD = "ALTER TABLE articles DISABLE TRIGGER USER; {}; ALTER TABLE articles ENABLE TRIGGER USER"


def later():
    ticks = count()
    return lambda: NOW + timedelta(seconds=next(ticks))


@pytest.fixture
def corpus(writer, tap) -> Corpus:
    """Six articles, all of them captured."""
    corpus = make_corpus(sources={SOURCE: {"dsn_variable": VARIABLE}})
    writer.execute("INSERT INTO articles (id, title, url) SELECT n, 'T' || n, '/' || n FROM generate_series(1, 6) n")
    capture_all(tap, ADDRESS, now=later())
    return corpus


def reconcile(corpus, *, repair=False, source=SOURCE) -> Reconciliation:
    return reconcile_source(corpus=corpus, source=source, actor=crew.oncall, now=NOW, repair=repair, clock=lambda: 0.0)


def named(row):
    return [(one["kind"], one["source_key"]) for one in row.findings]


def titles(corpus):
    return dict(Document.objects.filter(corpus=corpus, is_deleted=False).values_list("source_key", "content"))


def test_documents_that_are_as_their_source_has_them_are_clean(corpus, writer, tap):
    """Words, metadata and deletes, whatever characters there are."""
    writer.execute("UPDATE articles SET title = 'Größe \U0001f600\\ \"', url = 'a''b\\c\"' WHERE id = 2")
    writer.execute("DELETE FROM articles WHERE id = 3")
    capture_all(tap, ADDRESS, now=later())

    row = reconcile(corpus)

    assert row.is_clean
    assert (row.scope, row.source, row.compared, row.buckets_differing) == ("source", SOURCE, 5, 0)


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("INSERT INTO articles (id, title) VALUES (9, 'Nine')", ("missing", "9")),
        ("UPDATE articles SET title = 'Other' WHERE id = 1", ("stale", "1")),
        ("UPDATE articles SET url = '/other' WHERE id = 1", ("stale", "1")),
        ("DELETE FROM articles WHERE id = 4", ("extra", "4")),
    ],
)
def test_change_that_nobody_was_told_of_is_named_and_repaired(corpus, writer, tap, statement, found):
    """Its source tells again of what it has, and what it does not have is deleted."""
    writer.execute(UNTOLD.format(statement))

    row = reconcile(corpus, repair=True)
    capture_all(tap, ADDRESS, now=later())

    assert named(row) == [found]
    assert (row.counts[found[0]], row.buckets_differing, row.repaired) == (1, 1, 1)
    assert titles(corpus) == dict(writer.execute("SELECT id::text, title FROM articles").fetchall())
    assert reconcile(corpus).is_clean


def test_what_waits_in_the_outbox_is_on_its_way_and_no_difference(corpus, writer):
    """A row that is new, one that has changed, one that is gone."""
    writer.execute("INSERT INTO articles (id, title) VALUES (9, 'Nine')")
    writer.execute("UPDATE articles SET title = 'Other' WHERE id = 1")
    writer.execute("DELETE FROM articles WHERE id = 4")

    row = reconcile(corpus)

    assert row.is_clean
    assert row.buckets_differing > 0


def test_document_that_was_deleted_here_by_mistake_comes_back(corpus, tap):
    """Its source draws a later revision for it than the tombstone has, however great that is."""
    accept_changes(corpus=corpus, changes=[Change("2", 10**12, True, "", {}, NOW)], now=NOW)

    row = reconcile(corpus, repair=True)
    capture_all(tap, ADDRESS, now=later())

    assert named(row) == [("missing", "2")]
    assert titles(corpus)["2"] == "T2"


def test_repair_of_a_ghost_loses_no_row_that_is_made_of_its_key_next(corpus, writer, tap):
    """It is deleted at its own revision, and the next one of the source is later."""
    writer.execute(UNTOLD.format("DELETE FROM articles WHERE id = 6"))
    reconcile(corpus, repair=True)

    writer.execute("INSERT INTO articles (id, title) VALUES (6, 'Again')")
    capture_all(tap, ADDRESS, now=later())

    assert titles(corpus)["6"] == "Again"


def test_source_that_was_restored_from_an_old_copy_is_followed_again(corpus, writer, tap):
    """Its clock stands behind ours, and what it holds is what counts."""
    writer.execute(UNTOLD.format("UPDATE articles SET title = 'Old'"))
    writer.execute("SELECT setval('ballast_rev', 1)")

    reconcile(corpus, repair=True)
    writer.execute("UPDATE articles SET title = 'Oldest' WHERE id = 1")
    capture_all(tap, ADDRESS, now=later())

    assert set(titles(corpus).values()) == {"Oldest", "Old"}


def test_source_that_holds_nothing_is_not_believed(corpus, writer):
    """It may be the wrong database; nothing is deleted, and the record says so."""
    writer.execute(UNTOLD.format("DELETE FROM articles"))

    with pytest.raises(SourceEmpty, match="holds no document"):
        reconcile(corpus, repair=True)

    row = Reconciliation.objects.get()
    assert not row.is_clean
    assert "holds no document" in row.error
    assert len(titles(corpus)) == 6


def test_documents_of_other_sources_are_told_apart_by_their_prefix(writer, tap):
    """Each source is compared with its own keys alone."""
    writer.execute(TABLE)
    writer.execute(outbox_sql(Outbox(corpus=SLUG, table="articles", key="id", content=["title"], prefix="articles/")))
    two = {SOURCE: {"dsn_variable": VARIABLE}, "other": {"dsn_variable": "OTHER_DSN"}}
    corpus = make_corpus(sources=two)
    writer.execute("INSERT INTO articles (id, title) VALUES (1, 'One'), (2, 'Two')")
    capture_all(tap, ADDRESS, now=later())
    accept_changes(corpus=corpus, changes=[Change("faq/1", 1, False, "Other", {}, NOW)], now=NOW)
    writer.execute(UNTOLD.format("DELETE FROM articles WHERE id = 2"))

    row = reconcile(corpus, repair=True)

    assert named(row) == [("extra", "articles/2")]
    assert set(titles(corpus)) == {"articles/1", "faq/1"}


def test_without_a_prefix_nothing_is_a_ghost_while_there_are_other_sources(corpus, writer):
    """Nobody can tell whose documents are whose."""
    two = {SOURCE: {"dsn_variable": VARIABLE}, "other": {"dsn_variable": "OTHER_DSN"}}
    make_policy(policy_document(sources=two))
    writer.execute(UNTOLD.format("DELETE FROM articles WHERE id = 2; UPDATE articles SET title = 'X' WHERE id = 1"))

    assert named(reconcile(corpus, repair=True)) == [("stale", "1")]


def test_source_that_is_away_or_unknown_cannot_be_compared(corpus, monkeypatch):
    """What is tried and fails is written down; what no policy names is not tried."""
    monkeypatch.setenv(VARIABLE, "postgresql://nobody@127.0.0.1:1/none")

    with pytest.raises(SourceUnavailable):
        reconcile(corpus)
    with pytest.raises(UnknownCorpus, match="names no source 'nowhere'"):
        reconcile(corpus, source="nowhere")

    assert [bool(row.error) for row in Reconciliation.objects.all()] == [True]


def test_address_says_where_it_is():
    """A bare name is a variable's."""
    assert Address(SLUG, SOURCE, "NAME").reference == "env:NAME"
