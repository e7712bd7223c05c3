"""Namespaces: made, put in service, dropped."""

from __future__ import annotations

import numpy as np
import pytest
from django.db import connection, transaction

from controlplane.audit.models import AuditEvent
from controlplane.corpora.errors import NamespaceNotReady
from controlplane.corpora.indexes import LEAST_MEMORY_MB, MOST_MEMORY_MB, PARALLEL_WORKERS, memory_mb
from controlplane.corpora.models import Corpus, Namespace, NamespaceState, Purpose
from controlplane.corpora.namespaces import build_index, drop_namespace, switch
from dataplane.retrieval.hashes import CHUNK_DIGEST_SQL, chunk_digest
from tests.corpora.kept_corpora import crew, make_corpus, make_namespace
from tests.factories import NOW

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]


def tables() -> set[str]:
    return {name for name in connection.introspection.table_names() if name.startswith("corpora_chunks_")}


def serve_from(namespace: Namespace) -> None:
    switch(corpus=namespace.corpus, namespace=namespace, reason="r", actor=crew.oncall, now=NOW)


def test_corpus_is_served_from_the_namespace_that_somebody_switched_to() -> None:
    """Back and forth are the same act, and the record tells of each."""
    corpus = make_corpus()
    first, second = make_namespace(corpus), make_namespace(corpus)

    for namespace in (first, second, first):
        serve_from(namespace)

    assert Corpus.objects.get(pk=corpus.pk).live_namespace == first
    assert AuditEvent.objects.filter(action="corpus.switched", target=corpus.audit_name).count() == 3


@pytest.mark.parametrize(
    ("asked", "fact"),
    [
        ({"is_ready": False}, "is being built, for serving"),
        ({"purpose": Purpose.DRILL}, "is ready to serve, for drill"),
    ],
)
def test_nothing_is_served_from_a_namespace_that_is_not_meant_to(asked: dict[str, object], fact: str) -> None:
    """Neither from a half-built one, nor from the sandbox of a drill."""
    namespace = make_namespace(make_corpus(), **asked)

    with pytest.raises(NamespaceNotReady, match=fact):
        serve_from(namespace)


def test_graph_is_built_in_memory_and_by_several_workers() -> None:
    """As after a restore: with what PostgreSQL gives unless told, a graph of some size is built many times slower."""
    namespace = make_namespace(make_corpus())
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL maintenance_work_mem = '1MB'")

    build_index(namespace)

    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('maintenance_work_mem')")
        given = cursor.fetchone()[0]
        cursor.execute("SELECT current_setting('max_parallel_maintenance_workers')::int")
        assert (given, cursor.fetchone()[0]) == (f"{LEAST_MEMORY_MB}MB", PARALLEL_WORKERS)
    assert memory_mb(rows=200_000, dimensions=384) == 427
    assert memory_mb(rows=50_000_000, dimensions=384) == MOST_MEMORY_MB


def test_dropped_namespace_leaves_its_row_and_no_table() -> None:
    """What served last stays; the other goes, and dropping it again changes nothing."""
    corpus = make_corpus()
    first, second = make_namespace(corpus), make_namespace(corpus)
    serve_from(second)
    build_index(first)

    with transaction.atomic(), pytest.raises(NamespaceNotReady, match="serves now"):
        drop_namespace(second, now=NOW)
    dropped = drop_namespace(first, now=NOW), drop_namespace(first, now=NOW)

    assert dropped == (True, False)
    assert tables() == {second.table}
    assert Namespace.objects.get(pk=first.pk).state == NamespaceState.DROPPED


def test_database_computes_the_digest_of_a_chunk_as_everybody_else() -> None:
    """So that millions are compared where they stand, whatever is in them."""
    namespace = make_namespace(make_corpus())
    vector = np.array([0.1, -0.2, 3e-9, 0, 1, -1, 0.5, 7], dtype=np.float32)
    given = {"source_key": "faq/größe", "source_rev": 7, "ordinal": 2, "text": "Wie groß?\n", "model": "m"}

    with connection.cursor() as cursor:
        insert = (
            f"INSERT INTO {namespace.table} VALUES (1, 1, %s, %s, %s, 1, NULL, now(), now(), %s, '{{}}', '', %s, %s)"  # noqa: S608 - a name of ours
        )
        cursor.execute(insert, [*given.values(), str(vector.tolist())])
        cursor.execute(f"SELECT {CHUNK_DIGEST_SQL} FROM {namespace.table} c")  # noqa: S608 - names of ours
        (found,) = cursor.fetchone()

    assert bytes(found) == chunk_digest(**given, vector=vector)
