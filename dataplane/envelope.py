"""Errors as callers see them: OpenAI's envelope, and the one table from error code to HTTP."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from dataplane.errors import GatewayError

Header = tuple[bytes, bytes]
JSON_TYPE: Final[Header] = (b"content-type", b"application/json")
DO_NOT_RETRY: Final[Header] = (b"x-should-retry", b"false")


@dataclass(frozen=True, slots=True)
class Face:
    """How one error code looks over HTTP.

    `retry` False sends `x-should-retry: false`, which OpenAI's SDK obeys: trying again cannot help, or would be paid
    for twice. `retry_after_seconds` is what Retry-After says when the error itself knows no better. `tells_when` sends
    it although an SDK is not to try again by itself: for the application, or a person, to come back then.
    """

    status: int
    type: str
    retry: bool = True
    retry_after_seconds: float | None = None
    tells_when: bool = False


INVALID: Final = "invalid_request_error"
SERVER: Final = "server_error"

FACES: Final[Mapping[str, Face]] = {
    "invalid_request": Face(400, INVALID, retry=False),
    "unsupported_request": Face(400, INVALID, retry=False),
    "invalid_variables": Face(400, INVALID, retry=False),
    "context_length_exceeded": Face(400, INVALID, retry=False),
    "content_filter": Face(400, INVALID, retry=False),
    "unauthorized": Face(401, "authentication_error", retry=False),
    "too_many_bad_keys": Face(429, "authentication_error", retry=False, tells_when=True),
    "model_not_found": Face(404, INVALID, retry=False),
    "prompt_not_found": Face(404, INVALID, retry=False),
    "prompt_version_not_found": Face(404, INVALID, retry=False),
    "not_found": Face(404, INVALID, retry=False),
    "stream_not_found": Face(404, INVALID, retry=False),
    "invalid_cursor": Face(400, INVALID, retry=False),
    "cursor_expired": Face(410, INVALID, retry=False),
    "stream_not_continuable": Face(409, INVALID, retry=False),
    "stream_cancelled": Face(409, INVALID, retry=False),
    "answer_diverged": Face(502, SERVER),
    "stream_too_long": Face(502, SERVER, retry=False),
    "owner_lost": Face(502, SERVER),
    "stream_log_unavailable": Face(503, SERVER, retry_after_seconds=1),
    "idempotency_in_progress": Face(409, INVALID, retry=False, tells_when=True),
    "idempotency_indeterminate": Face(409, INVALID, retry=False),
    "idempotency_outcome_not_kept": Face(409, INVALID, retry=False),
    "idempotency_mismatch": Face(422, INVALID, retry=False),
    "idempotency_unavailable": Face(503, SERVER, retry_after_seconds=1),
    "job_not_found": Face(404, INVALID, retry=False),
    "job_erased": Face(410, INVALID, retry=False),
    "job_queue_full": Face(429, "rate_limit_error", retry_after_seconds=30),
    "jobs_unavailable": Face(503, SERVER, retry_after_seconds=1),
    "job_token_refused": Face(401, "authentication_error", retry=False),
    "validation_failed": Face(502, SERVER, retry=False),
    "repair_failed": Face(502, SERVER, retry=False),
    "repair_not_found": Face(404, INVALID, retry=False),
    "repairs_unavailable": Face(503, SERVER, retry_after_seconds=1),
    "corpus_not_found": Face(404, INVALID, retry=False),
    "corpus_stale": Face(503, SERVER, retry=False, tells_when=True),
    "corpus_paused": Face(503, SERVER, retry=False, retry_after_seconds=30, tells_when=True),
    "corpus_not_ready": Face(503, SERVER, retry=False, retry_after_seconds=30, tells_when=True),
    "corpus_unavailable": Face(503, SERVER, retry_after_seconds=1),
    "snapshot_gone": Face(410, INVALID, retry=False),
    "method_not_allowed": Face(405, INVALID, retry=False),
    "request_too_large": Face(413, INVALID, retry=False),
    "request_timeout": Face(408, INVALID),
    "unsupported_media_type": Face(415, INVALID, retry=False),
    "upstream_rate_limited": Face(429, "rate_limit_error"),
    "quota_exhausted": Face(429, "rate_limit_error", retry_after_seconds=1),
    "internal_error": Face(500, SERVER),
    "upstream_error": Face(502, SERVER),
    "upstream_unreachable": Face(502, SERVER),
    "upstream_interrupted": Face(502, SERVER),
    "upstream_malformed": Face(502, SERVER),
    "upstream_auth_failed": Face(502, SERVER, retry=False),
    "upstream_unavailable": Face(503, SERVER),
    "secret_unavailable": Face(503, SERVER, retry=False),
    "no_eligible_lane": Face(503, SERVER, retry=False),
    "circuit_open": Face(503, SERVER, retry_after_seconds=5),
    "no_release": Face(503, SERVER, retry_after_seconds=1),
    "maintenance": Face(503, SERVER, retry_after_seconds=1, tells_when=True),
    "shed": Face(503, SERVER, retry=False, tells_when=True),
    "upstream_timeout": Face(504, SERVER),
    "deadline_exceeded": Face(504, SERVER, retry=False),
}


class RequestRefused(GatewayError):
    """Root of what is wrong with a request's HTTP, before its content matters. `headers` go out with the answer."""

    headers: tuple[Header, ...] = ()


