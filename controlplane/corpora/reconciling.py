"""Compare a namespace with the documents that it is to show, and put right what differs.

Both sides are summed up by bucket in one statement, which sees one moment of both; only buckets that differ are
compared row by row. What is pending is on its way and no difference. Nothing here is an operation of people but the
repair, which the audit record tells of.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any, Final

from django.db import connection

from controlplane.accounts.models import Operator
from controlplane.corpora import findings as record
from controlplane.corpora.errors import NamespaceNotReady
from controlplane.corpora.findings import Difference, Finding, Findings
from controlplane.corpora.leftovers import find_leftovers
from controlplane.corpora.models import Corpus, Namespace, NamespaceState, Reconciliation
from controlplane.corpora.outbox import BUCKETS, bucket_sql
from controlplane.corpora.repairing import Differing, repair_documents
from controlplane.corpora.vectors import ExternalVectors, external
from dataplane.retrieval.acceptance import SAMPLES, upper_bound
from dataplane.retrieval.chunking import cut
from dataplane.retrieval.hashes import CHUNK_DIGEST_SQL, chunk_digest
from dataplane.retrieval.tables import DOCUMENTS, PENDING

# So many of the buckets that differ are compared in one statement, each of which reads everything once more.
BUCKETS_AT_ONCE: Final = 32
DOCUMENTS_AT_ONCE: Final = 500
CHUNKS_AT_ONCE: Final = 1_000

# One line per document on either side. What is of the namespace's model, as it was written, and ends as the document
# does, has the line that its document wants. A tombstone wants none, not even of what only snapshots show.
_SIDES: Final = f"""
WITH wanted AS (
    SELECT d.id, d.source_key, d.source_rev, {bucket_sql("d.source_key")} AS bucket,
        concat_ws(':', d.id, d.source_rev, true, true, true, d.source_key) AS line
    FROM {DOCUMENTS} d
    WHERE d.corpus_id = %(corpus)s AND NOT d.is_deleted AND d.content ~ '[^[:space:]]'
        AND NOT EXISTS (SELECT FROM {PENDING} p WHERE p.namespace_id = %(namespace)s AND p.document_id = d.id)
), grouped AS (
    SELECT c.document_id, c.source_key, c.source_rev, count(*) AS chunks, max(c.ordinal) AS last,
        (array_agg(c.text ORDER BY c.ordinal DESC))[1] AS ending,
        bool_and(c.model = %(model)s) AS is_of_model,
        bool_and(coalesce(c.chunk_sha256 = {CHUNK_DIGEST_SQL}, c.embedding IS NULL)) AS is_intact
    FROM {{table}} c
    WHERE (c.died IS NULL OR NOT EXISTS (SELECT FROM {DOCUMENTS} d WHERE d.id = c.document_id AND NOT d.is_deleted))
        AND NOT EXISTS (SELECT FROM {PENDING} p WHERE p.namespace_id = %(namespace)s AND p.document_id = c.document_id)
    GROUP BY c.document_id, c.source_key, c.source_rev
), judged AS (
    SELECT g.*, d.id IS NOT NULL AS is_known, coalesce(NOT d.is_deleted, false) AS is_alive, d.source_rev AS head_rev,
        coalesce(
            g.chunks = g.last + 1 AND g.ending = right(rtrim(
                replace(d.content, E'\\r\\n', E'\\n'), E' \\t\\r\\n\\v\\f'), length(g.ending)), false) AS is_whole
    FROM grouped g LEFT JOIN {DOCUMENTS} d ON d.id = g.document_id AND d.corpus_id = %(corpus)s
), shown AS (
    SELECT j.*, {bucket_sql("j.source_key")} AS bucket,
        concat_ws(':', j.document_id, j.source_rev, j.is_of_model, j.is_intact, j.is_whole, j.source_key) AS line
    FROM judged j
)
"""  # noqa: S608 - names of ours; the values are parameters
_SUMS: Final = """
SELECT coalesce(w.bucket, s.bucket) AS bucket, coalesce(w.documents, 0) AS wanted, coalesce(s.documents, 0) AS shown,
    w.digest IS DISTINCT FROM s.digest OR w.documents IS DISTINCT FROM s.documents AS differs
