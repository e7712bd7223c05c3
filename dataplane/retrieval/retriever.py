"""Finds what a corpus says to a question, and decides whether it may be told at its age.

The question is embedded by the model of the namespace that is searched, at lanes within the pin of whoever asks. The
two are the policy's and the same, but while a corpus moves to another model: until it is switched, what serves is what
its vectors say it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from dataplane.access import Tenant
from dataplane.attempts import Attempts
from dataplane.embedding import NEEDS, Embedded, TextEmbedder
from dataplane.errors import GatewayError
from dataplane.errors.admission import NoEligibleLane, NoRelease
from dataplane.errors.requests import Unauthorized
from dataplane.journey import RETRIEVAL, Journey
from dataplane.lane_caller import LaneCaller
from dataplane.lane_choice import choose_lanes
from dataplane.release import Release
from dataplane.retrieval.counting import RetrievalCounts
from dataplane.retrieval.errors import CorpusNotFound, CorpusStale, CorpusUnavailable, ModelMoved
from dataplane.retrieval.found import Chunk as Chunk
from dataplane.retrieval.found import Found, Place
from dataplane.retrieval.freshness import Judged, Outcome, Standing, freshness_json, judge
from dataplane.retrieval.modes import Mode
from dataplane.retrieval.policy import Corpus
from dataplane.retrieval.requests import Filters
from dataplane.retrieval.words import Banner, age_in_words, banner_of
from dataplane.stores.corpora import CorpusStore
from dataplane.timers import Deadline

# How long a caller is held who waits for a change, and how long between two looks: at first, and at last.
MAX_WAIT_SECONDS: Final = 10.0
FIRST_PAUSE_SECONDS: Final = 0.025
LONGEST_PAUSE_SECONDS: Final = 0.250
# When it is worth another look at a corpus that is too old: changes are searchable within seconds, mostly.
RETRY_AFTER_SECONDS: Final = 5.0
# A corpus whose model changes more often than this under one question is not to be searched.
MAX_MODELS: Final = 3
NO_FILTERS: Final[Filters] = {}


@dataclass(frozen=True, slots=True)
class Retrieved:
    """What was found and may be told.

    Attributes:
        banner: Signed words that go along; None where nothing need be said of its age. `locale` is theirs, `copy` the
            slug@version of what was signed; both empty without.
        lane, model: By which the question was embedded.
    """

    standing: Standing
    judged: Judged
    chunks: tuple[Chunk, ...]
    banner: str | None
    locale: str
    copy: str
    lane: str
    model: str

    def banner_json(self) -> dict[str, Any] | None:
        """As answers have it: see `Banner.to_json`; None without."""
        return None if self.banner is None else Banner(self.banner, self.locale, self.copy).to_json()


class Retriever:
    """See the module. One per process."""

    def __init__(
        self,
        store: CorpusStore | None,
        *,
        attempts: Attempts,
        caller: LaneCaller,
        counts: RetrievalCounts,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        """`store` None: this gateway is told of no database. `clock` is monotonic seconds, `wall` epoch seconds."""
        self._store = store
        self._attempts = attempts
        self._embedder = TextEmbedder(attempts=attempts, caller=caller)
        self._counts = counts
        self._clock = clock
        self._wall = wall

    async def start(self) -> None:
        """Begin to connect; never waits for it."""
        if self._store is not None:
            await self._store.start()

    async def stop(self) -> None:
        """Let go of the store."""
        if self._store is not None:
            await self._store.close()

    async def retrieve(
        self,
        journey: Journey,
        corpus: Corpus,
        text: str,
        *,
        k: int,
        mode: Mode,
        deadline: Deadline,
        filters: Filters = NO_FILTERS,
    ) -> Retrieved:
        """Find the `k` chunks of `corpus` that are nearest to `text`. The embedding is an attempt of the journey's,
        recorded as RETRIEVAL.

        Args:
            corpus: One that the journey's tenant may ask: see `corpus_of`.
            deadline: Bounds all of it; over that, TimeoutError.
        Raises:
            CorpusStale: it is older than may be told, or a change that is waited for is not searchable in time.
            CorpusPaused, CorpusEmpty, SnapshotGone, CorpusUnavailable: see `CorpusStore`.
            GatewayError: no lane embeds the question.
        """
        stage, outcome = journey.stage, "cancelled"
        try:
            retrieved = await self._retrieve(journey, corpus, text, k=k, mode=mode, deadline=deadline, filters=filters)
            outcome = retrieved.judged.outcome
            journey.stage = stage
            return retrieved
        except GatewayError as exc:
            outcome = exc.code
            raise
        finally:
            self._counts.count(corpus.slug, outcome)

    async def _retrieve(
        self,
        journey: Journey,
        corpus: Corpus,
        text: str,
        *,
        k: int,
        mode: Mode,
        deadline: Deadline,
        filters: Filters,
    ) -> Retrieved:
        if self._store is None:
            raise CorpusUnavailable("this gateway is told of no database")
        until = self._clock() + MAX_WAIT_SECONDS
        journey.stage = f"looking where corpus {corpus.slug!r} serves from"
        place = await self._store.place(corpus.slug, mode.snapshot)
        for _ in range(MAX_MODELS):
            try:
                question = await self._embed(journey, corpus, text, place, deadline)
            except GatewayError:
                # By a model that served before, perhaps, whose lanes are gone with it; a search would have found out.
                before, place = place, await self._store.place(corpus.slug, mode.snapshot, anew=True)
                if (place.model, place.dimensions) == (before.model, before.dimensions):
                    raise
                continue
            try:
                found, judged = await self._search(
                    self._store, journey, corpus, place, question, k=k, mode=mode, filters=filters, until=until
                )
            except ModelMoved as moved:
                place = moved.place
                continue
            banner = self._banner(journey, corpus, found.standing, judged)
            return Retrieved(
                standing=found.standing,
                judged=judged,
                chunks=found.chunks,
                banner=None if banner is None else banner.text,
                locale="" if banner is None else banner.locale,
                copy="" if banner is None else banner.copy,
                lane=question.lane.id,
                model=place.model,
            )
        raise CorpusUnavailable(f"{corpus.slug!r} changes its model faster than a question can be embedded")

    async def _embed(self, journey: Journey, corpus: Corpus, text: str, place: Place, deadline: Deadline) -> Embedded:
        """Embed the question by the model of the place."""
        release, tenant = journey.release, journey.tenant
        if release is None:
            raise NoRelease
        if tenant is None:
            raise Unauthorized("nobody is known to ask")
        journey.stage = "embedding the question"
        name = corpus.embedding.route
        route = release.routing.routes[name]
        able = choose_lanes(self._attempts, release, tenant, route=name, needs=NEEDS, is_mended=False)
        lanes = [lane for lane in able if lane.model == place.model]
        if not lanes:
            excluded = {lane.id: f"embeds by {lane.model!r}, not by {place.model!r}" for lane in able}
            raise NoEligibleLane(name, excluded=excluded)
        return await self._embedder.embed(
            journey,
            release,
            lanes,
            [text],
            deadline=deadline,
            deadline_ms=journey.deadline_ms,
            parameters=corpus.embedding.parameters(is_query=True),
            dimensions=place.dimensions,
            policy=route.retry,
            limit=route.whole_answer_seconds,
            has_fallback=False,
            kind=RETRIEVAL,
        )

    async def _search(
        self,
        store: CorpusStore,
        journey: Journey,
        corpus: Corpus,
        place: Place,
        question: Embedded,
        *,
        k: int,
        mode: Mode,
        filters: Filters,
        until: float,
    ) -> tuple[Found, Judged]:
        """Search until what is found may be told; a change that is waited for is looked for until `until`.

        Raises:
            ModelMoved, CorpusStale, and what `CorpusStore.search` does.
        """
        pause = FIRST_PAUSE_SECONDS
        while True:
            journey.stage = f"searching corpus {corpus.slug!r}"
            found = await store.search(
                corpus.slug, place.model, question.vectors[0], k=k, mode=mode, filters=filters, now=self._now()
            )
            standing = found.standing
            if mode.snapshot is None:
                self._counts.note_lag(corpus.slug, standing.lag_seconds)
            judged = judge(corpus, mode, standing)
            if judged.outcome is Outcome.REFUSE:
                raise _stale(corpus, mode, standing, judged)
            if judged.outcome is not Outcome.WAIT:
                return found, judged
            # What operators pinned does not move, however long somebody waits.
            if standing.is_pinned or self._clock() + pause > until:
                raise _not_there_yet(corpus, standing, judged)
            journey.stage = f"waiting for a change of corpus {corpus.slug!r} to be searchable"
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE_SECONDS, pause * 2)

    def _banner(self, journey: Journey, corpus: Corpus, standing: Standing, judged: Judged) -> Banner | None:
        if judged.outcome is not Outcome.BANNER or journey.release is None:
            return None
        copy = journey.release.copy[corpus.freshness.banner]
        accepted = journey.inbound.accept_language
        return banner_of(corpus, copy, lag_seconds=standing.lag_seconds, now=self._now(), accepted=accepted)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._wall(), UTC)


def corpus_of(release: Release, tenant: Tenant, slug: str, *, param: str = "corpus") -> Corpus:
    """The corpus that a tenant names.

    Raises:
        CorpusNotFound: there is none, or not for this tenant; `param` is where it was named.
    """
    corpus = release.corpora.get(slug)
    if corpus is None or not corpus.admits(tenant.slug):
        raise CorpusNotFound(slug, param=param)
    return corpus


def _stale(corpus: Corpus, mode: Mode, standing: Standing, judged: Judged) -> CorpusStale:
    remedy = "retry later"
    if mode.max_lag_seconds is not None and corpus.freshness.max_lag_seconds.value >= standing.lag_seconds:
        remedy = "retry later, or allow a greater max_lag_seconds"
    return CorpusStale(
        f"corpus {corpus.slug!r} lacks changes of up to {age_in_words(standing.lag_seconds)} ago, and no more than"
        f" {age_in_words(judged.max_lag_seconds)} is allowed; {remedy}",
        members=_members(corpus, standing, judged),
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )


def _not_there_yet(corpus: Corpus, standing: Standing, judged: Judged) -> CorpusStale:
    why = "is not searchable yet; retry with the same token"
    if standing.is_pinned:
        why = "may not be in the snapshot that its operators pinned; retry once they let it go, or read without a token"
    return CorpusStale(
        f"the change of corpus {corpus.slug!r} that 'at_least' names {why}",
        members=_members(corpus, standing, judged),
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )


def _members(corpus: Corpus, standing: Standing, judged: Judged) -> Mapping[str, Any]:
    return {"corpus": corpus.slug, "freshness": freshness_json(standing, judged)}
