"""Where copy is used: the fallback stacks of the routing table in force that name it. Reads only."""

from dataclasses import dataclass

from controlplane.ladder.models import CopyKind
from controlplane.routing.operations import active_table
from dataplane.routing import RoutingTable


@dataclass(frozen=True, slots=True)
class Use:
    """One fallback stack that names a piece of copy, and the routes that fall back on it.

    `below` is the copy that the stack tries where these words do not suit the request: its template, below its answers.
    None: only the outage notice is left, and with it the error.
    """

    stack: str
    routes: tuple[str, ...]
    below: str | None = None

    def __str__(self) -> str:
        return f"{self.stack} of {', '.join(self.routes)}" if self.routes else f"{self.stack}, which no route names"


def uses() -> dict[str, list[Use]]:
    """Every use of every piece of copy, by its slug; one query."""
    active = active_table()
    if active is None:
        return {}
    table = RoutingTable.parse(active.document)
    found: dict[str, list[Use]] = {}
    for slug, stack in table.fallbacks.items():
        routes = tuple(route.slug for route in table.routes.values() if route.fallback == stack)
        for rung, copy in stack.copy_used().items():
            found.setdefault(copy, []).append(Use(slug, routes, stack.template if rung == CopyKind.ANSWERS else None))
    return found
