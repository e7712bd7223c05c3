"""Where copy is used: which fallback stacks and validator policies of the table in force, and which rungs of the ladder
policy in force, name it. Reads only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from controlplane.ladder.models import CopyKind
from controlplane.ladder.policies import ladder_policies
from controlplane.routing.operations import routing_tables
from dataplane.ladder.policy import Ladder
from dataplane.routing import RoutingTable

STACK: Final = "fallback stack"
POLICY: Final = "validator policy"
RUNG: Final = "ladder"


@dataclass(frozen=True, slots=True)
class Use:
    """One fallback stack, validator policy, or rung of a surface's ladder (`noun` says which) that names a piece of
    copy, and the routes that it is of. A rung's `stack` is as in 'web-chat, rung 3'.

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
    """Every use of every piece of copy, by its slug; two queries."""
    table, policy = routing_tables.active(), ladder_policies.active()
    found: dict[str, list[Use]] = {}
    for copy, use in () if table is None else _uses(table.parsed()):
        found.setdefault(copy, []).append(use)
    for copy, use in () if policy is None else _rungs(policy.parsed()):
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


def _rungs(ladder: Ladder) -> Iterator[tuple[str, Use]]:
    for slug, surface in ladder.items():
        for number, rung in surface.rungs.items():
            for copy in rung.words:
                yield copy, Use(f"{slug}, rung {number}", surface.routes, noun=RUNG)
