"""Paths into JSON values, and where in a JSON text the value at a path stands. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from dataplane.documents import Node

Step = str | int | None  # a key, an index, or every element and every member
Place = tuple[str | int, ...]

_STEP: Final = re.compile(
    r"""\.([A-Za-z_][A-Za-z0-9_-]*)|\.\*|\[(\d{1,6})\]|\[\*\]|\[(["'])((?:(?!\3)[^\\]|\\.)*)\3\]"""
)
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+', re.DOTALL)


@dataclass(frozen=True, slots=True)
class JsonPath:
    """A path such as `$.items[*].price`; `.name`, `["any name"]`, `[0]`, `[*]` and `.*` are its steps."""

    text: str
    steps: tuple[Step, ...]

    @classmethod
    def parse(cls, node: Node) -> JsonPath:
        """Read one, or raise MalformedRelease."""
        text = node.text()
        if not text.startswith("$"):
            node.refuse(f"{text[:80]!r} does not begin with '$'; write it as $.items[*].price")
        steps: list[Step] = []
        at = 1
        while at < len(text):
            found = _STEP.match(text, at)
            if found is None:
                node.refuse(f"{text[at : at + 20]!r} at character {at} is no step; there are .name, [0], [*] and .*")
            name, index, _, quoted = found.groups()
            if name is not None:
                steps.append(name)
            elif index is not None:
                steps.append(int(index))
            else:
                steps.append(None if quoted is None else re.sub(r"\\(.)", r"\1", quoted))
            at = found.end()
        return cls(text, tuple(steps))

    def select(self, value: Any) -> Iterator[tuple[Place, Any]]:
        """The values that it leads to, each with its place; none where a part of it does not exist."""
        found: list[tuple[Place, Any]] = [((), value)]
        for step in self.steps:
            found = [((*place, key), inner) for place, outer in found for key, inner in _inside(outer, step)]
        return iter(found)


def _inside(value: Any, step: Step) -> Iterator[tuple[str | int, Any]]:
    if isinstance(value, Mapping):
        if step is None:
            yield from value.items()
        elif isinstance(step, str) and step in value:
            yield step, value[step]
    elif isinstance(value, list):
        if step is None:
            yield from enumerate(value)
        elif isinstance(step, int) and step < len(value):
            yield step, value[step]


def read_exactly(text: str) -> Any:
    """The value of a JSON text, its numbers as Decimal.

    Raises:
        ValueError: it is not JSON, or nested too deeply to be read.
    """
    try:
        return json.loads(text, parse_float=Decimal, parse_int=Decimal, parse_constant=_no_constant)
    except RecursionError as exc:
        raise ValueError("is nested too deeply") from exc


def locate(text: str, place: Place, *, tick: Callable[[], None] = lambda: None) -> tuple[int, int]:
    """Where the value at `place` of a JSON text begins and ends; of two equal keys, as parsers do, that of the last.

    What is not there is held to be the whole text.
    """
    spans: dict[Place, tuple[int, int]] = {}
    # Of every object and array that is open: where it began, its place, and the key or index that is next.
    open_values: list[tuple[int, Place, str | int]] = []
    wants_key = False
    for token in _TOKEN.finditer(text):
        tick()
        start, end = token.span()
        mark = token[0]
        here: Place = () if not open_values else (*open_values[-1][1], open_values[-1][2])
        if mark in "{[":
            open_values.append((start, here, "" if mark == "{" else 0))
            wants_key = mark == "{"
        elif mark in "}]":
            if not open_values:
                break
            begun, its_place, _ = open_values.pop()
            spans[its_place] = (begun, end)
            wants_key = False
        elif mark == ",":
            if open_values:
                begun, its_place, key = open_values[-1]
                wants_key = isinstance(key, str)
                open_values[-1] = (begun, its_place, key if isinstance(key, str) else key + 1)
        elif mark == ":":
            wants_key = False
        elif wants_key and open_values:
            begun, its_place, _ = open_values[-1]
            open_values[-1] = (begun, its_place, _key(mark))
        else:
            spans[here] = (start, end)
    while place and place not in spans:
        place = place[:-1]
    return spans.get(place, (0, len(text)))


def _key(token: str) -> str:
    try:
        key = json.loads(token)
    except ValueError:
        return token
    return key if isinstance(key, str) else token


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
