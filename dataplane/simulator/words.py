"""Words of a text, as far as the simulated models understand them."""

from __future__ import annotations

import re
from typing import Final

_WORD: Final = re.compile(r"[\w-]+")
# Longer words that begin with these letters count as one: return, returns, returned.
_STEM_CHARACTERS: Final = 5
STOP_WORDS: Final = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "at",
        "be",
        "by",
        "can",
        "do",
        "for",
        "from",
        "get",
        "i",
        "in",
        "is",
        "it",
        "me",
        "my",
        "of",
        "on",
        "or",
        "that",
        "the",
        "this",
        "to",
        "was",
        "what",
        "where",
        "with",
        "you",
        "your",
    ]
)


def words(text: str) -> frozenset[str]:
    """The words of a text, in lower case."""
    return frozenset(_WORD.findall(text.lower()))


def stems(text: str) -> frozenset[str]:
    """How the words of a text begin, without those that say nothing about its subject."""
    return frozenset(word[:_STEM_CHARACTERS] for word in words(text) - STOP_WORDS)
