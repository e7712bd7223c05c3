"""A corpus in the real PostgreSQL, and a store that searches it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dataplane.retrieval.modes import ANY
from dataplane.stores.corpora import PostgresCorpusStore
from tests.corpora_documents import MODEL, SLUG
from tests.qdrant_local import LocalQdrant

from .corpus_tables import NOW, CorpusTables, corpus_tables, unit

QUESTION = unit(1, 0.1)


@pytest.fixture
def qdrant() -> LocalQdrant | None:
    """A Qdrant beside PostgreSQL, where vectors are; None: they are beside their chunks."""
    return None


@pytest.fixture
def tables(keys_url, qdrant) -> Iterator[CorpusTables]:
    """The tables, empty."""
    with corpus_tables(keys_url, None if qdrant is None else qdrant.vectors()) as tables:
        yield tables


@pytest.fixture
async def store(keys_url, qdrant):
    """A store on the run's PostgreSQL."""
    beside = {} if qdrant is None else {"qdrant": qdrant.nearest_ids()}
    store = PostgresCorpusStore(keys_url, beside=beside, timeout_seconds=60)
    await store.start()
    yield store
    await store.close()


@pytest.fixture
def corpus(tables):
    """A corpus whose only namespace serves, with three documents of one chunk each."""
    corpus = tables.corpus()
    tables.serve(corpus, fill(tables, corpus))
    return corpus


def fill(tables, corpus, **about):
    """A namespace with a document right where the question is, one near it and one far."""
    namespace = tables.namespace(corpus, **about)
    tables.chunk(namespace, "refunds", "Within 30 days.", unit(1), metadata={"lang": "en", "page": 3})
    tables.chunk(namespace, "returns", "By parcel.", unit(1, 1), metadata={"lang": "en", "is_old": True})
    tables.chunk(namespace, "hours", "From 9 to 17.", unit(0, 1), metadata={"lang": "de"})
    return namespace


def namespace_of(tables):
    """The namespace that was made first."""
    return tables.made[0]


async def search(store, *, k=10, mode=ANY, filters=None, model=MODEL, now=NOW, slug=SLUG, vector=QUESTION):
    """Search on the usual terms."""
    return await store.search(slug, model, vector, k=k, mode=mode, filters=filters or {}, now=now)


def keys(found):
    """The documents that were found, the nearest first."""
    return [chunk.source_key for chunk in found.chunks]
