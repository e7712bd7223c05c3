"""Questions found by meaning: learnt once by each model, compared only within the caller's residency, or not at all."""

from __future__ import annotations

import asyncio
import json
import math
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.errors.upstream import UpstreamMalformed, UpstreamUnavailable
from dataplane.journey import Inbound, Journey
from dataplane.known_questions import BATCH, MAX_QUESTIONS, KnownQuestions
from dataplane.messages import EmbeddingResponse
from dataplane.release import Release, parse_document
from dataplane.timers import TimerWheel
from dataplane.vectors import unit_vectors
from tests.dataplane.conftest import LANE, ROUTING, US_LANE, DocumentFactory, copy_document, threshold

PASSWORD, FORGOT, OPEN = "How do I reset my password?", "I forgot my password", "When are you open?"
GERMAN = "Wann haben Sie geöffnet?"
EU, US = "eu/small", "us/large"


def embeddings(*rows: tuple[int, list[float]]) -> bytes:
    return orjson.dumps({"data": [{"index": index, "embedding": vector} for index, vector in rows]})


class Vendor:
    """The provider of every lane, its wire, and the attempts at it: embeds texts as `meaning` says, unless it fails."""

    def __init__(self) -> None:
        self.meaning: dict[str, list[float]] = {}
        self.failing: dict[str, Exception] = {}
        self.calls: list[tuple[str, tuple[str, ...], list[str]]] = []
        self.called = asyncio.Event()

    # As Attempts, for the first lane only.
    async def until_answered(self, journey: Any, lanes: Any, work: Any) -> Any:
        call, adapter = work.prepare(lanes[0])
        self.calls.append((journey.tenant.slug, tuple(lane.id for lane in lanes), call.input))
        self.called.set()
        if lanes[0].id in self.failing:
            raise self.failing[lanes[0].id]
        return await work.make(SimpleNamespace(lane=lanes[0]), call, adapter)

    # As LaneCaller.
    def access(self, release: Any, lane: Any) -> Any:
        return release.routing.accounts[lane.account], self, "s3cret"

    async def embed(self, attempt: Any, call: Any, adapter: Any, *, limit: Any = None) -> EmbeddingResponse:
        rows = [(index, self.meaning.get(text, [0.0, 0.0, 1.0])) for index, text in enumerate(call.input)]
        return EmbeddingResponse(embeddings(*reversed(rows)), None)

    # As an adapter.
    def embedding_call(self, request: Any, *, lane: Any, account: Any, secret: str) -> Any:
        return request


class Bench:
    """What one process has learnt from a release with known questions, and a vendor to learn from."""

    def __init__(self, make_document: DocumentFactory, **changes: Any) -> None:
        self.make_document = make_document
        self.vendor = Vendor()
        self.vendor.meaning = {PASSWORD: [3.0, 0.0, 0.0], FORGOT: [2.0, 1.0, 0.0], OPEN: [0.0, 1.0, 0.0]}
        self.known = KnownQuestions(
            attempts=self.vendor,  # type: ignore[arg-type]
            caller=self.vendor,  # type: ignore[arg-type]
            timers=TimerWheel(),
            clock=lambda: 100.0,
            wall=lambda: 1_760_000_000.0,
        )
        self.release = self.adopt(**changes)

    def adopt(self, *, digest: str = "d" * 64, answers: Any = None, stacks: int = 1, **tenant: Any) -> Release:
        """Adopt a release in which `eu/small` and `us/large` embed, and so many stacks share one piece of copy."""
        document = self.make_document()
        routing = json.loads(json.dumps(ROUTING))
        routing["lanes"][EU] = LANE | {"model": "small", "capabilities": ["embeddings"]}
        routing["lanes"][US] = US_LANE | {"model": "large", "capabilities": ["embeddings"]}
        routing["routes"]["embed"] = {"lanes": [EU, US], "deadline_ms": 1000}
        rung = {"copy": "faq", "embedding_route": "embed", "minimum_score": threshold(0.8)}
        routing["fallbacks"] = {
            f"help-{number}": {"answers": rung, "template": None, "outage": {"copy": "down"}}
            for number in range(stacks)
        }
        document["sections"]["routing"] = routing
        document["sections"]["access"]["tenants"]["acme"] |= tenant
        document["sections"]["copy"] = {
            "faq": {"version": 1, "digest": digest, "document": answers or copy_document("answers")},
            "down": {"version": 1, "digest": "e" * 64, "document": copy_document("outage")},
        }
        self.release = parse_document(document, digest="0" * 64)
        self.known.adopt(self.release)
        return self.release

    def learnt(self) -> list[tuple[tuple[str, ...], list[str]]]:
        """Which texts went to which lanes since this was asked last."""
        calls, self.vendor.calls = self.vendor.calls, []
        return [(lanes, texts) for _, lanes, texts in calls]

    async def nearest(self, *questions: str, locale: str = "en") -> tuple[str, float] | None:
        journey = Journey(Inbound("req_1", b"", 100.0))
        journey.release, journey.tenant = self.release, self.release.access.tenants["acme"]
        rung = self.release.routing.fallbacks["help-0"].answers
        assert rung is not None
        found = await self.known.nearest(journey, rung, self.release.copy["faq"], questions, locale=locale)
        return None if found is None else (found[0].questions[0], round(found[1], 6))


