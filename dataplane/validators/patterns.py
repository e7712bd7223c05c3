"""Regular expressions that end in linear time, and what a stream has to know of them: how long a match can be, and
where one may have begun. Pure.

RE2 compiles and runs every expression. It cannot tell where a match may have begun that the text breaks off in, so this
module reads the expression itself and makes a second one of it, which matches whatever begins a match and stands at the
end of the text. RE2 runs that one backwards from the end, so it costs what it finds, not what was written before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import re2

MAX_PATTERN_CHARACTERS: Final = 2_000
# Counts above it are not counted where the beginning of a match is looked for: it takes an automaton that remembers
# each of them, and whoever looks knows how long a match can be anyway.
MAX_COUNT: Final = 6
MAX_MEMORY_BYTES: Final = 32 * 1024 * 1024  # for the states of one expression; RE2 forgets and goes on when it is full
_Regex = Any  # google-re2 has no types
_UNANCHORED: Final = re2._re2.RE2.Anchor.UNANCHORED
# RE2 builds its automaton as texts need it. It is begun before the first answer comes, whose rules have a time budget.
_SAMPLE: Final = (
    b'Your order 48213, of 3 March 2026, costs $1,234.50 (see https://x.example/a?b=c_d); {"key": [1, 2]}\n'
)

_QUANTIFIER: Final = re.compile(r"(?:([*+?])|\{(\d+)(?:(,)(\d*))?\})\??")
_FLAGS: Final = re.compile(r"\?([imsU]*)(-[imsU]+)?([:)])")
_NAME: Final = re.compile(r"\?P?<\w+>")
_ESCAPE: Final = re.compile(
    r"\\(?:[pP](?:\{[^}]*\}|.)|x(?:\{[0-9A-Fa-f]+\}|[0-9A-Fa-f]{2})|0[0-7]{0,2}|[1-7][0-7]{1,2}|.)", re.DOTALL
)
_CLASS_PART: Final = re.compile(r"\[:\^?\w+:\]|\\(?:[pP](?:\{[^}]*\}|.)|x\{[0-9A-Fa-f]+\}|.)|[^\]]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Node:
    """A part of an expression: RE2's words for it, for the same with looser counts, and for all that begins the latter;
    and how many characters it can match.
    """

    text: str
    loose: str
    prefix: str
    shortest: int
    longest: int | None


_NOTHING: Final = _Node("", "", "", 0, 0)


@dataclass(frozen=True, slots=True)
class Pattern:
    """One expression, ready to run on UTF-8.

    Attributes:
        text: As it was written.
        body: The same, without captures and with its flags inside, so that it can stand within another one.
        prefix: What matches whatever begins a match, and some that is too long to.
        shortest, longest: Characters of a match; None: without bound.
        regex: Compiled by RE2, for bytes.
    """

    text: str
    body: str
    prefix: str
    shortest: int
    longest: int | None
    regex: _Regex = field(repr=False, compare=False)


@lru_cache(maxsize=2048)
def pattern(text: str) -> Pattern:
    """Read and compile an expression.

    Raises:
        ValueError: RE2 does not take it; the message is RE2's.
    """
    regex = compile_re2(text)
    regex.search(_SAMPLE)
    node = _Reader(text).read()
    return Pattern(text, node.text, node.prefix, node.shortest, node.longest, regex)


@lru_cache(maxsize=256)
def union(patterns: tuple[Pattern, ...]) -> _Regex:
    """Compile what matches where any of the patterns does; only its beginning means something."""
    regex = compile_re2("|".join(f"(?:{one.body})" for one in patterns))
    regex.search(_SAMPLE)
    return regex


@lru_cache(maxsize=256)
def selector(patterns: tuple[Pattern, ...]) -> Any:
    """Compile what tells which of the patterns match anywhere: `Match` gives their numbers, or None.

    None is no proof: the automaton may have had no room for the text.
    """
    chosen = re2.Set.SearchSet(_options())
    for one in patterns:
        chosen.Add(one.body.encode())
    chosen.Compile()
    chosen.Match(_SAMPLE)
    return chosen


@lru_cache(maxsize=256)
def beginnings(patterns: tuple[Pattern, ...]) -> _Regex:
    """Compile what matches from the first place at which a match of any of them may have begun that the end of the text
    leaves open, to that end; always something, if only the nothing at the end.
    """
    regex = compile_re2(rf"(?:{'|'.join(f'(?:{one.prefix})' for one in patterns)}|)\z")
    for last in range(0x20, 0x7F):
        regex.search(b"so it is %c" % last)
    return regex


def span(regex: _Regex, data: bytes, at: int = 0) -> tuple[int, int] | None:
    """Where the first match from byte `at` on begins and ends, in bytes; None: there is none.

    For that, google-re2's own `search` makes a generator and a match, which takes two to four times what RE2 itself
    takes for a piece of a stream; so it is asked below that. It is pinned, and a test holds both to the same answers.
    """
    found: tuple[int, int] = regex._regexp.Match(_UNANCHORED, data, at, len(data))[0]
    return None if found[0] < 0 else found


def spans(regex: _Regex, text: str) -> Iterator[tuple[int, int]]:
    """Where each match in a text begins and ends, in characters, of an expression that never matches nothing."""
    data = text.encode(errors="replace")  # half a pair becomes `?`, of the same length
    is_plain = len(data) == len(text)
    at = characters = 0
    while (found := span(regex, data, at)) is not None:
        if is_plain:
            yield found
        else:
            start = characters + len(data[at : found[0]].decode())
            characters = start + len(data[found[0] : found[1]].decode())
            yield start, characters
        at = found[1]


def compile_re2(text: str) -> _Regex:
    """Compile for bytes, or raise ValueError with RE2's words."""
    try:
        return re2.compile(text.encode(), _options())
    except UnicodeEncodeError as exc:
        raise ValueError("holds half of a surrogate pair") from exc
    except re2.error as exc:
        why = exc.args[0] if exc.args else exc
        raise ValueError(why.decode(errors="replace") if isinstance(why, bytes) else str(why)) from exc


