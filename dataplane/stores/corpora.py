"""Where corpora are searched: PostgreSQL, which alone knows what is alive.

A search is one statement, so that what it finds, how fresh that is, and which namespace serves are of one moment. It
names the table of one namespace, and finds nothing unless that is the one that serves at that moment; when it is not,
it is the other one's turn. So a query never sees two namespaces, and a switch loses none.

Which chunks are near, the statement asks pgvector; or it is told by a `NearestIds`, whose answer it takes for no more
than a proposal: of those ids, it returns what is alive and passes the filters. Such a store holds no less than is alive
(see `controlplane.corpora.vectors`), so what it proposes is asked for again, and more of it, when too little of it
lives. A delete is as strong there as here. What became searchable between proposal and statement was not proposed; so
where the index revision is another one than before the proposal, there is another.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol

import orjson
import psycopg
from pgvector.psycopg import register_vector_async
from psycopg.rows import DictRow

from dataplane.retrieval.errors import CorpusEmpty, CorpusPaused, CorpusUnavailable, ModelMoved, SnapshotGone
from dataplane.retrieval.found import Chunk, Found, Place, snapshot_of
from dataplane.retrieval.freshness import Standing
from dataplane.retrieval.hashes import Vector
from dataplane.retrieval.modes import Mode
from dataplane.retrieval.policy import PGVECTOR
from dataplane.retrieval.requests import Filters
from dataplane.retrieval.tables import Snapshot, chunks_table
from dataplane.stores import corpora_sql as sql
from dataplane.stores.postgres import make_pool, run

log = logging.getLogger("ballast.corpora")

SEARCHING: Final = "ballast-corpora"
# So often a search goes after an alias that moves under it; whoever switches more often than that is no operator.
MAX_LOOKS: Final = 20
# So many times as many ids are asked of a store beside as are wanted, and at most so many: of what it proposes, some
# may be dead, or not pass the filters.
MORE_IDS: Final = 4
MAX_IDS: Final = 4_000


class NearestIds(Protocol):
    """A store beside PostgreSQL that knows which chunks of a namespace are near."""

    async def start(self) -> None:
        """Begin to connect; never waits for it."""

    async def close(self) -> None:
        """Let go of connections."""

    async def nearest(self, namespace: int, vector: Vector, *, limit: int) -> Sequence[tuple[int, float]]:
        """The ids of up to `limit` chunks with their cosine distances, the nearest first; dead ones may be among them.

        Raises:
            CorpusUnavailable: it cannot be asked. VectorsGone: it has nothing of the namespace, not even room.
        """


class VectorsGone(CorpusUnavailable):
    """A store beside has no such namespace. It was dropped since it was looked up; or that store has lost it."""


class CorpusStore(Protocol):
    """See the module. Every method but `start` and `close` raises CorpusUnavailable when it cannot be asked: what
    cannot be looked up may have been deleted.
    """

    async def start(self) -> None:
        """Begin to connect; never waits for it."""

    async def close(self) -> None:
        """Let go of connections."""

    async def place(self, slug: str, snapshot: Snapshot | None, *, anew: bool = False) -> Place:
        """Where a search would look; it tells by which model to embed a question.

        Args:
            anew: Look, and rest on nothing that was known before.
        Raises:
            CorpusEmpty: nothing of the corpus is searchable.
            CorpusPaused: unless that is not known yet; the search says so then.
            SnapshotGone: the snapshot's namespace was dropped, is of another corpus, or never served.
        """

    async def search(
        self, slug: str, model: str, vector: Vector, *, k: int, mode: Mode, filters: Filters, now: datetime
    ) -> Found:
        """Find the chunks that are nearest to a vector of `model`.

        With an approximate index, filters that few chunks pass may leave fewer than `k`.

        Args:
            vector: Shape (dimensions of the place,), of length 1.
            k: 1..`policy.MAX_CHUNKS`.
            now: Aware; the age of the oldest change is measured from it.
        Raises:
            ModelMoved: the namespace that serves by now is of another model.
            CorpusEmpty, CorpusPaused.
            SnapshotGone: it is not kept any more, or an operator has withdrawn it by pinning an older one.
        """


class PostgresCorpusStore:
    """See the module. One per process, on one event loop."""

    def __init__(
        self,
        url: str,
        *,
        beside: Mapping[str, NearestIds] | None = None,
        connections: int = 4,
        timeout_seconds: float = 5.0,
    ) -> None:
        """`timeout_seconds` bounds every statement; `beside` are the stores of vectors that are elsewhere than beside
        their chunks, by the name that namespaces have for them.
        """
        self._timeout_seconds = timeout_seconds
        self._beside = dict(beside or {})
        # Where each corpus was last seen to serve from. A hint: every search compares it with what is so.
        self._serving: dict[str, Place] = {}
        # At which index revision each namespace was last seen to be; none is ever ahead of what is so.
        self._revs: dict[int, int] = {}
        self._pool = make_pool(
            url, name=SEARCHING, connections=connections, timeout_seconds=timeout_seconds, configure=_configure
        )

    async def start(self) -> None:
        """As `CorpusStore.start`."""
        await self._pool.open(wait=False)
        for store in self._beside.values():
            await store.start()

    async def close(self) -> None:
        """As `CorpusStore.close`."""
        await self._pool.close()
        for store in self._beside.values():
            await store.close()

    async def place(self, slug: str, snapshot: Snapshot | None, *, anew: bool = False) -> Place:
        """As `CorpusStore.place`."""
        if snapshot is None:
            known = None if anew else self._serving.get(slug)
            return known or await self._look_up(slug)
        rows = await self._run(sql.PLACE_OF_SNAPSHOT, {"slug": slug, "namespace": snapshot.namespace})
        if not rows:
            raise SnapshotGone(str(snapshot))
        if rows[0]["is_paused"]:
            raise CorpusPaused(slug)
        return _place(rows[0], rev=snapshot.index_rev)

    async def search(
        self, slug: str, model: str, vector: Vector, *, k: int, mode: Mode, filters: Filters, now: datetime
    ) -> Found:
        """As `CorpusStore.search`."""
        place = await self.place(slug, mode.snapshot)
        ids_wanted = k * MORE_IDS
        for _ in range(MAX_LOOKS):
            if place.model != model:
                raise ModelMoved(place)
            rev_before = self._revs.get(place.namespace)
            try:
                proposed = await self._propose(place, vector, limit=ids_wanted)
            except VectorsGone:
                place = await self._go_after(slug, place, mode)
                continue
            rows = await self._look(slug, place, vector, proposed, k=k, mode=mode, filters=filters, now=now)
            if rows is None:  # its table went between the two
                place = await self.place(slug, mode.snapshot, anew=True)
                continue
            moved = self._check(slug, place, mode, rows)
            if moved is not None:
                place = moved
                continue
            self._revs[place.namespace] = rows[0]["index_rev"]
            if proposed is not None and place.rev is None and rev_before != rows[0]["index_rev"]:
                continue  # what was born since may be nearer than all that was proposed
            chunks = tuple(_chunk(row) for row in rows if row["id"] is not None)
            is_short = proposed is not None and len(chunks) < k and len(proposed) == ids_wanted < MAX_IDS
            if not is_short:
                return Found(_standing(rows[0], place, mode, now=now), chunks)
            ids_wanted = min(MAX_IDS, ids_wanted * MORE_IDS)
        raise CorpusUnavailable(f"{slug!r} is switched faster than it can be searched, or its chunks are gone")

    def _check(self, slug: str, place: Place, mode: Mode, rows: Sequence[DictRow]) -> Place | None:
        """Return None if what a search found may be told, or where it has to look instead."""
        if not rows:
            raise CorpusEmpty(slug)
        row = rows[0]
        if row["is_paused"]:
            self._serving.pop(slug, None)  # looked up the next time, before a question is embedded for nothing
            raise CorpusPaused(slug)
        if mode.snapshot is not None:
            if not row["is_readable"]:
                raise SnapshotGone(str(mode.snapshot))
            return None
        if row["serving"] is None:
            self._serving.pop(slug, None)
            raise CorpusEmpty(slug)
        self._serving[slug] = serving = _place(row, rev=row["pinned_rev"])
        if serving != place:
            return serving
        if not row["is_readable"]:
            raise CorpusUnavailable(f"what its operators pinned, {snapshot_of(place, index_rev=0)}, is no longer kept")
        return None

    async def _go_after(self, slug: str, place: Place, mode: Mode) -> Place:
        """Where to look instead of a place whose vectors are gone.

        Raises:
            VectorsGone: there is no other; they were lost.
        """
        instead = await self.place(slug, mode.snapshot, anew=True)
        if instead == place:
            log.error("the vectors of %s are lost from store %r", snapshot_of(place, index_rev=0), place.store)
            raise VectorsGone(f"the vectors of namespace {place.namespace} are gone from their store")
        return instead

    async def _look_up(self, slug: str) -> Place:
        """Where the corpus serves from now."""
        self._serving.pop(slug, None)
        rows = await self._run(sql.PLACE, {"slug": slug})
        if not rows or rows[0]["serving"] is None:
            raise CorpusEmpty(slug)
        if rows[0]["is_paused"]:
            raise CorpusPaused(slug)
        self._serving[slug] = found = _place(rows[0], rev=rows[0]["pinned_rev"])
        self._revs[found.namespace] = rows[0]["index_rev"]
        return found

    async def _propose(self, place: Place, vector: Vector, *, limit: int) -> Sequence[tuple[int, float]] | None:
        """What the store of the place's vectors says is near; None: they are beside their chunks."""
        if place.store == PGVECTOR:
            return None
        store = self._beside.get(place.store)
        if store is None:
            raise CorpusUnavailable(f"this gateway is told of no vector store {place.store!r}")
        return await store.nearest(place.namespace, vector, limit=limit)

    async def _look(
        self,
        slug: str,
        place: Place,
        vector: Vector,
        proposed: Sequence[tuple[int, float]] | None,
        *,
        k: int,
        mode: Mode,
        filters: Filters,
        now: datetime,
    ) -> list[DictRow] | None:
        """Run the statement; None: the namespace's table is gone."""
        parameters: dict[str, Any] = {
            "slug": slug,
            "namespace": place.namespace,
            "rev": place.rev,
            "at_least": mode.at_least,
            "now": now,
            "filter": orjson.dumps(filters).decode() if filters else None,
            "vector": vector,
        }
        if proposed is not None:
            parameters |= {"ids": [one for one, _ in proposed], "distances": [distance for _, distance in proposed]}
        statement = sql.search(
            chunks_table(place.namespace),
            k=k,
            is_snapshot=mode.snapshot is not None,
            is_newest=place.rev is None,
            is_proposed=proposed is not None,
            is_filtered=bool(filters),
        )
        try:
            return await self._run(statement, parameters)
        except _TableGone:
            return None

    async def _run(self, statement: str, parameters: Mapping[str, Any]) -> list[DictRow]:
        """Run one statement.

        Raises:
            CorpusUnavailable: the database fails, or gives no answer in time.
        """

        async def work(connection: psycopg.AsyncConnection[DictRow]) -> list[DictRow]:
            try:
                cursor = await connection.execute(statement.encode(), parameters)
                return await cursor.fetchall()
            except psycopg.errors.UndefinedTable as exc:
                raise _TableGone("a table is not there") from exc
            except psycopg.InternalError as exc:
                # It may have been there when the statement was read, and not any more when it was opened.
                if "could not open relation" in str(exc):
                    raise _TableGone("a table is not there any more") from exc
                log.warning("corpora cannot be searched: %s", exc)
                raise CorpusUnavailable(f"the database fails ({type(exc).__name__})") from exc

        return await run(self._pool, work, timeout_seconds=self._timeout_seconds, unavailable=CorpusUnavailable)


