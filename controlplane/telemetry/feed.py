"""What live pages are told, computed once for all who watch: of traffic a sliding window, of which only the newest part
is read again; of lanes, quotas and ladders those that stand differently.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from controlplane.telemetry.lanes import lane_states
from controlplane.telemetry.models import BUCKET
from controlplane.telemetry.quotas import quota_states
from controlplane.telemetry.surfaces import ladder_standings
from controlplane.telemetry.traffic import (
    Comparison,
    Narrow,
    Tallies,
    Traffic,
    comparison_of,
    read,
    traffic_of,
)

# The totals of live messages are over this much; a page that shows another range keeps its own.
CANARY_WINDOW: Final = timedelta(minutes=15)
OVERVIEW_WINDOW: Final = timedelta(minutes=15)
# How much of a window is read every time, and how often all of it: another process may have taken in something old.
_NEWEST: Final = 2 * BUCKET
_REREAD_AFTER: Final = timedelta(seconds=30)
POINTS_PER_MESSAGE: Final = 2


class Window:
    """The tallies of the last minutes, in 10 s steps. One query a refresh, over the newest two or three buckets."""

    def __init__(self, narrow: Narrow, arm: str | None, *, length: timedelta) -> None:
        self._narrow = narrow
        self._arm = arm
        self._length = length
        self._tallies: Tallies = {}
        self._read_at: datetime | None = None

    def refresh(self, *, now: datetime, touched: datetime | None = None) -> tuple[Tallies, datetime]:
        """Return the tallies of the window that ends now, and its start.

        Args:
            touched: The oldest bucket that something arrived for since the last time; None: nothing old.
        """
        since = _bucket_of(now - self._length)
        reread = self._read_at is None or now - self._read_at >= _REREAD_AFTER or now < self._read_at
        newest = _bucket_of(now) - _NEWEST
        start = since if reread else max(since, min(newest, touched or newest))
        kept = {
            key: tally
            for key, tally in self._tallies.items()
            if int(since.timestamp()) <= key[0] < int(start.timestamp())
        }
        self._tallies = kept | read(self._narrow, self._arm, since=start, until=now, step=BUCKET)
        if reread:
            self._read_at = now
        return self._tallies, since


class CanaryFeed:
    """What the topic "canary.<slug>" carries."""

    def __init__(self, slug: str) -> None:
        self.slug = slug
        self._window = Window(lambda rows: rows.of_canary(slug), "cohort", length=CANARY_WINDOW)

    def comparison(self, *, now: datetime, touched: datetime | None = None) -> Comparison:
        """The last 15 minutes of the canary beside its control."""
        tallies, since = self._window.refresh(now=now, touched=touched)
        return comparison_of(self.slug, tallies, since=since, until=now, step=BUCKET)

    def message(self, *, now: datetime, touched: datetime | None = None) -> dict[str, Any]:
        """The newest two points of every chart, and the totals of the last 15 minutes for the tiles.

        Shape: {"now", "since", "until": ISO-8601, "step_seconds": 10, "window_seconds": 900,
                "totals": {"canary"|"control": {"<measure>": {"value": float or null, "n": int}}},
                "charts": {"<chart id>": {"x": [ISO-8601, ISO-8601], "y": [[canary, canary], [control, control]]}}}.
        Measures and chart ids: `controlplane.telemetry.measures.MEASURES`. In totals a share is 0..1, in charts 0..100.
        """
        comparison = self.comparison(now=now, touched=touched)
        return {
            "now": now.isoformat(),
            "window_seconds": int(CANARY_WINDOW.total_seconds()),
            **comparison.to_json(last=POINTS_PER_MESSAGE),
        }


class OverviewFeed:
    """What the topic "overview" carries."""

    def __init__(self) -> None:
        self._window = Window(lambda rows: rows, None, length=OVERVIEW_WINDOW)

    def traffic(self, *, now: datetime, touched: datetime | None = None) -> Traffic:
        """The last 15 minutes of the whole fleet."""
        tallies, since = self._window.refresh(now=now, touched=touched)
        return traffic_of(tallies, since=since, until=now, step=BUCKET)

    def message(self, *, now: datetime, touched: datetime | None = None) -> dict[str, Any]:
        """As `CanaryFeed.message` with the single arm "fleet".

        Shape: {"now", "since", "until", "step_seconds", "window_seconds", "totals": {"fleet": {…}},
                "charts": {"<chart id>": {"x": […], "y": [[fleet…]]}}}.
        """
        return {
            "now": now.isoformat(),
            "window_seconds": int(OVERVIEW_WINDOW.total_seconds()),
            **self.traffic(now=now, touched=touched).to_json(last=POINTS_PER_MESSAGE),
        }


def lanes_message(lanes: Iterable[str], *, now: datetime) -> dict[str, Any]:
    """What the topic "lanes" carries: how these lanes are held now; null for one that no worker holds any more.

    Shape: {"now": ISO-8601, "lanes": {"<lane>": see `LaneStanding.to_json`, or null}}.
    """
    standings = lane_states(now)
    return {
        "now": now.isoformat(),
        "lanes": {lane: standings[lane].to_json() if lane in standings else None for lane in sorted(lanes)},
    }


def quotas_message(pools: Iterable[str], *, now: datetime) -> dict[str, Any]:
    """What the topic "quotas" carries: how these pools stand now; null for one that no worker tells of any more.

    Shape: {"now": ISO-8601, "pools": {"<account>/<policy>": see `QuotaStanding.to_json`, or null}}.
    """
    standings = quota_states(now)
    return {
        "now": now.isoformat(),
        "pools": {pool: standings[pool].to_json() if pool in standings else None for pool in sorted(pools)},
    }


def ladders_message(surfaces: Iterable[str], *, now: datetime) -> dict[str, Any]:
    """What the topic "ladders" carries: how these ladders stand now; null for one that no worker tells of any more.

    Shape: {"now": ISO-8601, "surfaces": {"<surface>": see `LadderStanding.to_json`, or null}}.
    """
    standings = ladder_standings(now)
    return {
        "now": now.isoformat(),
        "surfaces": {slug: standings[slug].to_json() if slug in standings else None for slug in sorted(surfaces)},
    }


def _bucket_of(moment: datetime) -> datetime:
    seconds = int(BUCKET.total_seconds())
    return datetime.fromtimestamp(int(moment.timestamp()) // seconds * seconds, UTC)
