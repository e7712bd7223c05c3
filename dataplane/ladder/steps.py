"""What the rungs do to requests: how lanes are asked on them, and what is answered without asking any.

Each rung keeps what those below it do. One whose words nobody signed does nothing, neither by itself nor below another.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Protocol

from dataplane.attempts import Attempts
from dataplane.chat import Chat, chat_needs
from dataplane.copy_desk import CopyDesk
from dataplane.errors.admission import NoEligibleLane
from dataplane.errors.jobs import JobsUnavailable
from dataplane.errors.requests import InvalidRequest
from dataplane.fallback import CopyAnswer
from dataplane.journey import Journey, Reply
from dataplane.ladder.desk import LadderDesk, Stand
from dataplane.ladder.effects import cheaper, must_call, shortened, without_tools
from dataplane.ladder.errors import Shed, UnderMaintenance
from dataplane.ladder.policy import CHEAPER, KNOWN_ONLY, LATER, MAINTENANCE, NO_TOOLS, OFF, SHORTER
from dataplane.ladder.words import Spoken
from dataplane.lane_choice import choose_lanes
from dataplane.lane_fit import LaneFit
from dataplane.last_words import LastWords
from dataplane.messages import ChatRequest
from dataplane.policies import CachedAnswers
from dataplane.routing import Lane, Route

NO_JOBS: Final = "answers come later now, and this gateway is told of no place to keep them"
NO_CALLS: Final = "no tools are called now, and only a call of one would be an answer"
NO_SCHEMA: Final = "words that were signed beforehand are the answer now, and they do not suit what was asked for"
NO_PROMISE: Final = f"{NO_SCHEMA}; send ballast-later: accept to be told of a job instead"
NO_CONTINUING: Final = "nothing is taken up again now; what is there of the answer can still be read"
NO_EMBEDDINGS: Final = "nothing is generated now, and an embedding cannot be signed beforehand"


class Later(Protocol):
    """Whoever answers with a promise, and keeps it later."""

    async def answer(self, journey: Journey, reply: Reply, chat: Chat, stand: Stand) -> None:
        """Take over a request as it was asked, and tell its caller where it stands; bounds what it waits for.

        Raises:
            JobsUnavailable: nothing was taken over, or told.
        """


class Steps:
    """See the module. One per process, on one event loop."""

    def __init__(
        self,
        desk: LadderDesk,
        *,
        attempts: Attempts,
        copy_desk: CopyDesk,
        last_words: LastWords,
        later: Later | None,
    ) -> None:
        """Without `later`, whoever is to be answered later is told that it cannot be."""
        self._desk = desk
        self._attempts = attempts
        self._copy_desk = copy_desk
        self._last_words = last_words
        self._later = later

    def enter(self, journey: Journey) -> Stand | None:
        """Let a request in whose route is known, once; None: it is served as if there were no ladder.

        It leaves when it is recorded. Evals never enter: what they measure must not depend on the load.
        """
        if journey.tenant is None or journey.is_eval:
            return None
        stand = journey.stand = self._desk.enter(journey.route, journey.tenant.tier, is_job=journey.is_job)
        if stand is None or stand.rung == OFF:
            return None
        journey.part = None  # how a version does on a rung says nothing of how it does
        self._speak(journey, stand)
        return stand

    async def take(self, journey: Journey, reply: Reply, chat: Chat, stand: Stand) -> Chat | None:
        """The request as lanes are asked it where it stands; None: it is answered, and no lane is asked.

        Raises:
            Shed, UnderMaintenance: in the signed words of its rung.
        """
        if stand.rung < LATER:
            return self._as_lanes_are_asked(journey, chat, stand)
        self._refuse_under_maintenance(journey, stand)
        if stand.rung == LATER:
            await self._promise(journey, reply, chat, stand)
        else:
            await self._answer_from_copy(journey, reply, chat, stand)
        return None

    def go_on(self, journey: Journey, chat: Chat, stand: Stand) -> Chat:
        """As `take`, for what takes up an answer that broke off: that is for lanes, or for nobody."""
        if stand.rung < LATER:
            return self._as_lanes_are_asked(journey, chat, stand)
        self._refuse_under_maintenance(journey, stand)
        raise self._shed(journey, NO_CONTINUING)

    def embed(self, journey: Journey, stand: Stand) -> None:
        """Return as long as lanes are asked for anything; an embedding is neither shorter nor cheaper on any rung.

        Raises:
            Shed, UnderMaintenance: as `take`.
        """
        self._refuse_under_maintenance(journey, stand)
        if stand.rung > LATER:
            raise self._shed(journey, NO_EMBEDDINGS)

    # Short of rung 4: what lanes are asked.

    def _as_lanes_are_asked(self, journey: Journey, chat: Chat, stand: Stand) -> Chat:
        rungs, request, route = stand.surface.rungs, chat.request, chat.route
        does = {number for number in stand.surface.engageable if number <= stand.rung}
        if NO_TOOLS in does and must_call(request.parameters):
            raise self._shed(journey, NO_CALLS)
        if SHORTER in does:
            request = shortened(request, rungs[SHORTER])
        if NO_TOOLS in does:
            request = without_tools(request, rungs[NO_TOOLS])
        fit = LaneFit(request, providers=chat.release.routing.providers)
        lanes: tuple[Lane, ...] = ()
        if CHEAPER in does:
            lanes = self._lanes_of(journey, chat, rungs[CHEAPER].route, request, fit)
            if lanes:
                route = cheaper(route, chat.release.routing.routes[rungs[CHEAPER].route])
            elif self._step_down(journey, stand) is None:
                return chat
        journey.lanes = lanes or fit.from_first(journey.lanes)
        # Where capacity is short, nothing is asked twice to compare it.
        return Chat(request, chat.release, replace(route, shadow=None), fit, chat.is_repeatable)

    def _lanes_of(
        self, journey: Journey, chat: Chat, route: str, request: ChatRequest, fit: LaneFit
    ) -> tuple[Lane, ...]:
        """The lanes of another route that can carry the request, where it may go; none, if there are none."""
        if journey.tenant is None:
            return ()
        is_mended = chat.route.repair is not None
        try:
            lanes = choose_lanes(
                self._attempts,
                chat.release,
                journey.tenant,
                route=route,
                needs=chat_needs(request),
                is_mended=is_mended,
            )
            return fit.from_first(lanes)
        except (NoEligibleLane, InvalidRequest):
            # A pin, or what the request needs, weighs more than what its answer costs.
            return ()

    def _step_down(self, journey: Journey, stand: Stand) -> Stand | None:
        """Let a request that no cheaper lane can serve stand on the rung below that one; None: there is none."""
        below = replace(stand, rung=stand.surface.nearest(NO_TOOLS))
        journey.stand = below
        if below.rung == OFF:
            journey.spoken = None
            return None
        self._speak(journey, below)
        return below

    # From rung 4 on: what is answered without a lane.

    async def _promise(self, journey: Journey, reply: Reply, chat: Chat, stand: Stand) -> None:
        if self._later is None:
            raise self._shed(journey, NO_JOBS)
        request = chat.request
        if journey.inbound.later is None and (request.wants_json or must_call(request.parameters)):
            # Who reads answers by a schema would take a promise for a broken one.
            raise self._shed(journey, NO_PROMISE)
        try:
            await self._later.answer(journey, reply, chat, stand)
        except JobsUnavailable as exc:
            raise self._shed(journey, exc.message) from exc

    async def _answer_from_copy(self, journey: Journey, reply: Reply, chat: Chat, stand: Stand) -> None:
        journey.stage = "looking for a signed answer"
        request, spoken = chat.request, _spoken(journey)
        known = _known_answers(chat.route, stand.surface.rungs[KNOWN_ONLY].answers)
        answer, ballast = None, {}
        # The ladder may follow a later release than this request, whose words are then not here yet.
        if known.copy in chat.release.copy:
            answer = await self._copy_desk.known_answer(journey, request, known)
        if answer is None:
            if request.wants_json or must_call(request.parameters):
                raise self._shed(journey, NO_SCHEMA)
            answer = CopyAnswer("template", spoken.copy, spoken.locale, spoken.words.detail)
            ballast = spoken.to_json_in_full()
        journey.copy, journey.fallback = answer.copy, answer.rung
        ballast |= answer.to_json()
        await self._last_words.say(journey, reply, request, answer, finish_reason="stop", ballast=ballast)

    def _refuse_under_maintenance(self, journey: Journey, stand: Stand) -> None:
        """Return unless nothing is answered; a runner comes again later, so it needs no other words either."""
        if stand.rung == MAINTENANCE or journey.is_job:
            spoken = _spoken(journey)
            raise UnderMaintenance(
                spoken.words.detail, retry_after_seconds=spoken.eta_seconds, members=self._members(spoken)
            )

    def _shed(self, journey: Journey, why: str) -> Shed:
        spoken = _spoken(journey)
        return Shed(
            spoken.words.detail,
            retry_after_seconds=spoken.eta_seconds,
            members={**self._members(spoken), "why": why},
        )

    # What is told of it.

    def _speak(self, journey: Journey, stand: Stand) -> None:
        inbound = journey.inbound
        journey.spoken = self._desk.speak(stand, accepted=inbound.accept_language, request_id=inbound.request_id)

    def _members(self, spoken: Spoken) -> dict[str, object]:
        return {**spoken.to_json_in_full(), "status_url": self._desk.status_url(spoken.surface.slug)}


def _spoken(journey: Journey) -> Spoken:
    if journey.spoken is None:
        raise ValueError("the request stands on no rung, so nothing is said of one")
    return journey.spoken


def _known_answers(route: Route, copy: str) -> CachedAnswers:
    """How known questions are found: by meaning too, where the route's own fallback stack has these learnt so."""
    stack = route.fallback
    if stack is not None and stack.answers is not None and stack.answers.copy == copy:
        return stack.answers
    return CachedAnswers(copy, None, None)