FROM (SELECT bucket, count(*) AS documents, sum(hashtextextended(line, 0)) AS digest FROM wanted GROUP BY bucket) w
FULL JOIN (SELECT bucket, count(*) AS documents, sum(hashtextextended(line, 0)) AS digest FROM shown GROUP BY bucket) s
    ON s.bucket = w.bucket
"""
_ROWS: Final = """
SELECT coalesce(s.document_id, w.id) AS document, coalesce(s.source_key, w.source_key) AS source_key,
    coalesce(w.source_rev, s.head_rev) AS head_rev, s.source_rev AS shown_rev, coalesce(s.is_known, true) AS is_known,
    coalesce(s.is_alive, true) AS is_alive, s.is_of_model, s.is_intact, s.is_whole
FROM (SELECT * FROM wanted WHERE bucket = ANY(%(buckets)s)) w
FULL JOIN (SELECT * FROM shown WHERE bucket = ANY(%(buckets)s)) s ON s.document_id = w.id
WHERE w.line IS DISTINCT FROM s.line
ORDER BY 1, s.source_rev
"""
_TEXTS: Final = f"""
SELECT d.id, d.content, (
    SELECT coalesce(json_agg(c.text ORDER BY c.ordinal), '[]') FROM {{table}} c
    WHERE c.document_id = d.id AND c.died IS NULL
) FROM {DOCUMENTS} d WHERE d.id = ANY(%(documents)s)
"""  # noqa: S608 - as above
# Of documents that nothing is on its way for.
_CHUNKS: Final = f"""
SELECT c.id, c.document_id, c.source_key, c.source_rev, c.ordinal, c.text, c.model, c.chunk_sha256 FROM {{table}} c
WHERE c.died IS NULL AND c.id > %(after)s AND (%(ids)s::bigint[] IS NULL OR c.id = ANY(%(ids)s::bigint[]))
    AND NOT EXISTS (SELECT FROM {PENDING} p WHERE p.namespace_id = %(namespace)s AND p.document_id = c.document_id)
