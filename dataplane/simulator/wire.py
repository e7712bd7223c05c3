"""What every vendor's wire has in common: a reply in frames, a stamp, and the shape that the server drives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from dataplane.simulator.conversation import Answer, Ask, Wire
from dataplane.simulator.faults import Fault
from dataplane.simulator.limits import Shortage

Header = tuple[bytes, bytes]
JSON_TYPE: Header = (b"content-type", b"application/json")
HTML_TYPE: Header = (b"content-type", b"text/html; charset=utf-8")
EVENT_TYPE: Header = (b"content-type", b"text/event-stream; charset=utf-8")


class FrameKind(Enum):
    """What a piece of a response is to a fault: content is counted, the finish and the terminator can be dropped
    or doubled.
    """

    OTHER = "other"
    CONTENT = "content"
    FINISH = "finish"
    TERMINATOR = "terminator"


@dataclass(frozen=True, slots=True)
class Frame:
    """One write of a response."""

    kind: FrameKind
    data: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """One response before any fault: a whole body in a single content frame, or a stream's events one by one.

    `tokens` are those generated, which is what a plain response waits for. `error_event` is what the vendor would send
    to break the stream off. `headers` come without content-length.
    """

    status: int
    headers: tuple[Header, ...]
    frames: tuple[Frame, ...]
    streamed: bool = False
    tokens: int = 0
    error_event: bytes = b""

    @classmethod
    def json(cls, status: int, headers: tuple[Header, ...], body: bytes, *, tokens: int = 0) -> Reply:
        """A whole body of JSON."""
        return cls(status, (JSON_TYPE, *headers), (Frame(FrameKind.CONTENT, body),), tokens=tokens)

    @classmethod
    def events(cls, headers: tuple[Header, ...], frames: Iterable[Frame], *, tokens: int, error_event: bytes) -> Reply:
        """Server-sent events, one a frame."""
        return cls(200, (EVENT_TYPE, *headers), tuple(frames), streamed=True, tokens=tokens, error_event=error_event)

    @classmethod
    def edge_page(cls, status: int, headers: tuple[Header, ...]) -> Reply:
        """The HTML that a vendor's edge sends when nothing of the vendor's API is behind it."""
        title = {502: "502 Bad Gateway", 504: "504 Gateway Time-out"}.get(status, str(status))
        body = f"<center><h1>{title}</h1></center>\r\n<hr><center>cloudflare</center>"
        page = f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n{body}\r\n</body>\r\n</html>\r\n"
        return cls(status, (HTML_TYPE, *headers), (Frame(FrameKind.CONTENT, page.encode()),))


@dataclass(frozen=True, slots=True)
class Stamp:
    """What makes one response different from the same answer given again: its serial number and the time, in epoch
    seconds.
    """

    serial: str
    now: float


class Unauthorized(Exception):
    """The credential is missing (`given` empty) or one that the vendor refuses; `status` is 401 or 403."""

    def __init__(self, given: str, *, status: int = 401) -> None:
        super().__init__(given)
        self.given = given
        self.status = status


class VendorWire(Protocol):
    """One vendor's wire format; every method is pure."""

    wire: Wire

    def authenticate(self, headers: Mapping[bytes, bytes]) -> str:
        """Return the API key, or raise Unauthorized. "invalid" is refused with 401 and "forbidden" with 403."""

    def read_chat(self, body: Any, *, model: str | None, headers: Mapping[bytes, bytes]) -> Ask:
        """Return the parsed request, or raise BadRequest; `model` is the deployment where the path names it."""

    def give_answer(self, ask: Ask, answer: Answer, stamp: Stamp, *, processing_ms: int) -> Reply:
        """Return `answer` as the vendor sends it, streamed if so asked."""

    def answer_headers(self, ask: Ask, stamp: Stamp, *, processing_ms: int) -> tuple[Header, ...]:
        """Return the headers of a successful answer, content type and length excepted."""

    def give_error(
        self,
        status: int,
        stamp: Stamp,
        *,
        message: str | None = None,
        param: str | None = None,
        code: str | None = None,
    ) -> Reply:
        """Return the vendor's error body for `status`; the vendor's usual words where no message is given."""

    def give_unauthorized(self, refusal: Unauthorized, stamp: Stamp) -> Reply:
        """Return the vendor's answer to a missing or refused credential."""

    def give_rate_limit(self, fault: Fault, stamp: Stamp, *, model: str) -> Reply:
        """Return the vendor's 429 for a `rate_limit` fault."""

    def give_limited(self, shortage: Shortage, stamp: Stamp, *, model: str) -> Reply:
        """Return the vendor's 429 for a limit that was reached; the headers say how long to wait, not yet how the
        account stands.
        """

    def give_content_filter(self, stamp: Stamp) -> Reply:
        """Return the vendor's refusal of a prompt by its content filter."""


def known_key(key: str) -> str:
    """Return `key` if the simulated vendor accepts it, or raise Unauthorized."""
    if key in ("", "invalid"):
        raise Unauthorized(key)
    if key == "forbidden":
        raise Unauthorized(key, status=403)
    return key


def read_bearer(headers: Mapping[bytes, bytes]) -> str:
    """Return the bearer token in `authorization` if the simulated vendor accepts it, or raise Unauthorized."""
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    return known_key(key.decode("latin-1").strip() if scheme.lower() == b"bearer" else "")
