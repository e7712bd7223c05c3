"""What every vendor adapter offers, and what they share: server-sent events, Retry-After dialects, error classes.

Adapters are pure: bytes in, values out. They open no socket and read no clock; `transport.py` does the one, callers
pass the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, Protocol

import orjson

from dataplane.errors import GatewayError
from dataplane.errors.upstream import (
    UpstreamAuthFailed,
    UpstreamContextExceeded,
    UpstreamFiltered,
    UpstreamInterrupted,
    UpstreamMalformed,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnavailable,
)
from dataplane.messages import ChatRequest, ChatResponse, EmbeddingRequest, EmbeddingResponse, Json, StreamChunk
from dataplane.records import record
from dataplane.routing import Account, Lane

MAX_EVENT_BYTES: Final = 4 * 1024 * 1024
MAX_VENDOR_MESSAGE_CHARACTERS: Final = 500


@record
class UpstreamCall:
    """One HTTP POST to a vendor, ready to send. `headers` carry the secret: never log a call.

    `dropped` are the caller's fields that it does not carry, `adjusted` those that it carries otherwise than asked for.
    `traceparent` is a header apart from the others, which are the same for every call of an account; empty: none.
    """

    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    dropped: tuple[str, ...] = ()
    adjusted: tuple[str, ...] = ()
    traceparent: str = ""


class StreamParser(Protocol):
    """Reads one streamed answer. Feed it bytes however the network cut them."""

    def feed(self, data: bytes) -> Iterator[StreamChunk]:
        """Yield what the events completed by `data` mean; what came before an error is yielded before it is raised.

        Raises:
            UpstreamMalformed: an event is not what the vendor's wire allows, or is over MAX_EVENT_BYTES.
            GatewayError: the vendor reported an error inside the stream.
        """

    @property
    def finished(self) -> bool:
        """True once the vendor said why it stopped and that nothing follows. A stream that ends before is truncated."""


class Adapter(Protocol):
    """A vendor's wire: requests out of the internal schema, answers and errors into it."""

    def chat_call(self, request: ChatRequest, *, lane: Lane, account: Account, secret: str) -> UpstreamCall:
        """Build the vendor's request.

        Raises:
            InvalidRequest: the request asks for something this wire cannot carry; `param` names it.
        """

    def embedding_call(self, request: EmbeddingRequest, *, lane: Lane, account: Account, secret: str) -> UpstreamCall:
        """Build the vendor's request, or raise InvalidRequest when the vendor has no embeddings."""

    def parse_chat(self, body: bytes, *, request: ChatRequest, created: int) -> ChatResponse:
        """Read a finished answer; `created` (Unix seconds) stands in where the wire has no such field.

        Raises:
            UpstreamMalformed: the body is not JSON or not a complete answer.
        """

    def parse_embeddings(self, body: bytes) -> EmbeddingResponse:
        """Read embeddings, or raise UpstreamMalformed."""

    def stream_parser(self, request: ChatRequest, *, created: int) -> StreamParser:
        """Return a fresh parser for one streamed answer to `request`."""

    def error(self, status: int, headers: Mapping[str, str], body: bytes, *, lane: str, wall: float) -> GatewayError:
        """Translate a non-2xx answer; `wall` is Unix seconds, for Retry-After headers that carry a date."""


class SseDecoder:
    """Splits a byte stream into the data of server-sent events.

    Event names, ids and comments are dropped: every vendor repeats in the data what matters.
    Source: WHATWG HTML, "Server-sent events", section 9.2.6 (line ends are LF, CRLF or CR; an unterminated event is
    discarded).
    """

    __slots__ = ("_after_cr", "_buffer")

    def __init__(self) -> None:
        self._buffer = b""
        self._after_cr = False

    def feed(self, data: bytes) -> list[bytes]:
        """Return the data of every event that `data` completes.

        Raises:
            UpstreamMalformed: one event is over MAX_EVENT_BYTES.
        """
        if self._after_cr and data:
            # A CRLF cut in two: the CR already ended the line.
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *blocks, self._buffer = (self._buffer + data).split(b"\n\n")
        if len(self._buffer) > MAX_EVENT_BYTES:
            raise UpstreamMalformed(f"one server-sent event is over {MAX_EVENT_BYTES} bytes")
        payloads = []
        for block in blocks:
            if block.startswith(b"data: ") and b"\n" not in block:
                payloads.append(block[6:])
            elif block and (payload := _data_of(block)) is not None:
                payloads.append(payload)
        return payloads


def _data_of(block: bytes) -> bytes | None:
    lines = [
        line[5:].removeprefix(b" ")
        for line in block.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        if line.startswith(b"data:")
    ]
    return b"\n".join(lines) if lines else None


def parse_json_object(body: bytes, *, what: str) -> Json:
    """Return `body` as a JSON object, or raise UpstreamMalformed saying that `what` is not one."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise UpstreamMalformed(f"{what} is not valid JSON") from exc
    if not isinstance(value, dict):
        raise UpstreamMalformed(f"{what} is not a JSON object")
    return value


def error_fields(body: bytes) -> Json:
    """Return the `error` object that all three vendors send, or an empty one when there is none to read.

    vLLM wrote its members at the top for a long time: {"object": "error", "message", "type", "param", "code"}.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(value, dict):
        return {}
    error = value if value.get("object") == "error" else value.get("error")
    if isinstance(error, str):
        return {"message": error}
    return error if isinstance(error, dict) else {}


