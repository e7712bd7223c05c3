"""What game days lose, on purpose and in a sandbox: in words, and done.

Each scenario says what is lost, by which check that is seen, and what is left to come back from; how it comes back is
for the corpus' strategy to say, where the loss leaves it the choice.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np
from django.db import connection, transaction

from controlplane.corpora.errors import UnknownScenario
from controlplane.corpora.models import Namespace
from controlplane.corpora.vectors import ExternalVectors, external
from dataplane.retrieval.hashes import CHUNK_DIGEST_SQL, Vector, chunk_digest

# One chunk in so many is changed: a share that a sample of 299 misses less than once in 10^13.
CHANGED_EVERY: Final = 10
OTHER_MODEL: Final = "model-of-somebody-else"
_AT_A_TIME: Final = 1_000

# e - e - e: what points the other way is as long, and never the same.
_TURN_ROUND: Final = """
UPDATE {table} c SET embedding = c.embedding - c.embedding - c.embedding
FROM (SELECT id, row_number() OVER (ORDER BY id) AS place FROM {table} WHERE died IS NULL) d
WHERE d.id = c.id AND d.place %% %(every)s = 1
"""
# Correlated, or it would be drawn once for all of them.
_OTHER_VECTORS: Final = """
UPDATE {table} c SET model = %(model)s, embedding = l2_normalize((
    SELECT array_agg(random() - 0.5) FROM generate_series(1, {dimensions:d}) WHERE c.id IS NOT NULL
)::vector)
"""
# Whoever embeds by the wrong model writes checksums that hold.
_OTHER_DIGESTS: Final = "UPDATE {table} c SET chunk_sha256 = {digest}"
_NEXT: Final = """
SELECT id, source_key, source_rev, ordinal, text FROM {table} WHERE id > %(after)s ORDER BY id LIMIT %(limit)s
"""
_OTHERS_ELSEWHERE: Final = """
UPDATE {table} c SET model = %(model)s, chunk_sha256 = o.digest
FROM unnest(%(ids)s::bigint[], %(digests)s::bytea[]) AS o (id, digest) WHERE c.id = o.id
"""


class Left(StrEnum):
    """Which dumps are left to come back from."""

    ALL = "all"
    OLDEST = "oldest"
    BEFORE_NEWEST = "before_newest"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of loss.

    Attributes:
        title, loss, detection: For people: its name, what is lost, and how that is noticed.
        detected_by: The check that has to fail once it is lost: see `acceptance.examine`.
        damage: Does it to a namespace that serves nobody.
        left: Of the dumps.
        least_dumps: Good ones that there must be.
        is_source_lost: Documents count as lost, so that only what is in the dump comes back.
        needs_dump: Whether it is come back from by a dump, whatever the strategy says.
    """

    slug: str
    title: str
    loss: str
    detection: str
    detected_by: str
    damage: Callable[[Namespace], None]
    left: Left = Left.ALL
    least_dumps: int = 0
    is_source_lost: bool = False

    @property
    def needs_dump(self) -> bool:
        return self.least_dumps > 0


def scenario_of(slug: str) -> Scenario:
    """The scenario of a name.

    Raises:
        UnknownScenario: naming those that there are.
    """
    found = SCENARIOS.get(slug)
    if found is None:
        raise UnknownScenario(f"there is no scenario {slug!r}; there are {', '.join(SCENARIOS)}")
    return found


# --- damage ----------------------------------------------------------------------------------------------------------
def lose_index(namespace: Namespace) -> None:
    """Let nothing of a namespace be left: its chunks, their vectors, and the index over them."""
    with connection.cursor() as cursor:
        cursor.execute(f"DROP INDEX IF EXISTS {namespace.table}_near")
        cursor.execute(f"TRUNCATE {namespace.table}")
    if (store := external(namespace.store)) is not None:
        store.drop(namespace)
        store.create(namespace)


def corrupt_vectors(namespace: Namespace) -> None:
    """Change one vector in CHANGED_EVERY, and nothing else of its chunk."""
    if (store := external(namespace.store)) is not None:
        _turn_round(namespace, store)
        return
    with connection.cursor() as cursor:
        cursor.execute(_TURN_ROUND.format(table=namespace.table), {"every": CHANGED_EVERY})


