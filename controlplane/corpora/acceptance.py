"""What is asked of a namespace before it is trusted: a quick look that sees a loss, and every check after a recovery.

Documents that changed after a namespace was brought up to date are no part of it: they are in nobody's way who goes on
writing, and no mistake of whoever restored.
"""

from collections.abc import Iterable, Iterator, Sequence
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
from dataplane.retrieval.hashes import read_sent
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
    # What another store finds it alone can say, and it keeps no table to compare that with.
    if external(namespace.store) is None:
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
    those were. 1.0 of none.

    Chunks that are equally near stand for each other, so ranks are compared and not ids.
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


def _questions(namespace: Namespace, count: int, seed: int) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(_DRAW.format(table=namespace.table), {"n": count})
        sent = [read_sent(bytes(row[0])) for row in cursor.fetchall()]
    rng = np.random.default_rng(seed)
    # As many as were asked for, however few chunks there are.
    drawn = [sent[at % len(sent)] for at in range(count)] if sent else []
    return [_written(vector + NOISE * _direction(rng, len(vector))) for vector in drawn]


def _written(vector: Iterable[np.float32]) -> str:
    """A vector as pgvector reads it, to the bit."""
    return f"[{','.join(map(repr, np.asarray(vector, dtype=np.float32).tolist()))}]"


def _direction(rng: np.random.Generator, dimensions: int) -> Any:
    vector = rng.standard_normal(dimensions)
    return vector / np.linalg.norm(vector)


def _nearest(namespace: Namespace, asked: Sequence[str], *, is_exact: bool) -> list[list[float]]:
    """The distances of what is nearest to each question, the nearest first."""
    with transaction.atomic(), connection.cursor() as cursor:
        if is_exact:
            cursor.execute("SET LOCAL enable_indexscan = off")
        else:
            # As a search does, whose planner would look through a small table as a whole.
            cursor.execute("SET LOCAL hnsw.iterative_scan = strict_order")
            cursor.execute("SET LOCAL enable_seqscan = off")
            cursor.execute("SET LOCAL enable_sort = off")
        cursor.execute(_NEAREST.format(table=namespace.table), {"asked": list(asked), "limit": RECALL_AT})
        found = [list(row[0]) for row in cursor.fetchall()]
        cursor.execute("SET LOCAL enable_indexscan = on")
        cursor.execute("SET LOCAL enable_seqscan = on")
        cursor.execute("SET LOCAL enable_sort = on")
        return found
