"""What was read of surfaces and what their ladders did about it: charts of readings, episodes, and rungs' use."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Final

from django.urls import reverse

from controlplane.console.charts import Moment, Series, line_chart
from controlplane.console.charts import Threshold as Line
from controlplane.console.ladder_words import SIGNAL_WORDS
from controlplane.console.templatetags.ballast import NO_VALUE, micros, milliseconds
from controlplane.console.threshold_content import SPAN, Chart
from controlplane.console.threshold_words import chart_id
from controlplane.ladder.effects import TIER_NAMES
from controlplane.telemetry.ladder_capacity import RungUse, spoken
from controlplane.telemetry.ladder_episodes import Episode, episodes
from controlplane.telemetry.surface_load import Load, LoadPoint, readings
from dataplane.ladder.policy import OFF, RUNGS, Surface, Trigger
from dataplane.ladder.signals import GPU

LOOKED_BACK: Final = timedelta(days=30)
MOST_EPISODES: Final = 20
_MOST_MOMENTS: Final = 12


def reading_charts(surface: Surface, *, now: datetime) -> list[Chart]:
    """What each trigger read in the last hours, with its two numbers as lines and the ladder's steps as vertical lines;
    one query.
    """
    until = now.astimezone(UTC)
    load = readings(surface.slug, since=(until - SPAN).replace(second=0, microsecond=0), until=until)
    moments = _steps(load.points)
    charts = []
    for slug, trigger in surface.triggers.items():
        words = SIGNAL_WORDS[trigger.signal]
        known = {
            point.at: None if value is None else words.read(value)
            for point, value in zip(load.points, _values(trigger, load), strict=True)
        }
        times = list(_times(load))
        figure = line_chart(
            f"{words.label} ({slug})",
            words.unit,
            [Series(slug, "other", times, [known.get(at) for at in times])],
            thresholds=[
                Line(words.read(trigger.enter.value), f"presses at {words.shown(trigger.enter.value)}"),
                Line(words.read(trigger.exit.value), f"calm at {words.shown(trigger.exit.value)}"),
            ],
            moments=moments,
            span=(load.since, load.until),
        )
        charts.append(Chart(chart_id(f"triggers.{slug}.enter"), f"{words.label}, {slug}", words.unit, figure))
    return charts


def _times(load: Load) -> Iterator[datetime]:
    """Every step from the first reading to the last, so that a gap is seen as one."""
    if not load.points:
        return
    at = load.points[0].at
    while at <= load.points[-1].at:
        yield at
        at += load.step


def _values(trigger: Trigger, load: Load) -> Iterator[float | None]:
    """What the trigger read at each point of the load."""
    if trigger.budget is not None:
        yield from _burns(trigger, load)
        return
    for point in load.points:
        yield point.gauges.get(trigger.slug) if trigger.signal == GPU else point.values.get(trigger.signal)


def _burns(trigger: Trigger, load: Load) -> Iterator[float | None]:
    budget = trigger.budget
    assert budget is not None  # noqa: S101 - narrows the type; the caller has looked
    window = max(load.step, timedelta(seconds=budget.window_seconds.value))
    recent: deque[LoadPoint] = deque()
    for point in load.points:
        recent.append(point)
        while point.at - recent[0].at >= window:
            recent.popleft()
        yield budget.burn(attempts=sum(one.attempts for one in recent), failures=sum(one.failures for one in recent))


def _steps(points: Sequence[LoadPoint]) -> list[Moment]:
    moved: Iterable[Moment] = (
        Moment(later.at, f"rung {later.level}" if later.level != OFF else "off", "incident")
        for earlier, later in pairwise(points)
        if later.level != earlier.level
    )
    return list(moved)[-_MOST_MOMENTS:]


# --- how much rungs were on ------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class RungRow:
    """How much one rung was on, for reading."""

    use: RungUse

    @property
    def on(self) -> str:
        return spoken(self.use.on_seconds) if self.use.on_seconds else NO_VALUE

    @property
    def share(self) -> str:
        return percent(self.use.share)

    @property
    def request_share(self) -> str:
        return NO_VALUE if self.use.request_share is None else percent(self.use.request_share)


def percent(share: float) -> str:
    """A share for reading; what is more than nothing is never said to be nothing."""
    return "under 0.1 %" if 0 < share < 0.001 else f"{100 * share:.1f} %"


# --- one episode -----------------------------------------------------------------------------------------------------
# What became of requests, as people say it.
OUTCOME_WORDS: Final = {
    "answered": "Answered by a model",
    "copy": "Answered with signed words",
    "later": "Put off",
    "refused": "Refused",
    "failed": "Failed",
    "cancelled": "Given up by callers",
    "rejected": "Callers' own mistakes",
}


@dataclass(frozen=True, slots=True)
class EpisodeRow:
    """One episode, for reading; its numbers are in words already."""

    episode: Episode

    @property
    def url(self) -> str:
        return reverse("ladder-episode", args=[self.episode.surface, self.episode.id])

    @property
    def lasted(self) -> str:
        return spoken(self.episode.duration.total_seconds())

    @property
    def cause(self) -> str:
        """What it began with."""
        return self.episode.steps[0].sentence

    @property
    def touched(self) -> str:
        return f"{self.episode.touched_requests:,}"

    @property
    def touched_note(self) -> str:
        whole = self.episode.requests
        return f"{percent(self.episode.touched_requests / whole)} of {whole:,} requests" if whole else "nobody asked"

    @property
    def waited(self) -> str:
        return milliseconds(self.episode.wait_p95_ms)

    @property
    def waited_note(self) -> str:
        half = self.episode.wait_p50_ms
        return "" if half is None else f"half of them {milliseconds(half)} or less"

    @property
    def cost(self) -> str:
        return micros(self.episode.cost_micros)

    @property
    def cost_note(self) -> str:
        hourly = self.episode.cost_per_hour_micros
        if hourly is None:
            return "too short to compare"
        return f"{micros(hourly)} an hour; {micros(self.episode.cost_before_micros)} in the hour before"

    @property
    def touched_rows(self) -> list[dict[str, Any]]:
        """Shape: [{"rung", "tier": str, "requests": int}]."""
        return [
            {"rung": f"{rung}, {RUNGS[rung]}", "tier": TIER_NAMES.get(tier, tier), "requests": count}
            for rung, by_tier in sorted(self.episode.touched.items())
            for tier, count in by_tier.items()
        ]

    @property
    def outcomes(self) -> list[tuple[str, int]]:
        """What became of how many requests, as people say it."""
        known = self.episode.outcomes
        return [(words, known[name]) for name, words in OUTCOME_WORDS.items() if known.get(name)]


def episode_rows(slug: str, *, now: datetime) -> list[EpisodeRow]:
    """The newest episodes of the last days; as many queries however many."""
    found = episodes(slug, since=now - LOOKED_BACK, until=now, now=now, most=MOST_EPISODES)
    return [EpisodeRow(one) for one in found]
