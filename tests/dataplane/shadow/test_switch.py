"""When a shadow stops: what kills it, what pauses it, and what lets it go on."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dataplane.documents import Node
from dataplane.release import parse_document
from dataplane.shadow.policy import ShadowPolicy
from dataplane.shadow.switch import TRANSITIONS, Call, Cause, IllegalTransition, State, Switch

from .shadow_world import shadow_policy, shadow_routing

GOOD, FAILED, DEAR = Call(False, 10, 10), Call(True, 0, 10), Call(False, 21, 10)
TODAY, TOMORROW = "2026-01-02", "2026-01-03"


def make_policy(**changes):
    numbers = {"failure_rate": 0.5, "minimum_calls": 4, "cost_ratio": 2} | changes

    return ShadowPolicy.parse("trial", Node(shadow_policy(**numbers), "$"))


@pytest.fixture
def switch():
    return Switch(make_policy())


def test_calls_that_fail_too_often_kill(switch):
    """Half of the last four is enough, and fewer than four calls are not."""
    before = [switch.record(call) for call in (FAILED, GOOD, FAILED)]

    move = switch.record(GOOD)

    assert before == [None, None, None]
    assert (move.before, move.after, move.cause) == (State.RUNNING, State.KILLED, Cause.FAILURES)
    assert move.measured == {"failed": 2, "calls": 4, "rate": 0.5}
    assert switch.is_untold


def test_answers_that_cost_too_much_kill(switch):
    """More than twice what control's answers to the same requests cost, failures left out."""
    moves = [switch.record(call) for call in (DEAR, DEAR, FAILED, DEAR)]

    assert moves[-1].cause is Cause.COST
    assert moves[-1].measured["ratio"] == pytest.approx(2.1)


def test_ratio_at_the_limit_goes_on(switch):
    """Above it kills, at it does not; and nothing is dear beside what cost nothing."""
    at_limit, beside_nothing = Call(False, 20, 10), Call(False, 10**9, 0)

    moves = [switch.record(at_limit) for _ in range(4)]
    other = Switch(make_policy())
    moves += [other.record(beside_nothing) for _ in range(4)]

    assert moves == [None] * 8


def test_only_the_last_calls_count(switch):
    """What was long ago is forgotten, one call at a time."""
    for call in (FAILED, GOOD, GOOD, GOOD, GOOD):
        switch.record(call)

    assert switch.record(FAILED) is None
    assert switch.record(FAILED).cause is Cause.FAILURES


def test_spent_budget_pauses_until_another_day(switch):
    """Not longer, and a clock that is set back does not count as another day."""
    paused = switch.spend("tokens", day=TODAY)

    assert (paused.after, switch.spend("calls", day=TODAY)) == (State.PAUSED, None)
    assert switch.look(day=TODAY) is None
    assert switch.look(day="2026-01-01") is None
    assert switch.look(day=TOMORROW).after is State.RUNNING


def test_word_of_the_fleet_kills_and_its_silence_lifts(switch):
    """A flag that somebody deletes is a lift; the calls of before are forgotten with it."""
    told = switch.hear("failure_rate")
    assert (told.after, told.cause, switch.is_untold) == (State.KILLED, Cause.TOLD, False)
    assert switch.hear("failure_rate") is None

    lifted = switch.hear(None)

    assert (lifted.after, lifted.cause) == (State.RUNNING, Cause.LIFTED)


def test_silence_lifts_nothing_that_the_fleet_was_not_told(switch):
    """What was concluded here stands until the fleet has heard of it, also if it forgets it again."""
    for _ in range(4):
        switch.record(FAILED)
    assert switch.hear(None) is None
    switch.told()
    switch.forgotten()

    assert switch.hear(None) is None
    assert switch.state is State.KILLED


def test_killed_shadow_stays_killed_whatever_comes_back(switch):
    """Calls that were under way, a budget and a new day change nothing."""
    switch.hear("cost_ratio")

    moves = [switch.record(FAILED) for _ in range(9)] + [switch.spend("calls", day=TODAY), switch.look(day=TOMORROW)]

    assert moves == [None] * 11
    assert switch.reason == "cost_ratio"


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("cause", Cause)
def test_only_the_table_says_what_may_follow(state, cause):
    """An illegal cause raises and changes nothing."""
    switch = Switch(make_policy())
    switch.state = state

    if (state, cause) in TRANSITIONS:
        assert switch._move(cause, {}).after is TRANSITIONS[state, cause]
    else:
        with pytest.raises(IllegalTransition, match=state.value):
            switch._move(cause, {})
        assert switch.state is state


class AnyOrder(RuleBasedStateMachine):
    """Calls, budgets, days and the fleet's word in any order, held against what they must not do."""

    @initialize()
    def begin(self):
        self.switch = Switch(make_policy())
        self.day = 1
        self.flag = None
        self.lifted = 0

    @rule(call=st.sampled_from([GOOD, FAILED, DEAR]))
    def end_a_call(self, call):
        move = self.switch.record(call)
        assert move is None or move.cause in (Cause.FAILURES, Cause.COST)

    @rule(budget=st.sampled_from(["calls", "tokens", "cost_micros"]))
    def spend(self, budget):
        self.switch.spend(budget, day=f"2026-01-{self.day:02}")

    @rule()
    def begin_a_day(self):
        self.day += 1
        if self.day < 28:
            self.switch.look(day=f"2026-01-{self.day:02}")
            assert self.switch.state is not State.PAUSED

    @rule()
    def tell(self):
        if self.switch.is_untold:
            self.flag = self.switch.reason
            self.switch.told()

    @rule()
    def hear(self):
        was_untold = self.switch.is_untold
        move = self.switch.hear(self.flag)
        if move is not None and move.cause is Cause.LIFTED:
            assert self.flag is None
            assert not was_untold
        if self.flag is not None:
            assert self.switch.state is State.KILLED

    @rule()
    def kill_elsewhere(self):
        self.flag = "failure_rate"

    @rule()
    def lift(self):
        self.flag = None

    @invariant()
    def killed_knows_why(self):
        if self.switch.state is State.KILLED:
            assert self.switch.reason


TestAnyOrder = AnyOrder.TestCase


def test_shadows_of_a_release_begin_running(make_document):
    """A policy that nobody has heard of yet is asked."""
    release = parse_document(make_document(routing=shadow_routing()), digest="0" * 64)

    assert Switch(release.routing.shadows["trial"]).state is State.RUNNING
