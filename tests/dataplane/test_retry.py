"""What follows a failed attempt: how long to wait, where to go, and when to stop."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.documents import MalformedRelease, Node
from dataplane.errors.admission import DeadlineExceeded
from dataplane.errors.requests import InvalidRequest
from dataplane.errors.upstream import (
    UpstreamAuthFailed,
    UpstreamInterrupted,
    UpstreamMalformed,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnavailable,
    UpstreamUnreachable,
)
from dataplane.messages import ChatRequest
from dataplane.policies import RetryPolicy
from dataplane.retry import (
    Next,
    RetryBudget,
    Situation,
    backoff,
    is_repeatable,
    may_help_again,
    next_step,
    region_share,
)

from .conftest import retry_policy

LANE = "openai/eu/main/gpt-4o"
UNREACHABLE = UpstreamUnreachable("no", lane=LANE)
BUSY = UpstreamUnavailable("busy", lane=LANE, status=503)


def make_policy(**changes) -> RetryPolicy:
    return RetryPolicy.parse("patient", Node(retry_policy(**changes), "$"))


def decide(error, *, policy=None, budget=None, floor_share=0.0, seed=1, **changes):
    facts = {"attempts": 1, "attempts_on_lane": 1, "lanes_left": 1, "remaining_seconds": 30.0, "is_repeatable": True}
    return next_step(
        error,
        Situation(**facts | changes),
        policy=policy,
        budget=budget or RetryBudget(),
        floor_share=floor_share,
        rng=Random(seed),
    )


@pytest.mark.parametrize(
    ("error", "helps"),
    [
        (UNREACHABLE, True),
        (BUSY, True),
        (UpstreamInterrupted("cut", lane=LANE), True),
        (UpstreamRateLimited(lane=LANE, retry_after_seconds=1), True),
        (UpstreamRateLimited(lane=LANE), False),
        (UpstreamTimeout(lane=LANE, phase="first_token", waited_seconds=6), False),
        (UpstreamAuthFailed(lane=LANE, status=401), False),
        (UpstreamMalformed("not JSON", lane=LANE), False),
    ],
)
def test_same_lane_is_tried_again_only_where_a_moment_may_help(error, helps):
    """A lane that was silent, or refuses its account, is left for the next one at once."""
    assert may_help_again(error) == helps
    assert decide(error, policy=make_policy()).what is (Next.AGAIN if helps else Next.ELSEWHERE)


@pytest.mark.parametrize(
    "error",
    [
        UpstreamRejected("bad", lane=LANE, status=400),
        InvalidRequest("bad"),
        DeadlineExceeded(deadline_ms=1, stage="x"),
    ],
)
def test_what_no_lane_can_help_ends_at_once(error):
    """Neither again nor elsewhere."""
    assert decide(error, policy=make_policy()).what is Next.STOP


def test_without_a_policy_every_lane_is_tried_once():
    """And the last one is the last."""
    assert decide(BUSY).what is Next.ELSEWHERE
    assert decide(BUSY, lanes_left=0).what is Next.STOP
    assert decide(BUSY, attempts=6, lanes_left=3).what is Next.STOP


def test_attempts_of_a_request_and_of_a_lane_are_capped():
    """After its share on one lane comes the next, after the whole the end."""
    policy = make_policy(max_attempts=4, attempts_per_lane=2)

    assert decide(BUSY, policy=policy, attempts_on_lane=1).what is Next.AGAIN
    assert decide(BUSY, policy=policy, attempts=2, attempts_on_lane=2).what is Next.ELSEWHERE
    assert decide(BUSY, policy=policy, attempts=4, attempts_on_lane=1).what is Next.STOP


def test_attempt_that_cannot_fit_into_the_rest_is_not_begun():
    """One deadline over everything: what is left must hold the wait and the shortest sensible attempt."""
    policy = make_policy(base_seconds=4, cap_seconds=4, least_seconds=2)

    waits = [decide(BUSY, policy=policy, remaining_seconds=4.0, seed=seed) for seed in range(40)]

    assert {step.what for step in waits} == {Next.AGAIN, Next.ELSEWHERE}
    assert all(step.wait_seconds + 2 <= 4.0 for step in waits if step.what is Next.AGAIN)
    assert decide(BUSY, policy=policy, remaining_seconds=1.9).what is Next.STOP


def test_providers_own_wait_is_kept_to_up_to_the_cap():
    """At least as long as it asks; if that is longer than our longest, another lane is asked instead."""
    policy = make_policy(base_seconds=0.1, cap_seconds=2)

    step = decide(UpstreamUnavailable("x", lane=LANE, status=503, retry_after_seconds=1.5), policy=policy)

    assert (step.what, step.wait_seconds) == (Next.AGAIN, 1.5)
    long = UpstreamRateLimited(lane=LANE, retry_after_seconds=3)
    assert decide(long, policy=policy).what is Next.ELSEWHERE


def test_regions_wait_from_different_floors():
    """Every region has its own share of the floor, the same in all its workers."""
    policy = make_policy(base_seconds=0.001, cap_seconds=0.001, floor_seconds=0.5)
    shares = {region: region_share(region) for region in ("eu-west", "us-east", "ap-south")}

    waits = {region: decide(BUSY, policy=policy, floor_share=share).wait_seconds for region, share in shares.items()}

    assert shares["eu-west"] == region_share("eu-west")
    assert len({round(wait, 2) for wait in waits.values()}) == 3
    assert all(0 <= wait < 0.502 for wait in waits.values())


def test_budget_bounds_retries_to_its_share_of_first_attempts():
    """Of 1,000 failing first attempts at 10 %, 100 are repeated, and the one that the budget began with."""
    policy, budget = make_policy(budget_share=0.1), RetryBudget()
    retried = 0
    for _ in range(1000):
        budget.pay_in(0.1)
        retried += decide(BUSY, policy=policy, budget=budget).what is Next.AGAIN

    assert retried == 101


def test_quiet_time_saves_no_more_than_ten_retries():
    """A long calm does not pay for a storm."""
    budget = RetryBudget()
    for _ in range(10_000):
        budget.pay_in(0.1)

    assert [budget.take() for _ in range(11)] == [True] * 10 + [False]


@pytest.mark.parametrize(
    ("parameters", "effects", "keyed", "repeatable"),
    [
        ({}, None, False, True),
        ({"tools": [{"type": "function", "function": {"name": "pay"}}]}, None, False, True),
        ({"tools": [{"type": "web_search"}]}, None, False, False),
        ({"tools": [{"type": "web_search"}]}, None, True, False),
        ({"tools": [{"type": "web_search"}]}, "idempotent", False, True),
        ({"tools": [{"type": "mcp"}]}, "none", False, True),
        ({"tools": [{"type": "mcp"}]}, "once", True, False),
        ({"store": True}, None, False, False),
        ({"store": True}, None, True, True),
    ],
)
def test_only_work_that_may_be_repeated_unseen_is_repeated(parameters, effects, keyed, repeatable):
    """Side effects at the provider need the caller's word; storing needs a key; everything else only costs twice."""
    request = ChatRequest(route="chat", messages=[], parameters=parameters, tool_effects=effects)

    assert is_repeatable(request, is_keyed=keyed) == repeatable


