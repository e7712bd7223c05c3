"""A question that is embedded so that passages are found: an attempt beside those at the answer."""

from __future__ import annotations

from typing import Any

from dataplane.journey import RETRIEVAL, Inbound, Journey
from dataplane.routing import RoutingTable
from tests.dataplane.conftest import ROUTING


def lanes() -> Any:
    return tuple(RoutingTable.parse(ROUTING).lanes.values())


def test_attempt_after_a_retrieval_is_the_first_at_the_answer() -> None:
    """No fallback of it, caused by nothing, and a policy's attempts are all left for it."""
    first, second = lanes()
    journey = Journey(Inbound("req_1", b"", 0.0))
    journey.aside = RETRIEVAL
    question = journey.begin_attempt(first, now=1.0)
    question.outcome = "ok"
    journey.aside = ""
    tries = journey.tries

    attempt = journey.begin_attempt(second, now=2.0)
    attempt.outcome = "upstream_unavailable"
    retry = journey.begin_attempt(second, now=3.0)

    assert (question.kind, attempt.kind, retry.kind) == (RETRIEVAL, "primary", "retry")
    assert (attempt.cause, retry.cause) == ("", "upstream_unavailable")
    assert (tries, journey.tries) == (0, 2)
    assert [one.number for one in journey.attempts] == [1, 2, 3]
    assert journey.answering is retry


def test_retrieval_alone_has_no_lane_that_answered() -> None:
    """Its attempts count for themselves; those that failed are the cause of the next."""
    first, second = lanes()
    journey = Journey(Inbound("req_1", b"", 0.0))
    journey.aside = RETRIEVAL

    journey.begin_attempt(first, now=1.0).outcome = "upstream_timeout"
    again = journey.begin_attempt(second, now=2.0)

    assert (again.kind, again.cause) == (RETRIEVAL, "upstream_timeout")
    assert (journey.tries, journey.lane) == (2, None)
