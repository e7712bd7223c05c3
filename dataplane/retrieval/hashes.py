"""What tells one document, and one chunk, from another: digests of exactly what they are. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dataplane.release import canonical

Vector = NDArray[np.float32]
_SEPARATOR: Final = b"\x00"


def read_sent(sent: bytes) -> Vector:
    """A vector as pgvector's `vector_send` writes it, to the bit: two numbers of 16 bits, and then its floats."""
    return np.frombuffer(sent, dtype=">f4", offset=4).astype(np.float32)


def content_digest(content: str, metadata: Mapping[str, Any]) -> str:
    """SHA-256 hex of what a document says.

    Raises:
        ValueError: the metadata cannot be written as canonical JSON.
    """
    return hashlib.sha256(content.encode() + _SEPARATOR + canonical(metadata)).hexdigest()


def chunk_digest(*, source_key: str, source_rev: int, ordinal: int, text: str, model: str, vector: Vector) -> bytes:
    """SHA-256 of what makes a chunk what it is, its vector bit by bit.

    PostgreSQL computes the same of a row: see `CHUNK_DIGEST_SQL`.
    """
    head = f"{len(source_key.encode())}:{source_key}:{source_rev}:{ordinal}:{len(model.encode())}:{model}:".encode()
    numbers = np.ascontiguousarray(vector, dtype=">f4").tobytes()
    return hashlib.sha256(head + text.encode() + _SEPARATOR + numbers).digest()


# An SQL expression over a row `c` of a namespace's chunks. What pgvector sends of a vector is two numbers of 16 bits,
# and then its floats, the first byte of each first.
CHUNK_DIGEST_SQL: Final = (
    "sha256(convert_to(octet_length(c.source_key) || ':' || c.source_key || ':' || c.source_rev || ':' || c.ordinal"
    " || ':' || octet_length(c.model) || ':' || c.model || ':' || c.text, 'UTF8') || '\\x00'::bytea"
    " || substring(vector_send(c.embedding) FROM 5))"
)
