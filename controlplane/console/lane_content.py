"""What the pages show of lanes: the lamp, who holds it, what its breaker did by which numbers, what is on fire."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode

from django.db.models.fields.json import KT
from django.urls import reverse

from controlplane.console.charts import Moment, Series, line_chart
from controlplane.console.threshold_content import SPAN, Chart, narrow
from controlplane.console.threshold_words import WORDS
from controlplane.durations import duration
from controlplane.routing.effects import Pins, effects_of_holding
from controlplane.routing.models import LaneHold, Mode
from controlplane.telemetry.lanes import NOT_SERVING, LaneStanding
from controlplane.telemetry.measures import BY_KEY, figures
from controlplane.telemetry.models import MINUTE, WorkerEvent
from controlplane.telemetry.traffic import read
from dataplane.errors import GatewayError
from dataplane.routing import Lane, RoutingTable, eligible_lanes

# States of workers' breakers, as `components/_breaker_lamp.html` names them.
_LAMPS: Final = {
    "closed": "closed",
    "half_open": "half-open",
    "open": "open",
    "forced_open": "forced",
    "forced_closed": "held-closed",
}
_CAUSES: Final = {
    "tripped": "A threshold was crossed",
    "cooled_down": "Its time was over; probes are let through",
    "probe_failed": "A probe failed",
    "probes_passed": "The probes went well",
    "fleet_opened": "Another worker opened it",
    "fleet_closed": "Another worker closed it",
}
_LOOKED_BACK: Final = timedelta(hours=24)
_CHARTS: Final = ("failure_rate", "timeout_rate", "latency_p95_ms", "ttft_p95_ms")
_MOST_MOMENTS: Final = 8
_MOST_EVENTS: Final = 50


def lane_url(lane: str) -> str:
    """The page of a lane. Its id holds slashes, so it goes into the query."""
    return f"{reverse('lane')}?{urlencode({'lane': lane})}"


# --- the lamp --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Lamp:
    """The breaker of one lane as `components/_breaker_lamp.html` takes it; rates in percent."""

    state: str
    rate: float | None
    threshold: str
    samples: int
    minimum: int
    seconds_left: int | None
    probes: int
    probe_limit: int
    cause: str
    workers: str


def lamp(lane: Lane, standing: LaneStanding | None, hold: LaneHold | None) -> Lamp | None:
    """The lamp of a lane; None where it has no breaker.

    Args:
        hold: The one that is in effect. It is shown as soon as it is on its way, before the first worker says so.
    """
    policy = lane.breaker
    if policy is None:
        return None
    state = "unknown" if standing is None else _LAMPS[standing.state]
    if hold is not None:
        state = "forced" if hold.mode == Mode.OPEN else "held-closed"
    attempts, failures = (standing.attempts, standing.failures) if standing else (0, 0)
    left = standing.open_for_seconds if standing else None
    return Lamp(
        state=state,
        rate=round(100 * failures / attempts, 1) if attempts else None,
        threshold=WORDS["failure_rate"].typed(policy.failure_rate.value),
        samples=attempts,
        minimum=int(policy.minimum_attempts.value),
        seconds_left=None if left is None else round(left),
        probes=standing.probes if standing else 0,
        probe_limit=int(policy.probes.value),
        cause=cause_words(standing.cause) if standing else "",
        workers=_workers(standing) if standing else "",
    )


def cause_words(cause: str) -> str:
    """What opened a breaker, as people say it: a threshold's label, or the bare word."""
    return WORDS[cause].label.lower() if cause in WORDS else cause


def _workers(standing: LaneStanding) -> str:
    total = sum(standing.workers.values())
    return f"on {standing.workers[standing.state]} of {total} worker{'' if total == 1 else 's'}"


# --- on fire ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class OpenLane:
    """A lane that gets nothing, in words: since when, by what, and what serves instead. `held`: a person decided it."""

    lane: str
    text: str
    held: bool


