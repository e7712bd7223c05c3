"""Who takes a stream up that ended before its answer was complete: one of those who ask for that, and never two."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import orjson

from dataplane.errors.streams import StreamLogUnavailable, StreamNotContinuable, StreamNotFound
from dataplane.frames import Ending
from dataplane.journey import new_id
from dataplane.productions import Production, View
from dataplane.stores.streams import StreamLog
from dataplane.stream_rows import Origin, origin_of

log = logging.getLogger("ballast.streams")


@dataclass(frozen=True, slots=True)
class EndedStream:
    """A stream that ended before its answer was complete, and is to be taken up: `body` is its question, `version` the
    version of a managed prompt that it was asked with, and `continued_by` the stream that goes on.
    """

    origin: Origin
    body: bytes
    user: str | None
    accept_language: str | None
    version: int | None
    continued_by: str


class Find(Protocol):
    """Where streams are found: `Streams.find`."""

    def __call__(self, stream: str, *, tenant: str) -> Awaitable[View]: ...


class Continuations:
    """See the module. One per process."""

    def __init__(
        self, *, store: StreamLog, find: Find, productions: Mapping[str, Production], wall: Callable[[], float]
    ) -> None:
        """`productions` are the streams that this process generates; `wall` is epoch seconds."""
        self._store = store
        self._find = find
        self._productions = productions
        self._wall = wall

    async def claim(self, view: View) -> EndedStream | View:
        """Become the one that takes a stream up; or, if somebody else has, the stream that does.

        Raises:
            StreamNotContinuable: it is not over, or complete, or its question is not kept, or somebody is just
                beginning to take it up.
            StreamLogUnavailable.
        """
        buffer = view.buffer
        if not buffer.is_over:
            raise StreamNotContinuable(view.id, why="it is under way; read on in it")
        if buffer.ending is Ending.COMPLETED:
            raise StreamNotContinuable(view.id, why="it is complete; read it again")
        if "request" not in view.about:
            stored = await self._store.read(view.id, after=len(buffer.payloads))
            view.about = {} if stored is None else orjson.loads(stored.about)
        request = view.about.get("request")
        if request is None or request["body"] is None:
            raise StreamNotContinuable(view.id, why="its question is too long to be kept; ask again")
        mine = new_id(self._wall())
        continued_by = await self._store.claim_continuation(view.id, mine)
        if continued_by != mine:
            try:
                return await self._find(continued_by, tenant=view.tenant)
            except StreamNotFound:
                raise StreamNotContinuable(view.id, why=f"stream {continued_by!r} is about to; retry") from None
        identity = view.about["identity"]
        return EndedStream(
            origin_of(view.id, buffer.payloads),
            request["body"].encode(),
            request["user"],
            request["accept_language"],
            identity["version"] or None,
            mine,
        )

    async def release(self, ended: EndedStream) -> None:
        """Let others take a stream up again, unless whoever claimed to has begun."""
        begun = self._productions.get(ended.continued_by)
        if begun is None or not begun.headers:
            try:
                await self._store.release_continuation(ended.origin.stream, ended.continued_by)
            except StreamLogUnavailable:
                log.info("stream %s can be taken up again only in a while", ended.origin.stream)
