"""Text as a reader takes it, with the way back to where each character stood. Pure.

A word can hide from a rule behind characters that look the same or like nothing: full-width letters, accents,
zero-width spaces, the escapes of JSON and Markdown. Folding takes each character for itself, never by what stands
beside it, so a text folds to the same whatever pieces it comes in.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from enum import StrEnum
from functools import lru_cache
from typing import Final


class Fold(StrEnum):
    """What is held to be the same."""

    SHAPES = "shapes"  # compatibility forms, such as full-width letters; what is invisible is left out
    BARE = "bare"  # and accents, the digits of all scripts, dashes, quotation marks; what is left of others is OTHER
    LETTERS = "letters"  # as SHAPES, and accents and case


# Shown as nothing, though they are no format characters: joiners and selectors of variants.
_INVISIBLE: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")
_ACCENTS: Final = ((0x0300, 0x036F), (0x1AB0, 0x1AFF), (0x1DC0, 0x1DFF), (0x20D0, 0x20FF), (0xFE20, 0xFE2F))
OTHER: Final = "\x7f"  # so that this fold is always ASCII, which is what keys and numbers are made of
_QUOTES: Final = dict.fromkeys("‘’‚‛", "'") | dict.fromkeys("“”„‟", '"') | {"\u2212": "-"}
_CONTROLS: Final = {"n": "\n", "r": "\r", "t": "\t", "f": " ", "b": " "}

# JSON within JSON within JSON has eight backslashes; more are taken for themselves.
_SLASHES: Final = r"\\{1,8}"
_HIGH: Final = r"u[dD][89abAB][0-9a-fA-F]{2}"
_LOW: Final = r"u[dD][c-fC-F][0-9a-fA-F]{2}"
_FOREIGN: Final = r"[^\x00-\x7f]+"
_ESCAPED: Final = re.compile(rf"{_SLASHES}(?:{_HIGH}{_SLASHES}{_LOW}|u[0-9a-fA-F]{{4}}|[^\\])|{_FOREIGN}", re.DOTALL)
# What a piece may end in that only the next one tells the meaning of.
_OPEN: Final = re.compile(
    rf"{_SLASHES}(?:{_HIGH}(?:{_SLASHES}(?:u(?:[dD](?:[c-fC-F][0-9a-fA-F]?)?)?)?)?|u[0-9a-fA-F]{{0,3}})?\Z"
)
_OPEN_CHARACTERS: Final = 32


# Several rules ask for the same fold of an answer, one after the other.
KEPT_TEXTS: Final = 8


class _Table(dict[int, str]):
    """What each character folds to, worked out once."""

    def __init__(self, fold: Fold) -> None:
        self._fold = fold

    def __missing__(self, code: int) -> str:
        folded = self[code] = _folded(chr(code), self._fold)
        return folded


def _folded(character: str, fold: Fold) -> str:
    if 0xD800 <= ord(character) <= 0xDFFF:  # half of a pair cannot be written as UTF-8
        return OTHER if fold is Fold.BARE else "\ufffd"
    kept = []
    for part in unicodedata.normalize("NFKC" if fold is Fold.SHAPES else "NFKD", character):
        if unicodedata.category(part) == "Cf" or part in _INVISIBLE or 0xFE00 <= ord(part) <= 0xFE0F:
            continue
        if 0xE0100 <= ord(part) <= 0xE01EF:
            continue
        if fold is Fold.BARE:
            category = unicodedata.category(part)
            if category in {"Mn", "Me"}:
                continue
            part = "-" if category == "Pd" else _QUOTES.get(part) or str(unicodedata.decimal(part, part))
            kept.append(part if part.isascii() else OTHER)
        elif fold is Fold.LETTERS:
            # Only accents: the marks of many scripts are vowels, without which other words are the same.
            if not any(low <= ord(part) <= high for low, high in _ACCENTS):
                kept.append(part.casefold())
        else:
            kept.append(part)
    text = "".join(kept)
    if fold is Fold.LETTERS:  # the case fold of a letter may have an accent of its own
        text = "".join(part for part in text if not any(low <= ord(part) <= high for low, high in _ACCENTS))
    return text


_TABLES: Final[Mapping[Fold, _Table]] = {fold: _Table(fold) for fold in Fold}


class Offsets:
    """Where each character of a folded text stood in the text it was folded from."""

    __slots__ = ("_before", "_broken", "_folded", "_lengths", "_original", "_starts", "folded", "original")

    def __init__(self) -> None:
        self.folded = 0  # characters so far
        self.original = 0
        # Pieces, in order: where one begins folded and as it was, and the length there of what folds to it together;
        # 0 where each character is one.
        self._starts = [0]
        self._before = [0]
        self._lengths = [0]
        self._broken = False

    def add_run(self, length: int) -> None:
        """Characters that each became one."""
        if self._lengths[-1] or self._broken:
            self._begin(0)
        self.folded += length
        self.original += length

    def add_piece(self, width: int, length: int) -> None:
        """`length` characters that became `width` together."""
        if width:
            self._begin(length)
        else:
            self._broken = True
        self.folded += width
        self.original += length

    def start(self, index: int) -> int:
        """Where the character that became number `index` began; at the end, where all of it ended."""
        if index >= self.folded:
            return self.original
        place = bisect_right(self._starts, index) - 1
        before = self._before[place]
        return before if self._lengths[place] else before + index - self._starts[place]

    def end(self, index: int) -> int:
        """Where the character that became number `index - 1` ended; `index` is above 0."""
        place = bisect_right(self._starts, index - 1) - 1
        before = self._before[place]
        return before + (self._lengths[place] or index - self._starts[place])

    def forget(self, index: int) -> None:
        """Nothing before the character number `index` is asked for again."""
        place = bisect_right(self._starts, index) - 1
        if place > 0:
            del self._starts[:place], self._before[:place], self._lengths[:place]

    def _begin(self, length: int) -> None:
        if self._starts[-1] == self.folded and self._starts:  # a piece of no width: this one takes its place
            self._starts.pop()
            self._before.pop()
            self._lengths.pop()
        self._starts.append(self.folded)
        self._before.append(self.original)
        self._lengths.append(length)
        self._broken = False


class Folder:
    """Folds a text that comes in pieces. `escapes` says that a backslash may stand for what it escapes."""

    __slots__ = ("_escapes", "_fold", "_lowers", "_open", "_table", "offsets")

    def __init__(self, fold: Fold, *, escapes: bool) -> None:
        self.offsets = Offsets()
        self._fold = fold
        self._lowers = fold is Fold.LETTERS
        self._table = _TABLES[fold]
        self._escapes = escapes
        self._open = ""

    def feed(self, text: str) -> str:
        """Give what the next piece folds to, as far as that is certain."""
        if self._open:
            text = self._open + text
            self._open = ""
        if self._escapes and "\\" in text:
            cut = _OPEN.search(text, max(0, len(text) - _OPEN_CHARACTERS))
            if cut is not None:
                self._open = text[cut.start() :]
                text = text[: cut.start()]
        return self._take(text)

    def finish(self) -> str:
        """Give the rest."""
        text, self._open = self._open, ""
        return self._take(text)

    def _take(self, text: str) -> str:
        escaped = self._escapes and "\\" in text
        if text.isascii() and not escaped:
            if text:
                self.offsets.add_run(len(text))
            return text.lower() if self._lowers else text
        pieces: list[str] = []
        at = 0
        odds = (found.span() for found in _ESCAPED.finditer(text)) if escaped else _foreign(text)
        for start, end in odds:
            if start > at:
                pieces.append(self._run(text[at:start]))
            at = end
            odd = text[start:end]
            if odd[0] == "\\":
                pieces.append(self._piece(_meant(odd), len(odd)))
            elif odd.translate(self._table) == odd:
                pieces.append(odd)
                self.offsets.add_run(len(odd))
            else:
                pieces += [self._piece(character, 1) for character in odd]
        if at < len(text):
            pieces.append(self._run(text[at:]))
        return "".join(pieces)

    def _run(self, text: str) -> str:
        self.offsets.add_run(len(text))
        return text.lower() if self._lowers else text

    def _piece(self, text: str, length: int) -> str:
        folded = "".join(map(self._table.__getitem__, map(ord, text)))
        if len(folded) == length == 1:
            self.offsets.add_run(1)
        else:
            self.offsets.add_piece(len(folded), length)
        return folded


class _LateOffsets(Offsets):
    """The same for a whole text without escapes, worked out when one is asked for: of most texts, none ever is."""

    __slots__ = ("_how", "_text", "_worked_out")

    def __init__(self, text: str, folded: str, how: Fold) -> None:
        super().__init__()
        self.folded = len(folded)
        self.original = len(text)
        self._text = text
        self._how = how
        self._worked_out: Offsets | None = None

    def start(self, index: int) -> int:
        return self._work_out().start(index)

    def end(self, index: int) -> int:
        return self._work_out().end(index)

    def _work_out(self) -> Offsets:
        if self._worked_out is None:
            folder = Folder(self._how, escapes=False)
            folder.feed(self._text)
            self._worked_out = folder.offsets
        return self._worked_out


@lru_cache(maxsize=KEPT_TEXTS)
def fold(text: str, how: Fold, *, escapes: bool = False) -> tuple[str, Offsets]:
    """Fold a whole text. The offsets are to be read only: the next rule that asks for the same fold gets them too."""
    if not text.isascii() and not (escapes and "\\" in text):
        folded = _translated(text, _TABLES[how], lowers=how is Fold.LETTERS)
        return folded, _LateOffsets(text, folded, how)
    folder = Folder(how, escapes=escapes)
    folded = folder.feed(text)
    return folded + folder.finish(), folder.offsets


def words(text: str) -> list[bytes]:
    """The words of a text as LETTERS folds them, in UTF-8: runs of letters and digits, and of U+0001."""
    if not text.isascii():
        text = _translated(text, _WORDS)
    # Bytes, for which Python has a table: the ASCII part of most texts is nearly all of it.
    return text.encode(errors="replace").translate(_ASCII_WORDS).split()


class _Words(dict[int, str]):
    """What each character becomes where only words matter, worked out once."""

    def __missing__(self, code: int) -> str:
        # The marks of some scripts are vowels within words.
        folded = _TABLES[Fold.LETTERS][code]
        kept = self[code] = "".join(part if unicodedata.category(part)[0] in "LNM" else " " for part in folded)
        return kept


_WORDS: Final = _Words()
_ASCII_WORDS: Final = bytes(
    code if code == 1 or code > 127 else ord(chr(code).lower()) if chr(code).isalnum() else 32 for code in range(256)
)


# One byte for each character: of UTF-8, what begins one; all that begin another than an ASCII character are the same.
_FIRST: Final = bytes(code if code < 0x80 else 0xFF for code in range(256))
_CONTINUED: Final = bytes(range(0x80, 0xC0))
_NOT_ASCII: Final = re.compile(rb"\xff\xff*+")


def _foreign(text: str) -> Iterator[tuple[int, int]]:
    """Where each run of characters other than ASCII begins and ends.

    An expression that looks at every character of a text takes ten times what it takes to look for one byte.
    """
    marks = text.encode(errors="surrogatepass").translate(_FIRST, _CONTINUED)
    return (found.span() for found in _NOT_ASCII.finditer(marks))


def _translated(text: str, table: Mapping[int, str], *, lowers: bool = False) -> str:
    """A text with what its characters other than ASCII become, and the others in lower case if that is asked for.

    It is read in runs, since Python looks up each character of a text for itself, and most are ASCII.
    """
    pieces: list[str] = []
    at = 0
    for start, end in _foreign(text):
        pieces.append(text[at:start].lower() if lowers else text[at:start])
        pieces.append(text[start:end].translate(table))
        at = end
    pieces.append(text[at:].lower() if lowers else text[at:])
    return "".join(pieces)


def has_escapes(how: Fold, *, is_json: bool) -> bool:
    """Whether a backslash stands for what it escapes: in JSON; and where keys are looked for in prose too, which may
    quote JSON, and in which Markdown escapes what a key is made of.
    """
    return is_json or how is Fold.BARE


def _meant(escape: str) -> str:
    """What an escape stands for; of a character that has none, itself."""
    digits = escape.lstrip("\\")
    if digits[0] == "u" and len(digits) >= 5:
        code = int(digits[1:5], 16)
        if len(digits) > 5:
            return chr(0x10000 + ((code - 0xD800) << 10) + int(digits[-4:], 16) - 0xDC00)
        return chr(code)
    return _CONTROLS.get(digits, digits)
