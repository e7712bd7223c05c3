"""The threshold pages' content: what the lanes did lately under each line, and what other numbers would have done."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

from django.urls import reverse

from controlplane.console.charts import MAX_SERIES, Figure, Series, line_chart
from controlplane.console.charts import Threshold as Line
from controlplane.console.threshold_words import ORIGINS, Words, chart_id, words_of
from controlplane.durations import duration
from controlplane.routing.thresholds import (
    BREAKER,
    PARTS,
    PROBE,
    QUOTA,
    REPAIR,
    RETRY,
    ROUTE,
    STREAM,
    VALIDATOR,
    Placed,
    placed_thresholds,
)
from controlplane.telemetry.lane_counts import counted_minutes
from controlplane.telemetry.measures import BY_KEY, Figures
from controlplane.telemetry.models import MINUTE
from controlplane.telemetry.traffic import read
from dataplane.backtest import Backtest, backtest
from dataplane.policies import BreakerPolicy
from dataplane.routing import Route, RoutingTable
from dataplane.thresholds import Threshold

SPAN: Final = timedelta(hours=3)
REPLAYED: Final = timedelta(days=30)
# Kinds of policies that routes name, not lanes: the attribute of a route.
_NAMED_BY_ROUTES: Final = {RETRY: "retry", STREAM: "streams", REPAIR: "repair", VALIDATOR: "validators"}
_NAMED_BY_LANES: Final = {BREAKER: "breaker", PROBE: "probe", QUOTA: "quota"}


# --- the metric under the line ---------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Chart:
    """One threshold's measure over the last hours, a line per lane."""

    id: str
    title: str
    unit: str
    figure: Figure


def threshold_charts(lanes: Sequence[str], thresholds: Mapping[str, Threshold], *, now: datetime) -> list[Chart]:
    """A chart for each threshold that something measured is held against; three queries if there is one.

    Of many lanes the busiest are drawn.
    """
    held = {name: words for name in thresholds if (words := words_of("", name)).measure}
    if not held:
        return []
    measures = [BY_KEY[key] for key in sorted({words.measure for words in held.values()})]
    until = now.astimezone(UTC)
    since = _minute(until - SPAN)
    tallies = read(lambda rows: rows.filter(lane__in=lanes), "lane", since=since, until=until, step=MINUTE)
    attempts = dict.fromkeys(lanes, 0)
    for (_, lane), tally in tallies.items():
        attempts[lane] += tally.attempts
    shown = sorted(lanes, key=lambda lane: -attempts[lane])[:MAX_SERIES]
    points: dict[str, dict[int, Figures]] = {lane: {} for lane in shown}
    for (bucket, lane), tally in tallies.items():
        if lane in points:
            points[lane][bucket] = {one.key: one.compute(tally, MINUTE.total_seconds()) for one in measures}
    times = [since + at * MINUTE for at in range(int((until - since) / MINUTE) + 1)]
    buckets = [int(at.timestamp()) for at in times]
    by_lane = {lane: [points[lane].get(bucket) for bucket in buckets] for lane in sorted(shown)}
    return [_chart(name, thresholds[name], words, by_lane, times) for name, words in held.items()]


def _chart(
    name: str, threshold: Threshold, words: Words, points: Mapping[str, list[Figures | None]], times: list[datetime]
) -> Chart:
    measure = BY_KEY[words.measure]
    series = [
        Series(lane, "other", times, [_value(one, words.measure) for one in known]) for lane, known in points.items()
    ]
    limit = words.read(threshold.value) * words.measure_scale
    figure = line_chart(
        measure.label,
        measure.unit,
        series,
        thresholds=[Line(limit, f"in force: {words.shown(threshold.value)}")],
        span=(times[0], times[-1]),
        minimum_points=1,  # the line in force says something over the first minute already
    )
    # The line must be in the picture even when everything measured is far below it.
    highest = max((value for one in series for value in one.ys if value is not None), default=0.0)
    figure["layout"]["yaxis"]["range"] = [0, 1.15 * max(limit, highest)]
    narrow(figure)
    return Chart(chart_id(name), measure.label, measure.unit, figure)


