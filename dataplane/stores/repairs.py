"""Where answers are kept that nothing could repair, until somebody completes them: PostgreSQL, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol
from uuid import UUID

import orjson
import psycopg
from psycopg.rows import DictRow

from dataplane.errors.answers import RepairNotFound, RepairsUnavailable
from dataplane.repair.kept import COMPLETED, ID_PREFIX, OPEN, OpenAnswer, Standing, StillBroken
from dataplane.stores.postgres import make_pool, run

REPAIRS: Final = "ledger_repair"
KEEPING: Final = "ballast-repairs"


class RepairStore(Protocol):
    """See the module. Every method but `start` and `close` raises RepairsUnavailable when the store cannot be asked.
    Its clock is the only one.
    """

    async def start(self) -> None:
        """Begin to connect; never waits for it."""

    async def close(self) -> None:
        """Let go of connections."""

    async def keep(self, answer: OpenAnswer, *, seconds: float) -> datetime:
        """Keep an answer; returns until when."""

    async def find(self, repair: UUID, *, tenant: str) -> Standing:
        """An answer of a tenant, whose time is not over. Raises RepairNotFound."""

    async def advance(self, standing: Standing, payload: Mapping[str, Any], flaw: StillBroken) -> Standing:
        """Note that another part of an open answer is broken still. Raises RepairNotFound: it is open no more."""

    async def complete(self, standing: Standing, payload: Mapping[str, Any], *, by: str) -> Standing:
        """Note that an open answer is complete. Raises RepairNotFound: it is open no more."""


_VIEW: Final = "id, state, at_part, mode, why, missing, payload, created_at, expires_at, completed_at, completed_by"
_KEEP: Final = f"""
INSERT INTO {REPAIRS} (
    id, tenant, user_hash, request_id, route, prompt, version, lane, state, at_part, mode, why, missing, payload,
    payload_bytes, created_at, expires_at, completed_by
) VALUES (
    %(id)s, %(tenant)s, %(user_hash)s, %(request_id)s, %(route)s, %(prompt)s, %(version)s, %(lane)s, '{OPEN}', %(at)s,
    %(mode)s, %(why)s, %(missing)s::jsonb, %(payload)s::bytea, length(%(payload)s::bytea), now(),
    now() + make_interval(secs => %(seconds)s::float8), ''
) ON CONFLICT (id) DO UPDATE SET id = excluded.id
RETURNING expires_at
"""  # noqa: S608 - every name in it is a constant of ours; the values are parameters
_FIND: Final = f"""
SELECT {_VIEW} FROM {REPAIRS} WHERE id = %(id)s AND tenant = %(tenant)s AND expires_at > now()
"""  # noqa: S608 - as above
# Whoever completed it first has; the other is told that it is open no more. To say the same again is to say it once.
_CHANGE: Final = f"""
UPDATE {REPAIRS} SET state = %(state)s, at_part = %(at)s, mode = %(mode)s, why = %(why)s, missing = %(missing)s::jsonb,
    payload = %(payload)s::bytea, payload_bytes = length(%(payload)s::bytea),
    completed_at = CASE WHEN %(state)s = '{COMPLETED}' THEN coalesce(completed_at, now()) END,
    completed_by = CASE WHEN completed_by = '' THEN %(by)s ELSE completed_by END
WHERE id = %(id)s AND expires_at > now() AND (
    (state = '{OPEN}' AND payload = %(was)s::bytea) OR (state = %(state)s AND payload = %(payload)s::bytea)
)
RETURNING {_VIEW}
"""  # noqa: S608 - as above


class PostgresRepairStore:
    """See `RepairStore`. One per process, on one event loop."""

    def __init__(self, url: str, *, connections: int = 2, timeout_seconds: float = 5.0) -> None:
        """`timeout_seconds` bounds every call."""
        self._timeout_seconds = timeout_seconds
        self._pool = make_pool(url, name=KEEPING, connections=connections, timeout_seconds=timeout_seconds)

    async def start(self) -> None:
        """As `RepairStore.start`."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """As `RepairStore.close`."""
        await self._pool.close()

    async def keep(self, answer: OpenAnswer, *, seconds: float) -> datetime:
        """As `RepairStore.keep`; twice is as once."""
        parameters = {
            "id": answer.id,
            "tenant": answer.tenant,
            "user_hash": answer.user_hash,
            "request_id": answer.request_id,
            "route": answer.route,
            "prompt": answer.prompt,
            "version": answer.version,
            "lane": answer.lane,
            "at": answer.at,
            "mode": answer.mode,
            "why": answer.why,
            "missing": orjson.dumps(list(answer.missing)).decode(),
            "payload": orjson.dumps(answer.payload),
            "seconds": seconds,
        }
        (row,) = await self._run(_KEEP, parameters)
        expires_at: datetime = row["expires_at"]
        return expires_at

    async def find(self, repair: UUID, *, tenant: str) -> Standing:
        """As `RepairStore.find`."""
        rows = await self._run(_FIND, {"id": repair, "tenant": tenant})
        return _standing(rows, repair)

    async def advance(self, standing: Standing, payload: Mapping[str, Any], flaw: StillBroken) -> Standing:
        """As `RepairStore.advance`."""
        return await self._change(standing, OPEN, payload, flaw, by="")

    async def complete(self, standing: Standing, payload: Mapping[str, Any], *, by: str) -> Standing:
        """As `RepairStore.complete`."""
        was = StillBroken(standing.at, standing.mode, standing.why, standing.missing)
        return await self._change(standing, COMPLETED, payload, was, by=by)

    async def _change(
        self, standing: Standing, state: str, payload: Mapping[str, Any], flaw: StillBroken, *, by: str
    ) -> Standing:
        parameters = {
            "id": standing.id,
            "state": state,
            "at": flaw.at,
            "mode": flaw.mode,
            "why": flaw.why,
            "missing": orjson.dumps(list(flaw.missing)).decode(),
            "payload": orjson.dumps(payload),
            "was": orjson.dumps(standing.payload),
            "by": by,
        }
        return _standing(await self._run(_CHANGE, parameters), standing.id)

    async def _run(self, statement: str, parameters: Mapping[str, Any]) -> list[DictRow]:
        """Run one statement.

        Raises:
            RepairsUnavailable: the database fails, or gives no answer in time.
        """

        async def work(connection: psycopg.AsyncConnection[DictRow]) -> list[DictRow]:
            cursor = await connection.execute(statement.encode(), parameters)
            return await cursor.fetchall()

        return await run(self._pool, work, timeout_seconds=self._timeout_seconds, unavailable=RepairsUnavailable)


def _standing(rows: Sequence[DictRow], repair: UUID) -> Standing:
    if not rows:
        raise RepairNotFound(f"{ID_PREFIX}{repair.hex}")
    row = rows[0]
    return Standing(
        id=row["id"],
        state=row["state"],
        at=row["at_part"],
        mode=row["mode"],
        why=row["why"],
        missing=tuple(row["missing"]),
        payload=None if row["payload"] is None else orjson.loads(row["payload"]),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        completed_at=row["completed_at"],
        completed_by=row["completed_by"],
    )
