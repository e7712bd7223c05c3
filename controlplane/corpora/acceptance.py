"""What is asked of a namespace before it is trusted: a quick look that sees a loss, and every check after a recovery.

Documents that changed after a namespace was brought up to date are no part of it: they are in nobody's way who goes on
writing, and no mistake of whoever restored.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from django.db import connection, transaction

from controlplane.corpora.models import Corpus, Document, Namespace
from controlplane.corpora.reconciling import find_differing, sample_corrupt
from controlplane.corpora.vectors import external
from dataplane.retrieval.acceptance import (
    RECALL_AT,
    SAMPLES,
    Check,
    check_counts,
    check_digests,
    check_recall,
    check_samples,
    recall,
)
from dataplane.retrieval.hashes import Vector, read_sent
from dataplane.retrieval.tables import DOCUMENTS, PENDING

QUESTIONS: Final = 50
# Beside a vector of length 1: far enough that a question is nobody's own vector, near enough to ask for its kind.
NOISE: Final = 0.3
# Two distances that differ by less are of chunks that say the same.
_SAME: Final = 1e-6

# Of documents that are indexed in both as they stood at the mark.
_COUNTS: Final = f"""
WITH settled AS (
    SELECT d.id, d.source_rev FROM {DOCUMENTS} d
    WHERE d.corpus_id = %(corpus)s AND NOT d.is_deleted AND d.seq <= %(seq)s AND NOT EXISTS (
        SELECT FROM {PENDING} p WHERE p.document_id = d.id AND p.namespace_id IN (%(before)s, %(after)s)
    )
)
SELECT
    (SELECT count(*) FROM {{before}} c JOIN settled s ON s.id = c.document_id AND s.source_rev = c.source_rev
     WHERE c.died IS NULL),
    (SELECT count(*) FROM {{after}} c JOIN settled s ON s.id = c.document_id AND s.source_rev = c.source_rev
     WHERE c.died IS NULL)
"""  # noqa: S608 - names of ours; the values are parameters
_DRAW: Final = """
SELECT vector_send(embedding) FROM {table} WHERE died IS NULL AND embedding IS NOT NULL ORDER BY random() LIMIT %(n)s
"""
_DRAW_IDS: Final = "SELECT id FROM {table} WHERE died IS NULL ORDER BY random() LIMIT %(n)s"
# The questions are read as vectors here, and not in the inner query, which would read them again for every chunk.
_NEAREST: Final = """
SELECT ARRAY(
    SELECT c.embedding <=> q.asked FROM {table} c WHERE c.died IS NULL ORDER BY c.embedding <=> q.asked LIMIT %(limit)s
) FROM unnest(%(asked)s::text[]::vector[]) WITH ORDINALITY q (asked, place) ORDER BY q.place
"""


# --- is something lost? ----------------------------------------------------------------------------------------------
def examine(namespace: Namespace, *, expected: int) -> Iterator[Check]:
    """What can be seen of a namespace by itself, the quickest first.

    Args:
        expected: Chunks that were there.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT count(*), count(*) FILTER (WHERE model <> %s) FROM {namespace.table} WHERE died IS NULL",  # noqa: S608 - a name of ours
            [namespace.model],
        )
        found, foreign = cursor.fetchone()
    yield check_counts(expected=expected, found=found)
    yield Check("model", foreign == 0, f"{foreign} of {found} chunks are of another model than {namespace.model}")
    drawn, bad = sample_corrupt(namespace, SAMPLES)
    yield check_samples(drawn=drawn, bad=bad, population=found)


# --- is it all back? -------------------------------------------------------------------------------------------------
def accept(corpus: Corpus, namespace: Namespace, *, peer: Namespace, seq: int) -> Iterator[Check]:
    """Everything that is asked of a namespace that came back.

    Args:
        peer: The namespace that was not lost, to count by.
        seq: Changes after it are no part of it.
    """
    yield _counts(corpus, namespace, peer, seq)
    compared, differing = find_differing(corpus=corpus, namespace=namespace)
    later = _changed_after(corpus, [one.document for one in differing], seq)
    yield check_digests(compared=compared - len(later), differing=len(differing) - len(later))
    drawn, bad = sample_corrupt(namespace, SAMPLES)
    yield check_samples(drawn=drawn, bad=bad, population=count_chunks(namespace))
    measured, questions = measure_recall(namespace)
    yield check_recall(measured=measured, questions=questions)


