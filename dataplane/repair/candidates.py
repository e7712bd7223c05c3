"""Holds JSON that somebody made of a broken text against that text: what was added, and what was left out. Pure.

The json-repair library is one who makes such JSON. It guesses, silently, so what it gives is a reading only where every
string, number and literal of it stands in the text, in order; and it is never better than invented.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

import json_repair

from dataplane.repair.labels import Edit, Label
from dataplane.repair.values import NotJson, Reading, parse

MAX_CHARACTERS: Final = 16_384
MAX_OPEN: Final = 100  # brackets, since the library recurses
# The library looks at one and a half characters for each one of ordinary text, and at the square of them where quotes
# do not match: 8,000 times `("` are eighteen seconds. So its looks are counted.
MAX_LOOKS: Final = 160_000
_SLICE_LOOKS: Final = 64  # characters of a slice that count as one look
MAX_CHANGES: Final = 100

_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*+"|-?[0-9][0-9.eE+-]*|true|false|null', re.DOTALL)
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_NEARLY_NUMBER: Final = re.compile(r"(?<![\w.])-?[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?(?![\w.]*\w)")
_WORDS: Final = {
    "true": re.compile(r"\btrue\b", re.IGNORECASE),
    "false": re.compile(r"\bfalse\b", re.IGNORECASE),
    "null": re.compile(r"\b(?:null|none|undefined|nan)\b", re.IGNORECASE),
}
_EMPTY: Final = re.compile("\"\"|''|“”|‘’")
_SAYS_SOMETHING: Final = re.compile(r"\w")
_OPENERS: Final = re.compile(r"[\[{\]}\"']")


class TooManyLooks(Exception):
    """The library looks at a text more often than it may."""


class Counted(str):
    """Text that can be looked at MAX_LOOKS times, character by character."""

    looks = 0

    def __getitem__(self, at: Any) -> str:
        """As of str.

        Raises:
            TooManyLooks: it was looked at too often.
        """
        found = str.__getitem__(self, at)
        self.looks += 1 + len(found) // _SLICE_LOOKS
        if self.looks > MAX_LOOKS:
            raise TooManyLooks
        return found


def changes(text: str, made: str) -> tuple[Edit, ...]:
    """What of `made`, which is JSON, is not in `text`, and what of `text` is not in `made`; the first MAX_CHANGES."""
    return _aligned(text, made)[1]


def library_reading(text: str) -> Reading | None:
    """What json-repair makes of a text, if it added nothing to it; numbers as the text has them.

    None also where the text is too long or has too much open at once for the library's time to be bounded.
    """
    if len(text) > MAX_CHARACTERS or _open_at_once(text) > MAX_OPEN:
        return None
    try:
        value: Any = json_repair.loads(Counted(text), skip_json_loads=True)
        made = json.dumps(value, ensure_ascii=False, allow_nan=False)
        parse(made)
    except (NotJson, RecursionError, TooManyLooks, ValueError):
        return None
    except Exception:  # noqa: BLE001  a guesser that meets what nobody thought of may fail in any way
        return None
    if not isinstance(value, dict | list):
        return None
    made, edits = _aligned(text, made)
    if any(edit.label is Label.INVENTED for edit in edits):
        return None
    return Reading(made, (Edit.of("library", 0, text, made, Label.INVENTED), *edits))


def _aligned(text: str, made: str) -> tuple[str, tuple[Edit, ...]]:
    """`made` with its numbers as `text` writes them, and the changes."""
    edits: list[Edit] = []
    written: list[str] = []
    at = done = 0
    for match in _TOKEN.finditer(made):
        if len(edits) >= MAX_CHANGES:
            break
        token = match.group()
        found = _find(text, token, at)
        written += (made[done : match.start()], token)
        done = match.end()
        if found is None:
            edits.append(Edit.of("added", at, "", token, Label.INVENTED))
            continue
        start, end = found
        if _SAYS_SOMETHING.search(text, at, start):
            edits.append(Edit.of("left_out", at, text[at:start].strip(), "", Label.LOSSY))
        if token[0] not in '"tfn' and _NUMBER.fullmatch(text, start, end):
            written[-1] = text[start:end]
        at = end
    if len(edits) < MAX_CHANGES and _SAYS_SOMETHING.search(text, at):
        edits.append(Edit.of("left_out", at, text[at:].strip(), "", Label.LOSSY))
    return "".join(written) + made[done:], tuple(edits)


def _find(text: str, token: str, at: int) -> tuple[int, int] | None:
    """Where a string, number or literal stands next in `text`."""
    if token[0] == '"':
        said = json.loads(token)
        if not said:
            found = _EMPTY.search(text, at)
            return found.span() if found else None
        forms = dict.fromkeys((token[1:-1], said, json.dumps(said)[1:-1], json.dumps(said, ensure_ascii=False)[1:-1]))
        places = [place for form in forms if (place := _find_words(text, form, at)) is not None]
        return min(places, default=None)
    if token in _WORDS:
        found = _WORDS[token].search(text, at)
        return found.span() if found else None
    for number in _NEARLY_NUMBER.finditer(text, at):
        if number.group() == token or float(number.group()) == float(token):
            return number.span()
    return None


def _find_words(text: str, words: str, at: int) -> tuple[int, int] | None:
    """Where `words` stand, not within other words."""
    start = text.find(words, at)
    while start >= 0:
        end = start + len(words)
        begins_inside = start > 0 and words[0].isalnum() and text[start - 1].isalnum()
        ends_inside = end < len(text) and words[-1].isalnum() and text[end].isalnum()
        if not begins_inside and not ends_inside:
            return start, end
        start = text.find(words, start + 1)
    return None


def _open_at_once(text: str) -> int:
    """How many brackets are open at once at most, whatever is string or not."""
    most = now = 0
    for match in _OPENERS.finditer(text):
        now = now + 1 if match.group() in "[{" else max(0, now - 1) if match.group() in "]}" else now
        most = max(most, now)
    return most
