"""The only way a face gets a routing table, and what is in it. Routing has no narrower object than the deployment."""

from dataclasses import dataclass
from typing import Final, Literal

from django.db.models import QuerySet
from django.http import Http404

from controlplane.accounts.access import access, require
from controlplane.accounts.models import Operator
from controlplane.routing.models import Drill, RoutingTable
from controlplane.routing.operations import routing_tables
from controlplane.routing.thresholds import owners_of
from controlplane.versioned.access import VersionAccess
from dataplane.routing import RoutingTable as Routing

RoutingPermission = Literal["view_routingtable", "propose_routing"]
AnyPermission = Literal["view_routingtable", "propose_routing", "hold_lane"]
VIEW = "routing.view_routingtable"


table_access: Final = VersionAccess(routing_tables, view=VIEW, propose="routing.propose_routing")


def require_holder(operator: Operator) -> None:
    """Return if the operator may hold lanes and let them go.

    Raises:
        PermissionDenied: naming what is missing.
    """
    require(operator, "routing.hold_lane")


@dataclass(frozen=True, slots=True)
class InForce:
    """The table in force: its row, and what it says as workers read it."""

    row: RoutingTable
    table: Routing


def access_routing(operator: Operator, permission: AnyPermission = "view_routingtable") -> InForce:
    """The table in force: what a breaker policy, a route or a lane is looked up in.

    Raises:
        Http404, PermissionDenied: as `accounts.access.access`; Http404 also when no table is in force.
    """
    row = access(operator, routing_tables.active(), view=VIEW, permission=f"routing.{permission}")
    return InForce(row, row.parsed())


def access_policy(
    operator: Operator, kind: str, slug: str, permission: RoutingPermission = "view_routingtable"
) -> InForce:
    """The table in force, if it has the policy or the route `slug`; `kind` as in `routing.thresholds.PARTS`.

    Raises:
        Http404, PermissionDenied: as `access_routing`; Http404 also when it has none.
    """
    found = access_routing(operator)
    if slug not in owners_of(found.table, kind):
        raise Http404(f"the routing table in force has no {kind} {slug!r}")
    return found if permission == "view_routingtable" else access_routing(operator, permission)


def access_lane(operator: Operator, lane: str) -> InForce:
    """The table in force, if it has the lane.

    Raises:
        Http404, PermissionDenied: as `access_routing`; Http404 also when it has not.
    """
    found = access_routing(operator)
    if lane not in found.table.lanes:
        raise Http404(f"the routing table in force has no lane {lane!r}")
    return found


def access_drill(operator: Operator, pk: int, permission: AnyPermission = "view_routingtable") -> Drill:
    """One drill, with its result.

    Raises:
        Http404, PermissionDenied: as `accounts.access.access`.
    """
    drill = Drill.objects.select_related("table", "result").filter(pk=pk).first()
    return access(operator, drill, view=VIEW, permission=f"routing.{permission}")


def visible_drills(operator: Operator) -> QuerySet[Drill]:
    """Every drill, with its result.

    Raises:
        PermissionDenied: the operator may not look at routing.
    """
    require(operator, VIEW)
    return Drill.objects.select_related("result")
