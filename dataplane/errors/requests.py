"""What the caller did wrong."""

from __future__ import annotations

from collections.abc import Mapping

from dataplane.errors import GatewayError


class InvalidRequest(GatewayError):
    """The request itself is wrong; sending it again unchanged cannot help.

    `param` names the field, where one is known.
    """

    code = "invalid_request"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class Unauthorized(GatewayError):
    """No tenant key, or one that the release does not hold (unknown or revoked; the two look alike on purpose); or the
    token of an eval that is no good, and then the message says why.
    """

    code = "unauthorized"


class TooManyBadKeys(GatewayError):
    """The address has shown more bad keys lately than it may. Good ones are served from there as ever."""

    code = "too_many_bad_keys"

    def __init__(self, *, retry_after_seconds: float) -> None:
        super().__init__(
            f"too many unknown or revoked API keys came from this address; check the key, and try again in "
            f"{retry_after_seconds:.0f} s"
        )
        self.retry_after_seconds = retry_after_seconds
        self.headers = ((b"connection", b"close"),)


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


class ContextLengthExceeded(InvalidRequest):
    """The conversation and the answer asked for are clearly longer than the lane's context; nothing was sent there."""

    code = "context_length_exceeded"

    def __init__(self, *, lane: str, estimated_tokens: int, context_tokens: int) -> None:
        super().__init__(
            f"about {estimated_tokens} tokens, the answer included, do not fit into the {context_tokens} of lane "
            f"{lane!r}; shorten the messages or ask for a shorter answer",
            param="messages",
        )
        self.lane = lane
        self.estimated_tokens = estimated_tokens
        self.context_tokens = context_tokens


class UnsupportedRequest(InvalidRequest):
    """No lane of the route can do what the request asks. `excluded` maps each lane id to the reason."""

    code = "unsupported_request"

    def __init__(self, route: str, *, excluded: Mapping[str, str]) -> None:
        reasons = "; ".join(f"{lane!r}: {reason}" for lane, reason in excluded.items())
        super().__init__(f"route {route!r} cannot serve this request; ask another route ({reasons})")
        self.route = route
        self.excluded = dict(excluded)
