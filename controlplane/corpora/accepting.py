"""Take changes of documents in: what is newer than a document's head becomes its head, and waits to be indexed.

Whatever order changes come in, however often and however late, a document ends at its newest revision; a tombstone wins
ties and stays, so that no replay brings a document back. A delete is done when this returns: no chunk of the document
is left in any namespace. All else becomes searchable later, and until then it is pending.

Not operations of people: none of them holds the audit chain. Locks are taken in one order: the corpus, heads by key,
chunks, what is pending.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any, Final

from django.db import connection, transaction

from controlplane.corpora.errors import InvalidChanges, TooManyChanges
from controlplane.corpora.models import MAX_KEY_CHARACTERS, Corpus, Namespace, NamespaceState, Purpose
from controlplane.corpora.policies import promises
from controlplane.corpora.vectors import forget
from dataplane.release import canonical
from dataplane.retrieval.hashes import content_digest
from dataplane.retrieval.policy import GLOBAL, PGVECTOR
from dataplane.retrieval.tables import CHANNEL, DOCUMENTS, PENDING, write_token

MAX_CHANGES: Final = 1_000
MAX_CONTENT_CHARACTERS: Final = 1_000_000
MAX_METADATA_BYTES: Final = 32 * 1024
MAX_REVISION: Final = 2**63 - 1
_NUL: Final = "\x00"
# As canonical JSON writes the one character that PostgreSQL keeps nowhere; an even number of \ before it means others.
_NUL_IN_JSON: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")

_CORPUS: Final = "SELECT low_water FROM corpora_corpus WHERE id = %(corpus)s FOR SHARE"
_HEADS: Final = f"""
SELECT source_key, source_rev, is_deleted, content_sha256, seq FROM {DOCUMENTS}
WHERE corpus_id = %(corpus)s AND source_key = ANY(%(keys)s::varchar[])
"""  # noqa: S608 - names of ours; the values are parameters
# In the order of the arrays, which is that of keys: two batches that share some never wait for each other in a circle.
# A row that is not newer is locked all the same, and left as it is.
_UPSERT: Final = f"""
INSERT INTO {DOCUMENTS} AS head (
    corpus_id, source_key, source_rev, is_deleted, content, metadata, content_sha256, event_at, accepted_at, seq
)
SELECT %(corpus)s, c.key, c.rev, c.is_deleted, c.content, c.metadata::jsonb, c.digest, c.event_at, %(now)s,
       nextval('corpora_seq')
FROM unnest(
    %(keys)s::varchar[], %(revs)s::bigint[], %(deletes)s::boolean[], %(contents)s::text[], %(metadata)s::text[],
    %(digests)s::varchar[], %(events)s::timestamptz[]
) WITH ORDINALITY AS c (key, rev, is_deleted, content, metadata, digest, event_at, place)
WHERE c.rev > %(low_water)s OR EXISTS (
    SELECT FROM {DOCUMENTS} known WHERE known.corpus_id = %(corpus)s AND known.source_key = c.key
)
ORDER BY c.place
ON CONFLICT (corpus_id, source_key) DO UPDATE SET
    source_rev = excluded.source_rev, is_deleted = excluded.is_deleted, content = excluded.content,
    metadata = excluded.metadata, content_sha256 = excluded.content_sha256, event_at = excluded.event_at,
    accepted_at = excluded.accepted_at,
    -- Drawn under the row's lock, so that the numbers of a key grow as its revisions do.
    seq = nextval('corpora_seq')
WHERE (excluded.source_rev, excluded.is_deleted) > (head.source_rev, head.is_deleted)
RETURNING id, source_key, is_deleted, seq, event_at
"""  # noqa: S608 - names of ours; the values are parameters
# What was poisoned was the revision before: its age is nobody's lag any more.
_WAITS: Final = f"""
INSERT INTO {PENDING} AS p (
    namespace_id, document_id, first_seq, last_seq, since, due_at, owner, failures, is_poisoned
)
SELECT n.id, c.document, c.seq, c.seq, least(c.event_at, %(now)s), %(now)s, '', 0, false
FROM unnest(%(namespaces)s::bigint[]) AS n (id)
CROSS JOIN unnest(%(documents)s::bigint[], %(seqs)s::bigint[], %(events)s::timestamptz[]) AS c (document, seq, event_at)
ORDER BY n.id, c.document
ON CONFLICT (namespace_id, document_id) DO UPDATE SET
    first_seq = least(p.first_seq, excluded.first_seq), last_seq = excluded.last_seq,
    since = CASE WHEN p.is_poisoned THEN excluded.since ELSE least(p.since, excluded.since) END,
    due_at = excluded.due_at, owner = '', leased_until = NULL, failures = 0, is_poisoned = false
