"""Stores that keep vectors elsewhere than beside their chunks.

What of a corpus is alive always stands in PostgreSQL; such a store only says which chunks are near. It may hold more
than is alive, never less: vectors are put there before the transaction that makes their chunks searchable commits, and
taken away after the one that ends them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from controlplane.corpora.models import Namespace
from dataplane.retrieval.hashes import Vector
from dataplane.retrieval.policy import PGVECTOR


class ExternalVectors(Protocol):
    """The vectors of namespaces, by the ids of their chunks. Every method may be called again."""

    def create(self, namespace: Namespace) -> None:
        """Make room for a namespace."""

    def put(self, namespace: Namespace, vectors: Mapping[int, Vector]) -> None:
        """Keep vectors; they can be found when this returns."""

    def remove(self, namespace: Namespace, ids: Sequence[int]) -> None:
        """Let go of vectors."""

    def fetch(self, namespace: Namespace, ids: Sequence[int]) -> Mapping[int, Vector]:
        """The vectors of those ids that are there, bit by bit as they were put."""

    def ids(self, namespace: Namespace, *, after: int, limit: int) -> Sequence[int]:
        """The next ids that are there, ascending."""

    def drop(self, namespace: Namespace) -> None:
        """Let go of a namespace."""


_stores: dict[str, Callable[[], ExternalVectors]] = {}


def register(name: str, make: Callable[[], ExternalVectors]) -> None:
    """Have the vectors of namespaces whose store has this name kept by what `make` gives."""
    _stores[name] = make


def external(store: str) -> ExternalVectors | None:
    """Where the vectors of a store's namespaces are; None: beside their chunks.

    Raises:
        LookupError: nobody keeps vectors under this name here.
    """
    if store == PGVECTOR:
        return None
    if store not in _stores:
        raise LookupError(f"no vector store {store!r} is set up here; see docs/corpora.md")
    return _stores[store]()
