"""Jobs: requests whose answer may wait. What one is, how it moves, and what follows an attempt at one. Pure.

The record of a job is in PostgreSQL (`stores/jobs.py`), whatever carries word of it. Each attempt is an epoch with one
owner, who holds a lease: whoever takes the job after a dead owner raises the epoch, and what the old one writes is
refused. The request itself goes to a gateway under the job's id as its idempotency key, so that an attempt that nobody
saw the end of is not paid for twice.

Jobs are served by their tags, which start-time fair queueing gives them: a tenant's next job stands one behind its
last, and never before what is being served. So a tenant with ten thousand jobs does not hold up the one of another.

Source: Goyal, Vin, Cheng, "Start-time Fair Queueing", 1996; Kleppmann, "How to do distributed locking", 2016 (fencing).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from random import Random
from typing import Any, Final
from uuid import UUID

import orjson

from dataplane.destinations import MEMBER
from dataplane.errors.jobs import JobNotFound
from dataplane.errors.requests import InvalidRequest
from dataplane.ids import read_named
from dataplane.retry import backoff

ENDPOINTS: Final = ("/v1/chat/completions", "/v1/embeddings")
MIN_EXPIRES_SECONDS: Final = 60
MAX_EXPIRES_SECONDS: Final = 7 * 24 * 3600
DEFAULT_EXPIRES_SECONDS: Final = 24 * 3600
# Attempts that a provider may be paid for, and that brought nothing: so many, then the job has failed.
MAX_FAILURES: Final = 10
BASE_SECONDS: Final = 2.0
CAP_SECONDS: Final = 60.0
MIN_WAIT_SECONDS: Final = 1.0
# How often somebody who waits should look, when nobody knows how long it takes, and at most.
LOOK_AGAIN_SECONDS: Final = 5
MAX_LOOK_AGAIN_SECONDS: Final = 60
# The rate at which jobs end is that of so long; fewer ends say nothing.
RATE_SECONDS: Final = 300.0
MIN_ENDS: Final = 3
ID_PREFIX: Final = "job_"


class State(StrEnum):
    """Of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class Event(StrEnum):
    """What happens to a job."""

    TAKEN = "taken"  # a runner has it, in a new epoch
    PUT_BACK = "put_back"  # it is to be tried again: not now, or its runner is gone
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


TRANSITIONS: Final[Mapping[tuple[State, Event], State]] = {
    (State.QUEUED, Event.TAKEN): State.RUNNING,
    (State.QUEUED, Event.CANCELLED): State.CANCELLED,
    (State.QUEUED, Event.EXPIRED): State.EXPIRED,
    (State.RUNNING, Event.PUT_BACK): State.QUEUED,
    (State.RUNNING, Event.COMPLETED): State.COMPLETED,
    (State.RUNNING, Event.FAILED): State.FAILED,
    (State.RUNNING, Event.CANCELLED): State.CANCELLED,
    (State.RUNNING, Event.EXPIRED): State.EXPIRED,
}
OVER: Final = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED, State.EXPIRED})


class Delivery(StrEnum):
    """What one attempt says of whether a job kills whoever has it."""

    RETURNED = "returned"  # somebody lived to tell what became of it
    LOST = "lost"  # its gateway took it, and was gone before it answered
    UNTRIED = "untried"  # no gateway had begun with it, so it says neither


class LeaseLost(Exception):
    """What a runner would write is not its to write any more: its epoch is over."""

    def __init__(self, taken: Taken) -> None:
        super().__init__(f"epoch {taken.epoch} of job {taken.id} is over for {taken.owner!r}; drop what it did")
        self.taken = taken


