"""Which rung comes next: in order, within what may be spent, and never twice for the same error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.documents import MalformedRelease, Node
from dataplane.repair.labels import Mode, Rung
from dataplane.repair.ladder import Budget, Climb, Flaw, Means
from dataplane.repair.policy import RepairPolicy
from tests.dataplane.conftest import repair_policy

ALL = Means(can_continue=True, has_surgeon=True, may_ask_again=True)
CUT = Flaw(Mode.TRUNCATED, "it ends too early", is_cut=True)
WRONG = Flaw(Mode.MISSING_FIELD, "/a is missing", is_cut=False)


def make_policy(**changes):
    changes = {"labels": ["lossless", "invented"], "surgeon_route": "surgeon", "max_calls": 5} | changes
    return RepairPolicy.parse("json", Node(repair_policy(**changes), "$"))


def climb_with(means=ALL, **changes):
    policy = make_policy(**changes)
    return Climb(policy, means, Budget(policy))


def flaws(count):
    return [Flaw(Mode.SYNTAX, f"character {number}", is_cut=False) for number in range(count)]


def test_rungs_are_tried_in_order_and_then_there_is_none():
    """The cheapest first: what was cut off is continued, then the surgeon, then the model that answered."""
    climb = climb_with()
    first, second, third, fourth = flaws(4)

    rungs = [climb.next(CUT), climb.next(first), climb.next(second), climb.next(third), climb.next(fourth)]

    assert rungs == [Rung.CONTINUE, Rung.SURGEON, Rung.ASK_AGAIN, Rung.FAILED, Rung.FAILED]
    assert climb.stopped_by == "the route's policy has no other rung for it"


@pytest.mark.parametrize(
    ("means", "changes", "rungs"),
    [
        (Means(can_continue=False, has_surgeon=True, may_ask_again=True), {}, [Rung.SURGEON, Rung.ASK_AGAIN]),
        (Means(can_continue=True, has_surgeon=False, may_ask_again=True), {}, [Rung.CONTINUE, Rung.ASK_AGAIN]),
        (Means(can_continue=True, has_surgeon=True, may_ask_again=False), {}, [Rung.CONTINUE, Rung.SURGEON]),
        (ALL, {"continue_cut": False}, [Rung.SURGEON, Rung.ASK_AGAIN]),
        (ALL, {"ask_again": False}, [Rung.CONTINUE, Rung.SURGEON]),
        (ALL, {"max_calls": 1}, [Rung.CONTINUE]),
    ],
)
def test_rung_that_is_not_allowed_or_not_there_is_passed_over(means, changes, rungs):
    """By the policy, by what the answer is, or by who can be asked."""
    policy = make_policy(**changes)
    budget = Budget(policy)
    climb = Climb(policy, means, budget)
    tried, flaw = [], CUT

    for number in range(4):
        rung = climb.next(flaw)
        if rung is Rung.FAILED:
            break
        tried.append(rung)
        budget.spend(output_tokens=1, cost_micros=1)
        flaw = Flaw(Mode.SYNTAX, f"character {number}", is_cut=False)

    assert tried == rungs


def test_identical_error_twice_stops():
    """Whoever makes the same mistake again is not asked a third time; a call that brought no text says nothing."""
    climb = climb_with()

    assert climb.next(WRONG) is Rung.SURGEON
    assert climb.next(WRONG, is_new=False) is Rung.ASK_AGAIN
    assert climb.next(WRONG) is Rung.FAILED
    again = climb_with()
    again.next(WRONG)
    assert again.next(WRONG) is Rung.FAILED
    assert again.stopped_by == "the same error came twice"


@given(st.lists(st.tuples(st.integers(0, 600), st.integers(0, 60)), max_size=8), st.integers(1, 5))
def test_no_call_begins_once_a_limit_is_reached(costs, max_calls):
    """Whatever calls cost, and however the errors change: calls, tokens and money each end it."""
    policy = make_policy(max_calls=max_calls, max_output_tokens=1000, max_cost_micros=100)
    budget = Budget(policy)
    climb = Climb(policy, ALL, budget)

    for number, (tokens, micros) in enumerate(costs):
        was_spent = bool(budget.spent_by)
        rung = climb.next(Flaw(Mode.TRUNCATED, f"character {number}", is_cut=True))
        if rung is Rung.FAILED:
            break
        assert not was_spent
        assert budget.tokens_left > 0
        budget.spend(output_tokens=tokens, cost_micros=micros)

    assert budget.calls <= max_calls


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": ["invented"]}, "without 'lossless'"),
        ({"labels": []}, "at least 1 element"),
        ({"labels": ["lossless", "sure"]}, "'sure' is not one of"),
        ({"coercions": ["guess"]}, "'guess' is not one of"),
        ({"labels": ["lossless"]}, "counts as invented"),
        ({"max_calls": 0}, "no model is ever asked"),
        ({"streams": "sometimes"}, "'sometimes' is not one of"),
        ({"surprise": 1}, "unknown key"),
    ],
)
def test_policy_that_makes_no_sense_is_refused_by_its_path(changes, said):
    """What could never happen, or what nobody knows, is told at the place where it stands."""
    with pytest.raises(MalformedRelease, match=said):
        make_policy(**changes)
