"""The routing table as the page shows it: routes with their lanes, what each lane does now, and who may reach which."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from controlplane.accounts.models import Tenant
from controlplane.console.diffs import diff_json
from controlplane.console.fires import FAILURE_RATE, MIN_ATTEMPTS
from controlplane.console.lane_content import Lamp, lamp, lane_url
from controlplane.console.policy_words import repair_note, spread_note, stream_note, validator_note
from controlplane.console.previews import Difference
from controlplane.ladder.models import CopyActivation
from controlplane.routing.models import LaneHold
from controlplane.routing.thresholds import NOUNS, ROUTE, owners_of
from controlplane.routing.thresholds import PARTS as PARTS_BY_KIND
from controlplane.telemetry.lanes import LaneStanding
from controlplane.telemetry.measures import Figure
from controlplane.telemetry.traffic import LaneHealth
from dataplane.errors import GatewayError
from dataplane.policies import COST, PREFERENCE, WEIGHT, FallbackStack
from dataplane.routing import Lane, Route, RoutingTable, eligible_lanes
from dataplane.sharding import lanes_of_tenant
from dataplane.steering import by_cost, by_speed

PARTS = (
    *("routes", "lanes", "breakers", "retries", "probes", "quotas", "streams", "repairs", "validators"),
    *("fallbacks", "accounts", "providers"),
)


@dataclass(frozen=True, slots=True)
class LaneRow:
    """One lane of a route: its place (from 1), its facts, what it did lately, how its breaker stands, and who holds it.

    `health` None: nobody tried it. `lamp` None: it has no breaker.
    """

    place: int
    lane: Lane
    health: LaneHealth | None
    lamp: Lamp | None
    hold: LaneHold | None

    @property
    def url(self) -> str:
        return lane_url(self.lane.id)

    @property
    def standing(self) -> str:
        """failing, healthy, little (too few attempts to tell) or idle; the same threshold as on the front page."""
        if self.health is None:
            return "idle"
        rate = self.health.totals["failure_rate"]
        if rate.value is None or rate.n < MIN_ATTEMPTS:
            return "little"
        return "failing" if rate.value >= FAILURE_RATE else "healthy"

    @property
    def share(self) -> str:
        return f"{self.health.share:.1%}" if self.health else "–"

    @property
    def attempts(self) -> str:
        return f"{self.health.totals['attempts'].n:,}" if self.health else "–"

    @property
    def failure_rate(self) -> str:
        return _shown(self.health.totals["failure_rate"] if self.health else None, scale=100, digits=2, unit="%")

    @property
    def p95(self) -> str:
        return _shown(self.health.totals["latency_p95_ms"] if self.health else None, scale=1, digits=0, unit="ms")

    @property
    def price(self) -> str:
        """US dollars per million tokens, in and out."""
        micros = (self.lane.input_micros_per_million_tokens, self.lane.output_micros_per_million_tokens)
        return " / ".join(f"${value / 1e6:,.2f}" for value in micros)


@dataclass(frozen=True, slots=True)
class Rung:
    """One rung below a route's lanes, with the copy that it shows. `version` None: nobody signed any words for it."""

    name: str
    copy: str
    note: str
    version: int | None

    @property
    def is_signed(self) -> bool:
        return self.version is not None


@dataclass(frozen=True, slots=True)
class RouteRows:
    """One route with its lanes in order of preference, and what is below them."""

    route: Route
    lanes: tuple[LaneRow, ...]
    rungs: tuple[Rung, ...]
    order: str

    @property
    def slug(self) -> str:
        return self.route.slug

    @property
    def streams(self) -> str:
        """What becomes of its streams; empty where no lane streams."""
        if self.route.streams is not None:
            return stream_note(self.route.streams)
        streaming = any("stream" in lane.capabilities for lane in self.route.lanes)
        return "end with the caller's connection" if streaming else ""

    @property
    def repair(self) -> str:
        """What becomes of its answers that are to be JSON; empty where it repairs none."""
        return "" if self.route.repair is None else repair_note(self.route.repair)

    @property
    def validators(self) -> str:
        """What looks at its answers before they go out; empty where nothing does."""
        return "" if self.route.validators is None else validator_note(self.route.validators)

    @property
    def spread(self) -> str:
        """Which accounts a tenant reaches, and whom it takes along; empty where there is nothing to choose from."""
        return spread_note(self.route)


@dataclass(frozen=True, slots=True)
class Reach:
    """Which lanes a tenant's requests may reach on one route, by the rule that workers apply. `refusal`: why none."""

    route: str
    lanes: tuple[str, ...]
    refusal: str


def route_rows(
    table: RoutingTable,
    health: Iterable[LaneHealth],
    standings: Mapping[str, LaneStanding],
    holds: Mapping[str, LaneHold],
    live: Mapping[str, CopyActivation],
) -> list[RouteRows]:
    """Every route with its lanes as they are, and the fallback stack below.

    Args:
        holds: Those in effect, by lane.
        live: What is live of each piece of copy, by its slug; see `live_copy`.
    """
    rows = {row.lane.id: row for row in lane_rows(table, health, standings, holds)}
    return [
        RouteRows(
            route,
            tuple(replace(rows[lane.id], place=place) for place, lane in enumerate(route.lanes, start=1)),
            rungs_of(route.fallback, live),
            order_now(route, standings),
        )
        for route in table.routes.values()
    ]


