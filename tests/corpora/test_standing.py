"""How corpora stand: what is served, how old it is, what waits; and the worst of each minute."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from controlplane.corpora.models import Corpus, CorpusMinute, GhostSample, Namespace, Pending, Source
from controlplane.corpora.namespaces import switch
from controlplane.corpora.sampling import forget_minutes, sample, sample_served
from controlplane.corpora.standing import CorpusStanding, standings
from dataplane.retrieval.tables import Snapshot
from tests.corpora.changes import accept, index, upsert
from tests.corpora.kept_corpora import crew, make_corpus, make_namespace, make_policy, policy_document
from tests.corpora_documents import SLUG
from tests.factories import NOW

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]

SOURCES = {"shop": {"dsn_variable": "SHOP_URL"}}


def later(**units: float) -> Any:
    return NOW + timedelta(**units)


def served(**changes: Any) -> Namespace:
    corpus = make_corpus(**changes)
    namespace = make_namespace(corpus)
    switch(corpus=corpus, namespace=namespace, reason="r", actor=crew.oncall, now=NOW)
    return namespace


def stands(now: Any = NOW) -> CorpusStanding:
    return standings(now=now)[SLUG]


def test_corpus_whose_every_change_is_searchable_has_no_lag() -> None:
    """Its snapshot is the newest state of what serves."""
    namespace = served()
    accept(namespace.corpus, upsert("a", 1))
    index(namespace)

    found = stands(later(hours=9))

    assert (found.lag_seconds, found.pending, found.is_stale) == (0, 0, False)
    assert found.snapshot == Snapshot(namespace.pk, 1)


def test_lag_is_the_age_of_the_oldest_change_that_is_not_searchable() -> None:
    """However often that document changed since; older than promised is stale."""
    namespace = served()
    accept(namespace.corpus, upsert("a", 1), upsert("b", 1, at=later(seconds=5)), now=later(seconds=5))
    accept(namespace.corpus, upsert("a", 2, at=later(seconds=9)), now=later(seconds=9))

    fresh, stale = stands(later(seconds=300)), stands(later(seconds=301))

    assert (fresh.lag_seconds, fresh.pending, fresh.is_stale) == (300, 2, False)
    assert (stale.lag_seconds, stale.is_stale) == (301, True)


def test_poisoned_documents_are_counted_apart_and_in_no_lag() -> None:
    """One of them would hold the corpus stale for ever."""
    namespace = served()
    accept(namespace.corpus, upsert("a", 1))
    Pending.objects.update(is_poisoned=True)

    found = stands(later(hours=1))

    assert (found.lag_seconds, found.pending, found.poisoned, found.is_stale) == (0, 0, 1, False)


@pytest.mark.parametrize(
    ("checked", "oldest", "lag"),
    [(later(seconds=590), None, 0), (later(seconds=500), None, 100), (later(seconds=590), later(seconds=480), 120)],
)
def test_source_that_nobody_looked_at_may_hide_changes(checked: Any, oldest: Any, lag: float) -> None:
    """As old as the last look, or as the oldest that was seen there."""
    namespace = served(sources=SOURCES)
    Source.objects.create(corpus=namespace.corpus, name="shop", checked_at=checked, oldest_at=oldest, waiting=3)
    Source.objects.create(corpus=namespace.corpus, name="gone", checked_at=NOW - timedelta(days=9), waiting=4)

    found = stands(later(seconds=600))

    assert (found.lag_seconds, found.waiting) == (lag, 3)


def test_pinned_corpus_is_as_old_as_what_its_snapshot_lacks() -> None:
    """Everything since is searchable, and nobody sees it."""
    namespace = served()
    for rev in (1, 2):
        accept(namespace.corpus, upsert("a", rev, f"r{rev}", at=later(seconds=rev)))
        index(namespace)
    Corpus.objects.update(pinned_namespace=namespace, pinned_rev=1, pinned_at=NOW)

    found = stands(later(seconds=60))

    assert (found.snapshot, found.lag_seconds) == (Snapshot(namespace.pk, 1), 58)


def test_corpus_that_serves_nothing_is_stale() -> None:
    """What waits is that of the namespace which is being built."""
    corpus = make_corpus()
    make_namespace(corpus, is_ready=False)
    accept(corpus, upsert("a", 1))

    found = stands(later(seconds=1))

    assert (found.snapshot, found.pending, found.lag_seconds, found.is_stale) == (None, 1, 1, True)


def test_number_of_queries_does_not_grow_with_corpora() -> None:
    """Not with namespaces, pins and sources either."""
    documents: dict[str, Any] = {}
    counts = []
    for slug in ("one", "two", "three"):
        documents |= policy_document(slug=slug, sources=SOURCES)
        make_policy(documents)
        corpus = Corpus.objects.get(slug=slug)
        namespace = make_namespace(corpus)
        Source.objects.create(corpus=corpus, name="shop", checked_at=NOW)
        Corpus.objects.filter(pk=corpus.pk).update(pinned_namespace=namespace, pinned_rev=0, pinned_at=NOW)
        with CaptureQueriesContext(connection) as asked:
            standings(now=NOW)
        counts.append(len(asked))

    assert counts == [5, 5, 5]


def test_minute_keeps_the_worst_that_was_seen_of_it() -> None:
    """And the revision and bound of the last look."""
    namespace = served()
    accept(namespace.corpus, upsert("a", 1))
    sample(later(seconds=30))
    index(namespace)

    sample(later(seconds=45))
    sample(later(seconds=60))

    kept = list(CorpusMinute.objects.order_by("minute").values_list("minute", "lag_seconds", "pending", "index_rev"))
    assert kept == [(NOW, 30, 1, 1), (later(minutes=1), 0, 0, 1)]
    assert set(CorpusMinute.objects.values_list("max_lag_seconds", "namespace_id_then")) == {(300, namespace.pk)}


def test_old_minutes_are_forgotten() -> None:
    """After 35 days nobody draws them."""
    served()
    sample(NOW)
    sample(later(days=1))

    assert forget_minutes(now=later(days=35, hours=1)) == 1
    assert CorpusMinute.objects.get().minute == later(days=1)


def test_ghosts_are_looked_for_in_what_serves_and_the_newest_sample_is_told() -> None:
    """How many of how many, and what that cannot rule out; samples go with the minutes of their time."""
    namespace = served()
    accept(namespace.corpus, *(upsert(f"k{at}", 1) for at in range(4)))
    index(namespace)
    sample_served(NOW)
    namespace.corpus.documents.filter(source_key="k0").update(is_deleted=True)

    found = sample_served(later(hours=1))

    newest = GhostSample.objects.filter(corpus=namespace.corpus).first()
    assert newest is not None
    assert (found, newest.ghosts, newest.sampled, newest.namespace) == (1, 1, 4, namespace)
    assert 0.25 < newest.most < 1
    assert forget_minutes(now=later(days=35, minutes=30)) == 1
