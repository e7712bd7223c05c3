"""A namespace out of a dump: loaded as it was written, indexed, and caught up with what happened since.

The rows are loaded beside the namespace's table and take its place in one moment, at the end. So until then a delete
that is accepted has nobody to wait for; and whatever goes wrong, a block that is not what was signed above all, leaves
everything as it was.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

from django.db import connection

from controlplane.corpora.bulk import Progress, copy_in, own_session, quiet
from controlplane.corpora.dump_checks import read_block, read_manifest, trusted_keys
from controlplane.corpora.errors import DumpDoesNotFit, DumpRefused, NamespaceNotReady
from controlplane.corpora.indexes import allow_memory, create_approximate, create_exact
from controlplane.corpora.models import Corpus, Dump, Namespace, NamespaceState, Purpose, RecoveryRate
from controlplane.corpora.namespaces import create_table, put_in_place
from controlplane.corpora.records import DumpState, RecoveryWay
from controlplane.corpora.vault import Vault, vault
from controlplane.corpora.vectors import VECTORS_LOCK, ExternalVectors, await_built, external, forget
from dataplane.retrieval.dump_format import CHUNKS, DOCUMENTS, DumpFlawed, Manifest, checked_blocks
from dataplane.retrieval.hashes import Vector, read_sent
from dataplane.retrieval.tables import CHUNK_COLUMNS, NAMESPACES
from dataplane.retrieval.tables import DOCUMENTS as DOCUMENT_TABLE

_AT_A_TIME: Final = 1_000

# A document has the same key everywhere, and in another database another id.
_FIND_HEADS: Final = """
UPDATE {table} c SET document_id = d.id FROM {documents} d
WHERE d.corpus_id = %(corpus)s AND d.source_key = c.source_key AND d.id <> c.document_id
"""
_DROP_UNKNOWN: Final = """
DELETE FROM {table} c WHERE NOT EXISTS (
    SELECT FROM {documents} d WHERE d.corpus_id = %(corpus)s AND d.source_key = c.source_key AND d.id = c.document_id
)
"""
_DROP_DELETED: Final = """
DELETE FROM {table} c USING {documents} d WHERE d.id = c.document_id AND d.is_deleted RETURNING c.id
"""
# Another database may have counted less far; here nobody counts back.
_RAISE_CHUNK_IDS: Final = """
SELECT setval('corpora_chunk_id', newest) FROM (SELECT max(id) AS newest FROM {table}) c
WHERE newest > (SELECT last_value FROM corpora_chunk_id)
"""
_DIFFERING: Final = """
FROM {documents} d
LEFT JOIN (SELECT DISTINCT document_id, source_rev FROM {table} WHERE died IS NULL) c ON c.document_id = d.id
WHERE d.corpus_id = %(corpus)s AND NOT d.is_deleted AND c.source_rev IS DISTINCT FROM d.source_rev
"""
_MARK: Final = """
INSERT INTO corpora_pending (
    namespace_id, document_id, first_seq, last_seq, since, due_at, owner, failures, is_poisoned
)
SELECT %(namespace)s, d.id, d.seq, d.seq, d.event_at, %(now)s, '', 0, false
{differing} ORDER BY d.id
ON CONFLICT (namespace_id, document_id) DO NOTHING
"""
_RESTORE_HEADS: Final = """
INSERT INTO {documents} ({columns}, corpus_id)
SELECT CASE WHEN EXISTS (SELECT FROM {documents} x WHERE x.id = h.id) THEN nextval(%(ids)s) ELSE h.id END,
    h.source_key, h.source_rev, h.is_deleted, h.content, h.metadata, h.content_sha256, h.event_at, h.accepted_at,
    CASE WHEN EXISTS (SELECT FROM {documents} x WHERE x.seq = h.seq) THEN nextval('corpora_seq') ELSE h.seq END,
    %(corpus)s
FROM ballast_heads h
WHERE NOT EXISTS (SELECT FROM {documents} x WHERE x.corpus_id = %(corpus)s AND x.source_key = h.source_key)
ORDER BY h.source_key
ON CONFLICT DO NOTHING
"""


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """How what was dumped differs from the documents now.

    Attributes:
        removed: Chunks of documents that were deleted since.
        unknown: Chunks of documents that have no head here, which are left out: nobody knows that they were not
            deleted. `restore_heads` comes first where heads were lost.
        stale: Documents whose newest revision is another one.
        missing: Documents that have no chunk in the dump; those that are only space never have.
    """

    removed: int
    unknown: int
    stale: int
    missing: int


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did, and how long it took.

    Attributes:
        rows, bytes: Of the dump's chunks.
        load_seconds: Until they stood in their table, and their vectors where those are kept; `index_seconds`: from
            there until they were indexed, there too.
    """

    rows: int
    bytes: int
    seconds: float
    load_seconds: float
    index_seconds: float
    caught_up: CaughtUp


