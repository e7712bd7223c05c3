"""Stores that keep vectors elsewhere than beside their chunks.

What of a corpus is alive always stands in PostgreSQL; such a store only says which chunks are near. It may hold more
than is alive, never less: vectors are put there before the transaction that makes their chunks searchable commits, and
taken away after the one that ends them. What stays there longer than it should, `leftovers` finds.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from controlplane.corpora.errors import VectorsNowhere, VectorsUnavailable
from controlplane.corpora.models import Namespace
from dataplane.retrieval.hashes import Vector
from dataplane.retrieval.policy import PGVECTOR

logger = logging.getLogger(__name__)

# Held, to the end of the transaction, by who puts vectors of a namespace before their chunks can be seen, for longer
# than `leftovers` takes them to be on their way; and by who removes what has no chunk.
VECTORS_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended('ballast.vectors', %(namespace)s))"
TRY_VECTORS_LOCK: Final = "SELECT pg_try_advisory_xact_lock(hashtextextended('ballast.vectors', %(namespace)s))"
# So often whoever waits for a store looks, and for no longer than that, which is less than work may last.
LOOK_SECONDS: Final = 1.0
BUILT_WITHIN_SECONDS: Final = 4 * 3600.0


class ExternalVectors(Protocol):
    """The vectors of namespaces, by the ids of their chunks. Every method may be called again, and raises
    VectorsUnavailable when there is nobody to do it, or no room for the namespace.
    """

    def create(self, namespace: Namespace) -> None:
        """Make room for a namespace; what is there already stays."""

    def put(self, namespace: Namespace, vectors: Mapping[int, Vector]) -> None:
        """Keep vectors; they can be found when this returns."""

    def remove(self, namespace: Namespace, ids: Sequence[int]) -> None:
        """Let go of vectors."""

    def fetch(self, namespace: Namespace, ids: Sequence[int]) -> Mapping[int, Vector]:
        """The vectors of those ids that are there, bit by bit as they were put."""

    def ids(self, namespace: Namespace, *, after: int, limit: int) -> Sequence[int]:
        """The next ids that are there, ascending."""

    def nearest(
        self, namespace: Namespace, questions: Sequence[Vector], *, limit: int, is_exact: bool
    ) -> Sequence[Sequence[tuple[int, float]]]:
        """For each question, a vector of length 1, the ids of up to `limit` vectors with their cosine distances, the
        nearest first: as searches find them; or, `is_exact`, by comparing it with every one.
        """

    def is_built(self, namespace: Namespace) -> bool:
        """Whether all that was put is in what the store searches by; what is not yet is found too, and slower."""

    def drop(self, namespace: Namespace) -> None:
        """Let go of a namespace."""

    def namespaces(self) -> Sequence[int]:
        """The ids of those that it has room for."""


_stores: dict[str, Callable[[], ExternalVectors]] = {}


def register(name: str, make: Callable[[], ExternalVectors]) -> None:
    """Have the vectors of namespaces whose store has this name kept by what `make` gives."""
    _stores[name] = make


def external(store: str) -> ExternalVectors | None:
    """Where the vectors of a store's namespaces are; None: beside their chunks.

    Raises:
        VectorsNowhere: nobody keeps vectors under this name here.
    """
    if store == PGVECTOR:
        return None
    if store not in _stores:
        raise VectorsNowhere(f"no vector store {store!r} is set up here; see docs/corpora.md")
    return _stores[store]()


def external_stores() -> dict[str, ExternalVectors]:
    """All that keep vectors elsewhere, by name."""
    return {name: make() for name, make in _stores.items()}


def await_built(
    namespace: Namespace, *, told: Callable[[], object] = lambda: None, wait: Callable[[float], object] = time.sleep
) -> bool:
    """Wait until the store of a namespace's vectors has built what it searches by; at once where they are beside their
    chunks. False: it has not within BUILT_WITHIN_SECONDS, or cannot tell. It is searched as it is then, which finds no
    less.

    Args:
        told: Called before each further look.
        wait: Waits so many seconds.
    """
    waited = 0.0
    try:
        store = external(namespace.store)
        while store is not None and not store.is_built(namespace):
            if waited >= BUILT_WITHIN_SECONDS:
                raise VectorsUnavailable(f"it was waited for {waited:.0f} s")
            told()
            wait(LOOK_SECONDS)
            waited += LOOK_SECONDS
    except (VectorsNowhere, VectorsUnavailable) as exc:
        logger.warning("%s is searched although its index in %r may not be built: %s", namespace, namespace.store, exc)
        return False
    return True


def forget(namespace: Namespace, ids: Sequence[int]) -> None:
    """Let go of the vectors of chunks that nobody can find any more; where that fails they stay, and harm nobody."""
    if ids:
        _forget(namespace, lambda store: store.remove(namespace, ids))


def forget_namespace(namespace: Namespace) -> bool:
    """Let go of all vectors of a namespace that was dropped; where that fails they stay, as above. False: its store is
    away, and may have them still.
    """
    return _forget(namespace, lambda store: store.drop(namespace))


def _forget(namespace: Namespace, act: Callable[[ExternalVectors], None]) -> bool:
    try:
        if (store := external(namespace.store)) is not None:
            act(store)
    except (VectorsNowhere, VectorsUnavailable) as exc:
        logger.warning("vectors of %s stay for now: %s", namespace, exc)
        # Who is told of no such store has none to wait for.
        return isinstance(exc, VectorsNowhere)
    return True
