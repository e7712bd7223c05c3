"""Word-level differences between two texts, as the rows that `templates/components/_diff.html` shows. Pure."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby
from typing import Literal

Op = Literal["equal", "insert", "delete"]
_WORDS = re.compile(r"\s+|\w+|[^\w\s]")
# Below this likeness two lines are shown as one removed and one added: a patchwork of words helps nobody.
_ALIKE = 0.4
_CONTEXT = 3


@dataclass(frozen=True, slots=True)
class Piece:
    op: Op
    text: str


@dataclass(frozen=True, slots=True)
class Row:
    """One line: its number before and after (None where it does not exist) and its pieces."""

    kind: Literal["equal", "changed", "insert", "delete"]
    before: int | None
    after: int | None
    parts: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that stand together; folded when they are far from any change."""

    folded: bool
    rows: tuple[Row, ...]


def diff_rows(before: str, after: str) -> list[Group]:
    """Compare two texts line by line, and changed lines word by word. Equal texts give no group."""
    if before == after:
        return []
    old, new = before.splitlines(), after.splitlines()
    rows: list[Row] = []
    for op, a1, a2, b1, b2 in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if op == "equal":
            rows += [
                Row("equal", a1 + at + 1, b1 + at + 1, (Piece("equal", line),)) for at, line in enumerate(old[a1:a2])
            ]
        else:
            rows += _changed(old, new, range(a1, a2), range(b1, b2))
    return _fold(rows)


def diff_json(before: object, after: object) -> list[Group]:
    """Compare two JSON values as indented text with sorted keys, so that the order of keys is no difference."""
    return diff_rows(*(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) for value in (before, after)))


def diff_words(before: str, after: str) -> list[Piece]:
    """Compare two texts word by word, keeping every space."""
    old, new = _WORDS.findall(before), _WORDS.findall(after)
    pieces: list[Piece] = []
    for op, a1, a2, b1, b2 in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if op == "equal":
            pieces.append(Piece("equal", "".join(old[a1:a2])))
            continue
        if a2 > a1:
            pieces.append(Piece("delete", "".join(old[a1:a2])))
        if b2 > b1:
            pieces.append(Piece("insert", "".join(new[b1:b2])))
    return pieces


def _changed(old: Sequence[str], new: Sequence[str], removed: range, added: range) -> list[Row]:
    """Pair removed and added lines that resemble each other, in order; the rest stand alone."""
    rows: list[Row] = []
    remaining = list(added)
    for a in removed:
        match = next((b for b in remaining if _alike(old[a], new[b])), None)
        if match is None:
            rows.append(Row("delete", a + 1, None, (Piece("delete", old[a]),)))
            continue
        while remaining[0] != match:
            rows.append(_added(new, remaining.pop(0)))
        remaining.pop(0)
        rows.append(Row("changed", a + 1, match + 1, tuple(diff_words(old[a], new[match]))))
    return rows + [_added(new, b) for b in remaining]


def _added(new: Sequence[str], at: int) -> Row:
    return Row("insert", None, at + 1, (Piece("insert", new[at]),))


def _alike(one: str, other: str) -> bool:
    matcher = SequenceMatcher(None, _WORDS.findall(one), _WORDS.findall(other), autojunk=False)
    return matcher.quick_ratio() >= _ALIKE and matcher.ratio() >= _ALIKE


def _fold(rows: Sequence[Row]) -> list[Group]:
    """Fold equal lines that are more than three lines from a change, when that hides at least four."""
    near = {
        index for at, row in enumerate(rows) if row.kind != "equal" for index in range(at - _CONTEXT, at + _CONTEXT + 1)
    }
    groups: list[Group] = []
    for shown, indices in groupby(range(len(rows)), key=lambda at: at in near):
        block = tuple(rows[at] for at in indices)
        groups.append(Group(folded=not shown and len(block) >= 4, rows=block))
    return groups
