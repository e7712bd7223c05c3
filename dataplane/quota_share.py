"""One worker's part in one pool of `quota`: what it may hand out by itself, and what it tells and hears in its turns.

A request takes from the lease if it can, which waits for nothing. Else it waits for a turn, in which the worker tells
and hears everything at once, so that turns grow with time and not with requests. While the store cannot be asked, the
worker keeps a pool of its own, with its part of the limits: all parts together are the whole.

Belongs to one event loop. Times are monotonic milliseconds unless they say otherwise.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import exp, inf
from random import Random
from typing import Any, Final

from dataplane.errors.admission import QuotaExhausted
from dataplane.events import Event, QuotaAlone, QuotaLearned, QuotaPaused, QuotaShared
from dataplane.messages import Usage
from dataplane.policies import QUOTA_LIMITS, QUOTA_RATES, QuotaPolicy
from dataplane.quota import BATCH, INTERACTIVE, NOTHING, RATES, Amounts, Hearing, Place, Telling, Terms
from dataplane.quota_counterpart import Counterpart
from dataplane.quota_counts import Demand, Granted
from dataplane.quota_grants import Asking, Estimates, Grant
from dataplane.quota_line import Line, Waiter
from dataplane.quota_turns import Turns
from dataplane.stores.quota import QuotaStore
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
# What was heard of the fleet so long ago says nothing of it now.
STALE_MS: Final = 3_000.0
# At most so much later than asked do workers of one fleet come back after a 429.
JITTER: Final = 0.1
MAX_JITTER_MS: Final = 1_000.0
# A provider that asks for more is asked again all the same: it may have been told something else meanwhile.
MAX_PAUSE_MS: Final = 3_600_000.0
# Whoever waits for so long does so because nothing is left, not for a turn.
FULL_SECONDS: Final = 1.0


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
        self._timers = timers
        self._report = report
        self._clock = clock
        self._wall = wall
        self._rng = rng
        self._terms = Terms.of(policy)
        self._bounded = [rate for rate, _ in self._terms.bounded()]
        self._line = Line(worker)
        self._turns = Turns(name, self._turn, now=self._now)
        self._counterpart = Counterpart(
            name,
            worker=worker,
            store=store,
            terms=self._terms,
            own_terms=_part_of(policy),
            now=self._now,
            on_alone=self._be_alone,
            on_return=self._come_back,
        )

        self._lease = list(NOTHING)
        self._lease_slots = 0
        self._lease_until = -inf
        self._demand = Demand()

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

        self.in_flight = 0
        self.vip_in_flight = 0
        self._estimates = Estimates()
        self._granted = Granted()

    @property
    def waiting(self) -> int:
        """How many wait at this worker."""
        return len(self._line.waiters)

    @property
    def granted(self) -> int:
        """How many got leave here."""
        return self._granted.granted

    @property
    def throttled(self) -> int:
        """How many of them their provider refused."""
        return self._granted.throttled

    @property
    def is_alone(self) -> bool:
        """True while the fleet cannot be asked."""
        return self._counterpart.is_alone

    @property
    def paused_seconds(self) -> float:
        """How long nobody may go."""
        return max(0.0, self._paused_until - self._now()) / 1000.0

    @property
    def oldest_seconds(self) -> float:
        """How long the request that waits longest at this worker has waited; 0 where none waits. What is batch is left
        out: it may wait for as long as it takes.
        """
        return self._line.oldest_ms(self._now()) / 1000.0

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
        faded = self._heard.used_share * exp(min(0.0, self._turns.last_at - now) / self._terms.window_ms)
        return min(1.0, faded / (1.0 - self._terms.headroom))

    def adopt(self, policy: QuotaPolicy) -> None:
        """Follow another version of the policy."""
        if policy == self.policy:
            return
        self.policy = policy
        self._terms = Terms.of(policy)
        self._counterpart.terms, self._counterpart.own_terms = self._terms, _part_of(policy)
        self._bounded = [rate for rate, _ in self._terms.bounded()]
        self._turns.hurry(0.0)

    @property
    def is_idle(self) -> bool:
        """True when nothing is under way and nobody waits."""
        return not self._line.waiters and not self.in_flight

    async def stop(self) -> None:
        """Take no more turns; whoever waits is told by whoever cancels them."""
        await asyncio.gather(self._turns.stop(), self._counterpart.stop())

    # Requests.

    def take_nowait(self, asking: Asking) -> Grant | None:
        """Leave from the lease, or None: then `wait` is what helps."""
        if self._line.waiters or self._lease_slots < 1:
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
        demand = self._demand
        demand.taken += 1
        demand.taken_input += input_tokens
        demand.taken_output += output_tokens
        if self._lease_slots * 2 < demand.taken and self._turns.due > now:
            self._turns.hurry(0.0)  # before it is used up
        return self._begin(amounts, asking, now, 0.0)

    async def wait(self, asking: Asking, *, seconds: float, announce: Callable[[Place], None] | None = None) -> Grant:
        """Wait for leave, for so long at most; `announce` is told the place as it changes.

        Raises:
            QuotaExhausted: it takes longer, as far as anybody knows, or did.
        """
        now = self._now()
        amounts = self._estimates.amounts(asking)
        demand = self._demand
        demand.taken += 1
        demand.taken_input += amounts[2]
        demand.taken_output += amounts[3]
        future: asyncio.Future[Grant] = self._timers.loop.create_future()
        waiter = self._line.enter(
            asking,
            amounts,
            weight=self.policy.weight(asking.tier),
            future=future,
            since=now,
            until=now + seconds * 1000.0,
            announce=announce,
        )
        self._turns.hurry(0.0)
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
            if self._line.leave(waiter):
                self._turns.hurry(LAZY_MS)

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
        self._granted.throttled += 1
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
        self._turns.hurry(0.0)

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
            self._turns.hurry(LAZY_MS)

    def state(self) -> dict[str, Any]:
        """How the pool stands, as this worker knows it, with what happened since this was last asked for.

        Shape: the member `quotas` of reports.
        """
        heard = None if self._now() - self._turns.last_at > STALE_MS else self._heard
        terms = self._terms.with_learned(self._learned)
        limits = {name: limit for name, limit in zip(QUOTA_RATES, terms.limits, strict=True) if limit is not None}
        if terms.concurrency is not None:
            limits[QUOTA_LIMITS[-1]] = terms.concurrency
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
            **self._granted.since_reported(),
        }

    # What comes and goes.

    def _begin(self, amounts: Amounts, asking: Asking, now: float, waited_ms: float) -> Grant:
        self.in_flight += 1
        self.vip_in_flight += asking.is_vip
        self._granted.granted += 1
        if waited_ms:
            self._granted.note_wait(waited_ms)
        return Grant(self, amounts, asking, now, waited_ms)

    def _end(self, grant: Grant) -> float:
        now = self._now()
        self.in_flight -= 1
        self.vip_in_flight -= grant.asking.is_vip
        within_ms = CLOSEST_MS if self._others_wait and self._terms.concurrency is not None else LAZY_MS
        if now + within_ms < self._turns.due:
            self._turns.hurry(within_ms)
        return now

    def _put_back(self, amounts: Amounts) -> None:
        for rate in RATES:
            self._settled[rate] += amounts[rate]

    def _drop_lease(self) -> None:
        self._put_back((self._lease[0], self._lease[1], self._lease[2], self._lease[3]))
        self._lease, self._lease_slots, self._lease_until = list(NOTHING), 0, -inf

    # Turns.

    async def _turn(self) -> None:
        came = await self._counterpart.turn(self._tell)
        if came is not None:
            heard, told_at = came
            self._hear(heard, told_at=told_at)

    def _tell(self) -> Telling:
        now = self._now()
        self._drop_lease()
        self._number += 1
        elapsed_ms = max(CLOSEST_MS, now - self._turns.last_at)
        wants, slots = self._demand.wants(elapsed_ms, lease_ms=self._terms.lease_ms)
        news = self._line.tell(now, is_owed=self._counterpart.is_away)
        told = Telling(
            number=self._number,
            entries=news.came,
            left=news.left,
            settled=(self._settled[0], self._settled[1], self._settled[2], self._settled[3]),
            in_flight=self.in_flight,
            vip_in_flight=self.vip_in_flight,
            held_ms=self._held_ms / self._held_count if self._held_count else 0.0,
            wants=wants,
            wants_slots=slots,
            pause_ms=self._pause_ms,
            learned=self._learned_news if self.policy.learn else {},
            places=news.places,
            is_back=self._is_back,
        )
        self._settled = list(NOTHING)
        self._held_ms, self._held_count = 0.0, 0
        self._pause_ms, self._learned_news = None, {}
        self._is_back = False
        self._turns.last_at = now
        return told

    def _hear(self, heard: Hearing, *, told_at: float) -> None:
        now = self._now()
        self._heard = heard
        self._bounded = [rate for rate, limit in enumerate(heard.limits) if limit is not None]
        self._paused_until = max(now + heard.paused_ms, self._paused_until if self._pause_ms is not None else -inf)
        for ticket in heard.granted:
            waiter, amounts = self._line.take(ticket)
            if waiter is None:
                self._put_back(amounts)
                continue
            grant = self._begin(amounts, waiter.asking, now, now - waiter.since)
            grant.position = 0 if waiter.first is None else waiter.first.position
            waiter.future.set_result(grant)
        self._line.forget_gone()
        if heard.is_new:
            self._line.tell_anew()
        if heard.slots and self._pause_ms is None:
            self._lease, self._lease_slots = list(heard.lease), heard.slots
            self._lease_until = told_at + self._terms.lease_ms
        self._others_wait = any(heard.waiting)
        self._turns.apart_ms = CLOSEST_MS if self._others_wait else 0.0
        for ticket, place in heard.places.items():
            if (late := self._line.place(ticket, place, now)) is not None:
                # Nobody is kept waiting for what they cannot have.
                late.future.set_exception(self._exhausted(late, allowed_seconds=(late.until - late.since) / 1000.0))
        self._plan(heard, now)

    def _plan(self, heard: Hearing, now: float) -> None:
        """When to come again, unless something happens before."""
        turns, line = self._turns, self._line
        if line.has_come or self._pause_ms is not None:
            turns.hurry(0.0)
        next_ms = line.next_ms(heard.places, now, told_at=turns.last_at)
        if line.waiters:
            # Half the time that is left, so that few turns go before the one that grants, and it comes soon. A pool of
            # its own has nobody else to empty its buckets.
            farthest = CLOSE_MS if self.is_alone else FARTHEST_MS
            turns.hurry(min(farthest, max(CLOSE_MS, next_ms / 2)))
        if self._lease_until > now:
            turns.hurry(self._lease_until - now)
        if line.has_left or any(self._settled):
            turns.hurry(LAZY_MS)
        if self.in_flight and self._terms.concurrency is not None:
            turns.hurry(ALIVE_MS)

    def _exhausted(self, waiter: Waiter, *, allowed_seconds: float) -> QuotaExhausted:
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
        if now < self._paused_until:
            # What the fleet knew of a pause holds here too.
            self._pause_ms = max(self._paused_until - now, self._pause_ms or 0.0)
        self._line.tell_anew()
        self._turns.hurry(0.0)

    def _come_back(self, heard: Hearing, told_at: float) -> None:
        log.warning("quota %r is shared with the fleet again", self.name)
        self._report(QuotaShared(at=self._wall(), pool=self.name))
        # Numbers went on meanwhile, so the next turn is a new one to the fleet.
        self._is_back = True
        self._line.return_to_fleet()
        self._hear(replace(heard, lease=NOTHING, slots=0), told_at=told_at)  # that lease is of long ago
        self._turns.hurry(0.0)

    def _now(self) -> float:
        return self._clock() * 1000.0


def _part_of(policy: QuotaPolicy) -> Terms:
    """What one worker keeps to by itself."""
    return Terms.of(policy, part=1.0 / policy.fleet_workers.value)
