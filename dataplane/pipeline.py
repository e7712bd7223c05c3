"""The life of one request, top to bottom. This is the only place that orders the policies.

    authenticate -> prompt and cohort -> route -> quota, breaker and attempt, lane by lane -> stream or answer
    -> measure -> repair and validate -> respond, from signed copy if no lane could answer -> record -> shadow

The edge (`gateway.py`) reads HTTP and cancels the task when the caller leaves; the deciders say what should happen;
this module only says in which order, and makes sure that whatever happens is recorded exactly once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final, Protocol

from dataplane.access import ApiKey, Tenant, key_digest
from dataplane.aggregation import Aggregation
from dataplane.asides import Asides
from dataplane.attempts import Attempts, Work
from dataplane.chat import Chat, chat_needs
from dataplane.cohorts import Arm, Assignment, CanaryPlan, assign
from dataplane.continuation import why_not
from dataplane.copy_desk import CopyDesk
from dataplane.cursors import CursorKeys
from dataplane.envelope import JSON_TYPE
from dataplane.errors import (
    DeadlineExceeded,
    GatewayError,
    IdempotencyUnavailable,
    InvalidRequest,
    JobTokenRefused,
    NoRelease,
    StreamNotContinuable,
    Unauthorized,
    UnknownPromptVersion,
    UpstreamError,
    ValidationFailed,
)
from dataplane.eval_tokens import PREFIX, is_eval_token
from dataplane.evidence import Evidence, part_of
from dataplane.fallback import answers_from_copy
from dataplane.idempotency import HEADER, parse_key
from dataplane.integrity import Integrity
from dataplane.job_tokens import is_job_token, read_token
from dataplane.journey import CHARACTERS_PER_TOKEN, EVAL, Attempt, Inbound, Journey, Reply
from dataplane.json_formats import FORMATS, native_first
from dataplane.keyed import KeyedRequest, KeyedWork
from dataplane.lane_caller import LaneCaller
from dataplane.lane_fit import LaneFit, refuse_unknown_fields
from dataplane.last_words import LastWords
from dataplane.messages import (
    ChatRequest,
    ChatResponse,
    EmbeddingRequest,
    EmbeddingResponse,
)
from dataplane.metrics import GatewayMetrics
from dataplane.open_answers import OpenAnswers
from dataplane.productions import Witness
from dataplane.prompts import merge_parameters, render
from dataplane.providers.base import Adapter, UpstreamCall
from dataplane.quota import BATCH, INTERACTIVE, WORKLOADS, Workload
from dataplane.relay import Carrying, Relay
from dataplane.release import Release
from dataplane.repairing import Repairing
from dataplane.request_parser import parse_chat_request, parse_embedding_request
from dataplane.retry import is_repeatable
from dataplane.routing import MAX_DEADLINE_MS, Lane, Route, eligible_lanes
from dataplane.samples import Samples
from dataplane.sandboxes import Sandboxes
from dataplane.schema_check import SchemaChecker
from dataplane.shadow.offering import Offering, overhear
from dataplane.sharding import lanes_of_tenant
from dataplane.stores.repairs import RepairStore
from dataplane.streams import EndedStream, Life, Streams
from dataplane.timers import TimerWheel
from dataplane.validating import Validating

log = logging.getLogger("ballast.pipeline")

EMBEDDINGS: Final = frozenset({"embeddings"})
CHAT_PATH: Final = "/v1/chat/completions"
EMBEDDINGS_PATH: Final = "/v1/embeddings"


class ReleaseSource(Protocol):
    """Who knows the release being served, such as `ReleaseWatcher`."""

    @property
    def current(self) -> Release | None:
        """The verified release, or None before the first."""


class Pipeline:
    """Serves requests of one gateway process."""

    def __init__(
        self,
        *,
        releases: ReleaseSource,
        caller: LaneCaller,
        attempts: Attempts,
        copy_desk: CopyDesk,
        schemas: SchemaChecker,
        aggregation: Aggregation,
        metrics: GatewayMetrics,
        region: str,
        timers: TimerWheel,
        streams: Streams | None = None,
        keyed: KeyedWork | None = None,
        job_keys: CursorKeys | None = None,
        repairs: RepairStore | None = None,
        samples: Samples | None = None,
        evidence: Evidence | None = None,
        sandboxes: Sandboxes | None = None,
        shadows: Offering | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`clock` is monotonic seconds, `wall` epoch seconds; `region` stands in for a tenant without one. Without
        `streams`, no stream outlives its caller's connection; without `keyed`, idempotency keys are refused, without
        `job_keys`, which read the tokens of runners, runners are; without `repairs`, no answer is kept to be completed;
        without `samples`, none as a sample; without `evidence`, nothing counts for or against canaries; without
        `sandboxes`, which let evals in, they are refused; without `shadows`, nothing is asked again.
        """
        self._releases = releases
        self._caller = caller
        asides = Asides(caller=caller, attempts=attempts)
        self._integrity = Integrity(
            repairing=Repairing(
                asides=asides, answers=OpenAnswers(repairs, wall=wall), schemas=schemas, aggregation=aggregation
            ),
            validating=Validating(asides=asides, aggregation=aggregation, timers=timers),
            samples=samples,
        )
        self._relay = Relay(
            caller=caller, attempts=attempts, integrity=self._integrity, schemas=schemas, metrics=metrics
        )
        self._attempts = attempts
        self._last_words = LastWords(copy_desk=copy_desk, timers=timers, wall=wall)
        self._aggregation = aggregation
        self._metrics = metrics
        self._region = region
        self._streams = streams
        self._keyed = keyed
        self._job_keys = job_keys
        self._evidence = evidence
        self._sandboxes = sandboxes
        self._shadows = shadows
        self._clock = clock
        self._wall = wall
        self._timers = timers

    async def serve_chat(self, inbound: Inbound, reply: Reply) -> None:
        """Answer one `POST /v1/chat/completions`; errors become responses, cancellation passes through."""
        await self._record_whatever_happens("chat", inbound, reply, self._chat)

    async def serve_continuation(self, inbound: Inbound, reply: Reply, ended: EndedStream) -> None:
        """Answer one `POST /v1/streams/{id}/continue`, whose question `inbound` repeats; as `serve_chat`."""
        await self._record_whatever_happens(
            "stream_continue", inbound, reply, lambda journey, reply: self._continue(journey, reply, ended)
        )

    async def serve_embeddings(self, inbound: Inbound, reply: Reply) -> None:
        """Answer one `POST /v1/embeddings`; as `serve_chat`."""
        await self._record_whatever_happens("embeddings", inbound, reply, self._embeddings)

    def check(self, inbound: Inbound, *, path: str) -> Journey:
        """Decide about a request as if it were served, so that what is wrong with it shows before it is. Who asks
        stands in what is returned.

        Raises:
            NoRelease, Unauthorized, NoEligibleLane, InvalidRequest.
        """
        journey = Journey(inbound)
        if path == CHAT_PATH:
            self._decide(journey)
        else:
            self._decide_embeddings(journey)
        return journey

    def authenticate(self, authorization: str | None, *, job: str | None = None) -> tuple[Release, ApiKey]:
        """Return the release being served and the key that was shown, which knows whose it is.

        Args:
            job: The idempotency key of the request, where a runner may ask in the place of whoever handed in that job.
        Raises:
            NoRelease, Unauthorized, JobTokenRefused.
        """
        release = self._releases.current
        if release is None:
            raise NoRelease
        key = _key_shown(authorization)
        if key is None:
            raise Unauthorized("no API key; send 'Authorization: Bearer <key>'")
        if is_eval_token(key):
            raise Unauthorized(f"an eval token is good for {CHAT_PATH} and {EMBEDDINGS_PATH}, where evals are let in")
        if is_job_token(key) and job is not None:
            known = self._key_of_job(release, key, job=job)
        else:
            known = release.api_key(key_digest(key))
        if known is None:
            raise Unauthorized("the API key is unknown or revoked")
        return release, known

    def _key_of_job(self, release: Release, token: str, *, job: str) -> ApiKey | None:
        """The API key that a job was handed in with, as long as it is admitted."""
        if self._job_keys is None:
            raise JobTokenRefused
        shown = read_token(self._job_keys, token, job=job, now=self._wall())
        known = (key for key in release.access.keys.values() if key.id == shown.key_id)
        return next((key for key in known if key.tenant.slug == shown.tenant), None)

    async def _chat(self, journey: Journey, reply: Reply) -> None:
        await self._admit_eval(journey)
        chat = self._decide(journey)
        policy, streams = chat.route.streams if chat.request.stream else None, self._streams

        async def life(journey: Journey, reply: Reply) -> None:
            await self._answer(journey, reply, chat)

        async def carry(witness: Witness | None) -> None:
            if policy is not None and streams is not None:
                await streams.carry(journey, reply, policy, self._apart("chat", life), witness=witness)

        is_carried = policy is not None and streams is not None
        if journey.inbound.idempotency_key is not None:
            await self._serve_keyed(
                journey,
                reply,
                path=CHAT_PATH,
                is_repeatable=chat.is_repeatable,
                execute=self._apart("chat", life),
                carry=carry if is_carried else None,
            )
        elif is_carried:
            await carry(None)
        else:
            await life(journey, reply)

    async def _serve_keyed(
        self,
        journey: Journey,
        reply: Reply,
        *,
        path: str,
        is_repeatable: bool,
        execute: Life,
        carry: Callable[[Witness], Awaitable[None]] | None = None,
    ) -> None:
        """Have a request with an idempotency key executed once."""
        key, tenant = parse_key(journey.inbound.idempotency_key), journey.tenant
        if key is None or tenant is None:
            raise InvalidRequest(f"{HEADER} is empty; send a key, or leave the header out", param=HEADER)
        if self._keyed is None:
            raise IdempotencyUnavailable("this gateway is told of no database")
        request = KeyedRequest(key, path, tenant.idempotency_hours * 3600.0, is_repeatable, execute, carry)
        await self._keyed.serve(journey, reply, request, seconds=self._remaining_seconds(journey))

    async def _continue(self, journey: Journey, reply: Reply, ended: EndedStream) -> None:
        chat = self._decide(journey, version=ended.version)
        journey.part = None  # its caller named no version: the answer goes on as it began
        policy = chat.route.streams
        if policy is None or self._streams is None:
            raise StreamNotContinuable(ended.origin.stream, why="its route keeps no streams any more")
        if (why := why_not(chat.request, ended.origin.partial)) is not None:
            raise StreamNotContinuable(ended.origin.stream, why=why)

        async def life(journey: Journey, reply: Reply) -> None:
            await self._take_up(journey, reply, chat)

        await self._streams.carry(
            journey,
            reply,
            policy,
            self._apart("stream_continue", life),
            stream=ended.continued_by,
            origin=ended.origin,
        )

    def _decide(self, journey: Journey, *, version: int | None = None) -> Chat:
        """Everything that is decided about a chat request before anything is sent; nothing waits.

        `version` pins its managed prompt.
        """
        release, tenant = self._admit(journey)
        request = parse_chat_request(journey.inbound.body)
        journey.stream = request.stream
        journey.user = journey.inbound.user or request.user
        if version is not None and request.prompt is not None:
            request = replace(request, prompt=replace(request.prompt, version=version))
        request = self._fill_prompt(journey, request, release=release, tenant=tenant)
        route = self._choose_lanes(journey, release, tenant, route=request.route, needs=chat_needs(request))
        if route.unknown_fields == "refuse":
            refuse_unknown_fields(request)
        fit = LaneFit(request, providers=release.routing.providers)
        journey.lanes = fit.from_first(journey.lanes)

        may_repeat = is_repeatable(request, is_keyed=journey.inbound.idempotency_key is not None)
        return Chat(request, release, route, fit, may_repeat)

    def _apart(self, operation: str, life: Life) -> Life:
        """The rest of a request's life, for a task that the caller's connection cannot end."""

        async def live(journey: Journey, reply: Reply) -> None:
            try:
                await self._tell_whatever_happens(journey, reply, life, is_apart=True)
            finally:
                self._record(operation, journey)
            if journey.production is not None:
                # Its readers were woken before this, with its last event.
                self._timers.loop.call_soon(self._offer, journey)

        return live

    async def _take_up(self, journey: Journey, reply: Reply, chat: Chat) -> None:
        """Go on with the answer of another stream."""
        try:
            with self._timers.deadline(self._remaining_seconds(journey)) as deadline:
                await self._relay.take_up_another(journey, reply, chat, deadline)
        except ValidationFailed as failure:
            await self._last_words.withhold(journey, reply, chat, failure)

    async def _answer(self, journey: Journey, reply: Reply, chat: Chat) -> None:
        """Answer from the route's lanes, or below them."""
        request, route = chat.request, chat.route

        async def make(attempt: Attempt, call: UpstreamCall, adapter: Adapter) -> ChatResponse | Carrying | None:
            if request.stream:
                return await self._relay.stream(journey, reply, chat, attempt, call, adapter)
            self._relay.note_attempt(journey, attempt, call)
            told = chat.told(request, attempt.lane)
            return await self._caller.chat(attempt, call, adapter, told, limit=route.whole_answer_seconds)

        try:
            with self._timers.deadline(self._remaining_seconds(journey)) as deadline:
                try:
                    answer = await self._attempts.until_answered(
                        journey,
                        journey.lanes,
                        Work(
                            prepare=self._relay.preparing(journey, chat, request),
                            make=make,
                            deadline=deadline,
                            deadline_ms=journey.deadline_ms,
                            fits=chat.fit.fits,
                            is_committed=lambda: reply.opened,
                            policy=route.retry,
                            is_repeatable=chat.is_repeatable,
                            limit=route.first_token_seconds if request.stream else route.whole_answer_seconds,
                            has_fallback=not journey.takes_copy or route.fallback is not None,
                            size=chat.size,
                        ),
                    )
                except UpstreamError as cut:
                    if journey.production is None or not reply.opened:
                        raise
                    await self._relay.take_up(journey, reply, chat, cut, deadline)
                    return
                if isinstance(answer, Carrying):
                    await self._relay.end(journey, chat, answer, deadline)
                elif answer is not None:
                    self._measure_response(journey, request, answer)
                    whole = await self._integrity.settle(journey, chat, answer, deadline)
                    await self._respond(journey, reply, whole.to_openai())
                    if route.shadow is not None:
                        journey.overheard = overhear(chat, answer)
        except ValidationFailed as failure:
            if journey.is_eval:
                raise
            await self._last_words.withhold(journey, reply, chat, failure)
        except (GatewayError, TimeoutError) as exc:
            error = self._as_error(journey, exc)
            stack = route.fallback if journey.takes_copy else None
            if reply.opened or not answers_from_copy(error, journey.workload) or stack is None:
                raise error from exc
            journey.lanes = tuple(filter(chat.fit.fits, journey.lanes))  # whose return the notice may promise
            await self._last_words.answer_from_copy(journey, reply, request, stack, error)

    def _decide_embeddings(self, journey: Journey) -> tuple[EmbeddingRequest, Release, Route]:
        """As `_decide`."""
        release, tenant = self._admit(journey)
        request = parse_embedding_request(journey.inbound.body)
        journey.user = journey.inbound.user or request.user
        route = self._choose_lanes(journey, release, tenant, route=request.route, needs=EMBEDDINGS)
        if route.unknown_fields == "refuse":
            refuse_unknown_fields(request)
        return request, release, route

    async def _embeddings(self, journey: Journey, reply: Reply) -> None:
        await self._admit_eval(journey)
        request, release, route = self._decide_embeddings(journey)

        async def life(journey: Journey, reply: Reply) -> None:
            await self._embed(journey, reply, request, release, route)

        if journey.inbound.idempotency_key is None:
            await life(journey, reply)
        else:
            execute = self._apart("embeddings", life)
            await self._serve_keyed(journey, reply, path=EMBEDDINGS_PATH, is_repeatable=True, execute=execute)

    async def _embed(
        self, journey: Journey, reply: Reply, request: EmbeddingRequest, release: Release, route: Route
    ) -> None:
        def prepare(lane: Lane) -> tuple[UpstreamCall, Adapter]:
            account, adapter, secret = self._caller.access(release, lane)
            return adapter.embedding_call(request, lane=lane, account=account, secret=secret), adapter

        async def make(attempt: Attempt, call: UpstreamCall, adapter: Adapter) -> EmbeddingResponse:
            self._relay.note_attempt(journey, attempt, call)
            return await self._caller.embed(attempt, call, adapter, limit=route.whole_answer_seconds)

        try:
            with self._timers.deadline(self._remaining_seconds(journey)) as deadline:
                response = await self._attempts.until_answered(
                    journey,
                    journey.lanes,
                    Work(
                        prepare=prepare,
                        make=make,
                        deadline=deadline,
                        deadline_ms=journey.deadline_ms,
                        policy=route.retry,
                        limit=route.whole_answer_seconds,
                        has_fallback=not journey.takes_copy or route.fallback is not None,
                        size=lambda _: (len(journey.inbound.body) // CHARACTERS_PER_TOKEN, 0),
                    ),
                )
                await self._respond(journey, reply, response.raw)
        except (GatewayError, TimeoutError) as exc:
            error = self._as_error(journey, exc)
            stack = route.fallback if journey.takes_copy else None
            if reply.opened or not answers_from_copy(error, journey.workload) or stack is None:
                raise error from exc
            self._last_words.give_notice(journey, stack, error)
            raise error from exc

    # Authenticate.

    async def _admit_eval(self, journey: Journey) -> None:
        """Let an eval in, if it is one: what it brings along has to be read first."""
        authorization = journey.inbound.authorization
        if authorization is None or PREFIX not in authorization or self._sandboxes is None:
            return  # as good as always, so it is settled by a look
        token = _key_shown(authorization)
        if token is None or not is_eval_token(token):
            return
        journey.admission = admission = await self._sandboxes.admit(
            journey.inbound, token, live=self._releases.current, now=self._wall()
        )
        journey.inbound = admission.inbound

    def _admit(self, journey: Journey) -> tuple[Release, Tenant]:
        authorization, job = journey.inbound.authorization, journey.inbound.idempotency_key
        admission = journey.admission
        if admission is None:
            release, key = self.authenticate(authorization, job=job)
            journey.is_job = job is not None and is_job_token(_key_shown(authorization) or "")
        else:
            release, key = admission.release, admission.key
        journey.release = release
        journey.tenant = key.tenant
        journey.key_id = key.id
        journey.workload = read_workload(journey.inbound.workload) if admission is None else BATCH
        if journey.inbound.queue not in (None, "comments"):
            raise InvalidRequest("ballast-queue asks for comments, or is left out", param="ballast-queue")
        journey.stage = "reading the request"
        return release, key.tenant

    # Prompt and cohort.

    def _fill_prompt(self, journey: Journey, request: ChatRequest, *, release: Release, tenant: Tenant) -> ChatRequest:
        """Put the managed prompt before the caller's messages.

        The prompt's own route serves it, whatever `model` says: where a prompt runs was approved with it. An explicit
        version is served outside any comparison; otherwise the canary, if one runs, decides.
        """
        reference = request.prompt
        if reference is None:
            journey.route = request.route
            return request
        prompt = release.prompt(reference.slug)
        number = reference.version
        # An eval is in no comparison of customers', and may ask what none of them can.
        known = prompt.versions if journey.is_eval else prompt.pinnable
        if number is not None and number not in known:
            raise UnknownPromptVersion(prompt.slug, number, known=tuple(sorted(known)))
        plan = None if journey.is_eval else release.canary_for(prompt.slug)
        if plan is not None:
            assignment = self._assign(journey, plan, tenant)
            journey.part = part_of(plan, assignment, pinned=number)
            if number is None:
                number = self._join(journey, plan, assignment)
        version = prompt.versions[number or prompt.live]
        journey.prompt_version = version
        journey.route = prompt.route
        return ChatRequest(
            route=prompt.route,
            messages=render(version, reference.variables) + request.messages,
            parameters=merge_parameters(version, request.parameters),
            stream=request.stream,
            include_usage=request.include_usage,
            stream_options=request.stream_options,
            prompt=reference,
            user=request.user,
            tool_effects=request.tool_effects,
            sources=request.sources,
        )

    def _assign(self, journey: Journey, plan: CanaryPlan, tenant: Tenant) -> Assignment:
        region = tenant.region or self._region
        return assign(
            plan,
            unit_values={"user": journey.user, "tenant": tenant.slug, "region": region},
            tenant=tenant.slug,
            internal=tenant.internal,
            region=region,
            now=datetime.fromtimestamp(self._wall(), UTC),
        )

    def _join(self, journey: Journey, plan: CanaryPlan, assignment: Assignment) -> int | None:
        """Count the request under its cohort, and return the version that this is served; None: the live one."""
        journey.cohort = assignment.cohort
        journey.unkeyed = assignment.unkeyed
        if assignment.arm is not Arm.NONE:
            journey.canary = plan.slug
        return assignment.version

    # Route.

    def _choose_lanes(
        self, journey: Journey, release: Release, tenant: Tenant, *, route: str, needs: frozenset[str]
    ) -> Route:
        journey.stage = "routing"
        known = release.routing.routes.get(route)
        # What comes back is read and checked here, so a lane can be asked for JSON in words, if none does by itself.
        wanted = needs if known is None or known.repair is None else needs - FORMATS
        lanes = eligible_lanes(release.routing, route=route, residency=tenant.residency, needs=wanted)
        journey.route = route
        chosen = release.routing.routes[route]
        lanes = lanes_of_tenant(lanes, tenant=tenant.slug, accounts=chosen.accounts_per_tenant)
        lanes = self._attempts.in_order(lanes, chosen.steering)
        journey.lanes = lanes if wanted == needs else native_first(lanes, needs)
        journey.deadline_ms = read_deadline(journey.inbound.deadline_ms, default_ms=chosen.deadline_ms)
        return chosen

    # Measure.

    def _measure_response(self, journey: Journey, request: ChatRequest, response: ChatResponse) -> None:
        journey.refused = response.refused
        if not response.tool_calls:
            self._relay.check_schema(journey, request, response.text)

    # Respond, from signed copy if no lane could answer, and record.

    async def _respond(self, journey: Journey, reply: Reply, body: bytes) -> None:
        journey.outcome = "ok"
        journey.stage = "responding"
        await reply.send_whole(200, journey.headers(JSON_TYPE), body)

    def _as_error(self, journey: Journey, problem: GatewayError | TimeoutError) -> GatewayError:
        """The deadline as the error that it is: only it raises TimeoutError, everybody else has translated theirs."""
        if isinstance(problem, GatewayError):
            return problem
        return DeadlineExceeded(deadline_ms=journey.deadline_ms, stage=journey.stage)

    async def _record_whatever_happens(self, operation: str, inbound: Inbound, reply: Reply, life: Life) -> None:
        journey = Journey(inbound)
        try:
            await self._tell_whatever_happens(journey, reply, life)
        finally:
            if not journey.is_detached:
                self._record(operation, journey)
        # By now the caller has the answer; of one who left, nothing comes here.
        if journey.production is None:
            self._offer(journey)

    async def _tell_whatever_happens(
        self, journey: Journey, reply: Reply, life: Life, *, is_apart: bool = False
    ) -> None:
        request_id = journey.inbound.request_id
        try:
            await life(journey, reply)
        except (GatewayError, TimeoutError) as exc:
            error = self._as_error(journey, exc)
            if is_apart or not journey.is_detached:
                journey.fail(error)
            await self._last_words.tell(journey, reply, error)
        except asyncio.CancelledError:
            if not journey.outcome and (is_apart or not journey.is_detached):
                journey.outcome = "cancelled"
            raise
        except Exception:
            error = GatewayError("the gateway failed; the request id finds the reason in its log")
            log.exception("request %s failed while %s", request_id, journey.stage)
            if is_apart or not journey.is_detached:
                journey.fail(error)
            await self._last_words.tell(journey, reply, error)

    def _offer(self, journey: Journey) -> None:
        """Let a shadow have what was answered, if there is one."""
        if journey.overheard is not None and self._shadows is not None:
            self._shadows.offer(journey)

    def _record(self, operation: str, journey: Journey) -> None:
        # No await in here: a cancelled task still runs it to the end, once.
        operation = EVAL if journey.is_eval else operation
        seconds = self._clock() - journey.inbound.started
        self._metrics.count(operation, journey.outcome, seconds)
        if journey.fallback not in ("none", "alternate"):
            self._metrics.count_fallback(journey.route, journey.fallback)
        lane = journey.lane
        series = journey.series("" if lane is None else lane.id)
        if series is not None:
            self._aggregation.record_request(
                series,
                result=journey.result,
                schema_passed=journey.schema_passed,
                refused=journey.refused,
                fallback=journey.copy is not None,
            )
        if journey.part is not None and self._evidence is not None:
            self._evidence.record(
                journey.part,
                result=journey.result,
                cost_micros=journey.cost_micros,
                milliseconds=seconds * 1000,
                is_copy=journey.copy is not None,
                refused=journey.refused,
                schema_passed=journey.schema_passed,
                blocked=journey.blocked,
                grounded=journey.grounded,
            )

    def _remaining_seconds(self, journey: Journey) -> float:
        return journey.deadline_ms / 1000 - (self._clock() - journey.inbound.started)


def _key_shown(authorization: str | None) -> str | None:
    """What a caller shows as its key, or in the place of one."""
    scheme, _, key = (authorization or "").partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


def read_deadline(header: str | None, *, default_ms: int) -> float:
    """Return how long the request may take, in milliseconds: what the caller says, else the route's figure.

    Raises:
        InvalidRequest: the header is no number between 1 and MAX_DEADLINE_MS.
    """
    if header is None:
        return default_ms
    try:
        value = float(header)
    except ValueError:
        value = 0.0
    if not 1 <= value <= MAX_DEADLINE_MS:
        raise InvalidRequest(
            f"ballast-deadline-ms is {header[:40]!r}; send milliseconds from 1 to {MAX_DEADLINE_MS}",
            param="ballast-deadline-ms",
        )
    return value


def read_workload(header: str | None) -> Workload:
    """Return the class of the request: interactive unless the caller says batch.

    Raises:
        InvalidRequest: the header says something else.
    """
    if header is None:
        return INTERACTIVE
    for workload in WORKLOADS:
        if header == workload:
            return workload
    raise InvalidRequest(
        f"ballast-class is {header[:40]!r}; send interactive or batch, or leave it out", param="ballast-class"
    )
