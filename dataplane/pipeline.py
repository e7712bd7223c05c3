"""The life of one request, top to bottom. This is the only place that orders the policies.

    authenticate -> prompt and cohort -> route -> attempt -> stream or answer -> measure -> respond -> record

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
from dataplane.cohorts import Arm, assign
from dataplane.credentials import Secrets
from dataplane.envelope import JSON_TYPE, Header, error_body, error_headers, face_of
from dataplane.errors import (
    DeadlineExceeded,
    GatewayError,
    InvalidRequest,
    NoRelease,
    Unauthorized,
    UnknownPromptVersion,
    UpstreamError,
    UpstreamInterrupted,
)
from dataplane.journey import Inbound, Journey, Reply, new_id
from dataplane.messages import (
    ChatRequest,
    ChatResponse,
    ChunkEncoder,
    Finish,
    RefusalDelta,
    StreamChunk,
    TextDelta,
    ToolCallDelta,
    UsageDelta,
    parse_chat_request,
    parse_embedding_request,
)
from dataplane.metrics import GatewayMetrics
from dataplane.prompts import PromptVersion, render
from dataplane.providers import ADAPTERS
from dataplane.providers.base import DONE, Adapter, StreamParser, UpstreamCall
from dataplane.release import Release
from dataplane.routing import MAX_DEADLINE_MS, Account, Lane, eligible_lanes
from dataplane.schema_check import SchemaChecker
from dataplane.timers import TimerWheel
from dataplane.transport import Exchange, Limits, Transport

log = logging.getLogger("ballast.pipeline")

EVENT_STREAM: Final[Header] = (b"content-type", b"text/event-stream; charset=utf-8")
NO_CACHE: Final[Header] = (b"cache-control", b"no-cache")
# How long a caller who is told of a failure may take to read it; the deadline of the request may be over by then.
LAST_WORDS_SECONDS: Final = 1.0
CHAT: Final = frozenset({"chat"})
EMBEDDINGS: Final = frozenset({"embeddings"})


class ReleaseSource(Protocol):
    """Who knows the release being served, such as `ReleaseWatcher`."""

    @property
    def current(self) -> Release | None:
        """The verified release, or None before the first."""


class UsageSink(Protocol):
    """Where usage rows go, such as `ReportShipper`."""

    def add_usage(self, row: Mapping[str, Any]) -> None:
        """Take over one row; must not wait."""


class Pipeline:
    """Serves requests of one gateway process."""

    def __init__(
        self,
        *,
        releases: ReleaseSource,
        transport: Transport,
        secrets: Secrets,
        aggregation: Aggregation,
        usage: UsageSink,
        metrics: GatewayMetrics,
        region: str,
        timers: TimerWheel,
        adapters: Mapping[str, Adapter] = ADAPTERS,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`clock` is monotonic seconds, `wall` epoch seconds; `region` stands in for a tenant without one."""
        self._releases = releases
        self._transport = transport
        self._secrets = secrets
        self._aggregation = aggregation
        self._usage = usage
        self._metrics = metrics
        self._region = region
        self._adapters = adapters
        self._clock = clock
        self._wall = wall
        self._schemas = SchemaChecker()
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
        lane = self._choose_lane(journey, release, tenant, route=request.route, needs=chat_needs(request))
        account, adapter, secret = self._lane_access(release, lane)
        call = adapter.chat_call(request, lane=lane, account=account, secret=secret)
        with self._timers.deadline(self._remaining_seconds(journey)):
            exchange = await self._send(journey, call, lane, stream=request.stream)
            try:
                if not 200 <= exchange.status < 300:
                    raise await self._read_failure(exchange, adapter, lane)
                if request.stream:
                    await self._stream(
                        journey, reply, request, exchange, adapter.stream_parser(request, created=self._created())
                    )
                    return
                body = await exchange.read()
            finally:
                exchange.close()
            response = adapter.parse_chat(body, request=request, created=self._created())
            self._measure_response(journey, request, response)
            journey.outcome = "ok"
            journey.stage = "responding"
            await reply.send_whole(200, journey.headers(JSON_TYPE), response.to_openai())

    async def _embeddings(self, journey: Journey, reply: Reply) -> None:
        release, tenant = self._admit(journey)
        request = parse_embedding_request(journey.inbound.body)
        journey.user = journey.inbound.user or request.user
        lane = self._choose_lane(journey, release, tenant, route=request.route, needs=EMBEDDINGS)
        account, adapter, secret = self._lane_access(release, lane)
        call = adapter.embedding_call(request, lane=lane, account=account, secret=secret)
        with self._timers.deadline(self._remaining_seconds(journey)):
            exchange = await self._send(journey, call, lane, stream=False)
            try:
                if not 200 <= exchange.status < 300:
                    raise await self._read_failure(exchange, adapter, lane)
                body = await exchange.read()
            finally:
                exchange.close()
            response = adapter.parse_embeddings(body)
            journey.usage = response.usage
            journey.outcome = "ok"
            journey.stage = "responding"
            await reply.send_whole(200, journey.headers(JSON_TYPE), response.raw)

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
            user=request.user,
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

    def _choose_lane(
        self, journey: Journey, release: Release, tenant: Tenant, *, route: str, needs: frozenset[str]
    ) -> Lane:
        journey.stage = "routing"
        lane = eligible_lanes(release.routing, route=route, residency=tenant.residency, needs=needs)[0]
        journey.route = route
        journey.deadline_ms = read_deadline(
            journey.inbound.deadline_ms, default_ms=release.routing.routes[route].deadline_ms
        )
        journey.lane = lane
        return lane

    def _lane_access(self, release: Release, lane: Lane) -> tuple[Account, Adapter, str]:
        account = release.routing.accounts[lane.account]
        adapter = self._adapters[release.routing.providers[lane.provider].wire]
        return account, adapter, self._secrets.resolve(account.secret, now=self._clock())

    # Attempt.

    async def _send(self, journey: Journey, call: UpstreamCall, lane: Lane, *, stream: bool) -> Exchange:
        journey.stage = "waiting for the provider"
        journey.attempt_started = self._clock()
        limits = Limits(
            connect_seconds=lane.connect_timeout_seconds,
            first_byte_seconds=lane.first_byte_timeout_seconds if stream else None,
            idle_seconds=lane.idle_timeout_seconds,
        )
        journey.sent_bytes = len(call.body)
        return await self._transport.send(call, lane=lane.id, limits=limits)

    async def _read_failure(self, exchange: Exchange, adapter: Adapter, lane: Lane) -> GatewayError:
        body = await exchange.read()
        return adapter.error(exchange.status, exchange.headers(), body, lane=lane.id, wall=self._wall())

    # Stream.

    async def _stream(
        self, journey: Journey, reply: Reply, request: ChatRequest, exchange: Exchange, parser: StreamParser
    ) -> None:
        """Carry a stream over, event by event. It ends in exactly one terminal event: `[DONE]`, or an error.

        Nothing goes out before the first piece of an answer has come in, so that until then a failure is a plain HTTP
        error.
        """
        encoder = ChunkEncoder(include_usage=request.include_usage)
        tally = StreamTally(journey, keep_text=request.response_schema is not None, clock=self._clock)
        failure: GatewayError | None = None
        while failure is None and not parser.finished:
            data = await exchange.next_chunk()
            payloads: list[bytes] = []
            try:
                if data is None:
                    raise UpstreamInterrupted("the provider's stream ended before it was complete")
                for chunk in parser.feed(data):
                    tally.add(chunk)
                    payloads += encoder.encode(chunk)
            except GatewayError as exc:
                failure = exc  # first what came before it
            if parser.finished:
                exchange.finish()
                journey.refused = tally.refused
                if not tally.called_tools:
                    self._check_schema(journey, request, tally.text)
                payloads += encoder.closing()
                payloads.append(DONE)
            if payloads:
                if not reply.opened:
                    await reply.open_stream([*journey.headers(EVENT_STREAM), NO_CACHE])
                journey.stage = "streaming"
                await reply.send_events(number_events(journey, payloads))
        if failure is not None:
            raise failure
        # No await since the last event went out: a caller who hangs up on seeing it has had a complete answer.
        journey.outcome = "ok"
        await reply.end_stream()

    # Measure.

    def _measure_response(self, journey: Journey, request: ChatRequest, response: ChatResponse) -> None:
        journey.usage = response.usage
        journey.refused = response.refused
        journey.delivered_characters = len(response.text or "")
        if not response.tool_calls:
            self._check_schema(journey, request, response.text)

    def _check_schema(self, journey: Journey, request: ChatRequest, text: str | None) -> None:
        """Note whether the answer meets its schema, if it has one. A refusal is no answer to check."""
        schema = request.response_schema
        if schema is not None and not journey.refused:
            journey.schema_passed = self._schemas.check(schema, text or "")

    # Respond to a failure, and record.

    async def _record_whatever_happens(
        self, operation: str, inbound: Inbound, reply: Reply, life: Callable[[Journey, Reply], Awaitable[None]]
    ) -> None:
        journey = Journey(inbound)
        try:
            try:
                await life(journey, reply)
            except TimeoutError:  # only the deadline raises it: the transport has translated its own
                raise DeadlineExceeded(deadline_ms=journey.deadline_ms, stage=journey.stage) from None
        except GatewayError as exc:
            journey.fail(exc)
            await self._tell(journey, reply, exc)
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
                    headers = [*journey.headers(error_headers(error)[0]), *error_headers(error)[1:]]
                    body = error_body(error, request_id=journey.inbound.request_id)
                    await reply.send_whole(face_of(error).status, headers, body)
                elif journey.stream:
                    code = "upstream_interrupted" if isinstance(error, UpstreamError) else None
                    body = error_body(error, request_id=journey.inbound.request_id, code=code)
                    await reply.send_events(number_events(journey, [body]))
                    await reply.end_stream()
        except TimeoutError:
            log.info("the caller of request %s does not read; its connection is dropped", journey.inbound.request_id)

    def _record(self, operation: str, journey: Journey) -> None:
        # No await in here: a cancelled task still runs it to the end, once.
        now = self._clock()
        self._metrics.count(operation, journey.outcome, now - journey.inbound.started)
        series = journey.series()
        if series is None:
            return
        latency_ms = (now - (journey.attempt_started or journey.inbound.started)) * 1000
        lane = journey.lane
        billed = journey.billed()
        cost_micros = 0
        if lane is not None:
            cost_micros = lane.cost_micros(input_tokens=billed.input_tokens, output_tokens=billed.output_tokens)
        self._aggregation.record(
            series,
            result=journey.result,
            latency_ms=latency_ms,
            ttft_ms=journey.ttft_ms,
            input_tokens=billed.input_tokens,
            output_tokens=billed.output_tokens,
            cost_micros=cost_micros,
            schema_passed=journey.schema_passed,
            refused=journey.refused,
        )
        if journey.sent_bytes:
            wall = self._wall()
            self._usage.add_usage(journey.usage_row(attempt_id=new_id(wall), at=wall, latency_ms=latency_ms))

    def _remaining_seconds(self, journey: Journey) -> float:
        return journey.deadline_ms / 1000 - (self._clock() - journey.inbound.started)

    def _created(self) -> int:
        return int(self._wall())


