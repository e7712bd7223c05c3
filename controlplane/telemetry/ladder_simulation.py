"""What a ladder would have done by itself under another policy, tried on the load that was stored. Pure, and the same
for the same load: `dataplane.ladder.decider`, which decides in the data plane too, is what is tried.

The load is what it was with the rungs that were on then. On others it would have been another: one that relieves less
is tried on a load that was relieved more.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Final

from controlplane.telemetry.ladder_capacity import spoken
from controlplane.telemetry.surface_load import Load, LoadPoint
from dataplane.ladder.decider import LadderDecider
from dataplane.ladder.policy import OFF, Surface, Trigger
from dataplane.ladder.signals import GPU, Budget

CAVEAT: Final = "The load is what it was with the rungs that were on then; on others it would have been another."


@dataclass(frozen=True, slots=True)
class SimulatedMove:
    """One step that the ladder would have taken, as `dataplane.ladder.decider.Moved` says."""

    at: datetime
    before: int
    after: int
    cause: str
    trigger: str
    reading: float | None

    def to_json(self) -> dict[str, Any]:
        """Shape: the attributes; `at` as ISO-8601."""
        return {
            "at": self.at.isoformat(),
            "before": self.before,
            "after": self.after,
            "cause": self.cause,
            "trigger": self.trigger,
            "reading": self.reading,
        }


@dataclass(frozen=True, slots=True)
class Simulation:
    """What a policy would have done, beside what happened.

    Attributes:
        levels: The rung that it would have had engaged after each point of the load.
        seconds: For how long it would have had each rung engaged, of the time that there are readings of; OFF too.
        happened: For how long triggers had each engaged then.
        unread: Triggers that no reading is stored for, so that they pressed nobody.
    """

    load: Load
    moves: tuple[SimulatedMove, ...]
    levels: tuple[int, ...]
    seconds: Mapping[int, float]
    happened: Mapping[int, float]
    unread: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """In one line, such as '23.5 h of readings, 2 gaps: 4 moves, rung 1 for 12 min. Then: rung 1 for 40 min.'"""
        if not self.load.points:
            return "No readings are stored, so nothing can be tried."
        moves = {0: "no move", 1: "1 move"}.get(len(self.moves), f"{len(self.moves)} moves")
        would = ", ".join((moves, *_on(self.seconds)))
        return f"{self.load.sentence}: {would}. What happened: {', '.join(_on(self.happened)) or 'no rung was on'}."

    def to_json(self) -> dict[str, Any]:
        """Shape: {"since", "until": ISO-8601, "told_seconds": float, "gaps": int, "sentence", "caveat": str, "moves":
        see `SimulatedMove.to_json`, "seconds", "happened": {"0".."6": float}, "unread": [trigger]}.
        """
        return {
            "since": self.load.since.isoformat(),
            "until": self.load.until.isoformat(),
            "told_seconds": self.load.told_seconds,
            "gaps": self.load.gaps,
            "sentence": self.sentence,
            "caveat": CAVEAT,
            "moves": [move.to_json() for move in self.moves],
            "seconds": {str(rung): seconds for rung, seconds in self.seconds.items()},
            "happened": {str(rung): seconds for rung, seconds in self.happened.items()},
            "unread": list(self.unread),
        }


class _Windows:
    """Attempts and failures within the window of each trigger that looks at a budget."""

    def __init__(self, surface: Surface) -> None:
        self._windows: dict[str, tuple[float, deque[LoadPoint], list[int]]] = {
            slug: (trigger.budget.window_seconds.value, deque(), [0, 0])
            for slug, trigger in surface.triggers.items()
            if trigger.budget is not None
        }

    def add(self, point: LoadPoint) -> None:
        """Go on to another point, forgetting what the windows do not reach any more."""
        for seconds, points, sums in self._windows.values():
            points.append(point)
            sums[0] += point.attempts
            sums[1] += point.failures
            while (point.at - points[0].at).total_seconds() >= seconds:
                old = points.popleft()
                sums[0] -= old.attempts
                sums[1] -= old.failures

    def burn(self, slug: str, budget: Budget) -> float | None:
        """What the trigger reads now that looks at this budget."""
        attempts, failures = self._windows[slug][2]
        return budget.burn(attempts=attempts, failures=failures)


def simulate(surface: Surface, load: Load) -> Simulation:
    """Let the ladder of `surface` decide on a stored load, from no rung engaged, a decision for each point.

    A worker decides each second, so moves are told to within a step of the load. Where nobody told of the load, nothing
    presses, and what was pressing begins anew.

    Args:
        surface: With what it may engage; rungs whose words are unsigned are stepped over, as in the data plane.
        load: In the steps in which it was told; see `surface_load.raw_readings`.
    """
    decider, windows = LadderDecider(surface), _Windows(surface)
    readers = {slug: _reader(slug, trigger, windows) for slug, trigger in surface.triggers.items()}
    step = load.step.total_seconds()
    gaps = {later.at for earlier, later in pairwise(load.points) if later.at - earlier.at > load.step}
    moves: list[SimulatedMove] = []
    levels: list[int] = []
    seconds: defaultdict[int, float] = defaultdict(float, {OFF: 0.0})
    happened: defaultdict[int, float] = defaultdict(float, {OFF: 0.0})
    read: set[str] = set()
    for point in load.points:
        windows.add(point)
        now = point.at.timestamp() + step
        if point.at in gaps:
            decider.observe({}, now=point.at.timestamp())
        readings = {slug: read_of(point) for slug, read_of in readers.items()}
        if len(read) < len(readings):
            read.update(slug for slug, value in readings.items() if value is not None)
        moved = decider.judge(readings, now=now)
        if moved is not None:
            at = datetime.fromtimestamp(now, UTC)
            moves.append(SimulatedMove(at, moved.before, moved.after, str(moved.cause), moved.trigger, moved.reading))
        level = decider.standing.level
        levels.append(level)
        seconds[level] += step
        happened[point.level] += step
    return Simulation(
        load=load,
        moves=tuple(moves),
        levels=tuple(levels),
        seconds=dict(sorted(seconds.items())),
        happened=dict(sorted(happened.items())),
        unread=tuple(sorted(surface.triggers.keys() - read)),
    )


def _reader(slug: str, trigger: Trigger, windows: _Windows) -> Callable[[LoadPoint], float | None]:
    """What gives the reading of a trigger at a point: looked up once, not at each of tens of thousands."""
    signal, budget = trigger.signal, trigger.budget
    if budget is not None:
        return lambda _: windows.burn(slug, budget)
    if signal == GPU:
        # Of one that nobody looked at then, nothing is known.
        return lambda point: point.gauges.get(slug)
    return lambda point: point.values.get(signal)


def _on(seconds: Mapping[int, float]) -> list[str]:
    return [f"rung {rung} for {spoken(value)}" for rung, value in seconds.items() if rung > OFF and value]
