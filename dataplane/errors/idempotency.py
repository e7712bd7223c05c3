"""One key, one execution."""

from __future__ import annotations

from dataplane.errors import GatewayError
from dataplane.errors.requests import InvalidRequest


class IdempotencyMismatch(InvalidRequest):
    """The key has come with another request before. `fields` are the names of what differs, sorted."""

    code = "idempotency_mismatch"

    def __init__(self, key: str, *, fields: tuple[str, ...]) -> None:
        listing = ", ".join(fields[:10]) + (f" and {len(fields) - 10} more" if len(fields) > 10 else "")
        super().__init__(
            f"Idempotency-Key {key!r} came with another request before; these differ: {listing}; "
            "send the same request again, or a new key",
            param="Idempotency-Key",
        )
        self.key = key
        self.fields = fields
        self.members = {"fields": list(fields)}


class IdempotencyInProgress(GatewayError):
    """The request that came first with the key is still being executed, and it was waited for in vain."""

    code = "idempotency_in_progress"

    def __init__(self, key: str, *, retry_after_seconds: float) -> None:
        super().__init__(
            f"the first request with Idempotency-Key {key!r} is still under way; "
            f"ask again with the same key in {retry_after_seconds:.0f} s"
        )
        self.key = key
        self.retry_after_seconds = retry_after_seconds


class IdempotencyIndeterminate(GatewayError):
    """It is not known what became of the first request with the key, and it must not be done twice unseen."""

    code = "idempotency_indeterminate"

    def __init__(self, key: str) -> None:
        super().__init__(
            f"what became of the first request with Idempotency-Key {key!r} is not known, and its tools may have "
            "effects; find out what they did, then send a new key"
        )
        self.key = key


class IdempotencyOutcomeNotKept(GatewayError):
    """The first request with the key was answered, at such a length that the answer is not kept, or it was erased."""

    code = "idempotency_outcome_not_kept"

    def __init__(self, key: str, *, body_bytes: int, limit_bytes: int) -> None:
        why = f"over {limit_bytes} none is kept to be given again"
        if body_bytes <= limit_bytes:
            why = "they were erased, as the data of the user whom they were for"
        super().__init__(
            f"the answer to Idempotency-Key {key!r} had {body_bytes} bytes; {why}; "
            "send a new key to have it generated and billed anew"
        )
        self.key = key
        self.body_bytes = body_bytes
        self.limit_bytes = limit_bytes


class IdempotencyUnavailable(GatewayError):
    """Keys cannot be looked up now, so nothing is executed under one: it may have been before. `reason` says why."""

    code = "idempotency_unavailable"

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"idempotency keys cannot be looked up now: {reason}; retry with the same key, or send the request "
            "without one if it may be executed twice"
        )
        self.reason = reason
