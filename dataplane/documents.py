"""Strict reading of the JSON that a release carries: every refusal names the JSON path.

The section parsers (routing, cohorts, prompts, access) are built from `Node`, so the control plane and the workers give
an operator the same words for the same mistake.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

import orjson

from dataplane.errors import GatewayError

_PLAIN_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_SLUG: Final = re.compile(r"[a-z0-9]+(?:[-_.][a-z0-9]+)*\Z")
_SHA256_HEX: Final = re.compile(r"[0-9a-f]{64}\Z")
MAX_SAFE_INTEGER: Final = 2**53 - 1


class ReleaseRefused(GatewayError):
    """A worker will not serve this release; the one that it serves stays.

    `code` is the reason that goes into the NACK.
    """

    code = "release_refused"


class MalformedRelease(ReleaseRefused):
    """The document does not have the shape that its schema number promises. `path` is where, as a JSON path."""

    code = "malformed_release"

    def __init__(self, path: str, fact: str) -> None:
        super().__init__(f"{path}: {fact}")
        self.path = path
        self.fact = fact


def child_path(path: str, key: str) -> str:
    """The JSON path of a member: `$.a` and `b` give `$.a.b`; a key that is no plain name is quoted: `$.a['b/c']`."""
    return f"{path}.{key}" if _PLAIN_KEY.match(key) else f"{path}[{json.dumps(key, ensure_ascii=False)}]"


def parse_json(text: str | bytes, *, path: str = "$") -> Any:
    """Parse JSON, refusing what Python's parser lets through: a key given twice, NaN, Infinity.

    Raises:
        MalformedRelease: the text is not JSON in that sense; `path` is the one given.
    """
    # A fast parser keeps only the last of two equal keys, so what it wrote back would be shorter. Text that it writes
    # back byte for byte, as all compact JSON without such tricks, says nothing else; the rest takes the long way.
    try:
        value = orjson.loads(text)
        if orjson.dumps(value) == (text.encode() if isinstance(text, str) else text):
            return value
    except (ValueError, TypeError):
        pass

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise MalformedRelease(path, f"key {twice!r} is given twice in one object")
        return members

    def no_constant(name: str) -> NoReturn:
        raise MalformedRelease(path, f"{name} is not JSON")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=no_constant)
    except (ValueError, RecursionError) as exc:
        raise MalformedRelease(path, f"not valid JSON: {exc}") from exc


@dataclass(frozen=True, slots=True)
class Node:
    """One JSON value and the path that leads to it.

    Every method either returns what it promises or raises MalformedRelease.
    """

    value: Any
    path: str

    def refuse(self, fact: str) -> NoReturn:
        """Raise MalformedRelease with this node's path."""
        raise MalformedRelease(self.path, fact)

    def members(self, *required: str, optional: Collection[str] = ()) -> dict[str, Node]:
        """The members of an object that has exactly these keys.

        An absent optional one is absent from the result too.
        """
        mapping = self._object()
        for key in mapping:
            if key not in required and key not in optional:
                expected = ", ".join(sorted({*required, *optional}))
                raise MalformedRelease(child_path(self.path, key), f"unknown key; expected {expected}")
        for key in required:
            if key not in mapping:
                self.refuse(f"missing key {key!r}")
        return {key: Node(value, child_path(self.path, key)) for key, value in mapping.items()}

    def entries(self) -> Iterator[tuple[str, Node]]:
        """The members of an object whose keys are data, in the order given."""
        for key, value in self._object().items():
            yield key, Node(value, child_path(self.path, key))

    def slugged_entries(self) -> Iterator[tuple[str, Node]]:
        """Like `entries`, for keys that are slugs: lower-case letters and digits, joined by single `-`, `_` or `.`."""
        for key, node in self.entries():
            if not _SLUG.match(key):
                node.refuse(
                    f"{key!r} is not a slug (lower-case letters, digits, and single '-', '_' or '.' between them)"
                )
            yield key, node

    def items(self, *, minimum: int = 0) -> list[Node]:
        """The elements of an array of at least `minimum` elements."""
        if not isinstance(self.value, list | tuple):
            self.refuse(f"expected an array, got {kind_of(self.value)}")
        if len(self.value) < minimum:
            self.refuse(f"expected at least {minimum} element{'s' if minimum > 1 else ''}, got {len(self.value)}")
        return [Node(value, f"{self.path}[{index}]") for index, value in enumerate(self.value)]

    def texts(self, *, minimum: int = 0) -> tuple[str, ...]:
        """An array of distinct non-empty strings."""
        seen: dict[str, None] = {}
        for item in self.items(minimum=minimum):
            text = item.text()
            if text in seen:
                item.refuse(f"{text!r} is given twice")
            seen[text] = None
        return tuple(seen)

    def text(self, *, empty: bool = False) -> str:
        """A string, not empty unless `empty`."""
        if not isinstance(self.value, str):
            self.refuse(f"expected a string, got {kind_of(self.value)}")
        if not self.value and not empty:
            self.refuse("must not be empty")
        return self.value

    def optional_text(self) -> str | None:
        """A non-empty string or null."""
        return None if self.value is None else self.text()

    def sha256(self) -> str:
        """64 lower-case hex digits."""
        text = self.text()
        if not _SHA256_HEX.match(text):
            self.refuse(f"expected 64 lower-case hex digits, got {text[:80]!r}")
        return text

    def one_of(self, choices: Collection[str]) -> str:
        """One of the given words."""
        text = self.text()
        if text not in choices:
            self.refuse(f"{text!r} is not one of {', '.join(sorted(choices))}")
        return text

    def reference(self, known: Mapping[str, object], *, to: str) -> str:
        """A key of `known`; `to` says what that is, for the error."""
        text = self.text()
        if text not in known:
            self.refuse(f"{text!r} is not a {to} of this release")
        return text

    def integer(self, *, minimum: int = 0, maximum: int = MAX_SAFE_INTEGER) -> int:
        """A whole number in [minimum, maximum]; true and 1.0 are not whole numbers here."""
        if isinstance(self.value, bool) or not isinstance(self.value, int):
            self.refuse(f"expected a whole number, got {kind_of(self.value)}")
        if not minimum <= self.value <= maximum:
            self.refuse(f"{self.value} is outside {minimum}..{maximum}")
        return self.value

    def number(self, *, above: float, maximum: float) -> float:
        """A finite number in (above, maximum]."""
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            self.refuse(f"expected a number, got {kind_of(self.value)}")
        # The range first: JSON's integers may be too long for a float, and isfinite would have to make one.
        if not above < self.value <= maximum or not math.isfinite(self.value):
            self.refuse(f"{self.value} is not above {above:g} and at most {maximum:g}")
        return float(self.value)

    def flag(self) -> bool:
        """true or false."""
        if not isinstance(self.value, bool):
            self.refuse(f"expected true or false, got {kind_of(self.value)}")
        return self.value

    def moment(self) -> datetime:
        """An ISO-8601 time with an offset, as an aware datetime in UTC."""
        text = self.text()
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            self.refuse(f"{text!r} is not an ISO-8601 time")
        if moment.tzinfo is None:
            self.refuse(f"{text!r} has no offset; write it in UTC with a trailing Z")
        try:
            return moment.astimezone(UTC)
        except OverflowError:
            self.refuse(f"{text!r} is outside the years 1..9999 in UTC")

    def _object(self) -> Mapping[str, Any]:
        if not isinstance(self.value, Mapping):
            self.refuse(f"expected an object, got {kind_of(self.value)}")
        for key in self.value:
            if not isinstance(key, str):
                self.refuse(f"key {key!r} is not a string")
        return self.value


def kind_of(value: object) -> str:
    """The JSON name of a value's type, for error messages."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case Mapping():
            return "an object"
        case list() | tuple():
            return "an array"
    return type(value).__name__
