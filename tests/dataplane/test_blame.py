"""Whose fault an attempt's end was, for everything that can end one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from dataplane import errors
from dataplane.blame import Blame, blame_for, timed_out
from dataplane.errors import admission, answers, idempotency, jobs, requests, streams, upstream
from tests.dataplane.conftest import ERRORS

AT_FAULT: dict[type[BaseException], Blame] = {
    errors.GatewayError: Blame.GATEWAY,
    requests.InvalidRequest: Blame.CALLER,
    requests.Unauthorized: Blame.CALLER,
    requests.TooManyBadKeys: Blame.CALLER,
    requests.UnknownRoute: Blame.CALLER,
    requests.UnknownPrompt: Blame.CALLER,
    requests.UnknownPromptVersion: Blame.CALLER,
    requests.InvalidVariables: Blame.CALLER,
    requests.ContextLengthExceeded: Blame.CALLER,
    admission.NoRelease: Blame.GATEWAY,
    admission.NoEligibleLane: Blame.GATEWAY,
    requests.UnsupportedRequest: Blame.CALLER,
    admission.BreakerOpen: Blame.GATEWAY,
    admission.NoLaneLeft: Blame.GATEWAY,
    admission.Draining: Blame.GATEWAY,
    admission.DeadlineExceeded: Blame.GATEWAY,
    admission.QuotaExhausted: Blame.GATEWAY,
    streams.StreamNotFound: Blame.GATEWAY,
    streams.InvalidCursor: Blame.CALLER,
    streams.CursorExpired: Blame.GATEWAY,
    streams.StreamCancelled: Blame.GATEWAY,
    streams.OwnerLost: Blame.GATEWAY,
    streams.StreamTooLong: Blame.GATEWAY,
    streams.AnswerDiverged: Blame.GATEWAY,
    streams.StreamNotContinuable: Blame.GATEWAY,
    streams.StreamLogUnavailable: Blame.GATEWAY,
    idempotency.IdempotencyMismatch: Blame.CALLER,
    idempotency.IdempotencyInProgress: Blame.GATEWAY,
    idempotency.IdempotencyIndeterminate: Blame.GATEWAY,
    idempotency.IdempotencyOutcomeNotKept: Blame.GATEWAY,
    idempotency.IdempotencyUnavailable: Blame.GATEWAY,
    jobs.JobNotFound: Blame.GATEWAY,
    jobs.JobErased: Blame.GATEWAY,
    jobs.JobQueueFull: Blame.GATEWAY,
    jobs.JobsUnavailable: Blame.GATEWAY,
    jobs.JobTokenRefused: Blame.GATEWAY,
    answers.RepairFailed: Blame.GATEWAY,
    answers.RepairNotFound: Blame.GATEWAY,
    answers.RepairsUnavailable: Blame.GATEWAY,
    answers.ValidationFailed: Blame.GATEWAY,
    upstream.UpstreamError: Blame.LANE,
    upstream.UpstreamUnreachable: Blame.LANE,
    upstream.UpstreamTimeout: Blame.LANE,
    upstream.UpstreamRejected: Blame.CALLER,
    upstream.UpstreamContextExceeded: Blame.CALLER,
    upstream.UpstreamFiltered: Blame.CALLER,
    upstream.UpstreamAuthFailed: Blame.LANE,
    upstream.UpstreamRateLimited: Blame.QUOTA,
    upstream.UpstreamUnavailable: Blame.LANE,
    upstream.UpstreamInterrupted: Blame.LANE,
    upstream.UpstreamMalformed: Blame.LANE,
}


def classes(root: type[errors.GatewayError]) -> Iterator[type[errors.GatewayError]]:
    """Every class of the package from `root` down; other modules have errors of their own."""
    if root.__module__.startswith(errors.__name__):
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
    assert [type(error) for error in ERRORS if timed_out(error)] == [upstream.UpstreamTimeout]
    assert not timed_out(TimeoutError())
    assert not timed_out(None)