def narrow(figure: Figure) -> None:
    """Make a chart of few hours readable in a narrow place: few ticks, upright, the hour alone."""
    figure["layout"].setdefault("xaxis", {}).update(nticks=4, tickangle=0, tickformat="%H:%M")


def _value(known: Figures | None, key: str) -> float | None:
    value = known[key].value if known else None
    return None if value is None else value * BY_KEY[key].scale


def _minute(moment: datetime) -> datetime:
    return moment.replace(second=0, microsecond=0)


# --- the back-test ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Outcome:
    """What one policy would have done to one lane, in words."""

    openings: int
    open_for: str
    first: datetime | None
    longest: str
    diverted: str


@dataclass(frozen=True, slots=True)
class Replayed:
    """One lane under the policy in force and under the one proposed. `before` None: the lane had no breaker.

    `problem` says why nothing can be concluded; empty when something can.
    """

    lane: str
    before: Outcome | None
    after: Outcome | None
    problem: str
    rests_on: str


def replay(
    lanes: Iterable[str], *, before: BreakerPolicy | None, after: BreakerPolicy | None, now: datetime
) -> list[Replayed]:
    """What both policies would have done to each lane in the last 30 days; None: no breaker. One pass per lane."""
    policies = [policy for policy in (before, after) if policy is not None]
    rows = []
    for lane in lanes:
        results = iter(backtest(policies, counted_minutes(lane, policies, since=now - REPLAYED, until=now)))
        old, new = (next(results) if policy is not None else None for policy in (before, after))
        rows.append(_replayed(lane, old, new))
    return rows


def _replayed(lane: str, before: Backtest | None, after: Backtest | None) -> Replayed:
    known = [one for one in (before, after) if one is not None]
    minutes = max(one.minutes for one in known)
    judged = max(one.judged for one in known)
    problem = ""
    if not minutes:
        problem = "No attempts in 30 days"
    elif not judged:
        problem = f"Never enough attempts in a window to judge by, in {minutes:,} minutes with attempts"
    return Replayed(
        lane=lane,
        before=_outcome(before),
        after=_outcome(after),
        problem=problem,
        rests_on=f"{judged:,} of {minutes:,} minutes with attempts had enough to judge by",
    )


def _outcome(result: Backtest | None) -> Outcome | None:
    if result is None:
        return None
    longest = result.longest
    return Outcome(
        openings=len(result.openings),
        open_for=duration(result.seconds_open) if result.openings else "–",
        first=result.openings[0].at if result.openings else None,
        longest=duration(longest.seconds) if longest else "–",
        diverted=f"{result.diverted_share:.2%}".replace("%", " %"),
    )


@dataclass(frozen=True, slots=True)
class NumberRow:
    """One number with its origin, as `components/_provenance.html` names it."""

    name: str
    words: Words
    threshold: Threshold
    is_overdue: bool

    @property
    def shown(self) -> str:
        return self.words.shown(self.threshold.value)

    @property
    def tag(self) -> str:
        return ORIGINS[self.threshold.provenance.origin][0]


Groups = tuple[tuple[str, tuple[NumberRow, ...]], ...]


def number_groups(
    thresholds: Iterable[tuple[str, Threshold]],
    read: Callable[[str], Words],
    group_of: Callable[[str], str],
    *,
    today: date,
) -> Groups:
    """Numbers under what they are of, both in the order in which they come, for `versioned/_numbers.html`."""
    groups: dict[str, list[NumberRow]] = {}
    for name, threshold in thresholds:
        row = NumberRow(name, read(name), threshold, threshold.provenance.is_overdue(today))
        groups.setdefault(group_of(name), []).append(row)
    return tuple((title, tuple(rows)) for title, rows in groups.items())


