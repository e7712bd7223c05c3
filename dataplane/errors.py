"""What can go wrong on the way of one request, one class for each thing that callers or policies tell apart.

Every error carries a stable `code` (what clients and metrics match on), a message that names the thing, the fact, the
number and the remedy, and the typed attributes that decisions need. HTTP status and Retry-After are not here: they come
from one table at the edge.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class GatewayError(Exception):
    """Root of everything that the data plane raises on purpose. `str(error)` is fit to be shown to the caller."""

    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


# What the caller did.


class InvalidRequest(GatewayError):
    """The request itself is wrong; sending it again unchanged cannot help.

    `param` names the field, where one is known.
    """

    code = "invalid_request"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class Unauthorized(GatewayError):
    """No tenant key, or one that the release does not hold (unknown or revoked; the two look alike on purpose)."""

    code = "unauthorized"


class UnknownRoute(InvalidRequest):
    """`model` names no route of the release."""

    code = "model_not_found"

    def __init__(self, route: str) -> None:
        super().__init__(f"route {route!r} does not exist; GET /v1/models lists the routes", param="model")
        self.route = route


class UnknownPrompt(InvalidRequest):
    """`prompt.id` names no prompt of the release."""

    code = "prompt_not_found"

    def __init__(self, prompt: str) -> None:
        super().__init__(f"prompt {prompt!r} does not exist in the release being served", param="prompt.id")
        self.prompt = prompt


class UnknownPromptVersion(InvalidRequest):
    """`prompt.version` is not among the versions that the release carries for this prompt."""

    code = "prompt_version_not_found"

    def __init__(self, prompt: str, version: int, *, known: tuple[int, ...]) -> None:
        listing = ", ".join(map(str, known))
        super().__init__(
            f"prompt {prompt!r} has no version {version}; the release carries {listing}", param="prompt.version"
        )
        self.prompt = prompt
        self.version = version
        self.known = known


class InvalidVariables(InvalidRequest):
    """The variables do not fit the prompt version. `names` are the variables concerned, where they are known."""

    code = "invalid_variables"

    def __init__(self, message: str, *, names: tuple[str, ...] = (), param: str = "prompt.variables") -> None:
        super().__init__(message, param=param)
        self.names = names


# What the release, or the state of this worker, does not allow.


class NoRelease(GatewayError):
    """This worker holds no verified release yet, so it can admit nobody."""

    code = "no_release"

    def __init__(self) -> None:
        super().__init__("this worker holds no verified release yet; retry at another worker")


class NoEligibleLane(GatewayError):
    """Every lane of the route is excluded. `excluded` maps each lane id, in route order, to the reason."""

    code = "no_eligible_lane"

    def __init__(self, route: str, *, excluded: Mapping[str, str]) -> None:
        reasons = "; ".join(f"{lane!r}: {reason}" for lane, reason in excluded.items())
        super().__init__(f"route {route!r} has no lane for this request ({reasons})")
        self.route = route
        self.excluded = dict(excluded)


class Draining(GatewayError):
    """This worker is stopping: it finishes what it has and admits nothing new."""

    code = "maintenance"

    def __init__(self) -> None:
        super().__init__("this worker is draining; retry at another worker")


class DeadlineExceeded(GatewayError):
    """The caller's or the route's deadline passed before there was an answer."""

    code = "deadline_exceeded"

    def __init__(self, *, deadline_ms: float, stage: str) -> None:
        super().__init__(
            f"the deadline of {deadline_ms:.0f} ms passed during {stage}; raise ballast-deadline-ms or retry"
        )
        self.deadline_ms = deadline_ms
        self.stage = stage


# What the upstream did. Raised in one place, transport.py, with the vendor's or the client's error as `__cause__`.


class UpstreamError(GatewayError):
    """An attempt at a lane failed. `lane` is None until the layer that knows it has said so.

    `sent` says whether the request may have reached the provider (and may be billed); `retry_after_seconds` is what the
    provider asked for, if anything.
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


class UpstreamUnreachable(UpstreamError):
    """No connection: refused, reset before the first byte was written, name not found, TLS refused."""

    code = "upstream_unreachable"

    def __init__(self, message: str, *, lane: str | None = None) -> None:
        super().__init__(message, lane=lane, sent=False)


class UpstreamTimeout(UpstreamError):
    """The lane stayed silent longer than its own time-out. `phase` is connect, first_byte or idle."""

    code = "upstream_timeout"

    def __init__(self, *, lane: str, phase: str, waited_seconds: float) -> None:
        super().__init__(
            f"lane {lane!r} was silent for {waited_seconds:.1f} s ({phase}); retry, or raise {phase}_timeout_seconds",
            lane=lane,
            sent=phase != "connect",
        )
        self.phase = phase
        self.waited_seconds = waited_seconds


class UpstreamRejected(UpstreamError):
    """The provider says that the request itself is wrong; another lane would say the same. `param` names the field."""

    code = "invalid_request"

    def __init__(self, message: str, *, lane: str, status: int, param: str | None = None) -> None:
        super().__init__(message, lane=lane, status=status)
        self.param = param


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
