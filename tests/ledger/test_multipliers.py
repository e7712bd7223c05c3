"""How much more was tried and paid than one good attempt for each request."""

import pytest

from controlplane.ledger.multipliers import Repetition


def test_nothing_repeated_and_nothing_wasted_is_one():
    """Ten requests, ten attempts, all answered."""
    calm = Repetition(attempts=10, requests=10, cost_micros=3000)

    assert (calm.attempts_per_request, calm.attempts_per_arrival, calm.cost_multiplier, calm.extra) == (1, 1, 1, 0)


def test_first_attempt_that_failed_at_no_cost_makes_requests_slower_and_not_dearer():
    """Its fallback is one more attempt, and the only one on the bill."""
    caught = Repetition(attempts=2, requests=1, failed=1, cost_micros=300)

    assert (caught.attempts_per_request, caught.cost_multiplier, caught.caught) == (2, 1, 1)


def test_what_was_paid_for_failures_is_the_surcharge():
    """A first attempt that was billed and never answered doubles the price of the answer."""
    billed = Repetition(attempts=2, requests=1, retries=1, failed=1, cost_micros=600, failed_cost_micros=300)

    assert (billed.cost_multiplier, billed.caught) == (2, 0)


def test_lane_that_only_catches_is_held_against_its_arrivals():
    """No request begins there, and nothing is tried twice."""
    spare = Repetition(attempts=4, requests=0, cost_micros=1200)

    assert (spare.attempts_per_request, spare.attempts_per_arrival, spare.caught) == (None, 1, 4)


def test_no_answer_and_no_attempt_have_no_multiplier():
    """Nothing divides by zero, and nothing claims to be one."""
    lost = Repetition(attempts=1, requests=1, failed=1, cost_micros=300, failed_cost_micros=300)

    assert lost.cost_multiplier is None
    assert (Repetition().attempts_per_request, Repetition().attempts_per_arrival) == (None, None)
    assert lost + lost == Repetition(attempts=2, requests=2, failed=2, cost_micros=600, failed_cost_micros=600)
    assert (lost + Repetition(1, 1, cost_micros=300)).cost_multiplier == pytest.approx(2)
