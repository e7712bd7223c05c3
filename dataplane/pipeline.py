"""The life of one request, top to bottom. This is the only place that orders the policies.

    authenticate -> prompt and cohort -> route -> breaker and attempt, lane by lane -> stream or answer -> measure
    -> respond, from signed copy if no lane could answer -> record

The edge (`gateway.py`) reads HTTP and cancels the task when the caller leaves; the deciders say what should happen;
this module only says in which order, and makes sure that whatever happens is recorded exactly once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from dataplane.access import ApiKey, Tenant, key_digest
from dataplane.aggregation import Aggregation
from dataplane.attempts import Attempts
from dataplane.capabilities import needs_of
from dataplane.cohorts import Arm, assign
from dataplane.copy_desk import CopyDesk
from dataplane.envelope import JSON_TYPE, Header, error_body, error_headers, face_of
from dataplane.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    GatewayError,
    InvalidRequest,
    NoRelease,
    Unauthorized,
    UnknownPromptVersion,
    UpstreamContextExceeded,
    UpstreamError,
)
from dataplane.fallback import answers_from_copy
from dataplane.journey import Attempt, Inbound, Journey, Reply
from dataplane.lane_caller import LaneCaller, StreamRun
from dataplane.lane_fit import fitting_lanes, is_roomier, refuse_unknown_fields
from dataplane.messages import (
    ChatRequest,
    ChatResponse,
    ChunkEncoder,
    EmbeddingResponse,
    Finish,
    Start,
    StreamChunk,
    TextDelta,
    Usage,
    UsageDelta,
    parse_chat_request,
    parse_embedding_request,
)
from dataplane.metrics import GatewayMetrics
from dataplane.policies import FallbackStack
from dataplane.prompts import PromptVersion, render
from dataplane.providers.base import DONE, Adapter, UpstreamCall
from dataplane.release import Release
from dataplane.retry import is_repeatable
from dataplane.routing import MAX_DEADLINE_MS, Lane, Route, eligible_lanes
from dataplane.schema_check import SchemaChecker
from dataplane.timers import TimerWheel

log = logging.getLogger("ballast.pipeline")

EVENT_STREAM: Final[Header] = (b"content-type", b"text/event-stream; charset=utf-8")
NO_CACHE: Final[Header] = (b"cache-control", b"no-cache")
# How long a caller who is told of a failure may take to read it; the deadline of the request may be over by then.
LAST_WORDS_SECONDS: Final = 1.0
EMBEDDINGS: Final = frozenset({"embeddings"})


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
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`clock` is monotonic seconds, `wall` epoch seconds; `region` stands in for a tenant without one."""
        self._releases = releases
        self._caller = caller
        self._attempts = attempts
        self._copy_desk = copy_desk
        self._schemas = schemas
        self._aggregation = aggregation
        self._metrics = metrics
        self._region = region
        self._clock = clock
        self._wall = wall
        self._timers = timers

    async def serve_chat(self, inbound: Inbound, reply: Reply) -> None:
        """Answer one `POST /v1/chat/completions`; errors become responses, cancellation passes through."""
        await self._record_whatever_happens("chat", inbound, reply, self._chat)

    async def serve_embeddings(self, inbound: Inbound, reply: Reply) -> None:
        """Answer one `POST /v1/embeddings`; as `serve_chat`."""
        await self._record_whatever_happens("embeddings", inbound, reply, self._embeddings)

    def authenticate(self, authorization: str | None) -> tuple[Release, ApiKey]:
        """Return the release being served and the key that was shown, which knows whose it is.

        Raises:
            NoRelease, Unauthorized.
        """
        release = self._releases.current
        if release is None:
            raise NoRelease
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise Unauthorized("no API key; send 'Authorization: Bearer <key>'")
        known = release.api_key(key_digest(key.strip()))
        if known is None:
            raise Unauthorized("the API key is unknown or revoked")
        return release, known

    async def _chat(self, journey: Journey, reply: Reply) -> None:
        release, tenant = self._admit(journey)
        request = parse_chat_request(journey.inbound.body)
        journey.stream = request.stream
        journey.user = journey.inbound.user or request.user
        request = self._fill_prompt(journey, request, release=release, tenant=tenant)
        route = self._choose_lanes(journey, release, tenant, route=request.route, needs=chat_needs(request))
        if route.unknown_fields == "refuse":
            refuse_unknown_fields(request)
        wires = {slug: provider.wire for slug, provider in release.routing.providers.items()}
        journey.lanes = fitting_lanes(request, journey.lanes, wires=wires)

        def prepare(lane: Lane) -> tuple[UpstreamCall, Adapter]:
            refuse_cramped_lane(journey, lane)
            account, adapter, secret = self._caller.access(release, lane)
            return adapter.chat_call(request, lane=lane, account=account, secret=secret), adapter

        async def make(attempt: Attempt, call: UpstreamCall, adapter: Adapter) -> ChatResponse | None:
            self._note_attempt(journey, attempt)
            attempt.dropped, attempt.adjusted = call.dropped, call.adjusted
            self._metrics.count_fields(attempt.lane.id, dropped=call.dropped, adjusted=call.adjusted)
            if not request.stream:
                return await self._caller.chat(attempt, call, adapter, request, limit=route.whole_answer_seconds)
            run = await self._caller.open_stream(attempt, call, adapter, request, route)
            try:
                await self._relay(journey, reply, request, attempt, run)
            finally:
                run.close()
            return None

        try:
            with self._timers.deadline(self._remaining_seconds(journey)) as deadline:
                response = await self._attempts.until_answered(
                    journey,
                    journey.lanes,
                    prepare=prepare,
                    make=make,
                    deadline=deadline,
                    deadline_ms=journey.deadline_ms,
                    is_committed=lambda: reply.opened,
                    policy=route.retry,
                    is_repeatable=is_repeatable(request, is_keyed=journey.inbound.idempotency_key is not None),
                    limit=route.first_token_seconds if request.stream else route.whole_answer_seconds,
                    has_fallback=route.fallback is not None,
                )
                if response is not None:
                    self._measure_response(journey, request, response)
                    await self._respond(journey, reply, response.to_openai())
        except (GatewayError, TimeoutError) as exc:
            error = self._as_error(journey, exc)
            if reply.opened or not answers_from_copy(error) or route.fallback is None:
                raise error from exc
            await self._answer_from_copy(journey, reply, request, route.fallback, error)

    async def _embeddings(self, journey: Journey, reply: Reply) -> None:
        release, tenant = self._admit(journey)
        request = parse_embedding_request(journey.inbound.body)
        journey.user = journey.inbound.user or request.user
        route = self._choose_lanes(journey, release, tenant, route=request.route, needs=EMBEDDINGS)
        if route.unknown_fields == "refuse":
            refuse_unknown_fields(request)

        def prepare(lane: Lane) -> tuple[UpstreamCall, Adapter]:
            account, adapter, secret = self._caller.access(release, lane)
            return adapter.embedding_call(request, lane=lane, account=account, secret=secret), adapter

        async def make(attempt: Attempt, call: UpstreamCall, adapter: Adapter) -> EmbeddingResponse:
            self._note_attempt(journey, attempt)
            return await self._caller.embed(attempt, call, adapter, limit=route.whole_answer_seconds)

        try:
            with self._timers.deadline(self._remaining_seconds(journey)) as deadline:
                response = await self._attempts.until_answered(
                    journey,
                    journey.lanes,
                    prepare=prepare,
                    make=make,
                    deadline=deadline,
                    deadline_ms=journey.deadline_ms,
                    policy=route.retry,
                    limit=route.whole_answer_seconds,
                    has_fallback=route.fallback is not None,
                )
                await self._respond(journey, reply, response.raw)
        except (GatewayError, TimeoutError) as exc:
            error = self._as_error(journey, exc)
            if reply.opened or not answers_from_copy(error) or route.fallback is None:
                raise error from exc
            self._give_notice(journey, route.fallback, error)
            raise error from exc

    # Authenticate.

    def _admit(self, journey: Journey) -> tuple[Release, Tenant]:
        release, key = self.authenticate(journey.inbound.authorization)
        journey.release = release
        journey.tenant = key.tenant
        journey.key_id = key.id
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
        if number is None:
            number = self._assign_version(journey, release=release, tenant=tenant, prompt=prompt.slug) or prompt.live
        elif number not in prompt.pinnable:
            raise UnknownPromptVersion(prompt.slug, number, known=tuple(sorted(prompt.pinnable)))
        version = prompt.versions[number]
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
        )

    def _assign_version(self, journey: Journey, *, release: Release, tenant: Tenant, prompt: str) -> int | None:
        plan = release.canary_for(prompt)
        if plan is None:
            return None
        region = tenant.region or self._region
        assignment = assign(
            plan,
            unit_values={"user": journey.user, "tenant": tenant.slug, "region": region},
            tenant=tenant.slug,
            internal=tenant.internal,
            region=region,
            now=datetime.fromtimestamp(self._wall(), UTC),
        )
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
        lanes = eligible_lanes(release.routing, route=route, residency=tenant.residency, needs=needs)
        journey.route = route
        chosen = release.routing.routes[route]
        journey.lanes = self._attempts.in_order(lanes, chosen.steering)
        journey.deadline_ms = read_deadline(journey.inbound.deadline_ms, default_ms=chosen.deadline_ms)
        return chosen

    # Breaker and attempt, lane by lane.

    def _note_attempt(self, journey: Journey, attempt: Attempt) -> None:
        journey.stage = "waiting for the provider"
        journey.fallback = "none" if attempt.lane is journey.lanes[0] else "alternate"

    # Stream.

    async def _relay(
        self, journey: Journey, reply: Reply, request: ChatRequest, attempt: Attempt, run: StreamRun
    ) -> None:
        """Carry a stream over, event by event. It ends in exactly one terminal event: `[DONE]`, or an error."""
        payloads: list[bytes] = run.take()
        failure: GatewayError | None = None
        while True:
            if run.finished and failure is None:
                journey.refused = run.tally.refused
                if not run.tally.called_tools:
                    self._check_schema(journey, request, run.tally.text)
            if payloads:
                if not reply.opened:
                    await reply.open_stream([*journey.headers(EVENT_STREAM), NO_CACHE])
                journey.stage = "streaming"
                await reply.send_events(number_events(journey, payloads))
            if failure is not None:
                raise failure
            if run.finished:
                break
            payloads, failure = await run.read()
        # No await since the last event went out: a caller who hangs up on seeing it has had a complete answer.
        attempt.outcome = journey.outcome = "ok"
        await reply.end_stream()

    # Measure.

    def _measure_response(self, journey: Journey, request: ChatRequest, response: ChatResponse) -> None:
        journey.refused = response.refused
        if not response.tool_calls:
            self._check_schema(journey, request, response.text)

    def _check_schema(self, journey: Journey, request: ChatRequest, text: str | None) -> None:
        """Note whether the answer meets its schema, if it has one. A refusal is no answer to check."""
        schema = request.response_schema
        if schema is not None and not journey.refused:
            journey.schema_passed = self._schemas.check(schema, text or "")

    # Respond, from signed copy if no lane could answer, and record.

    async def _respond(self, journey: Journey, reply: Reply, body: bytes) -> None:
        journey.outcome = "ok"
        journey.stage = "responding"
        await reply.send_whole(200, journey.headers(JSON_TYPE), body)

    async def _answer_from_copy(
        self, journey: Journey, reply: Reply, request: ChatRequest, stack: FallbackStack, error: GatewayError
    ) -> None:
        """Answer with words that were signed beforehand, the best that suit; the last of them is an honest error."""
        journey.stage = "falling back"
        answer = await self._copy_desk.find(journey, request, stack, error)
        if answer is None:
            self._give_notice(journey, stack, error)
            raise error
        journey.copy = answer.copy
        journey.fallback = answer.rung
        journey.outcome = "ok"
        created = int(self._wall())
        with self._timers.deadline(LAST_WORDS_SECONDS):
            if not request.stream:
                response = ChatResponse(
                    id=journey.inbound.request_id,
                    model=f"copy:{answer.copy.reference}",
                    created=created,
                    text=answer.text,
                    finish_reason="stop",
                    usage=Usage(),
                )
                await reply.send_whole(200, journey.headers(JSON_TYPE), response.to_openai(ballast=answer.to_json()))
                return
            encoder = ChunkEncoder(include_usage=request.include_usage, ballast=answer.to_json())
            start = Start(journey.inbound.request_id, f"copy:{answer.copy.reference}", created)
            deltas = (start, TextDelta(answer.text), Finish("stop"), UsageDelta(Usage()))
            payloads = [*encoder.encode(StreamChunk(deltas)), *encoder.closing(), DONE]
            await reply.open_stream([*journey.headers(EVENT_STREAM), NO_CACHE])
            await reply.send_events(number_events(journey, payloads))
            await reply.end_stream()

    def _give_notice(self, journey: Journey, stack: FallbackStack, error: GatewayError) -> None:
        """Let the error be told in signed words, with what is known of when it ends."""
        journey.notice = self._copy_desk.notice(journey, stack, error)
        journey.fallback = "outage"

    def _as_error(self, journey: Journey, problem: GatewayError | TimeoutError) -> GatewayError:
        """The deadline as the error that it is: only it raises TimeoutError, everybody else has translated theirs."""
        if isinstance(problem, GatewayError):
            return problem
        return DeadlineExceeded(deadline_ms=journey.deadline_ms, stage=journey.stage)

    async def _record_whatever_happens(
        self, operation: str, inbound: Inbound, reply: Reply, life: Callable[[Journey, Reply], Awaitable[None]]
    ) -> None:
        journey = Journey(inbound)
        try:
            await life(journey, reply)
        except (GatewayError, TimeoutError) as exc:
            error = self._as_error(journey, exc)
            journey.fail(error)
            await self._tell(journey, reply, error)
        except asyncio.CancelledError:
            if not journey.outcome:
                journey.outcome = "cancelled"
            raise
        except Exception:
            error = GatewayError("the gateway failed; the request id finds the reason in its log")
            log.exception("request %s failed while %s", inbound.request_id, journey.stage)
            journey.fail(error)
            await self._tell(journey, reply, error)
        finally:
            self._record(operation, journey)

    async def _tell(self, journey: Journey, reply: Reply, error: GatewayError) -> None:
        """Give the caller the error: as a response, or as the last event of a stream that is under way."""
        try:
            with self._timers.deadline(LAST_WORDS_SECONDS):
                if not reply.opened:
                    await self._tell_whole(journey, reply, error)
                elif journey.stream:
                    code = "upstream_interrupted" if isinstance(error, UpstreamError) else None
                    body = error_body(error, request_id=journey.inbound.request_id, code=code)
                    await reply.send_events(number_events(journey, [body]))
                    await reply.end_stream()
        except TimeoutError:
            log.info("the caller of request %s does not read; its connection is dropped", journey.inbound.request_id)

    async def _tell_whole(self, journey: Journey, reply: Reply, error: GatewayError) -> None:
        notice = journey.notice
        if notice is None:
            retry_after_seconds = None
            body = error_body(error, request_id=journey.inbound.request_id)
        else:
            retry_after_seconds = float(notice.eta_seconds)
            body = error_body(
                error, request_id=journey.inbound.request_id, **{"detail": error.message} | notice.to_json()
            )
        content_type, *more = error_headers(error, retry_after_seconds=retry_after_seconds)
        await reply.send_whole(face_of(error).status, [*journey.headers(content_type), *more], body)

    def _record(self, operation: str, journey: Journey) -> None:
        # No await in here: a cancelled task still runs it to the end, once.
        self._metrics.count(operation, journey.outcome, self._clock() - journey.inbound.started)
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

    def _remaining_seconds(self, journey: Journey) -> float:
        return journey.deadline_ms / 1000 - (self._clock() - journey.inbound.started)


