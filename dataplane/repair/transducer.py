"""Reads text that is nearly JSON from left to right and writes JSON, as far as that can be done without a guess. Pure.

It reads a superset of JSON in which every text has one meaning: strings in single or typographic quotes, bare keys,
line breaks in strings, illegal escapes, comments, trailing commas, the literals of Python and JavaScript. What cannot
be read so is not guessed at here. JSON itself comes out as it went in, character by character, so numbers keep their
text.

What has been written is never taken back, and at most one token is held back, so that a stream can be repaired while
it is being written; time is linear in the text however it is cut into pieces.

Source: the grammar is that of JSON5 (spec.json5.org), less its multi-line strings and hexadecimal numbers, and with `#`
comments.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Final

from dataplane.repair.labels import Edit, Label, Mode, shortened
from dataplane.repair.values import MAX_DEPTH

MAX_EDITS: Final = 1_000
ALL_LABELS: Final = frozenset(Label)
_MAX_TOKEN_CHARACTERS: Final = 1_000  # of numbers and words, which are held back until they end

_WHITE: Final = re.compile(r"[ \t\n\r]+")
_OTHER_WHITE: Final = re.compile(r"[\u00a0\u1680\u2000-\u200b\u2028\u2029\u202f\u205f\u3000\ufeff\f\v]+")
WORD: Final = re.compile(r"[^\s,:{}\[\]\"'“”‘’/#]+")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_LOOSE_NUMBER: Final = re.compile(r"([+-]?)((?:0|[1-9][0-9]*)?)(?:\.([0-9]*))?((?:[eE][+-]?[0-9]+)?)")
_CUT_WORD: Final = re.compile(r"-|-?[0-9]+(?:\.[0-9]+)?[eE][+-]?|[tT](?:ru?)?|[fF](?:a(?:ls?)?)?|n(?:ul?)?|N(?:on?)?")
_QUOTE: Final = re.compile('["“”]')
_NAME: Final = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")
_PLAIN: Final = {  # what of a string can be copied at once, by the quote that ends it
    '"': re.compile(r'[^"\\\x00-\x1f\ud800-\udfff]+'),
    "'": re.compile(r"[^'\"\\\x00-\x1f\ud800-\udfff]+"),
    "”": re.compile(r"[^”\"\\\x00-\x1f\ud800-\udfff]+"),
    "’": re.compile(r"[^’\"\\\x00-\x1f\ud800-\udfff]+"),
}
_ENDS: Final = {'"': '"', "'": "'", "“": "”", "”": "”", "‘": "’", "’": "’"}
_HEX: Final = re.compile(r"[0-9a-fA-F]+")
_ESCAPES: Final = frozenset('"\\/bfnrt')
_CONTROL: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
_JSON_WORDS: Final = frozenset({"true", "false", "null"})
_OTHER_WORDS: Final = {
    "True": ("true", Label.LOSSLESS),
    "False": ("false", Label.LOSSLESS),
    "None": ("null", Label.LOSSLESS),
    "undefined": ("null", Label.LOSSY),
} | {
    sign + word: ("null", Label.LOSSY)
    for word in ("NaN", "nan", "Infinity", "inf", "Inf", "infinity")
    for sign in ("", "-", "+")
}


class _Expect(Enum):
    VALUE = auto()
    VALUE_OR_END = auto()
    KEY_OR_END = auto()
    KEY = auto()
    COLON = auto()
    COMMA_OR_END = auto()
    NOTHING = auto()


class Unreadable(Exception):
    """The text is not of the grammar from character `at` on. `why` is for people, `mode` for charts."""

    def __init__(self, at: int, why: str, mode: Mode = Mode.SYNTAX) -> None:
        super().__init__(f"character {at}: {why}")
        self.at = at
        self.why = why
        self.mode = mode

    @property
    def is_cut(self) -> bool:
        """Whether nothing is wrong but that the text ends too early."""
        return self.mode is Mode.TRUNCATED


class Transducer:
    """One value, an object or a list, as it is being read."""

    __slots__ = (
        "_at",
        "_base",
        "_closers",
        "_comma_at",
        "_comment",
        "_comment_label",
        "_expect",
        "_held",
        "_is_ended",
        "_is_key",
        "_labels",
        "_out",
        "_quote",
        "_safe",
        "_text",
        "_white_end",
        "_written",
        "edits",
    )

    def __init__(self, *, at: int = 0, labels: frozenset[Label] = ALL_LABELS) -> None:
        """Begin before the value.

        Args:
            at: Where its text begins in the model's: edits are told in characters of that.
            labels: The edits that may be made; a text that needs another cannot be read.
        """
        self.edits: list[Edit] = []
        self._labels = labels
        self._text = ""  # what has come and is not read yet begins at `_at`, which is character `_base + _at` of all
        self._at = 0
        self._base = at
        self._is_ended = False
        self._closers: list[str] = []
        self._expect = _Expect.VALUE
        self._quote = ""  # what ends the string that is being read
        self._is_key = False
        self._comment = ""  # what ends the comment that is being read
        self._comment_label = Label.LOSSLESS
        self._held: list[str] | None = (
            None  # a comma, and the white space behind it, until it is seen what it separates
        )
        self._comma_at = 0
        self._white_end = -1  # where white space that JSON does not have ended
        self._out: list[str] = []
        self._written = 0
        self._safe = 0

    @property
    def is_done(self) -> bool:
        """Whether the value has ended; what is fed then is left for `rest`."""
        return self._expect is _Expect.NOTHING

    @property
    def rest(self) -> str:
        """What came behind the value."""
        return self._text[self._at :]

    @property
    def closers(self) -> str:
        """What would end the value where it is whole for the last time (`safe`)."""
        return "".join(reversed(self._closers))

    @property
    def safe(self) -> int:
        """How many characters of what was written are whole values, and hold whether or not more is to come."""
        return self._safe

    def feed(self, text: str) -> str:
        """Take the next piece of the text and give what can be written.

        Raises:
            Unreadable: it is not of the grammar; what was written before stays true, and `take` gives the end of it.
        """
        self._base += self._at
        self._text = self._text[self._at :] + text
        self._at = 0
        while not self.is_done and self._at < len(self._text) and self._step():
            pass
        return self.take()

    def take(self) -> str:
        """What is written and was not given yet."""
        out, self._out = "".join(self._out), []
        return out

    def finish(self) -> str:
        """Take the end of the text and give what remained to be written.

        Raises:
            Unreadable: as `feed`; or the value has not ended.
        """
        self._is_ended = True
        out = self.feed("")
        if not self.is_done:
            raise Unreadable(self._base + len(self._text), "the text ends before the value does", Mode.TRUNCATED)
        return out

    def fork(self) -> Transducer:
        """A second reader that stands where this one does, with what was written so far left out."""
        other = Transducer(at=self._base, labels=self._labels)
        other.edits = self.edits.copy()
        other._closers = self._closers.copy()
        other._held = None if self._held is None else self._held.copy()
        other._text, other._at = self._text, self._at
        other._expect = self._expect
        other._quote, other._is_key = self._quote, self._is_key
        other._comment, other._comment_label = self._comment, self._comment_label
        other._comma_at, other._white_end = self._comma_at, self._white_end
        other._written, other._safe = self._written, self._safe
        return other

    def would_turn_on(self, mark: str) -> bool:
        """Whether `mark`, if it came next, would change how the text is read on: it is not refused at once, and is not
        the content of a string or comment.
        """
        if self._comment:
            return False
        if self._at < len(self._text):  # in the middle of a word, or behind a backslash: too soon to tell
            return True
        if self._quote:
            return mark == self._quote
        if self._expect is _Expect.COLON:
            return mark == ":"
        if self._expect is _Expect.COMMA_OR_END:
            return mark == "," or mark == self._closers[-1]
        if self._expect in (_Expect.KEY, _Expect.KEY_OR_END):
            return mark in _ENDS or (mark == "}" and self._expect is _Expect.KEY_OR_END)
        return mark in _ENDS or mark in "{[" or (mark == "]" and self._expect is _Expect.VALUE_OR_END)

    def _step(self) -> bool:
        """Read one thing, or give False where more text is needed to tell what it is."""
        if self._quote:
            return self._in_string()
        if self._comment:
            return self._in_comment()
        text, at = self._text, self._at
        if white := _WHITE.match(text, at):
            self._write_white(white.group())
            self._at = white.end()
            return True
        if white := _OTHER_WHITE.match(text, at):
            if self._base + at != self._white_end:  # however it is cut, one run is one edit
                self._edit("white_space", at, text[at], " ")
            self._write_white(" " * len(white.group()))
            self._at = white.end()
            self._white_end = self._base + self._at
            return True
        char = text[at]
        if char in "/#":
            return self._start_comment(char)
        expect = self._expect
        if expect is _Expect.COMMA_OR_END:
            self._read_comma_or_end(char)
        elif expect is _Expect.COLON:
            if char != ":":
                raise self._unreadable("a colon was expected")
            self._write(":")
            self._at += 1
            self._expect = _Expect.VALUE
        elif expect in (_Expect.KEY, _Expect.KEY_OR_END):
            return self._read_key(char)
        else:
            return self._read_value(char)
        return True

    def _read_comma_or_end(self, char: str) -> None:
        if char == ",":
            self._held, self._comma_at = [], self._base + self._at
            self._expect = _Expect.KEY_OR_END if self._closers[-1] == "}" else _Expect.VALUE_OR_END
            self._at += 1
        elif char == self._closers[-1]:
            self._end_container()
        else:
            raise self._unreadable(f"a comma or {self._closers[-1]!r} was expected")

    def _read_key(self, char: str) -> bool:
        if char == "}" and self._expect is _Expect.KEY_OR_END:
            self._end_container()
            return True
        if char in _ENDS:
            self._start_string(char, is_key=True)
            return True
        name = _NAME.match(self._text, self._at)
        if name is None:
            raise self._unreadable("a key was expected")
        if not self._is_whole(name):
            return False
        self._edit("bare_key", self._at, name.group(), f'"{name.group()}"')
        self._write(f'"{name.group()}"')
        self._at = name.end()
        self._expect = _Expect.COLON
        return True

    def _read_value(self, char: str) -> bool:
        if char == "]" and self._expect is _Expect.VALUE_OR_END:
            self._end_container()
        elif char in "{[":
            self._start_container(char)
        elif not self._closers:
            raise self._unreadable("an object or a list was expected")
        elif char in _ENDS:
            self._start_string(char, is_key=False)
        else:
            return self._read_word()
        return True

    def _read_word(self) -> bool:
        """A number or a literal: what stands up to the next mark, white space or quote."""
        word = WORD.match(self._text, self._at)
        if word is None:
            raise self._unreadable("a value was expected")
        if not self._is_whole(word):
            return False
        before = word.group()
        if before in _JSON_WORDS or _NUMBER.fullmatch(before):
            after = before
        elif before in _OTHER_WORDS:
            after, label = _OTHER_WORDS[before]
            self._edit("literal" if label is Label.LOSSLESS else "not_a_number", self._at, before, after, label)
        else:
            if word.end() == len(text := self._text) and _CUT_WORD.fullmatch(before):
                raise Unreadable(self._base + len(text), "the text ends in the middle of a value", Mode.TRUNCATED)
            after = self._plain_number(before)
            self._edit("number_form", self._at, before, after)
        self._write(after)
        self._at = word.end()
        if self._at < len(self._text):  # one that the end of the text ends may have had more digits
            self._end_value()
        else:
            self._expect = _Expect.COMMA_OR_END
        return True

    def _plain_number(self, text: str) -> str:
        """The number of JSON for one with a plus in front, or with nothing on one side of its point."""
        match = _LOOSE_NUMBER.fullmatch(text)
        if match is None or not (match[2] or match[3]):
            raise self._unreadable(f"a value was expected, not {text[:40]!r}")
        sign, whole, fraction, exponent = match.groups()
        return f"{'-' if sign == '-' else ''}{whole or '0'}{'.' + fraction if fraction else ''}{exponent}"

    def _start_container(self, char: str) -> None:
        if len(self._closers) >= MAX_DEPTH:
            raise self._unreadable(f"it is nested more than {MAX_DEPTH} deep", Mode.TOO_DEEP)
        self._write(char)
        self._at += 1
        self._closers.append("}" if char == "{" else "]")
        self._expect = _Expect.KEY_OR_END if char == "{" else _Expect.VALUE_OR_END
        self._safe = self._written

    def _end_container(self) -> None:
        if self._held is not None:
            self._edit("trailing_comma", self._comma_at - self._base, ",", "")
            white, self._held = "".join(self._held), None
            self._write(white)
        self._write(self._closers.pop())
        self._at += 1
        self._end_value()

    def _end_value(self) -> None:
        self._expect = _Expect.COMMA_OR_END if self._closers else _Expect.NOTHING
        self._safe = self._written

    def _start_string(self, char: str, *, is_key: bool) -> None:
        self._quote, self._is_key = _ENDS[char], is_key
        if char != '"':
            self._edit("quotes", self._at, char, '"')
        self._write('"')
        self._at += 1

    def _in_string(self) -> bool:
        text, at = self._text, self._at
        if plain := _PLAIN[self._quote].match(text, at):
            self._write(plain.group())
            self._at = plain.end()
            return True
        char = text[at]
        if char == self._quote:
            self._write('"')
            self._at += 1
            self._quote = ""
            if self._is_key:
                self._expect = _Expect.COLON
            else:
                self._end_value()
        elif char == "\\":
            return self._read_escape()
        elif char == '"':  # in a string of other quotes
            self._write('\\"')
            self._at += 1
        else:
            after = _CONTROL.get(char) or f"\\u{ord(char):04x}"
            self._edit("surrogate" if char >= "\ud800" else "control_character", at, ascii(char)[1:-1], after)
            self._write(after)
            self._at += 1
        return True

    def _read_escape(self) -> bool:
        text, at = self._text, self._at
        if at + 1 == len(text):
            return False
        char = text[at + 1]
        length = 2
        if char in _ESCAPES:
            after = text[at : at + 2]
        elif char == "u":
            digits = _HEX.match(text, at + 2, at + 6)
            found = len(digits.group()) if digits else 0
            if found < 4 and at + 2 + found == len(text):
                return False
            if found < 4:
                raise self._unreadable("an escape \\u has four hexadecimal digits", Mode.ILLEGAL_ESCAPE)
            length, after = 6, text[at : at + 6]
        elif char in _ENDS:  # \' and its like: a quote that needs no escape in JSON
            after = char
            self._edit("illegal_escape", at, text[at : at + 2], after)
        else:
            length, after = 1, "\\\\"
            self._edit("illegal_escape", at, text[at : at + 2], f"\\\\{char}", Label.INVENTED)
        self._write(after)
        self._at += length
        return True

    def _start_comment(self, char: str) -> bool:
        ahead = self._text[self._at : self._at + 2]
        if char == "/" and len(ahead) < 2 and not self._is_ended:
            return False
        if char == "#" or ahead == "//":
            self._comment = "\n"
        elif ahead == "/*":
            self._comment = "*/"
        else:
            raise self._unreadable("a slash stands where none can")
        self._edit("comment", self._at, ahead, "")
        self._comment_label = Label.LOSSLESS
        self._at += len(self._comment) if self._comment == "*/" else 1
        return True

    def _in_comment(self) -> bool:
        end = self._text.find(self._comment, self._at)
        # What may be half of the mark that ends it stays.
        stop = max(self._at, len(self._text) - len(self._comment) + 1) if end < 0 else end
        if self._comment_label is Label.LOSSLESS and _QUOTE.search(self._text, self._at, stop):
            # A string that begins like a comment looks so where the quote before it is missing.
            self._edit("comment", self._at, self._text[self._at : stop], "", Label.INVENTED)
            self._comment_label = Label.INVENTED
        self._at = stop
        if end < 0:
            return False
        self._at += 0 if self._comment == "\n" else len(self._comment)
        self._comment = ""
        return True

    def _write(self, text: str) -> None:
        if self._held is not None:
            held, self._held = self._held, None
            self._write("," + "".join(held))
        self._out.append(text)
        self._written += len(text)

    def _write_white(self, text: str) -> None:
        if self._held is not None:
            self._held.append(text)
        else:
            self._write(text)

    def _edit(self, kind: str, at: int, before: str, after: str, label: Label = Label.LOSSLESS) -> None:
        """Note an edit, before anything of it is written."""
        if label not in self._labels:
            raise self._unreadable(f"{shortened(before)!r} can only be read by an edit that is {label}")
        if len(self.edits) >= MAX_EDITS:
            raise self._unreadable(f"it needs more than {MAX_EDITS} edits")
        self.edits.append(Edit.of(kind, self._base + at, before, after, label))

    def _is_whole(self, token: re.Match[str]) -> bool:
        """Whether a number or word cannot go on in what is to come."""
        if token.end() - token.start() > _MAX_TOKEN_CHARACTERS:
            raise self._unreadable(f"a number or word has more than {_MAX_TOKEN_CHARACTERS} characters")
        return self._is_ended or token.end() < len(self._text)

    def _unreadable(self, why: str, mode: Mode = Mode.SYNTAX) -> Unreadable:
        return Unreadable(self._base + self._at, why, mode)
