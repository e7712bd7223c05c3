"""Documents cut into what is embedded and cited. Pure, and versioned: the same text and rule give the same chunks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

# What a text may be cut after, the best first: a paragraph, a line, a sentence, a word.
_BREAKS: Final = tuple(re.compile(one) for one in (r"\n\s*\n", r"\n", r"(?<=[.!?…。！？])\s+", r"\s+"))


def _cut_passages(text: str, largest: int, overlap: int) -> Iterator[str]:
    """Passages of at most `largest` characters, cut at the best break of their second half; each but the first begins
    with up to `overlap` characters of what came before it, from the start of a word.
    """
    start = 0
    while start < len(text):
        end = start + largest
        if end < len(text):
            end = _best_break(text, start + largest // 2, end)
        if passage := text[start:end].strip():
            yield passage
        if end >= len(text):
            return
        start = _start_of_word(text, end - overlap, end) if overlap else end


def _best_break(text: str, earliest: int, latest: int) -> int:
    for pattern in _BREAKS:
        ends = [found.end() for found in pattern.finditer(text, earliest, latest)]
        if ends:
            return ends[-1]
    return latest


def _start_of_word(text: str, earliest: int, latest: int) -> int:
    found = re.compile(r"\s+").search(text, earliest, latest)
    return latest if found is None or found.end() >= latest else found.end()


CHUNKERS: Final[Mapping[str, Callable[[str, int, int], Iterator[str]]]] = {"passages.v1": _cut_passages}


def cut(text: str, *, version: str, max_characters: int, overlap_characters: int) -> list[str]:
    """The chunks of a text, in its order; none of a text that is only space.

    Args:
        version: Member of CHUNKERS.
        max_characters: Of a chunk; >= 50.
        overlap_characters: <= half of that.
    """
    return list(CHUNKERS[version](text.replace("\r\n", "\n"), max_characters, overlap_characters))
