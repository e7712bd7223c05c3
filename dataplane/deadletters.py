"""Dead letters: asynchronous work that failed for good. What one is, how it moves, what kind of failure it was. Pure.

The record is one PostgreSQL table for both planes (app `deadletters`); whoever ends a piece of work writes its letter
in the same transaction. Letters that failed alike have one fingerprint, which is what people look at first: ten
thousand letters of one group are one problem.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

# A delivery that ended in nobody's hands (its runner died, or the gateway that had it): so many in a row, and the work
# is held to be what kills. Twice may be a bad hour; a third time, apart from what was there before, is no coincidence,
# and each further try costs everybody else who is there. No policy: a higher number would only kill more processes.
MAX_LAPSES: Final = 3
# Of how many attempts a letter tells; of more, the last ones.
KEPT_CAUSES: Final = 10
MESSAGE_CHARACTERS: Final = 300
SUMMARY_CHARACTERS: Final = 200
FINGERPRINT_CHARACTERS: Final = 32
# For how long a payload is kept where no rule says otherwise.
RETENTION_DAYS: Final = 30
# More of a message is not read: providers put whole documents into theirs.
_READ_CHARACTERS: Final = 4_000
_SEPARATOR: Final = "\x1f"


class Category(StrEnum):
    """Why work failed, as far as that decides what to do about it."""

    RATE_LIMIT = "rate_limit"  # there was no room: redrive later
    VALIDATION = "validation"  # what was asked, or answered, is not what it must be: edit it, or discard
    MODEL_REFUSAL = "model_refusal"  # a content filter: edit it, or discard
    TIMEOUT = "timeout"
    POISON = "poison"  # whoever had it died of it: look at it before anything else
    POLICY = "policy"  # a rule of ours or of the tenant's forbids it
    DEPENDENCY = "dependency"  # somebody whom it needs was away: redrive when they are back
    EXPIRED = "expired"  # its time was over before it was done
    BUG = "bug"  # nobody foresaw it
    UNSERIALISABLE = "unserialisable"  # it could not be read, let alone begun


class State(StrEnum):
    """Of a dead letter."""

    OPEN = "open"
    REDRIVEN = "redriven"
    RESOLVED = "resolved"
    DISCARDED = "discarded"
    PURGED = "purged"


class Event(StrEnum):
    """What happens to a dead letter."""

    REDRIVEN = "redriven"  # the work was handed in again
    RESOLVED = "resolved"  # the work is done, by redriving or otherwise
    DISCARDED = "discarded"  # nobody wants it any more
    REOPENED = "reopened"  # that was decided wrongly, or redriving it did not help
    PURGED = "purged"  # its payload is gone, so nothing can be redriven


TRANSITIONS: Final[Mapping[tuple[State, Event], State]] = {
    (State.OPEN, Event.REDRIVEN): State.REDRIVEN,
    (State.OPEN, Event.RESOLVED): State.RESOLVED,
    (State.OPEN, Event.DISCARDED): State.DISCARDED,
    (State.OPEN, Event.PURGED): State.PURGED,
    (State.REDRIVEN, Event.RESOLVED): State.RESOLVED,
    (State.REDRIVEN, Event.REOPENED): State.OPEN,
    (State.DISCARDED, Event.REOPENED): State.OPEN,
    (State.RESOLVED, Event.REOPENED): State.OPEN,
}


class PayloadState(StrEnum):
    """Where a letter's payload is."""

    PENDING = "pending"  # in the letter's row, as it was when the work failed
    STORED = "stored"  # in the payload store, encrypted
    PURGED = "purged"  # nowhere


# What kind of failure it was.

_CATEGORIES: Final[Mapping[Category, frozenset[str]]] = {
    Category.RATE_LIMIT: frozenset({"job_queue_full", "quota_exhausted", "upstream_rate_limited"}),
    Category.VALIDATION: frozenset(
        {
            "answer_diverged",
            "arguments_too_large",
            "context_length_exceeded",
            "corpus_not_found",
            "idempotency_mismatch",
            "invalid_cursor",
            "invalid_request",
            "invalid_variables",
            "job_not_found",
            "method_not_allowed",
            "model_not_found",
            "not_found",
            "prompt_not_found",
            "prompt_version_not_found",
            "repair_failed",
            "repair_not_found",
            "snapshot_gone",
            "request_timeout",
            "request_too_large",
            "stream_not_continuable",
            "stream_not_found",
            "stream_too_long",
            "unsupported_media_type",
            "unsupported_request",
            "validation_failed",
        }
    ),
    Category.MODEL_REFUSAL: frozenset({"content_filter"}),
    Category.TIMEOUT: frozenset({"deadline_exceeded", "upstream_timeout"}),
    Category.POISON: frozenset({"poison"}),
    Category.POLICY: frozenset(
        {
            "job_erased",
            "job_token_refused",
            "no_eligible_lane",
            "secret_unavailable",
            "shed",
            "too_many_bad_keys",
            "unauthorized",
        }
    ),
    Category.DEPENDENCY: frozenset(
        {
            "circuit_open",
            "corpus_not_ready",
            "corpus_paused",
            "corpus_stale",
            "corpus_unavailable",
            "idempotency_in_progress",
            "idempotency_indeterminate",
            "idempotency_outcome_not_kept",
            "idempotency_unavailable",
            "jobs_unavailable",
            "maintenance",
            "no_release",
            "owner_lost",
            "payload_gone",
            "payload_tampered",
            "payload_unavailable",
            "repairs_unavailable",
            "stream_log_unavailable",
            "upstream_auth_failed",
            "upstream_error",
            "upstream_interrupted",
            "upstream_malformed",
            "upstream_unavailable",
            "upstream_unreachable",
        }
    ),
    Category.EXPIRED: frozenset({"cursor_expired", "expired", "repair_expired", "stream_cancelled"}),
    Category.BUG: frozenset({"internal_error", "unknown_kind", "unknown_task"}),
    Category.UNSERIALISABLE: frozenset({"unserialisable"}),
}
_BY_CODE: Final = {code: category for category, codes in _CATEGORIES.items() for code in codes}
# By name, so that nobody has to import a driver to judge its errors. The first that an exception is of counts.
_BY_CLASS: Final[Mapping[str, Category]] = {
    "TimeoutError": Category.TIMEOUT,
    "httpx.TimeoutException": Category.TIMEOUT,
    "redis.exceptions.TimeoutError": Category.TIMEOUT,
    "billiard.exceptions.SoftTimeLimitExceeded": Category.TIMEOUT,
    "httpx.TransportError": Category.DEPENDENCY,
    "redis.exceptions.ConnectionError": Category.DEPENDENCY,
    "kombu.exceptions.OperationalError": Category.DEPENDENCY,
    "psycopg.OperationalError": Category.DEPENDENCY,
    "django.db.utils.OperationalError": Category.DEPENDENCY,
    "obstore.exceptions.BaseError": Category.DEPENDENCY,
    "ConnectionError": Category.DEPENDENCY,
    "OSError": Category.DEPENDENCY,
    "django.core.exceptions.ValidationError": Category.VALIDATION,
    "django.core.exceptions.PermissionDenied": Category.POLICY,
}


