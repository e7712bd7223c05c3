"""Finds the one mark that a text lacks to be readable, and says whether it is the only one that would do. Pure.

A quote, comma, colon or bracket that the model left out can often be put back in one way only: then nothing is guessed,
as long as only one mark is missing. The search tries every place where one mark could stand, so what it finds alone is
the only JSON at a distance of one mark. Where something else had to be edited too, or the text ends too early, that is
no proof: more may be wrong than the mark, so what completes it is invented.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from dataplane.repair.labels import Edit, Label
from dataplane.repair.transducer import WORD, Transducer, Unreadable
from dataplane.repair.values import WHITE, Reading, key

MAX_CHARACTERS: Final = 16_384  # of a text that is searched at all
BUDGET_CHARACTERS: Final = 60_000  # that are read again in all, which bounds the time
_PLACE_COSTS_CHARACTERS: Final = 8

# Where a mark can stand, by what is around it; wider than the grammar, which then decides.
_QUOTE_ENDS: Final = re.compile(r"(?=\s*(?:[,:}\]#/]|$))")
_QUOTE_BEGINS: Final = re.compile(r"(?:^|[{\[,:])\s*")
_SEPARATOR: Final = re.compile(r"(?<=[\"'”’\w}\]])\s*(?=[\"'“‘\w{\[+.-])")
_CLOSER: Final = re.compile(r"(?<=[\"'”’\w}\]{\[,])(?=\s*(?:[,}\]]|$))")
_OPENER: Final = re.compile(r"(?:^|[\[,:{])\s*(?=\S)")

_QUOTE: Final = re.compile(r'\\.|(")', re.DOTALL)
_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_OTHER_GRAMMAR: Final = re.compile(r"['“”‘’/#]")
_NO_JSON_BEHIND: Final = re.compile(r"\s*(?:[^\s,:'\"{}\[\]][^\"{}\[\]]*)?")
_ALL: Final = frozenset("\"',:{}[]")


def is_remark(text: str) -> bool:
    """Whether text behind a value has nothing of JSON: an end of a fence, a tag, a sentence."""
    return _NO_JSON_BEHIND.fullmatch(text) is not None


def readings(
    text: str, *, failed_at: int, is_cut: bool, starts: str = "{[", budget: int = BUDGET_CHARACTERS
) -> tuple[tuple[Reading, ...], bool]:
    """Give the different values that the text has with one mark more, and whether every place was tried.

    Args:
        failed_at: Where a `Transducer` could not read on; the mark stands there or before.
        is_cut: The text is known to end too early.
        starts: With which of `{` and `[` the value may begin.
        budget: Characters that may be read again.
    """
    if len(text) > MAX_CHARACTERS:
        return (), False
    found: dict[str, Reading] = {}
    base, written, read_to = Transducer(), "", 0
    marks = _may_lack(text)
    for at, mark in sorted(set(_places(text, failed_at, marks))):
        if budget < 0:
            return tuple(found.values()), False
        try:
            written += base.feed(text[read_to:at])
        except Unreadable:
            break
        read_to = at
        if base.is_done:
            break
        if not base.would_turn_on(mark):
            continue
        fork = base.fork()
        try:
            rest = fork.feed(mark + text[at:]) + fork.finish()
        except Unreadable as problem:
            budget -= max(problem.at - at, 0) + _PLACE_COSTS_CHARACTERS
            continue
        budget -= len(text) - at
        whole = written + rest
        if whole.lstrip()[0] not in starts or not is_remark(fork.rest):
            continue
        label = Label.INVENTED if is_cut or fork.edits else Label.LOSSLESS
        kind = "truncated" if is_cut and not text[at:].strip(WHITE + "}]") else "missing_mark"
        edits = [*fork.edits, Edit.of(kind, at, "", mark, label)]
        if remark := fork.rest.strip():
            edits.insert(0, Edit.of("prose", text.find(remark, at), remark, "", Label.LOSSLESS))
        reading = Reading(whole, tuple(edits))
        said = key(whole)
        if said not in found or len(reading.edits) < len(found[said].edits):
            found[said] = reading
    # Of several, what ends the value at the end of the text is the likeliest.
    return tuple(sorted(found.values(), key=lambda one: one.edits[-1].kind != "truncated")), True


def _may_lack(text: str) -> frozenset[str]:
    """The marks that a text may lack one of: counting tells a quote from a bracket from a separator.

    Counts say nothing of text whose strings are not JSON's, or that has comments: any mark then.
    """
    quotes = sum(1 for match in _QUOTE.finditer(text) if match[1])
    if quotes % 2:
        return frozenset("\"'") if "'" in text else frozenset('"')
    outside = _STRING.sub("", text)
    if _OTHER_GRAMMAR.search(outside):
        return _ALL
    braces = outside.count("{") - outside.count("}")
    brackets = outside.count("[") - outside.count("]")
    match braces, brackets:
        case 0, 0:
            return frozenset(",:")
        case 1, 0:
            return frozenset("}")
        case -1, 0:
            return frozenset("{")
        case 0, 1:
            return frozenset("]")
        case 0, -1:
            return frozenset("[")
    return frozenset()


def _places(text: str, failed_at: int, marks: frozenset[str]) -> Iterator[tuple[int, str]]:
    """Every place up to the one where reading failed, with the mark that may be missing there.

    A word that cannot be read may be two, so the places in it count.
    """
    word = WORD.match(text, failed_at)
    end = (word.end() if word else failed_at) + 1
    quotes = sorted(quote for quote in "\"'" if quote in marks and (quote in text or quote == '"'))
    if quotes:
        for match in _QUOTE_ENDS.finditer(text):
            if match.start() > end:
                break
            yield from ((match.start(), quote) for quote in quotes)
        for match in _QUOTE_BEGINS.finditer(text):
            if match.start() > end:
                break
            start = match.start() + (match.group()[:1] in "{[,:" and match.group() != "")
            for at in range(start, match.end() + 1):
                yield from ((at, quote) for quote in quotes)
    for pattern, candidates in ((_SEPARATOR, ",:"), (_CLOSER, "}]"), (_OPENER, "{[")):
        wanted = [mark for mark in candidates if mark in marks]
        for match in pattern.finditer(text) if wanted else ():
            if match.start() > end:
                break
            yield from ((match.end(), mark) for mark in wanted)
