"""Finds the JSON in what a model said around it: fences, prose, a byte order mark, the same value twice. Pure.

What stands around a value is a remark only if it could not be the rest of a larger value: brackets in it match, and it
does not join on with a comma or a colon. So half of an object is never taken for the whole of its inner one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from dataplane.repair.labels import Edit, Label
from dataplane.repair.missing import is_remark
from dataplane.repair.transducer import Transducer, Unreadable
from dataplane.repair.values import WHITE, Reading, key

MAX_STARTS: Final = 32  # places at which a value may begin, so that a text of nothing but brackets ends soon
MAX_BRACKETS: Final = 1_000
OBJECT: Final = "{"
OBJECT_OR_LIST: Final = "{["
BYTE_ORDER_MARK: Final = "\ufeff"
FENCE_BEGINS: Final = re.compile(r"[ \t]*+(?:`{3,}+|~{3,}+)[ \t]*+[\w.+-]*+[ \t]*+\n")

_FENCE: Final = re.compile(
    r"(?:\A|(?<=\n))[ \t]*+(`{3,}+|~{3,}+)[ \t]*+[\w.+-]*+[ \t]*+\n(.*?)(?:\n[ \t]*+\1[ \t]*+(?=\n|\Z)|\Z)", re.DOTALL
)
_FENCE_LINE: Final = re.compile(r"\A(?:`{3,}+|~{3,}+)[ \t]*+(?=\n|\Z)|(?:\A|(?<=\n))[ \t]*+(?:`{3,}+|~{3,}+)[^\n]*+\Z")
_BRACKET: Final = re.compile(r"[\[\]{}]")
_MATCHING: Final = {"}": "{", "]": "["}
_JOINS_ON_BEFORE: Final = re.compile(r"[\"'”’\d}\]]\s*,\s*\Z|[\"”]\s*:\s*\Z|[\"'“”‘’]\s*\Z")
_JOINS_ON_BEHIND: Final = re.compile(r"\s*[:,\"'“”‘’]")
_BRACKET_OR_QUOTE: Final = re.compile(r"[\[\]{}\"“”]")
# In a remark: what looks like a piece of JSON. Beside a list, which may be a mark such as [1], any other bracket does.
_NEARLY_JSON: Final = re.compile(r"[{\[]\s*\"|\"\s*[:}\]]")
_BRACKET_OR_KEY: Final = re.compile(r"[{}\[\]]|\"\s*:")
_OTHER_ESCAPE: Final = re.compile(r"\\[bfnrtu\\]")
_STRAY: Final = re.compile(r"[\s,}\]]*")
# What was read of a text that is meant to be JSON and no remark in brackets: a key, its colon, and what begins there.
MEANT: Final = re.compile(r"\s*\[*\s*\{\s*\"(?:[^\"\\]|\\.)*+\"\s*:\s*\S", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Found:
    """One value as it was read: JSON from characters `at` to `end` of the text, and what was edited to read it."""

    text: str
    at: int
    end: int
    edits: tuple[Edit, ...]

    @property
    def is_meant(self) -> bool:
        """As of `Broken`."""
        return MEANT.match(self.text) is not None or self.text.startswith('["')


@dataclass(frozen=True, slots=True)
class Broken:
    """A value that begins at `at` and cannot be read, in a part of the text that ends at `end`.

    Attributes:
        prefix: What was read of it.
        whole_values: So much of that are whole values; `closers` would end it there.
    """

    at: int
    end: int
    problem: Unreadable
    prefix: str
    whole_values: int
    closers: str

    @property
    def is_meant(self) -> bool:
        """Whether it is JSON that went wrong, and not a remark in brackets."""
        return MEANT.match(self.prefix) is not None or self.prefix.lstrip().startswith('["')


@dataclass(frozen=True, slots=True)
class Extract:
    """What is in a text.

    Attributes:
        span: The first fence that was looked into, or the whole text.
        found, broken: Values that can be read and that cannot, in order.
        aside: Values of either kind outside of the fences.
        is_all: Every place where one may begin was looked at.
    """

    text: str
    span: tuple[int, int]
    found: tuple[Found, ...]
    broken: tuple[Broken, ...]
    aside: tuple[Found | Broken, ...]
    is_all: bool

    def most_likely_broken(self) -> Broken | None:
        """The broken value that was read furthest, and is not likely to be inside of another."""
        whole = [one for one in self.broken if not _is_part(self.text, one.at)]
        return max(whole, key=lambda one: (one.problem.at - one.at, -one.at), default=None)


def extract(text: str, *, starts: str) -> Extract:
    """Look for values that begin with one of `starts`: in the fences, if one holds any; else wherever one begins."""
    fences = [match.span(2) for match in _FENCE.finditer(text) if match[2].lstrip()[:1] in tuple(starts)]
    found: list[Found] = []
    broken: list[Broken] = []
    budget = MAX_STARTS
    for at, end in fences or [(0, len(text))]:
        budget = _look(text, at, end, starts, budget, found, broken)
    found_aside: list[Found] = []
    broken_aside: list[Broken] = []
    edges = [0, *(edge for fence in fences for edge in fence), len(text)]
    for at, end in zip(edges[::2], edges[1::2], strict=True) if fences else ():
        budget = _look(text, at, end, starts, budget, found_aside, broken_aside)
    span = fences[0] if fences else (0, len(text))
    return Extract(text, span, tuple(found), tuple(broken), (*found_aside, *broken_aside), budget > 0)


def _look(text: str, at: int, end: int, starts: str, budget: int, found: list[Found], broken: list[Broken]) -> int:
    """Read what begins between `at` and `end`; returns how many more places may be looked at."""
    begins = re.compile(f"[{re.escape(starts)}]")
    while budget and (start := begins.search(text, at, end)):
        budget -= 1
        reader, value = Transducer(at=start.start()), ""
        try:
            value = reader.feed(text[start.start() : end])
            value += reader.finish()
        except Unreadable as problem:
            value += reader.take()
            broken.append(Broken(start.start(), end, problem, value, reader.safe, reader.closers))
            # What looks like one in prose, such as [sic], ends soon; behind it the value may be. What begins before
            # is a part of this one.
            at = max(start.end(), problem.at)
            continue
        at = end - len(reader.rest)
        edits = _with_sure_escapes(text[start.start() : at], reader.edits)
        found.append(Found(value, start.start(), at, edits))
    return budget


def readings(extracted: Extract) -> tuple[Reading, ...]:
    """Every different value that was found whole, with what was edited to see it alone.

    One alone is as certain as the edits in it. Where there are several, or more was meant, each is only one of them:
    invented, until a schema tells.
    """
    text = extracted.text
    candidates = [one for one in extracted.found if not _is_part(text, one.at)]
    groups: dict[str, list[Found]] = {}
    for one in candidates:
        groups.setdefault(key(one.text), []).append(one)
    given = []
    for said, same in groups.items():
        edits = [Edit.of("repeated", one.at, text[one.at : one.end], "", Label.LOSSLESS) for one in same[1:]]
        for other in candidates:
            if other not in same:
                edits.append(Edit.of("other_value", other.at, text[other.at : other.end], "", Label.INVENTED))
        for aside in (*extracted.broken, *extracted.aside):
            if aside.is_meant and not (isinstance(aside, Found) and key(aside.text) == said):
                edits.append(Edit.of("other_value", aside.at, text[aside.at : aside.end], "", Label.LOSSY))
        if not extracted.is_all:
            edits.append(Edit.of("not_looked_at", same[-1].end, text[same[-1].end :], "", Label.INVENTED))
        edits += _around(extracted, same)
        given += [Reading(lead(text, one.at) + one.text, (*edits, *one.edits)) for one in same]
    return tuple(given)


def told_apart(reading: Reading) -> Reading:
    """The reading of the only one of several values that meets the schema: what it leaves out is lost, not guessed."""
    edits = [replace(one, label=Label.LOSSY) if one.kind == "other_value" else one for one in reading.edits]
    return Reading(reading.text, tuple(edits))


def lead(text: str, at: int) -> str:
    """White space with which the text begins, if the value at `at` is the first thing behind it: it is JSON too."""
    before = text[:at]
    return before if not before.strip(WHITE) else ""


def around(text: str, start: int, end: int) -> tuple[Edit, ...]:
    """What is edited to see a value that is broken, between `start` and `end`: what has any bracket or quote around it
    may be a part of it.
    """
    edits = (*_remarks(text, 0, start), *_remarks(text, end, len(text)))
    if _BRACKET_OR_QUOTE.search(text, 0, start) or _BRACKET_OR_QUOTE.search(text, end):
        return tuple(replace(edit, label=Label.INVENTED) if edit.kind == "prose" else edit for edit in edits)
    return edits


def bare_value(text: str) -> Reading | None:
    """What a fence or a byte order mark stands around, for a value that is neither an object nor a list."""
    fence = _FENCE.search(text)
    start, end = fence.span(2) if fence else (0, len(text))
    inside = text[start:end].strip(WHITE + BYTE_ORDER_MARK)
    start = text.find(inside, start)
    edits = around(text, start, start + len(inside))
    return Reading(inside, edits) if inside and edits else None


def _with_sure_escapes(text: str, edits: list[Edit]) -> tuple[Edit, ...]:
    """The edits of a value, with its illegal escapes lossless where nothing but backslashes can have been meant.

    One alone may be an escaped quote without its quote. Two are not, unless two marks are missing. But whoever does not
    escape backslashes also means one by `\\n` and its like, so there must be none of those.
    """
    doubtful = [edit for edit in edits if edit.label is Label.INVENTED]
    if len(doubtful) < 2 or any(edit.kind != "illegal_escape" for edit in doubtful) or _OTHER_ESCAPE.search(text):
        return tuple(edits)
    return tuple(replace(edit, label=Label.LOSSLESS) if edit in doubtful else edit for edit in edits)


def _is_part(text: str, at: int) -> bool:
    """Whether what begins at `at` is likely to be inside of something larger that is broken."""
    before = text[:at]
    return not _is_balanced(before) or _JOINS_ON_BEFORE.search(before[-1000:]) is not None


def _around(extracted: Extract, same: list[Found]) -> list[Edit]:
    """The edits that take away what stands before, between and behind the places of one value."""
    text, edits, at = extracted.text, [], 0
    last = same[-1]
    suspects = (_NEARLY_JSON, Label.LOSSY) if last.text.startswith("{") else (_BRACKET_OR_KEY, Label.INVENTED)
    for found in same:
        edits += _remarks(text, at, found.at, suspects)
        at = found.end
    behind = text[at:]
    if is_remark(behind) or (_is_balanced(behind) and not _JOINS_ON_BEHIND.match(behind)):
        edits += _remarks(text, at, len(text), suspects)
    elif behind.strip() == "}" and last.text.startswith("{") and not text[: same[0].at].strip():
        # No object stands in an object without a key, so nothing but a bracket too many can have been meant.
        edits.append(Edit.of("stray_mark", at, behind.strip(), "", Label.LOSSLESS))
    elif _STRAY.fullmatch(behind):
        edits.append(Edit.of("stray_mark", at, behind.strip(), "", Label.LOSSY))
    else:
        edits.append(Edit.of("prose", at, behind.strip(), "", Label.INVENTED))
    return edits


def _remarks(text: str, start: int, end: int, suspects: tuple[re.Pattern[str], Label] | None = None) -> list[Edit]:
    """The edits that take away a remark: a byte order mark, the line of a fence, and whatever else.

    `suspects` is what makes a remark more than words, and the label of taking such a one away.
    """
    edits = []
    if text.startswith(BYTE_ORDER_MARK, start, end):
        edits.append(Edit.of("byte_order_mark", start, ascii(BYTE_ORDER_MARK)[1:-1], "", Label.LOSSLESS))
        start += 1
    words = text[start:end].strip()
    start = text.find(words, start)
    if fence := _FENCE_LINE.search(words):
        edits.append(Edit.of("fence", start + fence.start(), fence.group().strip(), "", Label.LOSSLESS))
        words = words[: fence.start()].rstrip() or words[fence.end() :].lstrip()
    if words:
        label = suspects[1] if suspects is not None and suspects[0].search(words) else Label.LOSSLESS
        edits.append(Edit.of("prose", text.find(words, start), words, "", label))
    return edits


def _is_balanced(text: str) -> bool:
    """Whether every bracket in a remark has its other one; what has more than MAX_BRACKETS is no remark."""
    if sum(map(text.count, "[]{}")) > MAX_BRACKETS:
        return False
    opened: list[str] = []
    for match in _BRACKET.finditer(text):
        bracket = match.group()
        if bracket in "{[":
            opened.append(bracket)
        elif not opened or opened.pop() != _MATCHING[bracket]:
            return False
    return not opened
