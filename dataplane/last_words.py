"""What callers are told when no answer of a lane can be given: signed words in its place, or an honest error."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from dataplane.chat import Chat
from dataplane.copy_desk import CopyDesk
from dataplane.envelope import JSON_TYPE, Header, error_body, error_headers, face_of
from dataplane.errors import GatewayError
from dataplane.errors.admission import DeadlineExceeded
from dataplane.errors.answers import ValidationFailed
from dataplane.errors.upstream import UpstreamError
from dataplane.fallback import CopyAnswer
from dataplane.frames import DONE, Ending
from dataplane.journey import Journey, Reply
from dataplane.messages import (
    ChatRequest,
    ChatResponse,
    ChunkEncoder,
    Finish,
    Start,
    StreamChunk,
    TextDelta,
    Usage,
    UsageDelta,
)
from dataplane.policies import FallbackStack
from dataplane.relay import EVENT_STREAM, NO_CACHE
from dataplane.request_trace import FALLBACK
from dataplane.streams import Life
from dataplane.timers import TimerWheel

log = logging.getLogger("ballast.pipeline")

# How long a caller who is told of a failure may take to read it; the deadline of the request may be over by then.
LAST_WORDS_SECONDS: Final = 1.0


class LastWords:
    """See the module. One per process."""

    def __init__(self, *, copy_desk: CopyDesk, timers: TimerWheel, wall: Callable[[], float]) -> None:
        """`wall` is epoch seconds."""
        self._copy_desk = copy_desk
        self._timers = timers
        self._wall = wall

    async def answer_from_copy(
        self, journey: Journey, reply: Reply, request: ChatRequest, stack: FallbackStack, error: GatewayError
    ) -> None:
        """Answer with words that were signed beforehand, the best that suit; the last of them is an honest error."""
        journey.stage = "falling back"
        answer = await self._copy_desk.find(journey, request, stack, error)
        if answer is None:
            self.give_notice(journey, stack, error)
            raise error
        journey.copy = answer.copy
        journey.fallback = answer.rung
        if journey.trace is not None:
            journey.trace.note(FALLBACK, {"ballast.fallback": answer.rung, "ballast.copy": answer.copy.reference})
        await self.say(journey, reply, request, answer, finish_reason="stop", ballast=answer.to_json())

    async def withhold(self, journey: Journey, reply: Reply, chat: Chat, failure: ValidationFailed) -> None:
        """Answer with signed words in the place of an answer that must not be given, or say that it is withheld.

        Raises:
            ValidationFailed: nobody signed words that suit the request, or a part of the answer is out already.
        """
        policy = chat.route.validators
        words = None if policy is None else self._copy_desk.escalation(journey, chat.request, policy)
        if words is None:
            raise failure
        failure.escalation = words.notice
        if reply.opened or words.answer is None:
            raise failure
        journey.stage = "withholding the answer"
        ballast = {"validation": list(failure.rules), **words.notice}
        await self.say(journey, reply, chat.request, words.answer, finish_reason="content_filter", ballast=ballast)

    async def say(
        self,
        journey: Journey,
        reply: Reply,
        request: ChatRequest,
        answer: CopyAnswer,
        *,
        finish_reason: str,
        ballast: dict[str, Any],
        status: int = 200,
        more: Sequence[Header] = (),
    ) -> None:
        """Answer with signed copy. `ballast` is what there is to say about it, beside the rung that it is given on;
        `status` is a whole answer's, a stream always begins with 200; `more` are headers of this answer alone.
        """
        if journey.spoken is not None:
            # `copy` and `locale` are those of the words that stand in the answer, not of the banner above them.
            ballast = journey.spoken.to_json() | ballast
        journey.outcome = "ok"
        if journey.trace is not None and not request.stream:
            journey.trace.answer_with(status)
        created, model = int(self._wall()), f"copy:{answer.copy.reference}"
        with self._timers.deadline(LAST_WORDS_SECONDS):
            if not request.stream:
                response = ChatResponse(
                    id=journey.inbound.request_id,
                    model=model,
                    created=created,
                    text=answer.text,
                    finish_reason=finish_reason,
                    usage=Usage(),
                )
                headers = [*journey.headers(JSON_TYPE), *more]
                await reply.send_whole(status, headers, response.to_openai(ballast=ballast))
                return
            encoder = ChunkEncoder(include_usage=request.include_usage, ballast=ballast)
            start = Start(journey.inbound.request_id, model, created)
            deltas = (start, TextDelta(answer.text), Finish(finish_reason), UsageDelta(Usage()))
            payloads = [*encoder.encode(StreamChunk(deltas)), *encoder.closing(), DONE]
            await reply.open_stream([*journey.headers(EVENT_STREAM), NO_CACHE, *more])
            await reply.send_events(payloads, ending=Ending.COMPLETED)

    def give_notice(self, journey: Journey, stack: FallbackStack, error: GatewayError) -> None:
        """Let the error be told in signed words, with what is known of when it ends."""
        journey.notice = self._copy_desk.notice(journey, stack, error)
        journey.fallback = "outage"
        if journey.trace is not None:
            journey.trace.note(FALLBACK, {"ballast.fallback": "outage"})

    async def tell_whatever_happens(
        self, journey: Journey, reply: Reply, life: Life, *, is_apart: bool = False
    ) -> None:
        """Let `life` answer the request, and tell the caller what goes wrong; only cancellation passes through.

        Args:
            is_apart: This is the task in which a detached request lives on, so what becomes of it is noted here; where
                its caller waits, it is not.
        """
        request_id = journey.inbound.request_id
        try:
            await life(journey, reply)
        except (GatewayError, TimeoutError) as exc:
            error = as_error(journey, exc)
            if is_apart or not journey.is_detached:
                journey.fail(error)
            await self._tell(journey, reply, error)
        except asyncio.CancelledError:
            if not journey.outcome and (is_apart or not journey.is_detached):
                journey.outcome = "cancelled"
            raise
        except Exception:
            error = GatewayError("the gateway failed; the request id finds the reason in its log")
            log.exception("request %s failed while %s", request_id, journey.stage)
            if is_apart or not journey.is_detached:
                journey.fail(error)
            await self._tell(journey, reply, error)

    async def _tell(self, journey: Journey, reply: Reply, error: GatewayError) -> None:
        """Give the caller the error: as a response, or as the last event of a stream that is under way."""
        try:
            with self._timers.deadline(LAST_WORDS_SECONDS):
                if not reply.opened:
                    await self._tell_whole(journey, reply, error)
                elif journey.stream:
                    code, ending = None, Ending.FAILED
                    if isinstance(error, UpstreamError):
                        code, ending = "upstream_interrupted", Ending.INTERRUPTED
                    more = {} if journey.production is None else {"resume_cursor": journey.production.cursor()}
                    body = error_body(error, request_id=journey.inbound.request_id, code=code, **more)
                    await reply.send_events([body], ending=ending)
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


def as_error(journey: Journey, problem: GatewayError | TimeoutError) -> GatewayError:
    """The deadline as the error that it is: only it raises TimeoutError, everybody else has translated theirs."""
    if isinstance(problem, GatewayError):
        return problem
    return DeadlineExceeded(deadline_ms=journey.deadline_ms, stage=journey.stage)
