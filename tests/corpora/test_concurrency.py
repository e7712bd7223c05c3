"""Several who accept and several who index at the same time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import timedelta
from random import Random
from threading import Event, Semaphore

import pytest
from django.db import connection, transaction

from controlplane.alerts.models import Alert
from controlplane.corpora.breaches import look_at, watch_promises
from controlplane.corpora.indexing import index_pending
from controlplane.corpora.management.commands.index import Indexer
from controlplane.corpora.models import Corpus, Pending, PromiseBreach
from controlplane.corpora.namespaces import drop_namespace, switch
from controlplane.corpora.standing import standings
from tests.corpora.changes import HashEmbedder, accept
from tests.corpora.convergence import CHUNKING, Model, arrivals, histories, write
from tests.corpora.kept_corpora import make_corpus, make_namespace
from tests.factories import NOW, SETUP, make_deployment


@pytest.fixture
def model(transactional_db: None) -> Iterator[Model]:
    """A corpus with two namespaces, committed; their tables are nobody's to flush."""
    make_deployment()
    corpus = make_corpus(chunking=CHUNKING)
    made = Model(corpus, make_namespace(corpus), make_namespace(corpus))
    yield made
    Corpus.objects.update(live_namespace=None)
    for namespace in made.namespaces:
        with transaction.atomic():
            drop_namespace(namespace, now=NOW)


def test_two_who_accept_and_two_who_index_at_the_same_time_converge(model: Model) -> None:
    """Each with a connection of his own, on the same few documents: nobody waits in a circle, nothing is lost."""
    history = histories(Random(3), 12, 10)
    accepting = Semaphore(0)  # one for whoever has handed in all that he has

    def feed(seed: int) -> None:
        rng = Random(seed)
        coming = arrivals(rng, history)
        while coming:
            size = rng.randint(1, 20)
            accept(model.corpus, *rng.sample(coming[:size], len(coming[:size])))
            coming = coming[size:]

    def work(name: str) -> None:
        while not accepting.acquire(blocking=False):
            for namespace in model.namespaces:
                index_pending(namespace=namespace, embedder=HashEmbedder(), owner=name, now=NOW, limit=4)

    def with_connection(run: Callable[..., None], *given: object) -> None:
        try:
            run(*given)
        finally:
            accepting.release()
            connection.close()

    with ThreadPoolExecutor(4) as threads:
        begun = [
            threads.submit(with_connection, run, one) for run, one in ((feed, 1), (feed, 2), (work, "a"), (work, "b"))
        ]
    for one in begun:
        one.result()

    model.heads = {key: run[-1].order for key, run in history.items()}
    model.look(Random(1))
    model.require_converged()


def test_two_who_hold_a_corpus_against_its_promise_at_the_same_time_tell_once(model: Model) -> None:
    """The second waits until the first has noted what is broken, and adds nothing."""
    late = NOW + timedelta(hours=2)
    switch(corpus=model.corpus, namespace=model.namespaces[0], reason="r", actor=SETUP, now=NOW)
    corpus = Corpus.objects.select_related("live_namespace").get(pk=model.corpus.pk)

    def look() -> int:
        try:
            return watch_promises(now=late)
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as threads:
        with transaction.atomic():
            look_at(corpus, standings(now=late)[corpus.slug], now=late)
            second = threads.submit(look)
            wait_until(is_somebody_waiting)
        count = second.result()

    assert (count, Alert.objects.count()) == (1, 1)
    assert PromiseBreach.objects.get().clause == "rpo"


def is_somebody_waiting() -> bool:
    """Whether somebody waits for another's transaction."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_clear_snapshot()")  # which a transaction keeps otherwise
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'transactionid'"
        )
        return bool(cursor.fetchone()[0])


def test_indexer_hears_of_changes_and_stops_when_it_is_told_to(model: Model) -> None:
    """As a process runs it: it listens, indexes what comes in, and ends."""
    stop, embedder = Event(), HashEmbedder()

    def run() -> None:
        try:
            Indexer(owner="t", stop=stop, open_with=lambda corpus: nullcontext(embedder), now=lambda: NOW).run()
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(run)
        try:
            for rev in (1, 2):
                model.take(write("a", rev))
                wait_until(lambda: not Pending.objects.exists())
        finally:
            stop.set()
    running.result()

    model.require_converged()


def wait_until(is_so: Callable[[], bool]) -> None:
    """Look again and again; a minute only ends a test that has failed."""
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        Event().wait(0.05)
