"""What pages read: traffic over time, canary beside control, lanes, versions. A constant number of queries each.

Points of under a minute come from the 10 s rows, which are kept for two hours; longer ones from minute rows, and from
10 s rows for the minutes that are not folded yet.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.db.models import Max

from controlplane.telemetry.measures import BY_KEY, MEASURES, Figures, figures, figures_json
from controlplane.telemetry.models import BUCKET, COUNTS, MINUTE, TEXTS, CountedQuerySet, MinuteRollup, Rollup
from controlplane.telemetry.tally import Tally

ARMS: Final = ("canary", "control")
FLEET: Final = "fleet"

Narrow = Callable[[CountedQuerySet[Any]], CountedQuerySet[Any]]
# By the bucket's start in epoch seconds and the arm's name.
Tallies = dict[tuple[int, str], Tally]


@dataclass(frozen=True, slots=True)
class Arm:
    """One line of every chart. `points` runs beside the times of its traffic; None where nothing was measured."""

    points: tuple[Figures | None, ...]
    totals: Figures


@dataclass(frozen=True, slots=True)
class Traffic:
    """Arms over the same times, each the start of a step; the last step may be under way."""

    since: datetime
    until: datetime
    step_seconds: int
    times: tuple[datetime, ...]
    arms: Mapping[str, Arm]

    def values(self, arm: str, measure: str) -> list[float | None]:
        """One measure of an arm over the times, as it is (a share is 0..1); None where nothing was measured."""
        return [None if point is None else point[measure].value for point in self.arms[arm].points]

    def chart(self, measure: str, *, last: int | None = None) -> dict[str, Any]:
        """One measure as a chart draws it, in the unit of its axis (a share is 0..100).

        Args:
            last: Only so many of the newest points.
        Shape: {"x": [ISO-8601], "y": [[float or null] per arm, in the order of `arms`]}.
        """
        start = 0 if last is None else max(len(self.times) - last, 0)
        scale = BY_KEY[measure].scale
        return {
            "x": [at.isoformat() for at in self.times[start:]],
            "y": [
                [None if value is None else value * scale for value in self.values(arm, measure)[start:]]
                for arm in self.arms
            ],
        }

    def totals_json(self) -> dict[str, Any]:
        """Shape: {"<arm>": {"<measure>": {"value": float or null, "n": int}}}."""
        return {name: figures_json(arm.totals) for name, arm in self.arms.items()}

    def to_json(self, *, last: int | None = None) -> dict[str, Any]:
        """The whole of it; `last` as for `chart`.

        Shape: {"since", "until": ISO-8601, "step_seconds": int, "totals": see `totals_json`,
                "charts": {"<chart id, such as error-rate>": see `chart`}}.
        """
        return {
            "since": self.since.isoformat(),
            "until": self.until.isoformat(),
            "step_seconds": self.step_seconds,
            "totals": self.totals_json(),
            "charts": {measure.chart_id: self.chart(measure.key, last=last) for measure in MEASURES},
        }


@dataclass(frozen=True, slots=True)
class Comparison(Traffic):
    """A canary's matched arms, 'canary' and 'control', in this order. Callers without a unit key are in neither."""

    canary: str


@dataclass(frozen=True, slots=True)
class LaneHealth:
    """One lane over a range: its figures, and its share of all attempts (0..1)."""

    lane: str
    share: float
    totals: Figures

    def to_json(self) -> dict[str, Any]:
        """Shape: {"lane": str, "share": float, "totals": {"<measure>": {"value", "n"}}}."""
        return {"lane": self.lane, "share": self.share, "totals": figures_json(self.totals)}


@dataclass(frozen=True, slots=True)
class VersionTraffic:
    """One version of a prompt over a range, whoever it was served to."""

    version: int
    share: float
    totals: Figures

    def to_json(self) -> dict[str, Any]:
        """Shape: {"version": int, "share": float, "totals": {"<measure>": {"value", "n"}}}."""
        return {"version": self.version, "share": self.share, "totals": figures_json(self.totals)}


# --- what is asked ---------------------------------------------------------------------------------------------------
def compare(canary: str, *, since: datetime, until: datetime, step: timedelta | None = None) -> Comparison:
    """A canary beside its matched control, point by point and in total; at most three queries.

    Args:
        canary: Its slug.
        until: Usually now; the step under way is measured up to here.
        step: A multiple of 10 s; None picks one that gives at most some 180 points. Under 60 s reads rows that are kept
            for two hours.
    """
    step = step or step_for(since, until)
    since = _floor(since, step)
    tallies = read(lambda rows: rows.of_canary(canary), "cohort", since=since, until=until, step=step)
    return comparison_of(canary, tallies, since=since, until=until, step=step)


def fleet_traffic(*, since: datetime, until: datetime, step: timedelta | None = None) -> Traffic:
    """All traffic as one arm, 'fleet'; arguments as for `compare`."""
    step = step or step_for(since, until)
    since = _floor(since, step)
    tallies = read(lambda rows: rows, None, since=since, until=until, step=step)
    return Traffic(**_timeline(tallies, (FLEET,), since=since, until=until, step=step))


def lane_health(*, since: datetime, until: datetime) -> list[LaneHealth]:
    """Every lane that was attempted in the range, busiest first; at most three queries."""
    totals, share = _by_arm(lambda rows: rows.exclude(lane=""), "lane", "attempts", since=since, until=until)
    return [LaneHealth(name, share[name], one) for name, one in totals.items() if one["attempts"].n]


