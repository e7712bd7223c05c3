"""The only way a face gets copy, a ladder policy, or what is engaged. All permissions on them are held on everything or
not at all; those on words are others than those on rungs.
"""

from typing import Final, Literal

from django.db.models import QuerySet

from controlplane.accounts.access import access, require
from controlplane.accounts.access import may as holds
from controlplane.accounts.models import Operator
from controlplane.ladder.models import Copy, CopyVersion, RungActivation
from controlplane.ladder.policies import ladder_policies
from controlplane.versioned.access import VersionAccess
from dataplane.ladder.policy import Surface

CopyPermission = Literal["view_copy", "write_copy", "return_copy"]
LadderPermission = Literal["view_ladderpolicy", "propose_ladder", "engage_rung"]
VIEW = "ladder.view_copy"
VIEW_LADDER = "ladder.view_ladderpolicy"


def access_copy(operator: Operator, slug: str, permission: CopyPermission = "view_copy") -> Copy:
    """One piece of copy.

    Raises:
        Http404, PermissionDenied: as `accounts.access.access`.
    """
    copy = Copy.objects.filter(slug=slug).first()
    return access(operator, copy, view=VIEW, permission=f"ladder.{permission}")


def access_version(operator: Operator, slug: str, number: int, permission: CopyPermission = "view_copy") -> CopyVersion:
    """One version with its piece."""
    version = CopyVersion.objects.select_related("copy").filter(copy__slug=slug, number=number).first()
    return access(operator, version, view=VIEW, permission=f"ladder.{permission}")


def visible_copy(operator: Operator) -> QuerySet[Copy]:
    """Every piece of copy.

    Raises:
        PermissionDenied: the operator may not look at copy.
    """
    require(operator, VIEW)
    return Copy.objects.all()


def require_writer(operator: Operator) -> None:
    """Return if the operator may write copy.

    Raises:
        PermissionDenied: naming what is missing.
    """
    require(operator, "ladder.write_copy")


def may(operator: Operator, permission: CopyPermission) -> bool:
    """Whether this operator holds the permission: what a page offers buttons for."""
    return holds(operator, f"ladder.{permission}")


# --- the ladder ------------------------------------------------------------------------------------------------------
policy_access: Final = VersionAccess(ladder_policies, view=VIEW_LADDER, propose="ladder.propose_ladder")


def access_surface(operator: Operator, slug: str, permission: LadderPermission = "view_ladderpolicy") -> Surface:
    """One surface of the policy in force.

    Raises:
        Http404, PermissionDenied: as `accounts.access.access`; Http404 also when no policy is in force, or it does not
            have the surface.
    """
    return policy_access.entry(operator, slug, f"ladder.{permission}")


def access_activation(
    operator: Operator, pk: int, permission: LadderPermission = "view_ladderpolicy"
) -> RungActivation:
    """One activation or hold, with its end and its policy.

    Raises:
        Http404, PermissionDenied: as `accounts.access.access`.
    """
    row = RungActivation.objects.select_related("stood_down", "policy").filter(pk=pk).first()
    return access(operator, row, view=VIEW_LADDER, permission=f"ladder.{permission}")


def visible_activations(operator: Operator) -> QuerySet[RungActivation]:
    """Everything that was ever engaged or held, with its end and its policy.

    Raises:
        PermissionDenied: the operator may not look at ladders.
    """
    require(operator, VIEW_LADDER)
    return RungActivation.objects.select_related("stood_down", "policy").defer("policy__document")


def require_engager(operator: Operator) -> None:
    """Return if the operator may engage rungs, hold triggers down, and stand both down.

    Raises:
        PermissionDenied: naming what is missing.
    """
    require(operator, "ladder.engage_rung")
