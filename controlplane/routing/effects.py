"""What holding a lane does to callers, said before it is done. Pure; residency and order are the workers' own code."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping

from controlplane.routing.models import Mode
from dataplane.errors import GatewayError
from dataplane.routing import Lane, Route, RoutingTable, eligible_lanes

# Where tenants' bytes may go (empty: anywhere), and how many tenants say so.
Pins = Mapping[frozenset[str], int]


def pins_of(residencies: Iterable[Iterable[str]]) -> Pins:
    """How many tenants are pinned where. Counted, not named: who holds lanes need not see whose customers they are."""
    return Counter(frozenset(zones) for zones in residencies)


def effects_of_holding(
    table: RoutingTable, lane: str, mode: Mode, *, held_open: Collection[str], pins: Pins
) -> list[str]:
    """Sentences on what happens to requests while `lane` is held, a line per route that uses it and per pin.

    Args:
        lane: Of `table`.
        held_open: Lanes that are held open already.
    """
    routes = [route for route in table.routes.values() if any(one.id == lane for one in route.lanes)]
    if not routes:
        return ["No route uses this lane, so no request is touched"]
    if mode is Mode.CLOSED:
        names = " and ".join(route.slug for route in routes)
        return [f"Nothing is held back from it on {names}, however often it fails; callers wait for its failures"]
    gone = {*held_open, lane}
    return [line for route in routes for line in _without(table, route, gone, pins)]


def _without(table: RoutingTable, route: Route, gone: Collection[str], pins: Pins) -> Iterator[str]:
    left = [one.id for one in route.lanes if one.id not in gone]
    if not left:
        yield _nothing_left(route, f"every request on route {route.slug}")
        return
    yield f"Route {route.slug} is served by {', then '.join(left)}"
    for pin, count in sorted(pins.items(), key=lambda item: sorted(item[0])):
        reached = _reached(table, route, pin)
        if pin and reached and all(one.id in gone for one in reached):
            who = "1 tenant" if count == 1 else f"{count} tenants"
            yield _nothing_left(
                route, f"every request on route {route.slug} of the {who} pinned to {' or '.join(sorted(pin))}"
            )


def _nothing_left(route: Route, whose: str) -> str:
    if route.fallback is None:
        return (
            f"{whose[:1].upper()}{whose[1:]} will get an error: no lane is left, and there is no fallback stack below"
        )
    return f"No lane is left for {whose}: it gets the signed words of fallback stack {route.fallback.slug}"


def _reached(table: RoutingTable, route: Route, pin: frozenset[str]) -> tuple[Lane, ...]:
    try:
        return eligible_lanes(table, route=route.slug, residency=pin, needs=frozenset())
    except GatewayError:  # nothing inside the pin, held or not
        return ()