class _TableGone(CorpusUnavailable):
    """A statement names a table that does not exist. Where that is a namespace's, it is looked for elsewhere."""


async def _configure(connection: psycopg.AsyncConnection[DictRow]) -> None:
    await register_vector_async(connection)
    # Chunks that are dead or do not pass the filters are passed over; go on until enough are found, nearest first.
    await connection.execute("SET hnsw.iterative_scan = strict_order")


def _place(row: DictRow, *, rev: int | None) -> Place:
    return Place(row["serving"], row["model"], row["dimensions"], row["store"], rev)


def _standing(row: DictRow, place: Place, mode: Mode, *, now: datetime) -> Standing:
    since: datetime | None = row["since"]
    return Standing(
        snapshot=snapshot_of(place, index_rev=row["index_rev"]),
        lag_seconds=0.0 if since is None else max(0.0, (now - since).total_seconds()),
        pending=row["pending"],
        poisoned=row["poisoned"],
        waited_for=row["waited_for"],
        is_pinned=mode.snapshot is None and place.rev is not None,
    )


def _chunk(row: DictRow) -> Chunk:
    return Chunk(
        id=row["id"],
        source_key=row["source_key"],
        source_rev=row["source_rev"],
        ordinal=row["ordinal"],
        text=row["text"],
        metadata=row["metadata"],
        score=1.0 - row["distance"],
        event_at=row["event_at"],
        is_current=row["is_current"],
        chunk_sha256=bytes(row["chunk_sha256"]),
    )
