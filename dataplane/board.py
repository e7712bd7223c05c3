"""All breakers of one worker, and what only somebody who sees all lanes of a route can decide: whether one may open for
slowness, and which route is left with nothing.

Pure like the breakers themselves; events are returned, the caller reports them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from dataplane.breaker import Breaker, Move, Observation, Permit, State, Trip, Verdict
from dataplane.events import BreakerChanged, BreakerWithheld, Event
from dataplane.overrides import FORCED_CLOSED, FORCED_OPEN, LaneOverride
from dataplane.routing import Route, RoutingTable

# A lane that may not open says so once in a while, not at every failure.
WITHHELD_EVERY_SECONDS: Final = 30.0
FORCED_STATES: Final = {FORCED_OPEN: "forced_open", FORCED_CLOSED: "forced_closed"}


class Moment(NamedTuple):
    """One moment on both clocks: monotonic seconds, which decide, and epoch seconds, which people read."""

    now: float
    wall: float


class BreakerBoard:
    """See the module. Lanes without a breaker policy are always let through and never counted."""

    def __init__(self) -> None:
        self._breakers: dict[str, Breaker] = {}
        self._routes: dict[str, tuple[Route, ...]] = {}
        self._overrides: Mapping[str, LaneOverride] = {}
        self._withheld_at: dict[str, float] = {}

    def adopt(self, table: RoutingTable, overrides: Mapping[str, LaneOverride], *, at: Moment) -> None:
        """Follow another release. What a breaker has seen is kept as long as its lane and its policy stay."""
        breakers: dict[str, Breaker] = {}
        for lane in table.lanes.values():
            if lane.breaker is None:
                continue
            known = self._breakers.get(lane.id)
            if known is None:
                known = Breaker(lane.id, lane.breaker, now=at.now)
            elif known.policy != lane.breaker:
                known.adopt(lane.breaker, now=at.now)
            breakers[lane.id] = known
        self._breakers = breakers
        self._routes = {
            lane: tuple(route for route in table.routes.values() if any(one.id == lane for one in route.lanes))
            for lane in breakers
        }
        self._overrides = overrides
        self.expire(at=at)

    def expire(self, *, at: Moment) -> None:
        """Hold the breakers that operators hold at this moment, and let the others go. Call it once in a while."""
        wall = datetime.fromtimestamp(at.wall, UTC)
        for lane, breaker in self._breakers.items():
            override = self._overrides.get(lane)
            mode = override.mode if override is not None and wall < override.until else None
            if breaker.forced != mode:
                breaker.force(mode)

    def breakers(self) -> Mapping[str, Breaker]:
        """Every breaker by its lane."""
        return self._breakers

    def acquire(self, lane: str, *, at: Moment) -> tuple[Permit | None, list[Event]]:
        """Return leave to make an attempt at `lane` now; None for a lane that has no breaker.

        Raises:
            BreakerOpen: not now.
        """
        breaker = self._breakers.get(lane)
        if breaker is None:
            return None, []
        permit, move = breaker.acquire(now=at.now)
        return permit, [] if move is None else [_changed(lane, move, at)]

    def give_back(self, permit: Permit | None) -> None:
        """Take a permit back whose attempt says nothing about its lane. Idempotent."""
        if permit is not None and (breaker := self._breakers.get(permit.lane)) is not None:
            breaker.give_back(permit)

    def record(self, permit: Permit | None, seen: Observation, *, at: Moment) -> list[Event]:
        """Take a permit back with what its attempt came to. Returns what happened because of it."""
        breaker = None if permit is None else self._breakers.get(permit.lane)
        if permit is None or breaker is None:
            return []
        outcome = breaker.record(permit, seen, now=at.now)
        if outcome is None:
            return []
        if isinstance(outcome, Move):
            return [_changed(breaker.lane, outcome, at)]
        return self._trip(breaker, outcome, at)

    def judge(self, lane: str, *, at: Moment) -> list[Event]:
        """Open the lane's breaker if the fleet's window, which it has just heard of, asks for it."""
        breaker = self._breakers[lane]
        trip = breaker.judge(now=at.now)
        return [] if trip is None else self._trip(breaker, trip, at)

    def hear(self, lane: str, verdict: Verdict, *, counts: list[int], healthy: int, at: Moment) -> list[Event]:
        """Take in what the fleet says about a lane, and act on it."""
        breaker = self._breakers.get(lane)
        if breaker is None:
            return []
        move = breaker.hear(verdict, counts=counts, healthy=healthy, now=at.now)
        if move is not None:
            # Another worker's verdict is its event; only what this worker concluded is told.
            return [_changed(lane, move, at)] if move.generation > verdict.generation else []
        return self.judge(lane, at=at)

    def last_resort(self, lanes: Iterable[str]) -> str | None:
        """Of `lanes`, all held back, the one that will be tried again first; None when operators hold all of them.

        For a route that has nothing below its lanes: an attempt that will probably fail is better than none.
        """
        open_ones = [one for lane in lanes if (one := self._breakers.get(lane)) is not None and one.forced is None]
        best = min(open_ones, key=lambda one: one.open_until, default=None)
        return None if best is None else best.lane

    def open_seconds(self, lanes: Iterable[str], *, at: Moment) -> dict[str, float | None]:
        """How long each of `lanes` that is held back stays so, in seconds; lanes that are not held back are left out.

        A lane that an operator holds open is, at the latest, let go when the hold ends.
        """
        waits: dict[str, float | None] = {}
        for lane in lanes:
            breaker = self._breakers.get(lane)
            if breaker is None or breaker.forced == FORCED_CLOSED:
                continue
            if breaker.forced == FORCED_OPEN:
                override = self._overrides.get(lane)
                waits[lane] = None if override is None else max(0.0, override.until.timestamp() - at.wall)
            elif breaker.state is not State.CLOSED:
                waits[lane] = breaker.open_for(now=at.now)
        return waits

    def states(self, *, now: float) -> list[dict[str, Any]]:
        """Every breaker as it stands.

        Shape: [{"lane": str, "state": closed | open | half_open | forced_open | forced_closed, "open_for_seconds":
                float or null, "probes": int, "attempts": int, "failures": int, "cause": str}]. `cause` is the threshold
                that opened it, empty while it is closed.
        """
        shown = []
        for lane, breaker in self._breakers.items():
            counts = breaker.counts(now=now)
            is_closed = breaker.state is State.CLOSED
            shown.append(
                {
                    "lane": lane,
                    "state": str(breaker.state) if breaker.forced is None else FORCED_STATES[breaker.forced],
                    "open_for_seconds": None if is_closed else round(breaker.open_for(now=now), 1),
                    "probes": breaker.probes_out,
                    "attempts": counts[0],
                    "failures": counts[1],
                    "cause": breaker.opened_for,
                }
            )
        return shown

    def _trip(self, breaker: Breaker, trip: Trip, at: Moment) -> list[Event]:
        events: list[Event] = []
        reason = self._too_many_slow(breaker.lane, trip)
        if reason is None:
            events.append(_changed(breaker.lane, breaker.open(trip, now=at.now), at))
            reason = self._last_of(breaker.lane)
        if reason is None or at.now - self._withheld_at.get(breaker.lane, float("-inf")) < WITHHELD_EVERY_SECONDS:
            return events
        self._withheld_at[breaker.lane] = at.now
        return [*events, BreakerWithheld(at=at.wall, lane=breaker.lane, reason=reason, measured=trip.to_json())]

    def _too_many_slow(self, lane: str, trip: Trip) -> str | None:
        """Why the lane must stay closed although its window asks otherwise; None when it may open."""
        if not trip.is_latency:
            return None
        for route in self._routes[lane]:
            share = route.latency_open_share
            if share is None:
                continue
            others = [self._breakers.get(one.id) for one in route.lanes if one.id != lane]
            slow = 1 + sum(1 for one in others if one is not None and one.opened_by_latency)
            if slow > share.value * len(route.lanes):
                return (
                    f"{slow} of {len(route.lanes)} lanes of route {route.slug!r} would be open for latency alone;"
                    f" at most {share.value:.0%} may be"
                )
        return None

    def _last_of(self, lane: str) -> str | None:
        """Which routes go on using the lane although it is open, because nothing is left of them without it."""
        left = []
        for route in self._routes[lane]:
            others = [self._breakers.get(one.id) for one in route.lanes if one.id != lane]
            if route.fallback is None and not any(one is None or _is_usable(one) for one in others):
                left.append(route.slug)
        if not left:
            return None
        routes = " and ".join(map(repr, left))
        return (
            f"it is the last lane of route {routes}, with no fallback stack below, so requests there go on reaching it"
        )


def _is_usable(breaker: Breaker) -> bool:
    if breaker.forced is not None:
        return breaker.forced == FORCED_CLOSED
    return breaker.state is State.CLOSED


def _changed(lane: str, move: Move, at: Moment) -> BreakerChanged:
    return BreakerChanged(
        at=at.wall,
        lane=lane,
        before=str(move.before),
        after=str(move.after),
        cause=str(move.cause),
        generation=move.generation,
        open_seconds=round(move.open_seconds, 3),
        measured={} if move.trip is None else move.trip.to_json(),
    )