def chat_needs(request: ChatRequest) -> frozenset[str]:
    """Return the capabilities a lane must have to serve `request`."""
    return needs_of(request.messages, request.parameters, stream=request.stream)


def refuse_cramped_lane(journey: Journey, lane: Lane) -> None:
    """Return unless the conversation was too long for a lane that has at least as much room as `lane`.

    Raises:
        ContextLengthExceeded: it was, so it is too long for this one as well.
    """
    for attempt in journey.attempts:
        before = attempt.lane.context_tokens
        if isinstance(attempt.error, UpstreamContextExceeded) and not is_roomier(lane, than=attempt.lane):
            raise ContextLengthExceeded(
                lane=lane.id, estimated_tokens=before or 0, context_tokens=lane.context_tokens or 0
            )


def merge_parameters(version: PromptVersion, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the caller's parameters with the version's over them: what was approved wins, what it leaves open is the
    caller's.

    `max_tokens` and `max_completion_tokens` are two names of one limit, so a version that fixes it silences both.
    """
    merged = {**parameters, **version.parameters}
    if "max_tokens" in version.parameters:
        merged.pop("max_completion_tokens", None)
    return merged


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


def number_events(journey: Journey, payloads: list[bytes]) -> bytes:
    """Return `payloads` as server-sent events, numbered on from the last one of this stream; the first is 1."""
    first = journey.events + 1
    journey.events += len(payloads)
    return b"".join([b"id: %d\ndata: %b\n\n" % item for item in enumerate(payloads, first)])
