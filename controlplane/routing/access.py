"""The only way a face gets a routing table. Routing has no narrower object than the deployment."""

from typing import Literal

from django.db.models import QuerySet

from controlplane.accounts.access import access, require
from controlplane.accounts.models import Operator
from controlplane.routing.models import RoutingTable

RoutingPermission = Literal["view_routingtable", "propose_routing"]
VIEW = "routing.view_routingtable"


def access_table(operator: Operator, number: int, permission: RoutingPermission = "view_routingtable") -> RoutingTable:
    """One routing table.

    Raises:
        Http404, PermissionDenied: as `accounts.access.access`.
    """
    table = RoutingTable.objects.filter(number=number).first()
    return access(operator, table, view=VIEW, permission=f"routing.{permission}")


def visible_tables(operator: Operator) -> QuerySet[RoutingTable]:
    """Every routing table.

    Raises:
        PermissionDenied: the operator may not look at routing.
    """
    require(operator, VIEW)
    return RoutingTable.objects.all()


def require_proposer(operator: Operator) -> None:
    """Return if the operator may submit routing tables.

    Raises:
        PermissionDenied: naming what is missing.
    """
    require(operator, "routing.propose_routing")
