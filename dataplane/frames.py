"""The frames of a stream: what is sent under each sequence number, how it looks on the wire, and how a stream ends."""

from __future__ import annotations

import hashlib
from asyncio import AbstractEventLoop, Future
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final

import orjson

DONE: Final = b"[DONE]"


class Ending(StrEnum):
    """How a stream ended. It has exactly one terminal event, its last: `[DONE]` if it is complete, else an error."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


def encode_events(first: int, payloads: Iterable[bytes]) -> bytes:
    """Return `payloads` as server-sent events with the sequence numbers from `first` on."""
    return b"".join([b"id: %d\ndata: %b\n\n" % item for item in enumerate(payloads, first)])


def digest_frames(payloads: Iterable[bytes]) -> str:
    """Return SHA-256 over the payloads, each followed by a line feed, in hex."""
    digest = hashlib.sha256()
    for payload in payloads:
        digest.update(payload)
        digest.update(b"\n")
    return digest.hexdigest()


def text_of(payload: bytes) -> str:
    """Return the words that one frame carries to a reader: content, refusal and the arguments of tools, of every
    choice. A terminal event has none.
    """
    if payload == DONE:
        return ""
    chunk = orjson.loads(payload)
    parts: list[str] = []
    for choice in chunk.get("choices") or ():
        delta = choice.get("delta") or {}
        parts += [delta.get("content") or "", delta.get("refusal") or ""]
        for call in delta.get("tool_calls") or ():
            parts.append((call.get("function") or {}).get("arguments") or "")
    return "".join(parts)


def characters_in(payloads: Iterable[bytes]) -> int:
    """How many characters of an answer the frames carry."""
    return sum(len(text_of(payload)) for payload in payloads)


class FrameBuffer:
    """The frames of one stream as one process holds them, from number 1 on: as far as they may be shown, and whoever
    waits for more. One event loop, no locks.
    """

    __slots__ = ("_waiting", "ending", "payloads", "shown", "size_bytes")

    def __init__(self, payloads: Sequence[bytes] = (), *, ending: Ending | None = None) -> None:
        """Begin with frames that may be shown, and with the end if the last of them is it."""
        self.payloads = list(payloads)
        self.shown = len(self.payloads)
        self.size_bytes = sum(map(len, self.payloads))
        self.ending = ending
        self._waiting: list[Future[None]] = []

    @property
    def is_over(self) -> bool:
        """True once the terminal event may be shown."""
        return self.ending is not None and self.shown == len(self.payloads)

    def add(self, payloads: Sequence[bytes], *, ending: Ending | None = None) -> None:
        """Add frames; nobody sees them before `show`. With `ending`, the last of them is the terminal event.

        Raises:
            ValueError: the stream has its terminal event already.
        """
        if self.ending is not None:
            raise ValueError(f"the stream is {self.ending} already; nothing follows its terminal event")
        self.payloads += payloads
        self.size_bytes += sum(map(len, payloads))
        self.ending = ending

    def show(self, through: int) -> None:
        """Let readers see the frames up to `through`."""
        if through > self.shown:
            self.shown = through
            self.wake()

    def cut(self) -> None:
        """Forget what was never shown."""
        if not self.is_over:
            self.ending = None
        del self.payloads[self.shown :]
        self.size_bytes = sum(map(len, self.payloads))

    async def wait(self, loop: AbstractEventLoop) -> None:
        """Return when there may be more to show."""
        future = loop.create_future()
        self._waiting.append(future)
        await future

    def wake(self) -> None:
        """Let everybody who waits look again."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)
