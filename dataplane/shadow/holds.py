"""Which shadows people, or their own kill switch, stopped, as a release says it: it outlives what Redis knows. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dataplane.documents import Node

if TYPE_CHECKING:
    from dataplane.routing import RoutingTable


@dataclass(frozen=True, slots=True)
class ShadowHold:
    """One policy that is stopped, by the digest of what it decided when it was."""

    digest: str
    policy: str
    reason: str
    by: str


def parse_holds(section: object, *, path: str = "$.sections.shadow_holds") -> dict[str, ShadowHold]:
    """Read the section `shadow_holds`, or raise MalformedRelease.

    A policy that the routing table does not have, or not so, is no mistake: it may have changed since it was stopped,
    and goes on then.
    Shape: {digest of the policy: {"policy": slug, "reason": str, "by": str}}.
    """
    holds = {}
    for digest, node in Node(section, path).entries():
        members = node.members("policy", "reason", "by")
        holds[digest] = ShadowHold(digest, *(members[name].text() for name in ("policy", "reason", "by")))
    return holds


def without_held(routing: RoutingTable, holds: Mapping[str, ShadowHold]) -> RoutingTable:
    """The table without the shadows that are held: gateways offer them nothing, and no process asks for them."""
    held = {slug for slug, policy in routing.shadows.items() if policy.digest in holds}
    if not held:
        return routing
    shadows = {slug: policy for slug, policy in routing.shadows.items() if slug not in held}
    routes = {
        slug: replace(route, shadow=None) if route.shadow is not None and route.shadow.slug in held else route
        for slug, route in routing.routes.items()
    }
    return replace(routing, shadows=shadows, routes=routes)
