"""Stamps of a loop, and the judgement about them: silence is what the watcher saw itself."""

from __future__ import annotations

from itertools import pairwise

import pytest

from dataplane.pulse import LOOK_SECONDS, MOST_PER_LOOK_SECONDS, Patience, Pulse, Watch


def look_for(watch, beats, *, start, seconds):
    """Look once a second for so long; returns the last silence, in seconds."""
    silent = 0.0
    for second in range(1, int(seconds) + 1):
        silent = watch.look(beats, now=start + second * LOOK_SECONDS)
    return silent


def test_silence_is_counted_until_the_next_stamp():
    """Ten seconds without one are ten seconds; one stamp, and they are none."""
    watch = Watch(now=0)

    silent = look_for(watch, 0, start=0, seconds=10)

    assert silent == 10
    assert watch.look(1, now=11) == 0


@pytest.mark.parametrize("gap_seconds", [60.0, 3600.0, 7 * 86_400.0])
def test_machine_that_slept_is_one_look(gap_seconds):
    """Whoever watches was held up as well: nobody is wedged for time in which nobody could turn."""
    watch = Watch(now=0)
    look_for(watch, 0, start=0, seconds=3)

    assert watch.look(0, now=3 + gap_seconds) == 3 + MOST_PER_LOOK_SECONDS


def test_clock_that_goes_back_takes_nothing_away():
    """Silence never shrinks but by a stamp."""
    watch = Watch(now=100)
    look_for(watch, 0, start=100, seconds=5)

    assert watch.look(0, now=50) == 5


def test_pulse_says_how_long_the_turn_that_begins_may_take():
    """A turn that is known to be long is announced; the next one is as usual; at rest there is no turn."""
    pulse = Pulse(within_seconds=30)

    said = [pulse.within_seconds]
    pulse.beat(within_seconds=3600)
    said.append(pulse.within_seconds)
    pulse.beat()
    said.append(pulse.within_seconds)
    pulse.rest()

    assert [*said, pulse.within_seconds] == [None, 3600, 30, None]
    assert pulse.beats == 2


def test_patience_doubles_its_pauses_up_to_a_limit():
    """What wedges every process of a host leads to ever fewer replacements, not to a storm."""
    patience, now, replaced = Patience(), 0.0, []
    while now < 3600:
        if patience.is_due(now=now):
            patience.note(now=now)
            replaced.append(now)
        now += 1

    pauses = [later - earlier for earlier, later in pairwise(replaced)]
    assert pauses[:6] == [10, 20, 40, 80, 160, 300]
    assert set(pauses[6:]) == {300}


def test_patience_begins_anew_after_a_calm():
    """One wedged process a day is replaced at once each time."""
    patience = Patience()
    for _ in range(3):
        patience.note(now=0.0)

    patience.note(now=Patience.CALM_SECONDS)

    assert patience.pause_seconds == Patience.FIRST_SECONDS