ENGLISH, IN_GERMAN = [PASSWORD, FORGOT, OPEN], [GERMAN]


async def test_every_model_learns_every_question_of_every_language_once(make_document: DocumentFactory) -> None:
    """Nobody's tenant pays for it, and what is known is not asked for again."""
    bench = Bench(make_document, stacks=2)

    assert await bench.known.learn()

    assert {tenant for tenant, _, _ in bench.vendor.calls} == {"ballast"}
    assert sorted(bench.learnt()) == [((EU,), ENGLISH), ((EU,), IN_GERMAN), ((US,), ENGLISH), ((US,), IN_GERMAN)]
    assert await bench.known.learn()
    assert bench.learnt() == []


async def test_copy_that_changed_is_learnt_anew_and_the_old_forgotten(make_document: DocumentFactory) -> None:
    """Going back to the words before means learning them again."""
    bench = Bench(make_document)
    await bench.known.learn()
    bench.learnt()

    bench.adopt(digest="c" * 64)
    assert await bench.nearest(PASSWORD) is None
    assert await bench.known.learn()
    assert len(bench.learnt()) == 4
    assert await bench.nearest(PASSWORD) is not None

    bench.learnt()
    bench.adopt()
    assert await bench.known.learn()
    assert len(bench.learnt()) == 4


async def test_many_questions_are_learnt_in_batches(make_document: DocumentFactory) -> None:
    """Each still belongs to its own answer."""
    questions = [f"Question {number}" for number in range(BATCH + 1)]
    answers = {
        "kind": "answers",
        "default_locale": "en",
        "locales": {"en": [{"questions": [question], "text": question, "json": None} for question in questions]},
    }
    bench = Bench(make_document, answers=answers)
    bench.vendor.meaning = {questions[-1]: [1.0, 0.0, 0.0], "like the last": [1.0, 0.1, 0.0]}

    assert await bench.known.learn()

    assert [texts for lanes, texts in bench.learnt() if lanes == (EU,)] == [questions[:BATCH], questions[BATCH:]]
    assert await bench.nearest("like the last") == (questions[-1], pytest.approx(0.995, abs=1e-3))


async def test_what_one_model_could_not_learn_is_tried_again_by_itself(make_document: DocumentFactory) -> None:
    """The others know it meanwhile."""
    bench = Bench(make_document, residency=[])
    bench.vendor.failing = {EU: UpstreamUnavailable("no", lane=EU, status=503)}

    assert not await bench.known.learn()
    assert [lanes for lanes, _ in bench.learnt()].count((US,)) == 2
    assert await bench.nearest(OPEN) == (OPEN, 1.0)
    assert bench.learnt() == [((US,), [OPEN])]

    bench.vendor.failing = {}
    assert await bench.known.learn()
    assert bench.learnt() == [((EU,), ENGLISH), ((EU,), IN_GERMAN)]


async def test_nearest_question_answers_if_it_is_near_enough(make_document: DocumentFactory) -> None:
    """The nearest of all the caller's questions counts, with its cosine, and only from the rung's score on."""
    bench = Bench(make_document)
    await bench.known.learn()
    bench.vendor.meaning |= {
        "opening hours": [0.1, 5.0, 0.0],
        "password": [0.9, 0.1, 0.0],
        "just so": [0.0, 0.8, 0.6],
        "not quite": [0.0, 0.79, 0.62],
    }
    bench.learnt()

    assert await bench.nearest("what else", "opening hours") == (OPEN, pytest.approx(5 / math.hypot(0.1, 5), abs=1e-6))
    assert await bench.nearest("opening hours", "password") == (OPEN, pytest.approx(0.9998, abs=1e-4))
    assert await bench.nearest("just so") == (OPEN, 0.8)
    assert await bench.nearest("not quite") is None
    assert await bench.nearest("what else", locale="de") == (GERMAN, 1.0)
    assert {(tenant, lanes) for tenant, lanes, _ in bench.vendor.calls} == {("acme", (EU,))}
    bench.learnt()

    assert await bench.nearest(*(f"question {number}" for number in range(9))) is None
    assert [len(texts) for _, texts in bench.learnt()] == [MAX_QUESTIONS]


