"""Answers that nothing could repair, kept for somebody to complete: the application, or a person.

`GET /v1/repairs/{id}` says what is missing, `POST /v1/repairs/{id}` supplies it; what comes back is the answer as if it
had been right. It is its tenant's, as a job is, and is forgotten when its time is over.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from dataplane.desks import DeskCall
from dataplane.envelope import JSON_TYPE, Header
from dataplane.errors.answers import RepairsUnavailable
from dataplane.errors.requests import InvalidRequest
from dataplane.journey import Inbound, Reply
from dataplane.pipeline import Pipeline
from dataplane.repair.completion import complete, parse_supplied
from dataplane.repair.kept import COMPLETED, Standing, read_id
from dataplane.schema_check import SchemaChecker
from dataplane.stores.repairs import RepairStore

COMPLETE: Final = "repair_complete"


class RepairDesk:
    """Answers requests about answers that are kept."""

    path: Final = "/v1/repairs"
    operations: Final = {(True, ""): {"GET": "repair_look", "POST": COMPLETE}}
    reading: Final = frozenset({COMPLETE})

    def __init__(self, store: RepairStore | None, pipeline: Pipeline, *, schemas: SchemaChecker) -> None:
        """`store` None: this gateway is told of no database."""
        self._store = store
        self._pipeline = pipeline
        self._schemas = schemas

    async def start(self) -> None:
        """Begin to connect; never waits for it."""
        if self._store is not None:
            await self._store.start()

    async def stop(self) -> None:
        """Let go of the store."""
        if self._store is not None:
            await self._store.close()

    async def serve(self, call: DeskCall, reply: Reply) -> None:
        """Answer one request.

        Raises:
            NoRelease, Unauthorized, InvalidRequest, RepairNotFound, RepairsUnavailable.
        """
        _, key = self._pipeline.authenticate(call.inbound.authorization)
        if self._store is None:
            raise RepairsUnavailable("this gateway is told of no database")
        standing = await self._store.find(read_id(call.name), tenant=key.tenant.slug)
        if call.operation != COMPLETE:
            await _send(reply, call.inbound, orjson.dumps(repair_json(standing)))
            return
        if standing.state != COMPLETED:
            given = parse_supplied(call.inbound.body)
            completion = complete(standing.payload or {}, standing.at, given, schemas=self._schemas)
            if completion.flaw is not None:
                await self._store.advance(standing, completion.payload, completion.flaw)
                raise InvalidRequest(f"{standing.at} is right now; {completion.flaw.words}", param="fields")
            standing = await self._store.complete(standing, completion.payload, by=key.id)
        await _send(reply, call.inbound, orjson.dumps((standing.payload or {})["body"]))


async def _send(reply: Reply, inbound: Inbound, body: bytes) -> None:
    headers: list[Header] = [JSON_TYPE, (b"ballast-request-id", inbound.request_id.encode())]
    await reply.send_whole(200, headers, body)


def repair_json(standing: Standing) -> dict[str, Any]:
    """An answer that is kept, as its tenant reads it.

    Shape: {"id", "object": "repair", "status": "open" | "completed", "at": "text" | "tool_calls[i]", "mode", "why",
    "missing_fields": [pointer], "value": what could be read of the part or null, "created_at", "expires_at",
    "completed_at": epoch seconds or null, "response": the `chat.completion` or null while it is open}.
    """
    payload = standing.payload or {}
    is_done = standing.state == COMPLETED
    value = payload.get("value")
    return {
        "id": standing.name,
        "object": "repair",
        "status": standing.state,
        "at": standing.at,
        "mode": standing.mode,
        "why": standing.why,
        "missing_fields": list(standing.missing),
        "value": None if value is None else orjson.Fragment(value),
        "created_at": int(standing.created_at.timestamp()),
        "expires_at": int(standing.expires_at.timestamp()),
        "completed_at": None if standing.completed_at is None else int(standing.completed_at.timestamp()),
        "response": payload.get("body") if is_done else None,
    }
