"""The five token figures of a stream, and the order that they must keep. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Figures:
    """Output tokens of one stream, or of many, from what was paid for to what is known to have arrived."""

    billed: int
    generated: int
    buffered: int
    delivered: int
    acked: int

    @property
    def in_order(self) -> bool:
        """Rule 6: nothing was generated, kept, delivered or acknowledged that is not on the bill."""
        return all(larger >= smaller for larger, smaller in pairwise(astuple(self)))

    @property
    def breaches(self) -> tuple[str, ...]:
        """Where the order is broken, in words: '120 delivered, more than 100 buffered'."""
        return tuple(
            f"{smaller:,} {WORDS[name]}, more than {larger:,} {WORDS[before]}"
            for (before, larger), (name, smaller) in pairwise(self.named())
            if smaller > larger
        )

    def named(self) -> Iterator[tuple[str, int]]:
        """Each figure under its name, the largest of a stream in order first."""
        return ((field.name, getattr(self, field.name)) for field in fields(self))


# As people read them.
WORDS = {
    "billed": "billed",
    "generated": "generated",
    "buffered": "buffered",
    "delivered": "delivered",
    "acked": "acknowledged",
}
