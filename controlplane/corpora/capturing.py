"""Take changes out of the outboxes of sources: at least once, and accepting one twice changes nothing.

Rows stay locked while they are taken in, and are deleted once that is committed, so a process that dies in between has
lost nothing and several may take from one outbox. Which of two takes a key's changes first does not matter: their
revisions decide. A row that cannot be taken in goes to the dead letters alone.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

from django.db import InterfaceError, OperationalError, transaction
from django.utils import timezone
from psycopg import sql
from psycopg.rows import dict_row

from controlplane.corpora.accepting import Change, accept_changes
from controlplane.corpora.errors import CorpusError
from controlplane.corpora.models import Corpus, Source
from controlplane.corpora.outbox import CHANNEL, function_of
from controlplane.corpora.sources import Address, Connection, address_of, connect, why
from controlplane.work import arguments as wire
from controlplane.work import deaths
from controlplane.work.errors import ArgumentsTooLarge, UnserialisableArguments
from controlplane.work.handlers import Attempt
from dataplane.deadletters import Category, Failure, failure_of

logger = logging.getLogger(__name__)

# What letters of single changes are called, and the work that takes one in again.
LETTER: Final = "capture"
TAKE_AGAIN: Final = "corpora.capture"
ROWS_AT_ONCE: Final = 500
# What one batch should hold: rows have whole documents in them.
BATCH_BYTES: Final = 8 * 1024 * 1024
NOTED_EVERY: Final = timedelta(seconds=1)
UPSERT: Final = "upsert"
DELETE: Final = "delete"

_TAKE: Final = """
WITH taken AS MATERIALIZED (
    SELECT id, coalesce(octet_length(content), 0) AS size FROM ballast_outbox
    WHERE corpus = %(corpus)s ORDER BY id LIMIT %(rows)s FOR UPDATE SKIP LOCKED
), chosen AS (
    SELECT id, sum(size) OVER (ORDER BY id) - size AS before FROM taken
)
SELECT o.id, o.source_key, o.source_rev, o.op, o.content, o.metadata, o.event_at
FROM ballast_outbox o JOIN chosen USING (id) WHERE chosen.before < %(bytes)s ORDER BY o.id
"""
_DONE: Final = "DELETE FROM ballast_outbox WHERE id = ANY(%(ids)s)"
_STANDING: Final = "SELECT count(*), min(event_at) FROM ballast_outbox WHERE corpus = %(corpus)s"
# The database is away or restarting, or chose us as the victim of a deadlock: nobody's fault.
_AWAY: Final = (OperationalError, InterfaceError)

Row = Mapping[str, Any]


class MalformedChange(CorpusError):
    """A row of an outbox is no change of a document."""

    code = "invalid_changes"


@dataclass(frozen=True, slots=True)
class Captured:
    """How many rows were taken; of these `refused` went to the dead letters."""

    rows: int
    refused: int


def listen(source: Connection) -> None:
    """Have the connection hear of what is written into the outbox."""
    source.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))


def capture_all(
    source: Connection, address: Address, *, now: Callable[[], datetime], stop: Callable[[], bool] = lambda: False
) -> Captured:
    """Take what is in the outbox until there is nothing left that nobody else has, and note how it stands.

    Raises:
        psycopg.Error: the source is away, or has no outbox; what was taken is taken.
    """
    rows = refused = 0
    noted_at: datetime | None = None
    while not stop():
        looked_at = now()
        some = capture_some(source, address, now=looked_at)
        rows, refused = rows + some.rows, refused + some.refused
        # All that waits is counted for it, which in the middle of a backfill is worth no more than once in a while.
        if not some.rows or noted_at is None or looked_at - noted_at >= NOTED_EVERY:
            note_standing(source, address, now=looked_at)
            noted_at = looked_at
        if not some.rows:
            break
    return Captured(rows, refused)


def capture_some(source: Connection, address: Address, *, now: datetime, rows: int = ROWS_AT_ONCE) -> Captured:
    """Take one batch, in the order in which it was written.

    Raises:
        psycopg.Error: the source is away; the batch comes again.
    """
    corpus = Corpus.objects.get(slug=address.corpus)
    with source.transaction(), source.cursor(row_factory=dict_row) as cursor:
        taken = cursor.execute(_TAKE, {"corpus": corpus.slug, "rows": rows, "bytes": BATCH_BYTES}).fetchall()
        if not taken:
            return Captured(0, 0)
        refused = _accept(corpus, address, taken, now=now)
        # Committed on our side by now. Should this be lost, the same rows come again and are known.
        cursor.execute(_DONE, {"ids": [row["id"] for row in taken]})
    return Captured(len(taken), refused)


def _accept(corpus: Corpus, address: Address, rows: Sequence[Row], *, now: datetime) -> int:
    """Take all of them in but those that cannot be; returns how many that were."""
    try:
        accept_changes(corpus=corpus, changes=[read_change(row) for row in rows], now=now)
    except _AWAY:
        raise
    except Exception as exc:
        if len(rows) > 1:
            half = len(rows) // 2
            return _accept(corpus, address, rows[:half], now=now) + _accept(corpus, address, rows[half:], now=now)
        if not isinstance(exc, CorpusError):
            logger.exception("a change of source %s cannot be taken in", address)
        _bury(address, rows[0], exc, now=now)
        return 1
    return 0


def read_change(row: Row) -> Change:
    """What a row of an outbox says.

    Shape: {"source_key", "op", "content": str, "source_rev": int, "metadata": {}, "event_at": datetime}.
    Raises:
        MalformedChange: naming the column.
    """
    op = row["op"]
    if op not in (UPSERT, DELETE):
        raise MalformedChange(f"op: expected 'upsert' or 'delete', not {op!r}")
    if not isinstance(row["source_key"], str):
        raise MalformedChange("source_key: a document without a key")
    if not isinstance(row["source_rev"], int):
        raise MalformedChange("source_rev: a change without a revision")
    metadata = {} if row["metadata"] is None else row["metadata"]
    if not isinstance(metadata, dict):
        raise MalformedChange("metadata: expected an object")
    is_deleted = op == DELETE
    return Change(
        source_key=row["source_key"],
        source_rev=row["source_rev"],
        is_deleted=is_deleted,
        content="" if is_deleted else row["content"] or "",
        metadata={} if is_deleted else metadata,
        event_at=row["event_at"],
    )


# --- how it stands ---------------------------------------------------------------------------------------------------
def note_standing(source: Connection, address: Address, *, now: datetime) -> None:
    """Write what waits in the outbox. `now` is from before it was last taken from."""
    [(waiting, oldest_at)] = source.execute(_STANDING, {"corpus": address.corpus}).fetchall()
    row = _row_of(address, now=now)
    # Of several processes, whoever looked last.
    looked = Source.objects.filter(pk=row.pk, checked_at__lte=now)
    looked.update(checked_at=now, oldest_at=oldest_at, waiting=waiting, error="")


def note_failure(address: Address, error: Exception, *, now: datetime) -> None:
    """Write why it cannot be read. Since when is told by `checked_at`, which stays."""
    row = _row_of(address, now=now)
    Source.objects.filter(pk=row.pk).update(error=why(error))


def _row_of(address: Address, *, now: datetime) -> Source:
    corpus = Corpus.objects.get(slug=address.corpus)
    row, _ = Source.objects.get_or_create(corpus=corpus, name=address.name, defaults={"checked_at": now})
    return row


def forget_others(addresses: Sequence[Address]) -> int:
    """Delete the rows of sources that no policy names any more: nobody looks at them, so they would only grow old."""
    known = {(address.corpus, address.name) for address in addresses}
    rows = Source.objects.values_list("pk", "corpus__slug", "name")
    gone = [pk for pk, corpus, name in rows if (corpus, name) not in known]
    deleted, _ = Source.objects.filter(pk__in=gone).delete()
    return deleted


# --- what cannot be taken in -----------------------------------------------------------------------------------------
@transaction.atomic
def _bury(address: Address, row: Row, error: Exception, *, now: datetime) -> None:
    """Write its dead letter; when the row comes again, it has one."""
    kept: dict[str, Any] = {**row, "event_at": row["event_at"].isoformat()}
    told = {"corpus": address.corpus, "source": address.name, "row": kept}
    try:
        payload = wire.write(TAKE_AGAIN, told)
    except (ArgumentsTooLarge, UnserialisableArguments):
        # The document itself stays where it is: taken in again, its source is asked for it.
        kept |= {"content": None, "metadata": None, "is_cut": True, "source_key": str(row["source_key"])[:2_000]}
        payload = wire.write(TAKE_AGAIN, told)
    failure = failure_of(error)
    if isinstance(error, CorpusError):
        failure = Failure(Category.VALIDATION, error.code, failure.message)
    seen = json.dumps([row["id"], row["source_rev"], row["event_at"].isoformat()])
    death = deaths.Death(
        kind=LETTER,
        name=TAKE_AGAIN,
        work_id=uuid5(NAMESPACE_URL, f"ballast-capture:{address}:{seen}"),
        failure=failure,
        payload=payload,
        attempts=1,
        causes=[
            {
                "at": now.isoformat(),
                "owner": str(address),
                "code": failure.code,
                "message": failure.message,
                "status": 0,
            }
        ],
        key=f"{address}:{row['id']}",
    )
    deaths.tell(death, now=now)
    logger.warning("a change of source %s is in the dead letters: %s", address, failure.code)


def take_again(arguments: dict[str, Any], attempt: Attempt) -> None:
    """Take in a change whose letter was redriven: durable work.

    Shape: {"corpus", "source": slug, "row": see `read_change`, with "is_cut": true where the document was too large to
            be kept in a letter}.
    """
    row = arguments["row"]
    if row.get("is_cut"):
        with connect(address_of(arguments["corpus"], arguments["source"])) as source:
            backfill_keys(source, arguments["corpus"], [row["source_key"]])
        return
    change = read_change({**row, "event_at": datetime.fromisoformat(row["event_at"])})
    accept_changes(corpus=Corpus.objects.get(slug=arguments["corpus"]), changes=[change], now=timezone.now())


def backfill_keys(source: Connection, corpus: str, keys: Sequence[str]) -> int:
    """Have a source tell of these documents again, as they are; returns how many of them there are."""
    name = sql.Identifier(function_of("backfill_keys", corpus))
    statement = sql.SQL("SELECT {}(%(keys)s)").format(name)
    [(written,)] = source.execute(statement, {"keys": list(keys)}).fetchall()
    return int(written)
