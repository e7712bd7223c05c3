"""Comparisons asked for: done later, by whoever has time, and once a day by themselves."""

from __future__ import annotations

from datetime import timedelta
from random import Random

import pytest

from controlplane.corpora.errors import UnknownCorpus
from controlplane.corpora.models import Reconciliation
from controlplane.corpora.namespaces import drop_namespace, switch
from controlplane.corpora.reconciling_work import ask_nightly, ask_to_reconcile_source, ask_to_reconcile_store
from controlplane.work import runner
from controlplane.work.models import State, Task
from tests.corpora.capture.conftest import SOURCE, VARIABLE
from tests.corpora.changes import accept, index, upsert
from tests.corpora.kept_corpora import crew, make_corpus, make_namespace
from tests.factories import NOW

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]


def run_next():
    return runner._do(runner.operations.take(owner="here"))


@pytest.fixture
def corpus(source_url):
    return make_corpus(sources={SOURCE: {"dsn_variable": VARIABLE}})


def test_comparison_that_somebody_asked_for_is_done_in_his_name(corpus):
    """With its namespace, or with its source."""
    namespace = make_namespace(corpus)
    ask_to_reconcile_store(namespace=namespace, actor=crew.oncall, repair=False, now=NOW)
    ask_to_reconcile_source(corpus=corpus, source=SOURCE, actor=crew.oncall, repair=False, now=NOW)

    run_next()
    run_next()

    rows = Reconciliation.objects.order_by("scope")
    assert [(row.scope, row.is_clean, row.actor) for row in rows] == [
        ("source", True, crew.oncall.audit_name),
        ("store", True, crew.oncall.audit_name),
    ]


def test_namespace_that_is_repaired_is_whole_once_it_is_indexed(corpus):
    """The work says so, and what was asked for."""
    namespace = make_namespace(corpus, is_ready=False)
    accept(corpus, upsert("1", 1))
    namespace.pending.all().delete()
    ask_to_reconcile_store(namespace=namespace, actor=crew.oncall, repair=True, now=NOW)

    run_next()
    index(namespace)
    ask_to_reconcile_store(namespace=namespace, actor=crew.oncall, repair=False, now=NOW)
    run_next()

    before, after = Reconciliation.objects.order_by("pk")
    assert (before.counts["missing"], before.repaired) == (1, 1)
    assert after.is_clean


def test_what_cannot_be_compared_is_not_tried_again(corpus):
    """Its namespace was dropped meanwhile, say."""
    namespace = make_namespace(corpus)
    ask_to_reconcile_store(namespace=namespace, actor=crew.oncall, repair=False, now=NOW)
    drop_namespace(namespace, now=NOW)

    runner.run_next(owner="here", rng=Random(1), now=lambda: NOW)

    assert Task.objects.get().state == State.DEAD


def test_source_that_no_policy_names_is_refused_at_once(corpus):
    """Whoever asks is there to be told."""
    with pytest.raises(UnknownCorpus, match="names no source 'nowhere'"):
        ask_to_reconcile_source(corpus=corpus, source="nowhere", actor=crew.oncall, repair=False, now=NOW)


def test_namespace_that_serves_is_compared_once_a_day(corpus):
    """However often the beat asks; another that does not serve is left alone."""
    live, _ = make_namespace(corpus), make_namespace(corpus)
    switch(corpus=corpus, namespace=live, reason="r", actor=crew.oncall, now=NOW)

    for now in (NOW, NOW + timedelta(hours=1), NOW + timedelta(days=1)):
        ask_nightly(now=now)

    assert sorted(Task.objects.values_list("key", flat=True)) == [f"{live.pk}:2026-03-04", f"{live.pk}:2026-03-05"]