def traffic_by_version(prompt: str, *, since: datetime, until: datetime) -> list[VersionTraffic]:
    """Every version of a prompt that was served in the range, busiest first; at most three queries."""
    totals, share = _by_arm(lambda rows: rows.of_prompt(prompt), "version", "requests", since=since, until=until)
    return [VersionTraffic(int(name), share[name], one) for name, one in totals.items()]


def step_for(since: datetime, until: datetime) -> timedelta:
    """The step that gives a range at most some 200 points: 10 s up to 15 minutes, then whole minutes and hours."""
    span = until - since
    if span <= timedelta(minutes=16):
        return BUCKET
    for minutes in (1, 5, 15, 60):
        if span <= 200 * timedelta(minutes=minutes):
            return timedelta(minutes=minutes)
    return timedelta(hours=6)


# --- how it is read --------------------------------------------------------------------------------------------------
def read(narrow: Narrow, arm: str | None, *, since: datetime, until: datetime, step: timedelta) -> Tallies:
    """Tallies of the buckets that begin in [since, until), per step and value of the column `arm` (None: one arm).

    One query under a minute, three otherwise.
    """
    tallies: Tallies = defaultdict(Tally)
    fresh_since = since
    if step >= MINUTE:
        fresh_since = unfolded_since(since)
        if fresh_since > since:
            _collect(narrow(MinuteRollup.objects.between(since, min(until, fresh_since))), arm, step, tallies)
    if fresh_since < until:
        _collect(narrow(Rollup.objects.between(fresh_since, until)), arm, step, tallies)
    return tallies


def unfolded_since(since: datetime) -> datetime:
    """From where on 10 s rows have to be read, in a range that begins at `since`; minute rows tell of it before that.

    One query.
    """
    folded = MinuteRollup.objects.aggregate(newest=Max("bucket_at"))["newest"]
    return since if folded is None else max(since, folded + MINUTE)


def comparison_of(canary: str, tallies: Tallies, *, since: datetime, until: datetime, step: timedelta) -> Comparison:
    """The comparison that these tallies give; pure."""
    return Comparison(**_timeline(tallies, ARMS, since=since, until=until, step=step), canary=canary)


def traffic_of(tallies: Tallies, *, since: datetime, until: datetime, step: timedelta) -> Traffic:
    """The fleet's traffic that these tallies give; pure."""
    return Traffic(**_timeline(tallies, (FLEET,), since=since, until=until, step=step))


def _collect(rows: CountedQuerySet[Any], arm: str | None, step: timedelta, into: Tallies) -> None:
    step_seconds = int(step.total_seconds())
    columns = ["bucket_at", *([arm] if arm else []), *TEXTS, *COUNTS]
    skip = len(columns) - len(COUNTS)
    for row in rows.order_by().with_texts().values_list(*columns).iterator(chunk_size=2000):
        bucket = int(row[0].timestamp()) // step_seconds * step_seconds
        into[bucket, str(row[1]) if arm else FLEET].add_values(row[skip:], row[skip - len(TEXTS) : skip])


def _timeline(
    tallies: Tallies, arms: tuple[str, ...], *, since: datetime, until: datetime, step: timedelta
) -> dict[str, Any]:
    step_seconds = int(step.total_seconds())
    starts = range(int(since.timestamp()), _ceiling(until), step_seconds)
    # Rates are over the time since there was anything to measure, not over the part of the range before it.
    first = min((bucket for bucket, _ in tallies), default=None)
    seconds = 0.0 if first is None else until.timestamp() - first
    made: dict[str, Arm] = {}
    for arm in arms:
        total = Tally()
        points: list[Figures | None] = []
        for start in starts:
            tally = tallies.get((start, arm))
            if tally is None:
                points.append(None)
                continue
            total.add(tally)
            points.append(figures(tally, seconds=min(step_seconds, until.timestamp() - start)))
        made[arm] = Arm(tuple(points), figures(total, seconds=seconds))
    return {
        "since": since,
        "until": until,
        "step_seconds": step_seconds,
        "times": tuple(datetime.fromtimestamp(start, UTC) for start in starts),
        "arms": made,
    }


def _by_arm(
    narrow: Narrow, column: str, counted: str, *, since: datetime, until: datetime
) -> tuple[dict[str, Figures], dict[str, float]]:
    """Figures per value of a column, and its share of what is `counted`, the greatest first."""
    step = step_for(since, until)
    tallies = read(narrow, column, since=_floor(since, step), until=until, step=step)
    totals: defaultdict[str, Tally] = defaultdict(Tally)
    for (_, name), tally in tallies.items():
        totals[name].add(tally)
    first = min((bucket for bucket, _ in tallies), default=0)
    numbers: dict[str, int] = {name: getattr(tally, counted) for name, tally in totals.items()}
    everything = sum(numbers.values())
    busiest = sorted(totals.items(), key=lambda item: (-numbers[item[0]], item[0]))
    return (
        {name: figures(tally, seconds=until.timestamp() - first) for name, tally in busiest},
        {name: numbers[name] / everything if everything else 0.0 for name, _ in busiest},
    )


def _floor(moment: datetime, step: timedelta) -> datetime:
    seconds = int(step.total_seconds())
    return datetime.fromtimestamp(int(moment.timestamp()) // seconds * seconds, UTC)


def _ceiling(moment: datetime) -> int:
    return int(-(-moment.timestamp() // 1))
