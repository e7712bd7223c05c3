"""Reads the rows of a set from JSON lines: all of them, or none with every line that is wrong. Touches no table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final, Protocol

from controlplane.evals.errors import BadRows
from controlplane.evals.rows import Row, content_hash, row_hash
from dataplane.documents import MalformedRelease, Node, parse_json
from dataplane.release import canonical, digest_of

MAX_ROWS: Final = 10_000
MAX_BYTES: Final = 32 * 1024 * 1024
MAX_ROW_BYTES: Final = 256 * 1024
# A file in another format is wrong in every line; nobody reads on after so many.
MAX_PROBLEMS: Final = 100


class Readable(Protocol):
    """What rows are read from: a file, or the body of a request."""

    def readline(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class ImportedRow:
    """One row that can be kept: as it was written, as it was understood, and by what it is known again."""

    row: Row
    document: dict[str, Any]
    hash: str


def read_rows(given: bytes | Readable) -> list[ImportedRow]:
    """Read JSON lines; lines without anything but white space are passed over.

    Raises:
        BadRows: with every bad line, MAX_PROBLEMS at most; or too many rows or bytes, or none.
    """
    rows: list[ImportedRow] = []
    problems: list[tuple[int, str]] = []
    named: dict[str, int] = {}
    known: dict[str, tuple[int, str]] = {}
    for number, line in _lines(BytesIO(given) if isinstance(given, bytes) else given):
        try:
            row = _read_row(line)
        except ValueError as exc:
            problems.append((number, str(exc)))
        else:
            if len(rows) == MAX_ROWS:
                raise BadRows([(number, f"more than {MAX_ROWS:,} rows; split them into two sets")])
            content = content_hash(row.document)
            if row.row.id in named:
                problems.append((number, f"row {row.row.id!r} stands in line {named[row.row.id]} already"))
            elif content in known:
                where, name = known[content]
                problems.append((number, f"row {row.row.id!r} has exactly the content of {name!r} in line {where}"))
            else:
                rows.append(row)
            named.setdefault(row.row.id, number)
            known.setdefault(content, (number, row.row.id))
        if len(problems) >= MAX_PROBLEMS:
            raise BadRows([*problems, (0, f"reading stopped after {MAX_PROBLEMS} bad lines")])
    if problems:
        raise BadRows(problems)
    if not rows:
        raise BadRows([(0, "there is no row; give one JSON object per line")])
    return rows


def digest_of_rows(hashes: list[str]) -> str:
    """SHA-256, in hex, over the hashes of the rows in their order: what a version of a set is known by."""
    return digest_of("\n".join(hashes).encode())


def _lines(given: Readable) -> Iterator[tuple[int, bytes]]:
    """Each line with its number, from 1; never more than a row's length in memory."""
    size = number = 0
    while line := given.readline(MAX_ROW_BYTES + 1):
        number += 1
        size += len(line)
        if size > MAX_BYTES:
            raise BadRows([(number, f"more than {MAX_BYTES // 1024 // 1024} MiB; split the rows into two sets")])
        if len(line) > MAX_ROW_BYTES:
            raise BadRows([(number, f"more than {MAX_ROW_BYTES // 1024} KiB in one row; give less of its sources")])
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")  # what some editors begin a file with
        if line.strip():
            yield number, line


def _read_row(line: bytes) -> ImportedRow:
    """Read one line, or raise ValueError with what is wrong."""
    try:
        document = parse_json(line.decode())
        row = Row.parse(Node(document, "$"))
        canonical(document)
    except UnicodeDecodeError as exc:
        raise ValueError(f"byte {exc.start + 1} is not UTF-8") from exc
    except MalformedRelease as exc:
        raise ValueError(str(exc)) from exc
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc
    return ImportedRow(row, document, row_hash(document))
