"""Whether one text has another's words: by runs of eight words, folded, as hashes. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from controlplane.evals.rows import Row
from dataplane.validators.folding import words

# Shorter runs are everybody's: "you can return most items within" stands in the prompts and rows of any shop. Texts
# that have fewer words are not looked for.
SHINGLE_WORDS: Final = 8
# So much of a text has to be found, which lets a short question share a polite phrase of eight words with a prompt ...
MIN_SHARE: Final = 0.75
# ... or so many of its runs, which are 13 words on end: by that Brown et al. ("Language Models are Few-Shot Learners",
# 2020, appendix C) hold a text to have been seen.
MIN_MATCHED: Final = 6
# What more rows than this have in common is the form of the set, such as its greeting, or a source that all rest on. It
# is no row's own, and a prompt may well say the same.
MAX_ROWS_OF_OWN: Final = 3


@dataclass(frozen=True, slots=True)
class Protected:
    """A text of a row, by its runs of words."""

    row_key: str
    place: str
    shingles: frozenset[int]


ByRun = Mapping[int, Sequence[Protected]]


@dataclass(frozen=True, slots=True)
class Match:
    """What was found of a text: how many of its runs, and which share of them (0..1)."""

    row_key: str
    place: str
    matched: int
    share: float

    @property
    def is_enough(self) -> bool:
        """Whether the text counts as said."""
        return self.matched >= MIN_MATCHED or self.share >= MIN_SHARE


def shingles(text: str) -> frozenset[int]:
    """The runs of SHINGLE_WORDS words of a text, each as a signed number of 64 bits; none of a shorter text."""
    folded = words(text)
    runs = (folded[at : at + SHINGLE_WORDS] for at in range(len(folded) - SHINGLE_WORDS + 1))
    return frozenset(
        int.from_bytes(blake2b(b" ".join(run), digest_size=8).digest(), "big", signed=True) for run in runs
    )


def shingles_of(texts: Iterable[str]) -> frozenset[int]:
    """Those of all of them; no run goes from one text into the next."""
    return frozenset[int]().union(*map(shingles, texts))


def protect(rows: Iterable[Row]) -> list[Protected]:
    """What is to be looked for of the rows of a set: each text's own runs, but for what several rows share."""
    found = [
        Protected(row.id, place, runs) for row in rows for place, text in row.own_texts() if (runs := shingles(text))
    ]
    by_row: dict[str, set[int]] = {}
    for one in found:
        by_row.setdefault(one.row_key, set()).update(one.shingles)
    counts = Counter(shingle for runs in by_row.values() for shingle in runs)
    own = (
        Protected(one.row_key, one.place, frozenset(run for run in one.shingles if counts[run] <= MAX_ROWS_OF_OWN))
        for one in found
    )
    return [one for one in own if one.shingles]


def match(protected: Iterable[Protected], said: frozenset[int]) -> list[Match]:
    """What is said of these texts: see `of_rows`."""
    counted = ((one, len(one.shingles & said)) for one in protected)
    return of_rows(Match(one.row_key, one.place, matched, matched / len(one.shingles)) for one, matched in counted)


def of_rows(found: Iterable[Match]) -> list[Match]:
    """The rows of which enough is said: of each the text of which most is, in the order of their keys."""
    best: dict[str, Match] = {}
    for one in found:
        if not one.is_enough:
            continue
        known = best.get(one.row_key)
        if known is None or (one.share, one.matched) > (known.share, known.matched):
            best[one.row_key] = one
    return [best[key] for key in sorted(best)]


def index(protected: Iterable[Protected]) -> ByRun:
    """The texts by each of their runs, for looking through many prompts."""
    found: dict[int, list[Protected]] = {}
    for one in protected:
        for run in one.shingles:
            found.setdefault(run, []).append(one)
    return found
