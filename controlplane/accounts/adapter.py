"""How allauth treats our operators: nobody signs up by themselves, not even through single sign-on."""

from allauth.account.adapter import DefaultAccountAdapter
from django.http import HttpRequest


class OperatorAdapter(DefaultAccountAdapter):  # type: ignore[misc]  # allauth ships no types
    """Operators are created by an admin; a sign-in through OIDC must meet an existing e-mail address."""

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return False
