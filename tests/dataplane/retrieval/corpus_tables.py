"""Corpora as gateways find them: rows in PostgreSQL, written by hand and committed, gone when a test is over."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psycopg

from controlplane.corpora.indexes import create_exact
from controlplane.corpora.models import Namespace
from controlplane.corpora.namespaces import create_table
from controlplane.corpora.qdrant import QdrantVectors
from dataplane.retrieval.hashes import Vector, chunk_digest
from dataplane.retrieval.tables import Snapshot, chunks_table
from tests.corpora_documents import MODEL, SLUG

NOW = datetime(2026, 3, 4, 14, 17, tzinfo=UTC)
DIMENSIONS = 8
EMPTY = "TRUNCATE corpora_pending, corpora_source, corpora_document, corpora_namespace, corpora_corpus CASCADE"


def ago(seconds: float) -> datetime:
    """So many seconds before NOW."""
    return NOW - timedelta(seconds=seconds)


def unit(*numbers: float, dimensions: int = DIMENSIONS) -> Vector:
    """A vector of length 1 that begins with these numbers and goes on with zeros."""
    vector = np.zeros(dimensions, dtype=np.float32)
    vector[: len(numbers)] = numbers
    return vector / np.linalg.norm(vector)


@dataclass
class CorpusTables:
    """Writes to the tables, one committed statement after the other. Vectors of namespaces whose store is qdrant go to
    `beside`, where there is one.
    """

    sql: psycopg.Connection[Any]
    beside: QdrantVectors | None = None
    made: list[int] = field(default_factory=list)
    documents: dict[tuple[int, str], int] = field(default_factory=dict)

    def run(self, statement: str, *parameters: Any) -> list[Any]:
        """Run a statement; returns its rows."""
        cursor = self.sql.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []

    def chunks(self, namespace: int, statement: str) -> None:
        """Run a statement in which `{table}` stands for that of a namespace's chunks."""
        self.run(statement.format(table=chunks_table(namespace)))

    def corpus(self, slug: str = SLUG) -> int:
        """A corpus without a namespace."""
        ((corpus,),) = self.run(
            "INSERT INTO corpora_corpus (slug, created_at, paused_by, paused_reason, pinned_by, pinned_reason,"
            " low_water) VALUES (%s, %s, '', '', '', '', 0) RETURNING id",
            slug,
            NOW,
        )
        return int(corpus)

    def namespace(
        self,
        corpus: int,
        *,
        model: str = MODEL,
        dimensions: int = DIMENSIONS,
        store: str | None = None,
        purpose: str = "serving",
        index_rev: int = 1,
        kept_rev: int = 0,
    ) -> int:
        """A ready namespace of a corpus, with an empty table; its vectors in `beside` unless `store` says otherwise."""
        store = store or ("pgvector" if self.beside is None else "qdrant")
        ((namespace,),) = self.run(
            "INSERT INTO corpora_namespace (corpus_id, number, purpose, state, store, model, dimensions, chunking,"
            " index_rev, kept_rev, is_indexed, created_at)"
            " VALUES (%s, %s, %s, 'ready', %s, %s, %s, '{}', %s, %s, false, %s) RETURNING id",
            *(corpus, len(self.made) + 1, purpose, store, model, dimensions, index_rev, kept_rev, NOW),
        )
        table = chunks_table(namespace)  # as operations make it
        row = Namespace(pk=namespace, store=store, dimensions=dimensions)
        create_table(self.sql, row, table)
        create_exact(self.sql, table)
        if self.beside is not None and store == "qdrant":
            self.beside.create(row)
        self.made.append(namespace)
        return int(namespace)

    def serve(self, corpus: int, namespace: int | None) -> None:
        """Switch the corpus to a namespace."""
        self.run("UPDATE corpora_corpus SET live_namespace_id = %s WHERE id = %s", namespace, corpus)

    def pin(self, corpus: int, snapshot: Snapshot | None) -> None:
        """Have everybody read a snapshot; None: the newest state."""
        self.run(
            "UPDATE corpora_corpus SET pinned_namespace_id = %s, pinned_rev = %s, pinned_at = %s WHERE id = %s",
            *((None, None, None) if snapshot is None else (snapshot.namespace, snapshot.index_rev, NOW)),
            corpus,
        )

    def pause(self, corpus: int) -> None:
        """Have its queries refused."""
        self.run("UPDATE corpora_corpus SET paused_at = %s WHERE id = %s", NOW, corpus)

    def document(self, corpus: int, key: str) -> int:
        """The head of a document, made when it is not there."""
        if (corpus, key) not in self.documents:
            ((self.documents[corpus, key],),) = self.run(
                "INSERT INTO corpora_document (corpus_id, source_key, source_rev, is_deleted, content, metadata,"
                " content_sha256, event_at, accepted_at, seq) VALUES (%s, %s, 1, false, '', '{}', '', %s, %s,"
                " nextval('corpora_seq')) RETURNING id",
                *(corpus, key, NOW, NOW),
            )
        return self.documents[corpus, key]

    def chunk(
        self,
        namespace: int,
        key: str,
        text: str,
        vector: Vector | None,
        *,
        rev: int = 1,
        ordinal: int = 0,
        born: int = 1,
        died: int | None = None,
        event_at: datetime = NOW,
        metadata: dict[str, Any] | None = None,
    ) -> int:
        """A chunk of a document's revision; returns its id."""
        ((corpus, model, store, dimensions),) = self.run(
            "SELECT corpus_id, model, store, dimensions FROM corpora_namespace WHERE id = %s", namespace
        )
        is_elsewhere = vector is None or (self.beside is not None and store == "qdrant")
        stored = unit(1) if vector is None else vector
        digest = chunk_digest(source_key=key, source_rev=rev, ordinal=ordinal, text=text, model=model, vector=stored)
        ((chunk,),) = self.run(
            f"INSERT INTO {chunks_table(namespace)} VALUES ("  # noqa: S608 - a table of ours
            "nextval('corpora_chunk_id'), %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) RETURNING id",
            *(self.document(corpus, key), key, rev, ordinal, born, died, event_at, NOW, text),
            *(json.dumps(metadata or {}), digest, model, None if is_elsewhere else str(stored.tolist())),
        )
        if self.beside is not None and store == "qdrant":
            self.beside.put(Namespace(pk=namespace, dimensions=dimensions), {chunk: stored})
        return int(chunk)

    def pending(
        self, namespace: int, key: str, *, since: datetime, seqs: Sequence[int] = (1, 1), is_poisoned: bool = False
    ) -> None:
        """A document whose newest revision the namespace has not made searchable yet."""
        ((corpus,),) = self.run("SELECT corpus_id FROM corpora_namespace WHERE id = %s", namespace)
        self.run(
            "INSERT INTO corpora_pending (namespace_id, document_id, first_seq, last_seq, since, due_at, owner,"
            " failures, is_poisoned) VALUES (%s, %s, %s, %s, %s, %s, '', 0, %s)",
            *(namespace, self.document(corpus, key), *seqs, since, NOW, is_poisoned),
        )

    def source(self, corpus: int, *, checked_at: datetime, oldest_at: datetime | None = None) -> None:
        """How far the outbox of a source was read."""
        self.run(
            "INSERT INTO corpora_source (corpus_id, name, checked_at, oldest_at, waiting, error)"
            " VALUES (%s, 'articles', %s, %s, 0, '')",
            *(corpus, checked_at, oldest_at),
        )

    def drop(self, namespace: int) -> None:
        """Drop a namespace's table, as operators do."""
        self.run("UPDATE corpora_namespace SET state = 'dropped', dropped_at = %s WHERE id = %s", NOW, namespace)
        self.run(f"DROP TABLE IF EXISTS {chunks_table(namespace)}")
        if self.beside is not None:
            self.beside.drop(Namespace(pk=namespace))


@contextmanager
def corpus_tables(url: str, beside: QdrantVectors | None = None) -> Iterator[CorpusTables]:
    """Empty tables; what is left there goes."""
    with psycopg.connect(url, autocommit=True) as sql:
        sql.execute(EMPTY)
        tables = CorpusTables(sql, beside)
        yield tables
        for namespace in tables.made:
            tables.run(f"DROP TABLE IF EXISTS {chunks_table(namespace)}")
        sql.execute(EMPTY)
