"""What one worker sees of a surface: what its triggers look at, as far as this process knows it. Never waits."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from itertools import chain
from operator import itemgetter
from typing import Final

from dataplane.access import TIERS
from dataplane.blame import Blame
from dataplane.fleet import FleetBreakers
from dataplane.ladder.desk import LadderDesk
from dataplane.ladder.policy import CHEAPER, Surface
from dataplane.ladder.signals import Budget, Told
from dataplane.quota_desk import QuotaDesk
from dataplane.release import Release
from dataplane.routing import Lane

# As a breaker does: neither a caller's mistake nor a quota says whether the provider works.
_JUDGED: Final = frozenset({Blame.NOBODY, Blame.LANE})
_AT: Final = itemgetter(0)
# Over which requests that come in are counted.
RATE_SECONDS: Final = 10.0


def _unknown(_: str) -> None:
    return None


class Past:
    """What running totals were a while ago."""

    __slots__ = ("_marks",)

    def __init__(self, totals: tuple[int, ...], *, now: float) -> None:
        self._marks = [(now, totals)]

    def mark(self, totals: tuple[int, ...], *, now: float, longest_seconds: float) -> None:
        """Remember what they are now, for as long as the longest window looks back."""
        self._marks.append((now, totals))
        # The one before the window is where it begins.
        del self._marks[: max(0, bisect_right(self._marks, now - longest_seconds, key=_AT) - 1)]

    def growth(self, seconds: float, *, now: float) -> tuple[int, ...]:
        """By how much each has grown in the last so many seconds, to within one look; in all time where that is
        shorter.
        """
        _, before = self._marks[max(0, bisect_right(self._marks, now - seconds, key=_AT) - 1)]
        _, after = self._marks[-1]
        return tuple(late - early for early, late in zip(before, after, strict=True))


class Tally:
    """The attempts at the lanes of a surface since this worker began."""

    __slots__ = ("attempts", "failures", "past")

    def __init__(self, *, now: float) -> None:
        self.attempts = 0
        self.failures = 0
        self.past = Past((0, 0), now=now)


class Look:
    """See the module. Belongs to one event loop."""

    def __init__(
        self,
        *,
        desk: LadderDesk,
        breakers: FleetBreakers,
        quotas: QuotaDesk,
        gauges: Callable[[str], Mapping[str, float]],
        clock: Callable[[], float],
        backlog: Callable[[str], float | None] = _unknown,
    ) -> None:
        """`gauges` gives what was read of a surface's GPUs, by trigger; `backlog` how long its oldest question that was
        put off has waited, in seconds, if anybody knows; `clock` is monotonic seconds.
        """
        self._desk = desk
        self._breakers = breakers
        self._quotas = quotas
        self._gauges = gauges
        self._backlog = backlog
        self._clock = clock
        self._arrivals: dict[str, Past] = {}
        self._lanes: dict[str, tuple[Lane, ...]] = {}
        self._cheaper: dict[str, tuple[Lane, ...]] = {}
        self._budgets: dict[str, dict[str, Budget]] = {}
        self._tallies: dict[str, Tally] = {}
        self._by_lane: dict[str, tuple[Tally, ...]] = {}

    def adopt(self, release: Release) -> None:
        """Follow another release. Attempts that were counted stay so as long as their surface does."""
        routes, now = release.routing.routes, self._clock()
        tallies: dict[str, Tally] = {}
        by_lane: dict[str, tuple[Tally, ...]] = {}
        looked_at = self._budgets.keys()
        self._lanes, self._cheaper, self._budgets = {}, {}, {}
        for slug, surface in release.ladder.items():
            lanes = {lane.id: lane for route in surface.routes for lane in routes[route].lanes}
            self._lanes[slug] = tuple(lanes.values())
            rung = surface.rungs.get(CHEAPER)
            self._cheaper[slug] = () if rung is None else routes[rung.route].lanes
            budgets = {name: one.budget for name, one in surface.triggers.items() if one.budget is not None}
            tally = tallies[slug] = self._tallies.get(slug) or Tally(now=now)
            if budgets:
                self._budgets[slug] = budgets
                if slug not in looked_at:
                    # Nothing was marked meanwhile: what was tried long ago would count as of just now.
                    tally.past = Past((tally.attempts, tally.failures), now=now)
            for lane in lanes:
                by_lane[lane] = (*by_lane.get(lane, ()), tally)
        self._tallies, self._by_lane = tallies, by_lane

    def count(self, lane: str, blame: Blame) -> None:
        """An attempt of customers at `lane` is over. Each attempt comes by here."""
        for tally in self._by_lane.get(lane, ()):
            if blame in _JUDGED:
                tally.attempts += 1
                tally.failures += blame is Blame.LANE

    def told(self, surface: Surface) -> Told:
        """What this worker tells its fleet now. To be asked about once a second: windows move on with it."""
        lanes = self._serving(surface)
        shares = self._quotas.shares_of(lanes.values())
        tally = self._tallies.get(surface.slug)
        return Told(
            in_flight=self._desk.in_flight(surface.slug),
            queue_age_seconds=max((one.oldest_seconds for one in shares), default=0.0),
            quota_utilisation=max((one.utilisation for one in shares), default=None),
            breakers_open_share=len(self._breakers.open_seconds(lanes)) / len(lanes) if lanes else None,
            windows=self._windows(surface.slug),
            gauges=self._gauges(surface.slug),
            requests_per_second=self._rate(surface.slug),
            backlog_age_seconds=self._backlog(surface.slug),
            attempts=0 if tally is None else tally.attempts,
            failures=0 if tally is None else tally.failures,
        )

    def _serving(self, surface: Surface) -> dict[str, Lane]:
        """The lanes that the surface's requests reach now, by their ids: on the rung of the cheaper model its lanes
        too, since those who wait for them are this surface's users.
        """
        lanes = self._lanes.get(surface.slug, ())
        is_cheaper = any(self._desk.engaged(surface, tier).rung >= CHEAPER for tier in TIERS)
        more = self._cheaper.get(surface.slug, ()) if is_cheaper else ()
        return {lane.id: lane for lane in chain(lanes, more)}

    def _windows(self, surface: str) -> dict[str, tuple[int, int]]:
        budgets = self._budgets.get(surface)
        if not budgets:
            return {}
        tally, now = self._tallies[surface], self._clock()
        longest = max(one.window_seconds.value for one in budgets.values())
        tally.past.mark((tally.attempts, tally.failures), now=now, longest_seconds=longest)
        windows = {}
        for name, budget in budgets.items():
            attempts, failures = tally.past.growth(budget.window_seconds.value, now=now)
            windows[name] = (attempts, failures)
        return windows

    def _rate(self, surface: str) -> float:
        now, arrived = self._clock(), (self._desk.arrived(surface),)
        past = self._arrivals.get(surface)
        if past is None:
            past = self._arrivals[surface] = Past(arrived, now=now)
        past.mark(arrived, now=now, longest_seconds=RATE_SECONDS)
        (grown,) = past.growth(RATE_SECONDS, now=now)
        return grown / RATE_SECONDS
