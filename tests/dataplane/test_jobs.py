"""What follows an attempt at a job, what is told to those who wait, and which moves there are."""

from __future__ import annotations

import random

import pytest

from dataplane.errors.jobs import JobNotFound
from dataplane.job_metrics import job_families
from dataplane.jobs import (
    CAP_SECONDS,
    MAX_FAILURES,
    MIN_WAIT_SECONDS,
    OVER,
    TRANSITIONS,
    UNREACHED,
    Answer,
    Event,
    Figures,
    State,
    judge,
    look_again_seconds,
    read_id,
)


def verdict(status, code="x", *, retry=None, after=None, attempts=1, failures=0, left=100.0):
    headers = {"x-should-retry": retry, "retry-after": after}
    answer = Answer(
        status, {k: v for k, v in headers.items() if v is not None}, b'{"error": {"code": "%b"}}' % code.encode()
    )
    return judge(answer, attempts=attempts, failures=failures, left_seconds=left, rng=random.Random(1))


@pytest.mark.parametrize(
    ("status", "code", "retry", "event", "failures"),
    [
        (200, "", None, Event.COMPLETED, 0),
        (400, "invalid_request", "false", Event.FAILED, 1),
        (401, "unauthorized", "false", Event.FAILED, 1),
        (401, "job_token_refused", "false", Event.PUT_BACK, 0),
        (409, "idempotency_in_progress", "false", Event.PUT_BACK, 0),
        (409, "idempotency_indeterminate", "false", Event.FAILED, 1),
        (422, "idempotency_mismatch", "false", Event.FAILED, 1),
        (429, "quota_exhausted", None, Event.PUT_BACK, 0),
        (429, "upstream_rate_limited", None, Event.PUT_BACK, 0),
        (500, "internal_error", None, Event.PUT_BACK, 1),
        (502, "upstream_auth_failed", "false", Event.FAILED, 1),
        (502, "upstream_malformed", None, Event.PUT_BACK, 1),
        (503, "circuit_open", None, Event.PUT_BACK, 0),
        (503, "no_release", None, Event.PUT_BACK, 0),
        (504, "deadline_exceeded", "false", Event.FAILED, 1),
        (504, "upstream_timeout", None, Event.PUT_BACK, 1),
    ],
)
def test_what_passes_is_put_back_and_what_may_have_cost_something_counts(status, code, retry, event, failures):
    """What the gateway says of trying again is obeyed, but where the attempt before goes on, or a key file is wrong."""
    got = verdict(status, code, retry=retry)

    assert (got.event, got.failures) == (event, failures)


def test_a_job_does_not_fail_for_ever():
    """What may be paid for is tried so often, what costs nothing as long as there is time; then it has expired."""
    assert verdict(502, failures=MAX_FAILURES - 2).event is Event.PUT_BACK
    assert verdict(502, failures=MAX_FAILURES - 1).event is Event.FAILED
    assert verdict(429, "quota_exhausted", attempts=500, failures=MAX_FAILURES - 1).event is Event.PUT_BACK
    for status in (400, 429, 502):
        assert verdict(status, left=0.0).event is Event.EXPIRED
    assert verdict(200, left=-1.0).event is Event.COMPLETED
    unreached = judge(UNREACHED, attempts=3, failures=2, left_seconds=9.0, rng=random.Random(1))
    assert (unreached.event, unreached.failures) == (Event.PUT_BACK, 2)


def test_wait_is_the_one_that_was_told_or_grows_by_itself():
    """Never none, never beyond its cap; what is no number of seconds counts as untold."""
    assert verdict(429, after="7").wait_seconds == 7
    assert verdict(429, after="0").wait_seconds == MIN_WAIT_SECONDS
    waits = [verdict(503, after=after, attempts=n).wait_seconds for n in (1, 5, 99) for after in (None, "soon", "-1")]
    assert all(MIN_WAIT_SECONDS <= wait <= MIN_WAIT_SECONDS + CAP_SECONDS for wait in waits)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error": "no"}', b'{"usage": 3}'])
def test_answer_that_is_none_of_ours_is_told_as_what_it_is(body):
    """A proxy's page, say: it is transient by its status, and there is an envelope all the same."""
    answer = Answer(502, {}, body)

    assert (answer.error()["code"], answer.usage()) == ("internal_error", None)
    assert judge(answer, attempts=1, failures=0, left_seconds=9.0, rng=random.Random(1)).event is Event.PUT_BACK


def test_what_is_over_stays_so_and_everything_else_can_end():
    """The table of moves: no way out of an end, and a way to each from where there is something to end."""
    assert {before for before, _ in TRANSITIONS}.isdisjoint(OVER)
    assert {after for (before, _), after in TRANSITIONS.items() if before is State.RUNNING} == OVER | {State.QUEUED}
    assert {after for (before, _), after in TRANSITIONS.items() if before is State.QUEUED} == {
        State.RUNNING,
        State.CANCELLED,
        State.EXPIRED,
    }


def test_eta_is_the_rate_of_the_last_minutes_and_unknown_before():
    """Ten that ended in a minute: the thirtieth takes three; cancelled ones say nothing."""
    figures = Figures(40, 2, {"completed": 8, "failed": 2, "cancelled": 90}, span_seconds=60.0)

    assert figures.eta_seconds(30) == 180.0
    assert Figures(40, 2, {"completed": 2, "cancelled": 90}, span_seconds=60.0).eta_seconds(30) is None
    assert [look_again_seconds(eta) for eta in (None, 0.2, 7.1, 1e6)] == [5, 1, 8, 60]
    lines = {
        (sample.name, *sample.labels.values()): sample.value
        for family in job_families(figures)
        for sample in family.samples
    }
    assert lines == {
        ("ballast_jobs_queued",): 40,
        ("ballast_jobs_running",): 2,
        ("ballast_jobs_ended_lately", "cancelled"): 90,
        ("ballast_jobs_ended_lately", "completed"): 8,
        ("ballast_jobs_ended_lately", "expired"): 0,
        ("ballast_jobs_ended_lately", "failed"): 2,
    }


@pytest.mark.parametrize("name", ["", "job_", "job_1", "job_" + "g" * 32, "f" * 32, "job_" + "0" * 31 + "-"])
def test_what_is_no_id_is_no_job(name):
    with pytest.raises(JobNotFound):
        read_id(name)