def is_known(code: str) -> bool:
    """Whether an error code has a category of its own, which is not told from the status."""
    return code in _BY_CODE


def category_of(code: str, *, status: int = 0) -> Category:
    """Return the category of an error by its code, or, for a code that nobody knows here, by its HTTP status.

    Args:
        status: 0 where there was no answer over HTTP.
    """
    if code in _BY_CODE:
        return _BY_CODE[code]
    if status == 429:
        return Category.RATE_LIMIT
    if status in {408, 504}:
        return Category.TIMEOUT
    if status in {401, 403, 451}:
        return Category.POLICY
    if 400 <= status < 500:
        return Category.VALIDATION
    return Category.DEPENDENCY if status > 500 else Category.BUG


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed. `message` is as it was said, and may hold anybody's words."""

    category: Category
    code: str
    message: str


def failure_of(error: BaseException) -> Failure:
    """Return what an exception comes to: by its `code`, if it has one of those that are known, else by its class.

    The code of one that has none is the name of its class.
    """
    message = shortened(str(error))
    code = getattr(error, "code", None)
    if isinstance(code, str) and is_known(code):
        return Failure(_BY_CODE[code], code, message)
    names = [_name(one) for one in type(error).__mro__]
    category = next((_BY_CLASS[name] for name in names if name in _BY_CLASS), Category.BUG)
    return Failure(category, storable(code if isinstance(code, str) and code else type(error).__name__)[:60], message)


def _name(kind: type) -> str:
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def storable(text: str) -> str:
    """Return a text as PostgreSQL takes it: without NUL and halves of characters, which providers' errors may hold."""
    return text.encode("utf-8", "replace").decode().replace("\x00", "\N{REPLACEMENT CHARACTER}")


def shortened(message: str) -> str:
    """Return so much of a message as an attempt's cause keeps, in one line."""
    return " ".join(storable(message[:_READ_CHARACTERS]).split())[:MESSAGE_CHARACTERS]


# What failed alike.

# A quotation mark opens only where no letter stands before it, else the apostrophe of "can't" would; one that is never
# closed goes to the end.
_BLANKS: Final = re.compile(
    r"""
      (?<!\w)'(?:[^'\\]|\\.|'(?=\w))*(?:'|\\?\Z)
    | "(?:[^"\\]|\\.)*(?:"|\\?\Z)
    | `[^`]*(?:`|\Z)
    | “[^”]*(?:”|\Z)
    | (?<![\w+.-])[a-z][a-z0-9+.-]*://\S+
    | (?<![\w+.-])[\w.+-]+@[\w-]+(?:\.[\w-]+)*
    | \b[0-9a-fA-F]{8,}\b
    | (?<![\w-])[\w-]*\d[\w-]*(?:[.:,]\d[\w-]*)*
    """,
    re.VERBOSE | re.DOTALL,
)
_BLANK: Final = "*"


def summary_of(message: str) -> str:
    """Return a message without what differs from one failure to the next, or may be anybody's words: what is quoted,
    addresses, numbers, ids. So much of it that a line shows.
    """
    return " ".join(_BLANKS.sub(_BLANK, storable(message[:_READ_CHARACTERS])).split())[:SUMMARY_CHARACTERS]


def fingerprint_of(*, kind: str, name: str, category: str, code: str, summary: str) -> str:
    """Return what letters that failed alike have in common: the first 32 hex digits of a SHA-256. The data plane's SQL
    computes the same (`stores/deadletters_sql.py`).
    """
    text = _SEPARATOR.join((kind, name, category, code, summary))
    return hashlib.sha256(text.encode()).hexdigest()[:FINGERPRINT_CHARACTERS]