class UnknownPath(RequestRefused):
    """No such address."""

    code = "not_found"


class MethodNotAllowed(RequestRefused):
    """The address exists for another method, which `Allow` names."""

    code = "method_not_allowed"

    def __init__(self, method: str, path: str, *, allowed: str) -> None:
        super().__init__(f"{method} is not allowed on {path}; use {allowed}")
        self.headers = ((b"allow", allowed.encode()),)


class BodyTooLarge(RequestRefused):
    """The body is over the limit of this gateway."""

    code = "request_too_large"

    def __init__(self, *, limit_bytes: int) -> None:
        super().__init__(f"the request body is over {limit_bytes} bytes, the limit of this gateway")
        self.headers = ((b"connection", b"close"),)


class BodyTooSlow(RequestRefused):
    """The body did not come in time."""

    code = "request_timeout"

    def __init__(self, *, seconds: float) -> None:
        super().__init__(f"the request body was not complete within {seconds:g} s; send it at once")
        self.headers = ((b"connection", b"close"),)


class UnsupportedMediaType(RequestRefused):
    """The body is not declared to be JSON."""

    code = "unsupported_media_type"

    def __init__(self, media_type: str) -> None:
        super().__init__(f"content type {media_type!r} is not supported; send application/json")


def face_of(error: GatewayError) -> Face:
    """Return how `error` looks over HTTP; a code that the table lacks is an internal error."""
    return FACES.get(error.code, FACES["internal_error"])


def error_headers(error: GatewayError, *, retry_after_seconds: float | None = None) -> list[Header]:
    """Return the headers that go with `error`: content type, x-should-retry, Retry-After in whole seconds (rounded
    up): `retry_after_seconds`, or else what the error itself knows.
    """
    face = face_of(error)
    headers = [JSON_TYPE]
    may_retry = face.retry and getattr(error, "is_repeatable", True)
    if not may_retry:
        headers.append(DO_NOT_RETRY)
    seconds = retry_after_seconds
    if seconds is None:
        seconds = getattr(error, "retry_after_seconds", None)
    if seconds is None:
        seconds = face.retry_after_seconds
    if seconds is not None and (may_retry or face.tells_when):
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(seconds))))
    headers.extend(getattr(error, "headers", ()))
    return headers


def error_body(error: GatewayError, *, request_id: str, code: str | None = None, **more: Any) -> bytes:
    """Return OpenAI's envelope. Shape: {"error": {"type", "code", "message", "param", "request_id", ...}}.

    Args:
        code: Overrides the error's own code, which then appears as `reason`.
        more: Further members of the error object; they win over those that the error gives, in `members` too.
    """
    fields: dict[str, Any] = {
        "type": face_of(error).type,
        "code": code or error.code,
        "message": error.message,
        "param": getattr(error, "param", None),
        "request_id": request_id,
    }
    if code is not None and code != error.code:
        fields["reason"] = error.code
    return orjson.dumps({"error": fields | getattr(error, "members", {}) | more})
