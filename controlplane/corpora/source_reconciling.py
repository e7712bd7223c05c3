"""Compare the documents of a corpus with what its source holds, and have the source tell again what differs.

Both ends sum up digests of what they have by bucket, each in its own server; only buckets that differ are compared row
by row. What waits in the outbox, or was taken in since the source was looked at, is on its way and no difference.

A document that the source does not have is deleted at its own revision, since a tombstone wins ties: any change that
the source makes of that key draws a later one, and is never lost to the repair.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import connection
from psycopg import sql
from psycopg.errors import LockNotAvailable

from controlplane.accounts.models import Operator
from controlplane.corpora import findings as record
from controlplane.corpora.accepting import MAX_CHANGES, Change, accept_changes
from controlplane.corpora.capturing import backfill_keys
from controlplane.corpora.errors import CorpusError
from controlplane.corpora.findings import Difference, Finding, Findings
from controlplane.corpora.models import Corpus, Reconciliation
from controlplane.corpora.outbox import BUCKETS, bucket_sql, digest_sql, function_of, sum_sql
from controlplane.corpora.policies import promised
from controlplane.corpora.sources import LONG_SECONDS, Connection, address_of, connect
from dataplane.retrieval.tables import DOCUMENTS

logger = logging.getLogger(__name__)

BUCKETS_AT_ONCE: Final = 32
KEYS_AT_ONCE: Final = 500

_HEAD_DIGEST: Final = digest_sql("d.source_key", "d.content", "d.metadata")
_HEAD_SUMS: Final = f"""
SELECT bucket, count(*), {sum_sql("digest")} FROM (
    SELECT {bucket_sql("d.source_key")} AS bucket, {_HEAD_DIGEST} AS digest FROM {DOCUMENTS} d
    WHERE d.corpus_id = %(corpus)s AND NOT d.is_deleted AND starts_with(d.source_key, %(prefix)s)
) heads GROUP BY bucket
"""  # noqa: S608 - names of ours; the values are parameters
_HEADS: Final = f"""
SELECT d.source_key, d.source_rev, d.is_deleted, d.seq, {_HEAD_DIGEST} FROM {DOCUMENTS} d
WHERE d.corpus_id = %(corpus)s AND starts_with(d.source_key, %(prefix)s)
    AND {bucket_sql("d.source_key")} = ANY(%(buckets)s)
