"""What goes over the wire to a Qdrant server, and what comes back: the clients that run in earnest, against a stand-in
that answers as the server's documentation has it.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from django.conf import LazySettings

from controlplane.corpora import qdrant
from controlplane.corpora.errors import VectorsUnavailable
from controlplane.corpora.models import Namespace
from dataplane.retrieval.errors import CorpusUnavailable
from dataplane.stores.corpora import VectorsGone
from dataplane.stores.qdrant import connect

SOME = Namespace(pk=3, dimensions=4)
# What a server says of a collection beside its status.
INFO = {
    "optimizer_status": "ok",
    "indexed_vectors_count": 0,
    "points_count": 200,
    "segments_count": 2,
    "payload_schema": {},
    "config": {
        "params": {"vectors": {"size": 4, "distance": "Dot"}},
        "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10_000},
        "optimizer_config": {
            "deleted_threshold": 0.2,
            "vacuum_min_vector_number": 1_000,
            "default_segment_number": 0,
            "flush_interval_sec": 5,
        },
    },
}


class StandIn(ThreadingHTTPServer):
    """Keeps points of one collection, as numbers of 32 bits that it writes with as few digits as tell them apart. The
    next `hung_up` requests get no answer. `status` is the collection's, and `bodies` what it was sent.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.points: dict[int, np.ndarray] = {}
        self.asked: list[str] = []
        self.bodies: list[Any] = []
        self.status = "green"
        self.hung_up = 0
        self.keys: set[str | None] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    server: StandIn

    def do_GET(self) -> None:
        self._answer()

    def do_PATCH(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or "null")
        self.server.asked.append(f"{self.command} {self.path}")
        self.server.bodies.append(body)
        self.server.keys.add(self.headers["api-key"])
        if self.server.hung_up:
            self.server.hung_up -= 1
            self.close_connection = True
            return None
        _, collections, name, *what = self.path.partition("?")[0].split("/")
        assert collections == "collections"
        if name != "ballast_ns_3":
            return self._send(404, {"status": {"error": f"Not found: Collection `{name}` doesn't exist!"}, "time": 0.0})
        return self._send(200, {"result": self._result(what, body), "status": "ok", "time": 0.001})

    def _result(self, what: list[str], body: dict[str, Any]) -> Any:
        points = self.server.points
        if not what:
            return True if self.command == "PATCH" else INFO | {"status": self.server.status}
        if self.command == "PUT":
            points.update(zip(body["batch"]["ids"], np.array(body["batch"]["vectors"], dtype=np.float32), strict=True))
            return {"operation_id": 1, "status": "completed"}
        if what == ["points"]:
            return [{"id": one, "vector": points[one]} for one in body["ids"] if one in points]
        if what == ["points", "query", "batch"]:
            return [self._near(one) for one in body["searches"]]
        assert what == ["points", "query"]
        return self._near(body)

    def _near(self, asked: dict[str, Any]) -> Any:
        points = self.server.points
        scores = {one: points[one] @ np.array(asked["query"]["nearest"], dtype=np.float32) for one in points}
        near = sorted(scores, key=lambda one: -scores[one])[: asked["limit"]]
        return {"points": [{"id": one, "version": 1, "score": scores[one]} for one in near]}

    def _send(self, status: int, answer: dict[str, Any]) -> None:
        data = json.dumps(answer, default=_shortest).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


def _shortest(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_shortest(one) for one in value]
    return float(np.format_float_scientific(value, unique=True))


@pytest.fixture
def server() -> Iterator[StandIn]:
    with StandIn() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def written(server: StandIn, settings: LazySettings) -> Iterator[qdrant.QdrantVectors]:
    """The store that the settings name."""
    settings.QDRANT_URL, settings.QDRANT_KEY, settings.QDRANT_PREFIX = server.url, "", "ballast"
    qdrant.from_settings.cache_clear()
    yield qdrant.from_settings()
    qdrant.from_settings.cache_clear()


