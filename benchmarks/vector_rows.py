"""The corpus of `vector_dr`: its rows, what is done to them, and the same by PostgreSQL alone. Needs the settings."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
from django.db import transaction

from controlplane.corpora.bulk import own_session
from controlplane.corpora.dumping import make_dump
from controlplane.corpora.indexes import PARALLEL_WORKERS, create_approximate, create_exact, memory_mb
from controlplane.corpora.models import Corpus, Dump, Namespace, Purpose
from controlplane.corpora.namespaces import create_table, drop_namespace
from controlplane.corpora.restoring import Restored, restore_dump
from dataplane.retrieval.dump_format import BLOCK_BYTES, HEADER, TRAILER
from dataplane.retrieval.tables import CHUNK_COLUMNS
from tests.corpora.kept_corpora import make_corpus, make_namespace
from tests.factories import make_deployment

CHUNKS_PER_DOCUMENT = 4
TEXT_CHARACTERS = 800
AT_A_TIME = 2_000
CENTRES = 200
_TABLE = "ballast_raw"


class Ground:
    """A namespace full of chunks, and what can be done with it."""

    def __init__(self, corpus: Corpus, namespace: Namespace) -> None:
        self._corpus = corpus
        self._namespace = namespace
        self._sent: list[bytes] = []

    def copy_out(self) -> int:
        """Have PostgreSQL send the same rows as a dump has; returns how many bytes that were."""
        columns = ", ".join(CHUNK_COLUMNS)
        size, self._sent = 0, []
        with own_session() as session, session.cursor() as cursor:
            documents = f"SELECT * FROM corpora_document WHERE corpus_id = {self._corpus.pk}"  # noqa: S608 - a number of ours
            chunks = f"SELECT {columns} FROM {self._namespace.table} WHERE died IS NULL"  # noqa: S608 - names of ours
            with cursor.copy(f"COPY ({documents}) TO STDOUT (FORMAT binary)") as copy:
                size += sum(len(message) for message in copy)
            with cursor.copy(f"COPY ({chunks}) TO STDOUT (FORMAT binary)") as copy:
                self._sent = [bytes(message) for message in copy]
        return size + sum(len(message) for message in self._sent)

    def copy_in(self) -> tuple[float, float]:
        """Have PostgreSQL take them back, and build the indexes; returns the seconds of each."""
        data = b"".join(self._sent)
        with own_session() as session, session.cursor() as cursor:
            cursor.execute(f"DROP TABLE IF EXISTS {_TABLE}")
            create_table(cursor, self._namespace, _TABLE)
            began = time.perf_counter()
            with cursor.copy(f"COPY {_TABLE} FROM STDIN (FORMAT binary)") as copy:
                for first in range(0, len(data), BLOCK_BYTES):
                    copy.write(data[first : first + BLOCK_BYTES])
            loaded = time.perf_counter()
            rows = cursor.rowcount
            memory = memory_mb(rows=rows, dimensions=self._namespace.dimensions)
            cursor.execute(f"SET maintenance_work_mem = '{memory}MB'")
            cursor.execute(f"SET max_parallel_maintenance_workers = {PARALLEL_WORKERS}")
            create_exact(cursor, _TABLE)
            create_approximate(cursor, _TABLE, rows=rows)
            return loaded - began, time.perf_counter() - loaded

    def dump(self) -> Dump:
        """A dump as everybody makes it."""
        return make_dump(namespace=self._namespace, actor="benchmark", now=datetime.now(UTC))

    def restore(self, dump: Dump) -> Restored:
        """Restore it into a namespace of its own, which is dropped."""
        now = datetime.now(UTC)
        other = make_namespace(self._corpus, is_ready=False, fill=False, purpose=Purpose.DRILL, now=now)
        restored = restore_dump(dump, namespace=other, now=now)
        with transaction.atomic():
            drop_namespace(other, now=now)
        return restored


def lay(*, rows: int, dimensions: int, seed: int) -> Ground:
    """Make a corpus with that many chunks; texts and vectors are drawn, vectors around some centres."""
    make_deployment()
    corpus = make_corpus(embedding={"dimensions": dimensions})
    namespace = make_namespace(corpus, fill=False)
    with own_session() as session, session.cursor() as cursor:
        cursor.execute(
            "INSERT INTO corpora_document (corpus_id, source_key, source_rev, is_deleted, content, metadata,"
            " content_sha256, event_at, accepted_at, seq)"
            " SELECT %s, 'page/' || n, 1, false, repeat('words ', %s), '{}',"
            " repeat('0', 64), now(), now(), nextval('corpora_seq') FROM generate_series(0, %s) n RETURNING id",
            [corpus.pk, CHUNKS_PER_DOCUMENT * TEXT_CHARACTERS // 6, (rows - 1) // CHUNKS_PER_DOCUMENT],
        )
        ids = [number for (number,) in cursor.fetchall()]
        cursor.execute("CREATE TEMP TABLE drawn (n bigint, text text, embedding vector)")
        with cursor.copy("COPY drawn FROM STDIN (FORMAT binary)") as copy:
            copy.write(HEADER)
            for some in _drawn(rows, dimensions, seed):
                copy.write(some)
            copy.write(TRAILER)
        cursor.execute(
            f"INSERT INTO {namespace.table} SELECT nextval('corpora_chunk_id'), d.id, d.source_key, 1,"  # noqa: S608 - names of ours
            " c.n %% %s, 1, NULL, now(), now(), c.text, '{}', sha256(c.text::bytea), %s, c.embedding FROM drawn c"
            " JOIN unnest(%s::bigint[]) WITH ORDINALITY u (id, place) ON u.place = c.n / %s + 1"
            " JOIN corpora_document d ON d.id = u.id ORDER BY c.n",
            [CHUNKS_PER_DOCUMENT, namespace.model, ids, CHUNKS_PER_DOCUMENT],
        )
        cursor.execute("UPDATE corpora_namespace SET index_rev = 1 WHERE id = %s", [namespace.pk])
        cursor.execute(f"ANALYZE {namespace.table}")
    return Ground(corpus, namespace)


def _drawn(rows: int, dimensions: int, seed: int) -> Iterator[bytes]:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((CENTRES, dimensions))
    letters = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz     ", dtype=np.uint8)
    for first in range(0, rows, AT_A_TIME):
        count = min(AT_A_TIME, rows - first)
        drawn: Any = centres[rng.integers(CENTRES, size=count)] + 0.5 * rng.standard_normal((count, dimensions))
        unit = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(">f4")
        texts = letters[rng.integers(len(letters), size=(count, TEXT_CHARACTERS))]
        yield b"".join(
            struct.pack(">hiqi", 3, 8, first + at, TEXT_CHARACTERS)
            + texts[at].tobytes()
            + struct.pack(">ihh", 4 + 4 * dimensions, dimensions, 0)
            + unit[at].tobytes()
            for at in range(count)
        )


def settle() -> None:
    """Have what was written before reach the disk, so that it is not paid for by what comes next."""
    os.sync()
