"""The only way a face gets a release or the fleet. Neither has a narrower object than the deployment."""

from typing import Literal

from django.db.models import QuerySet

from controlplane.accounts.access import access, require
from controlplane.accounts.models import Operator
from controlplane.releases.models import Release

ReleasePermission = Literal["view_release", "roll_back_release"]
VIEW = "releases.view_release"


def access_release(
    operator: Operator, revision: int, permission: ReleasePermission = "view_release", *, with_document: bool = True
) -> Release:
    """One release; without its document it is fetched when somebody asks for it.

    Raises:
        Http404, PermissionDenied: as `accounts.access.access`.
    """
    releases = Release.objects.all() if with_document else Release.objects.defer("document")
    release = releases.filter(revision=revision).first()
    return access(operator, release, view=VIEW, permission=f"releases.{permission}")


def visible_releases(operator: Operator) -> QuerySet[Release]:
    """Every release, without its document: a list of hundreds would carry megabytes.

    Raises:
        PermissionDenied: the operator may not look at releases.
    """
    require(operator, VIEW)
    return Release.objects.defer("document")


def require_viewer(operator: Operator) -> None:
    """Return if the operator may look at releases and at the fleet that serves them.

    Raises:
        PermissionDenied: naming what is missing.
    """
    require(operator, VIEW)
