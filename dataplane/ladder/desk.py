"""Where each request learns on which rung it is served. Never waits: what the fleet decided is known beforehand."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Protocol

from dataplane.ladder.activations import NOTHING, Activation, Engaged, engaged_for
from dataplane.ladder.policy import LATER, MAINTENANCE, OFF, Surface
from dataplane.ladder.words import Spoken, speak
from dataplane.records import record
from dataplane.release import Release
from dataplane.signed_copy import CopyBook


class Fleet(Protocol):
    """What a fleet agreed about its ladders, such as `FleetLadders`."""

    def level(self, surface: str) -> int:
        """The rung that triggers engaged; OFF."""

    def allowance(self, surface: str, tier: str) -> int:
        """How many of the places that the tier is promised are this worker's."""


@record
class Stand:
    """Where one request stands on the ladder of its surface.

    Attributes:
        rung: What it is served as; OFF for one that holds a reserved place, whatever is engaged for others.
        engaged: Which rung stands for its tier here, why, and until when.
        is_reserved: Whether it holds one of the places that its tier is promised.
        is_job: Whether a runner asks. It is not among what is under way, since nobody waits who could be relieved.
    """

    surface: Surface
    tier: str
    rung: int
    engaged: Engaged
    is_reserved: bool
    is_job: bool = False


