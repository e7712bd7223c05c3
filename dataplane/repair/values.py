"""JSON as text and as a value, where both count: how deep it is, what it says, where in it a pointer leads. Pure.

Values that are checked or compared are never written back: what is handed over is always text, so numbers keep theirs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]  # C, and not in the stubs
from typing import Any, Final, NoReturn

from dataplane.repair.labels import Edit

MAX_CHARACTERS: Final = 1_048_576
MAX_DEPTH: Final = 200
WHITE: Final = " \t\n\r"

_MAX_INTEGER_CHARACTERS: Final = 4_000  # Python refuses to read longer ones
_GREATEST: Final = 1.7976931348623157e308
_NOT_WHITE: Final = re.compile(r"[^ \t\n\r]")
_STRING_OR_BRACKET: Final = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[\]{}]', re.DOTALL)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_ESCAPE: Final = re.compile(r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|u([dD][89a-fA-F]..)|.)", re.DOTALL)

Path = tuple[str | int, ...]


class NotJson(Exception):
    """The text is no JSON, or one that is nested too deep to be looked at."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to read the text of a model: JSON, and how it came about."""

    text: str
    edits: tuple[Edit, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands in a text, and for a member of an object what goes if it is taken out."""

    start: int
    end: int
    member: tuple[int, int] | None


def is_too_deep(text: str) -> bool:
    """Whether valid JSON is nested more than MAX_DEPTH deep; of other text, whether a reader of JSON may see it so."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return False
    now = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        char = text[match.start()]
        if char in "[{":
            now += 1
            if now > MAX_DEPTH:
                return True
        elif char != '"':
            now -= 1
    return False


def parse(text: str) -> Any:
    """The value of JSON, as a schema sees it: numbers that Python cannot hold count as the greatest that it can, lone
    surrogates as U+FFFD.

    Raises:
        NotJson: it is not JSON by RFC 8259, or nested more than MAX_DEPTH deep.
    """
    if is_too_deep(text) or _SURROGATE.search(text):
        raise NotJson
    if "\\ud" in text.lower():
        text = _ESCAPE.sub(_readable, text)
    try:
        return json.loads(text, parse_int=_integer, parse_float=_float, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        raise NotJson from exc


def key(text: str) -> str:
    """What values are compared by: alike for two texts that say the same, whose numbers are written alike.

    A key that an object has twice counts twice.
    """
    value = json.loads(
        text,
        parse_int=lambda number: {"number": number},
        parse_float=lambda number: {"number": number},
        object_pairs_hook=lambda pairs: {"object": sorted(pairs, key=lambda pair: pair[0])},
    )
    return json.dumps(value)


def pointer(path: Sequence[str | int]) -> str:
    """The JSON pointer (RFC 6901) of a path; "" is the whole value."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)


def locate(text: str, path: Path) -> Place | None:
    """Where in valid JSON `path` leads; None where nothing is, or an object on the way has the key twice."""
    start, member = _skip(text, 0), None
    for step in path:
        found = _members(text, start)
        if found is None:
            return None
        places = [place for name, place in found if name == step]
        if len(places) != 1:
            return None
        start, member = places[0].start, places[0].member
    return Place(start, _end(text, start), member)


def _members(text: str, at: int) -> list[tuple[str | int, Place]] | None:
    """The keys or numbers of what the object or list that begins at `at` holds, and where; None for another value."""
    if text[at] not in "{[":
        return None
    is_object = text[at] == "{"
    found: list[tuple[str | int, int, int, int]] = []
    at = _skip(text, at + 1)
    while text[at] not in "}]":
        begin = at
        name: str | int = len(found)
        if is_object:
            name, at = scanstring(text, at + 1)
            at = _skip(text, _skip(text, at) + 1)
        end = _end(text, at)
        found.append((name, begin, at, end))
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)
    places: list[tuple[str | int, Place]] = []
    for index, (name, begin, start, end) in enumerate(found):
        # With a member goes the comma behind it, or, from the last, the one before.
        cut = (found[index - 1][3] if index else begin, end)
        if index + 1 < len(found):
            cut = (begin, found[index + 1][1])
        places.append((name, Place(start, end, cut if is_object else None)))
    return places


_DECODER: Final = json.JSONDecoder(parse_int=str, parse_float=str)


def _end(text: str, start: int) -> int:
    """Where the value that begins at `start` ends."""
    return _DECODER.raw_decode(text, start)[1]


def _skip(text: str, at: int) -> int:
    """The next character that is no white space."""
    found = _NOT_WHITE.search(text, at)
    return found.start() if found else len(text)


def _readable(match: re.Match[str]) -> str:
    return "\\ufffd" if match[1] else match[0]


def _integer(text: str) -> int | float:
    return int(text) if len(text) <= _MAX_INTEGER_CHARACTERS else _float(text)


def _float(text: str) -> float:
    return max(-_GREATEST, min(_GREATEST, float(text)))


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)