def restore_dump(
    dump: Dump,
    *,
    namespace: Namespace,
    now: datetime,
    progress: Progress = quiet,
    kept: Vault | None = None,
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[float], object] = time.sleep,
) -> Restored:
    """Fill a namespace that nobody is served from with what a dump holds, in the place of what it holds now, and index
    it. What differs from the documents is marked as pending in a namespace for serving; for a drill it is told.

    Not in a transaction of the caller's: what that has not committed is not seen.

    Args:
        progress: Told of chunks.
        kept: The store to take it from; None: the one that the settings name.
        clock: Monotonic seconds.
        wait: Waits so many seconds, for a store of vectors that builds its index by itself.
    Raises:
        DumpRefused: it is not what was signed; the message names the block. Nothing was changed.
        DumpDoesNotFit: it was made by another model, dimensions or chunker than the namespace, or of another corpus.
        NamespaceNotReady: the namespace serves, is pinned or was dropped.
        VaultUnavailable: the store is away. Nothing was changed.
        VectorsNowhere, VectorsUnavailable: the store of the namespace's vectors is away, or not set up. Nothing was
            changed, but for vectors that nobody can find.
    """
    began = clock()
    place, store = kept or vault(), external(namespace.store)
    corpus = namespace.corpus
    try:
        manifest = _believed(dump, place)
        _require_fit(manifest, namespace)
        _require_out_of_service(namespace)
        with own_session() as session, session.transaction(), session.cursor() as cursor:
            of_loading, of_handing_over = (progress, quiet) if store is None else _halves(progress)
            unknown = _load(cursor, manifest, place, namespace, of_loading)
            if store is not None:
                _hand_over(cursor, namespace, store, of_handing_over)
            loaded = clock()
            _index(cursor, manifest, namespace)
            indexed = clock()
            removed = _take_place(cursor, manifest, namespace)
    except DumpFlawed as flaw:
        raise DumpRefused(f"dump {dump.name!r} is not restored: {flaw}") from flaw
    namespace.refresh_from_db()
    forget(namespace, removed)
    stale, missing = _catch_up(corpus, namespace, now)
    stream = manifest.streams[CHUNKS]
    if store is not None:
        await_built(namespace, told=partial(progress, stream.rows, stream.rows), wait=wait)
        indexed = clock()
    restored = Restored(
        rows=stream.rows,
        bytes=stream.bytes,
        seconds=clock() - began,
        load_seconds=loaded - began,
        index_seconds=indexed - loaded,
        caught_up=CaughtUp(removed=len(removed), unknown=unknown, stale=stale, missing=missing),
    )
    RecoveryRate.objects.create(
        corpus=corpus,
        way=RecoveryWay.RESTORE,
        dump=dump,
        namespace_id_then=namespace.pk,
        store=namespace.store,
        dimensions=namespace.dimensions,
        rows=restored.rows,
        bytes=restored.bytes,
        load_seconds=restored.load_seconds,
        index_seconds=restored.index_seconds,
        at=now,
    )
    return restored


def _believed(dump: Dump, place: Vault) -> Manifest:
    if dump.state != DumpState.COMPLETE or dump.deleted_at is not None:
        raise DumpRefused(f"dump {dump.name!r} is {'deleted' if dump.deleted_at else dump.get_state_display().lower()}")
    manifest, _ = read_manifest(place, dump.name, trusted=trusted_keys(), root=dump.root_sha256 or None)
    return manifest


def _require_fit(manifest: Manifest, namespace: Namespace) -> None:
    made = (manifest.corpus, manifest.model, manifest.dimensions, dict(manifest.chunking))
    asked = (namespace.corpus.slug, namespace.model, namespace.dimensions, namespace.chunking)
    for what, before, after in zip(("corpus", "model", "dimensions", "chunking"), made, asked, strict=True):
        if before != after:
            raise DumpDoesNotFit(f"dump {manifest.name!r} has {what} {before!r}, and {namespace} has {after!r}")


