"""How allauth treats our operators: nobody signs up by themselves, failures are counted, and all of it is recorded."""

from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.account.internal.userkit import get_user_by_username
from allauth.core.exceptions import ImmediateHttpResponse
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from django.utils import timezone

from controlplane.accounts import lockout, operations
from controlplane.accounts.models import Operator


class OperatorAdapter(DefaultAccountAdapter):  # type: ignore[misc]  # allauth ships no types
    """Operators are created by an admin; what signing in changes goes through `operations`."""

    error_messages = {
        **DefaultAccountAdapter.error_messages,
        "username_password_mismatch": "That name and password do not go together.",
        "incorrect_password": "That is not your password.",
        "too_many_login_attempts": "Too many failed tries. Wait five minutes, then try again.",
    }

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return False

    def _get_login_attempts_cache_key(self, request: HttpRequest, **credentials: Any) -> str:
        # allauth's own key has the Host header in it: every name this server answers to would give ten more tries.
        return lockout.name_key(credentials.get("username", ""))

    def pre_authenticate(self, request: HttpRequest, **credentials: Any) -> None:
        """Count a try before it is made.

        Raises:
            ImmediateHttpResponse: too many before it; the password is not even looked at.
        """
        now = timezone.now()
        until = lockout.locked_until(lockout.name_key(credentials.get("username", "")), now=now)
        if until is not None:
            raise ImmediateHttpResponse(lockout.refusal(request, until, now=now))
        try:
            super().pre_authenticate(request, **credentials)
        except ValidationError:
            raise ImmediateHttpResponse(lockout.refusal(request, None, now=now)) from None

    def authentication_failed(self, request: HttpRequest, **credentials: Any) -> None:
        """Record a wrong password for a name that exists. Other names leave no trace: anybody can invent them."""
        now = timezone.now()
        name = credentials.get("username", "")
        until = lockout.lock_if_exhausted(request, lockout.name_key(name), now=now)
        operator = get_user_by_username(name)
        if isinstance(operator, Operator):
            operations.record_failed_sign_in(
                operator=operator,
                why="password",
                address=self.get_client_ip(request),
                locked_until=until,
                now=now,
            )
        if until is not None:
            raise ImmediateHttpResponse(lockout.refusal(request, until, now=now))

    def set_password(self, user: Operator, password: str) -> None:
        operations.change_password(operator=user, password=password, actor=user, now=timezone.now())

    def logout(self, request: HttpRequest) -> None:
        operator = request.user
        super().logout(request)  # first: leaving must not wait for the record
        if isinstance(operator, Operator):
            operations.record_sign_out(operator=operator, now=timezone.now())