class StreamTally:
    """Adds up what a stream's deltas say: time to the first piece, usage, characters, refusal, and the text if
    wanted.
    """

    __slots__ = ("_clock", "_journey", "_keep_text", "_pieces", "called_tools", "refused")

    def __init__(self, journey: Journey, *, keep_text: bool, clock: Callable[[], float]) -> None:
        self._journey = journey
        self._keep_text = keep_text
        self._clock = clock
        self._pieces: list[str] = []
        self.called_tools = False
        self.refused = False

    @property
    def text(self) -> str:
        """The answer's text so far; empty unless it is kept."""
        return "".join(self._pieces)

    def add(self, chunk: StreamChunk) -> None:
        """Take note of one chunk."""
        journey = self._journey
        for delta in chunk.deltas:
            if isinstance(delta, TextDelta):
                journey.delivered_characters += len(delta.text)
                if self._keep_text:
                    self._pieces.append(delta.text)
            elif isinstance(delta, ToolCallDelta):
                self.called_tools = True
                journey.delivered_characters += len(delta.arguments)
            elif isinstance(delta, UsageDelta):
                journey.usage = delta.usage
                continue
            elif isinstance(delta, RefusalDelta):
                self.refused = True
                journey.delivered_characters += len(delta.text)
            elif isinstance(delta, Finish):
                self.refused = self.refused or delta.reason == "content_filter"
                continue
            else:
                continue
            if journey.ttft_ms is None:
                journey.ttft_ms = (self._clock() - journey.attempt_started) * 1000


def chat_needs(request: ChatRequest) -> frozenset[str]:
    """Return the capabilities a lane must have to serve `request`."""
    needs = CHAT
    if request.stream:
        needs |= {"stream"}
    if request.parameters.get("tools"):
        needs |= {"tools"}
    if request.response_schema is not None:
        needs |= {"json_schema"}
    return needs


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
