"""Make accepted changes searchable: take what is pending, embed it, and put it in the place of what was there.

Any number of processes may index a namespace. What one takes is leased to it for a while and embedded outside any
transaction; then all of a batch becomes searchable in one, at one index revision, so that nobody ever reads chunks of
two revisions of a document. A document that changed or went meanwhile is left to whoever takes it next.

Who embeds may be away: that is no document's fault, and nobody counts it. A document that nothing can index is buried
alone, as a dead letter, and the others go on.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from random import Random
from time import monotonic
from typing import Any, Final
from uuid import UUID

from django.db import DataError, connection, transaction
from django.utils import timezone

from controlplane.corpora.chunks import Chunk, Head, cut_head, draw_ids, end_chunks, known_vectors, put_chunks
from controlplane.corpora.embedding import MAX_TEXTS, Embedder
from controlplane.corpora.errors import NotEmbedded
from controlplane.corpora.models import Namespace, NamespaceState
from controlplane.corpora.vectors import external, forget
from controlplane.work import deaths
from controlplane.work.handlers import Attempt
from dataplane.deadletters import Category, Failure, category_of
from dataplane.ids import new_id
from dataplane.retrieval.hashes import Vector
from dataplane.retrieval.tables import CHANNEL, DOCUMENTS, NAMESPACES, PENDING
from dataplane.retry import backoff

logger = logging.getLogger(__name__)

INDEX_AGAIN: Final = "corpora.index_again"
WORK: Final = "index"
MAX_DOCUMENTS: Final = 64
# Of what is being built: nobody waits for the first of them to be found, and each batch costs its round trips.
MAX_DOCUMENTS_BUILDING: Final = 256
# A batch that has so much text takes no further document, lest it outlives its lease.
MAX_OCTETS: Final = 512 * 1024
# Whoever had it is held dead after so long. Two who have the same document do no harm: one of them comes too late.
LEASE: Final = timedelta(seconds=120)
MAX_FAILURES: Final = 3
BASE_SECONDS: Final = 5.0
CAP_SECONDS: Final = 300.0
# Any model embeds that. If not even that is, no document is to blame.
_CONTROL: Final = "Hello"

_STANDING: Final = f"SELECT state FROM {NAMESPACES} WHERE id = %(namespace)s FOR SHARE"  # noqa: S608 - a name of ours
_TAKE: Final = f"""
WITH due AS (
    SELECT id, document_id, due_at FROM {PENDING}
    WHERE namespace_id = %(namespace)s AND NOT is_poisoned AND due_at <= %(now)s
      AND (leased_until IS NULL OR leased_until <= %(now)s)
    ORDER BY due_at, id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), measured AS (
    SELECT u.id, sum(octet_length(d.content)) OVER (ORDER BY u.due_at, u.id) - octet_length(d.content) AS before
    FROM due u JOIN {DOCUMENTS} d ON d.id = u.document_id
)
UPDATE {PENDING} p SET owner = %(owner)s, leased_until = %(until)s FROM measured m
WHERE m.id = p.id AND m.before < %(octets)s
RETURNING p.document_id
"""  # noqa: S608 - names of ours; the values are parameters
_READ: Final = f"""
SELECT id, source_key, source_rev, seq, content, metadata, event_at FROM {DOCUMENTS}
WHERE id = ANY(%(documents)s::bigint[]) AND NOT is_deleted ORDER BY id
"""  # noqa: S608 - as above
# In the order in which changes are taken in: see `accepting`.
_HOLD: Final = f"""
SELECT id, seq FROM {DOCUMENTS} WHERE id = ANY(%(documents)s::bigint[]) ORDER BY source_key COLLATE "C" FOR SHARE
"""  # noqa: S608 - as above
_STEP: Final = f"""
UPDATE {NAMESPACES} SET index_rev = index_rev + 1 WHERE id = %(namespace)s AND state <> %(dropped)s RETURNING index_rev
"""  # noqa: S608 - as above
_STILL: Final = f"""
SELECT document_id FROM {PENDING} WHERE namespace_id = %(namespace)s AND document_id = ANY(%(documents)s::bigint[])
"""  # noqa: S608 - as above
# What the batch took is noted in the same step, of a namespace that is being built: a rebuild is predicted by that.
_DONE: Final = f"""
WITH noted AS (
    UPDATE {NAMESPACES} SET build_seconds = build_seconds + %(seconds)s, build_chunks = build_chunks + %(chunks)s,
        build_tokens = build_tokens + %(tokens)s, build_cost_micros = build_cost_micros + %(cost_micros)s
    WHERE id = %(namespace)s AND state = %(building)s
)
DELETE FROM {PENDING} WHERE namespace_id = %(namespace)s AND document_id = ANY(%(documents)s::bigint[])
"""  # noqa: S608 - as above
_LET_GO: Final = f"""
UPDATE {PENDING} SET owner = '', leased_until = NULL
WHERE namespace_id = %(namespace)s AND document_id = ANY(%(documents)s::bigint[]) AND owner = %(owner)s
"""  # noqa: S608 - as above
_FAIL: Final = f"""
UPDATE {PENDING} SET failures = failures + 1, owner = '', leased_until = NULL,
    due_at = %(now)s + make_interval(secs => %(seconds)s), is_poisoned = failures + 1 >= %(most)s
