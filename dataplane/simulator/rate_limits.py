"""Rate-limit headers in every dialect a client has to understand."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from email.utils import formatdate
from functools import lru_cache

from dataplane.simulator.conversation import Wire
from dataplane.simulator.faults import Fault
from dataplane.simulator.limits import NEVER, Standing
from dataplane.simulator.wire import Header

REQUEST_LIMIT = 10_000
TOKEN_LIMIT = 2_000_000

_PREFIXES = (b"x-ratelimit-", b"anthropic-ratelimit-")
_VENDOR_DIALECTS = {Wire.OPENAI: "openai+milliseconds", Wire.AZURE: "azure", Wire.ANTHROPIC: "anthropic+seconds"}


def go_duration(seconds: float) -> str:
    """Return `seconds` as Go prints a duration, as in OpenAI's resets: "12ms", "1.5s", "6m0s", "1h0m0s"."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms" if seconds > 0 else "0s"
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    text = f"{round(rest, 3):g}s"
    if hours:
        return f"{int(hours)}h{int(minutes)}m{text}"
    return f"{int(minutes)}m{text}" if minutes else text


def rfc3339(epoch_seconds: float) -> str:
    """Return a UTC time to the second, as in Anthropic's resets: "2026-03-14T09:30:00Z"."""
    return datetime.fromtimestamp(math.ceil(epoch_seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def limited_headers(wire: Wire, fault: Fault, *, now: float) -> tuple[Header, ...]:
    """Return the headers of a 429 that tell its wait in the fault's dialect; `vendor` is what that vendor itself
    sends.
    """
    dialect = fault.word("dialect")
    wait = fault.number("retry_after_seconds")
    scope = "tokens" if fault.word("scope") == "tokens" else "requests"
    parts = (_VENDOR_DIALECTS[wire] if dialect == "vendor" else dialect).split("+")
    return tuple(header for part in parts for header in _in_dialect(part, wait, scope, now))


def _in_dialect(dialect: str, wait: float, scope: str, now: float) -> tuple[Header, ...]:
    match dialect:
        case "seconds":
            return ((b"retry-after", str(math.ceil(wait)).encode()),)
        case "milliseconds":
            return ((b"retry-after-ms", str(round(wait * 1000)).encode()),)
        case "http_date":
            return ((b"retry-after", formatdate(math.ceil(now + wait), usegmt=True).encode()),)
        case "azure":
            return (
                (b"retry-after", str(math.ceil(wait)).encode()),
                (b"retry-after-ms", str(round(wait * 1000)).encode()),
                (f"x-ratelimit-reset-{scope}".encode(), str(math.ceil(wait)).encode()),
                (f"x-ratelimit-remaining-{scope}".encode(), b"0"),
            )
        case "openai":
            return _openai(
                requests=_state(REQUEST_LIMIT, scope == "requests"),
                tokens=_state(TOKEN_LIMIT, scope == "tokens"),
                wait=wait,
            )
        case "anthropic":
            return _anthropic(
                requests=_state(REQUEST_LIMIT, scope == "requests"),
                tokens=_state(TOKEN_LIMIT, scope == "tokens"),
                reset=rfc3339(now + wait),
            )
        case _:
            return ()


def _state(limit: int, spent: bool) -> int:
    return 0 if spent else limit - 1


def standing_headers(wire: Wire, *, prompt_tokens: int, now: float) -> tuple[Header, ...]:
    """Return the headers of a successful answer: nearly the whole allowance is left, as for a single quiet caller."""
    tokens = max(0, TOKEN_LIMIT - prompt_tokens)
    if wire is Wire.ANTHROPIC:
        return _anthropic(requests=REQUEST_LIMIT - 1, tokens=tokens // 1000 * 1000, reset=_whole_second(int(now)))
    if wire is Wire.AZURE:
        return _azure_standing(tokens)
    return _openai(requests=REQUEST_LIMIT - 1, tokens=tokens, wait=0.006)


def true_headers(headers: Iterable[Header], told: Sequence[Header]) -> tuple[Header, ...]:
    """Return `headers` with those that only look like a rate limit's replaced by `told`."""
    return (*(header for header in headers if not header[0].startswith(_PREFIXES)), *told)


def told_headers(wire: Wire, standings: Iterable[Standing], *, now: float) -> tuple[Header, ...]:
    """Return how an account stands, as its vendor tells it.

    What is not limited, or what the vendor has no word for, is left out. Anthropic rounds tokens to thousands, which is
    not done here, so that small limits can be read.
    """
    headers: list[Header] = []
    for standing in standings:
        name = standing.dimension.replace("_", "-")
        if wire is Wire.ANTHROPIC:
            pattern, reset = f"anthropic-ratelimit-{name}-%s", rfc3339(now + standing.reset_seconds)
        elif name in ("requests", "tokens"):
            pattern, reset = f"x-ratelimit-%s-{name}", go_duration(_whole_ms(standing.reset_seconds) / 1000)
        else:
            continue
        for what, value in (("limit", standing.limit), ("remaining", standing.left), ("reset", reset)):
            headers.append(((pattern % what).encode(), str(value).encode()))
    return tuple(headers)


def wait_headers(wire: Wire, seconds: float) -> tuple[Header, ...]:
    """Return how long to wait, as this vendor says it with a 429, never too short; nothing where no waiting helps."""
    if seconds == NEVER:
        return ()
    whole = (b"retry-after", str(math.ceil(seconds)).encode())
    return (whole,) if wire is Wire.ANTHROPIC else (whole, (b"retry-after-ms", str(_whole_ms(seconds)).encode()))


def _whole_ms(seconds: float) -> int:
    return math.ceil(seconds * 1000)


@lru_cache(maxsize=8)
def _whole_second(epoch_seconds: int) -> str:
    return rfc3339(epoch_seconds)


@lru_cache(maxsize=1024)
def _azure_standing(tokens: int) -> tuple[Header, ...]:
    return (
        (b"x-ratelimit-limit-requests", str(REQUEST_LIMIT).encode()),
        (b"x-ratelimit-limit-tokens", str(TOKEN_LIMIT).encode()),
        (b"x-ratelimit-remaining-requests", str(REQUEST_LIMIT - 1).encode()),
        (b"x-ratelimit-remaining-tokens", str(tokens).encode()),
    )


@lru_cache(maxsize=1024)
def _openai(*, requests: int, tokens: int, wait: float) -> tuple[Header, ...]:
    def reset(remaining: int) -> bytes:
        return go_duration(wait if remaining == 0 or wait < 1 else 0.006).encode()

    return (
        (b"x-ratelimit-limit-requests", str(REQUEST_LIMIT).encode()),
        (b"x-ratelimit-limit-tokens", str(TOKEN_LIMIT).encode()),
        (b"x-ratelimit-remaining-requests", str(requests).encode()),
        (b"x-ratelimit-remaining-tokens", str(tokens).encode()),
        (b"x-ratelimit-reset-requests", reset(requests)),
        (b"x-ratelimit-reset-tokens", reset(tokens)),
    )


@lru_cache(maxsize=1024)
def _anthropic(*, requests: int, tokens: int, reset: str) -> tuple[Header, ...]:
    headers: list[Header] = []
    for name, limit, remaining in (
        ("requests", REQUEST_LIMIT, requests),
        ("tokens", TOKEN_LIMIT, tokens),
        ("input-tokens", TOKEN_LIMIT, tokens),
        ("output-tokens", TOKEN_LIMIT, tokens),
    ):
        prefix = f"anthropic-ratelimit-{name}"
        headers += [
            (f"{prefix}-limit".encode(), str(limit).encode()),
            (f"{prefix}-remaining".encode(), str(remaining).encode()),
            (f"{prefix}-reset".encode(), reset.encode()),
        ]
    return tuple(headers)
