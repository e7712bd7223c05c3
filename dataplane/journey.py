"""What the gateway knows about one request while it lives: who asked, what serves it, what became of it.

A Journey is filled step by step by the pipeline and read twice: for the response headers, and for the record at the
end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from dataplane.access import OURSELVES, ApiKey, Tenant
from dataplane.aggregation import Result, Series
from dataplane.envelope import Header, face_of
from dataplane.errors import GatewayError
from dataplane.errors.upstream import UpstreamError, UpstreamRejected
from dataplane.evidence import Part
from dataplane.fallback import OutageNotice
from dataplane.frames import Ending
from dataplane.ids import new_id as new_id  # those of requests, and of all that comes of them
from dataplane.messages import Json, Usage
from dataplane.prompts import PromptVersion
from dataplane.quota import INTERACTIVE, Place, Workload
from dataplane.records import record
from dataplane.release import Release
from dataplane.routing import Lane
from dataplane.signed_copy import SignedCopy

if TYPE_CHECKING:
    from dataplane.destinations import Destination
    from dataplane.ladder.desk import Stand
    from dataplane.ladder.words import Spoken
    from dataplane.productions import Production
    from dataplane.request_trace import AttemptTrace, RequestTrace
    from dataplane.retrieval.grounding import Knowledge
    from dataplane.shadow.offering import Overheard

CLIENT_CLOSED_REQUEST: Final = 499
# Vendors count about four characters of English to a token. Only used when an answer ends without its usage.
CHARACTERS_PER_TOKEN: Final = 4
# Attempts that are about an answer, and are not it: its repair, its judge, and the embedding of a question, by which
# passages are found.
REPAIR: Final = "repair"
JUDGE: Final = "judge"
RETRIEVAL: Final = "retrieval"
ASIDE: Final = frozenset({REPAIR, JUDGE, RETRIEVAL})
# As what every attempt of an eval is recorded, whichever of its request's it is.
EVAL: Final = "eval"
# A shorter answer says nothing about how fast a provider gives tokens.
MIN_TIMED_TOKENS: Final = 16


@record
class Inbound:
    """One request as the edge read it: the headers that matter, the whole body, and when it began (monotonic
    seconds). `announce` tells a caller who asked for it where a stream stands that waits for an account's quota;
    `trace` is where it is traced, if it is.
    """

    request_id: str
    body: bytes
    started: float
    authorization: str | None = None
    user: str | None = None
    deadline_ms: str | None = None
    accept_language: str | None = None
    idempotency_key: str | None = None
    workload: str | None = None
    queue: str | None = None
    announce: Callable[[Place], None] | None = None
    deliver: str | None = None
    later: str | None = None
    trace: RequestTrace | None = None


@record
class Admission:
    """Leave for an eval: its request without the sandbox that it brought, which release serves it, and as whom; and
    the `live` release, whose lanes customers use.
    """

    inbound: Inbound
    release: Release
    key: ApiKey
    live: Release


class Reply(Protocol):
    """The caller's side of the connection. Every method waits only when the caller reads too slowly."""

    opened: bool

    @property
    def position(self) -> int:
        """The number of the last event that was sent."""

    async def send_whole(self, status: int, headers: list[Header], body: bytes) -> None:
        """Send a complete response."""

    async def open_stream(self, headers: list[Header]) -> None:
        """Send the head of an event stream."""

    async def send_events(self, payloads: Sequence[bytes], *, ending: Ending | None = None) -> None:
        """Send events, numbered on from the last. With `ending`, the last of them is the stream's terminal event."""


