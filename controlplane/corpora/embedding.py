"""Embed texts through the gateway, in nobody's name who pays for it, by the model that was promised and no other."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from controlplane.corpora.errors import NotEmbedded
from controlplane.evals.asking import Asker, open_asker
from controlplane.evals.errors import NoAnswer
from controlplane.releases.errors import SigningKeyMissing
from controlplane.routing.operations import routing_tables
from dataplane.deadletters import Category, category_of
from dataplane.retrieval.hashes import Vector
from dataplane.retrieval.policy import Corpus as Promised

# Of one request: a small model takes seconds for more, and questions wait behind them.
MAX_TEXTS: Final = 16
# A number of an answer takes so many bytes at most, and an answer may have so many; see `asking.MAX_ANSWER_BYTES`.
_NUMBER_BYTES: Final = 26
_ANSWER_BYTES: Final = 3 * 1024 * 1024
_OF_TEXTS: Final = frozenset({Category.VALIDATION, Category.MODEL_REFUSAL})


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vectors of texts, in their order, and what they took.

    Attributes:
        vectors: Shape (texts, dimensions), float32, each of unit length.
        tokens: As the provider counted them; 0 where it did not.
    """

    vectors: Vector
    tokens: int
    cost_micros: int


class Embedder(Protocol):
    """Embeds documents' texts by one model."""

    def embed(self, texts: Sequence[str]) -> Embedded:
        """Embed any number of texts.

        Raises:
            NotEmbedded: none of them was.
        """


class GatewayEmbedder:
    """Asks the route of a corpus; `open_embedder` makes one."""

    def __init__(self, asker: Asker, corpus: Promised) -> None:
        self._asker = asker
        self._asked = corpus.embedding
        told = corpus.embedding.document_input_type
        self._parameters = {"input_type": told} if told else {}
        self._models: dict[str, str] = {}
        self._at_once = max(1, min(MAX_TEXTS, _ANSWER_BYTES // (corpus.embedding.dimensions * _NUMBER_BYTES)))

    def embed(self, texts: Sequence[str]) -> Embedded:
        """As `Embedder`."""
        found: list[Vector] = []
        tokens = cost_micros = 0
        for first in range(0, len(texts), self._at_once):
            some = self._embed_some(texts[first : first + self._at_once])
            found.append(some.vectors)
            tokens, cost_micros = tokens + some.tokens, cost_micros + some.cost_micros
        empty = np.empty((0, self._asked.dimensions), dtype=np.float32)
        return Embedded(np.concatenate([empty, *found]), tokens, cost_micros)

    def _embed_some(self, texts: Sequence[str]) -> Embedded:
        route = self._asked.route
        try:
            answer = self._asker.embed(route, texts, self._parameters)
        except SigningKeyMissing as exc:
            raise NotEmbedded(str(exc), why=exc.code) from exc
        except NoAnswer as exc:
            may_be = category_of(exc.why) in _OF_TEXTS
            raise NotEmbedded(f"route {route!r}: {exc}", why=exc.why, may_be_the_texts=may_be) from exc
        model = self._model_of(answer.lane)
        if model != self._asked.model:
            fact = (
                f"lane {answer.lane!r} of route {route!r} embeds by {model!r}, and {self._asked.model!r} was promised"
            )
            raise NotEmbedded(f"{fact}; leave on the route what serves that model", why="wrong_model")
        widths = {len(one) for one in answer.vectors}
        if widths != {self._asked.dimensions}:
            fact = f"lane {answer.lane!r} gave {sorted(widths)} dimensions, and {self._asked.dimensions} were promised"
            raise NotEmbedded(f"{fact}; propose a policy with what the model has", why="wrong_dimensions")
        return Embedded(unit_vectors(answer.vectors), answer.tokens, answer.cost_micros)

    def _model_of(self, lane: str) -> str:
        if lane not in self._models:
            active = routing_tables.active()
            lanes = {} if active is None else active.document["lanes"]
            self._models = {name: member["model"] for name, member in lanes.items()}
        return self._models.get(lane, "")


def unit_vectors(found: Sequence[Sequence[float]]) -> Vector:
    """Each brought to length 1.

    Raises:
        NotEmbedded: one has no direction, or holds what is no number.
    """
    vectors = np.asarray(found, dtype=np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(vectors).all() or not (lengths > 0).all():
        raise NotEmbedded("a vector without a direction was given", why="malformed_answer", may_be_the_texts=True)
    return np.asarray(vectors / lengths, dtype=np.float32)


@contextmanager
def open_embedder(corpus: Promised) -> Iterator[Embedder]:
    """What embeds the documents of a corpus, within its residency, for as long as the context lasts."""
    with open_asker(run=f"index-{corpus.slug}", residency=sorted(corpus.residency)) as asker:
        yield GatewayEmbedder(asker, corpus)
