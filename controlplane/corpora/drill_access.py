"""The only way a face gets a recovery drill. Corpora have no narrower object than the deployment."""

from typing import Literal

from controlplane.accounts.access import access
from controlplane.accounts.models import Operator
from controlplane.corpora.access import VIEW
from controlplane.corpora.models import RecoveryDrill

DrillPermission = Literal["view_corpuspolicy", "drill_corpus"]


def access_recovery_drill(
    operator: Operator, pk: int, permission: DrillPermission = "view_corpuspolicy"
) -> RecoveryDrill:
    """One drill, with its corpus and what it restored.

    Raises:
        Http404, PermissionDenied: as `accounts.access.access`.
    """
    found = RecoveryDrill.objects.select_related("corpus__live_namespace", "namespace", "dump").filter(pk=pk).first()
    return access(operator, found, view=VIEW, permission=f"corpora.{permission}")
