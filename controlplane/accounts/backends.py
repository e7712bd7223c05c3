"""Who a password belongs to, and what its owner may do."""

from typing import Any, cast

from allauth.account.auth_backends import AuthenticationBackend
from django.conf import settings
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.db.models import BigIntegerField, Model, QuerySet
from django.http import HttpRequest
from guardian.backends import ObjectPermissionBackend

from controlplane.accounts.models import Operator
from controlplane.compiled import compiled

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

    def get_user(self, user_id: int) -> Operator | None:
        """Whose session it is; None for one who is gone or deactivated."""
        operator = _operator.first(pk=user_id)
        return operator if operator is not None and operator.is_active else None

    def get_user_permissions(self, user_obj: Operator, obj: Model | None = None) -> set[str]:
        """What roles give everywhere, as 'app.codename', read once per instance; nothing on one object."""
        if obj is not None or user_obj.is_anonymous or not user_obj.is_active:
            return set()
        known: set[str] | None = getattr(user_obj, "_user_perm_cache", None)
        if known is None:
            known = {f"{app}.{name}" for app, name in _permissions_of(operator=user_obj.pk)}
            user_obj._user_perm_cache = known  # type: ignore[attr-defined]  # where Django keeps it too
        return known

    def get_group_permissions(self, user_obj: Operator, obj: Model | None = None) -> set[str]:
        """None: roles are granted to people, so no group is asked, which would cost every page a query."""
        return set()


@compiled(pk=BigIntegerField())
def _operator(*, pk: int) -> QuerySet[Operator]:
    return Operator.objects.filter(pk=pk)


@compiled(operator=BigIntegerField())
def _permissions_of(*, operator: int) -> QuerySet[Permission, tuple[str, str]]:
    held = Permission.objects.filter(user=cast(Any, operator))  # as Django's own backend asks it
    return held.order_by().values_list("content_type__app_label", "codename")


class ObjectPermissions(ObjectPermissionBackend):
    """guardian's permissions on one object: those of an operator are read at once, not anew at each question."""

    def has_perm(self, user_obj: Any, perm: str, obj: Model | None = None) -> bool:
        """Whether the operator holds `perm` ('app.codename') on `obj`; without an object never."""
        if obj is None or not isinstance(user_obj, Operator) or not user_obj.is_active:
            return False
        app, _, codename = perm.partition(".")
        asked = (ContentType.objects.get_for_model(obj).pk, str(obj.pk), codename)
        return app == obj._meta.app_label and asked in user_obj.object_permissions
