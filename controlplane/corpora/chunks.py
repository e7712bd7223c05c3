"""Chunks of documents as rows: cut, compared with what is there, and put where they are searched."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.db import connection
from pgvector.psycopg import register_vector
from psycopg.types.json import Jsonb

from controlplane.corpora.models import Namespace
from controlplane.corpora.vectors import external
from dataplane.retrieval.chunking import cut
from dataplane.retrieval.hashes import CHUNK_DIGEST_SQL, Vector, chunk_digest, read_sent
from dataplane.retrieval.tables import CHUNK_COLUMNS

_ALIVE: Final = """
SELECT c.document_id, c.text, vector_send(c.embedding)
FROM {table} c WHERE c.document_id = ANY(%(documents)s::bigint[]) AND c.died IS NULL AND c.model = %(model)s
  AND c.chunk_sha256 = {digest}
"""
_ALIVE_ELSEWHERE: Final = """
SELECT c.document_id, c.text, c.id, c.source_key, c.source_rev, c.ordinal, c.chunk_sha256
FROM {table} c WHERE c.document_id = ANY(%(documents)s::bigint[]) AND c.died IS NULL AND c.model = %(model)s
"""
# Binary, since a vector written out in digits takes longer to write, and to read, than all else that is done with it.
_COPY: Final = f"COPY {{table}} ({', '.join(CHUNK_COLUMNS)}) FROM STDIN (FORMAT BINARY)"
_TYPES: Final[Mapping[str, str]] = {
    "id": "int8",
    "document_id": "int8",
    "source_key": "varchar",
    "source_rev": "int8",
    "ordinal": "int4",
    "born": "int8",
    "died": "int8",
    "event_at": "timestamptz",
    "changed_at": "timestamptz",
    "text": "text",
    "metadata": "jsonb",
    "chunk_sha256": "bytea",
    "model": "varchar",
    "embedding": "vector",
}
_END: Final = """
UPDATE {table} SET died = %(rev)s, changed_at = %(now)s
WHERE document_id = ANY(%(documents)s::bigint[]) AND died IS NULL
"""
_IDS: Final = "SELECT nextval('corpora_chunk_id') FROM generate_series(1, %(count)s)"


@dataclass(frozen=True, slots=True)
class Head:
    """One document as it was read to be indexed."""

    document: int
    source_key: str
    source_rev: int
    seq: int
    content: str
    metadata: Mapping[str, Any]
    event_at: datetime


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk of a head, with its vector."""

    id: int
    head: Head
    ordinal: int
    text: str
    vector: Vector


def cut_head(namespace: Namespace, head: Head) -> list[str]:
    """The texts of a document's chunks, as this namespace cuts."""
    rule = namespace.chunking
    return cut(
        head.content,
        version=rule["version"],
        max_characters=rule["max_characters"],
        overlap_characters=rule["overlap_characters"],
    )


def known_vectors(namespace: Namespace, documents: Sequence[int]) -> dict[tuple[int, str], Vector]:
    """The vectors of what is alive of documents, by document and text: of this namespace's model, and only those whose
    chunks are still what their digests say.
    """
    given = {"documents": list(documents), "model": namespace.model}
    store = external(namespace.store)
    if store is None:
        rows = _fetch(_ALIVE.format(table=namespace.table, digest=CHUNK_DIGEST_SQL), given)
        return {(row[0], row[1]): read_sent(row[2]) for row in rows}
    rows = _fetch(_ALIVE_ELSEWHERE.format(table=namespace.table), given)
    vectors = store.fetch(namespace, [row[2] for row in rows]) if rows else {}
    found = {}
    for document, text, chunk, key, rev, ordinal, digest in rows:
        vector = vectors.get(chunk)
        if vector is not None and bytes(digest) == chunk_digest(
            source_key=key, source_rev=rev, ordinal=ordinal, text=text, model=namespace.model, vector=vector
        ):
            found[document, text] = vector
    return found


def draw_ids(count: int) -> list[int]:
    """Ids that no chunk has yet."""
    return [chunk for (chunk,) in _fetch(_IDS, {"count": count})]


def end_chunks(namespace: Namespace, documents: Sequence[int], *, index_rev: int, now: datetime) -> None:
    """Have what is alive of documents end at an index revision; it stays readable for snapshots before it."""
    with connection.cursor() as cursor:
        parameters: dict[str, Any] = {"rev": index_rev, "now": now, "documents": list(documents)}
        cursor.execute(_END.format(table=namespace.table), parameters)


def put_chunks(namespace: Namespace, chunks: Sequence[Chunk], *, index_rev: int, now: datetime) -> None:
    """Write chunks, born at an index revision. Vectors that are kept elsewhere are there already."""
    if not chunks:
        return
    has_vectors = external(namespace.store) is None
    # What the driver finds wrong with a row is an error of the database's, as if that had found it.
    with connection.wrap_database_errors:
        _know_vectors()
    command = _COPY.format(table=namespace.table)
    with connection.wrap_database_errors, connection.cursor() as cursor, cursor.copy(command) as copy:
        copy.set_types([_TYPES[column] for column in CHUNK_COLUMNS])
        written: dict[int, Jsonb] = {}
        for one in chunks:
            if one.head.document not in written:
                written[one.head.document] = Jsonb(json.dumps(one.head.metadata).encode(), dumps=_as_it_is)
            metadata = written[one.head.document]
            copy.write_row(_row(namespace, one, metadata, has_vectors, index_rev=index_rev, now=now))


def _as_it_is(written: bytes) -> bytes:
    """Of a document's metadata, which every chunk of it has: written once."""
    return written


def _know_vectors() -> None:
    """Have this connection's cursors, from the next one on, write vectors; once for each connection."""
    connection.ensure_connection()
    if connection.connection.adapters.types.get("vector") is None:
        register_vector(connection.connection)


def _row(
    namespace: Namespace, one: Chunk, metadata: Jsonb, has_vector: bool, *, index_rev: int, now: datetime
) -> tuple[Any, ...]:
    """A chunk as CHUNK_COLUMNS have it."""
    head, model = one.head, namespace.model
    digest = chunk_digest(
        source_key=head.source_key,
        source_rev=head.source_rev,
        ordinal=one.ordinal,
        text=one.text,
        model=model,
        vector=one.vector,
    )
    return (
        one.id,
        head.document,
        head.source_key,
        head.source_rev,
        one.ordinal,
        index_rev,
        None,
        head.event_at,
        now,
        one.text,
        metadata,
        digest,
        model,
        one.vector if has_vector else None,
    )


def _fetch(statement: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return list(cursor.fetchall())
