"""Where copy is used: which fallback stacks and validator policies of the table in force name it. Reads only."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from controlplane.ladder.models import CopyKind
from controlplane.routing.operations import active_table
from dataplane.routing import RoutingTable

STACK: Final = "fallback stack"
POLICY: Final = "validator policy"


@dataclass(frozen=True, slots=True)
class Use:
    """One fallback stack, or validator policy (`noun` says which), that names a piece of copy, and the routes that it
    is of.

    `below` is the copy that the stack tries where these words do not suit the request: its template, below its answers.
    None: only the outage notice is left, and with it the error, or of a policy the error.
    """

    stack: str
    routes: tuple[str, ...]
    below: str | None = None
    noun: str = STACK

    def __str__(self) -> str:
        return f"{self.stack} of {', '.join(self.routes)}" if self.routes else f"{self.stack}, which no route names"


def uses() -> dict[str, list[Use]]:
    """Every use of every piece of copy, by its slug; one query."""
    active = active_table()
    if active is None:
        return {}
    found: dict[str, list[Use]] = {}
    for copy, use in _uses(RoutingTable.parse(active.document)):
        found.setdefault(copy, []).append(use)
    return found


def _uses(table: RoutingTable) -> Iterator[tuple[str, Use]]:
    for slug, stack in table.fallbacks.items():
        routes = tuple(route.slug for route in table.routes.values() if route.fallback == stack)
        for rung, copy in stack.copy_used().items():
            yield copy, Use(slug, routes, stack.template if rung == CopyKind.ANSWERS else None)
    for slug, policy in table.validators.items():
        if policy.escalation is not None:
            routes = tuple(route.slug for route in table.routes.values() if route.validators == policy)
            yield policy.escalation, Use(slug, routes, noun=POLICY)