class Attempt:
    """One attempt at one lane: what it took, and what became of it. Plain attributes, as of a `Journey`.

    `kind` is primary (the first), retry (the same lane again), fallback (another lane), or, for an answer that a
    provider broke off, continue or regenerate, or, for what is asked about an answer, one of ASIDE; `cause` is the
    error code of the attempt before. `number` counts all attempts of a request, `place` those at one thing that was to
    be had: the embedding by which passages are found, or all the rest; whoever counts first attempts counts both.
    `dropped` and `adjusted` are the request's fields that were not sent to the lane, or not as they were asked for.
    `waited_seconds` is the time spent waiting for the provider after the first token. `cost_micros` is what it cost, in
    millionths of a US dollar, once it has ended. `finish_reason`, `response_model` and `response_id` are what the
    answer says of itself, empty where it does not. `slot` is where it stands among what is under way: see `UnderWay`.
    """

    __slots__ = (
        "adjusted",
        "cause",
        "characters",
        "cost_micros",
        "dropped",
        "ended",
        "error",
        "finish_reason",
        "kind",
        "lane",
        "number",
        "outcome",
        "place",
        "response_id",
        "response_model",
        "sent_bytes",
        "slot",
        "started",
        "trace",
        "ttft_ms",
        "usage",
        "waited_seconds",
    )

    def __init__(
        self, lane: Lane, *, number: int, kind: str, cause: str, started: float, place: int | None = None
    ) -> None:
        self.lane = lane
        self.number = number
        self.place = number if place is None else place
        self.kind = kind
        self.cause = cause
        self.started = started
        self.ended = started
        self.sent_bytes = 0
        self.ttft_ms: float | None = None
        self.usage: Usage | None = None
        self.characters = 0
        self.cost_micros = 0
        self.waited_seconds = 0.0
        self.outcome = ""
        self.error: GatewayError | None = None
        self.dropped: tuple[str, ...] = ()
        self.adjusted: tuple[str, ...] = ()
        self.finish_reason = ""
        self.response_model = ""
        self.response_id = ""
        self.trace: AttemptTrace | None = None
        self.slot = -1

    def fail(self, error: GatewayError) -> None:
        """Note that the attempt ends with `error`."""
        self.error = error
        self.outcome = error.code

    @property
    def latency_ms(self) -> float:
        """From start to end, in milliseconds."""
        return (self.ended - self.started) * 1000

    @property
    def status(self) -> int:
        """The HTTP status that stands for the outcome; 499 for a caller who left."""
        if self.error is not None:
            upstream = self.error.status if isinstance(self.error, UpstreamRejected) else None
            return upstream or face_of(self.error).status
        return 200 if self.outcome == "ok" else CLIENT_CLOSED_REQUEST

    @property
    def estimated_tokens(self) -> int:
        """Output tokens so far, CHARACTERS_PER_TOKEN characters to a token."""
        return -(-self.characters // CHARACTERS_PER_TOKEN)

    @property
    def tokens_per_second(self) -> float | None:
        """How fast the provider gave tokens after the first; None for an answer that is too short to tell, or came in
        one piece. What the caller took to read is not in it.
        """
        if self.ttft_ms is None:
            return None
        usage = self.usage
        tokens = self.estimated_tokens if usage is None else max(usage.output_tokens, self.estimated_tokens)
        if tokens < MIN_TIMED_TOKENS or self.waited_seconds <= 0:
            return None
        return tokens / self.waited_seconds

    def billed(self) -> Usage:
        """Return the tokens of the attempt: the vendor's figures, filled up by an estimate where it did not get to
        give them.

        The estimate is CHARACTERS_PER_TOKEN characters to a token, of what was sent and what was delivered. An
        attempt that the vendor refused, or never received, costs nothing.
        """
        usage = self.usage
        if usage is not None and self.outcome == "ok":
            return usage
        if not self.sent_bytes or self._costs_nothing():
            return Usage()
        delivered = self.estimated_tokens
        if usage is None:
            return Usage(-(-self.sent_bytes // CHARACTERS_PER_TOKEN), delivered)
        return Usage(usage.input_tokens, max(usage.output_tokens, delivered), usage.cached_input_tokens)

    def _costs_nothing(self) -> bool:
        return isinstance(self.error, UpstreamError) and (self.error.status is not None or not self.error.sent)


class Journey:
    """The state of one request. Plain attributes: one request, one task, no sharing.

    `kind` is what the first attempt is recorded as: primary, or probe for a question of our own. `fallback` says what
    answered, as the header `ballast-fallback` does; `copy` is the signed copy that did, `notice` the signed words that
    go with an error. `production` is the stream that outlives the caller's connection, if the answer is one, and
    `taking_up` the kind of attempts that take it up again. `is_detached`: the request lives on in a task of its own;
    `is_job`: a runner asks, who comes again later. `admission` is an eval's, which asks as nobody's customer: nothing
    counts it among what customers ask, and it is told an error where they are told other words.
    `aside` is the member of ASIDE as which attempts are made now, if they are not at the answer itself. `repair` and
    `validation` say in a header what became of the answer: see `json_answers.summary_of`.
    `overheard` is what a shadow may be told of the answer, once the caller has it.
    `part` is its part in a running canary; `blocked` and `grounded` say what validators made of the answer, None where
    they did not look, or could not say.
    `stand` is where it stands on the ladder of its surface, None where there is none, and `spoken` the signed words of
    its rung, None where none is engaged for it. `knowledge` is what of a corpus the answer rests on, if on any.
    `destination` is where its answer goes if that comes later, None where its caller comes back for it.
    `queue_position` is where it stood when it began to wait for an account's quota, 0 if it never did, and `queued_ms`
    how long it waited. `trace` is where it is traced; None: nowhere.
    """

    __slots__ = (
        "_hashed",
        "_series",
        "admission",
        "aside",
        "attempts",
        "blocked",
        "canary",
        "cohort",
        "copy",
        "deadline_ms",
        "destination",
        "error",
        "fallback",
        "grounded",
        "inbound",
        "is_detached",
        "is_job",
        "key_id",
        "kind",
        "knowledge",
        "lanes",
        "notice",
        "outcome",
        "overheard",
        "part",
        "production",
        "prompt_version",
        "queue_position",
        "queued_ms",
        "refused",
        "release",
        "repair",
        "route",
        "schema_passed",
        "spoken",
        "stage",
        "stand",
        "stream",
        "taking_up",
        "tenant",
        "trace",
        "unkeyed",
        "user",
        "validation",
        "workload",
    )

    def __init__(self, inbound: Inbound) -> None:
        self.inbound = inbound
        self.trace = inbound.trace
        self.release: Release | None = None
        self.tenant: Tenant | None = None
        self.key_id = ""
        self.kind = "primary"
        self.user: str | None = inbound.user
        self.route = ""
        self.prompt_version: PromptVersion | None = None
        self.canary = ""
        self.cohort = "none"
        self.unkeyed = False
        self.part: Part | None = None
        self.destination: Destination | None = None
        self.stand: Stand | None = None
        self.spoken: Spoken | None = None
        self.knowledge: Knowledge | None = None
        self.overheard: Overheard | None = None
        self.lanes: tuple[Lane, ...] = ()
        self.attempts: list[Attempt] = []
        self.fallback = "none"
        self.copy: SignedCopy | None = None
        self.notice: OutageNotice | None = None
        self.stream = False
        self.deadline_ms = 0.0
        self.stage = "authentication"
        self.workload: Workload = INTERACTIVE
        self.queue_position = 0
        self.queued_ms = 0.0
        self.is_detached = False
        self.is_job = False
        self.admission: Admission | None = None
        self.production: Production | None = None
        self.taking_up = ""
        self.aside = ""
        self.repair = ""
        self.validation = ""
        self.schema_passed: bool | None = None
        self.refused = False
        self.blocked: bool | None = None
        self.grounded: bool | None = None
        self.outcome = ""
        self.error: GatewayError | None = None
        self._series: Series | None = None
        self._hashed: tuple[str | None, str] | None = None

    @property
    def user_hash(self) -> str:
        """As rows name the user; see `hash_user`. Worked out once, as long as it is the same user."""
        if self._hashed is None or self._hashed[0] != self.user:
            self._hashed = self.user, hash_user(self.user)
        return self._hashed[1]

    def fail(self, error: GatewayError) -> None:
        """Note that the request ends with `error`."""
        self.error = error
        self.outcome = error.code

    def begin_attempt(self, lane: Lane, *, now: float) -> Attempt:
        """Begin the next attempt, at `lane`. `now` is monotonic seconds."""
        # What was asked beside an answer is no try at it that it could be a retry of.
        before = (self.attempts[-1] if self.attempts else None) if self.aside else self.answering
        kind = self.kind if before is None else "retry" if before.lane is lane else "fallback"
        kind = self.aside or self.taking_up or kind
        cause = "" if before is None else before.outcome
        number, place = len(self.attempts) + 1, self.tries + 1
        attempt = Attempt(lane, number=number, kind=kind, cause=cause, started=now, place=place)
        self.attempts.append(attempt)
        return attempt

    @property
    def is_eval(self) -> bool:
        """Whether an eval asks."""
        return self.admission is not None

    def is_customers(self, lane: Lane) -> bool:
        """Whether customers use `lane`; a sandbox has its own, perhaps under the same name."""
        admission = self.admission
        return admission is None or admission.live.routing.lanes.get(lane.id) is lane

    @property
    def takes_copy(self) -> bool:
        """Whether other words help whoever asks: neither a runner, who comes again, nor an eval."""
        return not self.is_job and self.admission is None

    @property
    def cost_micros(self) -> int:
        """What its attempts cost, in millionths of a US dollar: those that ended, answers or not."""
        return sum(attempt.cost_micros for attempt in self.attempts)

    @property
    def attempts_ms(self) -> float:
        """How long its attempts took, from the start of the first to the end of the last, in milliseconds."""
        return (self.attempts[-1].ended - self.attempts[0].started) * 1000 if self.attempts else 0.0

    @property
    def tries(self) -> int:
        """How many attempts were made at what is attempted now: at the question by which passages are found, or at all
        the rest.
        """
        is_question = self.aside == RETRIEVAL
        return sum((one.kind == RETRIEVAL) == is_question for one in self.attempts)

    @property
    def lane(self) -> Lane | None:
        """The lane that served, or was to serve last; None when no lane was tried, or signed copy answered."""
        attempt = self.answering
        return None if attempt is None or self.copy is not None else attempt.lane

    @property
    def answering(self) -> Attempt | None:
        """The last attempt at the answer itself."""
        attempts = self.attempts
        if attempts and attempts[-1].kind not in ASIDE:  # as good as always
            return attempts[-1]
        return next((one for one in reversed(attempts) if one.kind not in ASIDE), None)

    @property
    def beside(self) -> Json | None:
        """What goes with an answer of a model, as its member `ballast`; None: nothing.

        Shape: that of `Spoken.to_json` where a rung is engaged, with "corpus": see `Knowledge.to_json`.
        """
        if self.knowledge is None:
            return None if self.spoken is None else self.spoken.to_json()
        told = {} if self.spoken is None else self.spoken.to_json()
        return told | {"corpus": self.knowledge.to_json()}

    @property
    def result(self) -> Result:
        """The outcome as telemetry counts it: the caller's own mistake is `rejected`, every other failure `error`."""
        if self.error is None:
            return "cancelled" if self.outcome == "cancelled" else "ok"
        status = face_of(self.error).status
        return "rejected" if 400 <= status < 500 and status != 429 else "error"

    def headers(self, content_type: Header) -> list[Header]:
        """Return the response headers, as far as the journey has come."""
        headers = [content_type, (b"ballast-request-id", self.inbound.request_id.encode())]
        if self.release is not None:
            headers.append((b"ballast-release", b"%d" % self.release.revision))
        if self.prompt_version is not None:
            headers.append((b"ballast-prompt", self.prompt_version.reference.encode()))
        if self.lanes:
            attempt = self.answering
            if attempt is not None and self.copy is None:
                headers.append((b"ballast-lane", attempt.lane.id.encode()))
                if attempt.dropped:
                    headers.append((b"ballast-dropped", ", ".join(attempt.dropped).encode()))
                if attempt.adjusted:
                    headers.append((b"ballast-adjusted", ", ".join(attempt.adjusted).encode()))
            headers.append((b"ballast-attempts", b"%d" % len(self.attempts)))
            headers.append((b"ballast-cohort", b"control" if self.unkeyed else self.cohort.encode()))
            headers.append((b"ballast-rung", b"0" if self.stand is None else b"%d" % self.stand.rung))
            headers.append((b"ballast-fallback", self.fallback.encode()))
        if self.knowledge is not None:
            headers.append((b"ballast-snapshot", str(self.knowledge.retrieved.standing.snapshot).encode()))
        if self.repair:
            headers.append((b"ballast-repair", self.repair.encode()))
        if self.validation:
            headers.append((b"ballast-validation", self.validation.encode()))
        if self.queue_position:
            headers.append((b"ballast-queue-position", b"%d" % self.queue_position))
            headers.append((b"ballast-queue-wait-ms", b"%d" % self.queued_ms))
        if self.admission is not None:
            headers.append((b"ballast-cost-micros", b"%d" % self.cost_micros))
            headers.append((b"ballast-latency-ms", b"%.1f" % self.attempts_ms))
        return headers

    def series(self, lane: str) -> Series | None:
        """Return the telemetry series with `lane`, or None while nobody is known to have asked, and for an eval.

        For use at the end of an attempt or of the request, when what is told apart does not change any more.
        """
        if self.tenant is None or self.admission is not None:
            return None
        # Nearly every request asks twice for the same: for its only attempt, and for itself.
        known = self._series
        if known is not None and known.lane == lane:
            return known
        version = self.prompt_version
        self._series = Series(
            lane=lane,
            prompt="" if version is None else version.prompt,
            version=0 if version is None else version.number,
            canary=self.canary,
            cohort=self.cohort,
            tier=self.tenant.tier,
        )
        return self._series

    def usage_row(
        self, attempt: Attempt, billed: Usage, *, cost_micros: int, attempt_id: str, at: float
    ) -> dict[str, Any]:
        """Return the usage row of one attempt, whose tokens are `billed`. Shape: the reports contract. `at` is epoch
        seconds.
        """
        tenant, lane, version = self.tenant, attempt.lane, self.prompt_version
        if tenant is None:
            raise ValueError("nobody is known to have asked, so there is nobody to bill")
        row = {
            "attempt_id": attempt_id,
            "request_id": self.inbound.request_id,
            "at": at,
            "tenant": tenant.slug,
            "tier": tenant.tier,
            "key_id": self.key_id,
            "route": self.route,
            "lane": lane.id,
            "prompt": "" if version is None else version.prompt,
            "version": 0 if version is None else version.number,
            "canary": self.canary,
            "cohort": self.cohort,
            "kind": attempt.kind if self.admission is None else EVAL,
            "attempt": attempt.place,
            "cause": attempt.cause,
            "outcome": attempt.outcome,
            "status": attempt.status,
            "input_tokens": billed.input_tokens,
            "output_tokens": billed.output_tokens,
            "cost_micros": cost_micros,
            "latency_ms": attempt.latency_ms,
            "ttft_ms": attempt.ttft_ms,
            "stream": self.stream,
            "user": self.user_hash,
        }
        if self.trace is not None and self.trace.trace_id:
            row["trace_id"] = self.trace.trace_id
        return row


def attempt_id(journey: Journey, attempt: Attempt) -> str:
    """The id of an attempt, which whoever tells of it knows: the request's own, and its number."""
    return f"{journey.inbound.request_id.removeprefix('req_')}-{attempt.number}"


def own_journey(*, started: float, wall: float, kind: str = "primary") -> Journey:
    """The journey of a request that nobody sent: ours to make, and ours to pay for. `wall` is epoch seconds."""
    journey = Journey(Inbound("req_" + new_id(wall), b"", started))
    journey.tenant = OURSELVES
    journey.kind = kind
    return journey


def hash_user(user: str | None) -> str:
    """Return the first 16 hex digits of the user's SHA-256, or nothing for nobody: rows never hold the id itself."""
    return hashlib.sha256(user.encode()).hexdigest()[:16] if user else ""