async def test_question_never_leaves_the_pin_of_its_tenant(make_document: DocumentFactory) -> None:
    """Where no model inside the pin has learnt the questions, nobody is asked."""
    bench = Bench(make_document)
    bench.vendor.failing = {EU: UpstreamUnavailable("no", lane=EU, status=503)}
    await bench.known.learn()
    bench.learnt()

    assert await bench.nearest(PASSWORD) is None
    bench.adopt(residency=["apac"])
    assert await bench.nearest(PASSWORD) is None
    assert bench.learnt() == []


@pytest.mark.parametrize("failure", [UpstreamUnavailable("no", lane=EU, status=503), TimeoutError()])
async def test_question_that_cannot_be_embedded_has_no_answer(
    make_document: DocumentFactory, failure: Exception
) -> None:
    """A second failure on the way to a fallback is no failure of the request."""
    bench = Bench(make_document)
    await bench.known.learn()
    bench.vendor.failing = {EU: failure}

    assert await bench.nearest(PASSWORD) is None


async def test_nothing_is_asked_where_there_is_nothing_to_compare(make_document: DocumentFactory) -> None:
    """No questions, or a release whose questions are not learnt yet."""
    bench = Bench(make_document)
    assert await bench.nearest(PASSWORD) is None
    await bench.known.learn()
    bench.learnt()

    assert await bench.nearest() is None
    assert bench.learnt() == []


async def test_vectors_of_another_length_are_never_compared(make_document: DocumentFactory) -> None:
    """When a vendor puts another model behind a name, its questions are learnt again before they match anything."""
    bench = Bench(make_document)
    await bench.known.learn()
    bench.vendor.meaning = {text: [1.0, 0.0] for text in (*ENGLISH, *IN_GERMAN)}
    bench.learnt()

    assert await bench.nearest(OPEN) is None
    assert await bench.known.learn()
    assert bench.learnt() == [((EU,), [OPEN]), ((EU,), ENGLISH)]
    assert await bench.nearest(OPEN) == (PASSWORD, 1.0)


async def test_learning_goes_on_in_the_background_after_an_unforeseen_error(make_document: DocumentFactory) -> None:
    """Whatever happens to one release, the next one is learnt."""
    bench = Bench(make_document)
    bench.vendor.failing = {EU: RuntimeError("a bug of ours")}
    await bench.known.start()
    async with asyncio.timeout(60):
        await bench.vendor.called.wait()
        bench.vendor.failing = {}
        bench.vendor.called.clear()
        bench.adopt(digest="c" * 64)
        await bench.vendor.called.wait()
    await bench.known.stop()

    assert await bench.known.learn()
    assert await bench.nearest(PASSWORD) == (PASSWORD, 1.0)


@given(rows=st.permutations(list(enumerate([[3.0, 4.0], [0.0, 0.0], [-2.0, 0.0], [0.0, 1e-9]]))))
def test_embeddings_come_in_the_order_of_their_texts_and_of_length_one(rows: list[tuple[int, list[float]]]) -> None:
    """A provider may answer in any order; a vector without a direction stays as it is."""
    vectors = unit_vectors(embeddings(*rows), count=4)

    assert [list(vector) for vector in vectors] == [[0.6, 0.8], [0.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        b'{"data": null}',
        b'{"data": [{"embedding": [1.0]}, {"index": 1, "embedding": [1.0]}]}',
        b'{"data": [{"index": 0, "embedding": "AACAPw=="}, {"index": 1, "embedding": "AACAPw=="}]}',
        b'{"data": [{"index": 0, "embedding": [null]}, {"index": 1, "embedding": [1.0]}]}',
        b'{"data": [{"index": 0, "embedding": [1.0]}, {"index": "1", "embedding": [1.0]}]}',
        embeddings((0, [1.0])),
        embeddings((0, [1.0]), (1, [1.0]), (2, [1.0])),
        embeddings((0, [1.0]), (1, [1.0, 2.0])),
        embeddings((0, [1.0]), (0, [1.0])),
        embeddings((1, [1.0]), (2, [1.0])),
    ],
)
def test_embeddings_that_do_not_answer_every_text_are_malformed(raw: bytes) -> None:
    """A vector that belongs to another text would give a caller the wrong answer."""
    with pytest.raises(UpstreamMalformed, match="embeddings"):
        unit_vectors(raw, count=2)
