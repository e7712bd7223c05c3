"""Whose fault an attempt's end was: the one rule that breakers, telemetry and retries judge by.

Pure. What the caller did wrong, a caller who left, and what this gateway decided by itself never count against a lane;
a rate limit is the business of quotas, not of breakers.
"""

from __future__ import annotations

from enum import StrEnum

from dataplane.errors import GatewayError
from dataplane.errors.requests import InvalidRequest, TooManyBadKeys, Unauthorized
from dataplane.errors.upstream import UpstreamError, UpstreamRateLimited, UpstreamRejected, UpstreamTimeout


class Blame(StrEnum):
    """Who is answerable for how an attempt ended."""

    NOBODY = "nobody"  # it went well
    LANE = "lane"
    QUOTA = "quota"
    CALLER = "caller"
    GATEWAY = "gateway"


def blame_for(error: BaseException | None) -> Blame:
    """Return who is answerable for the end of an attempt.

    Args:
        error: What ended it; None when it went well. A cancellation is the caller's (or our own stop): neither says
            anything about the lane. A deadline that passed is the gateway's own rule: a lane that is really too slow
            meets the limits of its route first, and those raise UpstreamTimeout.
    """
    if error is None:
        return Blame.NOBODY
    if isinstance(error, UpstreamRateLimited):
        return Blame.QUOTA
    if isinstance(error, UpstreamRejected | InvalidRequest | Unauthorized | TooManyBadKeys):
        return Blame.CALLER
    if isinstance(error, UpstreamError):
        return Blame.LANE
    if isinstance(error, GatewayError):
        return Blame.GATEWAY
    return Blame.CALLER if not isinstance(error, Exception) else Blame.GATEWAY


def timed_out(error: BaseException | None) -> bool:
    """True when the lane kept the attempt waiting until a limit of its lane or route passed."""
    return isinstance(error, UpstreamTimeout)