"""  # noqa: S608 - names of ours; the values are parameters
_FORGET: Final = "DELETE FROM {table} WHERE document_id = ANY(%(documents)s::bigint[]) RETURNING id"
_WAITS_NO_MORE: Final = f"DELETE FROM {PENDING} WHERE document_id = ANY(%(documents)s::bigint[])"  # noqa: S608 - as above
_TELL: Final = "SELECT pg_notify(%(channel)s, %(corpus)s::text)"


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one document at its source.

    Attributes:
        source_rev: Monotone per key, as the source counts; >= 0.
        content, metadata: Of an upsert; empty for a tombstone.
        event_at: When it happened there.
    """

    source_key: str
    source_rev: int
    is_deleted: bool
    content: str
    metadata: Mapping[str, Any]
    event_at: datetime

    @property
    def order(self) -> tuple[int, bool]:
        """The greater one wins."""
        return self.source_rev, self.is_deleted


class Fate(StrEnum):
    """What became of a change."""

    ACCEPTED = "accepted"
    SUPERSEDED = "superseded"  # something newer was there before
    DUPLICATE = "duplicate"  # exactly this was there before
    CONFLICT = "conflict"  # another content of the same revision was there before, and stays


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of each change, in their order.

    Attributes:
        token: Whoever reads with it as `at_least` finds every document of the batch at the revision that it had
            afterwards, or a newer one; None: none of them is known, all were replays.
    """

    fates: tuple[Fate, ...]
    token: str | None


@dataclass(frozen=True, slots=True)
class _Head:
    """What a document stood at."""

    order: tuple[int, bool]
    digest: str
    seq: int


def accept_changes(*, corpus: Corpus, changes: Sequence[Change], now: datetime) -> Accepted:
    """Take a batch in, all of it or none, in a number of statements that does not grow with it. Taking it in again
    changes nothing.

    Raises:
        TooManyChanges: over MAX_CHANGES.
        InvalidChanges: some cannot be taken in; it names each of them.
    """
    if len(changes) > MAX_CHANGES:
        raise TooManyChanges(f"{len(changes)} changes in one batch; send at most {MAX_CHANGES} at once")
    digests, written = check_changes(changes)
    if not changes:
        return Accepted((), None)
    by_key: dict[str, list[int]] = {}
    for index in sorted(range(len(changes)), key=lambda at: (changes[at].source_key, changes[at].order)):
        by_key.setdefault(changes[index].source_key, []).append(index)
    # Of equals, the first that came.
    last = {key: min(run, key=lambda at: _last_first(changes[at], at)) for key, run in by_key.items()}
    with transaction.atomic():
        is_several = len(by_key) < len(changes)
        low_water = _lock_corpus(corpus)
        before = _heads(corpus, [key for key, run in by_key.items() if len(run) > 1]) if is_several else {}
        winners = [changes[index] for index in last.values()]
        parameters = {
            "corpus": corpus.pk,
            "now": now,
            "low_water": low_water,
            "keys": list(last),
            "revs": [change.source_rev for change in winners],
            "deletes": [change.is_deleted for change in winners],
            "contents": [change.content for change in winners],
            "metadata": [written[index] for index in last.values()],
            "digests": [digests[index] for index in last.values()],
            "events": [change.event_at for change in winners],
        }
        rows = _run(_UPSERT, parameters)
        new = {row[1]: row for row in rows}
        others = _heads(corpus, [key for key in last if key not in new])
        if new:
            _spread(corpus, list(new.values()), now)
    fates: list[Fate] = [Fate.SUPERSEDED] * len(changes)
    for key, run in by_key.items():
        head = before.get(key) if key in new else others.get(key)
        if key not in new and head is None:
            continue  # a replay from below the low-water mark
        for index in run:
            fates[index] = _fate(changes[index], digests[index], head)
            if fates[index] is Fate.ACCEPTED:
                head = _Head(changes[index].order, digests[index], 0)
    seqs = [row[3] for row in rows] + [head.seq for head in others.values()]
    return Accepted(tuple(fates), write_token(max(seqs)) if seqs else None)


def _last_first(change: Change, index: int) -> tuple[int, bool, int]:
    return -change.source_rev, not change.is_deleted, index


def _fate(change: Change, digest: str, head: _Head | None) -> Fate:
    if head is None or change.order > head.order:
        return Fate.ACCEPTED
    if change.order < head.order:
        return Fate.SUPERSEDED
    return Fate.DUPLICATE if digest == head.digest else Fate.CONFLICT


def _lock_corpus(corpus: Corpus) -> int:
    """Hold the corpus, so that no namespace is made or dropped, and no mark raised, under this batch. Returns the
    mark: what is at or below it is a replay, unless its key is known.
    """
    [(low_water,)] = _run(_CORPUS, {"corpus": corpus.pk})
    if not low_water:
        return -1
    promised = promises().get(corpus.slug)
    # Where keys count by themselves now, a mark from before says nothing of them.
    return int(low_water) if promised is not None and promised.revisions == GLOBAL else -1


def _heads(corpus: Corpus, keys: Sequence[str]) -> dict[str, _Head]:
    if not keys:
        return {}
    rows = _run(_HEADS, {"corpus": corpus.pk, "keys": list(keys)})
    return {key: _Head((rev, is_deleted), digest, seq) for key, rev, is_deleted, digest, seq in rows}


def _spread(corpus: Corpus, rows: Sequence[tuple[Any, ...]], now: datetime) -> None:
    """Have what was accepted indexed into every namespace that serves or may; what was deleted is gone from all."""
    namespaces = list(corpus.namespaces.exclude(state=NamespaceState.DROPPED).order_by("pk"))
    deleted = sorted(row[0] for row in rows if row[2])
    if deleted:
        for namespace in namespaces:
            forget_chunks(namespace, deleted)
        _run(_WAITS_NO_MORE, {"documents": deleted})
    kept = [row for row in rows if not row[2]]
    serving = [one.pk for one in namespaces if one.purpose == Purpose.SERVING]
    if kept and serving:
        waits = {
            "namespaces": serving,
            "documents": [row[0] for row in kept],
            "seqs": [row[3] for row in kept],
            "events": [row[4] for row in kept],
        }
        _run(_WAITS, {**waits, "now": now})
        _run(_TELL, {"channel": CHANNEL, "corpus": corpus.pk})


def forget_chunks(namespace: Namespace, documents: Sequence[int]) -> int:
    """Remove every chunk of documents from a namespace, of snapshots too, in the caller's transaction, which holds
    their heads. Returns how many. Vectors that are kept elsewhere go once it has committed.
    """
    gone = [row[0] for row in _run(_FORGET.format(table=namespace.table), {"documents": list(documents)})]
    if gone and namespace.store != PGVECTOR:
        # Without its row in PostgreSQL no vector is ever found, so one that stays for now harms nobody.
        transaction.on_commit(partial(forget, namespace, gone))
    return len(gone)


def _run(statement: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return [] if cursor.description is None else cursor.fetchall()


# --- what can be taken in --------------------------------------------------------------------------------------------
def check_changes(changes: Sequence[Change]) -> tuple[list[str], list[str]]:
    """The digest of each change (empty for a tombstone), and its metadata as JSON.

    Raises:
        InvalidChanges: some cannot be taken in; it names each of them.
    """
    problems: list[tuple[int, str, str]] = []
    digests, written = [], []
    for index, change in enumerate(changes):
        wrong = list(_problems(change))
        try:
            metadata = canonical(dict(change.metadata))
        except (ValueError, TypeError, RecursionError) as exc:
            metadata, wrong = b"{}", [*wrong, ("metadata", f"it cannot be written as JSON: {exc}"[:300])]
        if _NUL_IN_JSON.search(metadata):
            wrong.append(("metadata", "it holds the character U+0000, which cannot be kept"))
        if len(metadata) > MAX_METADATA_BYTES:
            wrong.append(("metadata", f"{len(metadata)} bytes of JSON; at most {MAX_METADATA_BYTES}"))
        problems += [(index, member, what) for member, what in wrong]
        if not wrong:
            digests.append("" if change.is_deleted else content_digest(change.content, dict(change.metadata)))
            written.append(metadata.decode())
    if problems:
        raise InvalidChanges(problems)
    return digests, written


def _problems(change: Change) -> Iterator[tuple[str, str]]:
    if not change.source_key.strip() or len(change.source_key) > MAX_KEY_CHARACTERS:
        yield "key", f"expected 1 to {MAX_KEY_CHARACTERS} characters, not {len(change.source_key)}"
    if isinstance(change.source_rev, bool) or not 0 <= change.source_rev <= MAX_REVISION:
        yield "rev", f"expected a whole number from 0 to {MAX_REVISION}, not {change.source_rev!r}"
    if len(change.content) > MAX_CONTENT_CHARACTERS:
        yield "content", f"{len(change.content)} characters; at most {MAX_CONTENT_CHARACTERS}"
    if change.is_deleted and (change.content or change.metadata):
        yield "content", "a delete has no content and no metadata"
    if change.event_at.tzinfo is None:
        yield "event_time", "expected a time with its zone"
    for member, text in (("key", change.source_key), ("content", change.content)):
        if _NUL in text:
            yield member, "it holds the character U+0000, which cannot be kept"
        elif not _is_whole(text):
            yield member, "it holds half of a character (a lone surrogate)"


def _is_whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