def count_chunks(namespace: Namespace) -> int:
    """Of what can be found."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {namespace.table} WHERE died IS NULL")  # noqa: S608 - a name of ours
        return int(cursor.fetchone()[0])


def _counts(corpus: Corpus, namespace: Namespace, peer: Namespace, seq: int) -> Check:
    with connection.cursor() as cursor:
        cursor.execute(
            _COUNTS.format(before=peer.table, after=namespace.table),
            {"corpus": corpus.pk, "seq": seq, "before": peer.pk, "after": namespace.pk},
        )
        expected, found = cursor.fetchone()
    return check_counts(expected=expected, found=found)


def _changed_after(corpus: Corpus, documents: Sequence[int], seq: int) -> set[int]:
    changed = Document.objects.filter(corpus=corpus, pk__in=documents, seq__gt=seq)
    return set(changed.values_list("pk", flat=True))


def measure_recall(namespace: Namespace, *, questions: int = QUESTIONS, seed: int = 0) -> tuple[float, int]:
    """Recall@10 of the approximate index against exact search, over questions near to what is there; and how many
    those were. 1.0 of none. Both are asked of whoever searches the namespace's vectors.

    Chunks that are equally near stand for each other, so ranks are compared and not ids.

    Raises:
        VectorsNowhere, VectorsUnavailable: nobody can be asked.
    """
    asked = _questions(namespace, questions, seed)
    if not asked:
        return 1.0, 0
    exact = _nearest(namespace, asked, is_exact=True)
    found = _nearest(namespace, asked, is_exact=False)
    hits = [
        range(sum(distance <= near[-1] + _SAME for distance in got)) if near else range(0)
        for got, near in zip(found, exact, strict=True)
    ]
    return recall(hits, [range(len(near)) for near in exact]), len(asked)


def _questions(namespace: Namespace, count: int, seed: int) -> list[Vector]:
    """Of length 1, as those of searches."""
    there = _draw(namespace, count)
    rng = np.random.default_rng(seed)
    # As many as were asked for, however few chunks there are.
    drawn = [there[at % len(there)] for at in range(count)] if there else []
    return [_unit(vector + NOISE * _direction(rng, len(vector))) for vector in drawn]


def _draw(namespace: Namespace, count: int) -> list[Vector]:
    """The vectors of so many chunks that can be found, at random."""
    store = external(namespace.store)
    with connection.cursor() as cursor:
        cursor.execute((_DRAW if store is None else _DRAW_IDS).format(table=namespace.table), {"n": count})
        rows = cursor.fetchall()
    if store is None:
        return [read_sent(bytes(sent)) for (sent,) in rows]
    return list(store.fetch(namespace, [number for (number,) in rows]).values())


def _written(vector: Vector) -> str:
    """A vector as pgvector reads it, to the bit."""
    return f"[{','.join(map(repr, vector.tolist()))}]"


def _unit(vector: Any) -> Vector:
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


def _direction(rng: np.random.Generator, dimensions: int) -> Any:
    vector = rng.standard_normal(dimensions)
    return vector / np.linalg.norm(vector)


def _nearest(namespace: Namespace, asked: Sequence[Vector], *, is_exact: bool) -> list[list[float]]:
    """The distances of what is nearest to each question, the nearest first."""
    if (store := external(namespace.store)) is not None:
        near = store.nearest(namespace, asked, limit=RECALL_AT, is_exact=is_exact)
        return [[distance for _, distance in one] for one in near]
    with transaction.atomic(), connection.cursor() as cursor:
        if is_exact:
            cursor.execute("SET LOCAL enable_indexscan = off")
        else:
            # As a search does, whose planner would look through a small table as a whole.
            cursor.execute("SET LOCAL hnsw.iterative_scan = strict_order")
            cursor.execute("SET LOCAL enable_seqscan = off")
            cursor.execute("SET LOCAL enable_sort = off")
        questions: dict[str, Any] = {"asked": [_written(one) for one in asked], "limit": RECALL_AT}
        cursor.execute(_NEAREST.format(table=namespace.table), questions)
        found = [list(row[0]) for row in cursor.fetchall()]
        cursor.execute("SET LOCAL enable_indexscan = on")
        cursor.execute("SET LOCAL enable_seqscan = on")
        cursor.execute("SET LOCAL enable_sort = on")
        return found