def mix_models(namespace: Namespace) -> None:
    """Have every vector be another model's, as if somebody had embedded by the wrong one: checksums hold."""
    if (store := external(namespace.store)) is not None:
        _embed_otherwise(namespace, store)
        return
    with transaction.atomic(), connection.cursor() as cursor:
        others = _OTHER_VECTORS.format(table=namespace.table, dimensions=namespace.dimensions)
        cursor.execute(others, {"model": OTHER_MODEL})
        cursor.execute(_OTHER_DIGESTS.format(table=namespace.table, digest=CHUNK_DIGEST_SQL))


def harm_nothing(namespace: Namespace) -> None:
    """The index is whole: what is lost lies elsewhere."""


# --- where vectors are kept elsewhere --------------------------------------------------------------------------------
def _turn_round(namespace: Namespace, store: ExternalVectors) -> None:
    after, place = 0, 0
    while ids := store.ids(namespace, after=after, limit=_AT_A_TIME):
        after = ids[-1]
        chosen = [one for at, one in enumerate(ids, start=place) if at % CHANGED_EVERY == 0]
        place += len(ids)
        store.put(namespace, {one: -vector for one, vector in store.fetch(namespace, chosen).items()})


def _embed_otherwise(namespace: Namespace, store: ExternalVectors) -> None:
    rng, after = np.random.default_rng(namespace.pk), 0
    with connection.cursor() as cursor:
        while True:
            cursor.execute(_NEXT.format(table=namespace.table), {"after": after, "limit": _AT_A_TIME})
            rows = cursor.fetchall()
            if not rows:
                return
            vectors = {row[0]: _drawn(rng, namespace.dimensions) for row in rows}
            store.put(namespace, vectors)
            digests = [
                chunk_digest(
                    source_key=key, source_rev=rev, ordinal=ordinal, text=text, model=OTHER_MODEL, vector=vectors[one]
                )
                for one, key, rev, ordinal, text in rows
            ]
            others: dict[str, Any] = {"model": OTHER_MODEL, "ids": list(vectors), "digests": digests}
            cursor.execute(_OTHERS_ELSEWHERE.format(table=namespace.table), others)
            after = rows[-1][0]


def _drawn(rng: np.random.Generator, dimensions: int) -> Vector:
    vector = rng.standard_normal(dimensions)
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


# In the order in which the clock takes them.
SCENARIOS: Final[Mapping[str, Scenario]] = {
    one.slug: one
    for one in (
        Scenario(
            slug="index_dropped",
            title="Index dropped",
            loss="Somebody drops the index: its chunks and vectors are gone; documents and dumps are left.",
            detection="Chunks are counted against what was there.",
            detected_by="counts",
            damage=lose_index,
        ),
        Scenario(
            slug="vectors_corrupted",
            title="Vectors corrupted",
            loss=f"One vector in {CHANGED_EVERY} is another than was written; searches go on, and find what is far.",
            detection="The checksums of chunks drawn at random are computed again, the vectors bit by bit.",
            detected_by="samples",
            damage=corrupt_vectors,
        ),
        Scenario(
            slug="wrong_model",
            title="Wrong model",
            loss="Everything was embedded by another model, and its checksums hold; no question is near to anything.",
            detection="Each chunk says by which model it was embedded; that is compared with its namespace.",
            detected_by="model",
            damage=mix_models,
        ),
        Scenario(
            slug="old_dump",
            title="Only an old dump left",
            loss="The index is lost, and of all dumps the oldest is the only one left.",
            detection="Chunks are counted against what was there; what changed since the dump is found by revisions.",
            detected_by="counts",
            damage=lose_index,
            left=Left.OLDEST,
            least_dumps=1,
        ),
        Scenario(
            slug="lost_source",
            title="Source lost",
            loss="The documents themselves count as lost, and the index with them: nothing but dumps is left. The real "
            "ones are only compared with what comes back.",
            detection="The documents cannot be read any more.",
            detected_by="documents",
            damage=lose_index,
            least_dumps=1,
            is_source_lost=True,
        ),
        Scenario(
            slug="half_written_dump",
            title="Newest dump half written",
            loss="The index is lost, and the newest dump was never finished, or a block of it breaks off.",
            detection="Chunks are counted; a dump is compared with its signed manifest before anything of it is used.",
            detected_by="counts",
            damage=lose_index,
            left=Left.BEFORE_NEWEST,
            least_dumps=2,
        ),
    )
}