def _options() -> Any:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = MAX_MEMORY_BYTES
    return options


class _Reader:
    """Reads an expression that RE2 has compiled, so that what is no expression need not be looked for."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._flags = frozenset[str]()

    def read(self) -> _Node:
        return self._alternatives()

    def _alternatives(self) -> _Node:
        branches = [self._sequence()]
        while self._text.startswith("|", self._at):
            self._at += 1
            branches.append(self._sequence())
        if len(branches) == 1:
            return branches[0]
        longest = [branch.longest for branch in branches]
        return _Node(
            f"(?:{'|'.join(branch.text for branch in branches)})",
            f"(?:{'|'.join(branch.loose for branch in branches)})",
            f"(?:{'|'.join(branch.prefix for branch in branches)})",
            min(branch.shortest for branch in branches),
            None if None in longest else max(length for length in longest if length is not None),
        )

    def _sequence(self) -> _Node:
        parts: list[_Node] = []
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            parts += self._item()
        # From the end: what begins `a b` begins `a`, or is `a` and what begins `b`.
        whole = _NOTHING
        for part in reversed(parts):
            longest = None if part.longest is None or whole.longest is None else part.longest + whole.longest
            later = f"{part.loose}{whole.prefix}"
            if not whole.prefix:
                prefix = part.prefix
            else:
                prefix = f"(?:{later}|{part.prefix})" if part.prefix else f"(?:{later})?"
            whole = _Node(
                part.text + whole.text, part.loose + whole.loose, prefix, part.shortest + whole.shortest, longest
            )
        return whole

    def _item(self) -> list[_Node]:
        """One atom with its quantifier; none for flags, several for a quotation."""
        character = self._text[self._at]
        if self._text.startswith("\\Q", self._at):
            return self._quotation()
        if character == "(":
            node = self._group()
            if node is None:
                return []
        elif character == "[":
            node = self._one(self._class())
        elif character in "^$":
            self._at += 1
            node = self._edge(character)
        elif character == "\\":
            escape = _ESCAPE.match(self._text, self._at)
            if escape is None:
                raise AssertionError("RE2 took a lone backslash")
            self._at = escape.end()
            node = self._edge(escape[0]) if escape[0] in (r"\b", r"\B", r"\A", r"\z") else self._one(escape[0])
        else:
            self._at += 1
            node = self._one(character if character == "." else _literal(character))
        return [self._quantified(node)]

    def _quantified(self, node: _Node) -> _Node:
        while (match := _QUANTIFIER.match(self._text, self._at)) is not None:
            self._at = match.end()
            sign, least, comma, most = match.groups()
            low = int(least) if least else int(sign == "+")
            most_given = int(most) if most else None if comma else low
            high = most_given if not sign else 1 if sign == "?" else None
            node = _repeated(node, low, high, match[0])
        return node

    def _group(self) -> _Node | None:
        self._at += 1
        outside = self._flags
        if (flags := _FLAGS.match(self._text, self._at)) is not None:
            self._at = flags.end()
            self._flags = (self._flags | set(flags[1])) - set((flags[2] or "")[1:])
            if flags[3] == ")":  # they hold to the end of the group that they stand in
                return None
        elif (name := _NAME.match(self._text, self._at)) is not None:
            self._at = name.end()
        inside = self._alternatives()
        self._at += 1
        self._flags = outside
        return _Node(f"(?:{inside.text})", f"(?:{inside.loose})", inside.prefix, inside.shortest, inside.longest)

    def _quotation(self) -> list[_Node]:
        end = self._text.find("\\E", self._at)
        quoted = self._text[self._at + 2 : end if end >= 0 else None]
        self._at = end + 2 if end >= 0 else len(self._text)
        nodes = [self._one(_literal(character)) for character in quoted]
        return [*nodes[:-1], self._quantified(nodes[-1])] if nodes else []

    def _class(self) -> str:
        start = self._at
        self._at += 1
        if self._text.startswith("^", self._at):
            self._at += 1
        if self._text.startswith("]", self._at):
            self._at += 1
        while not self._text.startswith("]", self._at):
            part = _CLASS_PART.match(self._text, self._at)
            if part is None:
                raise AssertionError("RE2 took a class without an end")
            self._at = part.end()
        self._at += 1
        return self._text[start : self._at]

    def _one(self, text: str) -> _Node:
        """One character."""
        flagged = self._flagged(text, "is")
        return _Node(flagged, flagged, f"{flagged}?", 1, 1)

    def _edge(self, text: str) -> _Node:
        """A place between two characters."""
        flagged = self._flagged(text, "m")
        return _Node(flagged, flagged, "", 0, 0)

    def _flagged(self, text: str, that_matter: str) -> str:
        flags = "".join(flag for flag in that_matter if flag in self._flags)
        return f"(?{flags}:{text})" if flags else text


def _repeated(node: _Node, low: int, high: int | None, quantifier: str) -> _Node:
    text = f"(?:{node.text}){quantifier}" if len(node.text) > 1 else node.text + quantifier
    is_loose = high is None or high > MAX_COUNT
    loose = f"(?:{node.loose})" + (quantifier if not is_loose else "+" if low else "*")
    before = (
        f"(?:{node.loose})*" if high is None or is_loose else f"(?:{node.loose}){{0,{high - 1}}}" if high > 1 else ""
    )
    prefix = f"(?:{before}{node.prefix})" if high != 0 else ""
    if node.longest == 0 or high == 0:
        longest: int | None = 0
    else:
        longest = None if high is None or node.longest is None else node.longest * high
    return _Node(text, loose, prefix, node.shortest * low, longest)


def _literal(character: str) -> str:
    return f"\\{character}" if character.isascii() and not character.isalnum() and character > " " else character
