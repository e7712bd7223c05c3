"""A client of streams on bare sockets: it can hang up with an RST after any byte, and reads on where it was.

No HTTP library lets a caller break off in the middle of a frame, or of a character, and say what it had by then.
"""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any
from urllib.parse import urlsplit

RECEIVE_BYTES = 4096
SECONDS = 60.0
RETRY_SECONDS = 0.2
REFUSED_FROM = 400
LINE_BREAK = b"\r\n"
PAUSE = threading.Event()
# Its quotation in the answer makes sure that characters of several bytes are cut as well.
FOUND = "Größe – 東京 🚀 " * 6
MESSAGES = [
    {"role": "user", "content": "Where is my parcel?"},
    {"role": "assistant", "content": None, "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "find", "arguments": "{}"}}]},
    {"role": "tool", "tool_call_id": "c1", "content": FOUND},
]  # fmt: skip


@dataclass
class Received:
    """What one caller has of one stream: payloads by sequence number, and what the heads of its responses said."""

    stream: str = ""
    cursor: str = ""
    payloads: dict[int, bytes] = field(default_factory=dict)
    resumed: list[dict[str, Any]] = field(default_factory=list)
    duplicates: int = 0
    resets: int = 0
    attempts: int = 0
    # The errors that came instead of frames, and how often a connection broke before the stream had a name.
    refusals: list[tuple[int, bytes]] = field(default_factory=list)
    nameless: int = 0

    @property
    def after(self) -> int:
        """The number of the last frame of those that came whole and in order."""
        return len(self.payloads)

    @property
    def is_over(self) -> bool:
        """True once the terminal event is here."""
        return bool(self.payloads) and is_terminal(self.payloads[max(self.payloads)])

    @property
    def text(self) -> str:
        """The words of the answer."""
        return "".join(text_of(self.payloads[number]) for number in sorted(self.payloads))

    def take(self, event: bytes) -> None:
        """Take one complete event."""
        fields = dict(line.split(b": ", 1) for line in event.split(b"\n") if b": " in line)
        if b"id" not in fields:
            if fields.get(b"event") == b"resumed":
                self.resumed.append(json.loads(fields[b"data"])["ballast"]["resumes"])
            return
        number = int(fields[b"id"])
        if number in self.payloads:
            self.duplicates += 1
        self.payloads[number] = fields[b"data"]


def is_terminal(payload: bytes) -> bool:
    """Whether the payload is a stream's last."""
    return payload == b"[DONE]" or payload.startswith(b'{"error"')


def text_of(payload: bytes) -> str:
    """The words that one payload carries."""
    if payload == b"[DONE]":
        return ""
    choices = json.loads(payload).get("choices") or [{}]
    return (choices[0].get("delta") or {}).get("content") or ""


class Connection:
    """One request on a connection of its own; events go to `received` as soon as they are complete."""

    def __init__(self, url: str, request: bytes, received: Received) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port), timeout=SECONDS)
        self._socket.sendall(request)
        self._received = received
        self._raw = b""
        self._head_done = False
        self._status = 0
        self._length = -1  # of a response in one piece
        self._left = 0  # of the chunk that is being read, with the line break behind it
        self._body = b""
        self._ended = False
        received.attempts += 1

    @property
    def is_refused(self) -> bool:
        """True when the answer was an error."""
        return self._status >= REFUSED_FROM

    def read_bytes(self, count: int) -> bool:
        """Read so many bytes and no more. False: the response, or the connection, ended before."""
        while count:
            data = self._socket.recv(min(count, RECEIVE_BYTES))
            if not data:
                return False
            count -= len(data)
            self._feed(data)
            if self._ended:
                return False
        return True

    def read_all(self) -> int:
        """Read to the end; returns the status."""
        while self.read_bytes(RECEIVE_BYTES):
            pass
        self._socket.close()
        return self._status

    def reset(self) -> None:
        """Hang up with an RST."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()
        self._received.resets += 1

    def _feed(self, data: bytes) -> None:
        self._raw += data
        if not self._head_done:
            head, found, rest = self._raw.partition(b"\r\n\r\n")
            if not found:
                return
            self._head_done, self._raw = True, rest
            status, *lines = head.split(b"\r\n")
            self._status = int(status.split(b" ")[1])
            headers = dict(line.lower().split(b": ", 1) for line in lines)
            stream = headers.get(b"ballast-stream-id", b"").decode()
            if stream:
                assert self._received.stream in ("", stream)
                self._received.stream = stream
            self._length = 0 if self._status == 204 else int(headers.get(b"content-length", b"-1"))
        if self._length >= 0:
            self._ended = len(self._raw) >= self._length
            if self._ended and self.is_refused:
                self._received.refusals.append((self._status, self._raw))
            return
        self._dechunk()
        *events, self._body = self._body.split(b"\n\n")
        for event in events:
            self._received.take(event)

    def _dechunk(self) -> None:
        """Move what is here of the body on, also of a chunk that is not here whole."""
        while self._raw:
            if self._left:
                data, self._raw = self._raw[: self._left], self._raw[self._left :]
                self._body += data[: max(0, self._left - len(LINE_BREAK))]
                self._left -= len(data)
                continue
            size, found, rest = self._raw.partition(LINE_BREAK)
            if not found:
                return
            self._raw = rest
            if not int(size, 16):
                self._ended = True
                return
            self._left = int(size, 16) + len(LINE_BREAK)


def body_of(route: str, number: int = 0) -> dict[str, Any]:
    """A question to a route; each number has an answer of its own."""
    return {"model": route, "stream": True, "messages": MESSAGES, "user": f"user-{number}", "seed": number}


def post(key: str, body: dict[str, Any], **headers: str) -> bytes:
    """The bytes of a chat request."""
    content = json.dumps(body).encode()
    lines = {"host": "gateway", "authorization": f"Bearer {key}", "content-type": "application/json"} | headers
    lines["content-length"] = str(len(content))
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return b"POST /v1/chat/completions HTTP/1.1\r\n" + head.encode() + b"\r\n" + content


def resume(key: str, received: Received) -> bytes:
    """The bytes of a request for what is missing."""
    return (
        f"GET /v1/streams/{received.stream} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {key}\r\n"
        f"accept: text/event-stream\r\nlast-event-id: {received.after}\r\n\r\n"
    ).encode()


def go_on(key: str, stream: str) -> bytes:
    """The bytes of a request for what an interrupted stream did not come to say."""
    return (
        f"POST /v1/streams/{stream}/continue HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {key}\r\n"
        f"content-length: 0\r\n\r\n"
    ).encode()


def read_with_resets(
    urls: Sequence[str], first: bytes, *, key: str, rng: Random, resets: int, span_bytes: int
) -> Received:
    """Ask, hang up after a random number of bytes, read on at a random process, and so on; in the end to the end.

    Args:
        first: The request. It is made again when the connection broke before the stream had a name: that is another
            stream, unless the request shows an idempotency key.
        resets: How often to hang up, unless the end comes before.
        span_bytes: The most bytes to read before hanging up.
    """
    received = Received()
    give_up_at = time.monotonic() + SECONDS
    while not received.is_over:
        request = resume(key, received) if received.stream else first
        connection = Connection(rng.choice(urls), request, received)
        if received.resets < resets:
            connection.read_bytes(rng.randrange(span_bytes))
            connection.reset()
        else:
            connection.read_all()
        received.nameless += not received.stream
        if connection.is_refused:
            assert time.monotonic() < give_up_at, received.refusals[-1]
            PAUSE.wait(RETRY_SECONDS)
        else:
            give_up_at = time.monotonic() + SECONDS
    return received


def digest_of(received: Received) -> str:
    """SHA-256 over the payloads, each followed by a line feed, as the ledger has it."""
    digest = hashlib.sha256()
    for number in sorted(received.payloads):
        digest.update(received.payloads[number] + b"\n")
    return digest.hexdigest()