# By `code`: OpenAI, Azure OpenAI. By words: Anthropic, and servers that copy OpenAI's wire without its codes (vLLM).
_TOO_LONG_CODE: Final = "context_length_exceeded"
_TOO_LONG: Final = re.compile(
    r"prompt is too long|exceeds? (?:the )?context limit|maximum context length|context window of this model", re.I
)
_FILTER_CODES: Final = frozenset({"content_filter", "content_policy_violation"})
_FILTERED: Final = re.compile(r"blocked by content filtering policy", re.I)


def is_filtered(error: Mapping[str, Any]) -> bool:
    """True when a vendor's `error` object says that its content filter stepped in, before the answer or within it."""
    message = error.get("message")
    return error.get("code") in _FILTER_CODES or (isinstance(message, str) and _FILTERED.search(message) is not None)


def error_in_stream(error: object) -> GatewayError:
    """Turn a vendor's `error` object, where it stands in place of the rest of a stream, into the gateway's error."""
    if isinstance(error, dict) and is_filtered(error):
        return UpstreamFiltered(lane=None, status=None)
    return UpstreamInterrupted("the provider reported an error inside its stream")


def translate_error(
    status: int, headers: Mapping[str, str], *, error: Mapping[str, Any], lane: str, wall: float
) -> GatewayError:
    """Turn a vendor's status and `error` object into the gateway's error.

    A 400, 413 or 422 speaks about what the caller sent, so its words are passed on; one that speaks of the length of
    the conversation or of a content filter means the same on every wire. A 401, 403 or 404 speaks about our credentials
    or our routing table, which is not the caller's doing and not the caller's to read.
    """
    if status in (400, 413, 422):
        message, param = error.get("message"), error.get("param")
        if is_filtered(error):
            # The vendors' own words range from one sentence to a page of advice.
            return UpstreamFiltered(lane=lane, status=status)
        words = (
            message
            if isinstance(message, str) and message
            else f"the provider refused the request with status {status}"
        )[:MAX_VENDOR_MESSAGE_CHARACTERS]
        if error.get("code") == _TOO_LONG_CODE or _TOO_LONG.search(words):
            return UpstreamContextExceeded(words, lane=lane, status=status)
        return UpstreamRejected(
            words,
            lane=lane,
            status=status,
            param=param if isinstance(param, str) else None,
        )
    retry_after_seconds = read_retry_after(headers, wall=wall)
    if status == 429:
        return UpstreamRateLimited(lane=lane, retry_after_seconds=retry_after_seconds)
    if status in (401, 402, 403, 404):
        return UpstreamAuthFailed(lane=lane, status=status)
    return UpstreamUnavailable(
        f"lane {lane!r} answered with status {status}",
        lane=lane,
        status=status,
        retry_after_seconds=retry_after_seconds,
    )


_DURATION_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def read_retry_after(headers: Mapping[str, str], *, wall: float) -> float | None:
    """Return how long the vendor asks us to wait, in seconds, or None when it does not say.

    Dialects, the most exact first: `retry-after-ms` and `x-ms-retry-after-ms` (OpenAI, Azure), `retry-after` in
    seconds, as a duration such as `1m30s` (Go), as an RFC 3339 time or as an HTTP date, `x-ratelimit-reset-*` as a
    duration (OpenAI), `anthropic-ratelimit-*-reset` as an RFC 3339 time. Of several resets only those of an exhausted
    limit count, and the longest of these wins.

    Args:
        headers: Names in lower case.
        wall: Unix seconds, against which dates are read.
    """
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        if (milliseconds := _number(headers.get(name))) is not None:
            return milliseconds / 1000
    if (value := headers.get("retry-after")) is not None:
        if (seconds := _reset_seconds(value.strip(), wall=wall)) is not None:
            return seconds
        try:
            return max(0.0, parsedate_to_datetime(value).timestamp() - wall)
        except ValueError:
            pass
    waits = [
        wait
        for name, value in headers.items()
        if (kind := _reset_of(name)) is not None
        and headers.get(kind) == "0"
        and (wait := _reset_seconds(value, wall=wall)) is not None
    ]
    return max(waits, default=None)


# Of each of QUOTA_RATES, what a vendor calls its limit.
_LIMIT_HEADERS: Final = {
    "x-ratelimit-limit-requests": 0,
    "x-ratelimit-limit-tokens": 1,
    "anthropic-ratelimit-requests-limit": 0,
    "anthropic-ratelimit-input-tokens-limit": 2,
    "anthropic-ratelimit-output-tokens-limit": 3,
}


def read_limits(headers: Mapping[str, str]) -> dict[int, float]:
    """Return the limits per minute that the vendor says the account has, by their place in QUOTA_RATES.

    Args:
        headers: Names in lower case.
    """
    return {
        rate: limit
        for name, rate in _LIMIT_HEADERS.items()
        if (limit := _number(headers.get(name))) is not None and limit >= 1
    }


def _reset_of(name: str) -> str | None:
    """Return the header that says how much is left, for a header that says when the limit resets."""
    if name.startswith("x-ratelimit-reset-"):
        return "x-ratelimit-remaining-" + name.removeprefix("x-ratelimit-reset-")
    if name.startswith("anthropic-ratelimit-") and name.endswith("-reset"):
        return name.removesuffix("-reset") + "-remaining"
    return None


def _reset_seconds(value: str, *, wall: float) -> float | None:
    parts = _DURATION_PART.findall(value)
    if parts and "".join(number + unit for number, unit in parts) == value:
        return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts)
    if (seconds := _number(value)) is not None:
        return seconds
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        return None
    return max(0.0, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - wall)


def _number(value: str | None) -> float | None:
    try:
        number = float(value) if value is not None else None
    except ValueError:
        return None
    return number if number is not None and 0 <= number < float("inf") else None
