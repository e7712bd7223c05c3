"""Asks again what gateways hand over, as long as each policy lets it, and compares what comes back.

One call for each request and arm: no second attempt, no other lane, nothing that a caller could see. What there is no
room for is discarded; nothing is asked that was not reserved of the day's budget before.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, Protocol

from dataplane.access import Tenant
from dataplane.attempts import UsageSink
from dataplane.blame import Blame, blame_for, timed_out
from dataplane.breaker import Observation, Permit
from dataplane.chat import Chat
from dataplane.errors import GatewayError
from dataplane.errors.admission import BreakerOpen, DeadlineExceeded, QuotaExhausted
from dataplane.errors.upstream import UpstreamRateLimited
from dataplane.events import Event, ShadowKilled, ShadowPaused, ShadowResumed
from dataplane.fleet import FleetBreakers
from dataplane.journey import Attempt, Inbound, Journey
from dataplane.lane_caller import LaneCaller
from dataplane.lane_fit import LaneFit, asked_output
from dataplane.messages import ChatResponse
from dataplane.quota import BATCH
from dataplane.quota_desk import QuotaDesk
from dataplane.quota_grants import Asking, Grant
from dataplane.records import record
from dataplane.release import Release
from dataplane.request_trace import ShadowTrace, ShadowTracer
from dataplane.routing import Lane
from dataplane.shadow.budget import day_of, reservation, used
from dataplane.shadow.budget_desk import BudgetDesk, Reservation, Unknown
from dataplane.shadow.choosing import HOSTED_TOOLS, choose, question_of
from dataplane.shadow.comparing import Comparing, sample_of
from dataplane.shadow.counting import CANDIDATE, NOISE, ShadowCounting, ShadowSeries
from dataplane.shadow.offers import Given, MalformedOffer, Offer
from dataplane.shadow.policy import ShadowPolicy
from dataplane.shadow.switch import Call, Cause, Move, State, Switch
from dataplane.stores.shadow_budget import Killed, ShadowStore, Spent
from dataplane.timers import TimerWheel
from dataplane.under_way import UnderWay

log = logging.getLogger("ballast.shadow")

SHADOW: Final = "shadow"
LOOK_SECONDS: Final = 1.0
# Of one policy, at one process.
SAMPLE_SECONDS: Final = 5.0
SUFFIXES: Final = {CANDIDATE: "s", NOISE: "n"}

# Why a request is not asked again, beside what `choosing` says.
OTHER_POLICY, KILLED, PAUSED, FULL, UNKNOWN_TENANT = (
    "other_policy",
    "killed",
    "paused",
    "worker_queue_full",
    "unknown_tenant",
)
SPENT, HELD, NO_BUDGET, BREAKER, QUOTA, NOT_SENT, STOPPED, BROKEN = (
    "budget_spent",
    "budget_held",
    "budget_unknown",
    "breaker_open",
    "quota",
    "not_sent",
    "stopped",
    "broken",
)


class Reports(UsageSink, Protocol):
    """Where what happened is told, such as `ReportShipper`, which sees to what is under way as well."""

    @property
    def under_way(self) -> UnderWay | None:
        """What sees to it that no attempt goes with the process; None: nothing does."""

    def add_event(self, event: Event) -> None:
        """Take over an event; must not wait."""

    def add_shadow_sample(self, row: Mapping[str, Any]) -> None:
        """Take over a comparison that is kept as a sample; must not wait."""


class _Discard(Exception):
    """A request is not asked again, for the reason that `args` names. Never leaves this module."""


@record
class _Job:
    """One call to make: of candidates, or of control once more. `taken_at` is monotonic seconds."""

    offer: Offer
    arm: str
    taken_at: float


class _Line:
    """What waits and what is asked under one policy. Plain attributes, one event loop."""

    def __init__(self, policy: ShadowPolicy) -> None:
        self.policy = policy
        self.switch = Switch(policy)
        self.waiting: deque[_Job] = deque()
        self.running: set[asyncio.Task[None]] = set()
        self.sample_at = 0.0


@record
class _Question:
    """One call as it is about to be made. `tenant` is who pays for it."""

    job: _Job
    series: ShadowSeries
    tenant: Tenant
    lane: Lane
    chat: Chat


class ShadowWorker:
    """See the module. One per process, on its event loop."""

    def __init__(
        self,
        *,
        caller: LaneCaller,
        breakers: FleetBreakers,
        quotas: QuotaDesk,
        store: ShadowStore | None,
        counting: ShadowCounting,
        reports: Reports,
        timers: TimerWheel,
        clock: Callable[[], float],
        wall: Callable[[], float],
        look_seconds: float = LOOK_SECONDS,
        tracer: ShadowTracer | None = None,
    ) -> None:
        """Without a `store`, nothing is asked, and without a `tracer` nothing traced. `clock` is monotonic seconds,
        `wall` epoch seconds.
        """
        self._caller = caller
        self._breakers = breakers
        self._quotas = quotas
        self._budgets = BudgetDesk(store)
        self._comparing = Comparing()
        self._counting = counting
        self._reports = reports
        self._timers = timers
        self._clock = clock
        self._wall = wall
        self._look_seconds = look_seconds
        self._tracer = tracer
        self._release: Release | None = None
        self._lines: dict[str, _Line] = {}
        self._retired: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None

    @property
    def in_flight(self) -> int:
        """How many calls are under way."""
        return sum(len(line.running) for line in list(self._lines.values())) + len(self._retired)

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return sum(len(line.waiting) for line in list(self._lines.values()))

    @property
    def lag_seconds(self) -> float:
        """How long the oldest call that waits has waited."""
        # Others may look, from threads of theirs: what is waited for first may just have gone.
        firsts = [one for line in list(self._lines.values()) for one in list(line.waiting)[:1]]
        return max((self._clock() - one.taken_at for one in firsts), default=0.0)

    def state_of(self, policy: str) -> State | None:
        """How the shadow of a policy stands; None: there is no such policy."""
        line = self._lines.get(policy)
        return None if line is None else line.switch.state

    def adopt(self, release: Release) -> None:
        """Follow another release. A policy that has changed begins anew; what waits under the old one is discarded."""
        self._release = release
        lines: dict[str, _Line] = {}
        for slug, policy in release.routing.shadows.items():
            known = self._lines.get(slug)
            if known is not None and known.policy.digest == policy.digest:
                known.policy = policy
                lines[slug] = self._lines.pop(slug)
            else:
                lines[slug] = _Line(policy)
        for line in self._lines.values():
            self._discard_waiting(line, OTHER_POLICY)
            self._retired |= line.running
            for task in line.running:
                task.add_done_callback(self._retired.discard)
        self._lines = lines
        self._wake.set()

    async def start(self) -> None:
        """Begin to look after the fleet's word."""
        self._looking = asyncio.create_task(self._look_regularly(), name="look-after-shadows")

    async def stop(self) -> None:
        """Give up what is under way, and settle what it took."""
        tasks = [*self._retired, *(task for line in self._lines.values() for task in line.running)]
        for line in self._lines.values():
            self._discard_waiting(line, STOPPED)
        for task in (*tasks, *filter(None, (self._looking,))):
            task.cancel()
        await asyncio.gather(*tasks, *filter(None, (self._looking,)), return_exceptions=True)
        self._looking = None
        try:
            await self.look()
        finally:
            await self._budgets.close()

    def take(self, data: bytes) -> None:
        """Take what a gateway hands over; never waits."""
        try:
            offer = Offer.from_bytes(data)
        except MalformedOffer as exc:
            log.warning("something that a gateway handed over cannot be read: %s", exc)
            return
        now = self._clock()
        self._enqueue(_Job(offer, CANDIDATE, now))
        if offer.is_noise:
            self._enqueue(_Job(offer, NOISE, now))

    async def settle_all(self) -> None:
        """Wait until nothing waits or runs."""
        while tasks := [task for line in self._lines.values() for task in line.running]:
            await asyncio.wait(tasks)

    def _enqueue(self, job: _Job) -> None:
        offer = job.offer
        line = self._lines.get(offer.policy)
        if line is None or line.policy.digest != offer.digest:
            self._discard(job, OTHER_POLICY)
        elif line.switch.state is not State.RUNNING:
            self._discard(job, _standing(line))
        elif len(line.running) < int(line.policy.max_in_flight.value):
            task = asyncio.create_task(self._work(line, job))
            line.running.add(task)
            task.add_done_callback(line.running.discard)
        elif len(line.waiting) < int(line.policy.queue.value):
            line.waiting.append(job)
        else:
            self._discard(job, FULL)

    async def _work(self, line: _Line, job: _Job) -> None:
        """Do one job after the other until none waits."""
        while True:
            try:
                await self._ask(line, job)
            except _Discard as exc:
                self._discard(job, str(exc))
            except Exception:  # the next is another's
                log.exception("request %s could not be asked again", job.offer.request_id)
                self._discard(job, BROKEN)
            if not line.waiting:
                return
            job = line.waiting.popleft()

    async def _ask(self, line: _Line, job: _Job) -> None:
        if line.switch.state is not State.RUNNING:
            raise _Discard(_standing(line))
        question = self._question(line, job)
        permit, grant = None, None
        try:
            permit = self._breakers.acquire_nowait(question.lane.id)
            grant = await self._grant(line, question)
            await self._call(line, question, permit, grant)
        except (BreakerOpen, QuotaExhausted, _Discard) as exc:
            self._breakers.give_back(permit)
            if grant is not None:
                grant.give_back()
            if isinstance(exc, _Discard):
                raise
            raise _Discard(BREAKER if isinstance(exc, BreakerOpen) else QUOTA) from exc
        except BaseException:
            self._breakers.give_back(permit)
            if grant is not None:
                grant.give_back()
            raise

    def _question(self, line: _Line, job: _Job) -> _Question:
        """Decide whom to ask, by the release that is served here now."""
        release, offer = self._release, job.offer
        route = None if release is None else release.routing.routes.get(offer.route)
        if release is None or route is None or route.shadow is None or route.shadow.digest != line.policy.digest:
            raise _Discard(OTHER_POLICY)
        tenant = release.access.tenants.get(offer.tenant)
        if tenant is None:
            raise _Discard(UNKNOWN_TENANT)
        request = question_of(offer.request)
        if request is None:
            raise _Discard(HOSTED_TOOLS)
        fit = LaneFit(request, providers=release.routing.providers)
        lanes = release.routing.lanes
        names, model = line.policy.lanes, None
        if job.arm == NOISE:
            control = lanes.get(offer.given.lane)
            names, model = line.policy.noise_lanes, "" if control is None else control.model
        lane = choose(
            [lanes[name] for name in names],
            request,
            route,
            fit,
            # The gateway may have served another release: nothing goes where either of the two forbids.
            pins=(tenant.residency, offer.residency),
            model=model,
        )
        if isinstance(lane, str):
            raise _Discard(lane)
        series = ShadowSeries(line.policy.slug, line.policy.digest, route.slug, job.arm, lane.id)
        return _Question(job, series, tenant, lane, Chat(request, release, route, fit, True))

    async def _grant(self, line: _Line, question: _Question) -> Grant | None:
        """Leave of the lane's quota, which is the shadow's own; whoever waits for it keeps nobody waiting."""
        lane, tenant = question.lane, question.tenant
        if lane.quota is None:
            return None
        size = question.chat.fit.estimated_tokens, asked_output(question.chat.request, lane)
        asking = Asking(tenant.slug, tenant.tier, BATCH, *size)
        waited = line.policy.deadline_ms.value / 1000
        return self._quotas.take_nowait(lane, asking) or await self._quotas.wait(lane, asking, seconds=waited)

    async def _call(self, line: _Line, question: _Question, permit: Permit | None, grant: Grant | None) -> None:
        """Make the call, and see to all that follows from it."""
        lane, chat = question.lane, question.chat
        try:
            account, adapter, secret = self._caller.access(chat.release, lane)
            told = chat.told(chat.request, lane)
            call = adapter.chat_call(told, lane=lane, account=account, secret=secret)
        except GatewayError as exc:
            log.info("request %s cannot be asked of %s: %s", question.job.offer.request_id, lane.id, exc)
            raise _Discard(NOT_SENT) from exc
        reserved = await self._reserve(line, question, sent_bytes=len(call.body))
        attempt = Attempt(lane, number=1, kind=SHADOW, cause="", started=self._clock())
        trace = self._trace(question, attempt)
        if trace is not None:
            call = replace(call, traceparent=trace.traceparent)
        under_way = self._reports.under_way
        if under_way is not None:
            attempt.slot = under_way.begin(
                self._journey(question, attempt),
                attempt,
                sent_bytes=len(call.body),
                at=self._wall(),
                name=_attempt_id(question.job),
            )
        deadline_ms = line.policy.deadline_ms.value
        response: ChatResponse | None = None
        try:
            with self._timers.deadline(deadline_ms / 1000):
                response = await self._caller.chat(attempt, call, adapter, told)
            attempt.outcome = "ok"
        except GatewayError as exc:
            attempt.fail(exc)
        except TimeoutError:
            attempt.fail(DeadlineExceeded(deadline_ms=deadline_ms, stage="a shadow's call"))
        except BaseException:
            attempt.outcome = "cancelled"
            raise
        finally:
            # No await in here: a cancelled task still runs it to the end, once.
            attempt.ended = self._clock()
            self._finish(line, question, attempt, permit, grant, trace)
            self._budgets.settle_nowait(reserved, used(attempt.billed(), lane))
        await self._budgets.settle()
        if response is not None:
            self._compare(line, question, attempt, response)

    async def _reserve(self, line: _Line, question: _Question, *, sent_bytes: int) -> Reservation:
        """Set aside what the call may take, or raise _Discard."""
        day = day_of(self._wall())
        amounts = reservation(question.chat.request, question.lane, sent_bytes=sent_bytes)
        said = await self._budgets.reserve(line.policy, amounts, day=day)
        match said:
            case Reservation():
                return said
            case Unknown():
                raise _Discard(NO_BUDGET)
            case Killed():
                self._moved(line, line.switch.hear(said.reason))
                raise _Discard(KILLED)
            case Spent():
                if not said.is_used:
                    raise _Discard(HELD)
                self._moved(line, line.switch.spend(said.budget, day=day))
                raise _Discard(SPENT)

    def _trace(self, question: _Question, attempt: Attempt) -> ShadowTrace | None:
        """The call as a trace, linked to its request's."""
        offer, series = question.job.offer, question.series
        if self._tracer is None or not offer.traceparent:
            return None
        return self._tracer.begin(
            attempt,
            release=question.chat.release,
            traceparent=offer.traceparent,
            policy=series.policy,
            arm=series.arm,
            request_id=offer.request_id,
            name=_attempt_id(question.job),
        )

    def _finish(
        self,
        line: _Line,
        question: _Question,
        attempt: Attempt,
        permit: Permit | None,
        grant: Grant | None,
        trace: ShadowTrace | None,
    ) -> None:
        """Judge a call, count it, bill it."""
        lane, error, job = question.lane, attempt.error, question.job
        billed = attempt.billed()
        attempt.cost_micros = lane.cost_micros(input_tokens=billed.input_tokens, output_tokens=billed.output_tokens)
        is_answer = attempt.outcome == "ok"
        blame = Blame.NOBODY if is_answer else Blame.CALLER if error is None else blame_for(error)
        self._breakers.record(permit, Observation(blame, timed_out(error), attempt.latency_ms))
        if isinstance(error, UpstreamRateLimited):
            self._quotas.refused(lane, error)
        if grant is not None:
            grant.settle(billed, is_complete=is_answer)
        self._counting.ask(
            question.series,
            input_tokens=billed.input_tokens,
            output_tokens=billed.output_tokens,
            cost_micros=attempt.cost_micros,
            failure="" if is_answer else attempt.outcome,
        )
        if trace is not None:
            trace.end(attempt, billed)
        if attempt.sent_bytes:
            row = self._usage_row(question, attempt)
            if trace is not None:
                row["trace_id"] = trace.trace_id
            self._reports.add_usage(row)
        if self._reports.under_way is not None:
            self._reports.under_way.end(attempt.slot)
        if job.arm == CANDIDATE and attempt.outcome != "cancelled":
            call = Call(not is_answer, attempt.cost_micros, job.offer.given.cost_micros)
            self._moved(line, line.switch.record(call))

    def _usage_row(self, question: _Question, attempt: Attempt) -> dict[str, Any]:
        """What is billed to the tenant, beside what its request was billed: see `Journey.usage_row`."""
        return self._journey(question, attempt).usage_row(
            attempt,
            attempt.billed(),
            cost_micros=attempt.cost_micros,
            attempt_id=_attempt_id(question.job),
            at=self._wall(),
        )

    def _journey(self, question: _Question, attempt: Attempt) -> Journey:
        """The call as the bill knows requests."""
        offer = question.job.offer
        journey = Journey(Inbound(offer.request_id, b"", attempt.started))
        journey.tenant, journey.key_id, journey.route = question.tenant, offer.key_id, offer.route
        prompt = question.chat.release.prompts.get(offer.prompt)
        journey.prompt_version = None if prompt is None else prompt.versions.get(offer.version)
        return journey

    def _compare(self, line: _Line, question: _Question, attempt: Attempt, response: ChatResponse) -> None:
        offer = question.job.offer
        shadow = Given(
            lane=question.lane.id,
            text=response.text or response.refusal or "",
            tool_calls=tuple((call.name, call.arguments) for call in response.tool_calls),
            finish_reason=response.finish_reason,
            refused=response.refused,
            cost_micros=attempt.cost_micros,
            latency_ms=attempt.latency_ms,
        )
        found = self._comparing.compare(question.chat, offer.given, shadow)
        self._counting.compare(question.series, found)
        now = self._clock()
        if now < line.sample_at:
            return
        line.sample_at = now + SAMPLE_SECONDS
        may_keep = question.tenant.log_content and offer.log_content
        words = question.chat.question
        self._reports.add_shadow_sample(
            sample_of(offer, question.series, shadow, found, question=words, may_keep=may_keep, at=self._wall())
        )

    # What the fleet is told, and says.

    async def look(self) -> None:
        """Tell the fleet what it is yet to hear, and hear what it says. The regular turn does only this."""
        day = day_of(self._wall())
        for line in self._lines.values():
            self._moved(line, line.switch.look(day=day))
        await self._breakers.exchange()
        await self._budgets.settle()
        lines = {line.policy.digest: line for line in self._lines.values()}
        for digest, move in await self._budgets.exchange([(digest, line.switch) for digest, line in lines.items()]):
            self._moved(lines[digest], move)

    async def _look_regularly(self) -> None:
        while True:
            try:
                await self.look()
            except Exception:  # shadows must outlive their own mistakes
                log.exception("shadows could not be looked after")
            try:
                async with asyncio.timeout(self._look_seconds):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    def _moved(self, line: _Line, move: Move | None) -> None:
        """Act on a step of a policy's switch."""
        if move is None:
            return
        policy, at = line.policy, self._wall()
        log.warning("shadow %r is %s: %s %s", policy.slug, move.after.value, move.cause.value, move.measured)
        if move.after is not State.RUNNING:
            self._discard_waiting(line, _standing(line))
        if move.cause in (Cause.FAILURES, Cause.COST):
            self._reports.add_event(
                ShadowKilled(
                    at=at, policy=policy.slug, digest=policy.digest, cause=move.cause.value, measured=move.measured
                )
            )
            self._wake.set()
        elif move.cause is Cause.BUDGET:
            self._reports.add_event(
                ShadowPaused(at=at, policy=policy.slug, digest=policy.digest, measured=move.measured)
            )
        elif move.after is State.RUNNING:
            self._reports.add_event(
                ShadowResumed(at=at, policy=policy.slug, digest=policy.digest, cause=move.cause.value)
            )

    def _discard_waiting(self, line: _Line, reason: str) -> None:
        while line.waiting:
            self._discard(line.waiting.popleft(), reason)

    def _discard(self, job: _Job, reason: str) -> None:
        offer = job.offer
        self._counting.discard(ShadowSeries(offer.policy, offer.digest, offer.route, job.arm, ""), reason)


def _attempt_id(job: _Job) -> str:
    return f"{job.offer.request_id.removeprefix('req_')}-{SUFFIXES[job.arm]}"


def _standing(line: _Line) -> str:
    """Why nothing is asked under a policy that does not run."""
    return KILLED if line.switch.state is State.KILLED else PAUSED
