"""What follows a failed attempt: the same lane again after a wait, the next lane, or an end. Pure.

Only work that may be repeated unseen is repeated; that rule is `is_repeatable`, and nowhere else. Extra load is bounded
per lane by a budget, so that retries cannot turn a slow provider into a dead one.

Source: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 ("full jitter"); Brooker, "Timeouts,
retries, and backoff with jitter", Amazon Builders' Library, 2019 (budgets as token buckets).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Final

from dataplane.blame import Blame, blame_for
from dataplane.errors import GatewayError
from dataplane.errors.requests import InvalidRequest
from dataplane.errors.upstream import (
    UpstreamContextExceeded,
    UpstreamError,
    UpstreamInterrupted,
    UpstreamRateLimited,
    UpstreamUnavailable,
    UpstreamUnreachable,
)
from dataplane.messages import ChatRequest
from dataplane.policies import MAX_ATTEMPTS, RetryPolicy

# How many retries a lane's budget can save up, and how many it starts with.
MAX_SAVED: Final = 10.0
STARTING_WITH: Final = 1.0


class Next(StrEnum):
    """What to do after an attempt has failed."""

    AGAIN = "again"
    ELSEWHERE = "elsewhere"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Step:
    """What to do, after how long a wait (only before the same lane), and why not more, in words."""

    what: Next
    wait_seconds: float = 0.0
    because: str = ""


@dataclass(frozen=True, slots=True)
class Situation:
    """Where a request stands when an attempt has failed.

    `remaining_seconds` is what its deadline leaves; `lanes_left` counts those that come after this one.
    """

    attempts: int
    attempts_on_lane: int
    lanes_left: int
    remaining_seconds: float
    is_repeatable: bool


class RetryBudget:
    """How much may be repeated on one lane: each first attempt pays in a share of a retry, each retry takes a whole."""

    __slots__ = ("saved",)

    def __init__(self) -> None:
        self.saved = STARTING_WITH

    def pay_in(self, share: float) -> None:
        """Note a first attempt, worth `share` of a retry (0..1)."""
        self.saved = min(MAX_SAVED, self.saved + share)

    def take(self) -> bool:
        """Take one retry out; False when there is none."""
        # A tenth paid in ten times is a little less than one.
        if self.saved < 1.0 - 1e-9:
            return False
        self.saved = max(0.0, self.saved - 1.0)
        return True


def next_step(
    error: GatewayError,
    situation: Situation,
    *,
    policy: RetryPolicy | None,
    budget: RetryBudget,
    floor_share: float,
    rng: Random,
) -> Step:
    """Decide what follows a failed attempt.

    Args:
        policy: The route's; None: every lane once.
        budget: The lane's; one retry is taken out of it when the answer is AGAIN.
        floor_share: This region's place (0..1) in the policy's floor: see `region_share`.
    """
    most = MAX_ATTEMPTS if policy is None else int(policy.max_attempts.value)
    if isinstance(error, UpstreamContextExceeded) and situation.lanes_left and situation.attempts < most:
        # Refused before anything was done, so nothing is repeated. Which lanes have more room is for the caller of
        # this function to say, when it prepares the next call.
        return Step(Next.ELSEWHERE)
    if isinstance(error, InvalidRequest) or blame_for(error) not in (Blame.LANE, Blame.QUOTA):
        return Step(Next.STOP, because="another attempt would meet the same")
    if not situation.is_repeatable and not (isinstance(error, UpstreamError) and not error.sent):
        return Step(Next.STOP, because="it may have had effects, and nobody said that it may be repeated")
    if situation.attempts >= most:
        return Step(Next.STOP, because=f"{situation.attempts} attempts were made")
    least_seconds = 0.0 if policy is None else policy.least_seconds.value
    if policy is not None and may_help_again(error) and situation.attempts_on_lane < policy.attempts_per_lane.value:
        wait = backoff(
            situation.attempts_on_lane, base=policy.base_seconds.value, cap=policy.cap_seconds.value, rng=rng
        )
        wait += floor_share * policy.floor_seconds.value
        asked = error.retry_after_seconds if isinstance(error, UpstreamError) else None
        # A provider that wants a longer wait than our longest is better left alone for this request.
        if asked is None or asked <= policy.cap_seconds.value:
            wait = max(wait, asked or 0.0)
            if wait + least_seconds <= situation.remaining_seconds and budget.take():
                return Step(Next.AGAIN, wait)
    if situation.remaining_seconds < least_seconds:
        return Step(Next.STOP, because=f"{situation.remaining_seconds:.1f} s are too short for another attempt")
    if situation.lanes_left:
        return Step(Next.ELSEWHERE)
    return Step(Next.STOP, because="no lane is left")


def may_help_again(error: GatewayError) -> bool:
    """True when the same lane may do better a moment later. One that was silent, refuses its account or sends nonsense
    will not.
    """
    if isinstance(error, UpstreamRateLimited):
        return error.retry_after_seconds is not None
    return isinstance(error, UpstreamUnreachable | UpstreamUnavailable | UpstreamInterrupted)


def is_repeatable(request: ChatRequest, *, is_keyed: bool) -> bool:
    """True when making the same call twice cannot be told from making it once, but by its price.

    Generating text, and asking the caller to run a tool, has no effect of its own. A tool that the provider runs may
    have: only the caller knows, and says so in `tool_effects` (none or idempotent). A completion that the provider is
    asked to store is repeated only under an idempotency key.
    """
    if request.tool_effects in ("none", "idempotent"):
        return True
    tools = request.parameters.get("tools")
    if tools and any(_runs_at_the_provider(tool) for tool in tools):
        return False
    return is_keyed or not request.parameters.get("store")


def _runs_at_the_provider(tool: object) -> bool:
    return isinstance(tool, Mapping) and tool.get("type") not in ("function", "custom")


def backoff(attempt: int, *, base: float, cap: float, rng: Random) -> float:
    """Return the wait before the next attempt, in seconds: uniform over [0, min(cap, base * 2**(attempt - 1))].

    Args:
        attempt: Attempts already made, counting the first; >= 1.
        base, cap: Seconds; 0 < base <= cap.
    Raises:
        ValueError: attempt < 1, or base and cap out of order.
    Source: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 ("full jitter").
    """
    if attempt < 1 or not 0 < base <= cap:
        raise ValueError(f"attempt {attempt}, base {base} and cap {cap} are out of order")
    return rng.uniform(0.0, min(cap, base * 2.0 ** min(attempt - 1, 64)))


def region_share(region: str) -> float:
    """This region's place in every floor, in [0, 1): the same for all its workers, so that regions which lost a
    provider at the same moment do not come back to it at the same moment.
    """
    return Random(region).random()  # noqa: S311 - spreads load, guards nothing
