"""Which lanes of a route a request may go to, and in which order they are tried."""

from __future__ import annotations

from typing import Protocol

from dataplane.access import Tenant
from dataplane.json_formats import FORMATS, native_first
from dataplane.policies import Steering
from dataplane.release import Release
from dataplane.routing import Lane, eligible_lanes
from dataplane.sharding import lanes_of_tenant


class LaneOrder(Protocol):
    """Who knows how lanes stand, such as `Attempts`."""

    def in_order(self, lanes: tuple[Lane, ...], steering: Steering) -> tuple[Lane, ...]:
        """As `Attempts.in_order`."""


def choose_lanes(
    order: LaneOrder, release: Release, tenant: Tenant, *, route: str, needs: frozenset[str], is_mended: bool
) -> tuple[Lane, ...]:
    """The lanes of `route` for a request of `tenant`, the first to be tried first.

    Args:
        needs: Capabilities that the request uses.
        is_mended: What comes back is read and checked here, so a lane can be asked for JSON in words, if none does by
            itself.
    Raises:
        UnknownRoute, UnsupportedRequest, NoEligibleLane: see `eligible_lanes`.
    """
    wanted = needs - FORMATS if is_mended else needs
    lanes = eligible_lanes(release.routing, route=route, residency=tenant.residency, needs=wanted)
    chosen = release.routing.routes[route]
    lanes = lanes_of_tenant(lanes, tenant=tenant.slug, accounts=chosen.accounts_per_tenant)
    lanes = order.in_order(lanes, chosen.steering)
    return lanes if wanted == needs else native_first(lanes, needs)
