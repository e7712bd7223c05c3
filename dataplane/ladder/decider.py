"""When a ladder moves by itself. Pure: readings and the time go in, at most one step comes out.

A trigger presses while its reading has been at or above its `enter` for as long as it must be sustained; the ladder
then takes one step up to the next rung whose words are signed. It takes one step down when every reading has been at or
below its `exit` for as long as calm must last. Between the two, nothing moves. Pressure that is back soon after a step
down doubles the calm that the next step down takes, so that a ladder which relieves what presses it does not swing.

A reading that is lost presses nobody, and stays what it was where calm is asked for.

People may hold a ladder down: it then stands no higher than they say, and goes up again one rung at a time once they
let go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from dataplane.ladder.policy import MAINTENANCE, OFF, Surface

Readings = Mapping[str, float | None]


class Cause(StrEnum):
    """Why a ladder moved by itself."""

    PRESSED = "pressed"
    EASED = "eased"
    HELD = "held"  # people hold the ladder down
    UNSIGNED = "unsigned"  # the rung that was engaged has no signed words any more


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a ladder stands by itself, as a fleet shares it. Times are epoch seconds, since workers share it.

    Attributes:
        level: The rung that triggers engaged; OFF.
        generation: Grows by one with each move.
        moved_at, raised_at, eased_at: When it last moved, moved up, moved down since all was calm; 0: never.
        relapses: How often pressure was back soon after a step down, since it last was not.
        trigger, reading: What caused the last move up, and what it read then.
    """

    level: int = OFF
    generation: int = 0
    moved_at: float = 0.0
    raised_at: float = 0.0
    eased_at: float = 0.0
    relapses: int = 0
    trigger: str = ""
    reading: float | None = None


@dataclass(frozen=True, slots=True)
class Moved:
    """One step. `trigger` and `reading` are what pressed; of a step down, the trigger that had raised it."""

    before: int
    after: int
    cause: Cause
    trigger: str
    reading: float | None
    generation: int


class LadderDecider:
    """The ladder of one surface. Plain state, one owner; `now` is epoch seconds and never goes back."""

    __slots__ = ("_calm_since", "_hot_since", "_last", "standing", "surface")

    def __init__(self, surface: Surface, standing: Standing | None = None) -> None:
        self.surface = surface
        self.standing = standing or Standing()
        self._hot_since: dict[str, float] = {}
        self._last: dict[str, float] = {}
        self._calm_since: float | None = None

    def adopt(self, surface: Surface) -> None:
        """Follow another policy. What was read of triggers that are still there is kept."""
        self.surface = surface
        self._hot_since = {slug: since for slug, since in self._hot_since.items() if slug in surface.triggers}
        self._last = {slug: value for slug, value in self._last.items() if slug in surface.triggers}

    def follow(self, standing: Standing) -> None:
        """Take over what somebody else of the fleet decided."""
        if standing != self.standing:
            self.standing = standing
            self._calm_since = None

    def observe(self, readings: Readings, *, now: float) -> None:
        """Take readings in without deciding, as whoever may have to decide next does."""
        is_calm = True
        for slug, trigger in self.surface.triggers.items():
            value = readings.get(slug)
            if value is not None:
                self._last[slug] = value
            if value is not None and value >= trigger.enter.value:
                self._hot_since.setdefault(slug, now)
            else:
                self._hot_since.pop(slug, None)
            last = self._last.get(slug)
            is_calm = is_calm and (last is None or last <= trigger.exit.value)
        if not is_calm:
            self._calm_since = None
        elif self._calm_since is None:
            self._calm_since = now

    def judge(self, readings: Readings, *, now: float, ceiling: int = MAINTENANCE) -> Moved | None:
        """Take the one step that the readings ask for now, if they ask for one.

        Args:
            ceiling: The highest rung that people let it stand at.
        """
        self.observe(readings, now=now)
        level = self.standing.level
        if level != OFF and level not in self.surface.engageable:
            return self._move(self.surface.nearest(min(level, ceiling)), Cause.UNSIGNED, now=now)
        if level > ceiling:
            return self._move(self.surface.nearest(ceiling), Cause.HELD, now=now)
        return self._step_up(readings, now, ceiling) or self._step_down(now)

    def seconds_until_down(self, *, now: float) -> float | None:
        """In how many seconds the next step down comes if all stays calm; None while it is not calm, or off."""
        if self.standing.level == OFF or self._calm_since is None:
            return None
        return max(0.0, self._calm_since + self._calm_seconds - now, self.standing.moved_at + self._pace_dwell - now)

    def _step_up(self, readings: Readings, now: float, ceiling: int) -> Moved | None:
        if not self._hot_since:
            return None
        standing, pace = self.standing, self.surface.pace
        if standing.level != OFF and now - standing.raised_at < pace.step_seconds.value:
            return None
        target = next((rung for rung in self.surface.engageable if rung > standing.level), None)
        if target is None or target > ceiling:
            return None
        for slug, since in self._hot_since.items():
            trigger = self.surface.triggers[slug]
            if target <= trigger.highest and now - since >= trigger.sustain_seconds.value:
                return self._move(target, Cause.PRESSED, now=now, trigger=slug, reading=readings[slug])
        return None

    def _step_down(self, now: float) -> Moved | None:
        left = self.seconds_until_down(now=now)
        if left is None or left > 0:
            return None
        return self._move(self.surface.nearest(self.standing.level - 1), Cause.EASED, now=now)

    @property
    def _pace_dwell(self) -> float:
        return self.surface.pace.dwell_seconds.value

    @property
    def _calm_seconds(self) -> float:
        """How long calm must last now."""
        pace = self.surface.pace
        return min(pace.longest_calm_seconds.value, pace.calm_seconds.value * 2.0**self.standing.relapses)

    def _move(self, level: int, cause: Cause, *, now: float, trigger: str = "", reading: float | None = None) -> Moved:
        """Take one step. Only this method changes where the ladder stands by itself."""
        before = self.standing
        longest = self.surface.pace.longest_calm_seconds.value
        relapses = before.relapses
        is_up = level > before.level
        if is_up and before.eased_at and before.eased_at == before.moved_at:
            # Pressure that comes back within the longest calm was not gone; later it is another one.
            relapses = relapses + 1 if now - before.eased_at < longest else 0
        self.standing = replace(
            before,
            level=level,
            generation=before.generation + 1,
            moved_at=now,
            raised_at=now if is_up else before.raised_at,
            eased_at=now if cause is Cause.EASED else before.eased_at,
            relapses=min(relapses, 30),
            trigger=trigger if is_up else before.trigger,
            reading=reading if is_up else before.reading,
        )
        self._calm_since = None
        return Moved(before.level, level, cause, trigger or before.trigger, reading, before.generation + 1)
