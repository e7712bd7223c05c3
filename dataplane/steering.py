"""In which order a route's lanes are tried: as written, by weight, by speed or by price. Pure.

Only the order is decided here. Which lanes a request may reach at all (residency, capabilities) is settled before;
whether a lane is let through is its breaker's business. An open one keeps its place: it could not be probed otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp
from random import Random
from typing import Final

from dataplane.policies import COST, SPEED, WEIGHT, Steering
from dataplane.routing import Lane

# A sample's weight falls to a third in this time, so that a lane's speed is that of the last minutes.
MEMORY_SECONDS: Final = 60.0
# A lane has to be this much faster to be preferred over one that stands before it, or the order would flicker.
CLEARLY_FASTER: Final = 0.8
# Fewer samples than this, weighted by age, say nothing.
ENOUGH_SAMPLES: Final = 3.0


class Speeds:
    """How fast lanes were lately, as one worker saw it: exponentially weighted means of what callers waited for."""

    __slots__ = ("_lanes",)

    def __init__(self) -> None:
        # By lane: the weighted sum of waits, the sum of weights, and when they were last brought up to date.
        self._lanes: dict[str, tuple[float, float, float]] = {}

    def add(self, lane: str, wait_ms: float, *, now: float) -> None:
        """Note one good answer: the time to its first token, or to all of it."""
        total, weight, at = self._lanes.get(lane, (0.0, 0.0, now))
        faded = exp((at - now) / MEMORY_SECONDS) if now > at else 1.0
        self._lanes[lane] = (total * faded + wait_ms, weight * faded + 1.0, now)

    def wait_ms(self, lane: str, *, now: float) -> float | None:
        """The lane's mean wait, or None when too little of it was seen lately."""
        total, weight, at = self._lanes.get(lane, (0.0, 0.0, now))
        if weight * exp(min(0.0, (at - now) / MEMORY_SECONDS)) < ENOUGH_SAMPLES:
            return None
        return total / weight


def order_lanes(
    lanes: tuple[Lane, ...],
    steering: Steering,
    *,
    speeds: Speeds,
    now: float,
    rng: Random,
) -> tuple[Lane, ...]:
    """Return `lanes` in the order in which a request tries them.

    Args:
        lanes: In the route's own order, already those that the request may reach.
    """
    if len(lanes) < 2:
        return lanes
    if steering.by == WEIGHT and steering.weights is not None:
        ordered = _by_weight(lanes, steering.weights, rng)
    elif steering.by == SPEED:
        ordered = by_speed(lanes, {lane.id: speeds.wait_ms(lane.id, now=now) for lane in lanes})
    elif steering.by == COST:
        ordered = by_cost(lanes)
    else:
        ordered = list(lanes)
    return tuple(ordered)


def _by_weight(lanes: Sequence[Lane], weights: Mapping[str, int], rng: Random) -> list[Lane]:
    """A draw without replacement, each place with probability in proportion to weight.

    Source: Efraimidis, Spirakis, "Weighted random sampling with a reservoir", 2006: sort by u ** (1 / weight).
    """
    drawn = {lane.id: rng.random() ** (1.0 / weights[lane.id]) if weights[lane.id] else -1.0 for lane in lanes}
    return sorted(lanes, key=lambda lane: -drawn[lane.id])


def by_speed(lanes: Sequence[Lane], waits_ms: Mapping[str, float | None]) -> list[Lane]:
    """Order lanes by how long their callers waited, in milliseconds; None: not known.

    A lane moves forward only past those that it is clearly faster than; unknown ones stay where they are.
    """
    ordered: list[Lane] = []
    for lane in lanes:
        place = len(ordered)
        wait = waits_ms.get(lane.id)
        while wait is not None and place:
            before = waits_ms.get(ordered[place - 1].id)
            if before is None or wait >= CLEARLY_FASTER * before:
                break
            place -= 1
        ordered.insert(place, lane)
    return ordered


def by_cost(lanes: Sequence[Lane]) -> list[Lane]:
    """Order lanes by the sum of both prices, the cheapest first; equals stay as they are."""
    return sorted(lanes, key=lambda lane: lane.input_micros_per_million_tokens + lane.output_micros_per_million_tokens)
