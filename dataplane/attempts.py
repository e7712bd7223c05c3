"""Lanes in order of preference until one of them answers. Every attempt is judged, counted and billed exactly once,
however it ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from math import inf
from random import Random
from typing import Any, Final, Generic, Protocol, TypeVar

from dataplane.access import OURSELVES
from dataplane.aggregation import Aggregation
from dataplane.blame import Blame, blame_for, timed_out
from dataplane.breaker import Observation, Permit
from dataplane.errors import GatewayError
from dataplane.errors.admission import BreakerOpen, DeadlineExceeded, NoLaneLeft, QuotaExhausted
from dataplane.errors.upstream import UpstreamError, UpstreamRateLimited
from dataplane.fleet import FleetBreakers
from dataplane.journey import Attempt, Journey, attempt_id
from dataplane.policies import PREFERENCE, RetryPolicy, Steering
from dataplane.providers.base import Adapter, UpstreamCall
from dataplane.quota import BATCH
from dataplane.quota_desk import QuotaDesk
from dataplane.quota_grants import Asking, Grant
from dataplane.records import record
from dataplane.request_counts import RequestCounts
from dataplane.request_trace import BREAKER_REFUSED, QUOTA_EXHAUSTED, QUOTA_WAITED, RETRY_WAIT
from dataplane.retry import Next, RetryBudget, Situation, Step, next_step, region_share
from dataplane.routing import Lane
from dataplane.steering import Speeds, order_lanes
from dataplane.thresholds import Threshold
from dataplane.timers import Deadline
from dataplane.under_way import UnderWay

# How much longer than its limit a probe is leased, should this worker die with it.
LEASE_GRACE_SECONDS: Final = 5.0
ON_THIS_LANE: Final = Step(Next.AGAIN)
ON_THE_NEXT: Final = Step(Next.ELSEWHERE)

Answer = TypeVar("Answer")
Prepare = Callable[[Lane], tuple[UpstreamCall, Adapter]]
# An estimate of the tokens that a request sends to a lane, and how many it lets be generated; None: it does not say.
Size = Callable[[Lane], tuple[int, int | None]]
Make = Callable[[Attempt, UpstreamCall, Adapter], Awaitable[Answer]]


def _never() -> bool:
    return False


def _always(_: Lane) -> bool:
    return True


def _small(_: Lane) -> tuple[int, int | None]:
    return 16, 16


class _NotSent(Exception):
    """A lane was passed over before anything was sent: `refusal` says why. Never leaves this module."""

    def __init__(self, refusal: GatewayError) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


@record
class Work(Generic[Answer]):
    """What is attempted until it is answered.

    Attributes:
        prepare: Builds the call for a lane; nothing is sent yet. A lane for which that is refused is passed over.
        make: Makes one attempt.
        deadline: Bounds all attempts together; an attempt that it cancels ends with DeadlineExceeded.
        deadline_ms: How long that was to begin with, in milliseconds.
        fits: Whether a lane can carry the request. The first of its lanes is known to; the others are asked about when
            it has failed. One that cannot is none of the request's lanes.
        is_committed: Whether the caller has been told anything; from then on there is no other attempt.
        policy: None: every lane once.
        is_repeatable: See `retry.is_repeatable`.
        limit: How long one attempt may take to show that it works, in seconds; so long a probe is leased.
        has_fallback: Whether something is left when every lane is held back. If nothing is, the lane that will be tried
            again first is tried now, whatever its breaker says: a failure is no worse than none.
        size: What the request takes of a lane's quota.
        operation: What is attempted, as traces call it: chat or embeddings.
    """

    prepare: Prepare
    make: Make[Answer]
    deadline: Deadline
    deadline_ms: float
    fits: Callable[[Lane], bool] = _always
    is_committed: Callable[[], bool] = _never
    policy: RetryPolicy | None = None
    is_repeatable: bool = True
    limit: Threshold | None = None
    has_fallback: bool = True
    size: Size = _small
    operation: str = "chat"


@record
class _Admission:
    """What an attempt holds while it is made: the permit of its breaker, and a part of its account's quota."""

    permit: Permit | None
    grant: Grant | None


class _PassedOver:
    """Why the lanes of one request were not tried."""

    __slots__ = ("held_back", "hurried", "refusal", "short")

    def __init__(self) -> None:
        self.held_back: dict[str, BreakerOpen] = {}
        self.short: dict[str, QuotaExhausted] = {}
        # Those of `short` that were not waited for in earnest, since others were left.
        self.hurried: list[Lane] = []
        self.refusal: GatewayError | None = None


class UsageSink(Protocol):
    """Where usage rows go, such as `ReportShipper`."""

    def add_usage(self, row: Mapping[str, Any]) -> None:
        """Take over one row; must not wait."""


