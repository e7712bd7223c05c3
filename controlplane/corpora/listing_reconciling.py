"""Compare the documents of a corpus with a listing of what its source holds, where that is no database of ours to read.

A listing is of some moment in the past, so whoever sends one says of which: what was taken in since then is on its way
to his next listing and no difference.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.db import connection

from controlplane.accounts.models import Operator
from controlplane.corpora import findings as record
from controlplane.corpora.errors import CorpusError
from controlplane.corpora.findings import Difference, Finding, Findings
from controlplane.corpora.models import Corpus, Reconciliation
from controlplane.corpora.source_reconciling import delete_documents
from dataplane.retrieval.tables import DOCUMENTS, read_token, write_token

MAX_LISTED: Final = 10_000

_LISTED: Final = f"""
SELECT source_key, source_rev, is_deleted, content_sha256, seq FROM {DOCUMENTS}
WHERE corpus_id = %(corpus)s AND source_key = ANY(%(keys)s)
"""  # noqa: S608 - names of ours; the values are parameters
# By the bytes of keys, which is how code points are ordered.
_OTHERS: Final = f"""
SELECT source_key, source_rev FROM {DOCUMENTS}
WHERE corpus_id = %(corpus)s AND NOT is_deleted AND seq <= %(seq)s AND NOT (source_key = ANY(%(keys)s))
    AND (%(after)s::text IS NULL OR source_key COLLATE "C" > %(after)s::text)
    AND (%(until)s::text IS NULL OR source_key COLLATE "C" <= %(until)s::text)
ORDER BY source_key COLLATE "C" LIMIT %(limit)s
"""  # noqa: S608 - as above


class InvalidListing(CorpusError):
    """The listing cannot be compared as it is."""

    code = "invalid_listing"


@dataclass(frozen=True, slots=True)
class Listed:
    """A document as its source has it. `sha256`: see `hashes.content_digest`; None: only revisions are compared."""

    source_key: str
    source_rev: int
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """The keys that a listing is of: after one, up to another, by their code points; None: from the first, to the last.

    Attributes:
        is_complete: Whether the source has no others of them.
    """

    is_complete: bool
    after: str | None = None
    until: str | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it says what the source holds, and all of it."""
        return self.is_complete and self.after is None and self.until is None


@dataclass(frozen=True, slots=True)
class Compared:
    """What was found; `row` is how it was written down, None where the listing was not of all documents.

    Attributes:
        token: What had been taken in when this began: a listing that is made from now on is compared as of this.
    """

    findings: Findings
    row: Reconciliation | None
    token: str | None


def reconcile_listing(
    *,
    corpus: Corpus,
    listed: Sequence[Listed],
    span: Span,
    token: str | None,
    actor: Operator | str,
    now: datetime,
    repair: bool,
) -> Compared:
    """Compare documents with a listing. What is missing or stale, only its source can hand in; to repair deletes what
    it does not have.

    Args:
        token: Of the last change that was taken in before the listing was made.
    Raises:
        InvalidListing: naming what is wrong with it; nothing was compared.
    """
    [(counted, is_called)] = _run("SELECT last_value, is_called FROM corpora_seq")
    seq = _seq_of(token, int(counted))
    _check(listed, span, token, repair=repair)
    found = Findings(compared=len(listed))
    found.add(_compare(corpus, listed, seq))
    extra = _extra(corpus, listed, span, seq) if span.is_complete else []
    found.add(Finding(Difference.EXTRA, key, f"not listed; taken in at revision {rev}") for key, rev in extra)
    if repair:
        delete_documents(corpus, extra, now=now)
        found.repaired = len(extra)
    row = None
    if span.is_whole or found.repaired:
        row = record.begin(corpus=corpus, scope=Reconciliation.Scope.SOURCE, actor=actor, now=now)
        error = "" if span.is_whole else "of some of its documents only"
        row = record.end(row, found, now=now, error=error)
    return Compared(found, row, write_token(int(counted)) if is_called else None)


def _seq_of(token: str | None, counted: int) -> int:
    if token is None:
        return counted
    seq = read_token(token)
    if seq is None or seq > counted:
        raise InvalidListing(f"token: {token[:80]!r} is no consistency token of this deployment")
    return seq


def _check(listed: Sequence[Listed], span: Span, token: str | None, *, repair: bool) -> None:
    if len(listed) > MAX_LISTED:
        raise InvalidListing(f"{len(listed)} documents in one listing; send at most {MAX_LISTED}, by ranges of keys")
    keys = [one.source_key for one in listed]
    if twice := [key for key, times in Counter(keys).items() if times > 1]:
        raise InvalidListing(f"key {twice[0][:80]!r} is listed twice")
    outside = [
        key
        for key in keys
        if (span.after is not None and key <= span.after) or (span.until is not None and key > span.until)
    ]
    if outside:
        raise InvalidListing(f"key {outside[0][:80]!r} is not in the range that the listing is of")
    if repair and (token is None or not span.is_complete):
        raise InvalidListing(
            "to repair deletes what is not listed, so the listing must be complete and name the token that an answer"
            " gave before it was made"
        )
    if repair and not listed and span.after is None and span.until is None:
        raise InvalidListing("a source that holds nothing is not believed; delete its documents by changes")


def _compare(corpus: Corpus, listed: Sequence[Listed], seq: int) -> Iterator[Finding]:
    rows = _run(_LISTED, corpus=corpus.pk, keys=[one.source_key for one in listed])
    heads = {key: rest for key, *rest in rows}
    for one in listed:
        if one.source_key not in heads:
            yield Finding(Difference.MISSING, one.source_key, "no document of it was ever taken in")
            continue
        rev, is_deleted, digest, counted = heads[one.source_key]
        if counted > seq:
            continue
        if is_deleted:
            yield Finding(Difference.MISSING, one.source_key, f"deleted at revision {rev}")
        elif rev < one.source_rev:
            yield Finding(Difference.STALE, one.source_key, f"at revision {rev}; its source is at {one.source_rev}")
        elif rev > one.source_rev:
            detail = f"at revision {rev}; its source is back at {one.source_rev}"
            yield Finding(Difference.STALE, one.source_key, detail)
        elif one.sha256 is not None and one.sha256 != digest:
            yield Finding(Difference.STALE, one.source_key, f"other words than its source has at revision {rev}")


def _extra(corpus: Corpus, listed: Sequence[Listed], span: Span, seq: int) -> list[tuple[str, int]]:
    keys = [one.source_key for one in listed]
    limit = MAX_LISTED * 10
    told = {"corpus": corpus.pk, "keys": keys, "seq": seq, "after": span.after, "until": span.until, "limit": limit}
    return [(key, int(rev)) for key, rev in _run(_OTHERS, **told)]


def _run(statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows
