"""The only way a face gets copy, a ladder policy, or what is engaged. All permissions on them are held on everything or
not at all; those on words are others than those on rungs.
"""

from dataclasses import dataclass
from typing import Literal

from django.db.models import QuerySet
from django.http import Http404

from controlplane.accounts.access import access, require
from controlplane.accounts.access import may as holds
from controlplane.accounts.models import Operator
from controlplane.ladder.models import Copy, CopyVersion, LadderPolicy, RungActivation
from controlplane.ladder.policies import ladder_policies
from dataplane.ladder.policy import Ladder, Surface

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
@dataclass(frozen=True, slots=True)
class InForce:
    """The ladder policy in force: its row, and what it says as workers read it; before the first None, and nothing."""

    row: LadderPolicy | None
    ladder: Ladder


def access_ladder(operator: Operator) -> InForce:
    """The policy in force, which may be none.

    Raises:
        PermissionDenied: the operator may not look at ladders.
    """
    require(operator, VIEW_LADDER)
    row = ladder_policies.active()
    return InForce(row, Ladder() if row is None else row.parsed())


def access_surface(operator: Operator, slug: str, permission: LadderPermission = "view_ladderpolicy") -> Surface:
    """One surface of the policy in force.

    Raises:
        Http404, PermissionDenied: as `accounts.access.access`; Http404 also when no policy is in force, or it does not
            have the surface.
    """
    row = access(operator, ladder_policies.active(), view=VIEW_LADDER, permission=VIEW_LADDER)
    ladder = row.parsed()
    if slug not in ladder:
        raise Http404(f"the ladder policy in force has no surface {slug!r}")
    access(operator, row, view=VIEW_LADDER, permission=f"ladder.{permission}")
    return ladder[slug]


def access_policy(operator: Operator, number: int, permission: LadderPermission = "view_ladderpolicy") -> LadderPolicy:
    """One ladder policy.

    Raises:
        Http404, PermissionDenied: as `accounts.access.access`.
    """
    policy = LadderPolicy.objects.filter(number=number).first()
    return access(operator, policy, view=VIEW_LADDER, permission=f"ladder.{permission}")


def access_activation(
    operator: Operator, pk: int, permission: LadderPermission = "view_ladderpolicy"
) -> RungActivation:
    """One activation or hold, with its end and its policy.

    Raises:
        Http404, PermissionDenied: as `accounts.access.access`.
    """
    row = RungActivation.objects.select_related("stood_down", "policy").filter(pk=pk).first()
    return access(operator, row, view=VIEW_LADDER, permission=f"ladder.{permission}")


def visible_policies(operator: Operator) -> QuerySet[LadderPolicy]:
    """Every ladder policy.

    Raises:
        PermissionDenied: the operator may not look at ladders.
    """
    require(operator, VIEW_LADDER)
    return LadderPolicy.objects.all()


def visible_activations(operator: Operator) -> QuerySet[RungActivation]:
    """Everything that was ever engaged or held, with its end and its policy.

    Raises:
        PermissionDenied: the operator may not look at ladders.
    """
    require(operator, VIEW_LADDER)
    return RungActivation.objects.select_related("stood_down", "policy").defer("policy__document")


def require_proposer(operator: Operator) -> None:
    """Return if the operator may submit ladder policies.

    Raises:
        PermissionDenied: naming what is missing.
    """
    require(operator, "ladder.propose_ladder")


def require_engager(operator: Operator) -> None:
    """Return if the operator may engage rungs, hold triggers down, and stand both down.

    Raises:
        PermissionDenied: naming what is missing.
    """
    require(operator, "ladder.engage_rung")
