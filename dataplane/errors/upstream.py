"""What the upstream did. Raised in one place, transport.py, with the vendor's or the client's error as `__cause__`."""

from __future__ import annotations

from typing import Final

from dataplane.errors import GatewayError


class UpstreamError(GatewayError):
    """An attempt at a lane failed. `lane` is None until the layer that knows it has said so.

    `sent` says whether the request may have reached the provider (and may be billed); `retry_after_seconds` is what the
    provider asked for, if anything. `is_repeatable` is False once it is known that the request must not be sent again
    by anybody who has not looked at what it did.
    """

    code = "upstream_error"

    def __init__(
        self,
        message: str,
        *,
        lane: str | None = None,
        status: int | None = None,
        retry_after_seconds: float | None = None,
        sent: bool = True,
    ) -> None:
        super().__init__(message)
        self.lane = lane
        self.status = status
        self.retry_after_seconds = retry_after_seconds
        self.sent = sent
        self.is_repeatable = True


class UpstreamUnreachable(UpstreamError):
    """No connection: refused, reset before the first byte was written, name not found, TLS refused."""

    code = "upstream_unreachable"

    def __init__(self, message: str, *, lane: str | None = None) -> None:
        super().__init__(message, lane=lane, sent=False)


_KEPT_WAITING: Final = {
    "connect": "took no connection within {seconds:.1f} s; retry, or raise connect_timeout_seconds",
    "first_byte": "was silent for {seconds:.1f} s (first_byte); retry, or raise first_byte_timeout_seconds",
    "idle": "was silent for {seconds:.1f} s (idle); retry, or raise idle_timeout_seconds",
    "first_token": "gave no token within {seconds:.1f} s; retry, or raise first_token_seconds of the route",
    "whole_answer": "gave no answer within {seconds:.1f} s; retry, or raise whole_answer_seconds of the route",
    "drain": "gave its first tokens slower than its floor, over {seconds:.1f} s; retry, or lower the floor",
}


class UpstreamTimeout(UpstreamError):
    """The lane kept us waiting longer than its own limits, or its route's, allow.

    `phase` is connect, first_byte or idle (limits of the lane), first_token or whole_answer (of the route), or drain:
    the first tokens came slower than the floor of the lane's breaker.
    """

    code = "upstream_timeout"

    def __init__(self, *, lane: str, phase: str, waited_seconds: float) -> None:
        super().__init__(
            f"lane {lane!r} {_KEPT_WAITING[phase].format(seconds=waited_seconds)}", lane=lane, sent=phase != "connect"
        )
        self.phase = phase
        self.waited_seconds = waited_seconds


class UpstreamRejected(UpstreamError):
    """The provider says that the request itself is wrong; another lane would say the same. `param` names the field."""

    code = "invalid_request"

    def __init__(self, message: str, *, lane: str | None, status: int | None, param: str | None = None) -> None:
        super().__init__(message, lane=lane, status=status)
        self.param = param


class UpstreamContextExceeded(UpstreamRejected):
    """The provider says that the conversation is too long for its model; a lane with a larger context may take it."""

    code = "context_length_exceeded"

    def __init__(self, message: str, *, lane: str, status: int) -> None:
        super().__init__(message, lane=lane, status=status, param="messages")


class UpstreamFiltered(UpstreamRejected):
    """The provider's content filter refused the conversation; whoever sent it elsewhere would go round the filter."""

    code = "content_filter"

    def __init__(self, *, lane: str | None, status: int | None) -> None:
        super().__init__(
            "the provider's content filter refused the conversation; change what it says",
            lane=lane,
            status=status,
            param="messages",
        )


class UpstreamAuthFailed(UpstreamError):
    """The provider refuses the lane's account: key, payment, permission, or a model that it does not have."""

    code = "upstream_auth_failed"

    def __init__(self, *, lane: str, status: int) -> None:
        super().__init__(
            f"the provider refused the account of lane {lane!r} with status {status}; check its secret and model",
            lane=lane,
            status=status,
        )


class UpstreamRateLimited(UpstreamError):
    """The provider said 429, or its own dialect of it."""

    code = "upstream_rate_limited"

    def __init__(self, *, lane: str, retry_after_seconds: float | None = None, status: int = 429) -> None:
        advice = "later" if retry_after_seconds is None else f"in {retry_after_seconds:.1f} s"
        super().__init__(
            f"lane {lane!r} is rate limited by its provider; retry {advice}",
            lane=lane,
            status=status,
            retry_after_seconds=retry_after_seconds,
        )


class UpstreamUnavailable(UpstreamError):
    """The provider answered, and the answer is that it cannot serve now (5xx and the like)."""

    code = "upstream_unavailable"


class UpstreamInterrupted(UpstreamError):
    """The connection broke, or the answer ended, after it had begun: what arrived must not pass as complete."""

    code = "upstream_interrupted"


class UpstreamMalformed(UpstreamError):
    """The provider's bytes are not what its wire promises: broken JSON, broken event stream, missing fields."""

    code = "upstream_malformed"