def open_lanes(
    table: RoutingTable | None, standings: Mapping[str, LaneStanding], holds: Mapping[str, LaneHold], *, now: datetime
) -> list[OpenLane]:
    """Lanes of the table that are open, by breaker or by hand; one query when there are any."""
    if table is None:
        return []
    gone = {lane for lane in table.lanes if is_open(lane, standings, holds)}
    since = _opened_at(gone, now=now) if gone else {}
    return [_open_lane(table, lane, gone, since, standings, holds) for lane in table.lanes if lane in gone]


def is_open(lane: str, standings: Mapping[str, LaneStanding], holds: Mapping[str, LaneHold]) -> bool:
    """Whether a lane gets nothing: on-call's word first, then what the workers say."""
    if hold := holds.get(lane):
        return hold.mode == Mode.OPEN
    return lane in standings and standings[lane].state in NOT_SERVING


def _open_lane(
    table: RoutingTable,
    lane: str,
    gone: Collection[str],
    since: Mapping[str, datetime],
    standings: Mapping[str, LaneStanding],
    holds: Mapping[str, LaneHold],
) -> OpenLane:
    serves = "; ".join(_served_by(table, lane, gone))
    hold = holds.get(lane)
    if hold is not None and hold.until is not None:
        text = f"Held open by {hold.actor} since {_clock(hold.at)} until {_clock(hold.until)}: {hold.reason}"
        return OpenLane(lane, f"{text}; {serves}", held=True)
    standing = standings[lane]
    opened = f" since {_clock(since[lane])}" if lane in since else ""
    why = f", by {cause_words(standing.cause)}" if standing.cause else ""
    return OpenLane(lane, f"Open {_workers(standing)}{opened}{why}; {serves}", held=standing.state == "forced_open")


def _served_by(table: RoutingTable, lane: str, gone: Collection[str]) -> Iterable[str]:
    used = False
    for route in table.routes.values():
        if all(one.id != lane for one in route.lanes):
            continue
        used = True
        left = next((one.id for one in route.lanes if one.id not in gone), None)
        if left is not None:
            yield f"{route.slug} is served by {left}"
        elif route.fallback is not None:
            yield f"{route.slug} is answered by fallback stack {route.fallback.slug}"
        else:
            yield f"every request on {route.slug} gets an error"
    if not used:
        yield "no route uses it"


def _opened_at(lanes: Collection[str], *, now: datetime) -> dict[str, datetime]:
    """When each of these last went from closed to open, within the last day."""
    events = (
        WorkerEvent.objects.since(now - _LOOKED_BACK)
        .alias(of=KT("data__lane"))
        .filter(kind="breaker.changed", of__in=list(lanes), data__before="closed")
        .order_by("at")
    )
    return {event.data["lane"]: event.at for event in events[:500]}


def _clock(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%H:%M} UTC"


# --- one lane --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Step:
    """One thing that a lane's breaker did, with the numbers that made it do so."""

    at: datetime
    worker: str
    title: str
    tone: str
    why: str
    numbers: str


def steps(events: Iterable[WorkerEvent]) -> list[Step]:
    """Events of breakers in words, in their order."""
    return [_step(event) for event in events]


def _step(event: WorkerEvent) -> Step:
    data = event.data
    measured = data.get("measured") or {}
    if event.kind != "breaker.changed":
        return Step(
            event.at, event.worker, "Stayed closed", "watch", str(data.get("reason", "")), measured_words(measured)
        )
    after = str(data.get("after", ""))
    title = {"open": "Opened", "half_open": "Half-open", "closed": "Closed"}.get(after, after)
    if after == "open" and data.get("open_seconds"):
        title += f" for {duration(data['open_seconds'])}"
    tone = {"open": "bad", "half_open": "watch", "closed": "good"}.get(after, "off")
    cause = str(data.get("cause", ""))
    return Step(event.at, event.worker, title, tone, _CAUSES.get(cause, cause), measured_words(measured))


