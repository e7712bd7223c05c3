"""What an execution under an idempotency key came to: what it sent, and what of that is kept to be given again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from dataplane.envelope import Header
from dataplane.errors.streams import StreamTooLong
from dataplane.frames import Ending, FrameBuffer
from dataplane.idempotency import Outcome
from dataplane.journey import Journey
from dataplane.productions import MAX_STREAM_BYTES, Production, View
from dataplane.relay import EVENT_STREAM

CONTENT_TYPE: Final = b"content-type"
# What belongs to one response, and not to the answer.
OWN_HEADERS: Final = frozenset({CONTENT_TYPE, b"content-length", b"cache-control", b"ballast-request-id"})


class Capture:
    """The caller's side of an execution without a log: keeps what comes, for its readers. `head_ready` is set when a
    stream begins; for a whole answer, by whoever has kept it.
    """

    def __init__(self) -> None:
        self.opened = False
        self.headers: list[Header] = []
        self.whole: tuple[int, list[Header], bytes] | None = None
        self.buffer = FrameBuffer()
        self.head_ready = asyncio.Event()

    @property
    def position(self) -> int:
        """As `Reply.position`."""
        return len(self.buffer.payloads)

    async def send_whole(self, status: int, headers: list[Header], body: bytes) -> None:
        """As `Reply.send_whole`."""
        self.opened = True
        self.whole = (status, headers, body)

    async def open_stream(self, headers: list[Header]) -> None:
        """As `Reply.open_stream`."""
        self.opened = True
        self.headers = headers
        self.head_ready.set()

    async def send_events(self, payloads: Sequence[bytes], *, ending: Ending | None = None) -> None:
        """As `Reply.send_events`.

        Raises:
            StreamTooLong: as of a Production.
        """
        if ending is None and self.buffer.size_bytes > MAX_STREAM_BYTES:
            raise StreamTooLong(limit_bytes=MAX_STREAM_BYTES)
        self.buffer.add(payloads, ending=ending)
        self.buffer.show(len(self.buffer.payloads))


def outcome_of(reply: Production | Capture, journey: Journey) -> Outcome:
    """What an execution came to, as duplicates get it."""
    usage = journey.attempts[-1].usage if journey.attempts else None
    if isinstance(reply, Production) and len(reply.segments) > 1:
        usage = reply.spent()  # as its last chunk told it: an answer that was taken up again has several attempts
    tokens: dict[str, Any] | None = None
    if usage is not None:
        tokens = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
    if reply.whole is not None:
        status, headers, body = reply.whole
        return Outcome(status, _kept(headers), _media_of(headers), body, tokens)
    body = b"\n".join(reply.buffer.payloads)
    if isinstance(reply, Production):
        return Outcome(200, _kept(_named(reply)), _media_of(reply.headers), body, tokens, reply.id)
    return Outcome(200, _kept(reply.headers), _media_of(reply.headers), body, tokens)


def outcome_of_stream(view: View) -> Outcome:
    """A stream that another process completed, as the outcome of the key that it was asked with."""
    body = b"\n".join(view.buffer.payloads)
    return Outcome(200, _kept(_named(view)), EVENT_STREAM[1].decode(), body, None, view.id)


def broke_off(view: View) -> bool:
    """True for a stream that is over, and whose answer is not complete: nobody who asks with a key wants it."""
    return view.buffer.is_over and view.buffer.ending is not Ending.COMPLETED


def shared(headers: Sequence[Header]) -> list[Header]:
    """The headers that belong to an answer, whoever gets it."""
    return [header for header in headers if header[0] not in OWN_HEADERS]


def _named(view: View) -> list[Header]:
    return [*view.head, (b"ballast-stream-id", view.id.encode())]


def _kept(headers: Sequence[Header]) -> tuple[tuple[str, str], ...]:
    return tuple((name.decode(), value.decode("latin-1")) for name, value in shared(headers))


def _media_of(headers: Sequence[Header]) -> str:
    return next((value.decode("latin-1") for name, value in headers if name == CONTENT_TYPE), "application/json")
