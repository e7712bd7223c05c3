"""What a restored index has to show before anybody is served from it, and how much that proves. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

# So many chunks, drawn at random and all of them right, say with 95 % confidence that less than 1 % are wrong.
SAMPLES: Final = 299
CONFIDENCE: Final = 0.95
RECALL_AT: Final = 10
MINIMUM_RECALL: Final = 0.95


def samples_for(rate: float, *, confidence: float = CONFIDENCE) -> int:
    """How many draws, all of them clean, rule out that so large a share is bad.

    Args:
        rate: Share of what is bad, 0 < rate < 1.
        confidence: 0 < confidence < 1.
    Source: (1 - rate) ** n <= 1 - confidence; the "rule of three" is its approximation for 95 %.
    """
    return math.ceil(math.log(1 - confidence) / math.log(1 - rate))


def rate_ruled_out(samples: int, *, confidence: float = CONFIDENCE) -> float:
    """The smallest share of bad ones that so many clean draws rule out; 1 of none.

    Drawn without replacement from a finite number, they rule out a little more.
    """
    return 1.0 if samples < 1 else 1 - (1 - confidence) ** (1 / samples)


def upper_bound(hits: int, of: int, *, confidence: float = CONFIDENCE) -> float:
    """The share that is not exceeded with so much confidence, of which a sample had so many hits; 1.0 without one.

    Source: Clopper and Pearson, "The Use of Confidence or Fiducial Limits", Biometrika 26, 1934 (one-sided).
    """
    if hits >= of:
        return 1.0
    low, high = hits / of, 1.0
    for _ in range(60):  # halves it to less than a float can tell
        middle = (low + high) / 2
        if _at_most(hits, of, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def _at_most(hits: int, of: int, share: float) -> float:
    """The probability of so many hits or fewer, each with this share."""
    term = total = (1 - share) ** of
    for number in range(1, hits + 1):
        term *= (of - number + 1) / number * share / (1 - share)
        total += term
    return total


def recall(found: Sequence[Collection[int]], exact: Sequence[Collection[int]]) -> float:
    """The mean share of what is nearest that an approximate search found, over questions; 1 where nothing is near.

    Args:
        found, exact: Ids for each question, in the same order.
    """
    shares = [
        len(set(near) & set(got)) / len(set(near)) for got, near in zip(found, exact, strict=True) if len(set(near))
    ]
    return math.fsum(shares) / len(shares) if shares else 1.0


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at, what was found in words and figures, and whether it passed."""

    name: str
    passed: bool
    words: str

    def to_json(self) -> dict[str, Any]:
        """Shape: {"name", "passed": bool, "words"}."""
        return {"name": self.name, "passed": self.passed, "words": self.words}


def check_counts(*, expected: int, found: int) -> Check:
    """Whether as many chunks are there as were to be restored."""
    return Check("counts", expected == found, f"{found} of {expected} chunks")


def check_digests(*, compared: int, differing: int) -> Check:
    """Whether the digests of all documents agree, bucket by bucket."""
    return Check("digests", differing == 0, f"{differing} of {compared} documents differ")


def check_samples(*, drawn: int, bad: int, population: int) -> Check:
    """Whether the checksums of chunks drawn at random hold, and what that says of all of them."""
    if bad:
        return Check("samples", passed=False, words=f"{bad} of {drawn} sampled chunks are not what their checksum says")
    if drawn >= population:
        return Check("samples", passed=True, words=f"all {population} chunks are what their checksums say")
    share = rate_ruled_out(drawn)
    words = f"{drawn} sampled chunks are sound: less than {share:.2%} of {population} are not, with 95 % confidence"
    return Check("samples", passed=True, words=words)


def check_recall(*, measured: float, questions: int, minimum: float = MINIMUM_RECALL) -> Check:
    """Whether the approximate index finds what exact search does."""
    words = f"recall@{RECALL_AT} {measured:.3f} over {questions} questions; at least {minimum:.2f} is asked for"
    return Check("recall", measured >= minimum, words)