def test_unrepeatable_work_is_still_tried_elsewhere_when_nothing_was_sent():
    """A connection that was refused had no effect; one that broke may have."""
    assert decide(UNREACHABLE, is_repeatable=False).what is Next.ELSEWHERE
    assert decide(BUSY, is_repeatable=False).what is Next.STOP


@given(attempt=st.integers(1, 10_000), base=st.floats(0.001, 10), times=st.floats(1, 1000), seed=st.integers())
def test_backoff_stays_between_nothing_and_its_cap(attempt, base, times, seed):
    """Full jitter: anywhere from 0 to the doubled base, never over the cap, never an overflow."""
    wait = backoff(attempt, base=base, cap=base * times, rng=Random(seed))

    assert 0 <= wait <= min(base * times, base * 2 ** min(attempt - 1, 64))


@pytest.mark.parametrize(("attempt", "base", "cap"), [(0, 1, 1), (1, 0, 1), (1, 2, 1)])
def test_backoff_refuses_what_makes_no_sense(attempt, base, cap):
    """Before the first attempt there is nothing to wait for."""
    with pytest.raises(ValueError, match="out of order"):
        backoff(attempt, base=base, cap=cap, rng=Random(1))


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"budget_share": 0.2}, r"budget_share\.value: 0\.2 is not above 0 and at most 0\.1"),
        ({"max_attempts": 7}, r"max_attempts\.value: 7 is outside 1\.\.6"),
        ({"cap_seconds": 0.01}, r"cap_seconds: less than base_seconds, 0\.2"),
    ],
)
def test_policy_that_would_do_harm_is_refused(changes, fact):
    """More than 10 % extra load, more than six attempts, a cap below its base."""
    with pytest.raises(MalformedRelease, match=fact):
        make_policy(**changes)
