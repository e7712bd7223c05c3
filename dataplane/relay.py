"""Carries streams over, event by event, from a lane to whoever is to have them; and takes them up again elsewhere when
their provider breaks them off.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from dataplane.attempts import Attempts, Prepare, Work
from dataplane.chat import Chat, able_lanes
from dataplane.continuation import Continuation, Overlap, note_of, ways_asked_for, ways_on, why_broken_off, why_not
from dataplane.envelope import Header
from dataplane.errors import GatewayError
from dataplane.errors.answers import ValidationFailed
from dataplane.errors.requests import ContextLengthExceeded
from dataplane.errors.upstream import UpstreamContextExceeded, UpstreamError
from dataplane.frames import Ending
from dataplane.integrity import Integrity
from dataplane.journey import Attempt, Journey, Reply
from dataplane.lane_caller import LaneCaller, StreamRun
from dataplane.lane_fit import is_roomier
from dataplane.messages import ChatRequest, TakesUp
from dataplane.metrics import GatewayMetrics
from dataplane.productions import Production
from dataplane.providers.base import Adapter, UpstreamCall
from dataplane.routing import Lane
from dataplane.schema_check import SchemaChecker
from dataplane.shadow.offering import overhear, overhear_pieces
from dataplane.stream_rows import FIRST, PREFILL, REGENERATED
from dataplane.timers import Deadline

log = logging.getLogger("ballast.streams")

EVENT_STREAM: Final[Header] = (b"content-type", b"text/event-stream; charset=utf-8")
NO_CACHE: Final[Header] = (b"cache-control", b"no-cache")
# As what the attempts that take a stream up again are recorded.
KINDS: Final = {PREFILL: "continue", REGENERATED: "regenerate"}


@dataclass(frozen=True, slots=True)
class GoingOn:
    """What an attempt is told that goes on with another's answer, and why there is need to."""

    way: Continuation
    takes_up: TakesUp
    overlap: Overlap
    cause: str


class Carrying:
    """One attempt at a stream on its way to the caller; once all of it is there but a part that is held back, what is
    returned for `Relay.end`.
    """

    __slots__ = ("_begins_with", "_is_begun", "_journey", "_reply", "attempt", "run")

    def __init__(
        self, journey: Journey, reply: Reply, attempt: Attempt, run: StreamRun, going_on: GoingOn | None
    ) -> None:
        self._journey = journey
        self._reply = reply
        self._begins_with = (FIRST, "") if going_on is None else (going_on.way.how, going_on.cause)
        self._is_begun = False
        self.attempt = attempt
        self.run = run

    async def send(self, payloads: list[bytes], *, ending: Ending | None) -> None:
        """Hand over what there is, if anything."""
        if not payloads:
            return
        journey, reply = self._journey, self._reply
        if not reply.opened:
            await reply.open_stream([*journey.headers(EVENT_STREAM), NO_CACHE])
        if journey.production is not None and not self._is_begun:
            how, cause = self._begins_with
            journey.production.begin_segment(self.attempt, self.run, how=how, cause=cause)
        self._is_begun = True
        journey.stage = "streaming"
        await reply.send_events(payloads, ending=ending)


