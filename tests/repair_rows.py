"""Answers that nothing could repair, as the data plane would leave them."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson

from controlplane.ledger.repairs import Repair
from dataplane.journey import new_id
from dataplane.repair.kept import COMPLETED, EXPIRED, OPEN
from tests.factories import NOW

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "answer": {"type": "string", "minLength": 1},
        "topic": {"type": "string", "enum": ["orders", "refunds"]},
        "customer": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
        "parcels": {"type": "integer"},
    },
    "required": ["answer", "topic"],
    "additionalProperties": False,
}
# As far as it could be read; `topic` is missing.
READ = '{"answer": "secret words", "parcels": 2}'


def answer(text: str | None = READ, *, arguments: tuple[str, ...] = ()) -> dict[str, Any]:
    """The body of a `chat.completion` that says `text`, or calls the tool `book` with these arguments."""
    message: dict[str, Any] = {"role": "assistant", "content": None if arguments else text}
    if arguments:
        message["tool_calls"] = [
            {"id": f"call_{place}", "type": "function", "function": {"name": "book", "arguments": one}}
            for place, one in enumerate(arguments)
        ]
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if arguments else "stop"}
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-4o", "choices": [choice]}


def asked(*, schema: dict[str, Any] = SCHEMA, is_tool: bool = False) -> dict[str, Any]:
    """What a request said of the answer that it wants: a schema for its text, or for what it gives the tool `book`."""
    if is_tool:
        return {"tools": [{"type": "function", "function": {"name": "book", "parameters": schema}}]}
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}}


def make_repair(
    *,
    tenant: str = "acme",
    state: str = OPEN,
    at: datetime = NOW,
    hours: float = 24,
    payload: dict[str, Any] | None = None,
    **fields: Any,
) -> Repair:
    """One answer kept at `at` for so many hours, of which '/topic' is missing; its words are `secret`."""
    said = {"body": answer(), "asked": asked(), "value": READ} if payload is None else payload
    words = orjson.dumps(said)
    values: dict[str, Any] = {
        "id": UUID(new_id(at.timestamp())),
        "user_hash": "ab" * 32,
        "request_id": "req-1",
        "route": "chat",
        "prompt": "support-answer",
        "version": 12,
        "lane": "openai/us-east/main/gpt-4o",
        "at_part": "text",
        "mode": "missing_field",
        "why": '/topic: "secret" is a required property',
        "missing": ["/topic"],
        "payload": None if state == EXPIRED else words,
        "payload_bytes": len(words),
        "created_at": at,
        "expires_at": at + timedelta(hours=hours),
        "completed_at": at + timedelta(minutes=5) if state == COMPLETED else None,
        "completed_by": "7" if state == COMPLETED else "",
    }
    return Repair.objects.create(tenant=tenant, state=state, **values | fields)
