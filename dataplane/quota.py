"""How a fleet shares what an account may ask of its provider. Pure: no await, no I/O; `now` in milliseconds.

One pool holds a bucket for each limit of an account, who uses it, and who waits for it. Workers come by in turns: each
tells who came and left, and what its requests really took, and hears who may go. While nobody waits, a worker takes a
lease: a small part of the buckets that it hands out by itself for a moment, so that most requests ask nobody.

Buckets are filled so slowly, and are so shallow, that all workers together stay within the limit in every window,
leases included: with limit L, window W and headroom h, a bucket gets L (1 - h) / W, holds at most h L / 3, and a lease
lives no longer than it takes to fill that; (1 - h) L + 3 h L / 3 = L.

Who waits is served by weight: the classes interactive and batch by their shares, in each the tenants by theirs, each
caller charged for the scarcest of what it asks for. A 429 empties the buckets and closes them until the provider said,
then they open slowly.

`stores/quota.py` has the same in Redis, one script a turn; this one also serves a worker that cannot ask Redis.

Source: ITU-T I.371 (the bucket); Goyal, Vin, Cheng, "Start-time Fair Queueing", 1996; Ghodsi et al., "Dominant
Resource Fairness", NSDI 2011; Google, "Doorman: Global Distributed Client Side Rate Limiting", 2016 (leases, safe
capacity).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, inf
from typing import Final, Literal, NamedTuple

from dataplane.policies import CONCURRENCY, QUOTA_RATES, QuotaPolicy
from dataplane.records import record

Workload = Literal["interactive", "batch"]
INTERACTIVE: Final = "interactive"
BATCH: Final = "batch"
WORKLOADS: Final[tuple[Workload, ...]] = (INTERACTIVE, BATCH)

# Of each of QUOTA_RATES, in that order.
Amounts = tuple[float, float, float, float]
NOTHING: Final[Amounts] = (0.0, 0.0, 0.0, 0.0)
RATES: Final = range(len(QUOTA_RATES))

MAX_LEASE_MS: Final = 250.0
# A worker that has been silent for so long waits for nothing any more; what it has under way may still be.
SILENT_MS: Final = 3_000.0
GONE_MS: Final = 15_000.0
# What was known of a fleet is lost: nobody goes until every worker has said what it has under way.
RECOVER_MS: Final = 1_000.0
# A 429 that names no wait: so long, doubled with each one soon after, up to the window.
FIRST_PAUSE_MS: Final = 1_000.0
RAMP_FLOOR: Final = 0.1
# Of what is left in a bucket, one lease takes at most so much.
LEASE_SHARE: Final = 0.5
MOST_GRANTS: Final = 1_000
MEMORY: Final = 0.1
NEARLY: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Terms:
    """A quota policy as a pool needs it. `limits` are per window, in the order of QUOTA_RATES; None: not bounded."""

    limits: tuple[float | None, ...]
    concurrency: float | None
    vip_concurrency: float
    window_ms: float
    headroom: float
    batch_share: float
    ramp_ms: float

    @classmethod
    def of(cls, policy: QuotaPolicy, *, part: float = 1.0) -> Terms:
        """Read them off a policy. `part`: the share of the limits that is meant, for a worker on its own."""

        def bounded(name: str) -> float | None:
            threshold = getattr(policy, name)
            return None if threshold is None else threshold.value * part

        concurrency, reserved = bounded(CONCURRENCY), bounded("vip_concurrency")
        return cls(
            limits=tuple(bounded(name) for name in QUOTA_RATES),
            concurrency=None if concurrency is None else float(int(concurrency)),
            vip_concurrency=0.0 if reserved is None else float(int(reserved)),
            window_ms=policy.window_seconds.value * 1000.0,
            headroom=policy.headroom.value,
            batch_share=policy.batch_share.value,
            ramp_ms=policy.ramp_seconds.value * 1000.0,
        )

    def with_learned(self, learned: Mapping[int, float]) -> Terms:
        """The same with the lower of each limit and what the provider said, by the place in QUOTA_RATES."""
        if not learned:
            return self
        limits = tuple(
            told if known is None else known if told is None else min(known, told)
            for known, told in ((known, learned.get(rate)) for rate, known in enumerate(self.limits))
        )
        return Terms(
            limits,
            self.concurrency,
            self.vip_concurrency,
            self.window_ms,
            self.headroom,
            self.batch_share,
            self.ramp_ms,
        )

    def bounded(self) -> list[tuple[int, float]]:
        """What is bounded: the place in QUOTA_RATES, and the limit."""
        return [(rate, limit) for rate, limit in enumerate(self.limits) if limit is not None]

    @property
    def lease_ms(self) -> float:
        """How long a lease lives: no longer than it takes to fill a bucket."""
        return min(MAX_LEASE_MS, self.window_ms * self.headroom / (3.0 * (1.0 - self.headroom)))

    def rate(self, rate: int) -> float:
        """What a bucket gets in a millisecond."""
        return (self.limits[rate] or inf) * (1.0 - self.headroom) / self.window_ms

    def depth(self, rate: int) -> float:
        """What a bucket holds at most."""
        return (self.limits[rate] or inf) * self.headroom / 3.0


@record
class Entry:
    """One request that asks to go. `ticket` is unique in the fleet, `weight` its tenant's beside others."""

    ticket: str
    workload: Workload
    tenant: str
    weight: float
    is_vip: bool
    amounts: Amounts


