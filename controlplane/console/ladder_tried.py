"""What the ladders that a change proposes would have done on the load that is stored, beside what happened."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from controlplane.approvals.models import ChangeRequest
from controlplane.console.ladder_words import rung_shown, signal_shown
from controlplane.console.templatetags.ballast import NO_VALUE
from controlplane.ladder.checks import signed_words
from controlplane.ladder.models import LadderPolicy
from controlplane.ladder.policies import KIND_NAME
from controlplane.telemetry.ladder_capacity import spoken
from controlplane.telemetry.ladder_simulation import SimulatedMove, Simulation, simulate
from controlplane.telemetry.surface_load import raw_readings
from dataplane.ladder.policy import OFF, Surface

TRIED: Final = timedelta(days=7)
MOST_MOVES: Final = 20


@dataclass(frozen=True, slots=True)
class Tried:
    """One surface that a policy alters, tried. `more`: how many moves beside those that are listed."""

    surface: Surface
    simulation: Simulation

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """Each rung that was on, or would have been: its name, for how long then, and for how long it would have."""
        would, did = self.simulation.seconds, self.simulation.happened
        return [
            (rung_shown(rung), _long(did.get(rung, 0)), _long(would.get(rung, 0)))
            for rung in sorted({*would, *did})
            if rung != OFF and (would.get(rung) or did.get(rung))
        ]

    @property
    def moves(self) -> list[tuple[datetime, str, str]]:
        """The first moves: when, from where to where, and why."""
        return [
            (move.at, f"{move.before} → {move.after}", self._why(move)) for move in self.simulation.moves[:MOST_MOVES]
        ]

    @property
    def more(self) -> int:
        return max(0, len(self.simulation.moves) - MOST_MOVES)

    def _why(self, move: SimulatedMove) -> str:
        trigger = self.surface.triggers.get(move.trigger)
        if trigger is None:
            return "calm" if move.after < move.before else move.cause
        return f"{move.trigger} read {signal_shown(trigger.signal, move.reading)}"


def tried(change: ChangeRequest, *, now: datetime) -> list[Tried]:
    """The surfaces that a change of the ladder policy alters, each tried on its load of the last days."""
    if change.kind != KIND_NAME:
        return []
    after = LadderPolicy.objects.get(number=change.content["number"]).parsed()
    before = LadderPolicy.objects.get(number=change.base["number"]).parsed() if change.base else {}
    signed = signed_words().keys()
    altered: Sequence[Surface] = [
        surface for slug, surface in after.with_words(signed).items() if before.get(slug) != after[slug]
    ]
    return [
        Tried(surface, simulate(surface, raw_readings(surface.slug, since=now - TRIED, until=now, now=now)))
        for surface in altered
    ]


def _long(seconds: float) -> str:
    return spoken(seconds) if seconds else NO_VALUE
