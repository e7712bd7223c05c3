"""The routing table as the page shows it: routes with their lanes, what each lane does now, and who may reach which."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from controlplane.accounts.models import Tenant
from controlplane.console.diffs import diff_json
from controlplane.console.fires import ERROR_RATE, MIN_ATTEMPTS
from controlplane.console.previews import Difference
from controlplane.telemetry.measures import Figure
from controlplane.telemetry.traffic import LaneHealth
from dataplane.errors import GatewayError
from dataplane.routing import Lane, RoutingTable, eligible_lanes

PARTS = ("routes", "lanes", "accounts", "providers")


@dataclass(frozen=True, slots=True)
class LaneRow:
    """One lane of a route: its place (from 1), its facts, and what it did lately. `health` None: nobody tried it."""

    place: int
    lane: Lane
    health: LaneHealth | None

    @property
    def standing(self) -> str:
        """failing, healthy, little (too few attempts to tell) or idle; the same threshold as on the front page."""
        if self.health is None:
            return "idle"
        rate = self.health.totals["error_rate"]
        if rate.value is None or rate.n < MIN_ATTEMPTS:
            return "little"
        return "failing" if rate.value >= ERROR_RATE else "healthy"

    @property
    def share(self) -> str:
        return f"{self.health.share:.1%}" if self.health else "–"

    @property
    def requests(self) -> str:
        return f"{self.health.totals['requests'].n:,}" if self.health else "–"

    @property
    def error_rate(self) -> str:
        return _shown(self.health.totals["error_rate"] if self.health else None, scale=100, digits=2, unit="%")

    @property
    def p95(self) -> str:
        return _shown(self.health.totals["latency_p95_ms"] if self.health else None, scale=1, digits=0, unit="ms")

    @property
    def price(self) -> str:
        """US dollars per million tokens, in and out."""
        micros = (self.lane.input_micros_per_million_tokens, self.lane.output_micros_per_million_tokens)
        return " / ".join(f"${value / 1e6:,.2f}" for value in micros)

    @property
    def capabilities(self) -> list[str]:
        return sorted(self.lane.capabilities)


@dataclass(frozen=True, slots=True)
class RouteRows:
    """One route with its lanes in order of preference."""

    slug: str
    deadline_ms: int
    lanes: tuple[LaneRow, ...]


@dataclass(frozen=True, slots=True)
class Reach:
    """Which lanes a tenant's requests may reach on one route, by the rule that workers apply. `refusal`: why none."""

    route: str
    lanes: tuple[str, ...]
    refusal: str


def route_rows(table: RoutingTable, health: Iterable[LaneHealth]) -> list[RouteRows]:
    """Every route with its lanes and their health."""
    known = {one.lane: one for one in health}
    return [
        RouteRows(
            route.slug,
            route.deadline_ms,
            tuple(_row(place, lane, known) for place, lane in enumerate(route.lanes, start=1)),
        )
        for route in table.routes.values()
    ]


def idle_rows(table: RoutingTable, health: Iterable[LaneHealth]) -> list[LaneRow]:
    """The lanes that no route names."""
    known = {one.lane: one for one in health}
    used = {lane.id for route in table.routes.values() for lane in route.lanes}
    return [_row(0, lane, known) for lane in table.lanes.values() if lane.id not in used]


def _row(place: int, lane: Lane, known: Mapping[str, LaneHealth]) -> LaneRow:
    return LaneRow(place, lane, known.get(lane.id))


def reaches(table: RoutingTable, tenant: Tenant) -> list[Reach]:
    """Per route, where the tenant's bytes may go."""
    found = []
    for slug in table.routes:
        try:
            lanes = eligible_lanes(table, route=slug, residency=frozenset(tenant.residency), needs=frozenset())
            found.append(Reach(slug, tuple(lane.id for lane in lanes), ""))
        except GatewayError as exc:
            found.append(Reach(slug, (), str(exc)))
    return found


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