def vectors() -> dict[int, np.ndarray]:
    rows = np.random.default_rng(5).normal(size=(200, SOME.dimensions)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[0] = np.array([1e-42, 0.1, -0.0, 16777217], dtype=np.float32)
    return dict(enumerate(rows, start=1))


def test_vectors_go_there_and_come_back_to_the_bit(server: StandIn, written: qdrant.QdrantVectors) -> None:
    """Through JSON, by digits; whoever puts them waits until they can be found."""
    put = vectors()

    written.put(SOME, put)
    found = written.fetch(SOME, list(put))

    assert {one: found[one].tobytes() for one in found} == {one: put[one].tobytes() for one in put}
    assert server.asked == ["PUT /collections/ballast_ns_3/points?wait=true", "POST /collections/ballast_ns_3/points"]
    assert server.keys == {None}


def test_gateway_is_told_ids_and_distances_the_nearest_first(server: StandIn) -> None:
    """With the key, if there is one."""
    server.points = vectors()
    del server.points[1]
    question = server.points[7]

    async def ask() -> list[tuple[int, float]]:
        store = connect(server.url, key="k", prefix="ballast", timeout_seconds=60)
        try:
            return list(await store.nearest(3, question, limit=5))
        finally:
            await store.close()

    with pytest.warns(UserWarning, match="insecure connection"):
        found = asyncio.run(ask())

    distances = [distance for _, distance in found]
    assert found[0] == (7, pytest.approx(0, abs=1e-6))
    assert distances == sorted(distances)
    assert len(found) == 5
    assert server.keys == {"k"}


@pytest.mark.parametrize("is_exact", [True, False])
def test_neighbours_are_asked_for_exactly_or_as_searches_do(
    server: StandIn, written: qdrant.QdrantVectors, is_exact: bool
) -> None:
    """Some questions in one request: each says `exact`, or nothing, as a gateway's does; the nearest come first."""
    server.points = vectors()
    del server.points[1]
    questions = [server.points[one] for one in range(10, 33)]

    found = written.nearest(SOME, questions, limit=5, is_exact=is_exact)

    assert [near[0] for near in found] == [(one, pytest.approx(0, abs=1e-6)) for one in range(10, 33)]
    assert all(len(near) == 5 and near == sorted(near, key=lambda one: one[1]) for near in found)
    assert server.asked == ["POST /collections/ballast_ns_3/points/query/batch"] * 3
    sent = [one for body in server.bodies for one in body["searches"]]
    assert len(sent) == len(questions)
    assert all(one.get("params") == ({"exact": True} if is_exact else None) for one in sent)


def test_graph_is_built_when_the_collection_is_green(server: StandIn, written: qdrant.QdrantVectors) -> None:
    """Grey is one that was started anew in the middle, and is told to go on; red is a failure."""
    found = {}
    for server.status in ("yellow", "grey", "green"):
        found[server.status] = written.is_built(SOME)
    server.status = "red"

    with pytest.raises(VectorsUnavailable, match=r"'ballast_ns_3' failed \(status red\)"):
        written.is_built(SOME)

    assert found == {"yellow": False, "grey": False, "green": True}
    told = [(asked, body) for asked, body in zip(server.asked, server.bodies, strict=True) if "GET" not in asked]
    assert told == [("PATCH /collections/ballast_ns_3", {"optimizers_config": {}})]


def test_connection_that_was_closed_meanwhile_is_no_failure_yet(server: StandIn) -> None:
    """Servers close those that nobody uses, perhaps just when somebody does; twice in a row it is none of those."""
    server.points = vectors()

    async def ask() -> int:
        store = connect(server.url, key=None, prefix="ballast", timeout_seconds=60)
        try:
            server.hung_up = 1
            found = await store.nearest(3, server.points[7], limit=5)
            server.hung_up = 2
            with pytest.raises(CorpusUnavailable, match="the vector store fails"):
                await store.nearest(3, server.points[7], limit=5)
            return len(found)
        finally:
            await store.close()

    assert asyncio.run(ask()) == 5


def test_collection_that_is_not_there_is_said_by_both(server: StandIn, written: qdrant.QdrantVectors) -> None:
    """Whoever writes says what to do; whoever searches looks whether it was dropped."""
    gone = Namespace(pk=4, dimensions=SOME.dimensions)

    async def ask() -> None:
        store = connect(server.url, key=None, prefix="ballast", timeout_seconds=60)
        try:
            await store.nearest(4, vectors()[2], limit=5)
        finally:
            await store.close()

    with pytest.raises(VectorsUnavailable, match="'ballast_ns_4': it was lost"):
        written.put(gone, vectors())
    with pytest.raises(VectorsGone):
        asyncio.run(ask())
    written.remove(gone, [1])


def test_key_that_cannot_be_had_is_named(settings: LazySettings) -> None:
    """By its reference, where the store is first wanted."""
    settings.QDRANT_URL, settings.QDRANT_KEY = "http://127.0.0.1:1", "env:BALLAST_NO_SUCH_KEY"
    qdrant.from_settings.cache_clear()

    with pytest.raises(VectorsUnavailable, match="'env:BALLAST_NO_SUCH_KEY'"):
        qdrant.from_settings()