class Attempts:
    """Makes the attempts of all requests of a process."""

    def __init__(
        self,
        *,
        breakers: FleetBreakers,
        quotas: QuotaDesk,
        aggregation: Aggregation,
        usage: UsageSink,
        region: str,
        clock: Callable[[], float],
        wall: Callable[[], float],
        seen: Callable[[str, Blame], None] | None = None,
        counts: RequestCounts | None = None,
        under_way: UnderWay | None = None,
        rng: Random | None = None,
    ) -> None:
        """`clock` is monotonic seconds, `wall` epoch seconds. `seen` is told of each attempt at a lane that customers
        use, and who is answerable for how it ended; it must not wait. `counts` counts every attempt but evals'.
        `under_way` sees to it that the process cannot take an attempt with it that nobody bills.
        """
        self._breakers = breakers
        self._quotas = quotas
        self._aggregation = aggregation
        self._usage = usage
        self._clock = clock
        self._wall = wall
        self._seen = seen
        self._counts = counts
        self._under_way = under_way
        self._rng = rng or Random()  # noqa: S311 - spreads load, guards nothing
        self._floor_share = region_share(region)
        # By lane, and whether evals ask: what they spend is not to be missing where customers' attempts fail.
        self._budgets: dict[tuple[str, bool], RetryBudget] = {}
        self._speeds = Speeds()

    def in_order(self, lanes: tuple[Lane, ...], steering: Steering) -> tuple[Lane, ...]:
        """Return `lanes`, which the request may all reach, in the order in which it tries them now."""
        if steering.by == PREFERENCE:
            return lanes
        return order_lanes(lanes, steering, speeds=self._speeds, now=self._clock(), rng=self._rng)

    def waits_ms(self, lanes: Iterable[str]) -> dict[str, float | None]:
        """How long callers of each lane waited lately, in milliseconds: see `steering.Speeds`."""
        now = self._clock()
        return {lane: self._speeds.wait_ms(lane, now=now) for lane in lanes}

    async def until_answered(self, journey: Journey, lanes: Sequence[Lane], work: Work[Answer]) -> Answer:
        """Try `lanes` in order, each as often as the work's policy says, and return the first answer.

        Raises:
            NoLaneLeft: every lane is held back by its breaker, or by an operator.
            QuotaExhausted: every other lane's account has nothing left that the request could wait for.
            GatewayError: what the last attempt failed with; else why no lane could carry the request.
        """
        passed_over = _PassedOver()
        failure: GatewayError | None = None
        for place, lane in enumerate(lanes):
            if place and not work.fits(lane):
                continue
            others = lanes[place + 1 :]
            on_lane = 0
            step = ON_THIS_LANE
            while step.what is Next.AGAIN:
                if step.wait_seconds:
                    journey.stage = "waiting to try again"
                    if journey.trace is not None:
                        journey.trace.note(
                            RETRY_WAIT, {"ballast.lane": lane.id, "ballast.wait_seconds": step.wait_seconds}
                        )
                    await asyncio.sleep(step.wait_seconds)
                step = ON_THE_NEXT
                admission = await self._admit(journey, lane, work, others, passed_over)
                if admission is None:
                    break
                on_lane += 1
                if on_lane == 1 and work.policy is not None:
                    self._budget(lane, journey).pay_in(work.policy.budget_share.value)
                try:
                    return await self._once(journey, lane, admission, work)
                except _NotSent as not_sent:
                    passed_over.refusal = passed_over.refusal or not_sent.refusal
                except GatewayError as exc:
                    failure = exc
                    step = self._after(exc, journey, work, others, lane, on_lane)
        if failure is not None:
            raise failure
        return await self._with_none_left(journey, lanes, work, passed_over)

    async def _admit(
        self, journey: Journey, lane: Lane, work: Work[Answer], others: Sequence[Lane], passed_over: _PassedOver
    ) -> _Admission | None:
        """Get what an attempt on `lane` must have beforehand, or note why it has to be passed over."""
        grant: Grant | None = None
        try:
            permit = self._permit(journey, lane)
            if lane.quota is not None:
                asking = _asking(journey, work.size(lane))
                grant = self._quotas.take_nowait(lane, asking)
                if grant is None:
                    self._breakers.give_back(permit)  # nobody is kept from the lane by somebody who waits
                    others_left = any(map(work.fits, others))
                    if others_left:
                        passed_over.hurried.append(lane)
                    grant = await self._wait(journey, lane, asking, _may_wait(journey, lane, others_left, work))
                    permit = self._permit(journey, lane)
            if permit is not None and permit.is_probe:
                await self._lease(permit, lane, work)
        except QuotaExhausted as exc:
            passed_over.short[lane.id] = exc
            if journey.trace is not None:
                journey.trace.note(QUOTA_EXHAUSTED, {"ballast.lane": lane.id, "ballast.account": lane.account})
            return None
        except BaseException as exc:
            if grant is not None:
                grant.give_back()
            if not isinstance(exc, BreakerOpen):
                raise
            passed_over.held_back[lane.id] = exc
            if journey.trace is not None:
                journey.trace.note(BREAKER_REFUSED, {"ballast.lane": lane.id})
            return None
        return _Admission(permit, grant)

    def _after(
        self,
        failure: GatewayError,
        journey: Journey,
        work: Work[Answer],
        others: Sequence[Lane],
        lane: Lane,
        on_lane: int,
    ) -> Step:
        """Where to go on after a failure; raises it where there is no going on."""
        if work.is_committed():
            raise failure
        lanes_left = sum(map(work.fits, others))
        situation = Situation(journey.tries, on_lane, lanes_left, work.deadline.remaining_seconds, work.is_repeatable)
        step = next_step(
            failure,
            situation,
            policy=work.policy,
            budget=self._budget(lane, journey),
            floor_share=self._floor_share,
            rng=self._rng,
        )
        if step.what is Next.STOP:
            if isinstance(failure, UpstreamError) and not work.is_repeatable and failure.sent:
                failure.is_repeatable = False
            raise failure
        return step

    async def _with_none_left(
        self, journey: Journey, lanes: Sequence[Lane], work: Work[Answer], passed_over: _PassedOver
    ) -> Answer:
        """What can still be done when every lane was passed over; raises why nothing can."""
        short, held_back, refusal = passed_over.short, passed_over.held_back, passed_over.refusal
        if short:
            best = _shortest([lane for lane in passed_over.hurried if lane.id in short], short)
            if best is None:
                raise min(short.values(), key=_eta)
            # As long as another lane was left, none was waited for in earnest.
            return await self.until_answered(journey, [best], work)
        if held_back and not work.has_fallback and (last := self._breakers.last_resort(held_back)) is not None:
            lane = next(lane for lane in lanes if lane.id == last)
            grant = None
            if lane.quota is not None:
                asking = _asking(journey, work.size(lane))
                grant = self._quotas.take_nowait(lane, asking) or await self._wait(
                    journey, lane, asking, _may_wait(journey, lane, False, work)
                )
            try:
                return await self._once(journey, lane, _Admission(None, grant), work)
            except _NotSent as exc:
                refusal = refusal or exc.refusal
        if refusal is not None and not held_back:
            raise refusal
        # A lane that is held back might have carried what this one could not, so it is no mistake of the caller's.
        raise NoLaneLeft(journey.route, held_back=held_back) from refusal

    async def _once(self, journey: Journey, lane: Lane, admission: _Admission, work: Work[Answer]) -> Answer:
        """Make one attempt, judge it and record it.

        Raises:
            _NotSent: the call could not be built.
            GatewayError: what the attempt failed with.
        """
        attempt: Attempt | None = None
        try:
            try:
                call, adapter = work.prepare(lane)
            except GatewayError as exc:
                raise _NotSent(exc) from exc
            attempt = journey.begin_attempt(lane, now=self._clock())
            if journey.trace is not None:
                attempt.trace = journey.trace.begin_attempt(journey, attempt, operation=work.operation)
                call = replace(call, traceparent=attempt.trace.traceparent)
            if self._under_way is not None:
                attempt.slot = self._under_way.begin(journey, attempt, sent_bytes=len(call.body), at=self._wall())
            answer = await work.make(attempt, call, adapter)
            attempt.outcome = "ok"
            return answer
        except GatewayError as exc:
            if attempt is not None:
                attempt.fail(exc)
            raise
        except BaseException:
            if attempt is not None and not attempt.outcome:
                if work.deadline.expired:
                    attempt.fail(DeadlineExceeded(deadline_ms=work.deadline_ms, stage=journey.stage))
                else:
                    attempt.outcome = "cancelled"
            raise
        finally:
            if attempt is None:
                self._breakers.give_back(admission.permit)
                if admission.grant is not None:
                    admission.grant.give_back()
            else:
                self._finish(journey, attempt, admission)

    async def _wait(self, journey: Journey, lane: Lane, asking: Asking, seconds: float) -> Grant:
        """Wait for the quota of the lane's account, and say so to whoever asks where the request is."""
        journey.stage = f"waiting for the quota of account {lane.account!r}"
        announce = journey.inbound.announce if journey.stream else None
        grant = await self._quotas.wait(lane, asking, seconds=seconds, announce=announce)
        if grant.position:
            journey.queue_position = journey.queue_position or grant.position
            journey.queued_ms += grant.waited_ms
            if journey.trace is not None:
                journey.trace.note(
                    QUOTA_WAITED,
                    {
                        "ballast.account": lane.account,
                        "ballast.queue.position": grant.position,
                        "ballast.queue.waited_ms": grant.waited_ms,
                    },
                )
        return grant

    async def _lease(self, permit: Permit, lane: Lane, work: Work[Answer]) -> None:
        """Ask the fleet for a probe, for as long as it takes the lane to show whether it works."""
        seconds = lane.first_byte_timeout_seconds if work.limit is None else work.limit.value
        try:
            await self._breakers.lease(permit, ttl_seconds=min(seconds, work.deadline_ms / 1000) + LEASE_GRACE_SECONDS)
        except BaseException:
            self._breakers.give_back(permit)
            raise

    def _permit(self, journey: Journey, lane: Lane) -> Permit | None:
        """Leave of the lane's breaker, if it has one."""
        return self._breakers.acquire_nowait(lane.id) if journey.is_customers(lane) else None

    def _budget(self, lane: Lane, journey: Journey) -> RetryBudget:
        whose = lane.id, journey.is_eval
        budget = self._budgets.get(whose)
        if budget is None:
            budget = self._budgets[whose] = RetryBudget()
        return budget

    def _finish(self, journey: Journey, attempt: Attempt, admission: _Admission) -> None:
        # No await in here: a cancelled task still runs it to the end, once.
        permit, grant = admission.permit, admission.grant
        attempt.ended = now = self._clock()
        lane, error, ttft_ms = attempt.lane, attempt.error, attempt.ttft_ms
        latency_ms, tokens_per_second = attempt.latency_ms, attempt.tokens_per_second
        if attempt.outcome == "ok":
            blame = Blame.NOBODY
            if not journey.is_eval:
                self._speeds.add(lane.id, latency_ms if ttft_ms is None else ttft_ms, now=now)
        else:
            blame = Blame.CALLER if error is None else blame_for(error)
        is_late = timed_out(error)
        if permit is not None:
            self._breakers.record(permit, Observation(blame, is_late, latency_ms, ttft_ms, tokens_per_second))
        if self._seen is not None and journey.is_customers(lane):
            self._seen(lane.id, blame)
        billed = attempt.billed()
        if isinstance(error, UpstreamRateLimited) and journey.is_customers(lane):
            self._quotas.refused(lane, error)
        if grant is not None:
            if attempt.sent_bytes:
                grant.settle(billed, is_complete=attempt.outcome == "ok")
            else:
                grant.give_back()
        cost_micros = lane.cost_micros(input_tokens=billed.input_tokens, output_tokens=billed.output_tokens)
        attempt.cost_micros = cost_micros
        if self._counts is not None and not journey.is_eval:  # nobody's customers, perhaps at lanes of their own
            self._counts.count_attempt(
                lane.id,
                kind=attempt.kind,
                outcome=attempt.outcome,
                seconds=latency_ms / 1000,
                input_tokens=billed.input_tokens,
                output_tokens=billed.output_tokens,
                cost_micros=cost_micros,
            )
        if attempt.trace is not None:
            attempt.trace.end(attempt, billed)
        series = journey.series(lane.id)
        if series is not None:
            self._aggregation.record_attempt(
                series,
                failed=blame is Blame.LANE,
                timed_out=is_late,
                throttled=blame is Blame.QUOTA,
                latency_ms=latency_ms,
                ttft_ms=ttft_ms,
                tokens_per_second=tokens_per_second,
                input_tokens=billed.input_tokens,
                output_tokens=billed.output_tokens,
                cost_micros=cost_micros,
            )
        if attempt.sent_bytes:
            name = attempt_id(journey, attempt)
            self._usage.add_usage(
                journey.usage_row(attempt, billed, cost_micros=cost_micros, attempt_id=name, at=self._wall())
            )
        if self._under_way is not None:
            self._under_way.end(attempt.slot)


def _asking(journey: Journey, size: tuple[int, int | None]) -> Asking:
    tenant = journey.tenant or OURSELVES
    return Asking(tenant.slug, tenant.tier, journey.workload, *size)


def _may_wait(journey: Journey, lane: Lane, others_left: bool, work: Work[Any]) -> float:
    """How long a request may wait for a lane's quota, in seconds. Batch work has nowhere else to be: what others could
    go on with, it leaves to them.
    """
    least_seconds = 0.0 if work.policy is None else work.policy.least_seconds.value
    left = max(0.0, work.deadline.remaining_seconds - least_seconds)
    if journey.workload == BATCH or lane.quota is None:
        return left
    return min(left, (lane.quota.spill_seconds if others_left else lane.quota.max_wait_seconds).value)


def _eta(error: QuotaExhausted) -> float:
    return inf if error.eta_seconds is None else error.eta_seconds


def _shortest(lanes: Sequence[Lane], short: Mapping[str, QuotaExhausted]) -> Lane | None:
    return min(lanes, key=lambda lane: _eta(short[lane.id]), default=None)
