"""Have a source tell of every row that it has, in ranges beside each other, while others go on writing.

What is written into the outbox is taken from there like any change, see `outbox`: it cannot overtake a live one.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from psycopg import sql
from psycopg.errors import LockNotAvailable

from controlplane.corpora.outbox import function_of
from controlplane.corpora.sources import Connection

ROWS_AT_ONCE: Final = 200

Connect = Callable[[], Connection]
# Told of how many rows were written so far, and how many there were when it began.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Range:
    """The rows after one key up to another, as the source orders them; None: from the first, or to the last."""

    after: str | None
    until: str | None
    rows: int


def backfill(
    connect: Connect,
    corpus: str,
    *,
    parallel: int = 1,
    rows_at_once: int = ROWS_AT_ONCE,
    progress: Progress = lambda done, of: None,
    stop: Callable[[], bool] = lambda: False,
) -> int:
    """Write every row of a source into its outbox, over so many connections. Returns about how many that were.

    What another transaction makes after this began is not its to tell: that tells of itself. Stopped early, or done
    twice, it harms nothing.

    Raises:
        SourceUnavailable, psycopg.Error: the source is away; begin again.
    """
    with connect() as source:
        ranges = split(source, corpus, parallel)
    of = sum(one.rows for one in ranges)
    done, lock = 0, threading.Lock()
    failed = threading.Event()

    def told(rows: int) -> None:
        nonlocal done
        with lock:
            done = min(done + rows, of)
            progress(done, of)

    def fill(one: Range) -> None:
        try:
            with connect() as source:
                _fill(source, corpus, one, rows_at_once, told, lambda: failed.is_set() or stop())
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(max_workers=max(parallel, 1), thread_name_prefix="backfill") as pool:
        for future in [pool.submit(fill, one) for one in ranges]:
            future.result()
    return done


def split(source: Connection, corpus: str, parts: int) -> Sequence[Range]:
    """The source's rows in ranges of about the same length; none when it has none."""
    statement = sql.SQL("SELECT until_key, row_count FROM {}(%(parts)s) WITH ORDINALITY ORDER BY ordinality")
    rows = source.execute(
        statement.format(sql.Identifier(function_of("ranges", corpus))), {"parts": max(parts, 1)}
    ).fetchall()
    if not rows:
        return []
    ends = [str(key) for key, _ in rows]
    return [
        Range(after, until, int(count)) for after, until, (_, count) in zip([None, *ends[:-1]], ends, rows, strict=True)
    ]


def _fill(
    source: Connection, corpus: str, one: Range, most: int, told: Callable[[int], None], stop: Callable[[], bool]
) -> None:
    """Write one range. Whoever changes a row meanwhile is waited for, with ever fewer rows held: with one at a time
    nobody can wait for us in a circle.
    """
    statement = sql.SQL("SELECT {}(%(after)s, %(rows)s, %(until)s)").format(
        sql.Identifier(function_of("backfill", corpus))
    )
    after, rows = one.after, most
    while not stop():
        try:
            [(reached,)] = source.execute(statement, {"after": after, "rows": rows, "until": one.until}).fetchall()
        except LockNotAvailable:
            rows = max(rows // 4, 1)
            continue
        if reached is None:
            return
        told(rows)
        after, rows = reached, min(rows * 2, most)