@record
class Telling:
    """What a worker says in one turn.

    Attributes:
        number: Of the turn, from 1. A worker that heard nothing says the same again, which then counts once.
        entries, left: Who came, and the tickets of those who went unserved.
        settled: What goes back to the buckets: reserved or leased and not used, less what was used beyond.
        in_flight, vip_in_flight: Requests under way at the worker, and those of them that are interactive and VIP's.
        held_ms: How long those that ended since the last turn took, on average; 0: none did.
        wants, wants_slots: A lease that would last it until the next.
        pause_ms: A 429 came, and asks for so long; 0: it names no time; None: none came.
        learned: Limits that the provider's headers named, by their place in QUOTA_RATES.
        places: Tickets whose place is asked for.
        is_back: The worker was on its own, and nobody knows what it used.
    """

    number: int
    entries: Sequence[Entry] = ()
    left: Sequence[str] = ()
    settled: Amounts = NOTHING
    in_flight: int = 0
    vip_in_flight: int = 0
    held_ms: float = 0.0
    wants: Amounts = NOTHING
    wants_slots: int = 0
    pause_ms: float | None = None
    learned: Mapping[int, float] = field(default_factory=dict)
    places: Sequence[str] = ()
    is_back: bool = False


class Place(NamedTuple):
    """Where somebody stands: `position` 1 goes next, after about `eta_ms`."""

    position: int
    eta_ms: float


@record
class Hearing:
    """What a worker hears in its turn.

    Attributes:
        is_new: The fleet does not know the worker (any more): whoever waits there has to be entered anew.
        granted: Tickets that may go.
        lease, slots: What the worker may hand out by itself for `Terms.lease_ms`.
        paused_ms: How long nobody goes.
        open_share: Of the limits (0..1), after a pause.
        waiting: In the fleet, by class.
        eta_ms: For one who would come now, by class.
        limits: In force, learned ones included, in the order of QUOTA_RATES.
        used_share: Of the scarcest limit, over the last window.
    """

    number: int
    is_new: bool
    granted: Sequence[str]
    lease: Amounts
    slots: int
    paused_ms: float
    open_share: float
    places: Mapping[str, Place]
    waiting: tuple[int, int]
    eta_ms: tuple[float, float]
    limits: tuple[float | None, ...]
    used_share: float


@dataclass(slots=True)
class _Worker:
    """`granted` are tickets, each with whether it is a VIP's, that the worker has yet to hear of; `vip` counts those
    too. `is_silent`: nobody waits there any more, as far as the pool knows.
    """

    seen_at: float
    number: int = 0
    slots: int = 0
    spare: int = 0
    vip: int = 0
    granted: list[tuple[str, bool]] = field(default_factory=list)
    heard: Hearing | None = None
    is_silent: bool = False


class _Waiting(NamedTuple):
    tag: float
    order: int
    ticket: str


@dataclass(slots=True)
class _Class:
    """One workload's queue: `clock` is what it has had, by its share; `tag` the start tag served last; `finish` by
    tenant, the finish tag of its last entry. `queue` and `vips`, those of them that are VIP's, are sorted.
    """

    clock: float = 0.0
    tag: float = 0.0
    finish: dict[str, float] = field(default_factory=dict)
    queue: list[_Waiting] = field(default_factory=list)
    vips: list[_Waiting] = field(default_factory=list)