def _require_out_of_service(namespace: Namespace) -> None:
    namespace.refresh_from_db()
    corpus = Corpus.objects.get(pk=namespace.corpus_id)
    if namespace.state == NamespaceState.DROPPED or namespace.pk in {
        corpus.live_namespace_id,
        corpus.pinned_namespace_id,
    }:
        raise NamespaceNotReady(f"{namespace} serves, or was dropped; restore into another one, and switch to that")


def _load(cursor: Any, manifest: Manifest, place: Vault, namespace: Namespace, progress: Progress) -> int:
    """Load the chunks into a table beside the namespace's. Returns how many belong to documents that are unknown."""
    stream, table = manifest.streams[CHUNKS], _beside(namespace)
    create_table(cursor, namespace, table)
    blocks = checked_blocks(manifest, CHUNKS, lambda block: read_block(place, manifest.name, block))
    rows = copy_in(cursor, table, CHUNK_COLUMNS, blocks, done=progress, of=stream.rows)
    if rows != stream.rows:
        raise DumpFlawed(CHUNKS, f"{rows} rows were loaded, and the manifest has {stream.rows}")
    names = {"table": table, "documents": DOCUMENT_TABLE}
    cursor.execute(f"ANALYZE {table}")
    cursor.execute(_FIND_HEADS.format(**names), {"corpus": namespace.corpus_id})
    cursor.execute(_DROP_UNKNOWN.format(**names), {"corpus": namespace.corpus_id})
    return int(cursor.rowcount)


