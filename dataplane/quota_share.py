"""One worker's part in one pool of `quota`: what it may hand out by itself, who waits here, and its turns.

A request takes from the lease if it can, which waits for nothing. Else it waits for a turn, in which the worker tells
and hears everything at once, so that turns grow with time and not with requests. While the store cannot be asked, the
worker keeps a pool of its own, with its part of the limits: all parts together are the whole.

Belongs to one event loop. Times are monotonic milliseconds unless they say otherwise.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import insort
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from math import exp, inf
from random import Random
from typing import Any, Final

from dataplane.errors.admission import QuotaExhausted
from dataplane.events import Event, QuotaAlone, QuotaLearned, QuotaPaused, QuotaShared
from dataplane.messages import Usage
from dataplane.policies import QUOTA_LIMITS, QUOTA_RATES, QuotaPolicy
from dataplane.quota import (
    BATCH,
    INTERACTIVE,
    NOTHING,
    RATES,
    Amounts,
    Entry,
    Hearing,
    Place,
    QuotaPool,
    Telling,
    Terms,
)
from dataplane.quota_grants import Asking, Estimates, Grant
from dataplane.stores.quota import QuotaStore, QuotaStoreUnavailable
from dataplane.timers import TimerWheel

log = logging.getLogger("ballast.quota")

# While somebody waits, turns are at least so far apart, and at most: grants are picked up so late.
CLOSEST_MS: Final = 5.0
CLOSE_MS: Final = 20.0
FARTHEST_MS: Final = 250.0
# What ended is told so late at most; to a fleet in which somebody waits for it, at once.
LAZY_MS: Final = 100.0
# With a concurrency to keep, a worker that has something under way says so, or it would be thought dead.
ALIVE_MS: Final = 1_000.0
RETURN_SECONDS: Final = 1.0
# What was heard of the fleet so long ago says nothing of it now.
STALE_MS: Final = 3_000.0
# How many of those who wait here ask for their place in one turn, and how long a place holds.
PLACES: Final = 100
PLACE_MS: Final = 250.0
# A lease is asked for somewhat larger than what was used lately.
SPARE: Final = 1.5
DEMAND_MEMORY_MS: Final = 1_000.0
# At most so much later than asked do workers of one fleet come back after a 429.
JITTER: Final = 0.1
MAX_JITTER_MS: Final = 1_000.0
# A provider that asks for more is asked again all the same: it may have been told something else meanwhile.
MAX_PAUSE_MS: Final = 3_600_000.0
MAX_WAITS_KEPT: Final = 1_000
# Whoever waits for so long does so because nothing is left, not for a turn.
FULL_SECONDS: Final = 1.0


@dataclass(slots=True)
class _Waiter:
    entry: Entry
    asking: Asking
    future: asyncio.Future[Grant]
    since: float
    until: float
    announce: Callable[[Place], None] | None
    first: Place | None = None
    place: Place | None = None


class QuotaShare:
    """See the module."""

    def __init__(
        self,
        name: str,
        account: str,
        policy: QuotaPolicy,
        *,
        worker: str,
        store: QuotaStore | None,
        timers: TimerWheel,
        report: Callable[[Event], None],
        clock: Callable[[], float],
        wall: Callable[[], float],
        rng: Random,
    ) -> None:
        """`worker` is unique in the fleet, also over restarts. `clock` is monotonic seconds, `wall` epoch seconds."""
        self.name = name
        self.account = account
        self.policy = policy
        self._worker = worker
        self._store = store
        self._timers = timers
        self._report = report
        self._clock = clock
        self._wall = wall
        self._rng = rng
        self._terms = Terms.of(policy)
        self._own_terms = Terms.of(policy, part=1.0 / policy.fleet_workers.value)
        # Where nobody can be asked, the worker is on its own from the start.
        self._own: QuotaPool | None = None if store is not None else QuotaPool(now=self._now(), is_empty=True)
        self._bounded = [rate for rate, _ in self._terms.bounded()]

        self._lease = list(NOTHING)
        self._lease_slots = 0
        self._lease_until = -inf
        self._taken = 0
        self._taken_input = 0.0
        self._taken_output = 0.0
        self._demand = 0.0  # requests per millisecond, lately
        self._mean_amounts: Amounts = NOTHING

        self._tickets = 0
        self._waiting: dict[str, _Waiter] = {}
        self._gone: dict[str, Amounts] = {}  # left here, and perhaps granted there
        self._came: list[Entry] = []
        self._newcomers: list[str] = []  # who have not been told their place
        self._left: list[str] = []
        self._owed: list[str] = []  # left while the fleet could not be told
        self._settled = list(NOTHING)
        self._held_ms = 0.0
        self._held_count = 0
        self._pause_ms: float | None = None
        self._learned_news: dict[int, float] = {}
        self._learned: dict[int, float] = {}
        self._paused_until = -inf
        self._is_back = False
        self._heard: Hearing | None = None
        self._others_wait = False
        self._number = 0
        self._unheard: Telling | None = None
        self._turned_at = -inf
        self._places_at = -inf
        self._next_at = -inf
        self._due = inf
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._returning: asyncio.Task[None] | None = None

        self.in_flight = 0
        self.vip_in_flight = 0
        self._estimates = Estimates()
        self.granted = 0
        self.throttled = 0
        self._reported = (0, 0)
        self._waits: list[float] = []

    @property
    def waiting(self) -> int:
        """How many wait at this worker."""
        return len(self._waiting)

    @property
    def is_alone(self) -> bool:
        """True while the fleet cannot be asked."""
        return self._own is not None

    @property
    def paused_seconds(self) -> float:
        """How long nobody may go."""
        return max(0.0, self._paused_until - self._now()) / 1000.0

    @property
    def oldest_seconds(self) -> float:
        """How long the request that waits longest at this worker has waited; 0 where none waits. What is batch is left
        out: it may wait for as long as it takes.
        """
        oldest = next((one.since for one in self._waiting.values() if one.entry.workload == INTERACTIVE), None)
        return 0.0 if oldest is None else max(0.0, self._now() - oldest) / 1000.0

    @property
    def utilisation(self) -> float:
        """How much is in use of what may be handed out, 0..1: of the scarcest rate over its last window, and all of it
        while nobody may go, or somebody has waited for longer than turns take. So a concurrency shows once it is used
        up. What was heard fades as its window does, or a pool that nobody asks any more would be full for ever.
        """
        now = self._now()
        if now < self._paused_until or self.oldest_seconds >= FULL_SECONDS:
            return 1.0
        if self._heard is None:
            return 0.0
        faded = self._heard.used_share * exp(min(0.0, self._turned_at - now) / self._terms.window_ms)
        return min(1.0, faded / (1.0 - self._terms.headroom))

    def adopt(self, policy: QuotaPolicy) -> None:
        """Follow another version of the policy."""
        if policy == self.policy:
            return
        self.policy = policy
        self._terms = Terms.of(policy)
        self._own_terms = Terms.of(policy, part=1.0 / policy.fleet_workers.value)
        self._bounded = [rate for rate, _ in self._terms.bounded()]
        self._hurry(0.0)

    @property
    def is_idle(self) -> bool:
        """True when nothing is under way and nobody waits."""
        return not self._waiting and not self.in_flight

    async def stop(self) -> None:
        """Take no more turns; whoever waits is told by whoever cancels them."""
        tasks = [task for task in (self._task, self._returning) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._task = self._returning = None

    # Requests.

    def take_nowait(self, asking: Asking) -> Grant | None:
        """Leave from the lease, or None: then `wait` is what helps."""
        if self._waiting or self._lease_slots < 1:
            return None
        now = self._now()
        if now >= self._lease_until or now < self._paused_until:
            return None
        amounts = self._estimates.amounts(asking)
        lease = self._lease
        for rate in self._bounded:
            if lease[rate] < amounts[rate]:
                return None
        # Each request comes by here: no loop, no call that can be saved.
        _, tokens, input_tokens, output_tokens = amounts
        lease[0] -= 1.0
        lease[1] -= tokens
        lease[2] -= input_tokens
        lease[3] -= output_tokens
        self._lease_slots -= 1
        self._taken += 1
        self._taken_input += input_tokens
        self._taken_output += output_tokens
        if self._lease_slots * 2 < self._taken and self._due > now:
            self._hurry(0.0)  # before it is used up
        return self._begin(amounts, asking, now, 0.0)

    async def wait(self, asking: Asking, *, seconds: float, announce: Callable[[Place], None] | None = None) -> Grant:
        """Wait for leave, for so long at most; `announce` is told the place as it changes.

        Raises:
            QuotaExhausted: it takes longer, as far as anybody knows, or did.
        """
        now = self._now()
        amounts = self._estimates.amounts(asking)
        self._taken += 1
        self._taken_input += amounts[2]
        self._taken_output += amounts[3]
        self._tickets += 1
        ticket = f"{self._worker}:{self._tickets}"
        entry = Entry(ticket, asking.workload, asking.tenant, self.policy.weight(asking.tier), asking.is_vip, amounts)
        future: asyncio.Future[Grant] = self._timers.loop.create_future()
        waiter = _Waiter(entry, asking, future, now, now + seconds * 1000.0, announce)
        self._waiting[ticket] = waiter
        self._came.append(entry)
        self._newcomers.append(ticket)
        self._hurry(0.0)
        try:
            with self._timers.deadline(seconds):
                return await future
        except TimeoutError:
            raise self._exhausted(waiter, allowed_seconds=seconds) from None
        except BaseException:
            if future.done() and not future.cancelled() and future.exception() is None:
                future.result().give_back()  # granted at the moment at which its caller left
            raise
        finally:
            if self._waiting.pop(ticket, None) is not None:
                self._gone[ticket] = amounts
                self._left.append(ticket)
                self._hurry(LAZY_MS)

    def settle(self, grant: Grant, used: Usage, *, is_complete: bool) -> None:
        """See `Grant.settle`."""
        now = self._end(grant)
        self._held_ms += now - grant.since
        self._held_count += 1
        if is_complete:
            self._estimates.learn(grant.asking, used)
        _, tokens, input_tokens, output_tokens = grant.amounts
        settled = self._settled
        settled[1] += tokens - used.input_tokens - used.output_tokens
        settled[2] += input_tokens - used.input_tokens
        settled[3] += output_tokens - used.output_tokens

    def refund(self, grant: Grant) -> None:
        """See `Grant.give_back`."""
        self._end(grant)
        self._put_back(grant.amounts)

    def refused(self, *, retry_after_seconds: float | None, lane: str) -> None:
        """A provider said 429: nobody of the fleet asks until it said."""
        self.throttled += 1
        now = self._now()
        asked_ms = min(MAX_PAUSE_MS, max(0.0, (retry_after_seconds or 0.0) * 1000.0))
        pause_ms = min(MAX_PAUSE_MS, asked_ms + min(MAX_JITTER_MS, asked_ms * JITTER) * self._rng.random())
        if now >= self._paused_until:
            self._report(
                QuotaPaused(
                    at=self._wall(),
                    pool=self.name,
                    account=self.account,
                    lane=lane,
                    seconds=round(asked_ms / 1000.0, 3),
                    reason="a 429 that asks for it" if asked_ms else "a 429 that names no time",
                )
            )
        self._pause_ms = max(pause_ms, self._pause_ms or 0.0)
        self._paused_until = max(self._paused_until, now + max(pause_ms, CLOSEST_MS))
        self._drop_lease()
        self._hurry(0.0)

    def learn(self, limits_per_minute: Mapping[int, float]) -> None:
        """A provider named its limits, by their place in QUOTA_RATES."""
        for rate, per_minute in limits_per_minute.items():
            limit = per_minute * self.policy.window_seconds.value / 60.0
            if self._learned.get(rate) == limit:
                continue
            self._learned[rate] = self._learned_news[rate] = limit
            declared = self._terms.limits[rate]
            in_force = declared if self._heard is None else self._heard.limits[rate]
            if in_force is None or limit < in_force:  # else another worker has said so
                self._report(
                    QuotaLearned(
                        at=self._wall(), pool=self.name, limit=QUOTA_RATES[rate], declared=declared, learned=limit
                    )
                )
            self._hurry(LAZY_MS)

    def state(self) -> dict[str, Any]:
        """How the pool stands, as this worker knows it, with what happened since this was last asked for.

        Shape: the member `quotas` of reports.
        """
        heard = None if self._now() - self._turned_at > STALE_MS else self._heard
        terms = self._terms.with_learned(self._learned)
        limits = {name: limit for name, limit in zip(QUOTA_RATES, terms.limits, strict=True) if limit is not None}
        if terms.concurrency is not None:
            limits[QUOTA_LIMITS[-1]] = terms.concurrency
        waits, self._waits = sorted(self._waits), []
        (granted, throttled), self._reported = self._reported, (self.granted, self.throttled)
        waiting = (0, 0) if heard is None else heard.waiting
        etas = (None, None) if heard is None else heard.eta_ms
        return {
            "pool": self.name,
            "account": self.account,
            "policy": self.policy.slug,
            "limits": limits,
            "learned": {QUOTA_RATES[rate]: limit for rate, limit in self._learned.items()},
            "paused_seconds": round(self.paused_seconds, 1),
            "ramp": 1.0 if heard is None else round(heard.open_share, 3),
            "is_alone": self.is_alone,
            "waiting": {INTERACTIVE: waiting[0], BATCH: waiting[1]},
            "eta_seconds": {
                workload: None if eta is None else round(eta / 1000.0, 2)
                for workload, eta in zip((INTERACTIVE, BATCH), etas, strict=True)
            },
            "in_flight": self.in_flight,
            "used_share": 0.0 if heard is None else round(heard.used_share, 4),
            "granted": self.granted - granted,
            "throttled": self.throttled - throttled,
            "waited_ms_p50": _quantile(waits, 0.5, of=self.granted - granted),
            "waited_ms_p95": _quantile(waits, 0.95, of=self.granted - granted),
        }

    # What comes and goes.

    def _begin(self, amounts: Amounts, asking: Asking, now: float, waited_ms: float) -> Grant:
        self.in_flight += 1
        self.vip_in_flight += asking.is_vip
        self.granted += 1
        if waited_ms and len(self._waits) < MAX_WAITS_KEPT:
            insort(self._waits, waited_ms)
        return Grant(self, amounts, asking, now, waited_ms)

    def _end(self, grant: Grant) -> float:
        now = self._now()
        self.in_flight -= 1
        self.vip_in_flight -= grant.asking.is_vip
        within_ms = CLOSEST_MS if self._others_wait and self._terms.concurrency is not None else LAZY_MS
        if now + within_ms < self._due:
            self._hurry(within_ms)
        return now

    def _put_back(self, amounts: Amounts) -> None:
        for rate in RATES:
            self._settled[rate] += amounts[rate]

    def _drop_lease(self) -> None:
        self._put_back((self._lease[0], self._lease[1], self._lease[2], self._lease[3]))
        self._lease, self._lease_slots, self._lease_until = list(NOTHING), 0, -inf

    def _wants(self, now: float) -> tuple[Amounts, int]:
        """A lease that would last until the next: what was asked for lately, and somewhat more."""
        elapsed = min(DEMAND_MEMORY_MS, max(CLOSEST_MS, now - self._turned_at))
        faded = exp(-elapsed / DEMAND_MEMORY_MS)
        self._demand = self._demand * faded + (1.0 - faded) * self._taken / elapsed
        if self._taken:
            input_tokens, output_tokens = self._taken_input / self._taken, self._taken_output / self._taken
            self._mean_amounts = (1.0, input_tokens + output_tokens, input_tokens, output_tokens)
        self._taken, self._taken_input, self._taken_output = 0, 0.0, 0.0
        slots = int(self._demand * self._terms.lease_ms * SPARE + 0.5)
        if not slots:
            return NOTHING, 0
        _, tokens, input_tokens, output_tokens = self._mean_amounts
        larger = slots * SPARE
        return (float(slots), tokens * larger, input_tokens * larger, output_tokens * larger), slots

    # Turns.

    def _hurry(self, within_ms: float) -> None:
        due = self._now() + within_ms
        if due >= self._due:
            return
        self._due = due
        if self._task is None:
            self._task = asyncio.create_task(self._turn_regularly(), name=f"quota {self.name}")
        self._wake.set()

    async def _turn_regularly(self) -> None:
        while True:
            earliest = self._turned_at + (CLOSEST_MS if self._others_wait else 0.0)
            delay = max(self._due, earliest) - self._now()
            if delay > 0:
                self._wake.clear()
                try:
                    async with asyncio.timeout(None if delay == inf else delay / 1000.0):
                        await self._wake.wait()
                except TimeoutError:
                    pass
                continue
            self._due = inf
            try:
                await self._turn()
            except Exception:  # whoever waits must not wait for ever because of one mistake
                log.exception("a turn at quota %r failed", self.name)
                self._hurry(FARTHEST_MS)

    async def _turn(self) -> None:
        if self._own is not None:
            self._hear(self._own.turn("", self._tell(), self._own_terms, now=self._now()), told_at=self._now())
            return
        store = self._store
        if store is None:
            raise RuntimeError("there is no store, and no pool of its own")
        told = self._unheard = self._unheard or self._tell()
        told_at = self._now()
        try:
            heard = await store.turn(self.name, self._worker, told, self._terms)
        except QuotaStoreUnavailable as exc:
            self._be_alone(str(exc))
            return
        self._unheard = None
        self._hear(heard, told_at=told_at)

    def _tell(self) -> Telling:
        now = self._now()
        self._drop_lease()
        self._number += 1
        wants, slots = self._wants(now)
        # Who has just come first: they may be waiting for what they cannot have.
        places = [ticket for ticket in self._newcomers[:PLACES] if ticket in self._waiting]
        del self._newcomers[:PLACES]
        if now - self._places_at >= PLACE_MS and len(places) < PLACES:
            self._places_at = now
            places += islice((ticket for ticket in self._waiting if ticket not in places), PLACES - len(places))
        told = Telling(
            number=self._number,
            entries=self._came,
            left=self._left,
            settled=(self._settled[0], self._settled[1], self._settled[2], self._settled[3]),
            in_flight=self.in_flight,
            vip_in_flight=self.vip_in_flight,
            held_ms=self._held_ms / self._held_count if self._held_count else 0.0,
            wants=wants,
            wants_slots=slots,
            pause_ms=self._pause_ms,
            learned=self._learned_news if self.policy.learn else {},
            places=places,
            is_back=self._is_back,
        )
        if self._own is not None and self._store is not None:
            self._owed += self._left
        self._came, self._left, self._settled = [], [], list(NOTHING)
        self._held_ms, self._held_count = 0.0, 0
        self._pause_ms, self._learned_news = None, {}
        self._is_back = False
        self._turned_at = now
        return told

    def _hear(self, heard: Hearing, *, told_at: float) -> None:
        now = self._now()
        self._heard = heard
        self._bounded = [rate for rate, limit in enumerate(heard.limits) if limit is not None]
        self._paused_until = max(now + heard.paused_ms, self._paused_until if self._pause_ms is not None else -inf)
        for ticket in heard.granted:
            waiter = self._waiting.pop(ticket, None)
            if waiter is None or waiter.future.done():
                # Who left, or has just been told that it takes too long.
                self._put_back(self._gone.pop(ticket, NOTHING) if waiter is None else waiter.entry.amounts)
                continue
            grant = self._begin(waiter.entry.amounts, waiter.asking, now, now - waiter.since)
            grant.position = 0 if waiter.first is None else waiter.first.position
            waiter.future.set_result(grant)
        open_ends = [*self._left, *self._owed]
        self._gone = {ticket: self._gone[ticket] for ticket in open_ends if ticket in self._gone}
        if heard.is_new:
            self._enter_all()
        if heard.slots and self._pause_ms is None:
            self._lease, self._lease_slots = list(heard.lease), heard.slots
            self._lease_until = told_at + self._terms.lease_ms
        self._others_wait = any(heard.waiting)
        for ticket, place in heard.places.items():
            self._note_place(ticket, place, now)
        self._plan(heard, now)

    def _note_place(self, ticket: str, place: Place, now: float) -> None:
        waiter = self._waiting.get(ticket)
        if waiter is None or waiter.future.done():
            return
        before, waiter.place = waiter.place, place
        waiter.first = waiter.first or place
        if now + place.eta_ms > waiter.until:
            # Nobody is kept waiting for what they cannot have.
            waiter.future.set_exception(self._exhausted(waiter, allowed_seconds=(waiter.until - waiter.since) / 1000.0))
        elif waiter.announce is not None and (before is None or before.position != place.position):
            waiter.announce(place)

    def _plan(self, heard: Hearing, now: float) -> None:
        """When to come again, unless something happens before."""
        if self._came or self._newcomers or self._pause_ms is not None:
            self._hurry(0.0)
        if heard.places:
            soonest = now + min(place.eta_ms for place in heard.places.values())
            # Newcomers say when their turn comes; that of those before them stays as it was told.
            is_whole = self._places_at == self._turned_at or self._next_at <= now
            self._next_at = soonest if is_whole else min(soonest, self._next_at)
        if self._waiting:
            # Half the time that is left, so that few turns go before the one that grants, and it comes soon. A pool of
            # its own has nobody else to empty its buckets.
            farthest = CLOSE_MS if self.is_alone else FARTHEST_MS
            self._hurry(min(farthest, max(CLOSE_MS, (self._next_at - now) / 2)))
        if self._lease_until > now:
            self._hurry(self._lease_until - now)
        if self._left or any(self._settled):
            self._hurry(LAZY_MS)
        if self.in_flight and self._terms.concurrency is not None:
            self._hurry(ALIVE_MS)

    def _enter_all(self) -> None:
        """Whoever waits here is told anew, to a pool that may not know them."""
        self._came = [waiter.entry for waiter in self._waiting.values()]

    def _exhausted(self, waiter: _Waiter, *, allowed_seconds: float) -> QuotaExhausted:
        place = waiter.place
        return QuotaExhausted(
            account=self.account,
            policy=self.policy.slug,
            position=None if place is None else place.position,
            eta_seconds=None if place is None else place.eta_ms / 1000.0,
            waited_seconds=(self._now() - waiter.since) / 1000.0,
            allowed_seconds=allowed_seconds,
        )

    # On its own.

    def _be_alone(self, reason: str) -> None:
        log.warning("quota %r is kept by this worker alone: %s", self.name, reason)
        self._report(QuotaAlone(at=self._wall(), pool=self.name, reason=reason))
        now = self._now()
        self._own = QuotaPool(now=now, is_empty=True)
        if now < self._paused_until:
            # What the fleet knew of a pause holds here too.
            self._pause_ms = max(self._paused_until - now, self._pause_ms or 0.0)
        self._enter_all()
        self._returning = asyncio.create_task(self._try_to_return(), name=f"quota {self.name} return")
        self._hurry(0.0)

    async def _try_to_return(self) -> None:
        store = self._store
        while store is not None and self._unheard is not None:
            await asyncio.sleep(RETURN_SECONDS)
            told_at = self._now()
            try:
                heard = await store.turn(self.name, self._worker, self._unheard, self._terms)
            except QuotaStoreUnavailable:
                continue
            except Exception:
                log.exception("quota %r could not be shared again", self.name)
                continue
            self._come_back(heard, told_at)

    def _come_back(self, heard: Hearing, told_at: float) -> None:
        log.warning("quota %r is shared with the fleet again", self.name)
        self._report(QuotaShared(at=self._wall(), pool=self.name))
        self._unheard, self._own = None, None
        # Numbers went on meanwhile, so the next turn is a new one to the fleet.
        self._is_back = True
        self._left, self._owed = [*self._owed, *self._left], []
        self._enter_all()
        self._hear(replace(heard, lease=NOTHING, slots=0), told_at=told_at)  # that lease is of long ago
        self._hurry(0.0)

    def _now(self) -> float:
        return self._clock() * 1000.0


def _quantile(waits: list[float], share: float, *, of: int) -> float | None:
    """Of so many requests, of which those that waited did so for `waits`, sorted."""
    if not of:
        return None
    place = int(share * of) - (of - len(waits))
    return 0.0 if place < 0 or not waits else round(waits[min(place, len(waits) - 1)], 1)
