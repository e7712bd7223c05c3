"""How the store of corpora finds what is near: through an approximate index, or by what a store beside proposes."""

from __future__ import annotations

from itertools import product
from random import Random

import numpy as np
import psycopg
import pytest
from pgvector.psycopg import register_vector

from controlplane.corpora.indexes import create_approximate
from dataplane.retrieval.errors import CorpusUnavailable
from dataplane.retrieval.tables import chunks_table
from dataplane.stores import corpora_sql
from dataplane.stores.corpora import PostgresCorpusStore
from tests.corpora_documents import MODEL, SLUG

from .conftest import QUESTION, keys, namespace_of, search
from .corpus_tables import DIMENSIONS, NOW, unit

pytestmark = pytest.mark.django_db  # asks for the tables; what is written there is committed


class Nearby:
    """A store beside PostgreSQL: compares all that it holds, and tells of what is dead too."""

    def __init__(self):
        self.vectors = {}
        self.asked = []

    async def start(self):
        """There is nothing to connect to."""

    async def close(self):
        """There is nothing to let go of."""

    async def nearest(self, namespace, vector, *, limit):
        self.asked.append(limit)
        near = sorted((1 - float(vector @ held), chunk) for chunk, held in self.vectors[namespace].items())
        return [(chunk, distance) for distance, chunk in near[:limit]]


async def test_store_beside_proposes_and_postgresql_decides(tables, keys_url):
    """What is dead or does not pass the filters is not told, and more is asked for until enough lives."""
    corpus = tables.corpus()
    namespace = tables.namespace(corpus, store="qdrant")
    tables.serve(corpus, namespace)
    beside = Nearby()
    held = beside.vectors[namespace] = {}
    for number in range(40):
        is_dead = number < 30
        chunk = tables.chunk(namespace, f"doc-{number}", "t", None, died=1 if is_dead else None)
        held[chunk] = unit(1, number / 100)
    store = PostgresCorpusStore(keys_url, beside={"qdrant": beside}, timeout_seconds=60)
    await store.start()
    try:
        found = await search(store, k=3, vector=unit(1))
        asked = list(beside.asked)
        tables.run("UPDATE corpora_namespace SET store = 'elsewhere'")
        with pytest.raises(CorpusUnavailable, match="'elsewhere'"):
            await search(store)
    finally:
        await store.close()

    assert keys(found) == ["doc-30", "doc-31", "doc-32"]
    assert found.chunks[0].score == pytest.approx(float(unit(1) @ unit(1, 0.3)), abs=1e-6)
    assert asked == [12, 48]


@pytest.fixture
def indexed(tables, corpus, keys_url):
    """The namespace with some thousand chunks, of which every other is dead, and their approximate index."""
    namespace = namespace_of(tables)
    vectors = np.random.default_rng(7).normal(size=(4000, DIMENSIONS)).astype(np.float32)
    with psycopg.connect(keys_url, autocommit=True) as sql:
        register_vector(sql)
        sql.cursor().executemany(
            f"INSERT INTO {chunks_table(namespace)} VALUES ("  # noqa: S608 - a table of ours
            "nextval('corpora_chunk_id'), %s, %s, 1, 0, 1, %s, %s, %s, 't', %s, '', %s, %s)",
            [
                (10**6 + n, f"d{n}", 2 if n % 2 else None, NOW, NOW, f'{{"part": {n % 4}}}', MODEL, vector)
                for n, vector in enumerate(vectors)
            ],
        )
    tables.run("UPDATE corpora_namespace SET index_rev = 2 WHERE id = %s", namespace)
    create_approximate(tables.sql.cursor(), chunks_table(namespace), rows=len(vectors))
    tables.chunks(namespace, "ANALYZE {table}")
    return vectors


def test_search_goes_through_the_approximate_index(indexed, tables, keys_url):
    """Whatever is read of whom, the plan has it, and decides beforehand whether anything is to be read."""
    namespace = namespace_of(tables)
    given = {"slug": SLUG, "namespace": namespace, "at_least": None, "now": NOW, "filter": '{"part": 2}'}
    variants = product(["newest", "pinned", "snapshot"], [False, True])

    with psycopg.connect(keys_url, autocommit=True) as sql:
        register_vector(sql)
        plans = []
        for mode, is_filtered in variants:
            statement = corpora_sql.search(
                chunks_table(namespace),
                k=10,
                is_snapshot=mode == "snapshot",
                is_newest=mode == "newest",
                is_proposed=False,
                is_filtered=is_filtered,
            )
            parameters = given | {"rev": None if mode == "newest" else 2, "vector": QUESTION}
            plans.append("\n".join(row[0] for row in sql.execute(f"EXPLAIN {statement}", parameters).fetchall()))

    for plan in plans:
        assert f"Index Scan using {chunks_table(namespace)}_near" in plan
        assert "One-Time Filter" in plan


async def test_dead_chunks_in_the_index_cost_nobody_an_answer(store, tables, indexed):
    """As many come as are asked for, the nearest of those alive but for one in ten."""
    vector = unit(*Random(3).choices((-1, -0.5, 0.5, 1), k=DIMENSIONS))

    found = await search(store, k=50, vector=vector)

    alive = indexed[::2] / np.linalg.norm(indexed[::2], axis=1, keepdims=True)
    nearest = {f"d{2 * n}" for n in np.argsort(-(alive @ vector))[:50]} | {"refunds", "returns", "hours"}
    assert len(found.chunks) == 50
    assert len(nearest.intersection(keys(found))) >= 45
    assert keys(found) == [one.source_key for one in sorted(found.chunks, key=lambda chunk: -chunk.score)]