WHERE namespace_id = %(namespace)s AND document_id = %(document)s AND last_seq = %(seq)s AND NOT is_poisoned
RETURNING failures, is_poisoned
"""  # noqa: S608 - as above
_FAILURES: Final = f"""
SELECT failures FROM {PENDING} WHERE namespace_id = %(namespace)s AND document_id = %(document)s
"""  # noqa: S608 - as above
_AGAIN: Final = f"""
UPDATE {PENDING} p SET is_poisoned = false, failures = 0, due_at = %(now)s, owner = '', leased_until = NULL
FROM {DOCUMENTS} d
WHERE d.id = p.document_id AND p.namespace_id = %(namespace)s AND d.source_key = %(key)s AND p.is_poisoned
RETURNING d.corpus_id
"""  # noqa: S608 - as above
_COUNT: Final = f"SELECT count(*) FROM {PENDING} WHERE namespace_id = %(namespace)s AND NOT is_poisoned"  # noqa: S608 - as above
_TELL: Final = "SELECT pg_notify(%(channel)s, %(corpus)s::text)"


@dataclass(frozen=True, slots=True)
class Indexed:
    """What became of what was taken.

    Attributes:
        documents: That became searchable, of which `chunks` chunks.
        tokens, cost_micros: Of embedding what was not known yet.
        poisoned: Documents that were given up.
        taken: Documents, whatever became of them.
    """

    documents: int = 0
    chunks: int = 0
    tokens: int = 0
    cost_micros: int = 0
    poisoned: int = 0
    taken: int = 0

    def __add__(self, other: "Indexed") -> "Indexed":
        return Indexed(
            self.documents + other.documents,
            self.chunks + other.chunks,
            self.tokens + other.tokens,
            self.cost_micros + other.cost_micros,
            self.poisoned + other.poisoned,
            self.taken + other.taken,
        )


class _Bad(Exception):
    """One document cannot be indexed, as it is."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def index_all(
    *,
    namespace: Namespace,
    embedder: Embedder,
    owner: str,
    now: Callable[[], datetime] = timezone.now,
    progress: Callable[[int, int], None] = lambda done, of: None,
    limit: int | None = None,
) -> Indexed:
    """Index until nothing is due. `progress` is told how many documents are done, and of how many.

    Raises:
        NotEmbedded: nobody embeds at the moment; what was done stays.
    """
    [(waiting,)] = _run(_COUNT, {"namespace": namespace.pk})
    total = Indexed()
    while True:
        one = index_pending(namespace=namespace, embedder=embedder, owner=owner, now=now(), limit=limit)
        if not one.taken:
            return total
        total += one
        progress(total.documents, max(waiting, total.documents))


def index_pending(
    *,
    namespace: Namespace,
    embedder: Embedder,
    owner: str,
    now: datetime,
    limit: int | None = None,
    clock: Callable[[], float] = monotonic,
) -> Indexed:
    """Index one batch of what is due, the oldest first; it is one index revision.

    Args:
        owner: Who asks; no two at a time under one name.
        limit: Documents at most; more of a namespace that is built than of one that serves, unless told.
        clock: Monotonic seconds.
    Raises:
        NotEmbedded: nobody embeds at the moment; nothing is leased to `owner` any more.
    """
    began = clock()
    if limit is None:
        limit = MAX_DOCUMENTS_BUILDING if namespace.state == NamespaceState.BUILDING else MAX_DOCUMENTS
    heads = _take(namespace, owner=owner, now=now, limit=limit)
    if heads is None:
        return Indexed()
    batch = _Batch(namespace, embedder, owner, now, began=began, clock=clock)
    try:
        return batch.index(heads)
    except Exception:
        batch.let_go(heads)
        raise


