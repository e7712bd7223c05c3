"""Who a password belongs to, and what its owner may do."""

from typing import Any

from allauth.account.auth_backends import AuthenticationBackend
from django.conf import settings
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.http import HttpRequest
from guardian.backends import ObjectPermissionBackend

from controlplane.accounts.models import Operator

# Printed in the README: worth nothing outside the demo, where a copy of the demo's database may have ended up.
DEMO_PASSWORD = "ballast-demo"  # noqa: S105 - public by design


class OperatorBackend(AuthenticationBackend):  # type: ignore[misc]  # allauth ships no types
    """Password sign-in. A deactivated operator and a wrong password get the same answer: nobody learns which it was."""

    def authenticate(self, request: HttpRequest | None, **credentials: Any) -> Operator | None:
        """The active operator whose name and password these are; None for credentials of another kind.

        Raises:
            PermissionDenied: wrong. It keeps the backends after this one from hashing the same password again.
        """
        if "password" not in credentials:
            return None
        operator: Operator | None = super().authenticate(request, **credentials)
        self.unstash_authenticated_user()
        if operator is None or (credentials["password"] == DEMO_PASSWORD and not settings.DEMO):
            raise PermissionDenied
        return operator

    def get_group_permissions(self, user_obj: Operator, obj: Model | None = None) -> set[str]:
        """None: roles are granted to people, so no group is asked, which would cost every page a query."""
        return set()


class ObjectPermissions(ObjectPermissionBackend):
    """guardian's permissions on one object: those of an operator are read at once, not anew at each question."""

    def has_perm(self, user_obj: Any, perm: str, obj: Model | None = None) -> bool:
        """Whether the operator holds `perm` ('app.codename') on `obj`; without an object never."""
        if obj is None or not isinstance(user_obj, Operator) or not user_obj.is_active:
            return False
        app, _, codename = perm.partition(".")
        asked = (ContentType.objects.get_for_model(obj).pk, str(obj.pk), codename)
        return app == obj._meta.app_label and asked in user_obj.object_permissions
