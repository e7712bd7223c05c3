"""Writes records out as the plain classes that mypyc compiles to machine code.

`dataplane.records.record` makes dataclasses. What a decorator makes at run time mypyc cannot see: to it, such a class
is one of Python's, made and read through Python's dicts and descriptors, which takes some ten times as long. So a build
is made of sources in which each record has its `__init__` in words, and inherits the rest of a dataclass from
`dataplane.record_base.Record`. No line moves: a traceback of a build names the lines that people read.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

DECORATOR = "record"
IMPORT = "from dataplane.records import record"
INSTEAD = "from dataplane.record_base import Record, fields_of; from typing import Any as _Any, ClassVar as _ClassVar"


class NotARecord(Exception):
    """A class has what no record has; the message names it."""


def unrolled(source: str) -> str:
    """The source of a module with its records written out, line by line where they were.

    Raises:
        NotARecord: one of them cannot be.
    """
    tree = ast.parse(source)
    lines = source.splitlines()
    found = False
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and any(map(_is_record, node.decorator_list)):
            found = True
            _unroll(node, lines)
    if not found:
        return source
    lines[lines.index(IMPORT)] = INSTEAD
    return "\n".join(lines) + "\n"


def _is_record(decorator: ast.expr) -> bool:
    return isinstance(decorator, ast.Name) and decorator.id == DECORATOR


def _unroll(node: ast.ClassDef, lines: list[str]) -> None:
    if len(node.decorator_list) != 1 or any(not isinstance(base, ast.Subscript) for base in node.bases):
        raise NotARecord(f"{node.name}: another decorator, or a base class")
    fields = list(_fields(node))
    if not fields:
        raise NotARecord(f"{node.name}: no fields")
    names = [name for name, _, _, _ in fields]
    lines[node.decorator_list[0].lineno - 1] = ""
    _put_base(node, lines)
    unshown = []
    parameters = ["self"]
    for name, annotation, default, field in fields:
        if default is None:
            parameters.append(f"{name}: {annotation}")
        else:
            parameters.append(f"{name}: {annotation} = {default}")
            _cut(field, lines)
        if field.value is not None and isinstance(field.value, ast.Call) and ast.unparse(field.value.func) == "field":
            unshown.append(name)
    last = fields[-1][3]
    end = last.end_lineno or last.lineno
    if end < len(lines) and lines[end].strip():
        raise NotARecord(f"{node.name}: no empty line after its fields")
    told = f"{tuple(names)!r}"
    lines[end - 1] += (
        f"; __match_args__: _ClassVar[tuple[str, ...]] = {told}"
        f"; __dataclass_fields__: _ClassVar[_Any] = fields_of({told}, unshown={tuple(unshown)!r})"
    )
    assignments = "; ".join(f"self.{name} = {name}" for name in names)
    made = f"    def __init__({', '.join(parameters)}) -> None: {assignments}"
    if end < len(lines):
        lines[end] = made
    else:
        lines.append(made)


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, str, str | None, ast.AnnAssign]]:
    """Name, annotation, default and statement of each field."""
    for statement in node.body:
        if not isinstance(statement, ast.AnnAssign):
            continue
        if not isinstance(statement.target, ast.Name):
            raise NotARecord(f"{node.name}: a field without a name")
        yield statement.target.id, ast.unparse(statement.annotation), _default(node, statement), statement


def _default(node: ast.ClassDef, statement: ast.AnnAssign) -> str | None:
    value = statement.value
    if value is None:
        return None
    if isinstance(value, ast.Call):
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in value.keywords}
        if ast.unparse(value.func) != "field" or value.args or set(given) != {"default", "repr"}:
            raise NotARecord(f"{node.name}: a default that is made anew each time")
        return given["default"]
    return ast.unparse(value)


def _cut(field: ast.AnnAssign, lines: list[str]) -> None:
    """Take the default out of a field's statement: a value of the class would be set twice."""
    if field.end_lineno != field.lineno or field.annotation.end_col_offset is None:
        raise NotARecord(f"{ast.unparse(field)}: on more than one line")
    line = lines[field.lineno - 1]
    lines[field.lineno - 1] = line.encode()[: field.annotation.end_col_offset].decode()


def _put_base(node: ast.ClassDef, lines: list[str]) -> None:
    at = node.lineno - 1
    head = f"class {node.name}"
    if not lines[at].startswith(head):
        raise NotARecord(f"{node.name}: its head is not one line")
    rest = lines[at].removeprefix(head)
    lines[at] = f"{head}(Record, {rest[1:]}" if rest.startswith("(") else f"{head}(Record){rest}"
