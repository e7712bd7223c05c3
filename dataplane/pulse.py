"""Whether a loop still turns: it leaves a stamp at each turn, and whoever watches counts how long no new one came.

A process that is alive and does nothing, because something in it waits for ever, looks like any other from outside;
only its stamps tell. The watcher counts what it saw itself: a machine that slept, or a watcher that was held up as
well, is one look, however long it took. So nobody is held to be wedged for time in which nobody could have turned.
"""

from __future__ import annotations

from typing import Final

# Between two looks; a loop stamps about twice as often.
LOOK_SECONDS: Final = 1.0
BEAT_SECONDS: Final = 0.5
# What one look counts at most. A longer pause is one that the watcher had too.
MOST_PER_LOOK_SECONDS: Final = 2 * LOOK_SECONDS


class Pulse:
    """The stamps of one loop. `beat` at each turn, from one thread; others only read.

    Attributes:
        beats: Counts stamps.
        within_seconds: The next one comes sooner than that; None: there is no loop to turn now.
    """

    __slots__ = ("beats", "usual_seconds", "within_seconds")

    def __init__(self, *, within_seconds: float) -> None:
        """It is at rest until its first beat: whether a process comes up in time is asked in another way."""
        self.usual_seconds = within_seconds
        self.within_seconds: float | None = None
        self.beats = 0

    def beat(self, *, within_seconds: float | None = None) -> None:
        """Leave a stamp. `within_seconds`: what begins now takes so long at most, where that is not as usual."""
        # In this order: who reads in between waits for too little of the old turn, which the next look mends.
        self.within_seconds = self.usual_seconds if within_seconds is None else within_seconds
        self.beats += 1

    def rest(self) -> None:
        """There is no loop to turn until the next beat: a consumer whose broker is away, say."""
        self.within_seconds = None


class Watch:
    """One observer of one loop's stamps: how long it has been silent, counted by its own looks."""

    __slots__ = ("_beats", "_looked_at", "silent_seconds")

    def __init__(self, *, now: float) -> None:
        self._beats = 0
        self._looked_at = now
        self.silent_seconds = 0.0

    def look(self, beats: int, *, now: float) -> float:
        """Look at the stamps; returns for how many seconds no new one has been seen."""
        passed = min(max(now - self._looked_at, 0.0), MOST_PER_LOOK_SECONDS)
        self._looked_at = now
        if beats != self._beats:
            self._beats, self.silent_seconds = beats, 0.0
        else:
            self.silent_seconds += passed
        return self.silent_seconds


class Patience:
    """When the next wedged process may be replaced. What wedges one may wedge them all, and so may a machine that has
    no time for any: the pauses between two replacements double, until there was none for a while.
    """

    __slots__ = ("_in_a_row", "_last_at")

    FIRST_SECONDS: Final = 10.0
    LONGEST_SECONDS: Final = 300.0
    CALM_SECONDS: Final = 600.0

    def __init__(self) -> None:
        self._in_a_row = 0
        self._last_at: float | None = None

    def is_due(self, *, now: float) -> bool:
        """Whether one may be replaced now."""
        return self._last_at is None or now - self._last_at >= self.pause_seconds

    @property
    def pause_seconds(self) -> float:
        """How long after the last replacement the next one may come."""
        return min(self.FIRST_SECONDS * 2.0 ** max(self._in_a_row - 1, 0), self.LONGEST_SECONDS)

    def note(self, *, now: float) -> None:
        """One is being replaced."""
        if self._last_at is not None and now - self._last_at >= self.CALM_SECONDS:
            self._in_a_row = 0
        self._in_a_row += 1
        self._last_at = now
