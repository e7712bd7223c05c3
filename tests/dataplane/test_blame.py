"""Whose fault an attempt's end was, for everything that can end one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from dataplane import errors
from dataplane.blame import Blame, blame_for, timed_out
from tests.dataplane.conftest import ERRORS

AT_FAULT: dict[type[BaseException], Blame] = {
    errors.GatewayError: Blame.GATEWAY,
    errors.InvalidRequest: Blame.CALLER,
    errors.Unauthorized: Blame.CALLER,
    errors.UnknownRoute: Blame.CALLER,
    errors.UnknownPrompt: Blame.CALLER,
    errors.UnknownPromptVersion: Blame.CALLER,
    errors.InvalidVariables: Blame.CALLER,
    errors.ContextLengthExceeded: Blame.CALLER,
    errors.NoRelease: Blame.GATEWAY,
    errors.NoEligibleLane: Blame.GATEWAY,
    errors.UnsupportedRequest: Blame.CALLER,
    errors.BreakerOpen: Blame.GATEWAY,
    errors.NoLaneLeft: Blame.GATEWAY,
    errors.Draining: Blame.GATEWAY,
    errors.DeadlineExceeded: Blame.GATEWAY,
    errors.QuotaExhausted: Blame.GATEWAY,
    errors.StreamNotFound: Blame.GATEWAY,
    errors.InvalidCursor: Blame.CALLER,
    errors.CursorExpired: Blame.GATEWAY,
    errors.StreamCancelled: Blame.GATEWAY,
    errors.OwnerLost: Blame.GATEWAY,
    errors.StreamTooLong: Blame.GATEWAY,
    errors.AnswerDiverged: Blame.GATEWAY,
    errors.StreamNotContinuable: Blame.GATEWAY,
    errors.StreamLogUnavailable: Blame.GATEWAY,
    errors.IdempotencyMismatch: Blame.CALLER,
    errors.IdempotencyInProgress: Blame.GATEWAY,
    errors.IdempotencyIndeterminate: Blame.GATEWAY,
    errors.IdempotencyOutcomeNotKept: Blame.GATEWAY,
    errors.IdempotencyUnavailable: Blame.GATEWAY,
    errors.JobNotFound: Blame.GATEWAY,
    errors.JobErased: Blame.GATEWAY,
    errors.JobQueueFull: Blame.GATEWAY,
    errors.JobsUnavailable: Blame.GATEWAY,
    errors.JobTokenRefused: Blame.GATEWAY,
    errors.RepairFailed: Blame.GATEWAY,
    errors.RepairNotFound: Blame.GATEWAY,
    errors.RepairsUnavailable: Blame.GATEWAY,
    errors.ValidationFailed: Blame.GATEWAY,
    errors.UpstreamError: Blame.LANE,
    errors.UpstreamUnreachable: Blame.LANE,
    errors.UpstreamTimeout: Blame.LANE,
    errors.UpstreamRejected: Blame.CALLER,
    errors.UpstreamContextExceeded: Blame.CALLER,
    errors.UpstreamFiltered: Blame.CALLER,
    errors.UpstreamAuthFailed: Blame.LANE,
    errors.UpstreamRateLimited: Blame.QUOTA,
    errors.UpstreamUnavailable: Blame.LANE,
    errors.UpstreamInterrupted: Blame.LANE,
    errors.UpstreamMalformed: Blame.LANE,
}


def classes(root: type[errors.GatewayError]) -> Iterator[type[errors.GatewayError]]:
    """Every class of errors.py from `root` down; other modules have errors of their own."""
    if root.__module__ == errors.__name__:
        yield root
    for child in root.__subclasses__():
        yield from classes(child)


def test_every_error_has_somebody_at_fault() -> None:
    """A class that is added without a row here fails, as does one whose row is wrong."""
    assert set(classes(errors.GatewayError)) == AT_FAULT.keys() == {type(error) for error in ERRORS}
    assert {type(error): blame_for(error) for error in ERRORS} == AT_FAULT


@pytest.mark.parametrize(
    ("error", "blame"),
    [
        (None, Blame.NOBODY),
        (asyncio.CancelledError(), Blame.CALLER),
        (GeneratorExit(), Blame.CALLER),
        (RuntimeError("a bug of ours"), Blame.GATEWAY),
        (TimeoutError(), Blame.GATEWAY),
        (ConnectionResetError("the caller's socket"), Blame.GATEWAY),
    ],
)
def test_end_that_is_no_gateway_error_never_counts_against_the_lane(error: BaseException | None, blame: Blame) -> None:
    """A caller who left, our own stop and our own bugs say nothing about a lane."""
    assert blame_for(error) is blame


def test_only_a_limit_of_lane_or_route_is_a_time_out_of_the_lane() -> None:
    """The deadline of the whole request is not, nor is whatever else raises TimeoutError."""
    assert [type(error) for error in ERRORS if timed_out(error)] == [errors.UpstreamTimeout]
    assert not timed_out(TimeoutError())
    assert not timed_out(None)
