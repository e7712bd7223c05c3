"""What `console_scale` fills the database with: rows as the demo's processes wrote them, many times over.

Each `Copies` says how many rows of a table there are at full scale, and what sets one apart from the demo's row that it
is a copy of; the rest, JSON above all, is as it was written. They go in through SQL, with every trigger and constraint
on; only the indexes of the largest tables are made anew behind them.
"""

# ruff: noqa: S608 - every statement is made of this module's own text
from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from django.db import transaction


@dataclass(frozen=True, slots=True)
class Copies:
    """So many rows like those of the demo in one table.

    Attributes:
        rows: At full scale; 0: one for each row of `per`.
        columns: What a column holds instead, in SQL. There, `i` counts from 1 to `n`, `t` is the row that is copied,
            `w` the row of `per`; what stands in `Sizes` is a parameter.
        where: Which rows are copied.
        of: A query in the place of the demo's rows, where those have none and `columns` has all.
        per: A query; each of its rows gets a copy of each row that is copied.
        least: However small the scale.
    """

    table: str
    rows: int = 0
    columns: Mapping[str, str] = field(default_factory=dict)
    where: str = "true"
    of: str = ""
    per: str = ""
    least: int = 1


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many there are of what others name."""

    scale: float
    tenants: int
    prompts: int
    hosts: int
    releases: int
    events: int

    @classmethod
    def at(cls, scale: float) -> Sizes:
        """At that share of the whole."""
        return cls(
            scale=scale,
            tenants=max(round(300 * scale), 3),
            prompts=max(round(2_000 * scale), 1),
            hosts=max(round(1_000 * scale), 1),
            releases=max(round(1_000 * scale), 2),
            events=max(round(500_000 * scale), 1),
        )

    def parameters(self) -> dict[str, Any]:
        """For the queries."""
        return {name: getattr(self, name) for name in ("tenants", "prompts", "hosts", "releases")}


def multiply(cursor: Any, copies: Copies, *, sizes: Sizes) -> int:
    """Insert them and return how many rows came of it; what breaks a rule of uniqueness is left out."""
    cursor.execute(
        "SELECT column_name, is_identity = 'YES' FROM information_schema.columns WHERE table_name = %s"
        " AND is_generated = 'NEVER' ORDER BY ordinal_position",
        [copies.table],
    )
    names = [name for name, counts_itself in cursor.fetchall() if not counts_itself or name in copies.columns]
    values = ", ".join(f"({copies.columns[name]})" if name in copies.columns else f't."{name}"' for name in names)
    quoted = ", ".join(f'"{name}"' for name in names)
    rows = max(round(copies.rows * sizes.scale), copies.least)
    copied = copies.of or f"SELECT * FROM {copies.table} WHERE {copies.where}"
    template = f"SELECT *, row_number() OVER () - 1 AS k FROM ({copied}) copied"
    cursor.execute(f"SELECT count(*) FROM ({copied}) copied", {})
    (count,) = cursor.fetchone()
    if not count:
        raise ValueError(f"the demo has no row of {copies.table} that fits: {copies.where}")
    source = f"({template}) t JOIN generate_series(1, {rows}) i ON k = (i - 1) %% {count}, (SELECT {rows} AS n) one"
    if copies.per:
        source += f" CROSS JOIN ({copies.per}) w"
    if not copies.rows:
        numbered = f"SELECT *, row_number() OVER () AS i, count(*) OVER () AS n FROM ({copies.per}) w"
        source = f"({template}) t CROSS JOIN ({numbered}) w"
    cursor.execute(
        f'INSERT INTO "{copies.table}" ({quoted}) SELECT {values} FROM {source} ON CONFLICT DO NOTHING',
        sizes.parameters(),
    )
    return int(cursor.rowcount)


@contextlib.contextmanager
def without_indexes(cursor: Any, table: str) -> Iterator[None]:
    """Have a table's indexes made anew behind what is inserted, and the rules that rest on one, if nobody else's do."""
    cursor.execute(
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint c WHERE conrelid = %s::regclass"
        " AND contype IN ('p', 'u') AND NOT EXISTS (SELECT 1 FROM pg_constraint f WHERE f.confrelid = c.conrelid)",
        [table],
    )
    rules = cursor.fetchall()
    for name, _ in rules:
        cursor.execute(f'ALTER TABLE {table} DROP CONSTRAINT "{name}"')
    cursor.execute(
        "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index"
        " WHERE indrelid = %s::regclass AND NOT indisunique",
        [table],
    )
    indexes = cursor.fetchall()
    for name, _ in indexes:
        cursor.execute(f"DROP INDEX {name}")
    yield
    cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # foreign keys are looked at now: no table is altered before that
    cursor.execute("SET maintenance_work_mem = '1GB'")
    for name, definition in rules:
        cursor.execute(f'ALTER TABLE {table} ADD CONSTRAINT "{name}" {definition}')
    for _, definition in indexes:
        cursor.execute(definition)


def load(cursor: Any, steps: tuple[Copies, ...], *, sizes: Sizes) -> None:
    """Insert all of it, saying how long the large ones took."""
    for copies in steps:
        began = time.monotonic()
        with contextlib.ExitStack() as stack:
            stack.enter_context(transaction.atomic())
            if copies.rows >= 1_000_000 or not copies.rows:
                stack.enter_context(without_indexes(cursor, copies.table))
            made = multiply(cursor, copies, sizes=sizes)
        took = time.monotonic() - began
        if took > 1:
            print(f"  {copies.table}: {made:,} rows in {took:.0f} s", flush=True)
