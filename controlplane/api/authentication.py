"""Who calls the console API: the holder of an operator token, or of a session."""

from typing import Any

from django.utils import timezone
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from controlplane.accounts.models import Operator, OperatorToken, hash_secret


class OperatorTokenAuthentication(BaseAuthentication):
    """`Authorization: Bearer op-…`; one query, and at most one write a minute to remember the last use."""

    def authenticate(self, request: Request) -> tuple[Operator, OperatorToken] | None:
        scheme, _, secret = get_authorization_header(request).decode("latin-1").partition(" ")
        if scheme.lower() != "bearer":
            return None
        now = timezone.now()
        token = OperatorToken.objects.select_related("operator").filter(secret_hash=hash_secret(secret.strip())).first()
        if token is None or token.revoked_at is not None or not token.operator.is_active:
            raise AuthenticationFailed("this operator token is unknown or revoked")
        if token.expires_at is not None and token.expires_at <= now:
            raise AuthenticationFailed(f"this operator token expired at {token.expires_at:%Y-%m-%d %H:%M} UTC")
        if token.last_used_at is None or (now - token.last_used_at).total_seconds() > 60:
            OperatorToken.objects.filter(pk=token.pk).update(last_used_at=now)
        return token.operator, token

    def authenticate_header(self, request: Any) -> str:
        return "Bearer"