class Relay:
    """See the module. For all requests of a process."""

    def __init__(
        self,
        *,
        caller: LaneCaller,
        attempts: Attempts,
        integrity: Integrity,
        schemas: SchemaChecker,
        metrics: GatewayMetrics,
    ) -> None:
        self._caller = caller
        self._attempts = attempts
        self._integrity = integrity
        self._schemas = schemas
        self._metrics = metrics

    def preparing(self, journey: Journey, chat: Chat, request: ChatRequest) -> Prepare:
        """How the call for a lane is built: that of `request`, which says what `chat` wants said there."""

        def prepare(lane: Lane) -> tuple[UpstreamCall, Adapter]:
            refuse_cramped_lane(journey, lane)
            account, adapter, secret = self._caller.access(chat.release, lane)
            told = chat.told(request, lane)
            return adapter.chat_call(told, lane=lane, account=account, secret=secret), adapter

        return prepare

    def note_attempt(self, journey: Journey, attempt: Attempt, call: UpstreamCall) -> None:
        """Note what is sent, and where, just before it is."""
        journey.stage = "waiting for the provider"
        journey.fallback = "none" if attempt.lane is journey.lanes[0] else "alternate"
        if call.dropped or call.adjusted:
            attempt.dropped, attempt.adjusted = call.dropped, call.adjusted
            if not journey.is_eval:
                self._metrics.count_fields(attempt.lane.id, dropped=call.dropped, adjusted=call.adjusted)

    def check_schema(self, journey: Journey, request: ChatRequest, text: str | None) -> None:
        """Note whether the answer meets its schema, if it has one. A refusal is no answer to check."""
        schema = request.response_schema
        if schema is not None and not journey.refused:
            journey.schema_passed = self._schemas.check(schema, text or "")

    async def stream(
        self,
        journey: Journey,
        reply: Reply,
        chat: Chat,
        attempt: Attempt,
        call: UpstreamCall,
        adapter: Adapter,
        going_on: GoingOn | None = None,
    ) -> Carrying | None:
        """Make one attempt at a stream and carry it over, up to `[DONE]`; or raise what broke it off.

        What is returned is to be brought to its `end`: the provider has given all of it, and some is held back.
        """
        self.note_attempt(journey, attempt, call)
        run = await self._caller.open_stream(
            attempt,
            call,
            adapter,
            chat.told(chat.request if going_on is None else going_on.way.request, attempt.lane),
            chat.route,
            keep_text=(
                journey.production is not None
                or chat.request.response_schema is not None
                or chat.route.shadow is not None
                or self._integrity.wants_words(journey)
            ),
            opening=None if reply.opened else journey.beside,
            takes_up=None if going_on is None else going_on.takes_up,
            overlap=None if going_on is None else going_on.overlap,
            gate=self._integrity.gate(chat),
        )
        try:
            return await self._carry_over(journey, chat, Carrying(journey, reply, attempt, run, going_on))
        finally:
            run.close()

    async def _carry_over(self, journey: Journey, chat: Chat, carrying: Carrying) -> Carrying | None:
        run = carrying.run
        payloads: list[bytes] = run.take()
        failure: GatewayError | None = None
        while True:
            ending = Ending.COMPLETED if run.is_whole and failure is None else None
            if ending is not None:
                if run.gate is not None:
                    self._integrity.note(journey, run.gate)
                elif not run.tally.called_tools and not run.tally.refused:
                    self._integrity.note_plain(journey, chat, run.tally.text)
                self._note_end(journey, chat, run)
                # Before the last event goes out: a caller who hangs up on seeing it has had a complete answer.
                carrying.attempt.outcome = journey.outcome = "ok"
            await carrying.send(payloads, ending=ending)
            if failure is not None:
                if isinstance(failure, ValidationFailed) and run.gate is not None:
                    self._integrity.note_withheld(journey, run.gate)
                raise failure
            if ending is not None:
                self._overhear(journey, chat, run)
                return None
            if run.finished:
                return carrying
            payloads, failure = await run.read()

    def _overhear(self, journey: Journey, chat: Chat, run: StreamRun) -> None:
        """Keep for a shadow what a lane answered, if one lane gave all of it."""
        if chat.route.shadow is None or journey.taking_up:
            return
        if run.gate is not None:
            journey.overheard = overhear(chat, run.gate.response())
        else:
            tally = run.tally
            journey.overheard = overhear_pieces(chat, tally.text, tally.calls, tally.finish_reason)

    def _note_end(self, journey: Journey, chat: Chat, run: StreamRun) -> None:
        journey.refused = run.tally.refused
        if not run.tally.called_tools:
            production, text = journey.production, run.tally.text
            if production is not None:
                # What was held back whole is in no segment yet: that begins with the first of it that goes out.
                is_begun = any(segment.run is run for segment in production.segments)
                text = production.partial().text + ("" if is_begun else text)
            self.check_schema(journey, chat.request, text)

    async def end(self, journey: Journey, chat: Chat, carrying: Carrying, deadline: Deadline) -> None:
        """Bring a stream to its end of which a part is held back.

        Raises:
            RepairFailed, ValidationFailed: it may not go out; what was handed over is worth nothing then.
        """
        run, gate = carrying.run, carrying.run.gate
        if gate is None:
            return
        finish_reason = await self._integrity.end(journey, chat, gate, deadline)
        payloads = run.conclude(gate.conclude(finish_reason=finish_reason))
        self._note_end(journey, chat, run)
        journey.outcome = "ok"
        await carrying.send(payloads, ending=Ending.COMPLETED)
        self._overhear(journey, chat, run)

    async def take_up(self, journey: Journey, reply: Reply, chat: Chat, cut: UpstreamError, deadline: Deadline) -> None:
        """Go on with a stream that its provider broke off, as far as the route's policy lets us.

        Raises:
            UpstreamError: what broke it off, the last time.
            GatewayError: what ended it after it had gone on.
        """
        production, policy = journey.production, chat.route.streams
        if production is None or policy is None or not chat.is_repeatable:
            raise cut
        for _ in range(int(policy.continuations.value)):
            partial = production.partial()
            if why_broken_off(cut) is not None or why_not(chat.request, partial) is not None:
                break
            segments = len(production.segments)
            lane = journey.attempts[-1].lane
            lanes = able_lanes(journey, chat)
            for way in ways_on(chat.request, partial, on_cut=policy.on_cut, lanes=lanes, cut=lane.id):
                try:
                    await self._go_on(journey, reply, chat, production, way, deadline)
                    return
                except GatewayError as exc:
                    if len(production.segments) > segments:
                        # The caller has had something of it, so another way would begin behind that.
                        if not isinstance(exc, UpstreamError):
                            raise
                        cut = exc
                        break
                    log.info("stream %s cannot go on by %s: %s", production.id, way.how, exc)
            else:
                break
        raise cut

    async def take_up_another(self, journey: Journey, reply: Reply, chat: Chat, deadline: Deadline) -> None:
        """Go on where another stream ended, because its caller asks for it.

        Raises:
            GatewayError: what became of it.
        """
        production = journey.production
        if production is None:
            raise GatewayError("only a stream can go on where another ended")
        failure: GatewayError | None = None
        for way in ways_asked_for(chat.request, production.partial(), lanes=able_lanes(journey, chat)):
            try:
                await self._go_on(journey, reply, chat, production, way, deadline)
                return
            except GatewayError as exc:
                failure = exc
                if not reply.opened:
                    continue
                if not isinstance(exc, UpstreamError):
                    raise
                await self.take_up(journey, reply, chat, exc, deadline)
                return
        raise failure or GatewayError("there is no way to go on")

    async def _go_on(
        self,
        journey: Journey,
        reply: Reply,
        chat: Chat,
        production: Production,
        way: Continuation,
        deadline: Deadline,
    ) -> None:
        """Take a stream up in one way; raises what became of it, if the stream does not end well."""
        partial, segments = production.partial(), len(production.segments)
        cause = journey.attempts[-1].outcome if journey.attempts else ""
        journey.taking_up = KINDS[way.how]

        async def make(attempt: Attempt, call: UpstreamCall, adapter: Adapter) -> Carrying | None:
            overlap = way.overlap()
            takes_up = TakesUp(
                production.answer_id,
                lambda: note_of(production.origin, production.id, partial, way.how, attempt.lane, overlap),
                production.spent(),
            )
            going_on = GoingOn(way, takes_up, overlap, cause)
            return await self.stream(journey, reply, chat, attempt, call, adapter, going_on)

        held = await self._attempts.until_answered(
            journey,
            way.lanes,
            Work(
                prepare=self.preparing(journey, chat, way.request),
                make=make,
                deadline=deadline,
                deadline_ms=journey.deadline_ms,
                fits=chat.fit.fits,
                is_committed=lambda: len(production.segments) > segments,
                is_repeatable=chat.is_repeatable,
                limit=chat.route.first_token_seconds,
                size=chat.size,
            ),
        )
        if held is not None:
            await self.end(journey, chat, held, deadline)


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
