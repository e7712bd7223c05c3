"""Rows of corpora by the million: a session of one's own for a long look, streams out of it, and blocks ahead of it."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from django.db import connection

from dataplane.retrieval.dump_format import HEADER, TRAILER, Block, Cutter, Stream
from dataplane.retrieval.tables import DOCUMENTS

T = TypeVar("T")
Progress = Callable[[int, int], None]
# Whoever writes documents just then is waited for, and holds nobody up for longer.
LOCK_TIMEOUT: Final = "10s"


def quiet(done: int, total: int) -> None:
    """The progress that nobody looks at."""


@contextmanager
def own_session() -> Iterator[Any]:
    """A connection of psycopg's to the same database, which commits by itself; closed at the end of the block."""
    session = connection.copy()
    session.connect()
    try:
        yield session.connection
    finally:
        session.close()


@contextmanager
def one_moment(reader: Any) -> Iterator[None]:
    """In the block `reader` sees one moment, however long it looks, and that one is between two writes of documents:
    whatever was numbered before the newest that it sees, it sees too.

    Raises:
        psycopg.OperationalError: some write took too long to be waited for.
    """
    reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    try:
        with own_session() as gate:
            gate.execute("BEGIN")
            gate.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
            gate.execute(f"LOCK TABLE {DOCUMENTS} IN SHARE MODE")
            reader.execute("SELECT 1")  # which makes it the moment
            gate.execute("COMMIT")
        yield
    finally:
        reader.execute("ROLLBACK")


def copy_out(
    reader: Any, query: str, stream: str, *, keep: Callable[[Block, bytes], object], done: Callable[[int], None]
) -> Stream:
    """Cut what a query gives into blocks. The next is made while one is kept.

    Args:
        keep: Called with one block after the other, in a thread.
        done: Told of each block's rows when it is kept.
    Raises:
        ValueError: what came is not what PostgreSQL says it sent.
        Whatever `keep` raises.
    """
    cutter = Cutter(stream)
    with ThreadPoolExecutor(max_workers=1) as keeper, reader.cursor() as cursor:
        under_way: tuple[Block, Future[object]] | None = None

        def hand_over(cut: tuple[Block, bytes] | None) -> None:
            nonlocal under_way
            if under_way is not None:
                under_way[1].result()
                done(under_way[0].rows)
            under_way = None if cut is None else (cut[0], keeper.submit(keep, *cut))

        with cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT binary)") as copy:
            for message in copy:
                if (cut := cutter.feed(bytes(message))) is not None:
                    hand_over(cut)
        if (cut := cutter.end()) is not None:
            hand_over(cut)
        hand_over(None)
        if cursor.rowcount != cutter.rows:
            raise ValueError(f"PostgreSQL sent {cursor.rowcount} {stream}, and {cutter.rows} were cut")
    return cutter.stream()


def copy_in(
    cursor: Any, table: str, columns: tuple[str, ...], blocks: Iterator[tuple[Block, bytes]], *, done: Progress, of: int
) -> int:
    """Put blocks of a stream into a table, as they are; returns how many rows that were. The next is read and checked
    while one is loaded.

    Args:
        done: Told of the rows that were handed over, of those that there are.
    """
    handed_over = 0
    with cursor.copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN (FORMAT binary)") as copy:
        copy.write(HEADER)
        for block, data in ahead(blocks):
            copy.write(data)
            handed_over += block.rows
            done(handed_over, of)
        copy.write(TRAILER)
    return int(cursor.rowcount)


def ahead(things: Iterator[T]) -> Iterator[T]:
    """The same things, the next being made in a thread while one is used."""
    with ThreadPoolExecutor(max_workers=1) as maker:
        coming = maker.submit(next, things, None)
        while (thing := coming.result()) is not None:
            coming = maker.submit(next, things, None)
            yield thing