# What a job is.


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What a caller hands in: the request, as JSON, and the address that it is for. `ballast` is what it tells the
    gateway alone (see `destinations.read_destination`), unread.
    """

    endpoint: str
    body: bytes
    expires_seconds: float
    has_tools: bool = False
    ballast: Any = None


def parse_job(fields: object) -> JobRequest:
    """Read the body of a `POST /v1/jobs`, as far as it is not the request's own.

    Shape: {"endpoint": one of ENDPOINTS, "body": {...}, "expires_seconds"?: number, "ballast"?: see
        `destinations.read_destination`}.
    Raises:
        InvalidRequest: naming the field.
    """
    if not isinstance(fields, dict):
        raise InvalidRequest("the request body must be a JSON object")
    unknown = sorted(fields.keys() - {"endpoint", "body", "expires_seconds", MEMBER})
    if unknown:
        raise InvalidRequest(
            f"a job has no field {unknown[0][:40]!r}; it has 'endpoint', 'body', 'expires_seconds' and '{MEMBER}'",
            param=unknown[0][:40],
        )
    endpoint, body = fields.get("endpoint"), fields.get("body")
    if endpoint not in ENDPOINTS:
        raise InvalidRequest(f"'endpoint' must be one of {', '.join(ENDPOINTS)}", param="endpoint")
    if not isinstance(body, dict):
        raise InvalidRequest(f"'body' must be the JSON object that {endpoint} takes", param="body")
    if body.get("stream"):
        raise InvalidRequest("the answer to a job comes whole; leave 'stream' out", param="body.stream")
    if MEMBER in body:
        raise InvalidRequest(
            f"where the answer of a job goes is said beside 'body', as '{MEMBER}'", param=f"body.{MEMBER}"
        )
    seconds = fields.get("expires_seconds", DEFAULT_EXPIRES_SECONDS)
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not is_number or not MIN_EXPIRES_SECONDS <= seconds <= MAX_EXPIRES_SECONDS:
        raise InvalidRequest(
            f"'expires_seconds' must be a number from {MIN_EXPIRES_SECONDS} to {MAX_EXPIRES_SECONDS}",
            param="expires_seconds",
        )
    has_tools = bool(body.get("tools") or body.get("functions"))
    return JobRequest(endpoint, orjson.dumps(body), float(seconds), has_tools, fields.get(MEMBER))


@dataclass(frozen=True, slots=True)
class Job:
    """A job as its tenant sees it.

    Attributes:
        tag: Its place in the order: jobs are served by tag, then by id.
        attempts: How often a runner has taken it.
        response: The body of the answer, None without one, or once it is forgotten.
        error: The envelope's member `error`.
        forgotten_at: When its words were deleted.
        redriven_as: The job that somebody handed its work in again as, after it had failed.
        delivery: How sending its answer stands; None of one whose caller comes for it. Shape: {"channel": "email" or
            "webhook", "status": a `DeliveryState`, "attempts": int, "delivered_at": epoch seconds or null}.
        erased_at: When its words were erased as those of its user. It may still be running then, to no purpose.
    """

    id: UUID
    tenant: str
    endpoint: str
    state: State
    tag: int
    created_at: datetime
    expires_at: datetime
    attempts: int
    cancel_asked: bool
    ended_at: datetime | None
    status: int
    headers: tuple[tuple[str, str], ...]
    response: bytes | None
    error: Mapping[str, Any] | None
    usage: Mapping[str, Any] | None
    forgotten_at: datetime | None
    redriven_as: UUID | None = None
    delivery: Mapping[str, Any] | None = None
    erased_at: datetime | None = None

    @property
    def name(self) -> str:
        """Its id as callers know it."""
        return name_of(self.id)


def name_of(job: UUID) -> str:
    """The id of a job as callers know it."""
    return f"{ID_PREFIX}{job.hex}"


def read_id(name: str) -> UUID:
    """Return the id that a caller names.

    Raises:
        JobNotFound: it is none.
    """
    found = read_named(name, prefix=ID_PREFIX)
    if found is None:
        raise JobNotFound(name)
    return found


# Waiting.


@dataclass(frozen=True, slots=True)
class Figures:
    """How the queue stands, and what ended in the last RATE_SECONDS, by state; `span_seconds` since the first of those
    that ran to their end.
    """

    queued: int
    running: int
    ended: Mapping[str, int]
    span_seconds: float

    def eta_seconds(self, position: int) -> float | None:
        """In how many seconds a job at this position (1: the next) is likely to be done; None while nobody knows."""
        ends = self.ended.get(State.COMPLETED, 0) + self.ended.get(State.FAILED, 0)
        if ends < MIN_ENDS:
            return None
        return round(position * max(self.span_seconds, 1.0) / ends, 1)


def look_again_seconds(eta_seconds: float | None) -> int:
    """When whoever waits should look again, in whole seconds."""
    if eta_seconds is None:
        return LOOK_AGAIN_SECONDS
    return min(max(1, math.ceil(eta_seconds)), MAX_LOOK_AGAIN_SECONDS)


# Running.


@dataclass(frozen=True, slots=True)
class Taken:
    """Leave to try a job once, for as long as the lease is renewed.

    Attributes:
        key_id: Of the API key that it was handed in with.
        expires_in_seconds: From when it was taken.
        failures: Attempts before this one that a provider may be paid for.
        traceparent: Of the trace that handed it in; empty where that is not traced.
    """

    id: UUID
    epoch: int
    owner: str
    tenant: str
    key_id: str
    user: str
    endpoint: str
    body: bytes
    attempts: int
    failures: int
    expires_in_seconds: float
    traceparent: str = ""

    @property
    def key(self) -> str:
        """The idempotency key of all its attempts."""
        return str(self.id)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the gateway answered an attempt. Names of headers are lower case; `body` None: it did not answer. `is_lost`:
    it had taken the request, and was gone before it did.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes | None
    is_lost: bool = False

    @property
    def kept_headers(self) -> tuple[tuple[str, str], ...]:
        """Those that say what served the answer."""
        return tuple((name, value) for name, value in sorted(self.headers.items()) if name.startswith("ballast-"))

    @property
    def request_id(self) -> str:
        """Under which the attempt is on record."""
        return self.headers.get("ballast-request-id", "")

    def error(self) -> dict[str, Any]:
        """The envelope's member `error`, or what stands for an answer without one."""
        found = self._member("error")
        if found is not None:
            return found
        message = f"the gateway answered with status {self.status} and no error that can be read"
        return {"type": "server_error", "code": "internal_error", "message": message, "param": None}

    def usage(self) -> dict[str, Any] | None:
        """The tokens that the answer names."""
        return self._member("usage")

    def _member(self, name: str) -> dict[str, Any] | None:
        try:
            value = orjson.loads(self.body or b"")[name]
        except (orjson.JSONDecodeError, KeyError, TypeError, IndexError):
            return None
        return value if isinstance(value, dict) else None


