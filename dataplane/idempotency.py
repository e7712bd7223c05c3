"""One key, one execution: what a key is, what makes two requests the same, and what follows when one key comes twice.

Pure. A record of one key moves along `TRANSITIONS`; `event_of_claim` says which step a request that shows the key
comes to. Each execution under a key is an epoch with one owner, who holds a lease: whoever takes over from a dead owner
raises the epoch, and what the old owner writes afterwards is refused. Every step is a row of evidence, chained by
hashes over `EVIDENCE`.

Sources: Jena and Dalal, "The Idempotency-Key HTTP Header Field", draft-ietf-httpapi-idempotency-key-header-07, 2025;
Stripe, "Idempotent requests" (API reference); Leach, "Implementing Stripe-like Idempotency Keys in Postgres", 2017;
RFC 8785 (canonical JSON); Kleppmann, "How to do distributed locking", 2016 (fencing).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import rfc8785

from dataplane.errors import GatewayError
from dataplane.errors.requests import InvalidRequest
from dataplane.errors.upstream import UpstreamError

HEADER: Final = "Idempotency-Key"
MAX_KEY_CHARACTERS: Final = 255
# How long a key is remembered, from the request that came first: for the tenant to choose, within these.
MIN_TTL_SECONDS: Final = 24 * 3600
MAX_TTL_SECONDS: Final = 72 * 3600
# An answer that is longer is not kept. It has been given once; a duplicate is told that there is nothing to replay.
MAX_KEPT_BYTES: Final = 8 * 1024 * 1024

# The caller, who is a part of the scope: two values of it never meet under one key.
UNDECLARED: Final = frozenset({"user"})
# The address is declared beside the body's fields, as HTTP/2 names it, which no field of a body is named like.
PATH: Final = ":path"
MAX_FIELDS: Final = 256
MAX_NAME_CHARACTERS: Final = 128


class State(StrEnum):
    """Of a record. An expired one is gone; only its evidence stays."""

    RUNNING = "running"
    DONE = "done"
    RELEASED = "released"
    INDETERMINATE = "indeterminate"
    EXPIRED = "expired"


class Event(StrEnum):
    """What happened to a record, as its evidence names it."""

    CREATED = "created"  # the key came for the first time, and is being executed
    RESUMED = "resumed"  # the same request asked again: its connection to the store had broken
    ATTACHED = "attached"  # a duplicate came while the first is being executed
    REPLAYED = "replayed"  # a duplicate got the outcome that is kept
    NOT_KEPT = "not_kept"  # a duplicate came, and the outcome had been too long to keep
    MISMATCH = "mismatch"  # the key came with another request
    TAKEN_OVER = "taken_over"  # the owner is dead; the duplicate executes in its place
    REOPENED = "reopened"  # the key came again after it had been released
    STREAMING = "streaming"  # the answer is a stream now, under its id
    COMPLETED = "completed"
    RELEASED = "released"  # nothing was done that must not be done again: the key may be used again
    INDETERMINATE = "indeterminate"  # it is not known what was done, and it must not be done twice; or this was told
    EXPIRED = "expired"


TRANSITIONS: Final[Mapping[tuple[State, Event], State]] = {
    (State.RUNNING, Event.RESUMED): State.RUNNING,
    (State.RUNNING, Event.ATTACHED): State.RUNNING,
    (State.RUNNING, Event.MISMATCH): State.RUNNING,
    (State.RUNNING, Event.TAKEN_OVER): State.RUNNING,
    (State.RUNNING, Event.STREAMING): State.RUNNING,
    (State.RUNNING, Event.COMPLETED): State.DONE,
    (State.RUNNING, Event.RELEASED): State.RELEASED,
    (State.RUNNING, Event.INDETERMINATE): State.INDETERMINATE,
    (State.RUNNING, Event.EXPIRED): State.EXPIRED,
    (State.DONE, Event.REPLAYED): State.DONE,
    (State.DONE, Event.NOT_KEPT): State.DONE,
    (State.DONE, Event.MISMATCH): State.DONE,
    (State.DONE, Event.EXPIRED): State.EXPIRED,
    (State.RELEASED, Event.REOPENED): State.RUNNING,
    (State.RELEASED, Event.EXPIRED): State.EXPIRED,
    (State.INDETERMINATE, Event.INDETERMINATE): State.INDETERMINATE,
    (State.INDETERMINATE, Event.MISMATCH): State.INDETERMINATE,
    (State.INDETERMINATE, Event.EXPIRED): State.EXPIRED,
}
# The events that begin an epoch: whoever caused one is the owner.
BEGINNINGS: Final = frozenset({Event.CREATED, Event.TAKEN_OVER, Event.REOPENED})

# The fields of a row of evidence that its hash covers, and how each is written in JSON; in the order of RFC 8785.
EVIDENCE: Final[Mapping[str, str]] = {
    "at": "moment",
    "body_sha256": "text",
    "detail": "text",
    "epoch": "integer",
    "event": "text",
    "fingerprint": "text",
    "key": "text",
    "owner": "text",
    "previous_hash": "text",
    "record": "uuid",
    "request_id": "text",
    "seq": "integer",
    "status": "integer",
    "stream_id": "text",
    "tenant": "text",
    "user_hash": "text",
}


class LeaseLost(Exception):
    """What an owner would write is not its to write any more: its epoch is over. It must stop what it does."""

    def __init__(self, owned: Owned) -> None:
        super().__init__(
            f"epoch {owned.epoch} of idempotency record {owned.record_id} is over for {owned.owner!r}; claim again"
        )
        self.owned = owned


# What a key is, and what makes two requests the same.


def single_key(headers: Sequence[str]) -> str | None:
    """Return the one header that was sent, of several the first, None without any.

    Which of two keys a request has is not for us to guess: a proxy and an application may each have added one.

    Raises:
        InvalidRequest: they hold different keys; or, of several, one is none.
    """
    if len(headers) > 1 and len({parse_key(header) for header in headers}) > 1:
        raise _bad_key(f"was sent {len(headers)} times with different keys; a request has one")
    return headers[0] if headers else None


def parse_key(header: str | None) -> str | None:
    """Return the key that a header carries, None without one.

    Bare (as SDKs send it) or quoted (the draft's structured string, where a backslash stands before a quote or another
    backslash); both forms of one key are one key. A UUID of version 4 is advised, and not asked for.

    Raises:
        InvalidRequest: empty, over MAX_KEY_CHARACTERS, not visible ASCII, or a quote that does not end.
    """
    if header is None:
        return None
    text = header.strip(" \t")
    if text.startswith('"'):
        text = _unquote(text)
    if not text:
        raise _bad_key("is empty; send a key, such as a UUID of version 4, or leave the header out")
    if len(text) > MAX_KEY_CHARACTERS:
        raise _bad_key(f"has {len(text)} characters; {MAX_KEY_CHARACTERS} are the most")
    if not all("!" <= character <= "~" for character in text):
        raise _bad_key("may hold visible ASCII characters only, and no spaces; send a UUID of version 4, say")
    return text


_ESCAPED: Final = re.compile(r"\\(.)")
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\["\\])*)"')


def _unquote(text: str) -> str:
    quoted = _QUOTED.fullmatch(text)
    if quoted is None:
        raise _bad_key("begins with a quote, and is no quoted text to its end; send the key alone")
    return _ESCAPED.sub(r"\1", quoted[1])


def _bad_key(fact: str) -> InvalidRequest:
    return InvalidRequest(f"{HEADER} {fact}", param=HEADER)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What makes a request the one it is: SHA-256, in hex, of its declared fields together, and of each alone."""

    sha256: str
    by_field: Mapping[str, str]

    def differing(self, other: Fingerprint) -> tuple[str, ...]:
        """The names of the fields that only one of the two has, or that they have with different values, sorted."""
        return tuple(sorted({name for name, _ in self.by_field.items() ^ other.by_field.items()}))


