"""Who shows bad keys is told to come back later; who shares their address is not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.bad_keys import BadKeys


def noted(guard, *times, address="203.0.113.7"):
    return [guard.note(address, now=at) for at in times]


def test_limit_is_of_a_window_and_says_when_it_ends():
    """Three in a minute, and the fourth hears how long the minute lasts."""
    guard = BadKeys(limit=3, window_seconds=60)

    assert noted(guard, 0, 10, 20, 30) == [None, None, None, 30]


def test_window_that_is_over_begins_anew():
    """A configuration that was mended is refused for a minute at most."""
    guard = BadKeys(limit=1, window_seconds=60)

    assert noted(guard, 0, 59, 60, 61) == [None, 1, None, 59]


def test_addresses_are_counted_apart():
    """One guesser is not everybody."""
    guard = BadKeys(limit=1, window_seconds=60)

    assert [guard.note(one, now=0) for one in ("a", "b", "a")] == [None, None, 60]


@pytest.mark.parametrize("flood", [10, 1000])
def test_memory_is_bounded_and_who_goes_on_is_remembered(flood):
    """A flood from many addresses forgets who was quiet for longest, not who asks on."""
    guard = BadKeys(limit=1, window_seconds=60, max_addresses=5)
    for number in range(flood):
        guard.note(f"address-{number}", now=number / flood)
        guard.note("loud", now=number / flood)

    assert len(guard) == 5
    assert guard.note("loud", now=1) is not None


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 500)), max_size=60))
def test_nobody_waits_longer_than_a_window(asked):
    """Whatever came before, in whatever order of addresses."""
    guard = BadKeys(limit=2, window_seconds=60, max_addresses=3)

    waits = [guard.note(address, now=at) for address, at in sorted(asked, key=lambda one: one[1])]

    assert all(wait is None or 1 <= wait <= 60 for wait in waits)
