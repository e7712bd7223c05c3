"""Who a password belongs to."""

from typing import Any

from allauth.account.auth_backends import AuthenticationBackend
from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest

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
