"""The drill pages' content: what leaving would do, what it did lane by lane, and what it taught."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any
from urllib.parse import urlencode

from django.urls import reverse

from controlplane.accounts.models import Tenant
from controlplane.console.lane_content import lane_url
from controlplane.console.threshold_words import WORDS
from controlplane.routing.effects import pins_of
from controlplane.routing.errors import RouteWithoutLanes, UnknownProvider
from controlplane.routing.leaving import effects_of_leaving, lanes_of, left_out, without_provider
from controlplane.routing.lessons import Lesson, with_lessons
from controlplane.routing.models import Drill, RoutingTable
from controlplane.routing.thresholds import PARTS, Census, census
from dataplane.routing import RoutingTable as Routing


# --- before ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Choice:
    """A provider that can be left, with the address of the form that does."""

    slug: str
    lanes: int
    url: str


def leavable(table: Routing) -> list[Choice]:
    """The providers of the table, for the buttons of the routing page."""
    counts = {slug: sum(lane.provider == slug for lane in table.lanes.values()) for slug in sorted(table.providers)}
    return [
        Choice(slug, count, f"{reverse('drill-new')}?{urlencode({'target': f'provider:{slug}'})}")
        for slug, count in counts.items()
        if count
    ]


@dataclass(frozen=True, slots=True)
class Preview:
    """What leaving these lanes would do. `leaves_out`: tenants would have no lane, which somebody has to accept."""

    lanes: tuple[str, ...]
    effects: tuple[str, ...]
    leaves_out: bool


def preview(table: Routing, subject: Mapping[str, str], *, gone: Iterable[str]) -> Preview | None:
    """The effect of a drill before it is started; None where there is nothing of that name. One query."""
    lane = subject.get("lane", "")
    if lane and lane not in table.lanes:
        return None
    try:
        lanes = [lane] if lane else lanes_of(table, subject.get("provider", ""))
    except UnknownProvider:
        return None
    pins, absent = pins_of(Tenant.objects.values_list("residency", flat=True)), set(gone)
    return Preview(
        tuple(lanes),
        tuple(effects_of_leaving(table, lanes, gone=absent, pins=pins)),
        bool(left_out(table, lanes, gone=absent, pins=pins)),
    )


# --- what it showed --------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Pair:
    """One figure before the drill and while it ran, ready to show; `n` observations while it ran."""

    before: str
    during: str
    n: int = 0


@dataclass(frozen=True, slots=True)
class LaneRow:
    """One lane of a drill."""

    lane: str
    url: str
    is_left: bool
    attempts: Pair
    share: Pair
    p95: Pair
    ttft: Pair
    drain: Pair
    returned: str

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Everything that stands beside its value of before, in the order of the columns."""
        return self.attempts, self.share, self.p95, self.ttft, self.drain


def lane_rows(figures: Mapping[str, Any]) -> list[LaneRow]:
    """What each lane did, those that took over first."""
    returned = {one["lane"]: one["ms"] for one in figures["returned"]}
    return [
        LaneRow(
            lane=row["lane"],
            url=lane_url(row["lane"]),
            is_left=row["is_left"],
            attempts=Pair(f"{row['before']['attempts']:,}", f"{row['during']['attempts']:,}"),
            share=_pair(row, lambda period: _share(period["share"])),
            p95=_pair(row, lambda period: _number(period["latency_p95_ms"], "ms"), "latency_p95_ms"),
            ttft=_pair(row, lambda period: _number(period["ttft_p95_ms"], "ms"), "ttft_p95_ms"),
            drain=_pair(row, lambda period: _number(period["drain_tps_p5"], "tokens/s"), "drain_tps_p5"),
            returned=_returned(returned, row["lane"]),
        )
        for row in figures["lanes"]
    ]


def _pair(row: Mapping[str, Any], show: Any, measure: str = "") -> Pair:
    n = row["during"][measure]["n"] if measure else 0
    return Pair(show(row["before"]), show(row["during"]), n)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}".replace("%", " %")


def _number(figure: Mapping[str, Any], unit: str) -> str:
    return "–" if figure["value"] is None else f"{figure['value']:,.0f} {unit}"


def _returned(returned: Mapping[str, float | None], lane: str) -> str:
    ms = returned.get(lane)
    return "–" if ms is None else f"{ms / 1000:,.1f} s after"


# --- what it taught --------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Proposal:
    """What could be proposed from a drill: the lessons in words, and the share of guesses before and after."""

    rows: tuple[dict[str, str], ...]
    before: Census
    after: Census

    @property
    def sentence(self) -> str:
        return f"{self.before.sentence}. Once it is signed: {self.after.sentence}."


def proposal(active: RoutingTable, drill: Drill, learned: list[Lesson], *, today: date) -> Proposal | None:
    """None where the drill taught nothing."""
    if not learned:
        return None
    after = with_lessons(active.document, learned, drill, author="-", on=today)
    rows = tuple(
        {
            "label": WORDS[one.name].label,
            "kind": one.kind,
            "slug": one.slug,
            "url": f"{reverse('routing-policy', args=[PARTS[one.kind], one.slug])}#{one.name}",
            "before": WORDS[one.name].shown(one.before),
            "after": WORDS[one.name].shown(one.after),
            "note": one.note(drill),
        }
        for one in learned
    )
    return Proposal(rows, census(active.parsed(), today=today), census(Routing.parse(after), today=today))


def why_not_for_good(active: RoutingTable | None, drill: Drill) -> str:
    """Why the drill's provider cannot be left for good by a change of the table in force; empty when it can."""
    if not drill.provider:
        return "It left one lane, not a provider."
    if active is None:
        return "No routing table is in force."
    try:
        without_provider(active.document, drill.provider)
    except UnknownProvider:
        return f"{drill.provider} is left for good already: the table in force has no lane of it."
    except RouteWithoutLanes as exc:
        return f"{exc}."
    return ""
