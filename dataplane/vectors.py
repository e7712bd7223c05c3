"""Embeddings as vectors that can be compared: read from OpenAI's JSON, each of length 1. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from dataplane.errors.upstream import UpstreamMalformed

Vectors = NDArray[np.float32]


def unit_vectors(raw: bytes, *, count: int, dimensions: int | None = None) -> Vectors:
    """Read `count` embeddings from OpenAI's JSON, in the order of their inputs, each brought to length 1.

    Shape: (count, dimensions).

    Args:
        dimensions: So many they must have; None: as many as they come with.
    Raises:
        UpstreamMalformed: not one for each input, not vectors of one length, or of another one.
    """
    try:
        rows: list[Any] = sorted(orjson.loads(raw)["data"], key=lambda row: row["index"])
        vectors = np.array([row["embedding"] for row in rows], dtype=np.float64)
    except (KeyError, TypeError, ValueError) as exc:
        raise UpstreamMalformed(f"the embeddings cannot be read: {exc}") from exc
    if [row["index"] for row in rows] != list(range(count)):
        raise UpstreamMalformed(f"expected {count} embeddings, numbered from 0, got {len(rows)}")
    if vectors.ndim != 2 or not vectors.shape[1] or not np.isfinite(vectors).all():
        raise UpstreamMalformed("the embeddings are not vectors of numbers, all of one length")
    if dimensions is not None and vectors.shape[1] != dimensions:
        raise UpstreamMalformed(
            f"the embeddings have {vectors.shape[1]} dimensions, not {dimensions}; another model answers here"
        )
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = (vectors / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)
    return unit
