"""Answers a request from signed copy once its lanes could not: finds the best words that suit it, and says when the
lanes are worth another try.
"""

from __future__ import annotations

from dataplane.errors import GatewayError
from dataplane.errors.admission import NoRelease
from dataplane.fallback import (
    CopyAnswer,
    Escalation,
    OutageNotice,
    escalation,
    eta_of,
    exact_answer,
    outage_notice,
    placeholder_values,
    questions_of,
    suitable_text,
    template_answer,
)
from dataplane.fleet import FleetBreakers
from dataplane.journey import Journey
from dataplane.known_questions import KnownQuestions
from dataplane.messages import ChatRequest
from dataplane.policies import CachedAnswers, FallbackStack
from dataplane.schema_check import SchemaChecker
from dataplane.signed_copy import CopyBook, choose_locale
from dataplane.validators.policy import ValidatorPolicy


class CopyDesk:
    """See the module. One per process."""

    def __init__(self, *, breakers: FleetBreakers, known_questions: KnownQuestions, schemas: SchemaChecker) -> None:
        self._breakers = breakers
        self._known_questions = known_questions
        self._schemas = schemas

    async def find(
        self, journey: Journey, request: ChatRequest, stack: FallbackStack, error: GatewayError
    ) -> CopyAnswer | None:
        """Return the first rung of `stack` that has an answer which suits the request; None when only the outage notice
        is left. `error` is what the lanes failed with.
        """
        if stack.answers is not None:
            answer = await self.known_answer(journey, request, stack.answers)
            if answer is not None:
                return answer
        if stack.template is None:
            return None
        return template_answer(
            _book(journey)[stack.template],
            self._values(journey, error),
            request=request,
            accepted=journey.inbound.accept_language,
            schemas=self._schemas,
        )

    def notice(self, journey: Journey, stack: FallbackStack, error: GatewayError) -> OutageNotice:
        """Return the words for a request that nothing can answer."""
        return outage_notice(
            _book(journey)[stack.outage],
            self._values(journey, error),
            eta_seconds=self._eta_seconds(journey, error),
            accepted=journey.inbound.accept_language,
        )

    def escalation(self, journey: Journey, request: ChatRequest, policy: ValidatorPolicy) -> Escalation | None:
        """Return the words that take the place of an answer that must not be given; None where nobody wrote any."""
        if policy.escalation is None:
            return None
        copy = _book(journey)[policy.escalation]
        values = {"request_id": journey.inbound.request_id, "route": journey.route}
        accepted = journey.inbound.accept_language
        return escalation(copy, values, request=request, accepted=accepted, schemas=self._schemas)

    async def known_answer(self, journey: Journey, request: ChatRequest, rung: CachedAnswers) -> CopyAnswer | None:
        """Return the signed answer to a known question, if this is one and its answer suits the request."""
        copy = _book(journey)[rung.copy]
        accepted = journey.inbound.accept_language
        questions = questions_of(request)
        exact = exact_answer(copy, questions, request=request, accepted=accepted, schemas=self._schemas)
        if exact is not None:
            return exact
        locale = choose_locale(accepted, copy)
        near = await self._known_questions.nearest(journey, rung, copy, questions, locale=locale)
        if near is None:
            return None
        answer, score = near
        text = suitable_text(request, answer.words, self._schemas)
        return None if text is None else CopyAnswer("cached", copy, locale, text, round(score, 4))

    def _values(self, journey: Journey, error: GatewayError) -> dict[str, str]:
        return placeholder_values(
            eta_seconds=self._eta_seconds(journey, error), request_id=journey.inbound.request_id, route=journey.route
        )

    def _eta_seconds(self, journey: Journey, error: GatewayError) -> float:
        waits = self._breakers.open_seconds([lane.id for lane in journey.lanes])
        return eta_of(journey.lanes, open_seconds=waits, error=error)


def _book(journey: Journey) -> CopyBook:
    if journey.release is None:
        raise NoRelease
    return journey.release.copy
