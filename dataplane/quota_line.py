"""Who waits at one worker for a part of a quota, in the order in which they came, and what of them the pool has to be
told. Times are monotonic milliseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from math import inf
from typing import Final

from dataplane.quota import INTERACTIVE, NOTHING, Amounts, Entry, Place
from dataplane.quota_grants import Asking, Grant

# How many of those who wait ask for their place in one turn, and how long a place holds.
PLACES: Final = 100
PLACE_MS: Final = 250.0


@dataclass(slots=True)
class Waiter:
    """One of them. `first` and `place`: where they stood at first, and stand by now, as far as they were told."""

    entry: Entry
    asking: Asking
    future: asyncio.Future[Grant]
    since: float
    until: float
    announce: Callable[[Place], None] | None
    first: Place | None = None
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class News:
    """What the pool is told of the line: who came, who left, and who asks for their place."""

    came: list[Entry]
    left: list[str]
    places: list[str]


class Line:
    """See the module."""

    def __init__(self, worker: str) -> None:
        """`worker` is unique in the fleet, also over restarts: tickets begin with it."""
        self.waiters: dict[str, Waiter] = {}
        self._worker = worker
        self._tickets = 0
        self._gone: dict[str, Amounts] = {}  # left here, and perhaps granted there
        self._came: list[Entry] = []
        self._newcomers: list[str] = []  # who have not been told their place
        self._left: list[str] = []
        self._owed: list[str] = []  # left while the fleet could not be told
        self._places_at = -inf
        self._next_at = -inf

    def oldest_ms(self, now: float) -> float:
        """How long the one who waits longest has waited; 0 where none waits. What is batch is left out: it may wait for
        as long as it takes.
        """
        oldest = next((one.since for one in self.waiters.values() if one.entry.workload == INTERACTIVE), None)
        return 0.0 if oldest is None else max(0.0, now - oldest)

    # Who waits.

    def enter(
        self,
        asking: Asking,
        amounts: Amounts,
        *,
        weight: float,
        future: asyncio.Future[Grant],
        since: float,
        until: float,
        announce: Callable[[Place], None] | None,
    ) -> Waiter:
        """Somebody comes, and waits."""
        self._tickets += 1
        ticket = f"{self._worker}:{self._tickets}"
        entry = Entry(ticket, asking.workload, asking.tenant, weight, asking.is_vip, amounts)
        waiter = self.waiters[ticket] = Waiter(entry, asking, future, since, until, announce)
        self._came.append(entry)
        self._newcomers.append(ticket)
        return waiter

    def leave(self, waiter: Waiter) -> bool:
        """Somebody waits no longer. False: the pool had said so."""
        ticket = waiter.entry.ticket
        if self.waiters.pop(ticket, None) is None:
            return False
        self._gone[ticket] = waiter.entry.amounts
        self._left.append(ticket)
        return True

    def take(self, ticket: str) -> tuple[Waiter | None, Amounts]:
        """Who is granted what. None: they left, or have just been told that it takes too long."""
        waiter = self.waiters.pop(ticket, None)
        if waiter is None:
            return None, self._gone.pop(ticket, NOTHING)
        return None if waiter.future.done() else waiter, waiter.entry.amounts

    def place(self, ticket: str, place: Place, now: float) -> Waiter | None:
        """Tell somebody their place. Returns who could not be granted anything in time: they need not wait for it."""
        waiter = self.waiters.get(ticket)
        if waiter is None or waiter.future.done():
            return None
        before, waiter.place = waiter.place, place
        waiter.first = waiter.first or place
        if now + place.eta_ms > waiter.until:
            return waiter
        if waiter.announce is not None and (before is None or before.position != place.position):
            waiter.announce(place)
        return None

    # What the pool knows.

    @property
    def has_come(self) -> bool:
        """Whether somebody came of whom the pool does not know, or who does not know their place."""
        return bool(self._came or self._newcomers)

    @property
    def has_left(self) -> bool:
        """Whether somebody left whom the pool holds to be here."""
        return bool(self._left)

    def tell(self, now: float, *, is_owed: bool) -> News:
        """What is new, once. `is_owed`: the fleet does not hear it, so that it has to be told later who left."""
        # Who has just come first: they may be waiting for what they cannot have.
        places = [ticket for ticket in self._newcomers[:PLACES] if ticket in self.waiters]
        del self._newcomers[:PLACES]
        if now - self._places_at >= PLACE_MS and len(places) < PLACES:
            self._places_at = now
            places += islice((ticket for ticket in self.waiters if ticket not in places), PLACES - len(places))
        news = News(self._came, self._left, places)
        if is_owed:
            self._owed += self._left
        self._came, self._left = [], []
        return news

    def tell_anew(self) -> None:
        """Everybody comes again, to a pool that may not know them."""
        self._came = [waiter.entry for waiter in self.waiters.values()]

    def return_to_fleet(self) -> None:
        """The fleet can be told again who left meanwhile, and who is here."""
        self._left, self._owed = [*self._owed, *self._left], []
        self.tell_anew()

    def forget_gone(self) -> None:
        """What the pool has been told of by now cannot be granted any more."""
        open_ends = [*self._left, *self._owed]
        self._gone = {ticket: self._gone[ticket] for ticket in open_ends if ticket in self._gone}

    def next_ms(self, places: Mapping[str, Place], now: float, *, told_at: float) -> float:
        """In how long somebody's turn comes, as far as anybody was told; may be negative.

        Args:
            places: Which have just been told.
            told_at: When they were asked for.
        """
        if places:
            soonest = now + min(place.eta_ms for place in places.values())
            # Newcomers say when their turn comes; that of those before them stays as it was told.
            is_whole = self._places_at == told_at or self._next_at <= now
            self._next_at = soonest if is_whole else min(soonest, self._next_at)
        return self._next_at - now
