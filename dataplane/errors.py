"""What can go wrong on the way of one request, one class for each thing that callers or policies tell apart.

Every error carries a stable `code` (what clients and metrics match on), a message that names the thing, the fact, the
number and the remedy, and the typed attributes that decisions need. HTTP status and Retry-After are not here: they come
from one table at the edge.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final


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
    """No tenant key, or one that the release does not hold (unknown or revoked; the two look alike on purpose); or the
    token of an eval that is no good, and then the message says why.
    """

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


class BreakerOpen(GatewayError):
    """The breaker of a lane lets nothing through now. `open_seconds` None: an operator holds it open."""

    code = "circuit_open"

    def __init__(self, lane: str, *, open_seconds: float | None, forced: bool = False) -> None:
        if open_seconds is None:
            fact = "is held open by an operator; let it go, or route around it"
        elif open_seconds > 0:
            fact = f"is open for {open_seconds:.1f} s more; retry later or add a fallback to its route"
        else:
            fact = "is being probed by other requests; retry in a moment"
        super().__init__(f"lane {lane!r} {fact}")
        self.lane = lane
        self.open_seconds = open_seconds
        self.forced = forced


class NoLaneLeft(GatewayError):
    """Every lane that may serve the request is held back by its breaker, and nothing below answered.

    `held_back` maps each lane, in the order of the route, to the reason; `retry_after_seconds` is when the first of
    them is tried again, None when nobody can say.
    """

    code = "circuit_open"

    def __init__(self, route: str, *, held_back: Mapping[str, BreakerOpen]) -> None:
        reasons = "; ".join(error.message for error in held_back.values())
        super().__init__(f"route {route!r} has no lane left: {reasons}")
        self.route = route
        self.held_back = dict(held_back)
        waits = [error.open_seconds for error in held_back.values() if error.open_seconds is not None]
        self.retry_after_seconds = min(waits, default=None)


class QuotaExhausted(GatewayError):
    """What an account is admitted by its provider is used up, and to wait for more takes longer than the request may.

    `position` counts who goes before, this one included; it and `eta_seconds` are None while nobody can say.
    """

    code = "quota_exhausted"

    def __init__(
        self,
        *,
        account: str,
        policy: str,
        position: int | None,
        eta_seconds: float | None,
        waited_seconds: float,
        allowed_seconds: float,
    ) -> None:
        if eta_seconds is None:
            fact = f"nothing came free in {waited_seconds:.1f} s"
        else:
            fact = f"place {position} in the queue, about {eta_seconds:.1f} s to go"
        super().__init__(
            f"account {account!r} is at its limit (quota policy {policy!r}): {fact}, and this request may wait "
            f"{allowed_seconds:.1f} s; retry later, raise ballast-deadline-ms, or send it as a job"
        )
        self.account = account
        self.policy = policy
        self.position = position
        self.eta_seconds = eta_seconds
        self.waited_seconds = waited_seconds
        self.allowed_seconds = allowed_seconds
        self.retry_after_seconds = eta_seconds
        self.members = {"position": position, "eta_seconds": None if eta_seconds is None else round(eta_seconds, 2)}


class UnsupportedRequest(InvalidRequest):
    """No lane of the route can do what the request asks. `excluded` maps each lane id to the reason."""

    code = "unsupported_request"

    def __init__(self, route: str, *, excluded: Mapping[str, str]) -> None:
        reasons = "; ".join(f"{lane!r}: {reason}" for lane, reason in excluded.items())
        super().__init__(f"route {route!r} cannot serve this request; ask another route ({reasons})")
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


# What became of an answer that was there.


class RepairFailed(GatewayError):
    """An answer that was to be JSON is none, whatever the route's policy allows was tried.

    Attributes:
        at: Which part of the answer: "text", or "tool_calls[i]".
        mode: Member of `repair.labels.Mode`.
        missing: JSON pointers of required fields that it lacks.
        best: As much of the part as could be read, as JSON; None for nothing.
        repair: Under which name the answer is kept for somebody to complete; None: it is not kept.
    """

    code = "repair_failed"

    def __init__(
        self,
        *,
        at: str,
        mode: str,
        why: str,
        missing: tuple[str, ...],
        rungs: tuple[str, ...],
        stopped_by: str,
        best: str | None,
    ) -> None:
        super().__init__(f"{at} of the answer is not the JSON that was asked for: {why} ({stopped_by})")
        self.at = at
        self.mode = mode
        self.why = why
        self.missing = missing
        self.best = best
        self.rungs = rungs
        self.repair: str | None = None
        self.expires_at: int | None = None

    @property
    def members(self) -> dict[str, Any]:
        """What the envelope says beside. Shape: {"at", "mode", "missing_fields": [pointer], "rungs": [str], "repair":
        {"id", "expires_at": epoch seconds, "complete": "POST /v1/repairs/{id}"} or null}.
        """
        kept = None
        if self.repair is not None:
            kept = {
                "id": self.repair,
                "expires_at": self.expires_at,
                "complete": f"POST /v1/repairs/{self.repair}",
            }
        return {
            "at": self.at,
            "mode": self.mode,
            "missing_fields": list(self.missing),
            "rungs": list(self.rungs),
            "repair": kept,
        }


class RepairNotFound(GatewayError):
    """The tenant has no answer of that name that waits to be completed: it never had, or it is over."""

    code = "repair_not_found"

    def __init__(self, repair: str) -> None:
        super().__init__(f"repair {repair[:64]!r} is not open; it was completed, has expired, or never was")
        self.repair = repair


class RepairsUnavailable(GatewayError):
    """Where answers are kept for somebody to complete cannot be asked now; the message says why."""

    code = "repairs_unavailable"

    def __init__(self, reason: str) -> None:
        super().__init__(f"repairs cannot be looked up now: {reason}; retry in a moment")
        self.reason = reason


class ValidationFailed(GatewayError):
    """An answer was there, and must not be given: a validator of the route blocks it.

    Attributes:
        rules: The rules that block it, each with its version and what became of it; none of the answer's words.
        escalation: The signed words that stand in its place; None where none are set.
    """

    code = "validation_failed"

    def __init__(self, *, rules: tuple[Mapping[str, Any], ...], escalation: Mapping[str, Any] | None = None) -> None:
        names = ", ".join(f"{rule['rule']}@{rule['version']}" for rule in rules) or "its validators"
        super().__init__(f"the answer is withheld by {names}; asking the same again is likely to end in the same way")
        self.rules = rules
        self.escalation = escalation

    @property
    def members(self) -> dict[str, Any]:
        """What the envelope says beside. Shape: {"rules": [{"rule", "version", "verdict", "why"}], "escalation":
        {"message", "copy", "locale"} or null}.
        """
        return {"rules": list(self.rules), "escalation": self.escalation}


# Streams that outlive the connections they go to.


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


# One key, one execution.


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


# Work that may wait.


class JobNotFound(GatewayError):
    """The tenant has no such job."""

    code = "job_not_found"

    def __init__(self, job: str) -> None:
        super().__init__(f"job {job[:64]!r} does not exist; POST /v1/jobs gives the id of each")
        self.job = job


class JobErased(GatewayError):
    """What the job asked and what it was answered were erased on purpose; nothing brings them back."""

    code = "job_erased"

    def __init__(self, job: str) -> None:
        super().__init__(
            f"the words of job {job[:64]!r} were erased, as the data of the user whom it was for; do not ask again"
        )
        self.job = job


class JobQueueFull(GatewayError):
    """The tenant has as many jobs in the queue as one may have."""

    code = "job_queue_full"

    def __init__(self, *, limit: int) -> None:
        super().__init__(f"{limit} jobs of yours are queued, the most that may be; hand in more when some have ended")
        self.limit = limit
        self.members = {"limit": limit}


class JobsUnavailable(GatewayError):
    """Jobs can neither be stored nor looked up now; nothing was accepted. `reason` says why."""

    code = "jobs_unavailable"

    def __init__(self, reason: str) -> None:
        super().__init__(f"jobs cannot be stored or looked up now: {reason}; nothing was accepted, retry in a moment")
        self.reason = reason


class JobTokenRefused(GatewayError):
    """What a runner shows for a job is not signed by a key of this gateway, has expired, or is for something else."""

    code = "job_token_refused"

    def __init__(self) -> None:
        super().__init__(
            "the token is for another job, has expired, or was signed with another key; runners and gateways share "
            "the file BALLAST_CURSOR_KEYS_FILE"
        )


# What the upstream did. Raised in one place, transport.py, with the vendor's or the client's error as `__cause__`.


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
