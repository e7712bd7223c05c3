"""Where a fleet keeps its idempotency keys: PostgreSQL, and nothing else decides.

A key that is forgotten lets a request be executed and billed twice, so this store is no cache: when it cannot be asked,
nothing is executed under a key. A claim is one round trip.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID

import orjson
import psycopg
import rfc8785
from psycopg.rows import DictRow

from dataplane.errors.idempotency import (
    IdempotencyIndeterminate,
    IdempotencyMismatch,
    IdempotencyOutcomeNotKept,
    IdempotencyUnavailable,
)
from dataplane.idempotency import (
    BEGINNINGS,
    MAX_KEPT_BYTES,
    MAX_TTL_SECONDS,
    MIN_TTL_SECONDS,
    Done,
    Event,
    Fingerprint,
    LeaseLost,
    Outcome,
    Owned,
    Running,
    Scope,
    State,
)
from dataplane.journey import new_id
from dataplane.stores import idempotency_sql as sql
from dataplane.stores.lookout import LISTENING, Lookout, Sight
from dataplane.stores.postgres import KEEPING, make_pool, run

log = logging.getLogger("ballast.idempotency")

T = TypeVar("T")
WORKING: Final = "ballast-idempotency"
# Two requests with a new key at the same moment, or one with a key that has just expired, are asked once more; more
# often only while others expire and insert the same key in between.
MAX_ROUNDS: Final = 5
# A statement whose caller has given up may still arrive; then it is undone. So long it is waited for.
LATE_SECONDS: Final = 15.0


class IdempotencyStore(Protocol):
    """Where records of keys are kept. Every method but `start` and `close` raises IdempotencyUnavailable when that
    cannot be asked. The store's clock is the only one.
    """

    async def start(self) -> None:
        """Begin to connect; never waits for it."""

    async def claim(
        self,
        scope: Scope,
        key: str,
        fingerprint: Fingerprint,
        *,
        owner: str,
        request_id: str,
        lease_seconds: float,
        ttl_seconds: float,
        is_repeatable: bool,
    ) -> Owned | Running | Done:
        """Find out whether this request is the one that is executed under the key, and be its owner if so.

        A request claims once, and again after each `wait`. If it is cancelled meanwhile, or hears that the store is
        unavailable, what it would have owned is released as soon as that is known; it must not go on.

        Args:
            owner: The process; another one after each of its starts.
            lease_seconds: How long the owner may be silent before it is held to be dead. It has to stop executing
                before, by its own clock, when it cannot renew.
            ttl_seconds: How long a new key is remembered, MIN_TTL_SECONDS to MAX_TTL_SECONDS.
            is_repeatable: See `retry.is_repeatable`.
        Raises:
            IdempotencyMismatch: the key came with another request before.
            IdempotencyIndeterminate: its owner died, and what it did must not be done twice.
            IdempotencyOutcomeNotKept: it was executed, and the answer was too long to keep, or erased.
        """

    async def note_stream(self, owned: Owned, stream_id: str) -> None:
        """Let duplicates know that the answer is a stream. Raises LeaseLost: the epoch is over; nothing was written."""

    async def complete(self, owned: Owned, outcome: Outcome) -> None:
        """Keep the outcome for duplicates. Raises LeaseLost: the epoch is over; nothing was written."""

    async def release(self, owned: Owned) -> None:
        """Let the key be used again, also for another request. Raises LeaseLost: the epoch is over."""

    async def abandon(self, owned: Owned) -> None:
        """Leave the key indeterminate: see `idempotency.settle`. Raises LeaseLost: the epoch is over."""

    async def renew(self, owned: Collection[Owned], *, lease_seconds: float) -> set[Owned]:
        """Renew the leases of all that a process owns, in one round trip. Returns those that it still does."""

    async def wait(self, running: Running, *, timeout_seconds: float) -> bool:
        """Wait until what is running is done, released or abandoned, has become a stream, or its owner has died; then
        it is to be claimed again. False: it still runs.
        """

    async def expire(self, *, limit: int) -> int:
        """Remove up to `limit` records whose time is over; their evidence stays. Returns how many there were."""

    async def close(self) -> None:
        """Let go of connections."""


class PostgresIdempotencyStore:
    """See the module. One per process, on one event loop."""

    def __init__(
        self,
        url: str,
        *,
        connections: int = 4,
        timeout_seconds: float = 2.0,
        poll_seconds: float = 1.0,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`timeout_seconds` bounds every call but `wait`; `poll_seconds` is how late a waiter may hear of a change that
        was not told; `wall` is epoch seconds, by which records are numbered and nothing else.
        """
        self._url = url
        self._wall = wall
        self._timeout_seconds = timeout_seconds
        self._pool = make_pool(url, name=WORKING, connections=connections, timeout_seconds=timeout_seconds)
        self._lookout = Lookout(self._connect, self._look, channel=sql.CHANNEL, poll_seconds=poll_seconds)
        self._late: set[asyncio.Task[Any]] = set()

    @property
    def is_listening(self) -> asyncio.Event:
        """Set while changes are told."""
        return self._lookout.is_listening

    async def start(self) -> None:
        """As `IdempotencyStore.start`."""
        await self._pool.open(wait=False)
        self._lookout.start()

    async def close(self) -> None:
        """As `IdempotencyStore.close`. What is still being written is waited for."""
        await self._lookout.stop()
        while self._late:
            await asyncio.gather(*self._late, return_exceptions=True)
        await self._pool.close()

    async def claim(
        self,
        scope: Scope,
        key: str,
        fingerprint: Fingerprint,
        *,
        owner: str,
        request_id: str,
        lease_seconds: float,
        ttl_seconds: float,
        is_repeatable: bool,
    ) -> Owned | Running | Done:
        """As `IdempotencyStore.claim`."""
        if not MIN_TTL_SECONDS <= ttl_seconds <= MAX_TTL_SECONDS:
            raise ValueError(f"ttl_seconds {ttl_seconds} is outside {MIN_TTL_SECONDS}..{MAX_TTL_SECONDS}")
        asked = {
            "tenant": scope.tenant,
            "user_hash": scope.user_hash,
            "key": key,
            "fingerprint": fingerprint.sha256,
            "fields": orjson.dumps(dict(fingerprint.by_field)).decode(),
            "owner": owner,
            "request_id": request_id,
            "lease_seconds": lease_seconds,
            "ttl_seconds": ttl_seconds,
            "is_repeatable": is_repeatable,
        }
        task = asyncio.create_task(self._claim(asked))
        try:
            return await self._in_time(task)
        except (asyncio.CancelledError, IdempotencyUnavailable):
            # It may be ours by now, or in a moment. Nobody will execute it, so nobody should have to wait for it.
            task.add_done_callback(self._undo)
            raise

    async def note_stream(self, owned: Owned, stream_id: str) -> None:
        """As `IdempotencyStore.note_stream`."""
        await self._step(
            sql.STREAM, owned, {"stream_id": stream_id}, taken_if={"state": State.RUNNING, "stream_id": stream_id}
        )

    async def complete(self, owned: Owned, outcome: Outcome) -> None:
        """As `IdempotencyStore.complete`. A body over MAX_KEPT_BYTES is not kept, its length and digest are."""
        body = outcome.body
        digest = hashlib.sha256(body).hexdigest()
        written = {
            "status": outcome.status,
            "headers": orjson.dumps(outcome.headers).decode(),
            "media": outcome.media,
            "body": body if len(body) <= MAX_KEPT_BYTES else None,
            "body_bytes": len(body),
            "body_sha256": digest,
            "usage": None if outcome.usage is None else orjson.dumps(dict(outcome.usage)).decode(),
            "stream_id": outcome.stream_id,
            "detail": "" if outcome.usage is None else rfc8785.dumps(dict(outcome.usage)).decode(),
        }
        await self._step(sql.COMPLETE, owned, written, taken_if={"state": State.DONE, "body_sha256": digest})

    async def release(self, owned: Owned) -> None:
        """As `IdempotencyStore.release`."""
        await self._step(sql.RELEASE, owned, {}, taken_if={"state": State.RELEASED})

    async def abandon(self, owned: Owned) -> None:
        """As `IdempotencyStore.abandon`."""
        await self._step(sql.ABANDON, owned, {}, taken_if={"state": State.INDETERMINATE})

    async def renew(self, owned: Collection[Owned], *, lease_seconds: float) -> set[Owned]:
        """As `IdempotencyStore.renew`."""
        if not owned:
            return set()
        parameters = {
            "records": [one.record_id for one in owned],
            "epochs": [one.epoch for one in owned],
            "owners": [one.owner for one in owned],
            "lease_seconds": lease_seconds,
        }
        rows = await self._in_time(asyncio.create_task(self._run(sql.RENEW, parameters)))
        held = {(row["id"], row["epoch"], row["owner"]) for row in rows}
        return {one for one in owned if (one.record_id, one.epoch, one.owner) in held}

    async def wait(self, running: Running, *, timeout_seconds: float) -> bool:
        """As `IdempotencyStore.wait`."""
        return await self._lookout.wait(running, timeout_seconds=timeout_seconds)

    async def expire(self, *, limit: int) -> int:
        """As `IdempotencyStore.expire`."""
        (row,) = await self._in_time(asyncio.create_task(self._run(sql.EXPIRE, {"limit": limit})))
        return int(row["count"])

    async def _claim(self, asked: Mapping[str, Any]) -> Owned | Running | Done:
        for _ in range(MAX_ROUNDS):
            rows = await self._run(sql.CLAIM, {**asked, "record": UUID(new_id(self._wall()))})
            if rows:
                return _answer(rows[0], key=asked["key"])
        raise IdempotencyUnavailable(f"the key changed hands {MAX_ROUNDS} times while it was asked for")

    async def _step(
        self, statement: str, owned: Owned, written: Mapping[str, Any], *, taken_if: Mapping[str, str]
    ) -> None:
        """Take one step of an owner's. `taken_if` is what the record says if it was taken before, and that was lost.

        Raises:
            LeaseLost: the epoch is over.
        """
        await self._in_time(asyncio.create_task(self._take(statement, owned, written, taken_if)))

    async def _take(
        self, statement: str, owned: Owned, written: Mapping[str, Any], taken_if: Mapping[str, str]
    ) -> None:
        of = {"record": owned.record_id, "epoch": owned.epoch, "owner": owned.owner, "detail": ""}
        if await self._run(statement, {**of, **written}):
            return
        (standing,) = await self._run(sql.STANDING, of) or ({},)
        if not standing or any(standing[name] != value for name, value in taken_if.items()):
            raise LeaseLost(owned)

    def _undo(self, task: asyncio.Task[Owned | Running | Done]) -> None:
        """Release what a claim got that nobody waits for any more."""
        if not task.cancelled() and task.exception() is None and isinstance(owned := task.result(), Owned):
            self._keep(asyncio.create_task(self._take(sql.RELEASE, owned, {}, {"state": State.RELEASED})))

    async def _in_time(self, task: asyncio.Task[T]) -> T:
        """Wait for a statement. Also when nobody waits any more it goes on to its end: it may have arrived already."""
        self._keep(task)
        done, _ = await asyncio.wait({task}, timeout=self._timeout_seconds)
        if not done:
            raise IdempotencyUnavailable(f"the database gave no answer within {self._timeout_seconds:.1f} s")
        return task.result()

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._late.add(task)
        task.add_done_callback(self._let_go)

    def _let_go(self, task: asyncio.Task[Any]) -> None:
        self._late.discard(task)
        if not task.cancelled() and (problem := task.exception()) is not None:
            log.debug("a statement ended with %r", problem)

    async def _run(self, statement: str, parameters: Mapping[str, Any]) -> list[DictRow]:
        """Run one statement, which is one transaction."""

        async def work(connection: psycopg.AsyncConnection[DictRow]) -> list[DictRow]:
            cursor = await connection.execute(statement.encode(), parameters, binary=True)
            return await cursor.fetchall()

        return await run(self._pool, work, timeout_seconds=LATE_SECONDS, unavailable=IdempotencyUnavailable)

    async def _look(self, records: Collection[UUID]) -> dict[UUID, Sight]:
        rows = await self._in_time(asyncio.create_task(self._run(sql.LOOK, {"records": list(records)})))
        return {row["id"]: Sight(row["is_running"], row["epoch"], row["stream_id"]) for row in rows}

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        return await psycopg.AsyncConnection.connect(self._url, application_name=LISTENING, **KEEPING)


def _answer(row: DictRow, *, key: str) -> Owned | Running | Done:
    event = Event(row["event"])
    record, epoch, owner = row["record"], row["epoch"], row["owner"]
    if event in BEGINNINGS or event is Event.RESUMED:
        if event is not Event.TAKEN_OVER:
            return Owned(record, epoch, owner)
        return Owned(record, epoch, owner, taken_over=True, stream_before=row["stream_before"])
    if event is Event.ATTACHED:
        return Running(record, epoch, owner, row["stream_id"], row["lease_left_seconds"])
    if event is Event.MISMATCH:
        raise IdempotencyMismatch(key, fields=tuple(orjson.loads(row["detail"])))
    if event is Event.NOT_KEPT:
        raise IdempotencyOutcomeNotKept(key, body_bytes=row["body_bytes"], limit_bytes=MAX_KEPT_BYTES)
    if event is Event.INDETERMINATE:
        raise IdempotencyIndeterminate(key)
    headers = tuple((name, value) for name, value in row["headers"])
    outcome = Outcome(row["status"], headers, row["media"], row["body"], row["usage"], row["stream_id"])
    return Done(record, epoch, outcome)