@dataclass(frozen=True, slots=True)
class PolicyReplay:
    """One breaker policy that a routing change alters, with what that would have done to its lanes."""

    slug: str
    changed: tuple[str, ...]
    rows: list[Replayed]


def altered_policies(before: RoutingTable | None, after: RoutingTable) -> list[tuple[str, tuple[str, ...]]]:
    """Breaker policies whose numbers differ between two tables, with what differs: 'Failure rate 50 % → 40 %'."""
    found = []
    for slug, policy in after.breakers.items():
        known = before.breakers.get(slug) if before else None
        if known is None:
            continue
        changed = moved_numbers(known.thresholds(), policy.thresholds())
        if changed:
            found.append((slug, changed))
    return found


def moved_numbers(before: Mapping[str, Threshold], after: Mapping[str, Threshold]) -> tuple[str, ...]:
    """The numbers that differ: 'Failure rate 50 % → 40 %'; 'none' stands for one that a route did not have, or lost."""
    moved = []
    for name in {**before, **after}:
        old, new = (side[name].value if name in side else None for side in (before, after))
        if old != new:
            words = words_of("", name)
            shown = ("none" if value is None else words.shown(value) for value in (old, new))
            moved.append(f"{words.label} {' → '.join(shown)}")
    return tuple(moved)


def replay_change(before: RoutingTable, after: RoutingTable, *, now: datetime) -> list[PolicyReplay]:
    """The back-test of every policy that a change of routing alters, over the lanes that will use it."""
    return [
        PolicyReplay(
            slug,
            changed,
            replay(
                lanes_using(after, BREAKER, slug), before=before.breakers[slug], after=after.breakers[slug], now=now
            ),
        )
        for slug, changed in altered_policies(before, after)
    ]


def lanes_using(table: RoutingTable, kind: str, slug: str) -> list[str]:
    """The lanes that a policy is for, or those of a route in its order."""
    if kind == ROUTE:
        return [lane.id for lane in table.routes[slug].lanes]
    if kind in _NAMED_BY_ROUTES:
        return sorted({lane.id for route in routes_naming(table, kind, slug) for lane in route.lanes})
    policies = {lane.id: getattr(lane, _NAMED_BY_LANES[kind]) for lane in table.lanes.values()}
    return sorted(lane for lane, policy in policies.items() if policy is not None and policy.slug == slug)


def routes_naming(table: RoutingTable, kind: str, slug: str) -> list[Route]:
    """The routes that name a policy; none for one of a kind that lanes name."""
    attribute = _NAMED_BY_ROUTES.get(kind)
    if attribute is None:
        return []
    named = [(route, getattr(route, attribute)) for route in table.routes.values()]
    return [route for route, policy in named if policy is not None and policy.slug == slug]


# --- every threshold there is ----------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Listed:
    """One threshold of the list. `url` leads to where it can be changed; empty where there is no such page."""

    placed: Placed
    words: Words
    url: str
    is_overdue: bool

    @property
    def shown(self) -> str:
        return self.words.shown(self.placed.threshold.value)

    @property
    def tag(self) -> str:
        return ORIGINS[self.placed.provenance.origin][0]


def listed_thresholds(table: RoutingTable, *, today: date) -> list[Listed]:
    """Every threshold of the table: overdue ones first, then by the day of their review."""
    rows = [
        Listed(one, words_of(one.kind, one.name), threshold_url(one), one.provenance.is_overdue(today))
        for one in placed_thresholds(table)
    ]
    return sorted(rows, key=lambda row: (not row.is_overdue, row.placed.provenance.review_by))


def threshold_url(one: Placed) -> str:
    """Where the threshold is changed; empty for one of a shadow or a fallback stack, which only a new table changes."""
    return f"{reverse('routing-policy', args=[PARTS[one.kind], one.slug])}#{one.name}" if one.kind in PARTS else ""
