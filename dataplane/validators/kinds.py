"""What the kinds of rules have in common: how they tell a problem, and how long they may look. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from dataplane.validators.detector import Sieve
from dataplane.validators.values import Channel, Output

TICKS_PER_LOOK: Final = 32  # a look at the clock costs as much as some matches


class OverBudget(Exception):
    """A rule has used up its time."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, in words that do not repeat the answer's, and where; None: with the text as a whole."""

    what: str
    start: int | None = None
    end: int | None = None


class Meter:
    """Counts the work of one rule and looks at the clock now and then."""

    __slots__ = ("_began", "_clock", "_count", "_seconds")

    def __init__(self, clock: Callable[[], float], *, seconds: float, began: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._began = began
        self._count = 0

    def tick(self) -> None:
        """Some work is about to be done.

        Raises:
            OverBudget: the time is over.
        """
        self._count += 1
        if self._count % TICKS_PER_LOOK == 0:
            self.look()

    def look(self) -> None:
        """As `tick`, and look at the clock in any case."""
        if self._clock() - self._began > self._seconds:
            raise OverBudget


def found_by(sieve: Sieve, channel: Channel, meter: Meter) -> Iterator[Problem]:
    """What a sieve finds in a text, as problems."""
    for hit in sieve.find(channel.text, is_json=channel.is_json, tick=meter.tick):
        yield Problem(hit.what, hit.start, hit.end)


class Judging(Protocol):
    """The parameters of a kind of rule that looks at a text."""

    def problems(self, channel: Channel, output: Output, meter: Meter) -> Iterator[Problem]:
        """Everything that is wrong with a text of an answer; may raise OverBudget between two of them."""
        ...
