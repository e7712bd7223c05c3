"""The only way a face gets copy or a version of it. Permissions on copy are held on everything or not at all."""

from typing import Literal

from django.db.models import QuerySet

from controlplane.accounts.access import access, require
from controlplane.accounts.access import may as holds
from controlplane.accounts.models import Operator
from controlplane.ladder.models import Copy, CopyVersion

CopyPermission = Literal["view_copy", "write_copy", "return_copy"]
VIEW = "ladder.view_copy"


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