def _take(namespace: Namespace, *, owner: str, now: datetime, limit: int) -> list[Head] | None:
    """Lease what is due, and read it; None: nothing is, or the namespace is gone."""
    asked = {
        "namespace": namespace.pk,
        "owner": owner,
        "until": now + LEASE,
        "now": now,
        "limit": limit,
        "octets": MAX_OCTETS,
    }
    while True:
        with transaction.atomic():
            state = _run(_STANDING, asked)
            if not state or state[0][0] == NamespaceState.DROPPED:
                return None
            taken = _run(_TAKE, asked)
        if not taken:
            return None
        rows = _run(_READ, {"documents": [row[0] for row in taken]})
        # What was deleted between the two has nothing pending any more, so that this ends.
        if rows:
            return [Head(row[0], row[1], row[2], row[3], row[4], _mapping(row[5]), row[6]) for row in rows]


class _Batch:
    """What one process has taken of one namespace."""

    def __init__(
        self,
        namespace: Namespace,
        embedder: Embedder,
        owner: str,
        now: datetime,
        *,
        began: float,
        clock: Callable[[], float],
    ) -> None:
        self._namespace = namespace
        self._embedder = embedder
        self._owner = owner
        self._now = now
        self._clock = clock
        self._tokens = 0
        self._cost_micros = 0
        # What of it is noted: until when, and after how many tokens and microdollars.
        self._noted = (began, 0, 0)

    def index(self, heads: Sequence[Head]) -> Indexed:
        """Index all of them together; if one of them spoils it, each alone."""
        try:
            done = self._index_together(heads)
        except (_Bad, DataError):
            parts = [self._index_alone(head) for head in heads]
            done = sum(parts, Indexed())
        return replace(done, tokens=self._tokens, cost_micros=self._cost_micros, taken=len(heads))

    def let_go(self, heads: Sequence[Head]) -> None:
        """Leave documents to whoever comes next."""
        documents = [head.document for head in heads]
        _run(_LET_GO, {"namespace": self._namespace.pk, "documents": documents, "owner": self._owner})

    def _index_alone(self, head: Head) -> Indexed:
        try:
            return self._index_together([head])
        except _Bad as exc:
            failure = exc.failure
        except DataError as exc:
            failure = Failure(Category.VALIDATION, "unstorable", f"the database refuses its chunks: {exc}")
        return self._fail(head, failure)

    def _index_together(self, heads: Sequence[Head]) -> Indexed:
        chunks = self._chunks(heads)
        store = external(self._namespace.store)
        if store is not None and chunks:
            store.put(self._namespace, {chunk.id: chunk.vector for chunk in chunks})
        kept: frozenset[int] = frozenset()
        try:
            kept = self._apply(heads, chunks)
        finally:
            if store is not None:
                forget(self._namespace, [one.id for one in chunks if one.head.document not in kept])
        made = sum(chunk.head.document in kept for chunk in chunks)
        return Indexed(documents=len(kept), chunks=made)

    def _chunks(self, heads: Sequence[Head]) -> list[Chunk]:
        """Cut and embed; what a document said before in the same words keeps its vector."""
        texts = [(head, ordinal, text) for head in heads for ordinal, text in enumerate(self._cut(head))]
        known = known_vectors(self._namespace, [head.document for head in heads])
        new = list(dict.fromkeys(text for head, _, text in texts if (head.document, text) not in known))
        fresh = self._embed(new)
        vectors = {(head.document, text): fresh[text] for head, _, text in texts if text in fresh} | known
        ids = draw_ids(len(texts)) if texts else []
        return [
            Chunk(chunk, head, ordinal, text, vectors[head.document, text])
            for chunk, (head, ordinal, text) in zip(ids, texts, strict=True)
        ]

    def _cut(self, head: Head) -> list[str]:
        try:
            return cut_head(self._namespace, head)
        except Exception as exc:
            # Cutting is a function of the document alone: whoever tries again sees the same.
            raise _Bad(Failure(Category.BUG, type(exc).__name__, f"it cannot be cut: {exc}")) from exc

    def _embed(self, texts: Sequence[str]) -> dict[str, Vector]:
        found: dict[str, Vector] = {}
        for first in range(0, len(texts), MAX_TEXTS):
            some = texts[first : first + MAX_TEXTS]
            try:
                embedded = self._embedder.embed(some)
            except NotEmbedded as exc:
                if not exc.may_be_the_texts or list(some) == [_CONTROL]:
                    raise
                self._require_control()
                raise _Bad(Failure(category_of(exc.why), exc.why, str(exc))) from exc
            self._tokens += embedded.tokens
            self._cost_micros += embedded.cost_micros
            found |= zip(some, embedded.vectors, strict=True)
        return found

    def _require_control(self) -> None:
        """See that others' words are embedded.

        Raises:
            NotEmbedded: not even those; it is no document's fault.
        """
        try:
            self._embedder.embed([_CONTROL])
        except NotEmbedded as exc:
            raise NotEmbedded(str(exc), why=exc.why) from exc

    @transaction.atomic
    def _apply(self, heads: Sequence[Head], chunks: Sequence[Chunk]) -> frozenset[int]:
        """Make it searchable, all in one index revision. Returns the documents that still stood as they were taken."""
        here = {"namespace": self._namespace.pk}
        held = dict(_run(_HOLD, {"documents": [head.document for head in heads]}))
        same = [head.document for head in heads if held.get(head.document) == head.seq]
        kept: frozenset[int] = frozenset()
        if same:
            stepped = _run(_STEP, {**here, "dropped": NamespaceState.DROPPED})
            if not stepped:
                return kept
            # Whoever holds the namespace's row is alone with what is pending of documents that he holds too.
            kept = frozenset(row[0] for row in _run(_STILL, {**here, "documents": same}))
            documents, [(index_rev,)] = sorted(kept), stepped
            end_chunks(self._namespace, documents, index_rev=index_rev, now=self._now)
            alive = [chunk for chunk in chunks if chunk.head.document in kept]
            put_chunks(self._namespace, alive, index_rev=index_rev, now=self._now)
            _run(_DONE, {**here, "documents": documents, **self._spent(len(alive))})
        self.let_go([head for head in heads if head.document not in kept])
        return kept

    def _spent(self, chunks: int) -> dict[str, Any]:
        """What was spent since this was asked last, for `_DONE`."""
        (since, tokens, cost_micros), now = self._noted, self._clock()
        self._noted = (now, self._tokens, self._cost_micros)
        return {
            "building": NamespaceState.BUILDING,
            "seconds": now - since,
            "chunks": chunks,
            "tokens": self._tokens - tokens,
            "cost_micros": self._cost_micros - cost_micros,
        }

    @transaction.atomic
    def _fail(self, head: Head, failure: Failure) -> Indexed:
        """Count a failure of a document's own; after MAX_FAILURES it is poisoned, and its letter is written with it."""
        here = {"namespace": self._namespace.pk, "document": head.document}
        before = _run(_FAILURES, here)
        failures = before[0][0] if before else 0
        # The same wait whoever tries: a document alone stampedes nobody.
        wait = backoff(failures + 1, base=BASE_SECONDS, cap=CAP_SECONDS, rng=Random(head.document))  # noqa: S311 - jitter
        parameters = {**here, "seq": head.seq, "now": self._now, "seconds": wait, "most": MAX_FAILURES}
        rows = _run(_FAIL, parameters)
        if not rows or not rows[0][1]:
            return Indexed()
        self._bury(head, failure, failures=rows[0][0])
        return Indexed(poisoned=1)

    def _bury(self, head: Head, failure: Failure, *, failures: int) -> None:
        corpus = self._namespace.corpus.slug
        arguments = {"corpus": corpus, "namespace": self._namespace.pk, "source_key": head.source_key}
        cause = {
            "at": self._now.isoformat(),
            "owner": self._owner,
            "code": failure.code,
            "message": failure.message,
            "status": 0,
        }
        logger.warning("document %r of corpus %r cannot be indexed: %s", head.source_key, corpus, failure.code)
        deaths.tell(
            deaths.Death(
                kind=WORK,
                name=INDEX_AGAIN,
                work_id=UUID(new_id(self._now.timestamp())),
                failure=failure,
                payload=json.dumps(arguments).encode(),
                attempts=failures,
                causes=[cause],
            ),
            now=self._now,
        )


# --- again -----------------------------------------------------------------------------------------------------------
def run_again(arguments: dict[str, Any], attempt: Attempt) -> None:
    """Have a document tried again that was given up: the work of its dead letter."""
    index_again(arguments["namespace"], arguments["source_key"], now=timezone.now())


@transaction.atomic
def index_again(namespace: int, source_key: str, *, now: datetime) -> bool:
    """Have a poisoned document tried afresh; False: it is none, any more."""
    rows = _run(_AGAIN, {"namespace": namespace, "key": source_key, "now": now})
    if rows:
        _run(_TELL, {"channel": CHANNEL, "corpus": rows[0][0]})
    return bool(rows)


def _mapping(value: Any) -> dict[str, Any]:
    """What a cursor gives of a jsonb column: Django has it come as text."""
    return dict(json.loads(value)) if isinstance(value, str) else dict(value)


def _run(statement: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return [] if cursor.description is None else cursor.fetchall()
