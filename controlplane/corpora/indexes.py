"""The indexes of a table of chunks, the approximate one above all, whose graph is built fast only in memory."""

from typing import Any, Final

from psycopg import OperationalError

# What building may hold, in MiB: more than that is taken from queries. A graph that does not fit is built all the same,
# slowly.
LEAST_MEMORY_MB, MOST_MEMORY_MB = 64, 1024
PARALLEL_WORKERS: Final = 4
# Fewer are indexed by one process before the others have begun.
_PARALLEL_FROM_ROWS: Final = 1_000
# Of a graph's node beside its vector.
_NODE_BYTES: Final = 700
# By what each is called behind the table's name.
_EXACT: Final = {
    "pkey": "ALTER TABLE {table} ADD CONSTRAINT {table}_pkey PRIMARY KEY (id)",
    "alive": "CREATE UNIQUE INDEX {table}_alive ON {table} (document_id, ordinal) WHERE died IS NULL",
    "born": "CREATE INDEX {table}_born ON {table} (born)",
    "died": "CREATE INDEX {table}_died ON {table} (died) WHERE died IS NOT NULL",
    "document": "CREATE INDEX {table}_document ON {table} (document_id)",
}
# Of pgvector's defaults, which suit up to some millions of chunks.
_APPROXIMATE: Final = "CREATE INDEX IF NOT EXISTS {table}_near ON {table} USING hnsw (embedding vector_cosine_ops)"


def memory_mb(*, rows: int, dimensions: int) -> int:
    """What building the graph of so many vectors is given, in MiB: as much as it takes and is sensible."""
    wanted = rows * (4 * dimensions + _NODE_BYTES) // 2**20 + 1
    return min(max(wanted, LEAST_MEMORY_MB), MOST_MEMORY_MB)


def allow_memory(cursor: Any, *, rows: int, dimensions: int) -> None:
    """Let indexes of so many rows be built with that, and by several workers, to the end of the transaction."""
    cursor.execute(f"SET LOCAL maintenance_work_mem = '{memory_mb(rows=rows, dimensions=dimensions)}MB'")
    cursor.execute(f"SET LOCAL max_parallel_maintenance_workers = {PARALLEL_WORKERS}")


def create_exact(cursor: Any, table: str) -> None:
    """Give a table of chunks every index but the approximate one."""
    for statement in _EXACT.values():
        cursor.execute(statement.format(table=table))


def create_approximate(cursor: Any, table: str, *, rows: int) -> None:
    """Give a table of chunks its approximate index, in a transaction of the caller's; nothing where it has it.

    Args:
        cursor: Of psycopg itself.
        rows: That the table has, about.
    """
    if rows >= _PARALLEL_FROM_ROWS:
        # PostgreSQL goes by the size of the table, where most of a vector is not, and would begin with several workers
        # at ten times as many rows as pay for them. Searches are not to be planned by it, so it is undone below.
        cursor.execute(f"ALTER TABLE {table} SET (parallel_workers = {PARALLEL_WORKERS})")
    try:
        with cursor.connection.transaction():
            cursor.execute(_APPROXIMATE.format(table=table))
    except OperationalError:
        # Workers share their memory in /dev/shm, which is small in many a container. Alone one needs none of it.
        cursor.execute("SET LOCAL max_parallel_maintenance_workers = 0")
        cursor.execute(_APPROXIMATE.format(table=table))
    cursor.execute(f"ALTER TABLE {table} RESET (parallel_workers)")


def rename_indexes(cursor: Any, table: str, *, to: str) -> None:
    """Have the indexes of a table that was renamed be called after it."""
    for name in (*_EXACT, "near"):
        cursor.execute(f"ALTER INDEX IF EXISTS {table}_{name} RENAME TO {to}_{name}")
