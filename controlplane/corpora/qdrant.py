"""Vectors of namespaces in a Qdrant beside PostgreSQL: written here, searched by gateways in `dataplane.stores.qdrant`.

A namespace is a collection there, and a chunk a point by the chunk's id. Vectors are of length 1 and compared by their
dot product, which is the cosine then. Told to compare by cosine, Qdrant would make them of length 1 itself, and what
comes back need not be to the bit what was put there: no chunk's digest would hold.

Points carry no payload. A copy of a chunk's metadata would be a second truth about it, to be changed and forgotten with
the document; and what may be told of a chunk, PostgreSQL has to decide anyway.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Final

import numpy as np
from django.conf import settings
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

from controlplane.corpora.errors import VectorsUnavailable
from controlplane.corpora.models import Namespace
from dataplane.credentials import SecretStore, SecretUnavailable
from dataplane.retrieval.hashes import Vector
from dataplane.retrieval.tables import vectors_collection

# Of each request. To put some hundred vectors takes milliseconds; a server that is merging its segments may take long.
TIMEOUT_SECONDS: Final = 60
# Qdrant takes requests of up to 32 MiB, and a number is up to 22 characters of JSON.
_REQUEST_BYTES: Final = 8 * 2**20
_NUMBER_BYTES: Final = 22
MOST_AT_ONCE: Final = 512
# To answer one exactly, the server reads every vector.
_QUESTIONS_AT_ONCE: Final = 10
# Qdrant's own defaults, said here so that a server set up otherwise builds the same graphs.
_GRAPH: Final = models.HnswConfigDiff(m=16, ef_construct=100)
_NOT_FOUND: Final = 404


class QdrantVectors:
    """The `ExternalVectors` of a Qdrant server. Every method raises VectorsUnavailable when it cannot be asked, or has
    no room for the namespace: it is never made by itself where vectors should have been, or who searches would take the
    few that came since for all there are.
    """

    def __init__(self, client: QdrantClient, *, prefix: str, is_on_disk: bool = False) -> None:
        """`prefix` is what names of its collections begin with; `is_on_disk` has it read vectors from there, which
        takes less memory and more time.
        """
        self._client = client
        self._prefix = prefix
        self._is_on_disk = is_on_disk

    def create(self, namespace: Namespace) -> None:
        """As `ExternalVectors.create`; room of another shape, which nothing of this namespace can be in, goes."""
        name = self._name(namespace)
        with _asked(name):
            if self._client.collection_exists(name):
                shape = self._client.get_collection(name).config.params.vectors
                if isinstance(shape, models.VectorParams) and (shape.size, shape.distance) == (
                    namespace.dimensions,
                    models.Distance.DOT,
                ):
                    return
                self._client.delete_collection(name)
            self._client.create_collection(
                name,
                vectors_config=models.VectorParams(
                    size=namespace.dimensions, distance=models.Distance.DOT, on_disk=self._is_on_disk
                ),
                hnsw_config=_GRAPH,
            )

    def put(self, namespace: Namespace, vectors: Mapping[int, Vector]) -> None:
        """As `ExternalVectors.put`."""
        name, ids = self._name(namespace), list(vectors)
        for some in _parts(ids, namespace.dimensions):
            points = models.Batch(ids=list(some), vectors=[vectors[one].tolist() for one in some])
            with _asked(name):
                result = self._client.upsert(name, points=points, wait=True)
            # It may have it in its log, and nobody finds it yet.
            if result.status != models.UpdateStatus.COMPLETED:
                raise VectorsUnavailable(f"Qdrant has not applied vectors of {name!r} in time ({result.status.value})")

    def remove(self, namespace: Namespace, ids: Sequence[int]) -> None:
        """As `ExternalVectors.remove`; also where there is no room."""
        name = self._name(namespace)
        for some in _parts(ids, 1):
            with _asked(name, is_needed=False):
                self._client.delete(name, points_selector=models.PointIdsList(points=list(some)), wait=True)

    def fetch(self, namespace: Namespace, ids: Sequence[int]) -> Mapping[int, Vector]:
        """As `ExternalVectors.fetch`."""
        name = self._name(namespace)
        found: dict[int, Vector] = {}
        for some in _parts(ids, namespace.dimensions):
            with _asked(name):
                points = self._client.retrieve(name, ids=list(some), with_payload=False, with_vectors=True)
            found |= {int(point.id): np.asarray(point.vector, dtype=np.float32) for point in points}
        return found

    def ids(self, namespace: Namespace, *, after: int, limit: int) -> Sequence[int]:
        """As `ExternalVectors.ids`."""
        name = self._name(namespace)
        with _asked(name):
            points, _ = self._client.scroll(name, offset=after + 1, limit=limit, with_payload=False, with_vectors=False)
        return [int(point.id) for point in points]

    def nearest(
        self, namespace: Namespace, questions: Sequence[Vector], *, limit: int, is_exact: bool
    ) -> Sequence[Sequence[tuple[int, float]]]:
        """As `ExternalVectors.nearest`."""
        name = self._name(namespace)
        # Searches name none either: the server's own hold.
        params = models.SearchParams(exact=True) if is_exact else None
        found: list[list[tuple[int, float]]] = []
        for first in range(0, len(questions), _QUESTIONS_AT_ONCE):
            requests = [
                models.QueryRequest(query=models.NearestQuery(nearest=one.tolist()), limit=limit, params=params)
                for one in questions[first : first + _QUESTIONS_AT_ONCE]
            ]
            with _asked(name):
                answers = self._client.query_batch_points(name, requests=requests)
            found += [[(int(point.id), 1.0 - point.score) for point in answer.points] for answer in answers]
        return found

    def is_built(self, namespace: Namespace) -> bool:
        """As `ExternalVectors.is_built`.

        Source: Qdrant, "Collections", on the status of one and on its grey.
        """
        name = self._name(namespace)
        with _asked(name):
            status = self._client.get_collection(name).status
            if status is models.CollectionStatus.GREY:
                # It was started again while it was not done, and goes on with the next write.
                self._client.update_collection(name, optimizers_config=models.OptimizersConfigDiff())
        if status is models.CollectionStatus.RED:
            raise VectorsUnavailable(f"Qdrant says that something of {name!r} failed (status red); see its log")
        return status is models.CollectionStatus.GREEN

    def drop(self, namespace: Namespace) -> None:
        """As `ExternalVectors.drop`."""
        name = self._name(namespace)
        with _asked(name, is_needed=False):
            self._client.delete_collection(name)

    def namespaces(self) -> Sequence[int]:
        """As `ExternalVectors.namespaces`."""
        beginning = vectors_collection(self._prefix, 0).removesuffix("0")
        with _asked(beginning):
            names = [one.name for one in self._client.get_collections().collections]
        numbers = [name.removeprefix(beginning) for name in names if name.startswith(beginning)]
        return sorted(int(number) for number in numbers if number.isascii() and number.isdecimal())

    def _name(self, namespace: Namespace) -> str:
        return vectors_collection(self._prefix, namespace.pk)


@cache
def from_settings() -> QdrantVectors:
    """The server that the settings name; connects to nothing yet.

    Raises:
        VectorsUnavailable: its key cannot be had.
    """
    try:
        reference = settings.QDRANT_KEY
        key = SecretStore(os.environ).resolve(reference, now=time.monotonic()) if reference else None
    except SecretUnavailable as exc:
        raise VectorsUnavailable(
            f"the key of Qdrant, {settings.QDRANT_KEY!r}, is not set here or cannot be read"
        ) from exc
    client = QdrantClient(
        url=settings.QDRANT_URL,
        api_key=key,
        timeout=TIMEOUT_SECONDS,
        prefer_grpc=False,
        check_compatibility=False,
    )
    return QdrantVectors(client, prefix=settings.QDRANT_PREFIX, is_on_disk=settings.QDRANT_ON_DISK)


@contextmanager
def _asked(name: str, *, is_needed: bool = True) -> Iterator[None]:
    """In the block Qdrant is asked about a collection; `is_needed`: it is to be there."""
    try:
        yield
    except (ApiException, QdrantException) as exc:
        if isinstance(exc, UnexpectedResponse) and exc.status_code == _NOT_FOUND:
            if not is_needed:
                return
            raise VectorsUnavailable(
                f"Qdrant has no collection {name!r}: it was lost; rebuild the corpus, or restore a dump, and switch"
            ) from exc
        told = " ".join(f"{type(exc).__name__}: {exc}".split())[:200]
        raise VectorsUnavailable(f"Qdrant cannot be asked about {name!r} ({told})") from exc


def _parts(ids: Sequence[int], dimensions: int) -> Iterator[Sequence[int]]:
    """Ids whose vectors of so many numbers go into one request."""
    most = min(MOST_AT_ONCE, max(1, _REQUEST_BYTES // (dimensions * _NUMBER_BYTES)))
    for first in range(0, len(ids), most):
        yield ids[first : first + most]
