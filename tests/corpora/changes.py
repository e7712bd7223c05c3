"""Changes of documents, and an embedder that needs nobody: vectors are made of digests of the words."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
from django.db import connection

from controlplane.corpora.accepting import Accepted, Change, accept_changes
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
