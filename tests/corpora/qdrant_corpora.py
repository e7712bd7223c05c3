"""A corpus that is served from Qdrant and dumped, and what a drill of it asks there."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from controlplane.corpora import vectors
from controlplane.corpora.models import Corpus, Namespace, RecoveryDrill
from controlplane.corpora.vectors import LOOK_SECONDS
from tests.corpora.game_days import dump_of, serving_corpus
from tests.corpora.kept_dumps import chunk_rows
from tests.factories import NOW
from tests.qdrant_local import LocalQdrant

DOCUMENTS = 12


def set_up(monkeypatch: pytest.MonkeyPatch, local: LocalQdrant) -> LocalQdrant:
    """Have it be the store of the name that policies have for it."""
    monkeypatch.setattr(vectors, "_stores", {"qdrant": local.vectors})
    return local


def qdrant_corpus(strategy: str = "restore") -> Corpus:
    """Served from Qdrant, and dumped twice."""
    corpus = serving_corpus(documents=DOCUMENTS, store="qdrant", recovery={"strategy": strategy})
    for at in (0, 10):
        dump_of(corpus, at=NOW + timedelta(minutes=at))
    return corpus


def live_of(corpus: Corpus) -> Namespace:
    corpus.refresh_from_db()
    assert corpus.live_namespace is not None
    return corpus.live_namespace


def held(qdrant: LocalQdrant, namespace: Namespace) -> tuple[Any, Any]:
    """The rows of a namespace, and its vectors to the bit."""
    store, rows = qdrant.vectors(), chunk_rows(namespace)
    found = store.fetch(namespace, list(store.ids(namespace, after=0, limit=1_000)))
    return rows, {one: vector.tobytes() for one, vector in found.items()}


def step_of(drill: RecoveryDrill) -> str:
    """The step under way."""
    steps = RecoveryDrill.objects.get(pk=drill.pk).steps
    return steps[-1]["name"] if steps else ""


class Ticking:
    """A clock that stands still but for a second for each request to Qdrant, and what is waited. `by_step` has both, of
    a drill that it is told of.
    """

    def __init__(self, qdrant: LocalQdrant) -> None:
        self.seconds = 0.0
        self.drill: RecoveryDrill | None = None
        self.by_step: dict[str, list[str]] = {}
        qdrant.before = self.tick

    def __call__(self) -> float:
        return self.seconds

    def wait(self, seconds: float) -> None:
        assert seconds == LOOK_SECONDS
        self.tick("wait")

    def tick(self, what: str) -> None:
        self.seconds += 1
        if self.drill is not None:
            self.by_step.setdefault(step_of(self.drill), []).append(what)