def measured_words(measured: Mapping[str, Any]) -> str:
    """The numbers that crossed a threshold; see `dataplane.breaker.Trip.to_json`. Empty where none did."""
    name = str(measured.get("threshold", ""))
    if name not in WORDS:
        return ""
    value, limit = f"{100 * measured['value']:.0f} %", f"{100 * measured['limit']:.0f} %"
    counted = f"{measured.get('failures', 0)} failures in {measured.get('attempts', 0)} attempts"
    if name in ("latency_p95_ms", "ttft_p95_ms"):
        what = "attempts" if name == "latency_p95_ms" else "streams"
        return f"{value} of {what} were over the limit of {WORDS[name].label.lower()}, {limit} may be; {counted}"
    return f"{WORDS[name].label} {value}, limit {limit}; {counted}"


def lane_events(lane: str) -> Sequence[WorkerEvent]:
    """The newest things that the lane's breaker did; one query."""
    return list(WorkerEvent.objects.of_lane(lane).newest()[:_MOST_EVENTS])


def lane_charts(lane: str, events: Sequence[WorkerEvent], *, now: datetime) -> list[Chart]:
    """What the lane did in the last hours, its openings and closings as vertical lines; three queries."""
    until = now.astimezone(UTC)
    since = (until - SPAN).replace(second=0, microsecond=0)
    tallies = read(lambda rows: rows.filter(lane=lane), None, since=since, until=until, step=MINUTE)
    known = {bucket: figures(tally, seconds=MINUTE.total_seconds()) for (bucket, _), tally in tallies.items()}
    times = [since + at * MINUTE for at in range(int((until - since) / MINUTE) + 1)]
    moments = [
        Moment(event.at, "open" if event.data["after"] == "open" else "closed", "incident")
        for event in events
        # Openings out of closed, and closings: the probes between them would only cover each other's words.
        if event.kind == "breaker.changed"
        and "closed" in (event.data.get("before"), event.data.get("after"))
        and event.at >= since
    ][:_MOST_MOMENTS]
    charts = []
    for key in _CHARTS:
        measure = BY_KEY[key]
        values = [known[at].get(key) if (at := int(time.timestamp())) in known else None for time in times]
        ys = [None if one is None or one.value is None else one.value * measure.scale for one in values]
        figure = line_chart(
            measure.label,
            measure.unit,
            [Series("this lane", "other", times, ys)],
            moments=moments,
            span=(times[0], times[-1]),
        )
        narrow(figure)
        charts.append(Chart(f"lane-{measure.chart_id}", measure.label, measure.unit, figure))
    return charts


# --- before somebody holds it ----------------------------------------------------------------------------------------
def scope_words(table: RoutingTable, lane: str, pins: Pins, share: float | None) -> str:
    """Which routes and how many tenants use a lane, and how much of the traffic it had."""
    routes = [route.slug for route in table.routes.values() if any(one.id == lane for one in route.lanes)]
    if not routes:
        return "No route uses it"
    reaching = sum(count for pin, count in pins.items() if any(_reaches(table, slug, pin, lane) for slug in routes))
    parts = [
        f"Route{'' if len(routes) == 1 else 's'} {', '.join(routes)}",
        f"{reaching} of {sum(pins.values())} tenants may reach it",
    ]
    if share is not None:
        parts.append(f"{share:.0%} of all attempts in the last 15 min".replace("%", " %", 1))
    return "; ".join(parts)


def _reaches(table: RoutingTable, route: str, pin: frozenset[str], lane: str) -> bool:
    try:
        lanes = eligible_lanes(table, route=route, residency=pin, needs=frozenset())
    except GatewayError:  # nothing inside the pin
        return False
    return any(one.id == lane for one in lanes)


def effect_words(
    table: RoutingTable, lane: str, mode: Mode, *, standings: Mapping[str, LaneStanding], holds: Any, pins: Pins
) -> str:
    """What holding the lane does, with every lane that is open now, by breaker or by hand, counted as gone."""
    gone = {one for one in table.lanes if is_open(one, standings, holds)}
    return ". ".join(effects_of_holding(table, lane, mode, held_open=gone, pins=pins)) + "."
