"""What recovery is predicted to take, from how long it took."""

from __future__ import annotations

import pytest
from django.db import connection

from controlplane.corpora.models import Corpus, Namespace, RecoveryRate
from controlplane.corpora.policies import promised
from controlplane.corpora.rates import FIXED_SECONDS, Kind, note_rebuild, predict_rebuild, predict_restore_seconds
from controlplane.corpora.recovering import size_of
from dataplane.retrieval.policy import PGVECTOR, QDRANT
from tests.corpora.changes import accept, delete, index, upsert
from tests.corpora.kept_corpora import make_corpus, make_namespace
from tests.factories import NOW

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]
DIMENSIONS = 8
KIND = Kind(PGVECTOR, DIMENSIONS)


@pytest.fixture
def namespace() -> Namespace:
    return make_namespace(make_corpus(), fill=False)


def restored(corpus: Corpus, namespace: Namespace, *, load: float, index: float = 10.0, rows: int = 1_000) -> None:
    """Note a restore of rows of 100 bytes each."""
    RecoveryRate.objects.create(
        corpus=corpus,
        way="restore",
        namespace_id_then=namespace.pk,
        dimensions=DIMENSIONS,
        rows=rows,
        bytes=rows * 100,
        load_seconds=load,
        index_seconds=index,
        at=NOW,
    )


def test_nothing_is_predicted_of_what_was_never_measured(namespace: Namespace) -> None:
    """Neither from other dimensions nor from another store, whose vectors take another time."""
    corpus = namespace.corpus
    restored(corpus, namespace, load=2.0)

    assert predict_restore_seconds(corpus, rows=10, bytes=1_000, kind=Kind(QDRANT, DIMENSIONS)) is None
    assert predict_restore_seconds(corpus, rows=10, bytes=1_000, kind=Kind(PGVECTOR, DIMENSIONS * 2)) is None
    assert predict_rebuild(corpus, promised(corpus.slug), chunks=1, tokens=1, kind=KIND) is None


def test_the_same_again_takes_as_long_and_ten_times_as_much_a_little_over_ten_times(namespace: Namespace) -> None:
    """Loading goes by bytes, the graph by rows and their logarithm; what happens once is counted once."""
    corpus = namespace.corpus
    restored(corpus, namespace, load=FIXED_SECONDS + 2.0)

    same = predict_restore_seconds(corpus, rows=1_000, bytes=100_000, kind=KIND)
    more = predict_restore_seconds(corpus, rows=10_000, bytes=1_000_000, kind=KIND)

    assert same == pytest.approx(FIXED_SECONDS + 12.0)
    assert more == pytest.approx(FIXED_SECONDS + 20.0 + 100.0 * 4 / 3)


def test_one_restore_on_a_busy_machine_decides_nothing(namespace: Namespace) -> None:
    """The median of the newest five counts, whatever came before them."""
    corpus = namespace.corpus
    for load in (500.0, 2.2, 2.2, 90.0, 2.2, 2.2):
        restored(corpus, namespace, load=load)

    predicted = predict_restore_seconds(corpus, rows=1_000, bytes=100_000, kind=KIND)

    assert predicted == pytest.approx(12.2)


def test_embedding_again_is_predicted_with_what_it_costs(namespace: Namespace) -> None:
    """By tokens, and the price of the dearest lane that may embed them."""
    corpus = namespace.corpus
    note_rebuild(
        namespace=namespace,
        chunks=1_000,
        tokens=50_000,
        cost_micros=1_000,
        load_seconds=FIXED_SECONDS + 100.0,
        index_seconds=10.0,
        at=NOW,
    )
    RecoveryRate.objects.update(dimensions=DIMENSIONS)

    found = predict_rebuild(corpus, promised(corpus.slug), chunks=1_000, tokens=1_000_000, kind=KIND)

    assert found is not None
    assert found.seconds == pytest.approx(FIXED_SECONDS + 2_000.0 + 10.0)
    assert found.cost_micros == 22_000


def test_size_of_what_is_large_is_reckoned_and_not_counted() -> None:
    """By what PostgreSQL knows of it, those left out that only snapshots show."""
    namespace = make_namespace(make_corpus())
    accept(namespace.corpus, *(upsert(f"k{at}", 1, f"words {at:02}") for at in range(20)))
    index(namespace)
    accept(namespace.corpus, *(upsert(f"k{at}", 2, f"other {at:02}") for at in range(5)))
    index(namespace)
    with connection.cursor() as cursor:
        cursor.execute(f"ANALYZE {namespace.table}")
    accept(namespace.corpus, delete("k0", 3))

    assert size_of(namespace, counted=10).chunks == 20
    assert size_of(namespace).chunks == 19
    assert size_of(namespace).characters == 19 * len("words 00")