def fingerprint_of(body: Mapping[str, Any], *, path: str) -> Fingerprint:
    """Return the fingerprint of a request.

    Declared is the address and every top-level field of the body but UNDECLARED, also those that the gateway does not
    know: that two requests are held to be different is an error that somebody reads, that they are held to be the same
    would be a wrong answer that nobody notices. Order and white space do not count, nor how a number is written.

    Numbers by the hundred thousand take a second or more: large bodies belong into a thread.

    Args:
        body: As it was parsed.
        path: The address that it was sent to, such as "/v1/chat/completions".
    Raises:
        InvalidRequest: there is no canonical JSON of a field (an integer beyond 2**53 - 1, nesting without end), or
            there are too many fields, or names too long.
    """
    declared = {name: value for name, value in body.items() if name not in UNDECLARED}
    if PATH in declared:
        raise InvalidRequest(f"there is no field {PATH!r}", param=PATH)
    if len(declared) > MAX_FIELDS:
        raise InvalidRequest(f"the body has {len(declared)} fields; {MAX_FIELDS} are the most beside an {HEADER}")
    for name in declared:
        if len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
            raise InvalidRequest(
                f"the name of field {name[:40]!r} is longer than {MAX_NAME_CHARACTERS} characters or not printable, "
                f"which it cannot be beside an {HEADER}"
            )
    declared[PATH] = path
    pieces = {name: _canonical(name, value) for name, value in declared.items()}
    by_field = {name: hashlib.sha256(piece).hexdigest() for name, piece in pieces.items()}
    # As RFC 8785 writes the object that they make; each is serialised once.
    whole = hashlib.sha256(b"{")
    for number, name in enumerate(sorted(pieces, key=lambda name: name.encode("utf-16-be"))):
        whole.update(b"," if number else b"")
        whole.update(rfc8785.dumps(name) + b":")
        whole.update(pieces[name])
    whole.update(b"}")
    return Fingerprint(whole.hexdigest(), by_field)


