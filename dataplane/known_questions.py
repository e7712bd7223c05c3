"""Questions that have a signed answer, found by meaning: their embeddings are learnt while all is well, and compared
with a caller's question when no lane can answer it.

Vectors of different models cannot be compared, so each model of the embedding route is learnt by itself. Whoever asks
is served within its residency; the known questions are our own words and may be learnt anywhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np

from dataplane.attempts import Attempts
from dataplane.embedding import NEEDS, TextEmbedder
from dataplane.errors import GatewayError
from dataplane.errors.admission import NoEligibleLane
from dataplane.errors.requests import UnsupportedRequest
from dataplane.journey import Journey, own_journey
from dataplane.lane_caller import LaneCaller
from dataplane.policies import CachedAnswers
from dataplane.release import Release
from dataplane.routing import Lane, eligible_lanes
from dataplane.signed_copy import Answer, SignedCopy
from dataplane.timers import TimerWheel
from dataplane.vectors import Vectors

MATCH_SECONDS: Final = 1.0
LEARN_SECONDS: Final = 20.0
LEARN_AGAIN_SECONDS: Final = 30.0
MAX_QUESTIONS: Final = 4
BATCH: Final = 64


class Key(NamedTuple):
    """What a set of vectors is of: copy by its digest, in one language, by one model as one lane's vendor calls it."""

    digest: str
    locale: str
    model: str
    upstream_model: str


class _Learnt(NamedTuple):
    """Vectors of known questions, one a row, and the answer of each."""

    vectors: Vectors
    answers: tuple[Answer, ...]


log = logging.getLogger("ballast.known_questions")


class KnownQuestions:
    """What one process has learnt. Belongs to one event loop."""

    def __init__(
        self,
        *,
        attempts: Attempts,
        caller: LaneCaller,
        timers: TimerWheel,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._embedder = TextEmbedder(attempts=attempts, caller=caller)
        self._timers = timers
        self._clock = clock
        self._wall = wall
        self._release: Release | None = None
        self._known: dict[Key, _Learnt] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def adopt(self, release: Release) -> None:
        """Learn what this release's copy asks for, in the background."""
        self._release = release
        self._changed.set()

    async def start(self) -> None:
        """Begin to learn."""
        self._task = asyncio.create_task(self._learn_regularly(), name="learn-questions")

    async def stop(self) -> None:
        """Learn no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def nearest(
        self,
        journey: Journey,
        rung: CachedAnswers,
        copy: SignedCopy,
        questions: Sequence[str],
        *,
        locale: str,
    ) -> tuple[Answer, float] | None:
        """The answer whose question is nearest in meaning to one of `questions`, and how near (cosine), if that is at
        least the rung's score; None otherwise, and when nothing can be compared within MATCH_SECONDS.
        """
        release, tenant, score = journey.release, journey.tenant, rung.minimum_score
        if rung.embedding_route is None or score is None or release is None or tenant is None or not questions:
            return None
        try:
            lanes = eligible_lanes(release.routing, route=rung.embedding_route, residency=tenant.residency, needs=NEEDS)
        except (NoEligibleLane, UnsupportedRequest):
            return None
        key = next((key for lane in lanes if (key := _key(copy, locale, lane)) in self._known), None)
        if key is None:
            return None
        known = self._known[key]
        try:
            vectors = await self._embed(
                journey,
                release,
                [lane for lane in lanes if _key(copy, locale, lane) == key],
                list(questions[:MAX_QUESTIONS]),
                seconds=MATCH_SECONDS,
            )
        except (GatewayError, TimeoutError) as exc:
            log.info("request %s is not matched by meaning: %s", journey.inbound.request_id, exc)
            return None
        if vectors.shape[1] != known.vectors.shape[1]:
            # The vendor has another model behind this name now: what was learnt compares with nothing any more.
            self._known.pop(key, None)
            self._changed.set()
            return None
        scores = known.vectors @ vectors.T
        place = int(np.argmax(scores.max(axis=1)))
        best = float(scores[place].max())
        return (known.answers[place], best) if best >= score.value else None

    async def learn(self) -> bool:
        """Learn whatever is not known yet; True when nothing is missing any more."""
        release = self._release
        if release is None:
            return True
        wanted: dict[Key, tuple[SignedCopy, list[Lane]]] = {}
        for stack in release.routing.fallbacks.values():
            rung = stack.answers
            if rung is None or rung.embedding_route is None:
                continue
            copy = release.copy[rung.copy]
            for locale in copy.locales:
                for lane in release.routing.routes[rung.embedding_route].lanes:
                    _, able = wanted.setdefault(_key(copy, locale, lane), (copy, []))
                    if lane not in able:  # two stacks may ask for the same
                        able.append(lane)
        self._known = {key: vectors for key, vectors in self._known.items() if key in wanted}
        complete = True
        for key, (copy, lanes) in wanted.items():
            if key in self._known:
                continue
            locale = key.locale
            pairs = [(question, answer) for answer in copy.answers[locale] for question in answer.questions]
            try:
                parts = []
                for start in range(0, len(pairs), BATCH):
                    texts = [question for question, _ in pairs[start : start + BATCH]]
                    journey = own_journey(started=self._clock(), wall=self._wall())
                    parts.append(await self._embed(journey, release, lanes, texts, seconds=LEARN_SECONDS))
                vectors = np.concatenate(parts)
            except (GatewayError, TimeoutError, ValueError) as exc:  # ValueError: parts of different length
                log.warning(
                    "the questions of %s (%s) are not learnt by %s yet: %s", copy.reference, locale, key.model, exc
                )
                complete = False
                continue
            self._known[key] = _Learnt(vectors, tuple(answer for _, answer in pairs))
        return complete

    async def _learn_regularly(self) -> None:
        while True:
            self._changed.clear()
            try:
                complete = await self.learn()
            except Exception:  # an outage must not be the first time that somebody hears of this
                log.exception("known questions could not be learnt")
                complete = False
            try:
                async with asyncio.timeout(None if complete else LEARN_AGAIN_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def _embed(
        self, journey: Journey, release: Release, lanes: Sequence[Lane], texts: list[str], *, seconds: float
    ) -> Vectors:
        with self._timers.deadline(seconds) as deadline:
            embedded = await self._embedder.embed(
                journey, release, lanes, texts, deadline=deadline, deadline_ms=seconds * 1000
            )
        return embedded.vectors


def _key(copy: SignedCopy, locale: str, lane: Lane) -> Key:
    return Key(copy.digest, locale, lane.model, lane.upstream_model)