ORDER BY c.id LIMIT %(limit)s
"""  # noqa: S608 - as above

Row = dict[str, Any]


def reconcile_store(
    *,
    corpus: Corpus,
    namespace: Namespace,
    actor: Operator | str,
    now: datetime,
    repair: bool,
    clock: Callable[[], float] = time.monotonic,
) -> Reconciliation:
    """Compare a namespace with its corpus' documents. Returns what was found, as it is written down.

    To repair: ghosts are deleted, of snapshots too; what is corrupt or of another model is taken out of the search at
    once; and every document that is not shown as it should be is indexed again, and is pending until then. Vectors
    whose chunks are gone are removed from their store.

    Args:
        clock: Monotonic seconds, for when it ended.
    Raises:
        NamespaceNotReady: it was dropped.
    """
    if namespace.state == NamespaceState.DROPPED:
        raise NamespaceNotReady(f"{namespace} was dropped; there is nothing to compare")
    begun = clock()
    row = record.begin(corpus=corpus, scope=Reconciliation.Scope.STORE, namespace=namespace, actor=actor, now=now)
    found = Findings(buckets=BUCKETS)
    try:
        for differing in _compare(corpus, namespace, found):
            found.add(one.finding for one in differing)
            if repair:
                found.repaired += repair_documents(namespace, differing, now=now)
        for ids in find_leftovers(namespace, now=now, is_to_go=repair):
            found.add(Finding(Difference.LEFTOVER, "", f"vector {one} has no chunk") for one in ids)
            found.repaired += len(ids) if repair else 0
    except Exception as exc:
        record.end(row, found, now=now + timedelta(seconds=clock() - begun), error=str(exc) or type(exc).__name__)
        raise
    return record.end(row, found, now=now + timedelta(seconds=clock() - begun))


def find_differing(*, corpus: Corpus, namespace: Namespace) -> tuple[int, list[Differing]]:
    """As `reconcile_store`, and nothing is written down or repaired. Returns how many documents were compared, and all
    that differ.
    """
    found = Findings(buckets=BUCKETS)
    differing = [one for some in _compare(corpus, namespace, found) for one in some]
    return found.compared, differing


def _compare(corpus: Corpus, namespace: Namespace, found: Findings) -> Iterator[list[Differing]]:
    """The documents that differ, some at a time; `found` is told how much was compared."""
    parameters: Row = {"corpus": corpus.pk, "namespace": namespace.pk, "model": namespace.model}
    sides = _SIDES.format(table=namespace.table)
    sums = _read(sides + _SUMS, parameters)
    found.compared = sum(max(row["wanted"], row["shown"]) for row in sums)
    buckets = sorted(row["bucket"] for row in sums if row["differs"])
    found.buckets_differing = len(buckets)
    for start in range(0, len(buckets), BUCKETS_AT_ONCE):
        rows = _read(sides + _ROWS, parameters | {"buckets": buckets[start : start + BUCKETS_AT_ONCE]})
        documents = [list(lines) for _, lines in groupby(rows, key=lambda row: int(row["document"]))]
        for at in range(0, len(documents), DOCUMENTS_AT_ONCE):
            some = [_judge(lines) for lines in documents[at : at + DOCUMENTS_AT_ONCE]]
            if differing := _look_closer(namespace, some):
                yield differing
    if (store := external(namespace.store)) is not None:
        yield from _compare_vectors(namespace, store)


def _judge(lines: Sequence[Row]) -> Differing:
    """What is wrong with one document, the worst of it: the revisions of it that are shown, or one line without any."""
    row = lines[0]
    revs = sorted({line["shown_rev"] for line in lines if line["shown_rev"] is not None})
    if not row["is_alive"]:
        kind, detail = Difference.EXTRA, "its document was deleted" if row["is_known"] else "there is no such document"
    elif not revs:
        kind, detail = Difference.MISSING, f"nothing of revision {row['head_rev']} is there"
    elif revs != [row["head_rev"]]:
        shown = ", ".join(str(rev) for rev in revs)
        kind, detail = Difference.STALE, f"shown as of revision {shown}; its document is at {row['head_rev']}"
    elif not row["is_of_model"]:
        kind, detail = Difference.WRONG_MODEL, "embedded by another model than its namespace"
    elif not row["is_intact"]:
        kind, detail = Difference.CORRUPT, "a chunk is not what it was when it was written"
    else:
        kind, detail = Difference.MISSING, "some of its chunks are not there"
    return Differing(
        row["document"],
        Finding(kind, row["source_key"], detail),
        is_certain=kind is not Difference.MISSING,
    )


def _look_closer(namespace: Namespace, some: Sequence[Differing]) -> list[Differing]:
    """Leave out documents that are cut into exactly what is there, which the database cannot tell for every text."""
    doubtful = [one.document for one in some if not one.is_certain]
    if not doubtful:
        return list(some)
    with connection.cursor() as cursor:
        cursor.execute(_TEXTS.format(table=namespace.table), {"documents": doubtful})
        whole = {document for document, content, texts in cursor.fetchall() if _cut(namespace, content) == texts}
    return [one for one in some if one.is_certain or one.document not in whole]


def _cut(namespace: Namespace, content: str) -> list[str]:
    rule: Mapping[str, Any] = namespace.chunking
    return cut(
        content,
        version=rule["version"],
        max_characters=rule["max_characters"],
        overlap_characters=rule["overlap_characters"],
    )


# --- vectors that are kept elsewhere ---------------------------------------------------------------------------------
def _compare_vectors(namespace: Namespace, store: ExternalVectors) -> Iterator[list[Differing]]:
    after = 0
    while chunks := _chunks(namespace, after=after):
        after = chunks[-1]["id"]
        if odd := _odd(namespace, store, chunks):
            # A document that changed meanwhile has other chunks by now.
            still = _odd(namespace, store, _chunks(namespace, ids=odd))
            documents = {chunk["document_id"]: chunk["source_key"] for chunk in chunks if chunk["id"] in still}
            detail = "a vector in its store is not what it was when it was written, or is gone"
            yield [Differing(document, Finding(Difference.CORRUPT, key, detail)) for document, key in documents.items()]


def _chunks(namespace: Namespace, *, after: int = 0, ids: Sequence[int] | None = None) -> list[Row]:
    told = {"after": after, "ids": None if ids is None else list(ids), "namespace": namespace.pk}
    return _read(_CHUNKS.format(table=namespace.table), told | {"limit": CHUNKS_AT_ONCE})


def _odd(namespace: Namespace, store: ExternalVectors, chunks: Sequence[Row]) -> list[int]:
    vectors = store.fetch(namespace, [chunk["id"] for chunk in chunks])
    return [
        chunk["id"]
        for chunk in chunks
        if (vector := vectors.get(chunk["id"])) is None
        or bytes(chunk["chunk_sha256"])
        != chunk_digest(
            source_key=chunk["source_key"],
            source_rev=chunk["source_rev"],
            ordinal=chunk["ordinal"],
            text=chunk["text"],
            model=chunk["model"],
            vector=vector,
        )
    ]


def sample_corrupt(namespace: Namespace, n: int = SAMPLES) -> tuple[int, int]:
    """Draw so many chunks that can be found at random. Returns how many there were, and how many of them are not what
    they were when they were written.
    """
    if (store := external(namespace.store)) is not None:
        drawn = _read(
            f"SELECT id FROM {namespace.table} WHERE died IS NULL ORDER BY random() LIMIT %(n)s",  # noqa: S608 - a name of ours
            {"n": n},
        )
        chunks = _chunks(namespace, ids=[row["id"] for row in drawn]) if drawn else []
        return len(chunks), len(_odd(namespace, store, chunks))
    statement = f"""
        SELECT count(*) AS drawn, count(*) FILTER (WHERE c.chunk_sha256 IS DISTINCT FROM {CHUNK_DIGEST_SQL}) AS bad
        FROM (SELECT * FROM {namespace.table} WHERE died IS NULL ORDER BY random() LIMIT %(n)s) c
    """  # noqa: S608 - names of ours; the values are parameters
    [row] = _read(statement, {"n": n})
    return int(row["drawn"]), int(row["bad"])


# --- ghosts ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Ghosts:
    """What a sample says of how many chunks can be found whose documents were deleted, or never were.

    Attributes:
        most: With 95 % confidence no greater share of all chunks are ghosts.
    """

    sampled: int
    ghosts: int
    rate: float
    most: float


def sample_ghosts(namespace: Namespace, n: int = SAMPLES) -> Ghosts:
    """Look at so many chunks that can be found, drawn at random. 299 without a ghost leave less than 1 %."""
    statement = f"""
        SELECT count(*) AS sampled, count(*) FILTER (WHERE d.id IS NULL) AS ghosts
        FROM (SELECT document_id FROM {namespace.table} WHERE died IS NULL ORDER BY random() LIMIT %(n)s) c
        LEFT JOIN {DOCUMENTS} d ON d.id = c.document_id AND d.corpus_id = %(corpus)s AND NOT d.is_deleted
    """  # noqa: S608 - names of ours; the values are parameters
    [row] = _read(statement, {"n": n, "corpus": namespace.corpus_id})
    sampled, ghosts = int(row["sampled"]), int(row["ghosts"])
    return Ghosts(sampled, ghosts, ghosts / sampled if sampled else 0.0, upper_bound(ghosts, sampled))


def _read(statement: str, parameters: Mapping[str, Any]) -> list[Row]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