def _canonical(name: str, value: Any) -> bytes:
    try:
        canonical: bytes = rfc8785.dumps(value)
    except (ValueError, RecursionError) as exc:
        reason = "it is nested too deeply" if isinstance(exc, RecursionError) else str(exc)
        raise InvalidRequest(
            f"field {name!r} cannot be compared under an {HEADER}: {reason}; send it as text, or no key", param=name
        ) from exc
    return canonical


def full_user_hash(user: str | None) -> str:
    """Return the SHA-256, in hex, under which a user's records are kept, or nothing for nobody: never the id itself."""
    return hashlib.sha256(user.encode()).hexdigest() if user else ""


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose key it is: the same key of another tenant, or another of its users, is another key."""

    tenant: str
    user: str | None = None

    @property
    def user_hash(self) -> str:
        """As the store knows the user."""
        return full_user_hash(self.user)


# What a claim comes to.


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an execution came to: all that is needed to give the same answer again.

    Attributes:
        headers: Those that are repeated, without the content type, which is `media`.
        body: As it went out; of a stream, the payloads of its events, joined by line feeds.
        usage: The tokens of the answer, as it told them.
        stream_id: Of a stream.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    media: str
    body: bytes
    usage: Mapping[str, Any] | None = None
    stream_id: str = ""


@dataclass(frozen=True, slots=True)
class Owned:
    """Leave to execute, for as long as the lease is renewed. `taken_over`: another owner began and died; its answer was
    `stream_before`, if it was a stream.
    """

    record_id: UUID
    epoch: int
    owner: str
    taken_over: bool = False
    stream_before: str = ""


@dataclass(frozen=True, slots=True)
class Running:
    """Somebody else executes it: `owner`, whose answer is a stream if there is a `stream_id`."""

    record_id: UUID
    epoch: int
    owner: str
    stream_id: str
    lease_left_seconds: float


@dataclass(frozen=True, slots=True)
class Done:
    """It has been executed."""

    record_id: UUID
    epoch: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Known:
    """A record as a claim finds it. Times that are over are negative; `is_kept`: the body of its outcome is there."""

    state: State
    fingerprint: str
    owner: str
    request_id: str
    is_repeatable: bool
    lease_left_seconds: float
    ttl_left_seconds: float
    is_kept: bool = True


def event_of_claim(known: Known | None, *, fingerprint: str, owner: str, request_id: str, is_repeatable: bool) -> Event:
    """Return what a request that shows a key comes to. The store decides the same, in one step with its writing.

    Args:
        known: The record of the key, None for a new one.
        is_repeatable: Of the request; see `retry.is_repeatable`.
    """
    if known is None:
        return Event.CREATED
    is_live = known.state is State.RUNNING and known.lease_left_seconds > 0
    if known.ttl_left_seconds <= 0 and not is_live:
        return Event.EXPIRED  # after which it is a new one
    if known.state is State.RELEASED:
        return Event.REOPENED  # by whatever request: nothing was done for the one before
    if known.fingerprint != fingerprint:
        return Event.MISMATCH
    if known.state is State.DONE:
        return Event.REPLAYED if known.is_kept else Event.NOT_KEPT
    if known.state is State.INDETERMINATE:
        return Event.INDETERMINATE
    if (known.owner, known.request_id) == (owner, request_id):
        return Event.RESUMED
    if is_live:
        return Event.ATTACHED
    if may_take_over(known.lease_left_seconds, is_repeatable=known.is_repeatable and is_repeatable):
        return Event.TAKEN_OVER
    return Event.INDETERMINATE


def may_take_over(lease_left_seconds: float, *, is_repeatable: bool) -> bool:
    """True when an owner is held to be dead, and what it may have done can be done again unseen.

    Work that cannot is never begun anew because somebody died: nobody knows how far it had come.
    """
    return lease_left_seconds <= 0 and is_repeatable


def settle(error: GatewayError | None, *, is_repeatable: bool, was_sent: bool) -> Event:
    """Return how an execution ends that its owner saw to the end: COMPLETED, RELEASED or INDETERMINATE.

    A failure is not kept: whoever tries again wants an answer, and would get the failure for as long as the key lives.

    Args:
        error: What it ended with; None for an answer.
        is_repeatable: See `retry.is_repeatable`.
        was_sent: Whether anything may have reached a provider.
    """
    if error is None:
        return Event.COMPLETED
    if is_repeatable or not was_sent:
        return Event.RELEASED
    if isinstance(error, UpstreamError) and (not error.sent or error.status in _REFUSED):
        return Event.RELEASED
    return Event.INDETERMINATE


# What a provider answers that has done nothing: the request was wrong, not admitted, or one too many.
_REFUSED: Final = frozenset({400, 401, 402, 403, 404, 413, 422, 429})
