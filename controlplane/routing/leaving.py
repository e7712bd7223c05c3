"""What it means to leave lanes: who has none left, what is lost with them, and a table without a provider. Pure."""

import copy
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from controlplane.routing.effects import Pins
from controlplane.routing.errors import RouteWithoutLanes, UnknownProvider
from dataplane.errors import GatewayError
from dataplane.policies import CONTINUE
from dataplane.routing import Lane, Route, RoutingTable, eligible_lanes
from dataplane.sharding import groups_of_twins


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Tenants of a route that could reach a lane, and can reach none any more. `stack` None: they get an error."""

    route: str
    tenants: int
    stack: str | None

    @property
    def sentence(self) -> str:
        """In words: 'Route chat: no lane is left for 2 tenants; they get the signed words of …'."""
        who = "1 tenant; it gets" if self.tenants == 1 else f"{self.tenants} tenants; they get"
        what = (
            "an error, since there is no fallback stack below" if self.stack is None else f"signed copy ({self.stack})"
        )
        return f"Route {self.route}: no lane is left for {who} {what}"


def lanes_of(table: RoutingTable, provider: str) -> list[str]:
    """The lanes of a provider, by id, but for those that only shadows ask: nobody is served by these.

    Raises:
        UnknownProvider: there are none.
    """
    asked_again = {lane for policy in table.shadows.values() for lane in policy.all_lanes}
    found = sorted(lane.id for lane in table.lanes.values() if lane.provider == provider and lane.id not in asked_again)
    if not found:
        raise UnknownProvider(f"the table in force has no lane of a provider {provider!r}")
    return found


def touched_routes(table: RoutingTable, lanes: Collection[str]) -> list[Route]:
    """The routes that name any of these lanes."""
    return [route for route in table.routes.values() if any(lane.id in lanes for lane in route.lanes)]


def left_out(table: RoutingTable, lanes: Collection[str], *, gone: Collection[str], pins: Pins) -> list[LeftOut]:
    """Per route, how many tenants have no lane left without `lanes`; routes where everybody has one are left out.

    A route that loses its last lane is named even when there are no tenants.

    Args:
        gone: Lanes that get nothing already.
    """
    absent = {*lanes, *gone}
    found = []
    for route in touched_routes(table, lanes):
        count = sum(tenants for pin, tenants in pins.items() if _has_none(table, route, pin, absent))
        if count or all(lane.id in absent for lane in route.lanes):
            found.append(LeftOut(route.slug, count, route.fallback.slug if route.fallback else None))
    return found


def effects_of_leaving(table: RoutingTable, lanes: Collection[str], *, gone: Collection[str], pins: Pins) -> list[str]:
    """Sentences on what happens to requests while nothing goes to `lanes`; arguments as for `left_out`."""
    return list(_effects(table, lanes, gone, pins))


def _effects(table: RoutingTable, lanes: Collection[str], gone: Collection[str], pins: Pins) -> Iterator[str]:
    absent = {*lanes, *gone}
    routes = touched_routes(table, lanes)
    if not routes:
        yield "No route uses these lanes, so no request is touched"
    for route in routes:
        left = [lane for lane in route.lanes if lane.id not in absent]
        if not left:
            continue  # said below
        yield f"Route {route.slug} is served by {', then '.join(lane.id for lane in left)}"
        had = frozenset[str]().union(*(lane.capabilities for lane in route.lanes if lane.id in lanes))
        lost = sorted(had.difference(*(lane.capabilities for lane in left)))
        if lost:
            yield f"Route {route.slug} refuses requests that need {' or '.join(lost)}: no lane that is left can"
        if "prefill" in lost and route.streams is not None and route.streams.on_cut == CONTINUE:
            yield f"Streams of route {route.slug} that break off end: no lane that is left can go on with them"
    for one in left_out(table, lanes, gone=gone, pins=pins):
        yield one.sentence


def _has_none(table: RoutingTable, route: Route, pin: frozenset[str], absent: Collection[str]) -> bool:
    try:
        reached = eligible_lanes(table, route=route.slug, residency=pin, needs=frozenset())
    except GatewayError:  # nothing inside the pin, with or without these lanes
        return False
    return all(lane.id in absent for lane in reached)


def without_provider(document: Mapping[str, Any], provider: str) -> dict[str, Any]:
    """A copy of a routing document without a provider: its lanes, its accounts and its name.

    Policies that only its lanes used stay; they hurt nobody, and the next lane may want them. A route goes on spreading
    its tenants over accounts as far as there are accounts left to choose from. A shadow goes on with the candidates
    that are left, and ends where there are none.

    Raises:
        UnknownProvider: the document has no lane of it.
        RouteWithoutLanes: naming the routes that have no other lanes.
    """
    changed = copy.deepcopy(dict(document))
    known = RoutingTable.parse(document).lanes
    gone = {lane for lane, entry in changed["lanes"].items() if entry["provider"] == provider}
    if not gone:
        raise UnknownProvider(f"the table in force has no lane of a provider {provider!r}")
    empty = [slug for slug, route in changed["routes"].items() if gone.issuperset(route["lanes"])]
    if empty:
        verb = "has" if len(empty) == 1 else "have"
        raise RouteWithoutLanes(
            f"without {provider!r} {' and '.join(f'route {slug!r}' for slug in empty)} {verb} no lane; "
            "give them another one first"
        )
    for route in changed["routes"].values():
        route["lanes"] = [lane for lane in route["lanes"] if lane not in gone]
        weights = (route.get("steering") or {}).get("weights")
        if weights:
            route["steering"]["weights"] = {lane: weight for lane, weight in weights.items() if lane not in gone}
        if route.get("accounts_per_tenant"):
            spread = _spread(route["accounts_per_tenant"], [known[lane] for lane in route["lanes"]])
            route["accounts_per_tenant"] = spread
    if "shadows" in changed:
        changed["shadows"] = {
            slug: left
            for slug, entry in changed["shadows"].items()
            if (left := _shadow_without(slug, entry, gone, changed))
        }
        for route in changed["routes"].values():
            if route.get("shadow") not in changed["shadows"]:
                route.pop("shadow", None)
    changed["lanes"] = {lane: entry for lane, entry in changed["lanes"].items() if lane not in gone}
    changed["accounts"] = {slug: entry for slug, entry in changed["accounts"].items() if entry["provider"] != provider}
    changed["providers"] = {slug: entry for slug, entry in changed["providers"].items() if slug != provider}
    return changed


def _spread(reached: int, lanes: Collection[Lane]) -> int | None:
    """How many accounts a tenant can still reach; None where no lanes differ by their account alone any more."""
    most = max(map(len, groups_of_twins(lanes)))
    return min(reached, most) if most > 1 else None


def _shadow_without(
    slug: str, entry: Mapping[str, Any], gone: Collection[str], document: Mapping[str, Any]
) -> dict[str, Any] | None:
    """A shadow of the document without these lanes; None where it has no candidate left.

    A lane that asks control again goes as well once no route of the shadow is served by its model.
    """
    candidates = [lane for lane in entry["lanes"] if lane not in gone]
    if not candidates:
        return None
    lanes = document["lanes"]
    served = {
        lanes[lane]["model"]
        for route in document["routes"].values()
        if route.get("shadow") == slug
        for lane in route["lanes"]
    }
    again = [lane for lane in entry["noise_lanes"] if lane not in gone and lanes[lane]["model"] in served]
    left = {**entry, "lanes": candidates, "noise_lanes": again}
    if not again:
        left["noise_percent"] = {**entry["noise_percent"], "value": 0}
    return left
