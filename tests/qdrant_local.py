"""Qdrant in this process: its client's own local mode, in memory, for whoever writes there and whoever asks it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

from httpx import ConnectError, Headers
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from controlplane.corpora.qdrant import QdrantVectors
from dataplane.stores.qdrant import QdrantNearestIds

PREFIX = "tests"


class LocalQdrant:
    """Answers as a server does: what is not there is a 404, and while `is_away` nobody can reach it. One at a time,
    since local mode is made for one thread. `before` is called with the name of what is asked. The next
    `looks_until_built` looks at a collection find that its graph is still being built.
    """

    def __init__(self) -> None:
        self.is_away = False
        self.before: Callable[[str], object] = lambda name: None
        self.looks_until_built = 0
        self._client = QdrantClient(":memory:")
        self._alone = threading.Lock()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        @wraps(method)
        def asked(*args: Any, **kwargs: Any) -> Any:
            self.before(name)
            if self.is_away:
                raise ResponseHandlingException(ConnectError("connection refused"))
            try:
                with self._alone:
                    return method(*args, **kwargs)
            except ValueError as exc:
                if "not found" not in str(exc):
                    raise
                raise UnexpectedResponse(404, "Not Found", str(exc).encode(), Headers()) from exc

        return asked

    def get_collection(self, name: str) -> models.CollectionInfo:
        """As `QdrantClient.get_collection`."""
        found: models.CollectionInfo = self.__getattr__("get_collection")(name)
        if self.looks_until_built:
            self.looks_until_built -= 1
            found.status = models.CollectionStatus.YELLOW
        return found

    def vectors(self) -> QdrantVectors:
        """It, for whoever writes."""
        return QdrantVectors(self, prefix=PREFIX)  # type: ignore[arg-type]  # has what is asked of it

    def nearest_ids(self) -> QdrantNearestIds:
        """It, for whoever searches."""
        return QdrantNearestIds(_Awaited(self), prefix=PREFIX, timeout_seconds=60)  # type: ignore[arg-type]  # as above


class _Awaited:
    """The same, for who awaits it; nobody closes it."""

    def __init__(self, asked: LocalQdrant) -> None:
        self._asked = asked

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def ask(*args: Any, **kwargs: Any) -> Any:
            return getattr(self._asked, name)(*args, **kwargs)

        return ask

    async def close(self) -> None:
        """There is nothing to let go of."""
