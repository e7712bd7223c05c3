"""Streams that outlive the connections they go to."""

from __future__ import annotations

from dataplane.errors import GatewayError
from dataplane.errors.requests import InvalidRequest


class StreamNotFound(GatewayError):
    """The tenant has no such stream, or it ended so long ago that it is not kept any more; the two look alike."""

    code = "stream_not_found"

    def __init__(self, stream: str) -> None:
        super().__init__(f"stream {stream[:64]!r} is not here, or is kept no more; ask again with a new request")
        self.stream = stream


class InvalidCursor(InvalidRequest):
    """A resume cursor that this gateway has not written, or that was altered."""

    code = "invalid_cursor"

    def __init__(self) -> None:
        super().__init__("the resume cursor is not one of ours; send it as it came, or your API key", param="cursor")


class CursorExpired(GatewayError):
    """A resume cursor was good, and is not any more."""

    code = "cursor_expired"

    def __init__(self, *, expired_seconds: float) -> None:
        super().__init__(f"the resume cursor expired {expired_seconds:.0f} s ago; ask again with a new request")
        self.expired_seconds = expired_seconds


class StreamCancelled(GatewayError):
    """A stream was ended before it was complete: `why` says by whom, or for want of whom."""

    code = "stream_cancelled"

    def __init__(self, why: str) -> None:
        super().__init__(f"the stream was cancelled: {why}; ask again with a new request")
        self.why = why


class OwnerLost(GatewayError):
    """The process that generated a stream is gone, or was held to be; what it had sent is kept."""

    code = "owner_lost"

    def __init__(self) -> None:
        super().__init__("the gateway process that generated this answer is gone; continue its stream, or ask again")


class StreamTooLong(GatewayError):
    """A stream has grown over what one stream may take."""

    code = "stream_too_long"

    def __init__(self, *, limit_bytes: int) -> None:
        super().__init__(f"the stream is over {limit_bytes} bytes, the limit of this gateway; ask for a shorter answer")
        self.limit_bytes = limit_bytes


class AnswerDiverged(GatewayError):
    """An answer that was generated anew does not begin with what the caller has of it. Nobody's fault."""

    code = "answer_diverged"

    def __init__(self, *, after_characters: int) -> None:
        super().__init__(
            f"the new answer differs from what was delivered after {after_characters} characters; ask again"
        )
        self.after_characters = after_characters


class StreamNotContinuable(GatewayError):
    """A stream that cannot be taken up again: `why` says why."""

    code = "stream_not_continuable"

    def __init__(self, stream: str, *, why: str) -> None:
        super().__init__(f"stream {stream!r} cannot be continued: {why}")
        self.stream = stream
        self.why = why


class StreamLogUnavailable(GatewayError):
    """Where streams are kept cannot be asked now; the message says why."""

    code = "stream_log_unavailable"

    def __init__(self, reason: str) -> None:
        super().__init__(f"streams cannot be read again now: {reason}; retry in a moment")
        self.reason = reason
