"""A namespace with documents and chunks in it, and stores of dumps, for the tests of dumps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
from django.db import connection

from controlplane.corpora.models import Corpus, Document, Namespace
from controlplane.corpora.vault import Vault, open_vault
from dataplane.retrieval.hashes import Vector, chunk_digest
from tests.factories import NOW

Row = tuple[object, ...]


def vector_of(rng: Random, dimensions: int) -> Vector:
    """A vector of unit length, the same for the same seed."""
    drawn = np.array([rng.gauss(0, 1) for _ in range(dimensions)], dtype=np.float32)
    return np.asarray(drawn / np.linalg.norm(drawn), dtype=np.float32)


def add_document(corpus: Corpus, key: str, *, rev: int = 1, text: str = "", is_deleted: bool = False) -> Document:
    """A head, as it would have been accepted; another revision of one that is there takes its place."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT nextval('corpora_seq')")
        (seq,) = cursor.fetchone()
    head, _ = Document.objects.update_or_create(
        corpus=corpus,
        source_key=key,
        defaults={
            "source_rev": rev,
            "is_deleted": is_deleted,
            "content": "" if is_deleted else text or f"Words of {key} in revision {rev}, größer als sonst",
            "metadata": {} if is_deleted else {"title": key, "pages": [1, 2.5, None]},
            "content_sha256": "" if is_deleted else hashlib.sha256(f"{key}{rev}".encode()).hexdigest(),
            "event_at": NOW,
            "accepted_at": NOW,
            "seq": seq,
        },
    )
    return head


def add_chunks(namespace: Namespace, head: Document, *, count: int = 2, seed: int = 0) -> dict[int, Vector]:
    """Chunks of a head in a batch of their own, in the place of those it had; returns their vectors by their ids."""
    rng, made = Random(f"{seed}/{head.source_key}/{head.source_rev}"), {}
    is_beside = namespace.store == "pgvector"
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE corpora_namespace SET index_rev = index_rev + 1 WHERE id = %s RETURNING index_rev", [namespace.pk]
        )
        (rev,) = cursor.fetchone()
        cursor.execute(
            f"UPDATE {namespace.table} SET died = %s WHERE document_id = %s AND died IS NULL",  # noqa: S608 - a name of ours
            [rev, head.pk],
        )
        for ordinal in range(count):
            vector = vector_of(rng, namespace.dimensions)
            text = f"{head.content} ({ordinal})"
            digest = chunk_digest(
                source_key=head.source_key,
                source_rev=head.source_rev,
                ordinal=ordinal,
                text=text,
                model=namespace.model,
                vector=vector,
            )
            cursor.execute(
                f"INSERT INTO {namespace.table} VALUES (nextval('corpora_chunk_id'), %s, %s, %s, %s, %s, NULL, %s, %s,"  # noqa: S608 - a name of ours
                " %s, '{\"title\": 1}', %s, %s, %s) RETURNING id",
                [
                    *(head.pk, head.source_key, head.source_rev, ordinal, rev, NOW, NOW, text, digest),
                    *(namespace.model, str(vector.tolist()) if is_beside else None),
                ],
            )
            made[cursor.fetchone()[0]] = vector
    namespace.refresh_from_db()
    return made


def fill(corpus: Corpus, namespace: Namespace, *, documents: int = 5) -> list[Document]:
    """So many documents with two chunks each, one of them replaced once, and a tombstone."""
    heads = [add_document(corpus, f"page/{number}") for number in range(documents)]
    for head in heads:
        add_chunks(namespace, head)
    heads[0] = add_document(corpus, heads[0].source_key, rev=2)
    add_chunks(namespace, heads[0], count=3)
    add_document(corpus, "page/gone", rev=4, is_deleted=True)
    return heads


def chunk_rows(namespace: Namespace) -> list[Row]:
    """Every chunk that is alive, bit by bit, as PostgreSQL sends it."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, document_id, source_key, source_rev, ordinal, born, event_at, changed_at, text, metadata::text,"  # noqa: S608 - a name of ours
            f" encode(chunk_sha256, 'hex'), model, encode(vector_send(embedding), 'hex') FROM {namespace.table}"
            " WHERE died IS NULL ORDER BY id"
        )
        return list(cursor.fetchall())


def head_rows(corpus: Corpus) -> list[Row]:
    """Every head of a corpus."""
    fields = ("id", "source_key", "source_rev", "is_deleted", "content", "metadata", "content_sha256", "event_at")
    return list(corpus.documents.order_by("source_key").values_list(*fields, "accepted_at", "seq"))


def index_names(namespace: Namespace) -> set[str]:
    """What indexes its table has."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT indexname FROM pg_indexes WHERE tablename = %s", [namespace.table])
        return {name for (name,) in cursor.fetchall()}


def directory_vault(path: Path) -> Vault:
    """A store of dumps in a directory of the test's own."""
    return open_vault(path.as_uri())


class AlteredVault(Vault):
    """What somebody made of a store: `alter` has the last word on what is read from it, and `hide` on what is there."""

    def __init__(self, kept: Vault, alter: Callable[[str, bytes], bytes | None]) -> None:
        super().__init__(kept.url, kept._objects)
        self._alter = alter

    def read(self, folder: str, name: str, *, limit: int | None = None) -> bytes:
        data = self._alter(name, super().read(folder, name))
        if data is None:
            raise FileNotFoundError(name)
        return data if limit is None else data[:limit]
