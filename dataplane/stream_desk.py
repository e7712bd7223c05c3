"""The addresses under which streams are read again: resume, look, acknowledge, cancel.

A stream is its tenant's: it is opened with one of the tenant's API keys, or with a resume cursor, which stands in the
address where a header cannot be sent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl

import orjson

from dataplane.envelope import JSON_TYPE, Header, error_body
from dataplane.errors.requests import InvalidRequest
from dataplane.errors.streams import OwnerLost, StreamNotFound
from dataplane.frames import Ending, text_of
from dataplane.journey import Inbound, Reply
from dataplane.pipeline import Pipeline
from dataplane.productions import View
from dataplane.relay import EVENT_STREAM, NO_CACHE
from dataplane.request_trace import RequestTrace
from dataplane.streams import Streams

# An address with a cursor works from any page: it is good for one stream only, and no cookie goes with it.
ANY_ORIGIN: Final[tuple[Header, ...]] = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", b"ballast-stream-id, ballast-resume-cursor, ballast-request-id"),
)
MAX_DIGITS: Final = 15


class EventReply(Reply, Protocol):
    """A reply whose numbering can begin anywhere, and that can also say something outside of it."""

    position: int

    async def send_unnumbered(self, event: str, data: bytes) -> None:
        """Send a named event that has no sequence number."""


@dataclass(frozen=True, slots=True)
class StreamCall:
    """A request about one stream, as the edge read it. `query` is what follows the question mark, `started` monotonic
    seconds, `trace` where it is traced, if it is.
    """

    request_id: str
    stream: str
    action: str
    query: str
    authorization: str | None
    last_event_id: str | None
    started: float
    accept: str
    body: bytes = b""
    trace: RequestTrace | None = None


class StreamDesk:
    """Answers requests about streams."""

    def __init__(self, streams: Streams | None, pipeline: Pipeline) -> None:
        """`streams` None: this gateway keeps none."""
        self._streams = streams
        self._pipeline = pipeline

    async def serve(self, call: StreamCall, reply: EventReply) -> bool:
        """Answer one request. True: with an answer of its own, which the pipeline has recorded.

        Raises:
            NoRelease, Unauthorized, InvalidCursor, CursorExpired, InvalidRequest, StreamNotFound,
            StreamLogUnavailable, StreamNotContinuable.
        """
        query = dict(parse_qsl(call.query, keep_blank_values=True))
        tenant, cursor_after = self._admit(call, query)
        streams = self._streams
        if streams is None:
            raise StreamNotFound(call.stream)
        view = await streams.find(call.stream, tenant=tenant)
        headers = [*streams.headers(view), (b"ballast-request-id", call.request_id.encode())]
        if "cursor" in query:
            headers += ANY_ORIGIN
        if call.action in ("cancel", "continue"):
            # An address alone is good for reading: it can neither end what others read, nor ask for what is paid for.
            _, key = self._pipeline.authenticate(call.authorization)
            if key.tenant.slug != tenant:
                raise StreamNotFound(call.stream)
        if call.action == "ack":
            delivered, acked = await streams.acknowledge(view, read_number(call.body, "sequence_number"))
            body = self._state(view) | {"delivered": delivered, "acked": acked}
            await reply.send_whole(200, [JSON_TYPE, *headers], orjson.dumps(body))
        elif call.action == "cancel":
            asked = await streams.cancel(view)
            await reply.send_whole(
                202 if asked else 200, [JSON_TYPE, *headers], orjson.dumps(self._state(view) | {"cancelling": asked})
            )
        elif call.action == "continue":
            return await self._continue(streams, call, view, reply)
        elif "application/json" in call.accept:
            await reply.send_whole(200, [JSON_TYPE, *headers], orjson.dumps(self._state(view)))
        else:
            await self._resume(streams, call, view, reply, headers, after=read_place(call, query, cursor_after))
        return False

    def _admit(self, call: StreamCall, query: Mapping[str, str]) -> tuple[str, int]:
        """Whose the caller is, and the number its cursor stands at."""
        text = query.get("cursor")
        if text is None or self._streams is None:
            _, key = self._pipeline.authenticate(call.authorization)
            return key.tenant.slug, 0
        cursor = self._streams.read_cursor(text)
        if cursor.stream != call.stream:
            raise StreamNotFound(call.stream)
        return cursor.tenant, cursor.after

    async def _resume(
        self, streams: Streams, call: StreamCall, view: View, reply: EventReply, headers: list[Header], *, after: int
    ) -> None:
        buffer = view.buffer
        if after > buffer.shown:
            await streams.catch_up(view, after)
        if after > buffer.shown:
            if buffer.is_over and buffer.ending is not Ending.COMPLETED:
                # Its owner died with what only this caller was shown, who is past the end that is kept.
                body = error_body(OwnerLost(), request_id=call.request_id, code="upstream_interrupted")
                reply.position = after
                await reply.open_stream([EVENT_STREAM, NO_CACHE, *headers])
                await reply.send_events([body], ending=Ending.INTERRUPTED)
                return
            raise InvalidRequest(
                f"the stream has {buffer.shown} frames so far, so nothing comes after {after}", param="starting_after"
            )
        if buffer.is_over and after == buffer.shown:
            # An EventSource that has everything is told so by this status, and stops asking.
            await reply.send_whole(204, headers, b"")
            return
        reply.position = after
        await reply.open_stream([EVENT_STREAM, NO_CACHE, *headers])
        await reply.send_unnumbered("resumed", resumed_chunk(view, after=after))
        await streams.read_along(view, reply, after=after)

    async def _continue(self, streams: Streams, call: StreamCall, view: View, reply: EventReply) -> bool:
        ended = await streams.claim_continuation(view)
        if isinstance(ended, View):
            headers = [*streams.headers(ended), (b"ballast-request-id", call.request_id.encode())]
            await reply.open_stream([EVENT_STREAM, NO_CACHE, *headers])
            await streams.read_along(ended, reply, after=0)
            return False
        inbound = Inbound(
            call.request_id,
            ended.body,
            call.started,
            authorization=call.authorization,
            user=ended.user,
            accept_language=ended.accept_language,
            trace=call.trace,
        )
        try:
            await self._pipeline.serve_continuation(inbound, reply, ended)
        finally:
            await streams.release_continuation(ended)
        return True

    def _state(self, view: View) -> dict[str, Any]:
        """Shape: {"id", "object": "stream", "state": running or how it ended, "last", "delivered", "acked": numbers of
        frames, "segments": [{"first_seq", "lane", "model"}]}.
        """
        ending = view.buffer.ending if view.buffer.is_over else None
        return {
            "id": view.id,
            "object": "stream",
            "state": "running" if ending is None else ending.value,
            "last": view.buffer.shown,
            "delivered": view.delivered,
            "acked": view.acked,
            "segments": [{name: one[name] for name in ("first_seq", "lane", "model")} for one in view.places],
        }


def resumed_chunk(view: View, *, after: int) -> bytes:
    """What a reader who comes back is told before the first frame: which stream, model and prefix it reads on in.

    It is a chunk that adds nothing, so that a client which takes every event for one is not misled.
    Shape of its member `ballast`: {"resumes": {"stream", "after", "lane", "model", "prefix_characters": int,
    "prefix_sha256": of the words up to frame `after`}}.
    """
    words = "".join(map(text_of, view.buffer.payloads[:after]))
    place: dict[str, Any] = {"lane": "", "model": ""}
    for one in view.places:
        if one["first_seq"] <= after + 1:
            place = one
    return orjson.dumps(
        {
            "id": view.id,
            "object": "chat.completion.chunk",
            "created": 0,
            "model": place["model"],
            "choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": None}],
            "ballast": {
                "resumes": {
                    "stream": view.id,
                    "after": after,
                    "lane": place["lane"],
                    "model": place["model"],
                    "prefix_characters": len(words),
                    "prefix_sha256": hashlib.sha256(words.encode()).hexdigest(),
                }
            },
        }
    )


def shows_cursor(query: str) -> bool:
    """Whether the caller shows a resume cursor, and so may be a page from anywhere."""
    return "cursor" in dict(parse_qsl(query, keep_blank_values=True))


def read_place(call: StreamCall, query: Mapping[str, str], cursor_after: int) -> int:
    """After which frame the caller reads on: what its client says by itself, else what the address says.

    An EventSource that comes back repeats the address it was made with, and adds the header.
    Raises:
        InvalidRequest: not a number from 0 on.
    """
    for name, text in (("Last-Event-ID", call.last_event_id), ("starting_after", query.get("starting_after"))):
        if text is not None:
            if not text.isascii() or not text.isdigit() or len(text) > MAX_DIGITS:
                raise InvalidRequest(f"{name} is {text[:40]!r}; send the number of a frame, or 0", param=name)
            return int(text)
    return cursor_after


def read_number(body: bytes, name: str) -> int:
    """Read the one member of a body that is a frame's number.

    Raises:
        InvalidRequest: not JSON, or no such number.
    """
    try:
        value = orjson.loads(body)[name]
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError) as exc:
        raise InvalidRequest(f'send {{"{name}": N}}, the number of the last frame that you have', param=name) from exc
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 10**MAX_DIGITS:
        raise InvalidRequest(f"{name!r} must be the number of a frame, got {str(value)[:40]}", param=name)
    return value