def _halves(progress: Progress) -> tuple[Progress, Progress]:
    """Of chunks that are loaded first, and whose vectors are handed over then, each counts half for either."""
    return (lambda done, of: progress(done // 2, of)), (lambda done, of: progress((of + done) // 2, of))


def _hand_over(cursor: Any, namespace: Namespace, store: ExternalVectors, progress: Progress) -> None:
    """Give the vectors to the store that keeps them, and let the table have none.

    What it has of the namespace stays until then, for as long as its chunks do; afterwards it is found as left over.
    """
    table = _beside(namespace)
    # Until the table takes its place, these vectors have no chunks that anybody else sees.
    cursor.execute(VECTORS_LOCK, {"namespace": namespace.pk})
    store.create(namespace)
    cursor.execute(f"SELECT count(*) FROM {table}")  # noqa: S608 - a name of ours
    (total,) = cursor.fetchone()
    after = done = 0
    while True:
        cursor.execute(
            f"SELECT id, vector_send(embedding) FROM {table} WHERE id > %s ORDER BY id LIMIT %s",  # noqa: S608 - a name of ours
            [after, _AT_A_TIME],
        )
        found = cursor.fetchall()
        if not found:
            break
        vectors: dict[int, Vector] = {number: read_sent(bytes(sent)) for number, sent in found}
        store.put(namespace, vectors)
        after, done = found[-1][0], done + len(found)
        progress(done, total)
    cursor.execute(f"ALTER TABLE {table} ALTER COLUMN embedding TYPE vector({namespace.dimensions:d}) USING NULL")


def _index(cursor: Any, manifest: Manifest, namespace: Namespace) -> None:
    """Build every index of the table beside."""
    table, rows = _beside(namespace), manifest.streams[CHUNKS].rows
    allow_memory(cursor, rows=rows, dimensions=namespace.dimensions)
    create_exact(cursor, table)
    if external(namespace.store) is None:
        create_approximate(cursor, table, rows=rows)


def _take_place(cursor: Any, manifest: Manifest, namespace: Namespace) -> list[int]:
    """Have the table beside take the place of the namespace's, without what was deleted; returns the ids of those
    chunks.

    From the lock on, who deletes waits, for the chunks that take these ones' place; who was deleting is waited for. So
    there is no delete that neither of the two has seen.
    """
    table = _beside(namespace)
    cursor.execute(_RAISE_CHUNK_IDS.format(table=table))
    cursor.execute(f"SELECT 1 FROM {NAMESPACES} WHERE id = %s FOR NO KEY UPDATE", [namespace.pk])  # noqa: S608 - names of ours; the values are parameters
    cursor.execute(f"LOCK TABLE {namespace.table} IN ACCESS EXCLUSIVE MODE")
    cursor.execute(_DROP_DELETED.format(table=table, documents=DOCUMENT_TABLE))
    removed = [number for (number,) in cursor.fetchall()]
    put_in_place(cursor, table, of=namespace.table)
    # What was indexed into it meanwhile is gone with the table; `_catch_up` marks it again.
    cursor.execute(
        f"UPDATE {NAMESPACES} SET index_rev = greatest(index_rev, %(rev)s), kept_rev = greatest(index_rev, %(rev)s),"  # noqa: S608 - names of ours; the values are parameters
        " is_indexed = true WHERE id = %(namespace)s",
        {"rev": manifest.index_rev, "namespace": namespace.pk},
    )
    return removed


def _catch_up(corpus: Corpus, namespace: Namespace, now: datetime) -> tuple[int, int]:
    """Mark what differs from the documents as pending, in a namespace for serving. Returns how many documents are stale
    and how many missing.

    A transaction of its own: whoever accepts changes holds pending rows and may wait for the table.
    """
    differing = _DIFFERING.format(table=namespace.table, documents=DOCUMENT_TABLE)
    asked: dict[str, Any] = {"corpus": corpus.pk, "namespace": namespace.pk, "now": now}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FILTER (WHERE c.source_rev IS NOT NULL), count(*) FILTER (WHERE c.source_rev IS NULL)"
            f" {differing}",
            asked,
        )
        stale, missing = cursor.fetchone()
        if namespace.purpose == Purpose.SERVING:
            cursor.execute(_MARK.format(differing=differing), asked)
    return stale, missing


def mark_differing(namespace: Namespace, *, now: datetime) -> None:
    """Mark every document as pending that a namespace, of a drill too, does not show as it is. In a transaction of the
    caller's.
    """
    differing = _DIFFERING.format(table=namespace.table, documents=DOCUMENT_TABLE)
    with connection.cursor() as cursor:
        cursor.execute(
            _MARK.format(differing=differing),
            {"corpus": namespace.corpus_id, "namespace": namespace.pk, "now": now},
        )


def restore_heads(dump: Dump, *, corpus: Corpus, progress: Progress = quiet, kept: Vault | None = None) -> int:
    """Bring back the documents of a corpus whose table was lost, tombstones too, from a dump. Only keys that have no
    head are: never is a newer one, or any, replaced. Returns how many those are.

    Each keeps its id and its number where nobody has them; in another database it gets others, and `restore_dump` finds
    documents by their keys.

    Raises:
        DumpRefused: it is not what was signed. Nothing was changed.
        DumpDoesNotFit: it is of another corpus.
        VaultUnavailable: the store is away. Nothing was changed.
    """
    place = kept or vault()
    try:
        manifest = _believed(dump, place)
        if manifest.corpus != corpus.slug:
            raise DumpDoesNotFit(f"dump {dump.name!r} is of corpus {manifest.corpus!r}, not of {corpus.slug!r}")
        stream = manifest.streams[DOCUMENTS]
        blocks = checked_blocks(manifest, DOCUMENTS, lambda block: read_block(place, dump.name, block))
        columns = ", ".join(stream.columns)
        with own_session() as session, session.transaction(), session.cursor() as cursor:
            cursor.execute(
                f"CREATE TEMP TABLE ballast_heads ON COMMIT DROP AS SELECT {columns} FROM {DOCUMENT_TABLE} WITH NO DATA"  # noqa: S608 - names of ours
            )
            rows = copy_in(cursor, "ballast_heads", stream.columns, blocks, done=progress, of=stream.rows)
            if rows != stream.rows:
                raise DumpFlawed(DOCUMENTS, f"{rows} rows were loaded, and the manifest has {stream.rows}")
            cursor.execute("SELECT pg_get_serial_sequence(%s, 'id')", [DOCUMENT_TABLE])
            (ids,) = cursor.fetchone()
            for sequence, column in ((ids, "id"), ("corpora_seq", "seq")):
                cursor.execute(
                    f"SELECT setval(%s, newest) FROM (SELECT max({column}) AS newest FROM ballast_heads) h"  # noqa: S608 - names of ours; the values are parameters
                    f" WHERE newest > (SELECT last_value FROM {sequence})",
                    [sequence],
                )
            cursor.execute(
                _RESTORE_HEADS.format(documents=DOCUMENT_TABLE, columns=columns), {"corpus": corpus.pk, "ids": ids}
            )
            restored = int(cursor.rowcount)
    except DumpFlawed as flaw:
        raise DumpRefused(f"dump {dump.name!r} is not restored: {flaw}") from flaw
    return restored


def _beside(namespace: Namespace) -> str:
    return f"{namespace.table}_loading"
