"""What is found in a corpus, and where that was looked for. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dataplane.retrieval.freshness import Standing
from dataplane.retrieval.tables import Snapshot


@dataclass(frozen=True, slots=True)
class Place:
    """A namespace that is searched, and by vectors of which model.

    Attributes:
        store: Where its vectors are; member of `policy.STORES`.
        rev: The index revision that is read; None: the newest there is at the moment of the search.
    """

    namespace: int
    model: str
    dimensions: int
    store: str
    rev: int | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage of one revision of a document.

    Attributes:
        ordinal: Its place in the document, from 0.
        score: 1 - cosine distance: 1 is the same direction.
        event_at: When the revision happened at its source.
        is_current: Whether no newer revision of its document is known; one may be accepted that is not searchable yet.
        chunk_sha256: See `hashes.chunk_digest`.
    """

    id: int
    source_key: str
    source_rev: int
    ordinal: int
    text: str
    metadata: Mapping[str, Any]
    score: float
    event_at: datetime
    is_current: bool
    chunk_sha256: bytes


@dataclass(frozen=True, slots=True)
class Found:
    """The nearest chunks, the nearest first, and how the corpus stood at that moment. The two are of one state."""

    standing: Standing
    chunks: tuple[Chunk, ...]


def snapshot_of(place: Place, *, index_rev: int) -> Snapshot:
    """What is read there while the namespace is at `index_rev`."""
    return Snapshot(place.namespace, index_rev if place.rev is None else place.rev)
