"""The alias of a corpus, switched back and forth under queries: none fails, and none sees two namespaces."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from statistics import median

import pytest
from django.db import connection, transaction

from controlplane.corpora.models import Corpus, Namespace
from controlplane.corpora.namespaces import create_namespace, mark_ready, switch
from controlplane.corpora.policies import promised
from dataplane.retrieval.found import Found
from dataplane.retrieval.modes import ANY
from dataplane.stores.corpora import PostgresCorpusStore
from tests.corpora.changes import accept, index, upsert, vector_of
from tests.corpora.kept_corpora import MODEL, make_corpus
from tests.corpora_documents import SLUG
from tests.factories import NOW, SETUP, make_deployment

pytestmark = pytest.mark.django_db(transaction=True)

QUERIES = 5_000
ASKERS = 8
SWITCHES = 50
DOCUMENTS = 8


@pytest.fixture
def pair() -> tuple[Corpus, list[Namespace]]:
    """A corpus with two namespaces, each of which has every document."""
    make_deployment()
    corpus = make_corpus()
    accept(corpus, *(upsert(f"page/{at}", 1, f"Words of page {at}.") for at in range(DOCUMENTS)))
    found = []
    for _ in range(2):
        with transaction.atomic():
            namespace = create_namespace(corpus, promised(corpus.slug), now=NOW)
        index(namespace)
        mark_ready(namespace, now=NOW)
        found.append(namespace)
    serve_from(found[0])
    return corpus, found


def serve_from(namespace: Namespace) -> float:
    """Have the corpus served from it; returns the seconds that this took."""
    began = time.perf_counter()
    switch(corpus=namespace.corpus, namespace=namespace, reason="r", actor=SETUP, now=NOW)
    return time.perf_counter() - began


def chunk_ids(namespace: Namespace) -> set[int]:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT id FROM {namespace.table}")  # noqa: S608 - a name of ours
        return {row[0] for row in cursor.fetchall()}


async def ask(url: str, asked: count[int]) -> list[Found]:
    """What so many queries find, several at a time; the first error ends it."""
    store = PostgresCorpusStore(url, timeout_seconds=120)
    await store.start()
    answers: list[Found] = []

    async def ask_on() -> None:
        while next(asked) < QUERIES:
            vector = vector_of(f"Words of page {len(answers) % DOCUMENTS}.")
            answers.append(await store.search(SLUG, MODEL, vector, k=DOCUMENTS, mode=ANY, filters={}, now=NOW))

    try:
        async with asyncio.TaskGroup() as askers:
            for _ in range(ASKERS):
                askers.create_task(ask_on())
    finally:
        await store.close()
    return answers


def test_no_query_fails_or_sees_a_mixture_while_the_alias_is_switched(pair, keys_url):
    """5,000 queries while it goes back and forth: 0 errors, each whole and of the one namespace that it names; and the
    way back is the same act.
    """
    _, namespaces = pair
    ids = {namespace.pk: chunk_ids(namespace) for namespace in namespaces}
    asked, there, back = count(), [], []

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(lambda: asyncio.run(ask(keys_url, asked)))
        # At least so often, and as long as anybody asks.
        while len(back) < SWITCHES or not asking.done():
            there.append(serve_from(namespaces[1]))
            back.append(serve_from(namespaces[0]))
        answers = asking.result()

    mixed = [one for one in answers if {chunk.id for chunk in one.chunks} != ids[one.standing.snapshot.namespace]]
    assert (len(answers), mixed) == (QUERIES, [])
    assert {one.standing.snapshot.namespace for one in answers} == set(ids)
    # 0 of N: with 95 % confidence fewer than 3/N. `-rP` shows it.
    print(f"0 errors in {QUERIES} queries (below {3 / QUERIES:.2%}), {len(there) + len(back)} switches")
    print(f"median there {1000 * median(there):.1f} ms, back {1000 * median(back):.1f} ms")
