"""Asks models about an answer, beside the request for it: to repair it, or to judge it. Each question is an attempt,
and is billed as one.
"""

from __future__ import annotations

from dataplane.attempts import Attempts, Work
from dataplane.chat import Chat
from dataplane.journey import Attempt, Journey
from dataplane.json_formats import as_lane_takes_it
from dataplane.lane_caller import LaneCaller
from dataplane.lane_fit import LaneFit
from dataplane.messages import ChatRequest, ChatResponse
from dataplane.providers.base import Adapter, UpstreamCall
from dataplane.routing import Lane
from dataplane.timers import Deadline


class Asides:
    """See the module. For all requests of a process."""

    def __init__(self, *, caller: LaneCaller, attempts: Attempts) -> None:
        self._caller = caller
        self._attempts = attempts

    async def ask(
        self,
        journey: Journey,
        chat: Chat,
        request: ChatRequest,
        lanes: tuple[Lane, ...],
        deadline: Deadline,
        *,
        kind: str,
    ) -> tuple[ChatResponse, Attempt]:
        """Ask one of `lanes`; returns what it said, and the attempt that got it.

        Args:
            kind: Member of `journey.ASIDE`.
        Raises:
            GatewayError: no lane gave an answer.
        """
        fit = LaneFit(request, providers=chat.release.routing.providers)

        def prepare(lane: Lane) -> tuple[UpstreamCall, Adapter]:
            account, adapter, secret = self._caller.access(chat.release, lane)
            told = as_lane_takes_it(request, lane)
            return adapter.chat_call(told, lane=lane, account=account, secret=secret), adapter

        async def make(attempt: Attempt, call: UpstreamCall, adapter: Adapter) -> tuple[ChatResponse, Attempt]:
            told = as_lane_takes_it(request, attempt.lane)
            limit = chat.route.whole_answer_seconds
            return await self._caller.chat(attempt, call, adapter, told, limit=limit), attempt

        stage = journey.stage
        journey.stage, journey.aside = f"the {kind} of the answer", kind
        try:
            return await self._attempts.until_answered(
                journey,
                fit.from_first(lanes),
                Work(
                    prepare=prepare,
                    make=make,
                    deadline=deadline,
                    deadline_ms=journey.deadline_ms,
                    fits=fit.fits,
                    limit=chat.route.whole_answer_seconds,
                    size=lambda _: (fit.estimated_tokens, request.parameters.get("max_tokens")),
                ),
            )
        finally:
            journey.stage, journey.aside = stage, ""
