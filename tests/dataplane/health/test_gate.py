"""Readiness that neither flaps nor floods."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dataplane.health.gate import Gate
from dataplane.health.policy import HealthPolicy

POLICY = HealthPolicy(clear_seconds=15, flips_per_hour=3, flap_hold_seconds=600)


def test_first_time_is_at_once_and_later_ones_wait():
    """An engine that was just warmed up waits for nothing; one that was lost proves itself for 15 s."""
    gate = Gate(POLICY, now=0)

    first = gate.step(is_clear=True, now=0)
    lost = gate.step(is_clear=False, now=100)
    early, late = gate.step(is_clear=True, now=101), gate.step(is_clear=True, now=116)

    assert (first, lost, early, late) == (True, False, False, True)
    assert gate.since == 116


def test_lost_too_often_it_stays_closed_for_a_long_quiet():
    """The third loss in an hour asks for ten quiet minutes instead of fifteen seconds."""
    gate = Gate(POLICY, now=0)
    for at in (0, 100, 200):
        gate.step(is_clear=True, now=at)
        gate.step(is_clear=True, now=at + 20)
        gate.step(is_clear=False, now=at + 50)

    held = gate.is_held(now=260)
    gate.step(is_clear=True, now=260)

    assert held
    assert not gate.step(is_clear=True, now=800)
    assert gate.step(is_clear=True, now=860)


def test_another_process_is_not_held_for_the_one_before_it():
    """Its first readiness waits for nothing."""
    gate = Gate(POLICY, now=0)
    gate.step(is_clear=True, now=0)

    gate.restart(now=50)

    assert not gate.is_open
    assert gate.step(is_clear=True, now=90)


@given(st.lists(st.tuples(st.booleans(), st.integers(min_value=1, max_value=120)), min_size=1, max_size=300))
def test_never_more_losses_an_hour_than_the_limit(steps):
    """Whatever comes and goes, readiness is lost a bounded number of times an hour, and never open in trouble."""
    gate, now, losses, was_open = Gate(POLICY, now=0), 0, [], False
    for is_clear, seconds in steps:
        now += seconds
        is_open = gate.step(is_clear=is_clear, now=now)
        assert is_clear or not is_open
        if was_open and not is_open:
            losses.append(now)
        was_open = is_open

    # Held for ten minutes each time from the third on, a fourth may come, and at most one for each hold after that.
    for at in losses:
        within = [other for other in losses if at <= other < at + 3600]
        assert len(within) <= POLICY.flips_per_hour + 3600 // POLICY.flap_hold_seconds
