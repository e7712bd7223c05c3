"""Triggers as pages show them: what each reads against the numbers at which it presses and lets go. Pure."""

from dataclasses import dataclass
from typing import Final

from controlplane.console.ladder_words import SIGNAL_WORDS, signal_shown
from dataplane.ladder.policy import Trigger

# How far beyond its number a trigger's bar goes, so that what is over it can be told from what is on it.
_BAR: Final = 1.25


@dataclass(frozen=True, slots=True)
class TriggerRow:
    """One trigger with what it reads. Marks are places on its bar, 0..100; `place` None: nobody could read it."""

    trigger: Trigger
    label: str
    reading: str
    tone: str
    distance: str
    place: float | None
    enter_place: float
    exit_place: float
    enter: str
    exit: str


def trigger_row(trigger: Trigger, reading: float | None) -> TriggerRow:
    """One trigger with what it reads; None: nobody could read it."""
    enter, leave, signal = trigger.enter.value, trigger.exit.value, trigger.signal
    full = max(enter * _BAR, reading or 0.0)
    if reading is None:
        tone, distance = "off", "neither presses nor lets down"
    elif reading >= enter:
        tone, distance = "bad", f"presses, {signal_shown(signal, reading - enter)} over"
        if reading == enter:
            distance = "presses"
    elif reading > leave:
        tone, distance = "watch", f"holds; {signal_shown(signal, enter - reading)} until it presses"
    else:
        tone, distance = "good", f"calm; {signal_shown(signal, enter - reading)} until it presses"
    return TriggerRow(
        trigger=trigger,
        label=SIGNAL_WORDS[signal].label,
        reading=signal_shown(signal, reading),
        tone=tone,
        distance=distance,
        place=None if reading is None else round(100 * reading / full, 1),
        enter_place=round(100 * enter / full, 1),
        exit_place=round(100 * max(leave, 0.0) / full, 1),
        enter=signal_shown(signal, enter),
        exit=signal_shown(signal, leave),
    )
