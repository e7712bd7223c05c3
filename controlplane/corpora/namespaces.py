"""Namespaces: made, indexed, put in service and dropped. Each has a table of chunks of its own."""

from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any, Final

from django.db import connection, transaction
from django.db.models import Max

from controlplane.accounts.models import Operator
from controlplane.audit import operations as audit
from controlplane.corpora.errors import NamespaceNotReady
from controlplane.corpora.indexes import allow_memory, create_approximate, create_exact, rename_indexes
from controlplane.corpora.models import NAMESPACE_TRANSITIONS, Corpus, Namespace, NamespaceState, Purpose
from controlplane.corpora.vectors import external, forget_namespace
from dataplane.retrieval.policy import PGVECTOR
from dataplane.retrieval.policy import Corpus as Promised

# See `tables.chunks_table`. A key may not stand twice in one state, whoever writes.
_CREATE: Final = """
CREATE TABLE {table} (
    id bigint NOT NULL,
    document_id bigint NOT NULL,
    source_key varchar(500) NOT NULL,
    source_rev bigint NOT NULL,
    ordinal integer NOT NULL,
    born bigint NOT NULL,
    died bigint,
    event_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    text text NOT NULL,
    metadata jsonb NOT NULL,
    chunk_sha256 bytea NOT NULL,
    model varchar(200) NOT NULL,
    embedding vector({dimensions:d}) {null}
)
"""
_MARK_ALL: Final = """
INSERT INTO corpora_pending (
    namespace_id, document_id, first_seq, last_seq, since, due_at, owner, failures, is_poisoned
)
SELECT %(namespace)s, d.id, d.seq, d.seq, d.event_at, %(now)s, '', 0, false
FROM corpora_document d WHERE d.corpus_id = %(corpus)s AND NOT d.is_deleted
ON CONFLICT (namespace_id, document_id) DO NOTHING
"""


@transaction.atomic
def create_namespace(
    corpus: Corpus,
    promised: Promised,
    *,
    now: datetime,
    purpose: Purpose = Purpose.SERVING,
    fill: bool = True,
    apart: bool = False,
) -> Namespace:
    """Make an empty namespace by what is promised of the corpus now.

    Args:
        fill: Whether every document is to be indexed into it; else whoever asks fills it.
        apart: Whether whoever asks says when it is ready; until then indexers leave it alone.
    Raises:
        VectorsNowhere, VectorsUnavailable: its vectors are to be kept where there is nobody to do it.
    """
    store = external(promised.store)
    # Whoever takes changes in holds the corpus too: what he took in is seen below, or he sees this namespace.
    Corpus.objects.select_for_update().get(pk=corpus.pk)
    newest = corpus.namespaces.aggregate(newest=Max("number"))["newest"] or 0
    cut = promised.chunking
    namespace = Namespace.objects.create(
        corpus=corpus,
        number=newest + 1,
        purpose=purpose,
        store=promised.store,
        model=promised.embedding.model,
        dimensions=promised.embedding.dimensions,
        chunking={
            "version": cut.version,
            "max_characters": cut.max_characters,
            "overlap_characters": cut.overlap_characters,
        },
        is_filled_apart=apart,
        created_at=now,
    )
    with connection.cursor() as cursor:
        create_table(cursor, namespace, namespace.table)
        create_exact(cursor, namespace.table)
        if fill:
            cursor.execute(_MARK_ALL, {"namespace": namespace.pk, "corpus": corpus.pk, "now": now})
    if store is not None:
        store.create(namespace)
    return namespace


def create_table(cursor: Any, namespace: Namespace, table: str) -> None:
    """Make a table for a namespace's chunks, with no index yet."""
    names: Mapping[str, Any] = {
        "table": table,
        "dimensions": namespace.dimensions,
        "null": "NOT NULL" if namespace.store == PGVECTOR else "",
    }
    cursor.execute(_CREATE.format(**names))


def put_in_place(cursor: Any, table: str, *, of: str) -> None:
    """Have a table of chunks, with all that belongs to it, take the place of the table `of`, which is dropped. In a
    transaction of the caller's, whose end is the moment.
    """
    cursor.execute(f"DROP TABLE {of}")
    cursor.execute(f"ALTER TABLE {table} RENAME TO {of}")
    rename_indexes(cursor, table, to=of)


def build_index(namespace: Namespace) -> None:
    """Build the approximate index over what is there; nothing when it is built, or the store builds its own."""
    if namespace.store == PGVECTOR:
        with transaction.atomic(), connection.wrap_database_errors, connection.connection.cursor() as cursor:
            cursor.execute(f"SELECT count(*) FROM {namespace.table}")  # noqa: S608 - a name of ours
            rows = cursor.fetchone()[0]
            allow_memory(cursor, rows=rows, dimensions=namespace.dimensions)
            create_approximate(cursor, namespace.table, rows=rows)
    Namespace.objects.filter(pk=namespace.pk).update(is_indexed=True)
    namespace.is_indexed = True


def mark_ready(namespace: Namespace, *, now: datetime) -> bool:
    """Note that a namespace is built; False: it was not being built."""
    return _move(namespace, "built", built_at=now)


def drop_namespace(namespace: Namespace, *, now: datetime) -> bool:
    """Drop its chunks and what is pending for it; False: it was dropped before. In a transaction of the caller's.

    Raises:
        NamespaceNotReady: it serves, or on-call pinned it.
    """
    corpus = Corpus.objects.select_for_update().get(pk=namespace.corpus_id)
    if namespace.pk in {corpus.live_namespace_id, corpus.pinned_namespace_id}:
        raise NamespaceNotReady(f"{namespace} serves now; switch to another one first")
    if not _move(namespace, "dropped", dropped_at=now):
        return False
    namespace.pending.all().delete()
    with connection.cursor() as cursor:
        cursor.execute(f"DROP TABLE IF EXISTS {namespace.table}")
    if namespace.store != PGVECTOR:
        # Not before: whoever finds nothing there looks here whether it was dropped. What stays is `leftovers`' to find.
        transaction.on_commit(partial(forget_namespace, namespace))
    return True


def _move(namespace: Namespace, event: str, **fields: Any) -> bool:
    """Take the one legal step, compared with what is stored; only this assigns `state`."""
    origins = [before for (before, what) in NAMESPACE_TRANSITIONS if what == event]
    after = NAMESPACE_TRANSITIONS[origins[0], event]
    moved = Namespace.objects.filter(pk=namespace.pk, state__in=origins).update(state=after, **fields)
    namespace.refresh_from_db()
    return bool(moved)


@audit.operation
def switch(*, corpus: Corpus, namespace: Namespace, reason: str, actor: Operator | str, now: datetime) -> None:
    """Have a corpus served from another namespace, from one statement to the next; going back is the same act.

    Raises:
        NamespaceNotReady: it is not ready, of another corpus, or a drill's.
    """
    row = Corpus.objects.select_for_update().get(pk=corpus.pk)
    namespace.refresh_from_db()
    if namespace.corpus_id != row.pk or namespace.state != NamespaceState.READY or namespace.purpose != Purpose.SERVING:
        raise NamespaceNotReady(
            f"{namespace} is {namespace.get_state_display().lower()}, for {namespace.get_purpose_display().lower()};"
            " only a ready one for serving can serve"
        )
    if row.live_namespace_id == namespace.pk:
        return
    before = row.live_namespace_id
    Corpus.objects.filter(pk=row.pk).update(live_namespace=namespace, switched_at=now)
    data = {"before": before, "after": namespace.pk, "model": namespace.model, "reason": reason}
    audit.record("corpus.switched", actor=actor, target=row, at=now, data=data)
