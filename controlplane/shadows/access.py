"""Who may look at shadows, stop them, and sign promotions: who sees routing, who holds lanes, who signs routing off."""

from typing import Literal

from django.http import Http404

from controlplane.accounts.access import access, require
from controlplane.accounts.models import Operator
from controlplane.routing.access import InForce, access_routing
from controlplane.shadows.models import PromotionChecklist, PromotionChecklistQuerySet
from controlplane.telemetry.shadows import ShadowSample, ShadowSampleQuerySet

VIEW = "routing.view_routingtable"
KILL = "routing.hold_lane"
OPEN = "routing.propose_routing"
SIGN = "routing.sign_off_routing"
READ = "accounts.read_content"

ShadowPermission = Literal["view_routingtable", "hold_lane", "propose_routing"]
ChecklistPermission = Literal["view_routingtable", "propose_routing", "sign_off_routing"]


def access_shadow(operator: Operator, slug: str, permission: ShadowPermission = "view_routingtable") -> InForce:
    """The table in force, if it has the shadow policy.

    Raises:
        Http404, PermissionDenied: as `routing.access.access_routing`; Http404 also when it has not.
    """
    found = access_routing(operator)
    if slug not in found.table.shadows:
        raise Http404(f"the routing table in force has no shadow policy {slug!r}")
    require(operator, f"routing.{permission}")
    return found


def access_checklist(
    operator: Operator, pk: int, permission: ChecklistPermission = "view_routingtable"
) -> PromotionChecklist:
    """A checklist, with its signatures.

    Raises:
        Http404, PermissionDenied: as `accounts.access.access`.
    """
    found = PromotionChecklist.objects.with_signatures().filter(pk=pk).first()
    return access(operator, found, view=VIEW, permission=f"routing.{permission}")


def visible_checklists(operator: Operator) -> PromotionChecklistQuerySet:
    """Every checklist, with its signatures.

    Raises:
        PermissionDenied: the operator may not look at routing.
    """
    require(operator, VIEW)
    return PromotionChecklist.objects.with_signatures()


def visible_samples(operator: Operator) -> ShadowSampleQuerySet:
    """Every comparison; whether its words may be read is for `reading.may_read` to say.

    Raises:
        PermissionDenied: the operator may not look at routing.
    """
    require(operator, VIEW)
    return ShadowSample.objects.all()


def access_sample(operator: Operator, slug: str, pk: int) -> ShadowSample:
    """A comparison of one policy; whether its words may be read is for `reading.may_read` to say.

    Raises:
        Http404: there is none, or the operator may not look at routing.
    """
    return access(operator, ShadowSample.objects.filter(policy=slug, pk=pk).first(), view=VIEW, permission=VIEW)