"""  # noqa: S608 - as above
_HEAD_OF_ALL: Final = f"SELECT coalesce(max(source_rev), 0) FROM {DOCUMENTS} WHERE corpus_id = %(corpus)s"  # noqa: S608 - as above
# Of sequences nothing is undone, so this is as far as anybody's changes were counted.
_SEQ: Final = "SELECT last_value FROM corpora_seq"
_WAITING: Final = (
    "SELECT DISTINCT source_key FROM ballast_outbox WHERE corpus = %(corpus)s AND source_key = ANY(%(keys)s)"
)


class SourceEmpty(CorpusError):
    """A source that holds nothing at all is not believed: every document of the corpus would be deleted."""

    code = "source_empty"


@dataclass(frozen=True, slots=True)
class _Head:
    """A document as we have it."""

    source_rev: int
    is_deleted: bool
    seq: int
    digest: bytes


def reconcile_source(
    *,
    corpus: Corpus,
    source: str,
    actor: Operator | str,
    now: datetime,
    repair: bool,
    environment: Mapping[str, str] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Reconciliation:
    """Compare a corpus with one source of it. Returns what was found, as it is written down.

    To repair: the source tells again of what is missing or stale, through its outbox; what it does not have is deleted.

    Args:
        environment: Where its address is; None: this process' variables.
        clock: Monotonic seconds, for when it ended.
    Raises:
        UnknownCorpus: the policy in force names no such source.
        SourceEmpty: it holds nothing, and the corpus something; nothing was repaired.
        SourceUnavailable, psycopg.Error: the source is away.
    """
    address = address_of(corpus.slug, source)
    begun = clock()
    row = record.begin(corpus=corpus, scope=Reconciliation.Scope.SOURCE, source=source, actor=actor, now=now)
    found = Findings(buckets=BUCKETS)
    try:
        with connect(address, seconds=LONG_SECONDS, environment=environment) as database:
            _reconcile(
                corpus, database, found, is_alone=len(promised(corpus.slug).sources) == 1, repair=repair, now=now
            )
    except Exception as exc:
        record.end(row, found, now=now + timedelta(seconds=clock() - begun), error=str(exc) or type(exc).__name__)
        raise
    return record.end(row, found, now=now + timedelta(seconds=clock() - begun))


def _reconcile(
    corpus: Corpus, database: Connection, found: Findings, *, is_alone: bool, repair: bool, now: datetime
) -> None:
    prefix = _prefix(corpus, database)
    theirs = _their_sums(corpus, database)
    ours = {int(bucket): (count, total) for bucket, count, total in _run(_HEAD_SUMS, corpus=corpus.pk, prefix=prefix)}
    if ours and not theirs:
        raise SourceEmpty(
            f"the source holds no document and corpus {corpus.slug!r} has {sum(count for count, _ in ours.values())};"
            " look whether it is the right database, or delete them there first"
        )
    buckets = sorted(bucket for bucket in ours.keys() | theirs.keys() if ours.get(bucket) != theirs.get(bucket))
    found.compared = sum(max(_count(ours, one), _count(theirs, one)) for one in ours.keys() | theirs.keys())
    found.buckets_differing = len(buckets)
    if repair and buckets:
        _raise_clock(corpus, database)
    for start in range(0, len(buckets), BUCKETS_AT_ONCE):
        some = buckets[start : start + BUCKETS_AT_ONCE]
        differing = list(_differing(corpus, database, some, prefix=prefix, is_alone=is_alone or bool(prefix)))
        found.add(finding for finding, _ in differing)
        if repair:
            found.repaired += _repair(corpus, database, differing, now=now)


def _count(sums: Mapping[int, tuple[int, Any]], bucket: int) -> int:
    return sums.get(bucket, (0, None))[0]


def _their_sums(corpus: Corpus, database: Connection) -> dict[int, tuple[int, Any]]:
    statement = sql.SQL("SELECT l.bucket, count(*), {} FROM {}() l GROUP BY l.bucket")
    listing = sql.Identifier(function_of("listing", corpus.slug))
    rows = database.execute(statement.format(sql.SQL(sum_sql("l.digest")), listing)).fetchall()
    return {int(bucket): (count, total) for bucket, count, total in rows}


def _prefix(corpus: Corpus, database: Connection) -> str:
    """What all its keys begin with, where the corpus has other sources too."""
    name = sql.Identifier(function_of("prefix", corpus.slug))
    [(prefix,)] = database.execute(sql.SQL("SELECT {}()").format(name)).fetchall()
    return str(prefix)


def _raise_clock(corpus: Corpus, database: Connection) -> None:
    """See that what the source tells next is newer than all that we have of it."""
    [(newest,)] = _run(_HEAD_OF_ALL, corpus=corpus.pk)
    [(stood,)] = database.execute("SELECT last_value FROM ballast_rev").fetchall()
    if stood < newest:
        logger.warning("corpus %s has revision %d of a source that stands at %d", corpus.slug, newest, stood)
    database.execute("SELECT ballast_raise_rev(%(newest)s)", {"newest": newest})


def _differing(
    corpus: Corpus, database: Connection, buckets: Sequence[int], *, prefix: str, is_alone: bool
) -> Iterator[tuple[Finding, int]]:
    """What differs in some buckets, each with the revision that we have of it.

    Of three looks the first is at how far we have counted, the second at the source and what waits there, the third at
    our documents. What does not wait in the second was taken in before it, so the third shows it; what the third shows
    that was counted after the first is newer than the second.
    """
    [(seq,)] = _run(_SEQ)
    statement = sql.SQL("SELECT l.source_key, l.digest, l.is_waiting FROM {}() l WHERE l.bucket = ANY(%(buckets)s)")
    listing = sql.Identifier(function_of("listing", corpus.slug))
    with database.transaction():
        # One moment for both statements.
        database.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        rows = database.execute(statement.format(listing), {"buckets": list(buckets)}).fetchall()
        theirs = {key: (bytes(digest), is_waiting) for key, digest, is_waiting in rows}
        heads = {
            key: _Head(rev, is_deleted, counted, bytes(digest))
            for key, rev, is_deleted, counted, digest in _run(
                _HEADS, corpus=corpus.pk, prefix=prefix, buckets=list(buckets)
            )
        }
        lost = [key for key, head in heads.items() if key not in theirs and not head.is_deleted]
        waiting = {key for (key,) in database.execute(_WAITING, {"corpus": corpus.slug, "keys": lost}).fetchall()}
    for key, (digest, is_waiting) in theirs.items():
        head = heads.get(key)
        if is_waiting or (head is not None and head.seq > seq):
            continue
        if head is None or head.is_deleted:
            detail = "no document of it was ever taken in" if head is None else f"deleted at revision {head.source_rev}"
            yield Finding(Difference.MISSING, key, detail), 0 if head is None else head.source_rev
        elif head.digest != digest:
            detail = f"other words than those of revision {head.source_rev}"
            yield Finding(Difference.STALE, key, detail), head.source_rev
    if is_alone:
        for key in lost:
            if key not in waiting and heads[key].seq <= seq:
                detail = f"not at the source; taken in at revision {heads[key].source_rev}"
                yield Finding(Difference.EXTRA, key, detail), heads[key].source_rev


def _repair(corpus: Corpus, database: Connection, differing: Sequence[tuple[Finding, int]], *, now: datetime) -> int:
    told = sorted(finding.source_key for finding, _ in differing if finding.kind is not Difference.EXTRA)
    repaired = 0
    for start in range(0, len(told), KEYS_AT_ONCE):
        repaired += _tell_again(corpus, database, told[start : start + KEYS_AT_ONCE])
    extra = [(finding.source_key, rev) for finding, rev in differing if finding.kind is Difference.EXTRA]
    delete_documents(corpus, extra, now=now)
    return repaired + len(extra)


def _tell_again(corpus: Corpus, database: Connection, keys: Sequence[str]) -> int:
    """Have the source tell of documents, but of those that somebody is changing: they tell of themselves."""
    try:
        return backfill_keys(database, corpus.slug, keys)
    except LockNotAvailable:
        if len(keys) == 1:
            return 0
    half = len(keys) // 2
    return _tell_again(corpus, database, keys[:half]) + _tell_again(corpus, database, keys[half:])


def delete_documents(corpus: Corpus, documents: Sequence[tuple[str, int]], *, now: datetime) -> None:
    """Delete documents at the revisions that they have: what is newer by then stays."""
    for start in range(0, len(documents), MAX_CHANGES):
        some = documents[start : start + MAX_CHANGES]
        changes = [Change(key, rev, True, "", {}, now) for key, rev in some]
        accept_changes(corpus=corpus, changes=changes, now=now)


def _run(statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows
