"""How long somebody waits for a change, by which model a question is embedded, and what is counted of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from dataplane.embedding import Embedded
from dataplane.errors.admission import NoEligibleLane
from dataplane.errors.upstream import UpstreamUnavailable
from dataplane.journey import Inbound, Journey
from dataplane.release import parse_document
from dataplane.retrieval.counting import RetrievalCounts
from dataplane.retrieval.errors import CorpusEmpty, CorpusNotFound, CorpusStale, CorpusUnavailable, ModelMoved
from dataplane.retrieval.found import Found, Place
from dataplane.retrieval.freshness import Outcome, Standing
from dataplane.retrieval.modes import ANY, Mode
from dataplane.retrieval.retriever import LONGEST_PAUSE_SECONDS, MAX_WAIT_SECONDS, Retriever, corpus_of
from dataplane.retrieval.tables import Snapshot
from dataplane.timers import TimerWheel
from tests.corpora_documents import MODEL, SLUG, banner_copy, corpora, embedding_routing
from tests.dataplane.conftest import DocumentFactory
from tests.dataplane.virtual_time import in_virtual_time

from .corpus_tables import DIMENSIONS, NOW, unit

HERE = Place(7, MODEL, DIMENSIONS, "pgvector")


class Kept:
    """What is in the store, search by search: a standing, or what is raised; the last one for ever."""

    def __init__(self, *script: Any, places: Any = (HERE,)) -> None:
        self.script = list(script)
        self.places = list(places)
        self.searched: list[tuple[str, float]] = []
        self.looked: list[bool] = []

    async def place(self, slug: str, snapshot: Snapshot | None, *, anew: bool = False) -> Place:
        self.looked.append(anew)
        return self.places[0] if len(self.places) == 1 else self.places.pop(0)

    async def search(self, slug: str, model: str, vector: Any, **_: Any) -> Found:
        self.searched.append((model, asyncio.get_running_loop().time()))
        said = self.script[0] if len(self.script) == 1 else self.script.pop(0)
        if isinstance(said, Exception):
            raise said
        return Found(said, ())


class Vendor:
    """Attempts at lanes that embed whatever they are asked, unless they fail."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.asked: list[tuple[list[str], str]] = []

    def in_order(self, lanes: Any, steering: Any) -> Any:
        return lanes

    async def until_answered(self, journey: Journey, lanes: Any, work: Any) -> Any:
        self.asked.append(([lane.id for lane in lanes], journey.aside))
        if self.failure is not None:
            raise self.failure
        return Embedded(unit(1).reshape(1, DIMENSIONS), lanes[0])


class Bench:
    """A retriever over what is kept, and the journey of a tenant."""

    def __init__(self, make_document: DocumentFactory, kept: Kept | None, vendor: Vendor | None = None, **changes: Any):
        document = make_document(routing=embedding_routing(), corpora=corpora(**changes), copy=banner_copy())
        self.release = parse_document(document, digest="d" * 64)
        self.vendor = vendor or Vendor()
        self.counts = RetrievalCounts()
        self.journey = Journey(Inbound("req_1", b"", 0.0))
        self.journey.release, self.journey.tenant = self.release, self.release.access.tenants["acme"]
        self.journey.deadline_ms, self.journey.stage = 60_000, "answering"
        caller: Any = SimpleNamespace()
        self.retriever = Retriever(
            kept,  # type: ignore[arg-type]
            attempts=self.vendor,  # type: ignore[arg-type]
            caller=caller,
            counts=self.counts,
            clock=lambda: asyncio.get_running_loop().time(),
            wall=NOW.timestamp,
        )

    async def retrieve(self, mode: Mode = ANY, *, seconds: float = 60.0) -> Any:
        corpus = corpus_of(self.release, self.release.access.tenants["acme"], SLUG)
        with TimerWheel().deadline(seconds) as deadline:
            return await self.retriever.retrieve(self.journey, corpus, "Why?", k=3, mode=mode, deadline=deadline)

    def counted(self) -> Iterator[tuple[str, float]]:
        for family in self.counts.families():
            for sample in family.samples:
                yield sample.labels.get("outcome", "lag"), sample.value


def standing(lag_seconds: float = 0.0, **changes: Any) -> Standing:
    return Standing(Snapshot(7, 3), lag_seconds=lag_seconds, pending=0, poisoned=0, **changes)


AWAITED = standing(1, waited_for=True)


@in_virtual_time
async def test_change_is_looked_for_at_growing_intervals(make_document: DocumentFactory) -> None:
    """Soon at first, then four times a second, with the question that was embedded once."""
    kept = Kept(*[AWAITED] * 6, standing())
    bench = Bench(make_document, kept)

    retrieved = await bench.retrieve(Mode(at_least=9))

    times = [at for _, at in kept.searched]
    pauses = [round(after - before, 3) for before, after in pairwise(times)]
    assert pauses == [0.025, 0.05, 0.1, 0.2, LONGEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS]
    assert retrieved.judged.outcome is Outcome.SERVE
    assert len(bench.vendor.asked) == 1
    assert bench.journey.stage == "answering"


