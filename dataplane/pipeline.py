"""The life of one request, top to bottom. This is the only place that orders the policies.

    authenticate -> prompt and cohort -> route -> once, where a key asks for that -> ladder -> passages, where a corpus
    is named -> quota, breaker and attempt, lane by lane -> stream or answer -> measure -> repair and validate ->
    respond, from signed copy if no lane could answer -> record -> shadow

The edge (`gateway.py`) reads HTTP and cancels the task when the caller leaves; the deciders say what should happen;
this module only says in which order, and makes sure that whatever happens is recorded exactly once.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Final

from dataplane.access import ApiKey, Tenant
from dataplane.aggregation import Aggregation
from dataplane.asides import Asides
from dataplane.attempts import Attempts, Work
from dataplane.authentication import Authentication, ReleaseSource
from dataplane.chat import Chat, able_lanes, chat_needs
from dataplane.continuation import why_not
from dataplane.copy_desk import CopyDesk
from dataplane.cursors import CursorKeys
from dataplane.destinations import read_destination
from dataplane.envelope import JSON_TYPE
from dataplane.errors import GatewayError
from dataplane.errors.answers import ValidationFailed
from dataplane.errors.idempotency import IdempotencyUnavailable
from dataplane.errors.requests import InvalidRequest
from dataplane.errors.streams import StreamNotContinuable
from dataplane.errors.upstream import UpstreamError
from dataplane.evidence import Evidence
from dataplane.fallback import answers_from_copy
from dataplane.idempotency import HEADER, parse_key
from dataplane.integrity import Integrity
from dataplane.journey import CHARACTERS_PER_TOKEN, Attempt, Inbound, Journey, Reply
from dataplane.json_answers import rewritten
from dataplane.keyed import KeyedRequest, KeyedWork
from dataplane.ladder.counting import SurfaceCounting
from dataplane.ladder.desk import LadderDesk
from dataplane.ladder.steps import Later, Steps
from dataplane.lane_caller import LaneCaller
from dataplane.lane_choice import choose_lanes
from dataplane.lane_fit import LaneFit, refuse_unknown_fields
from dataplane.last_words import LastWords, as_error
from dataplane.managed_prompts import fill_prompt
from dataplane.messages import ChatRequest, ChatResponse, EmbeddingRequest, EmbeddingResponse
from dataplane.metrics import GatewayMetrics
from dataplane.open_answers import OpenAnswers
from dataplane.policies import FallbackStack, StreamPolicy
from dataplane.productions import Witness
from dataplane.providers.base import Adapter, UpstreamCall
from dataplane.recording import Recording
from dataplane.relay import Carrying, Relay
from dataplane.release import Release
from dataplane.repairing import Repairing
from dataplane.request_headers import check_later, read_deadline
from dataplane.request_parser import CHAT_PATH, EMBEDDINGS_PATH, parse_chat_request, parse_embedding_request
from dataplane.retrieval.grounding import Grounding, check_grounding
from dataplane.retry import is_repeatable
from dataplane.routing import Lane, Route
from dataplane.samples import Samples
from dataplane.sandboxes import Sandboxes
from dataplane.schema_check import SchemaChecker
from dataplane.shadow.offering import Offering, overhear
from dataplane.stores.repairs import RepairStore
from dataplane.stream_continuations import EndedStream
from dataplane.streams import Life, Streams
from dataplane.timers import Deadline, TimerWheel
from dataplane.validating import Validating

EMBEDDINGS: Final = frozenset({"embeddings"})


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
        ladder: LadderDesk | None = None,
        later: Later | None = None,
        surfaces: SurfaceCounting | None = None,
        grounding: Grounding | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`clock` is monotonic seconds, `wall` epoch seconds; `region` stands in for a tenant without one. Without
        `streams`, no stream outlives its caller's connection; without `keyed`, idempotency keys are refused, without
        `job_keys`, which read the tokens of runners, runners are; without `repairs`, no answer is kept to be completed;
        without `samples`, none as a sample; without `evidence`, nothing counts for or against canaries; without
        `sandboxes`, which let evals in, they are refused; without `shadows`, nothing is asked again; without `ladder`,
        no rung is ever engaged, without `later`, whoever is to be answered later is refused, and without `surfaces`,
        nobody counts what became of requests there; without `grounding`, whoever names a corpus is refused.
        """
        self._authentication = Authentication(releases=releases, job_keys=job_keys, sandboxes=sandboxes, wall=wall)
        self._caller = caller
        asides = Asides(caller=caller, attempts=attempts)
        self._integrity = Integrity(
            repairing=Repairing(
                asides=asides, answers=OpenAnswers(repairs, wall=wall), schemas=schemas, aggregation=aggregation
            ),
            validating=Validating(asides=asides, aggregation=aggregation, timers=timers, counts=metrics.validators),
            samples=samples,
        )
        self._relay = Relay(
            caller=caller, attempts=attempts, integrity=self._integrity, schemas=schemas, metrics=metrics
        )
        self._attempts = attempts
        self._last_words = LastWords(copy_desk=copy_desk, timers=timers, wall=wall)
        self._recording = Recording(
            metrics=metrics,
            aggregation=aggregation,
            evidence=evidence,
            ladder=ladder,
            surfaces=surfaces,
            clock=clock,
        )
        self._steps: Steps | None = None
        if ladder is not None:
            self._steps = Steps(
                ladder, attempts=attempts, copy_desk=copy_desk, last_words=self._last_words, later=later
            )
        self._grounding = grounding or Grounding(None)
        self._region = region
        self._streams = streams
        self._keyed = keyed
        self._shadows = shadows
        self._clock = clock
        self._wall = wall
        self._timers = timers

    async def serve_chat(self, inbound: Inbound, reply: Reply) -> None:
        """Answer one `POST /v1/chat/completions`; errors become responses, cancellation passes through."""
        await self.serve_life("chat", inbound, reply, self._chat)

    async def serve_embeddings(self, inbound: Inbound, reply: Reply) -> None:
        """Answer one `POST /v1/embeddings`; as `serve_chat`."""
        await self.serve_life("embeddings", inbound, reply, self._embeddings)

    async def serve_continuation(self, inbound: Inbound, reply: Reply, ended: EndedStream) -> None:
        """Answer one `POST /v1/streams/{id}/continue`, whose question `inbound` repeats; as `serve_chat`."""
        await self.serve_life(
            "stream_continue", inbound, reply, lambda journey, reply: self._continue(journey, reply, ended)
        )

    def authenticate(self, authorization: str | None, *, job: str | None = None) -> tuple[Release, ApiKey]:
        """As `Authentication.authenticate`."""
        return self._authentication.authenticate(authorization, job=job)

    def refuse_stranger(self, authorization: str | None, *, job: str | None) -> None:
        """As `Authentication.refuse_stranger`."""
        self._authentication.refuse_stranger(authorization, job=job)

    def admit(self, journey: Journey) -> tuple[Release, Tenant]:
        """As `Authentication.admit`."""
        return self._authentication.admit(journey)

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

    # What is asked, each from its beginning to its end.

    async def _chat(self, journey: Journey, reply: Reply) -> None:
        if self._authentication.may_be_eval(journey):
            await self._authentication.admit_eval(journey)
        chat = self._decide(journey)
        policy, streams = chat.route.streams if chat.request.stream else None, self._streams
        is_keyed = journey.inbound.idempotency_key is not None
        if not is_keyed and (policy is None or streams is None):
            await self._answer_where_it_stands(journey, reply, chat)
            return
        execute = self._apart("chat", partial(self._answer_where_it_stands, chat=chat))
        carry = None
        if policy is not None and streams is not None:
            carry = partial(_carry, streams, journey, reply, policy, execute)
        if is_keyed:
            is_repeatable = chat.is_repeatable
            await self._serve_keyed(
                journey, reply, path=CHAT_PATH, is_repeatable=is_repeatable, execute=execute, carry=carry
            )
        elif carry is not None:
            await carry(None)

    async def _embeddings(self, journey: Journey, reply: Reply) -> None:
        if self._authentication.may_be_eval(journey):
            await self._authentication.admit_eval(journey)
        request, release, route = self._decide_embeddings(journey)
        life = partial(self._embed, request=request, release=release, route=route)
        if journey.inbound.idempotency_key is None:
            await life(journey, reply)
        else:
            execute = self._apart("embeddings", life)
            await self._serve_keyed(journey, reply, path=EMBEDDINGS_PATH, is_repeatable=True, execute=execute)

    async def _continue(self, journey: Journey, reply: Reply, ended: EndedStream) -> None:
        chat = self._decide(journey, version=ended.version)
        journey.part = None  # its caller named no version: the answer goes on as it began
        policy = chat.route.streams
        if policy is None or self._streams is None:
            raise StreamNotContinuable(ended.origin.stream, why="its route keeps no streams any more")
        if chat.request.corpus is not None:
            raise StreamNotContinuable(ended.origin.stream, why="its answer rests on passages that would be others now")
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

    # Authenticate, prompt and cohort, route: all that is decided before anything is sent. Nothing waits.

    def _decide(self, journey: Journey, *, version: int | None = None) -> Chat:
        """Decide about a chat request. `version` pins its managed prompt."""
        release, tenant = self._authentication.admit(journey)
        request = parse_chat_request(journey.inbound.body)
        journey.stream = request.stream
        journey.user = journey.inbound.user or request.user
        self._read_where_later(journey, request)
        if (reference := request.prompt) is None:
            journey.route = request.route
        else:
            if version is not None:
                reference = replace(reference, version=version)
            request = fill_prompt(
                journey, request, reference, release=release, tenant=tenant, region=self._region, now=self._wall()
            )
        route = self._choose_lanes(journey, release, tenant, route=request.route, needs=chat_needs(request))
        if route.unknown_fields == "refuse":
            refuse_unknown_fields(request)
        fit = LaneFit(request, providers=release.routing.providers)
        journey.lanes = fit.from_first(journey.lanes)

        may_repeat = is_repeatable(request, is_keyed=journey.inbound.idempotency_key is not None)
        chat = Chat(request, release, route, fit, may_repeat)
        if request.corpus is not None:
            check_grounding(chat, request.corpus, tenant)
        return chat

    def _read_where_later(self, journey: Journey, request: ChatRequest) -> None:
        """Read what the caller says of an answer that comes later: what is wrong with it shows on a quiet day too."""
        inbound = journey.inbound
        if inbound.deliver is not None or request.ballast is not None:
            journey.destination = read_destination(inbound.deliver, request.ballast)
        check_later(inbound.later)

    def _decide_embeddings(self, journey: Journey) -> tuple[EmbeddingRequest, Release, Route]:
        """As `_decide`."""
        release, tenant = self._authentication.admit(journey)
        request = parse_embedding_request(journey.inbound.body)
        journey.user = journey.inbound.user or request.user
        route = self._choose_lanes(journey, release, tenant, route=request.route, needs=EMBEDDINGS)
        if route.unknown_fields == "refuse":
            refuse_unknown_fields(request)
        return request, release, route

    def _choose_lanes(
        self, journey: Journey, release: Release, tenant: Tenant, *, route: str, needs: frozenset[str]
    ) -> Route:
        journey.stage = "routing"
        known = release.routing.routes.get(route)
        is_mended = known is not None and known.repair is not None
        lanes = choose_lanes(self._attempts, release, tenant, route=route, needs=needs, is_mended=is_mended)
        chosen = release.routing.routes[route]
        journey.route, journey.lanes = route, lanes
        journey.deadline_ms = read_deadline(journey.inbound.deadline_ms, default_ms=chosen.deadline_ms)
        return chosen

    # Once, where a key asks for that; and apart from the caller's connection.

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
        await self._keyed.serve(journey, reply, request, seconds=self.remaining_seconds(journey))

    def _apart(self, operation: str, life: Life) -> Life:
        """The rest of a request's life, for a task that the caller's connection cannot end."""

        async def live(journey: Journey, reply: Reply) -> None:
            try:
                await self._last_words.tell_whatever_happens(journey, reply, life, is_apart=True)
            finally:
                self._recording.record(operation, journey)
            if journey.production is not None:
                # Its readers were woken before this, with its last event.
                self._timers.loop.call_soon(self._offer, journey)

        return live

    # The rung of the ladder that is engaged for the caller, if any: it says what of the rest of this life is left.

    async def _answer_where_it_stands(self, journey: Journey, reply: Reply, chat: Chat) -> None:
        """Answer as the rung lets it on which the request is served."""
        stand = None if self._steps is None else self._steps.enter(journey)
        if self._steps is None or stand is None:
            await self._answer(journey, reply, chat)
        elif (asked := await self._steps.take(journey, reply, chat, stand)) is not None:
            await self._answer(journey, reply, asked)

    # Quota, breaker and attempt, lane by lane; measure, repair and validate; respond, from signed copy at the last.

    async def _answer(self, journey: Journey, reply: Reply, chat: Chat) -> None:
        """Answer from the route's lanes, or below them."""
        try:
            with self._timers.deadline(self.remaining_seconds(journey)) as deadline:
                if chat.request.corpus is not None:
                    chat = await self._grounding.ground(journey, chat, chat.request.corpus, deadline)
                await self._answer_from_lanes(journey, reply, chat, deadline)
        except ValidationFailed as failure:
            if journey.is_eval:
                raise
            await self._last_words.withhold(journey, reply, chat, failure)
        except (GatewayError, TimeoutError) as exc:
            error = as_error(journey, exc)
            stack = _stack_below(journey, reply, chat.route, error)
            if stack is None:
                raise error from exc
            journey.lanes = able_lanes(journey, chat)  # whose return the notice may promise
            await self._last_words.answer_from_copy(journey, reply, chat.request, stack, error)

    async def _answer_from_lanes(self, journey: Journey, reply: Reply, chat: Chat, deadline: Deadline) -> None:
        request, route = chat.request, chat.route

        async def make(attempt: Attempt, call: UpstreamCall, adapter: Adapter) -> ChatResponse | Carrying | None:
            if request.stream:
                return await self._relay.stream(journey, reply, chat, attempt, call, adapter)
            self._relay.note_attempt(journey, attempt, call)
            told = chat.told(request, attempt.lane)
            return await self._caller.chat(attempt, call, adapter, told, limit=route.whole_answer_seconds)

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
            journey.refused = answer.refused
            if not answer.tool_calls:
                self._relay.check_schema(journey, request, answer.text)
            whole = await self._integrity.settle(journey, chat, answer, deadline)
            if (beside := journey.beside) is not None:
                whole = rewritten(whole, whole, ballast=beside)
            await self._respond(journey, reply, whole.to_openai())
            if route.shadow is not None:
                journey.overheard = overhear(chat, answer)

    async def _take_up(self, journey: Journey, reply: Reply, chat: Chat) -> None:
        """Go on with the answer of another stream."""
        if self._steps is not None and (stand := self._steps.enter(journey)) is not None:
            chat = self._steps.go_on(journey, chat, stand)
        try:
            with self._timers.deadline(self.remaining_seconds(journey)) as deadline:
                await self._relay.take_up_another(journey, reply, chat, deadline)
        except ValidationFailed as failure:
            await self._last_words.withhold(journey, reply, chat, failure)

    async def _embed(
        self, journey: Journey, reply: Reply, request: EmbeddingRequest, release: Release, route: Route
    ) -> None:
        def prepare(lane: Lane) -> tuple[UpstreamCall, Adapter]:
            account, adapter, secret = self._caller.access(release, lane)
            return adapter.embedding_call(request, lane=lane, account=account, secret=secret), adapter

        async def make(attempt: Attempt, call: UpstreamCall, adapter: Adapter) -> EmbeddingResponse:
            self._relay.note_attempt(journey, attempt, call)
            return await self._caller.embed(attempt, call, adapter, limit=route.whole_answer_seconds)

        if self._steps is not None and (stand := self._steps.enter(journey)) is not None:
            self._steps.embed(journey, stand)
        try:
            with self._timers.deadline(self.remaining_seconds(journey)) as deadline:
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
                        operation="embeddings",
                    ),
                )
                await self._respond(journey, reply, response.raw)
        except (GatewayError, TimeoutError) as exc:
            error = as_error(journey, exc)
            stack = _stack_below(journey, reply, route, error)
            if stack is not None:
                self._last_words.give_notice(journey, stack, error)
            raise error from exc

    async def _respond(self, journey: Journey, reply: Reply, body: bytes) -> None:
        journey.outcome = "ok"
        journey.stage = "responding"
        await reply.send_whole(200, journey.headers(JSON_TYPE), body)

    def remaining_seconds(self, journey: Journey) -> float:
        """What is left until the request's deadline, in seconds."""
        return journey.deadline_ms / 1000 - (self._clock() - journey.inbound.started)

    # Record, whatever happens; then let a shadow have it.

    async def serve_life(self, operation: str, inbound: Inbound, reply: Reply, life: Life) -> None:
        """Let `life` answer one request, and record it whatever happens; as `serve_chat`."""
        journey = Journey(inbound)
        try:
            await self._last_words.tell_whatever_happens(journey, reply, life)
        finally:
            if not journey.is_detached:
                self._recording.record(operation, journey)
        # By now the caller has the answer; of one who left, nothing comes here.
        if journey.production is None:
            self._offer(journey)

    def _offer(self, journey: Journey) -> None:
        """Let a shadow have what was answered, if there is one."""
        if journey.overheard is not None and self._shadows is not None:
            self._shadows.offer(journey)


async def _carry(
    streams: Streams, journey: Journey, reply: Reply, policy: StreamPolicy, execute: Life, witness: Witness | None
) -> None:
    await streams.carry(journey, reply, policy, execute, witness=witness)


def _stack_below(journey: Journey, reply: Reply, route: Route, error: GatewayError) -> FallbackStack | None:
    """The signed copy that takes the place of the route's lanes; None where there is none, or it is not for this
    caller, or the error is one to be told.
    """
    stack = route.fallback if journey.takes_copy else None
    return None if reply.opened or not answers_from_copy(error, journey.workload) else stack
