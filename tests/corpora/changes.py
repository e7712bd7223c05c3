"""Changes of documents, and an embedder that needs nobody: vectors are made of digests of the words."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from django.db import connection

from controlplane.corpora.accepting import Accepted, Change, accept_changes
from controlplane.corpora.embedding import Embedded
from controlplane.corpora.errors import NotEmbedded
from controlplane.corpora.indexing import Indexed, index_all
from controlplane.corpora.models import Corpus, Namespace
from tests.factories import NOW

DIMENSIONS = 8


def upsert(key: str, rev: int, content: str = "Words.", *, at: datetime = NOW, **metadata: Any) -> Change:
    """A document as it was at a revision."""
    return Change(key, rev, False, content, metadata, at)


def delete(key: str, rev: int, *, at: datetime = NOW) -> Change:
    """Its end."""
    return Change(key, rev, True, "", {}, at)


def accept(corpus: Corpus, *changes: Change, now: datetime = NOW) -> Accepted:
    """Take changes in."""
    return accept_changes(corpus=corpus, changes=changes, now=now)


def searchable(namespace: Namespace) -> dict[str, tuple[int, str]]:
    """What is alive in a namespace: by key the revision, and the words of its chunks one after the other."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT source_key, min(source_rev), max(source_rev), string_agg(text, E'\\n' ORDER BY ordinal)"  # noqa: S608 - a name of ours
            f" FROM {namespace.table} WHERE died IS NULL GROUP BY source_key"
        )
        rows = cursor.fetchall()
    assert all(first == last for _, first, last, _ in rows), "chunks of two revisions of a document are alive at once"
    return {key: (rev, text) for key, rev, _, text in rows}


def vector_of(text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The same for the same words; of unit length."""
    raw = np.frombuffer(hashlib.sha256(text.encode()).digest()[:DIMENSIONS], dtype=np.uint8).astype(np.float32) - 127.5
    return np.asarray(raw / np.linalg.norm(raw), dtype=np.float32)


def vectors_of(texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Of each, in their order."""
    return np.stack([vector_of(text) for text in texts])


@dataclass
class HashEmbedder:
    """Embeds by digests, and remembers what it was asked. `away`: nobody embeds. Texts with a word of `refused` in them
    are the fault of whoever wrote them. `before` is called with each request.
    """

    away: bool = False
    refused: tuple[str, ...] = ()
    before: Callable[[Sequence[str]], None] = lambda texts: None
    asked: list[list[str]] = field(default_factory=list)

    def embed(self, texts: Sequence[str]) -> Embedded:
        """As `Embedder`; a token a text, each a microdollar."""
        self.asked.append(list(texts))
        self.before(texts)
        if self.away:
            raise NotEmbedded("the gateway cannot be asked", why="gateway_unreachable")
        if any(word in text for text in texts for word in self.refused):
            raise NotEmbedded("content_filter: no", why="content_filter", may_be_the_texts=True)
        return Embedded(vectors_of(texts), len(texts), len(texts))

    @property
    def texts(self) -> list[str]:
        """All that it was asked, one after the other."""
        return [text for texts in self.asked for text in texts]


def index(
    namespace: Namespace, embedder: HashEmbedder | None = None, *, owner: str = "t", now: datetime = NOW
) -> Indexed:
    """Index all that is due."""
    return index_all(namespace=namespace, embedder=embedder or HashEmbedder(), owner=owner, now=lambda: now)