class QuotaPool:
    """See the module."""

    def __init__(self, *, now: float, is_empty: bool = False) -> None:
        """`is_empty`: begin with empty buckets, when nobody knows what was used."""
        self._levels: list[float] | None = [0.0] * len(RATES) if is_empty else None
        self._refilled_at = now
        self._paused_until = 0.0
        self._strikes = 0
        self._learned: dict[int, float] = {}
        self._workers: dict[str, _Worker] = {}
        self._swept_at = now
        self._entries: dict[str, tuple[Entry, str, _Waiting, float]] = {}
        self._classes: dict[Workload, _Class] = {INTERACTIVE: _Class(), BATCH: _Class()}
        self._order = 0
        self._held_ms = 0.0
        self._mean_cost = 0.0
        self._spent = [0.0] * len(RATES)

    def turn(self, worker: str, told: Telling, terms: Terms, *, now: float) -> Hearing:
        """Take one worker's turn."""
        known = self._workers.get(worker)
        if known is not None and known.heard is not None and told.number <= known.number:
            known.seen_at = now
            return known.heard
        if known is None:
            if self._levels is None and told.number > 1 and terms.concurrency is not None:
                # The pool is new, and this worker is not: what others have under way was lost with the old one.
                self._paused_until = now + RECOVER_MS
            known = self._workers[worker] = _Worker(now, is_silent=True)
        self._learned.update(told.learned)
        terms = terms.with_learned(self._learned)
        levels = self._refill(terms, now)
        is_new, known.is_silent = known.is_silent, False
        known.seen_at, known.number = now, told.number
        known.slots, known.spare = told.in_flight, 0
        known.vip = told.vip_in_flight + sum(is_vip for _, is_vip in known.granted)
        self._sweep(now)
        if told.held_ms:
            self._held_ms = told.held_ms if not self._held_ms else _faded(self._held_ms, told.held_ms)
        self._add(levels, told.settled, terms, now)
        if told.is_back:
            for rate in RATES:
                levels[rate] = min(levels[rate], 0.0)
        if told.pause_ms is not None:
            self._pause(levels, told.pause_ms, terms, now)
        for ticket in told.left:
            self._leave(ticket)
        for entry in told.entries:
            self._enter(entry, worker, terms)
        self._grant(levels, terms, now)
        granted, known.granted = known.granted, []
        known.slots += len(granted)
        lease, slots = self._lease(known, told, levels, terms, now)
        known.heard = Hearing(
            number=told.number,
            is_new=is_new,
            granted=[ticket for ticket, _ in granted],
            lease=lease,
            slots=slots,
            paused_ms=max(0.0, self._paused_until - now),
            open_share=self._open_share(terms, now),
            places={ticket: place for ticket in told.places if (place := self._place(ticket, levels, terms, now))},
            waiting=(len(self._classes[INTERACTIVE].queue), len(self._classes[BATCH].queue)),
            eta_ms=(
                self._eta(INTERACTIVE, len(self._classes[INTERACTIVE].queue), levels, terms, now),
                self._eta(BATCH, len(self._classes[BATCH].queue), levels, terms, now),
            ),
            limits=terms.limits,
            used_share=max((self._spent[rate] / limit for rate, limit in terms.bounded()), default=0.0),
        )
        return known.heard

    # Buckets.

    def _open_share(self, terms: Terms, now: float) -> float:
        """How much of the limits is open, 0..1, a pause left aside."""
        since = now - self._paused_until
        if not self._paused_until or since >= terms.ramp_ms:
            return 1.0
        return RAMP_FLOOR + (1.0 - RAMP_FLOOR) * max(0.0, since) / terms.ramp_ms

    def _refill(self, terms: Terms, now: float) -> list[float]:
        now = max(now, self._refilled_at)
        opening = self._open_share(terms, now)
        if self._levels is None:
            self._levels = [inf if terms.limits[rate] is None else terms.depth(rate) * opening for rate in RATES]
        levels, since = self._levels, max(self._refilled_at, self._paused_until)
        share = (opening + self._open_share(terms, since)) / 2.0
        faded = exp((self._refilled_at - now) / terms.window_ms)
        for rate in RATES:
            self._spent[rate] *= faded
            if terms.limits[rate] is None:
                levels[rate] = inf
            else:
                level = 0.0 if levels[rate] == inf else levels[rate]
                filled = level + max(0.0, now - since) * share * terms.rate(rate)
                levels[rate] = min(filled, terms.depth(rate) * opening)
        self._refilled_at = now
        return levels

    def _add(self, levels: list[float], amounts: Amounts, terms: Terms, now: float) -> None:
        opening = self._open_share(terms, now)
        for rate, _ in terms.bounded():
            levels[rate] = min(max(terms.depth(rate) * opening, levels[rate]), levels[rate] + amounts[rate])
            self._spent[rate] = max(0.0, self._spent[rate] - amounts[rate])

    def _take(self, levels: list[float], amounts: Amounts) -> None:
        for rate in RATES:
            levels[rate] -= amounts[rate]
            self._spent[rate] += amounts[rate]

    def _has(self, levels: list[float], amounts: Amounts, terms: Terms, now: float) -> bool:
        if now < self._paused_until:
            return False
        opening = self._open_share(terms, now)
        # What is larger than a whole bucket goes when that is full, and leaves a debt.
        return all(
            levels[rate] + NEARLY >= min(amounts[rate], terms.depth(rate) * opening) for rate, _ in terms.bounded()
        )

    def _pause(self, levels: list[float], pause_ms: float, terms: Terms, now: float) -> None:
        if now >= self._paused_until:
            # Soon after the last: the account is used by others too, or its limit is lower than we know.
            is_soon = self._paused_until > 0 and now < self._paused_until + terms.ramp_ms
            self._strikes = self._strikes + 1 if is_soon else 0
        if pause_ms <= 0:
            pause_ms = min(FIRST_PAUSE_MS * 2.0 ** min(self._strikes, 20), max(FIRST_PAUSE_MS, terms.window_ms))
        self._paused_until = max(self._paused_until, now + pause_ms)
        for rate in RATES:
            levels[rate] = min(levels[rate], 0.0)

    # Who waits.

    def _cost(self, amounts: Amounts, terms: Terms) -> float:
        """The share of a window that it takes of what is scarcest."""
        cost = max((amounts[rate] / limit for rate, limit in terms.bounded()), default=0.0)
        if terms.concurrency is not None:
            cost = max(cost, self._held_ms / (terms.window_ms * terms.concurrency))
        return cost

    def _enter(self, entry: Entry, worker: str, terms: Terms) -> None:
        if entry.ticket in self._entries:
            return
        mine, other = self._classes[entry.workload], self._classes[INTERACTIVE if entry.workload == BATCH else BATCH]
        if not mine.queue:
            # Who was away has saved nothing up.
            mine.clock = max(mine.clock, other.clock) if other.queue else 0.0
            other.clock = other.clock if other.queue else 0.0
        cost = self._cost(entry.amounts, terms)
        self._mean_cost = cost if not self._mean_cost else _faded(self._mean_cost, cost)
        tag = max(mine.tag, mine.finish.get(entry.tenant, 0.0))
        mine.finish[entry.tenant] = tag + cost / entry.weight
        self._order += 1
        waiting = _Waiting(tag, self._order, entry.ticket)
        insort(mine.queue, waiting)
        if entry.is_vip:
            insort(mine.vips, waiting)
        self._entries[entry.ticket] = entry, worker, waiting, cost

    def _unqueue(self, ticket: str) -> tuple[Entry, str, _Waiting, float]:
        found = self._entries.pop(ticket)
        entry, _, waiting, _ = found
        mine = self._classes[entry.workload]
        del mine.queue[bisect_left(mine.queue, waiting)]
        if entry.is_vip:
            del mine.vips[bisect_left(mine.vips, waiting)]
        if not mine.queue:
            mine.finish.clear()
            mine.tag = 0.0
        return found

    def _leave(self, ticket: str) -> None:
        if ticket not in self._entries:
            return  # granted meanwhile: the worker hears of it, and settles it
        entry, _, waiting, cost = self._unqueue(ticket)
        # Who leaves unserved is not charged, as far as nobody came after it.
        finish = self._classes[entry.workload].finish
        if finish.get(entry.tenant) == waiting.tag + cost / entry.weight:
            finish[entry.tenant] = waiting.tag

    def _sweep(self, now: float) -> None:
        if now - self._swept_at < SILENT_MS / 6:
            return
        self._swept_at = now
        for name, worker in list(self._workers.items()):
            if now - worker.seen_at >= SILENT_MS and not worker.is_silent:
                worker.is_silent = True
                for ticket in [ticket for ticket, found in self._entries.items() if found[1] == name]:
                    self._unqueue(ticket)
            if now - worker.seen_at >= GONE_MS:
                del self._workers[name]

    # Who goes.

    def _slots(self, terms: Terms, now: float) -> tuple[float, float]:
        """What is left of the concurrency, and of that what is kept for VIPs."""
        if terms.concurrency is None:
            return inf, 0.0
        workers = self._workers.values()
        used = sum(one.slots + one.spare + len(one.granted) for one in workers)
        reserved = max(0.0, terms.vip_concurrency - sum(one.vip for one in workers))
        return max(1.0, float(int(terms.concurrency * self._open_share(terms, now)))) - used, reserved

    def _grant(self, levels: list[float], terms: Terms, now: float) -> None:
        left, reserved = self._slots(terms, now)
        interactive, batch = self._classes[INTERACTIVE], self._classes[BATCH]
        for _ in range(MOST_GRANTS):
            if not interactive.queue and not batch.queue:
                return
            turn = batch if not interactive.queue or (batch.queue and batch.clock < interactive.clock) else interactive
            head = turn.queue[0]
            if left - reserved < 1 and not self._entries[head.ticket][0].is_vip and interactive.vips:
                turn, head = interactive, interactive.vips[0]  # what is reserved waits for no turn
            entry = self._entries[head.ticket][0]
            if left - (0.0 if entry.is_vip else reserved) < 1 or not self._has(levels, entry.amounts, terms, now):
                return
            worker, cost = self._entries[head.ticket][1], self._entries[head.ticket][3]
            turn.tag = max(turn.tag, head.tag)
            turn.clock += cost / (terms.batch_share if turn is batch else 1.0 - terms.batch_share)
            self._unqueue(head.ticket)
            self._take(levels, entry.amounts)
            holder = self._workers[worker]
            holder.granted.append((head.ticket, entry.is_vip))
            holder.vip += entry.is_vip
            left -= 1
            reserved = max(0.0, reserved - entry.is_vip)

    def _lease(
        self, worker: _Worker, told: Telling, levels: list[float], terms: Terms, now: float
    ) -> tuple[Amounts, int]:
        is_contended = self._classes[INTERACTIVE].queue or self._classes[BATCH].queue
        if not told.wants_slots or is_contended or now < self._paused_until:
            return NOTHING, 0
        part = 1.0
        for rate, _ in terms.bounded():
            if told.wants[rate] > 0:
                part = min(part, max(0.0, levels[rate]) * LEASE_SHARE / told.wants[rate])
        slots = float(told.wants_slots)
        if terms.concurrency is not None:
            left, reserved = self._slots(terms, now)
            slots = min(slots, max(0.0, left - reserved) * LEASE_SHARE)
        granted = int(min(told.wants_slots * part, slots) + NEARLY)
        if granted < 1:
            return NOTHING, 0
        part = granted / told.wants_slots
        requests, tokens, input_tokens, output_tokens = told.wants
        lease = (requests * part, tokens * part, input_tokens * part, output_tokens * part)
        self._take(levels, lease)
        worker.spare = granted if terms.concurrency is not None else 0
        return lease, granted

    # How long it takes.

    def _place(self, ticket: str, levels: list[float], terms: Terms, now: float) -> Place | None:
        found = self._entries.get(ticket)
        if found is None:
            return None
        workload = found[0].workload
        ahead = bisect_left(self._classes[workload].queue, found[2])
        return Place(self._position(workload, ahead, terms), self._eta(workload, ahead, levels, terms, now))

    def _position(self, workload: Workload, ahead: int, terms: Terms) -> int:
        """Counts who of the other class goes in between."""
        share = terms.batch_share
        if workload == INTERACTIVE:
            return 1 + ahead + min(len(self._classes[BATCH].queue), int(ahead * share / (1.0 - share)))
        return 1 + ahead + min(len(self._classes[INTERACTIVE].queue), int((ahead + 1) * (1.0 - share) / share))

    def _eta(self, workload: Workload, ahead: int, levels: list[float], terms: Terms, now: float) -> float:
        saved = min((levels[rate] / terms.rate(rate) for rate, _ in terms.bounded()), default=0.0)
        each = self._mean_cost * terms.window_ms / (1.0 - terms.headroom) / self._open_share(terms, now)
        until_it_goes = self._position(workload, ahead, terms) * each - saved
        return max(0.0, self._paused_until - now) + max(0.0, until_it_goes)


def _faded(mean: float, seen: float) -> float:
    return mean * (1.0 - MEMORY) + seen * MEMORY