@in_virtual_time
async def test_change_that_never_becomes_searchable_is_waited_for_so_long(make_document: DocumentFactory) -> None:
    """Then the caller is told to come again with its token."""
    bench = Bench(make_document, Kept(AWAITED))
    began = asyncio.get_running_loop().time()

    with pytest.raises(CorpusStale, match="retry with the same token") as caught:
        await bench.retrieve(Mode(at_least=9))

    waited = asyncio.get_running_loop().time() - began
    assert MAX_WAIT_SECONDS - LONGEST_PAUSE_SECONDS <= waited <= MAX_WAIT_SECONDS
    assert caught.value.members["freshness"]["snapshot"] == "ns_7.3"


@in_virtual_time
async def test_deadline_ends_a_wait(make_document: DocumentFactory) -> None:
    """Whatever the corpus still lacks; it counts as cancelled here, and its caller is told of the deadline."""
    bench = Bench(make_document, Kept(AWAITED))

    with pytest.raises(TimeoutError):
        await bench.retrieve(Mode(at_least=9), seconds=2.0)

    assert ("cancelled", 1.0) in list(bench.counted())
    assert bench.journey.stage == f"waiting for a change of corpus {SLUG!r} to be searchable"


@in_virtual_time
async def test_what_is_pinned_is_not_waited_for(make_document: DocumentFactory) -> None:
    """It does not move."""
    kept = Kept(standing(1, waited_for=True, is_pinned=True))
    bench = Bench(make_document, kept)

    with pytest.raises(CorpusStale, match="pinned"):
        await bench.retrieve(Mode(at_least=9))

    assert len(kept.searched) == 1


@in_virtual_time
async def test_question_is_embedded_again_by_the_model_that_serves_by_now(make_document: DocumentFactory) -> None:
    """While a corpus moves to another model; a model that no lane of its route serves is said to be the reason."""
    old = Place(6, "old", DIMENSIONS, "pgvector")
    kept = Kept(ModelMoved(HERE), standing(), places=[old, old])
    bench = Bench(make_document, kept)
    with pytest.raises(NoEligibleLane, match="not by 'old'"):
        await bench.retrieve()
    kept.places = [Place(6, "old", DIMENSIONS, "pgvector"), HERE]

    with pytest.raises(CorpusUnavailable, match="changes its model faster"):
        await Bench(make_document, Kept(ModelMoved(HERE))).retrieve()
    retrieved = await bench.retrieve()

    assert kept.looked[-2:] == [False, True]
    assert (retrieved.model, retrieved.lane) == (MODEL, f"openai/eu-west/main/{MODEL}")
    assert bench.vendor.asked == [([f"openai/eu-west/main/{MODEL}"], "retrieval")] * 2


@in_virtual_time
async def test_every_retrieval_is_counted_by_its_outcome(make_document: DocumentFactory) -> None:
    """With the lag as it was last seen; that of a snapshot is its own, and not the corpus'."""
    kept = Kept(standing(5), standing(400), CorpusEmpty(SLUG), standing(9000))
    bench = Bench(make_document, kept)

    await bench.retrieve()
    told = await bench.retrieve()
    with pytest.raises(CorpusEmpty):
        await bench.retrieve()
    await bench.retrieve(Mode(snapshot=Snapshot(7, 1)))
    bench.vendor.failure = UpstreamUnavailable("no")
    with pytest.raises(UpstreamUnavailable):
        await bench.retrieve()

    assert dict(bench.counted()) == {
        "serve": 1,
        "banner": 2,
        "corpus_not_ready": 1,
        "upstream_unavailable": 1,
        "lag": 400,
    }
    assert (told.banner, told.locale) == ("Help centre may lack what changed since 14:10 UTC (6 min).", "en")
    assert told.banner_json() == {"text": told.banner, "locale": "en", "copy": told.copy}


@in_virtual_time
async def test_gateway_without_a_database_finds_nothing(make_document: DocumentFactory) -> None:
    """And asks no lane."""
    bench = Bench(make_document, None)

    with pytest.raises(CorpusUnavailable, match="told of no database"):
        await bench.retrieve()

    assert bench.vendor.asked == []


def test_corpus_is_found_by_its_tenants_alone(make_document: DocumentFactory) -> None:
    """Nobody else can tell whether it exists."""
    release = Bench(make_document, None, tenants=["globex"]).release

    with pytest.raises(CorpusNotFound) as caught:
        corpus_of(release, release.access.tenants["acme"], SLUG, param="ballast.corpus")

    assert caught.value.param == "ballast.corpus"
