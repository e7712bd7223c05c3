"""Qdrant beside PostgreSQL: asked which chunks are near, and believed no more than that.

`controlplane.corpora.qdrant` writes there, one collection for each namespace: points by the ids of chunks, vectors of
length 1 compared by their dot product, and nothing beside them. What a chunk says, whether it lives and what it may be
filtered by stands in PostgreSQL alone, so that there is no second truth about it.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from typing import Final

import httpx
from qdrant_client import AsyncQdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

from dataplane.retrieval.errors import CorpusUnavailable
from dataplane.retrieval.hashes import Vector
from dataplane.retrieval.tables import vectors_collection
from dataplane.stores.corpora import VectorsGone

log = logging.getLogger("ballast.corpora")

TIMEOUT_SECONDS: Final = 5.0
_NOT_FOUND: Final = 404
_HUNG_UP: Final = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)


class QdrantNearestIds:
    """The `NearestIds` of a Qdrant server. One per process, on one event loop."""

    def __init__(self, client: AsyncQdrantClient, *, prefix: str, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        """`prefix` is what names of its collections begin with; `timeout_seconds` bounds every question."""
        self._client = client
        self._prefix = prefix
        self._timeout_seconds = timeout_seconds

    async def start(self) -> None:
        """As `NearestIds.start`: connections are made by the first who asks."""

    async def close(self) -> None:
        """As `NearestIds.close`."""
        await self._client.close()

    async def nearest(self, namespace: int, vector: Vector, *, limit: int) -> Sequence[tuple[int, float]]:
        """As `NearestIds.nearest`."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                try:
                    found = await self._ask(namespace, vector, limit)
                except ResponseHandlingException as exc:
                    if not isinstance(exc.source, _HUNG_UP):
                        raise
                    # A connection that was closed since it was last used, as a rule; the next one is new.
                    found = await self._ask(namespace, vector, limit)
        except UnexpectedResponse as exc:
            if exc.status_code == _NOT_FOUND:
                raise VectorsGone(f"its vector store has no namespace {namespace}") from exc
            raise _unavailable(exc) from exc
        except (ApiException, QdrantException, TimeoutError) as exc:
            raise _unavailable(exc) from exc
        return [(int(point.id), 1.0 - point.score) for point in found.points]

    async def _ask(self, namespace: int, vector: Vector, limit: int) -> models.QueryResponse:
        # Never `indexed_only`: what was put there a moment ago is in no graph yet, and must be found.
        return await self._client.query_points(
            vectors_collection(self._prefix, namespace),
            query=vector.tolist(),
            limit=limit,
            with_payload=False,
            with_vectors=False,
        )


def connect(url: str, *, key: str | None, prefix: str, timeout_seconds: float = TIMEOUT_SECONDS) -> QdrantNearestIds:
    """Prepare to ask the server at `url`, over HTTP; without a port in it, 6333. Connects to nothing yet.

    Args:
        key: Its API key; None: it asks for none.
    """
    client = AsyncQdrantClient(
        url=url, api_key=key, timeout=math.ceil(timeout_seconds), prefer_grpc=False, check_compatibility=False
    )
    return QdrantNearestIds(client, prefix=prefix, timeout_seconds=timeout_seconds)


def _unavailable(error: Exception) -> CorpusUnavailable:
    status = f" {error.status_code}" if isinstance(error, UnexpectedResponse) else ""
    log.warning("Qdrant cannot be asked: %s", " ".join(f"{type(error).__name__}: {error}".split())[:300])
    return CorpusUnavailable(f"the vector store fails ({type(error).__name__}{status})")