def order_now(route: Route, standings: Mapping[str, LaneStanding]) -> str:
    """In which order workers try the lanes at this moment, in words; by the workers' own rule.

    Of speed, each worker has its own view; this is the order by their mean.
    """
    steering = route.steering
    if steering.by == PREFERENCE:
        return "lanes in order of preference"
    if steering.by == WEIGHT and steering.weights is not None:
        total = sum(steering.weights.values())
        shares = [f"{lane.id} {steering.weights[lane.id] / total:.0%}".replace("%", " %") for lane in route.lanes]
        return f"by weight, tried first: {', '.join(shares)}"
    if steering.by == COST:
        return f"by cost, now {' → '.join(lane.id for lane in by_cost(route.lanes))}"
    waits = {lane: standing.wait_ms for lane, standing in standings.items()}
    known = [
        f"{lane.id} ({'not known' if (wait := waits.get(lane.id)) is None else f'{wait:,.0f} ms'})"
        for lane in by_speed(route.lanes, waits)
    ]
    return f"by speed, now {' → '.join(known)}"


def lane_rows(
    table: RoutingTable,
    health: Iterable[LaneHealth],
    standings: Mapping[str, LaneStanding],
    holds: Mapping[str, LaneHold],
) -> list[LaneRow]:
    """Every lane of the table, whatever routes it is in; arguments as for `route_rows`."""
    known = {one.lane: one for one in health}
    return [
        LaneRow(
            place=0,
            lane=lane,
            health=known.get(lane.id),
            lamp=lamp(lane, standings.get(lane.id), holds.get(lane.id)),
            hold=holds.get(lane.id),
        )
        for lane in sorted(table.lanes.values(), key=lambda lane: lane.id)
    ]


def idle_rows(table: RoutingTable, rows: Iterable[LaneRow]) -> list[LaneRow]:
    """Of these, the lanes that no route names."""
    used = {lane.id for route in table.routes.values() for lane in route.lanes}
    return [row for row in rows if row.lane.id not in used]


def rungs_of(stack: FallbackStack | None, live: Mapping[str, CopyActivation]) -> tuple[Rung, ...]:
    """The rungs of a stack in the order in which they are tried."""
    if stack is None:
        return ()
    rungs = []
    if stack.answers is not None:
        note = "for questions written like a signed one"
        if stack.answers.minimum_score is not None:
            note += f", or as near as {stack.answers.minimum_score.value:g} by route {stack.answers.embedding_route}"
        rungs.append(_rung("Cached answers", stack.answers.copy, note, live))
    if stack.template is not None:
        rungs.append(_rung("Template", stack.template, "the same words for every question", live))
    rungs.append(_rung("Outage", stack.outage, "says that there is no answer, and when to expect one", live))
    return tuple(rungs)


def _rung(name: str, copy: str, note: str, live: Mapping[str, CopyActivation]) -> Rung:
    activation = live.get(copy)
    return Rung(name, copy, note, activation.version.number if activation else None)


def live_copy() -> dict[str, CopyActivation]:
    """What is live of each piece of copy, by its slug; one query."""
    return {activation.version.copy.slug: activation for activation in CopyActivation.objects.current()}


def reaches(table: RoutingTable, tenant: Tenant) -> list[Reach]:
    """Per route, where the tenant's bytes may go."""
    found = []
    for slug, route in table.routes.items():
        try:
            lanes = eligible_lanes(table, route=slug, residency=frozenset(tenant.residency), needs=frozenset())
            lanes = lanes_of_tenant(lanes, tenant=tenant.slug, accounts=route.accounts_per_tenant)
            found.append(Reach(slug, tuple(lane.id for lane in lanes), ""))
        except GatewayError as exc:
            found.append(Reach(slug, (), str(exc)))
    return found


@dataclass(frozen=True, slots=True)
class Policies:
    """The policies of one kind, for the line that leads to them. `part` is that of the routing table."""

    label: str
    part: str
    slugs: tuple[str, ...]


def policies_of(table: RoutingTable) -> list[Policies]:
    """Every policy that has a page of its own, by kind."""
    return [
        Policies(f"{NOUNS[kind].capitalize().removesuffix('y')}ies", part, tuple(owners_of(table, kind)))
        for kind, part in PARTS_BY_KIND.items()
        if kind != ROUTE
    ]


def table_differences(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> list[Difference]:
    """Compare two routing documents part by part; without a `before`, everything is new."""
    return [
        Difference(part.capitalize(), diff_json(before.get(part, {}) if before else {}, after.get(part, {})))
        for part in PARTS
    ]


def _shown(figure: Figure | None, *, scale: float, digits: int, unit: str) -> str:
    if figure is None or figure.value is None:
        return "–"
    return f"{figure.value * scale:,.{digits}f} {unit}"
