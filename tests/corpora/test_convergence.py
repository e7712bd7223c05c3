"""Whatever order changes come in, however often and however late: a corpus ends as its source is, nothing that was
deleted comes back, and nobody ever reads a document that never was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.corpora.accepting import MAX_CHANGES, Change
from controlplane.corpora.indexing import index_pending
from tests.corpora.changes import HashEmbedder, delete
from tests.corpora.convergence import CHUNKING, Model, arrivals, histories, write
from tests.corpora.kept_corpora import make_corpus, make_namespace
from tests.factories import NOW

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]

DOCUMENTS, REVISIONS = 1_000, 20
CHANGES = st.builds(
    lambda key, rev, is_deleted: delete(key, rev) if is_deleted else write(key, rev),
    st.sampled_from("abc"),
    st.integers(0, 5),
    st.booleans(),
)
BATCHES = st.lists(CHANGES, min_size=1, max_size=4)
# Changes come in, or one of two namespaces is indexed, or both: they come in while its texts are embedded.
STEPS = st.lists(
    st.one_of(
        st.tuples(BATCHES, st.none(), st.none()),
        st.tuples(st.just([]), st.integers(0, 1), st.integers(1, 3)),
        st.tuples(BATCHES, st.integers(0, 1), st.integers(1, 3)),
    ),
    max_size=12,
)


@contextmanager
def undone() -> Iterator[None]:
    """One example; what it does is undone."""
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS, seed=st.integers(0, 99))
def test_any_interleaving_of_changes_and_indexing_converges(
    steps: list[tuple[list[Change], int | None, int | None]], seed: int
) -> None:
    """Two namespaces, a few keys and revisions, in any order, also in the middle of being indexed."""
    rng = Random(seed)
    with undone():
        corpus = make_corpus(chunking=CHUNKING)
        model = Model(corpus, make_namespace(corpus), make_namespace(corpus, is_ready=False))
        for changes, place, limit in steps:
            if place is None or limit is None:
                model.take(*changes)
            else:

                def overtake(texts: Sequence[str], changes: list[Change] = changes) -> None:
                    model.take(*changes)

                index_pending(
                    namespace=model.namespaces[place],
                    embedder=HashEmbedder(before=overtake) if changes else HashEmbedder(),
                    owner="t",
                    now=NOW,
                    limit=limit,
                )
            model.look(rng)
        model.require_converged()


def test_thousand_documents_of_twenty_revisions_converge() -> None:
    """With three backfills and replays, indexed in between: equal to the model, 0 resurrections, no mixed reads."""
    rng = Random(7)
    corpus = make_corpus(chunking=CHUNKING)
    model = Model(corpus, make_namespace(corpus))
    history = histories(rng, DOCUMENTS, REVISIONS)
    coming = arrivals(rng, history)

    while coming:
        size = rng.randint(1, MAX_CHANGES)
        batch, coming = coming[:size], coming[size:]
        model.take(*batch)
        if rng.random() < 0.7:
            overtaking, coming = coming[: size // 4], coming[size // 4 :]
            embedder = HashEmbedder()
            embedder.before = lambda texts, left=[overtaking]: model.take(*left.pop()) if left else None  # type: ignore[misc]  # once
            index_pending(
                namespace=model.namespaces[0], embedder=embedder, owner="t", now=NOW, limit=rng.randint(1, 600)
            )
            if not embedder.asked:
                model.take(*overtaking)
        model.look(rng)

    model.require_converged()
    assert {key: run[-1].order for key, run in history.items()} == model.heads
    assert model.resurrections == 0
