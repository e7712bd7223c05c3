"""What became of each request, as its caller saw it, and what is known of it elsewhere: the judge's evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from benchmarks.chaos.asking import Kind


class Ending(StrEnum):
    """How a request ended for its caller."""

    RIGHT = "right"
    TOLD = "told"  # an error with a code, or signed words instead of the answer
    BROKEN = "broken"  # neither an answer nor a clear error: a broken connection, a time-out
    WRONG = "wrong"  # another answer, a truncated one that says that it is complete, a gap


@dataclass(slots=True)
class Call:
    """One request. Times are monotonic seconds; `code` is the error's, `why` says more.

    `accepted`: the fleet has it, whatever its caller heard later. `tries`: how often it was sent, under one key.
    `resumed`: how often a stream was read on.
    """

    number: int
    kind: Kind
    sent_at: float
    ended_at: float = 0.0
    ending: Ending = Ending.BROKEN
    code: str = ""
    why: str = ""
    accepted: bool = False
    tries: int = 1
    resumed: int = 0


@dataclass(frozen=True, slots=True)
class Times:
    """When it happened, in monotonic seconds. `well_at`: from when on console and fleet were as before, and stayed so;
    None when they were not in time.
    """

    begun_at: float
    struck_at: float
    healed_at: float
    well_at: float | None
    ended_at: float


@dataclass(frozen=True, slots=True)
class Attempts:
    """What is known of one number's attempts.

    `begun`, `done`: calls that the provider was handed, and answered to the last byte. `rows`: usage rows but those of
    shadows; `unreached`: those among them that say that the provider was not reached, or not known to be. `requests`:
    how many requests have a row that ended well.
    """

    begun: int = 0
    done: int = 0
    rows: int = 0
    unreached: int = 0
    requests: int = 0


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that one row of the table is judged by.

    `taken_over`: keyed numbers whose evidence says that another process took the key over. `releases`: how many were
    made while it lasted. `backwards`: acknowledgements of a release by a process that had acknowledged a later one.
    `audit`: what the verification of the audit chain found; empty when nothing.
    """

    calls: Sequence[Call]
    times: Times
    attempts: Mapping[int, Attempts] = field(default_factory=dict)
    taken_over: frozenset[int] = frozenset()
    releases: int = 0
    backwards: int = 0
    audit: str = ""