class LadderDesk:
    """See the module. One per process, on one event loop."""

    def __init__(self, *, fleet: Fleet, region: str, wall: Callable[[], float], public_url: str = "") -> None:
        """`region` is the gateway's; `wall` epoch seconds; `public_url` is where users reach the gateway, without a
        slash at its end.
        """
        self._fleet = fleet
        self._region = region
        self._wall = wall
        self._public_url = public_url
        self._copy = CopyBook()
        self._surfaces: dict[str, Surface] = {}
        self._by_route: dict[str, Surface] = {}
        self._released: Mapping[str, tuple[Activation, ...]] = {}
        self._ordered: Mapping[str, tuple[Activation, ...]] = {}
        self._activations: dict[str, tuple[Activation, ...]] = {}
        self._in_flight: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._arrived: Counter[str] = Counter()
        self._reserved: Counter[tuple[str, str]] = Counter()

    def adopt(self, release: Release) -> None:
        """Follow another release."""
        self._copy = release.copy
        self._surfaces = dict(release.ladder)
        self._by_route = release.ladder.by_route()
        self._released = release.activations
        self._join()

    def obey(self, orders: Mapping[str, tuple[Activation, ...]]) -> None:
        """Engage, beside what the release says, what was ordered on this host, by surface; replaces what was before."""
        self._ordered = orders
        self._join()

    def enter(self, route: str, tier: str, *, is_job: bool = False) -> Stand | None:
        """Let a request in, and say where it stands; None on a route of no surface. Whoever was let in must `leave`.

        Args:
            is_job: A runner asks, whose caller was told to wait already: short of the rungs that nothing is generated
                on, it is served as if none were engaged.
        """
        surface = self._by_route.get(route)
        if surface is None:
            return None
        if not is_job:
            self._arrived[surface.slug] += 1
            self._in_flight[surface.slug][tier] += 1
        engaged = self.engaged(surface, tier)
        rung, is_reserved = engaged.rung, False
        if rung != OFF:
            if is_job:
                rung = rung if rung > LATER else OFF
            elif rung < MAINTENANCE and self._has_place(surface, tier):
                self._reserved[surface.slug, tier] += 1
                rung, is_reserved = OFF, True
        return Stand(surface, tier, rung, engaged, is_reserved, is_job)

    def leave(self, stand: Stand) -> None:
        """The request is over."""
        if not stand.is_job:
            self._in_flight[stand.surface.slug][stand.tier] -= 1
        if stand.is_reserved:
            self._reserved[stand.surface.slug, stand.tier] -= 1

    def engaged(self, surface: Surface, tier: str) -> Engaged:
        """The rung that stands for a tier at this gateway now."""
        level = self._fleet.level(surface.slug)
        if level:  # as good as always there is none, and every request asks
            level = surface.nearest(level)
        activations = self._activations.get(surface.slug)
        if not activations:
            return Engaged(level) if level else NOTHING
        now = datetime.fromtimestamp(self._wall(), UTC)
        return engaged_for(activations, level=level, region=self._region, tier=tier, now=now)

    def eta_seconds(self, surface: Surface, engaged: Engaged) -> int:
        """What users are told to wait: until the rung ends by itself, if people said when, else as the policy says."""
        if engaged.until is None:
            return int(surface.eta_seconds.value)
        return max(1, math.ceil(engaged.until.timestamp() - self._wall()))

    def speak(self, stand: Stand, *, accepted: str | None, request_id: str) -> Spoken:
        """The words of the rung that a request is served on. No wait may lie between this and its `enter`: the words
        are those of the release that is followed now.

        Args:
            accepted: An `Accept-Language` header.
        """
        surface = stand.surface
        return speak(
            surface,
            stand.rung,
            self._copy,
            accepted=accepted,
            eta_seconds=self.eta_seconds(surface, stand.engaged),
            request_id=request_id,
            status_url=self.status_url(surface.slug),
        )

    def speak_later(self, route: str, accepted: str | None, request_id: str, job: str) -> Spoken | None:
        """The words in which a route's answers are put off, engaged or not; None where nobody signed any.

        Args:
            accepted: An `Accept-Language` header.
            job: As its tenant knows it.
        """
        surface = self._by_route.get(route)
        if surface is None or LATER not in surface.engageable:
            return None
        return speak(
            surface,
            LATER,
            self._copy,
            accepted=accepted,
            eta_seconds=surface.eta_seconds.value,
            request_id=request_id,
            status_url=self.status_url(surface.slug),
            job=job,
        )

    def status_url(self, surface: str) -> str:
        """Where users read how it stands; relative to the gateway, where nobody said how users reach that."""
        return f"{self._public_url}/status/{surface}"

    def surface(self, slug: str) -> Surface | None:
        """The surface of this name."""
        return self._surfaces.get(slug)

    def surfaces(self) -> Iterable[Surface]:
        """All of them, as the release has them."""
        return self._surfaces.values()

    def in_flight(self, surface: str) -> Mapping[str, int]:
        """How many requests are under way here, by tier."""
        return {tier: count for tier, count in self._in_flight.get(surface, {}).items() if count}

    def arrived(self, surface: str) -> int:
        """How many requests of callers came in here since this worker began."""
        return self._arrived[surface]

    def reserved(self, surface: str) -> Mapping[str, int]:
        """How many of the places that tiers are promised are in use here, by tier."""
        return {tier: count for (slug, tier), count in self._reserved.items() if slug == surface and count}

    def in_force(self, surface: str) -> tuple[Activation, ...]:
        """What people engaged or hold at this gateway now, for any tier."""
        now = datetime.fromtimestamp(self._wall(), UTC)
        return tuple(
            one
            for one in self._activations.get(surface, ())
            if now < one.until and (not one.regions or self._region in one.regions)
        )

    def ceiling(self, surface: str) -> int:
        """The highest rung that people let triggers engage for everybody; MAINTENANCE where nobody holds it down."""
        now = datetime.fromtimestamp(self._wall(), UTC)
        return min((one.rung for one in self._activations.get(surface, ()) if one.holds_all(now)), default=MAINTENANCE)

    def _has_place(self, surface: Surface, tier: str) -> bool:
        if tier not in surface.promises:
            return False
        return self._reserved[surface.slug, tier] < self._fleet.allowance(surface.slug, tier)

    def _join(self) -> None:
        """What stands, of the release and of orders alike; an order that nothing can be engaged for is passed over."""
        joined = dict(self._released)
        for slug, orders in self._ordered.items():
            surface = self._surfaces.get(slug)
            if surface is not None:
                fitting = tuple(one for one in orders if one.rung in surface.engageable)
                joined[slug] = (*joined.get(slug, ()), *fitting)
        self._activations = joined