UNREACHED: Final = Answer(0, {}, None)
BROKEN_OFF: Final = Answer(0, {}, None, is_lost=True)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows an attempt: its end, or PUT_BACK for `wait_seconds`. `failures` counts those so far. When too many
    deliveries in a row were lost, the store ends the job as failed instead of putting it back.
    """

    event: Event
    wait_seconds: float = 0.0
    failures: int = 0
    delivery: Delivery = Delivery.RETURNED


MAINTENANCE: Final = "maintenance"
# Nothing was asked of a provider, or it did nothing; to be told so again and again costs nobody.
_COSTS_NOTHING: Final = frozenset(
    {
        "circuit_open",
        "idempotency_in_progress",
        "idempotency_unavailable",
        "job_token_refused",
        MAINTENANCE,
        "no_release",
        "quota_exhausted",
        "upstream_rate_limited",
        "upstream_unreachable",
    }
)
# No gateway had begun with the request, so that it does no harm is not shown by them.
_UNTRIED: Final = frozenset(
    {"idempotency_in_progress", "idempotency_unavailable", "job_token_refused", MAINTENANCE, "no_release"}
)
# An SDK is told not to repeat these by itself. A runner may: the attempt before goes on, a key file is wrong, or what
# it asks of is under maintenance for a while.
_WAITS_ALL_THE_SAME: Final = frozenset({"idempotency_in_progress", "job_token_refused", MAINTENANCE})


def judge(answer: Answer, *, attempts: int, failures: int, left_seconds: float, rng: Random) -> Verdict:
    """Return what follows the answer to an attempt.

    Args:
        attempts: Made so far, with this one; >= 1.
        failures: Of those before, how many a provider may be paid for.
        left_seconds: Until the job expires.
    """
    if 200 <= answer.status < 300:
        return Verdict(Event.COMPLETED, failures=failures)
    delivery = _delivery(answer)
    if left_seconds <= 0:
        return Verdict(Event.EXPIRED, failures=failures, delivery=delivery)
    pause = MIN_WAIT_SECONDS + backoff(attempts, base=BASE_SECONDS, cap=CAP_SECONDS, rng=rng)
    if answer.body is None:
        return Verdict(Event.PUT_BACK, pause, failures, delivery)
    code = answer.error().get("code")
    is_transient = answer.status == 429 or answer.status >= 500
    may_repeat = code in _WAITS_ALL_THE_SAME or (is_transient and answer.headers.get("x-should-retry") != "false")
    if code not in _COSTS_NOTHING:
        failures += 1
    if not may_repeat or failures >= MAX_FAILURES:
        return Verdict(Event.FAILED, failures=failures)
    told = _seconds(answer.headers.get("retry-after"))
    if told is not None and code == MAINTENANCE:
        # It says when people expect its end. They may end it sooner, and to ask again costs nobody.
        told = min(told, CAP_SECONDS)
    return Verdict(Event.PUT_BACK, pause if told is None else max(told, MIN_WAIT_SECONDS), failures, delivery)


def _delivery(answer: Answer) -> Delivery:
    if answer.body is None:
        return Delivery.LOST if answer.is_lost else Delivery.UNTRIED
    return Delivery.UNTRIED if answer.error().get("code") in _UNTRIED else Delivery.RETURNED


def _seconds(header: str | None) -> float | None:
    if header is None or not header.isascii() or not header.isdigit():
        return None
    return min(float(header), float(MAX_EXPIRES_SECONDS))
