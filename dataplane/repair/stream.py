"""Reads JSON that comes in pieces, and hands over what is certain of it before the rest is there. Pure.

What was handed over is never taken back. So a stream stops handing over where reading on needs an edit that is not
allowed, or cannot be done at all; where coercions are declared for a schema it does not begin to, since each value may
yet become another. At the end all of the text is read once more, with every rung, and a reading that goes on otherwise
than what was handed over is refused.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from dataplane.repair.extraction import BYTE_ORDER_MARK, FENCE_BEGINS, MAX_STARTS, MEANT
from dataplane.repair.labels import Mode
from dataplane.repair.reader import JsonReader, Repaired, Unrepaired
from dataplane.repair.transducer import Transducer, Unreadable
from dataplane.repair.values import MAX_CHARACTERS, WHITE

# What is held to find where the value begins; it is looked at again with each piece.
_MAX_WHITE_CHARACTERS: Final = 1_000
_MAX_FENCE_CHARACTERS: Final = 200  # a longer first line of a fence is prose
_MAX_MAYBE_CHARACTERS: Final = 4_000


class _State(Enum):
    BEFORE = auto()  # nothing has come but white space, behind a fence's first line or at the very beginning
    LINE = auto()  # at the beginning of a line, which may be that of a fence
    PROSE = auto()  # within a line of prose
    MAYBE = auto()  # in what may be a value, and may be a remark in brackets
    VALUE = auto()  # in the value: what is read of it is handed over
    HELD = auto()  # nothing more is handed over before the end


class JsonStream:
    """One text, as it comes.

    Attributes:
        sent: What was handed over so far; the beginning of what `finish` gives as repaired.
    """

    __slots__ = (
        "_characters",
        "_is_text_start",
        "_line",
        "_maybe",
        "_pieces",
        "_reader",
        "_sent",
        "_starts_left",
        "_state",
        "_transducer",
        "_white",
        "_written",
    )

    def __init__(self, reader: JsonReader, *, incremental: bool) -> None:
        """`incremental` False: everything is handed over at the end."""
        self._reader = reader
        self._pieces: list[str] = []
        self._characters = 0
        self._sent: list[str] = []
        self._state = _State.BEFORE if incremental and not reader.coerces else _State.HELD
        self._is_text_start = True
        self._white = ""  # JSON's white space, in which nothing else has come
        self._line = ""  # the beginning of a line
        self._maybe = ""  # the text of what may be a value
        self._written = ""  # and what was read of it
        self._starts_left = MAX_STARTS
        self._transducer = Transducer()

    @property
    def text(self) -> str:
        """The text so far; of one that is too long, no more than the piece that made it so."""
        return "".join(self._pieces)

    @property
    def sent(self) -> str:
        """What was handed over so far."""
        return "".join(self._sent)

    def feed(self, piece: str) -> str:
        """Take the next piece of the text, and return what may be handed over now."""
        if self._characters > MAX_CHARACTERS:
            return ""
        self._pieces.append(piece)
        self._characters += len(piece)
        if self._characters > MAX_CHARACTERS:
            self._state = _State.HELD
        out: list[str] = []
        rest = piece
        while rest and self._state is not _State.HELD:
            rest = self._take(rest, out)
        given = "".join(out)
        if given:
            self._sent.append(given)
        return given

    def finish(self, *, is_cut: bool) -> Repaired | Unrepaired:
        """Read the whole text; `is_cut` as of `JsonReader.read`."""
        sent = self.sent
        result = self._reader.read(self.text, is_cut=is_cut, sent=sent)
        if isinstance(result, Unrepaired) or result.text.startswith(sent):
            return result
        told = f"it reads otherwise than the {len(sent)} characters that were handed over, which cannot be taken back"
        return Unrepaired(result.mode or Mode.SYNTAX, told, (), result, is_cut)

    def accepts(self, text: str) -> bool:
        """Whether another reading of the answer goes on where what was handed over ends."""
        return text.startswith(self.sent)

    def _take(self, text: str, out: list[str]) -> str:
        """Take a part of the text, and return what is left for the next state."""
        match self._state:
            case _State.BEFORE:
                return self._before(text, out)
            case _State.LINE:
                return self._at_line(text)
            case _State.PROSE:
                return self._in_prose(text, out)
            case _State.MAYBE:
                return self._in_maybe(text, out)
            case _State.VALUE:
                self._in_value(text, out)
        return ""

    def _before(self, text: str, out: list[str]) -> str:
        if self._is_text_start and not self._white and text.startswith(BYTE_ORDER_MARK):
            self._is_text_start = False
            return text[1:]
        rest = text.lstrip(WHITE)
        if self._is_text_start:
            self._white += text[: len(text) - len(rest)]
        if len(self._white) > _MAX_WHITE_CHARACTERS:
            self._state = _State.HELD
            return ""
        if not rest:
            return ""
        if rest[0] in self._reader.starts:
            if self._white:
                out.append(self._white)
            self._begin()
            self._state = _State.VALUE
            return rest
        if rest[0] in "`~" and self._line == "":
            # It may be the first line of a fence; the line begins behind the last line break.
            self._state = _State.LINE
            return rest
        self._state = _State.PROSE
        return rest

    def _at_line(self, text: str) -> str:
        line, mark, rest = text.partition("\n")
        self._line += line + mark
        begin = self._line.lstrip(" \t")
        may_be_fence = not begin.strip("\n") or begin[0] in "`~"
        if may_be_fence and not mark and len(self._line) <= _MAX_FENCE_CHARACTERS:
            return rest
        line, self._line = self._line, ""
        if may_be_fence and FENCE_BEGINS.fullmatch(line):
            self._is_text_start, self._white = False, ""
            self._state = _State.BEFORE
            return rest
        self._state = _State.PROSE
        return line + rest

    def _in_prose(self, text: str, out: list[str]) -> str:
        self._is_text_start, self._white = False, ""
        line, mark, rest = text.partition("\n")
        at = min((place for start in self._reader.starts if (place := line.find(start)) >= 0), default=-1)
        if at >= 0:
            if not self._starts_left:
                self._state = _State.HELD
                return ""
            self._starts_left -= 1
            self._begin()
            self._state = _State.MAYBE
            return text[at:]
        if mark:
            self._state = _State.LINE
        return rest

    def _in_maybe(self, text: str, out: list[str]) -> str:
        """Hold what is read until it is a value without doubt: its first key, colon and what begins there, unedited."""
        self._maybe += text
        try:
            self._written += self._transducer.feed(text)
        except Unreadable:
            # A remark in brackets. Behind the bracket, prose goes on.
            self._state = _State.PROSE
            return self._maybe[1:]
        if self._transducer.is_done or self._transducer.edits or len(self._maybe) > _MAX_MAYBE_CHARACTERS:
            self._state = _State.HELD
        elif MEANT.match(self._written):
            out.append(self._written)
            self._state = _State.VALUE
        return ""

    def _in_value(self, text: str, out: list[str]) -> None:
        try:
            out.append(self._transducer.feed(text))
        except Unreadable:
            out.append(self._transducer.take())
            self._state = _State.HELD
            return
        if self._transducer.is_done:
            self._state = _State.HELD

    def _begin(self) -> None:
        self._transducer = Transducer(labels=self._reader.labels)
        self._maybe = self._written = ""
