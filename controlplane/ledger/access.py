"""Who may see which usage: that of the tenants on which they hold the permission, and of no other.

What Ballast asked providers by itself is billed to nobody's tenant; it is seen by whoever sees everybody's.
"""

from typing import Final

from django.http import Http404

from controlplane.accounts.access import may, require, visible
from controlplane.accounts.models import ApiKey, Operator, Tenant
from controlplane.ledger.models import UsageRow
from dataplane.access import OURSELVES

VIEW: Final = "accounts.view_usage"


def billed_tenants(operator: Operator) -> list[str]:
    """The slugs of the tenants whose usage the operator may see.

    Raises:
        PermissionDenied: there is none, nor could there be.
    """
    slugs = _billed(operator)
    if not slugs:
        require(operator, VIEW)
    return slugs


def keys_beginning(operator: Operator, prefix: str) -> list[str]:
    """The ids of those tenants' keys that begin so; an ellipsis at the end is not part of it."""
    tenants = visible(operator, Tenant.objects.all(), VIEW).order_by().values("pk")
    found = ApiKey.objects.filter(tenant__in=tenants, prefix__startswith=prefix.rstrip("…")[:12])
    return [str(pk) for pk in found.values_list("pk", flat=True)]


def access_request(operator: Operator, request_id: str) -> list[UsageRow]:
    """The attempts of one request, in the order they were made.

    Raises:
        Http404: there is none, or its tenant's usage is not for the operator to see.
    """
    slugs = _billed(operator)
    rows = list(UsageRow.objects.matching(tenants=slugs).of_request(request_id)) if "\0" not in request_id else []
    if not rows:
        raise Http404("there is no such thing here, or you may not see it")
    return rows


def _billed(operator: Operator) -> list[str]:
    slugs = list(visible(operator, Tenant.objects.all(), VIEW).values_list("slug", flat=True))
    return [*slugs, OURSELVES.slug] if may(operator, VIEW) else slugs
