"""Answering from numbered passages and citing them, as models do that are told to.

They are in the system prompt: below a line `Passages:`, each begins a line with its number in brackets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dataplane.simulator.words import stems

_HEADING: Final = re.compile(r"^Passages:[ \t]*$", re.MULTILINE)
_NUMBER: Final = re.compile(r"^\[(\d{1,3})\][ \t]*", re.MULTILINE)
_BETWEEN: Final = re.compile(r"(?<=[.!?…])\s+")
_ITEM: Final = re.compile(r"^[ \t]*(?:[-*]|\d+\.)[ \t]+", re.MULTILINE)
_END_MARKS: Final = ".!?…"


@dataclass(frozen=True, slots=True)
class Passage:
    """One passage and the number that it is cited by."""

    number: int
    text: str

    @property
    def sentences(self) -> tuple[str, ...]:
        """Its whole sentences, of which none goes over the end of a line; all of the text where there is none."""
        lines = _ITEM.sub("", self.text).splitlines()
        parts = (part for line in lines for part in _BETWEEN.split(line.strip()))
        return tuple(part for part in parts if part.endswith(tuple(_END_MARKS))) or (" ".join(self.text.split()),)


def read_passages(system: str) -> tuple[str, tuple[Passage, ...]]:
    """What a system prompt says apart from passages, and the passages; none where it has none."""
    heading = _HEADING.search(system)
    if heading is None:
        return system, ()
    below = system[heading.end() :]
    marks = list(_NUMBER.finditer(below))
    ends = [*(mark.start() for mark in marks), len(below)][1:]
    read = [Passage(int(mark[1]), below[mark.end() : end].strip()) for mark, end in zip(marks, ends, strict=True)]
    return system[: heading.start()], tuple(passage for passage in read if passage.text)


def quote(question: str, passages: Sequence[Passage], *, most: int | None) -> tuple[str, ...]:
    """At most so many sentences of the passage that fits a question best, from the one on that does; each is cited.

    Of passages that fit alike it is the first, since they come in the order in which they were found.

    Args:
        most: >= 1; None: all of the passage.
    """
    asked = stems(question)
    passage = max(passages, key=lambda one: len(asked & stems(one.text)))
    sentences = passage.sentences
    if most is not None:
        fits = [len(asked & stems(sentence)) for sentence in sentences]
        begin = fits.index(max(fits))
        sentences = sentences[begin : begin + most]
    return tuple(_cited(sentence, passage.number) for sentence in sentences)


def _cited(sentence: str, number: int) -> str:
    """The sentence with its source before its end mark, where it belongs to this sentence and to no other."""
    bare = sentence.rstrip(_END_MARKS)
    return f"{bare} [{number}]{sentence[len(bare) :] or '.'}"
