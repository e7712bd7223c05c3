"""Embedding through the gateway: by the model that was promised, and who is to blame when it is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from controlplane.corpora.embedding import Embedded, GatewayEmbedder
from controlplane.corpora.errors import NotEmbedded
from controlplane.corpora.policies import promised
from tests.corpora.kept_corpora import make_corpus
from tests.eval_runs import FakeGateway, refusal
from tests.factories import make_deployment, make_routing, routing_document

LANE = "a/lane"  # that a FakeGateway says to have asked
WIDE = [[3.0, 4.0, 0, 0, 0, 0, 0, 0], [0, 2.0, 0, 0, 0, 0, 0, 0]]

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def routing(db: None) -> None:
    make_deployment()
    document = routing_document()
    known = next(lane for lane in document["lanes"].values() if lane["model"] == "text-embedding-3-small")
    document["lanes"][LANE] = known | {"region": "elsewhere"}
    make_routing(document)


def answer(vectors: list[list[float]]) -> dict[str, Any]:
    data = [{"index": at, "embedding": vector} for at, vector in enumerate(vectors)]
    return {"data": data, "usage": {"prompt_tokens": 7}}


def embed(gateway: FakeGateway, *texts: str, **embedding: Any) -> Embedded:
    corpus = promised(make_corpus().slug)
    asked = replace(corpus, embedding=replace(corpus.embedding, **embedding))
    with gateway.open(run="index-x", residency=[]) as asker:
        return GatewayEmbedder(asker, asked).embed(texts)


def test_vectors_come_at_unit_length_with_what_they_took() -> None:
    """In the order of the texts; a model that tells documents from questions is told."""
    gateway = FakeGateway(says=lambda body: answer(WIDE))

    found = embed(gateway, "one", "two", document_input_type="search_document")

    assert np.allclose(found.vectors, [[0.6, 0.8, 0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0, 0]])
    assert (found.vectors.dtype, found.tokens, found.cost_micros) == (np.float32, 7, 100)
    assert gateway.bodies[0]["input_type"] == "search_document"


def test_no_texts_are_no_request() -> None:
    """Nobody is asked for nothing."""
    gateway = FakeGateway()

    assert embed(gateway).vectors.shape == (0, 8)
    assert not gateway.bodies


def test_answers_are_never_larger_than_can_be_read() -> None:
    """Vectors of many dimensions are asked for in several requests."""
    gateway = FakeGateway(says=lambda body: answer([[1.0] * 2_000 for _ in body["input"]]))

    found = embed(gateway, *(f"t{at}" for at in range(64)), dimensions=2_000)

    assert len(found.vectors) == 64
    assert max(len(body["input"]) for body in gateway.bodies) < 64


@pytest.mark.parametrize(
    ("said", "embedding", "why", "may_be_the_texts"),
    [
        (refusal("content_filter", 400), {}, "content_filter", True),
        (refusal("context_length_exceeded", 400), {}, "context_length_exceeded", True),
        (refusal("upstream_unavailable", 503), {}, "upstream_unavailable", False),
        (answer([[0.0] * 8]), {}, "malformed_answer", True),
        (answer([[1.0] * 9]), {}, "wrong_dimensions", False),
        (answer([[1.0] * 8]), {"model": "another"}, "wrong_model", False),
    ],
)
def test_refusal_says_whether_it_may_be_the_texts(
    said: Any, embedding: dict[str, Any], why: str, may_be_the_texts: bool
) -> None:
    """Another model than was promised, or a gateway that is away, is nobody's who wrote a document."""
    with pytest.raises(NotEmbedded) as refused:
        embed(FakeGateway(says=lambda body: said), "one", **embedding)

    assert (refused.value.why, refused.value.may_be_the_texts) == (why, may_be_the_texts)
