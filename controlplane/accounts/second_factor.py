"""The second factor: how its secrets lie in the database, and how a code is taken."""

import base64
from functools import lru_cache

from allauth.core import context
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.mfa.adapter import DefaultMFAAdapter, get_adapter
from allauth.mfa.base.forms import AuthenticateForm, ReauthenticateForm
from allauth.mfa.models import Authenticator
from cryptography.fernet import Fernet, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from django.core.cache import cache
from django.utils import timezone

from controlplane.accounts import lockout
from controlplane.accounts.models import Operator


def is_missing(operator: Operator) -> bool:
    """Whether this deployment asks every operator for a second factor and this one has none; one query if it asks."""
    return settings.REQUIRE_MFA and not _has_totp(operator)


def _has_totp(operator: Operator) -> bool:
    return bool(Authenticator.objects.filter(user=operator, type=Authenticator.Type.TOTP).exists())


@lru_cache(maxsize=8)
def _cipher(*secret_keys: str) -> MultiFernet:
    return MultiFernet([Fernet(_derived(key)) for key in secret_keys])


def _derived(secret_key: str) -> bytes:
    derive = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"ballast.second-factor.v1")
    return base64.urlsafe_b64encode(derive.derive(secret_key.encode()))


class OperatorMFAAdapter(DefaultMFAAdapter):  # type: ignore[misc]  # allauth ships no types
    """Second factors of operators. A stolen copy of the database gives nobody's codes away."""

    error_messages = {
        **DefaultMFAAdapter.error_messages,
        "incorrect_code": "That code is not right, or was used before.",
    }

    def get_totp_label(self, user: Operator) -> str:
        return user.username

    def encrypt(self, text: str) -> str:
        return _cipher(settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS).encrypt(text.encode()).decode()

    def decrypt(self, encrypted_text: str) -> str:
        """The secret.

        Raises:
            cryptography.fernet.InvalidToken: made under a key that neither BALLAST_SECRET_KEY nor
                BALLAST_OLD_SECRET_KEYS has. Never answered with a guess: an empty secret has codes as well.
        """
        return _cipher(settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS).decrypt(encrypted_text.encode()).decode()


class _OneUse:
    """A code works once, for as long as the tolerance lets it work; and a closed door takes none."""

    def clean_code(self) -> str:
        now = timezone.now()
        until = lockout.locked_until(lockout.factor_key(self.user), now=now)  # type: ignore[attr-defined]  # the form's
        if until is not None:
            raise ImmediateHttpResponse(lockout.refusal(context.request, until, now=now))
        code: str = super().clean_code()  # type: ignore[misc]  # the form's
        authenticator = self.authenticator  # type: ignore[attr-defined]  # the form's
        if authenticator.type == Authenticator.Type.TOTP:
            # allauth remembers a used code for one period; with tolerance it is good for three.
            periods = 1 + 2 * settings.MFA_TOTP_TOLERANCE
            key = f"ballast:totp-used:{authenticator.pk}:{''.join(code.split())}"
            if not cache.add(key, True, timeout=30 * periods):
                self._emit_authentication_failed(authenticator)  # type: ignore[attr-defined]  # the form's
                raise get_adapter().validation_error("incorrect_code")
        return code


class SecondFactorForm(_OneUse, AuthenticateForm):  # type: ignore[misc]  # allauth ships no types
    """After the password."""


class ConfirmFactorForm(_OneUse, ReauthenticateForm):  # type: ignore[misc]  # allauth ships no types
    """Before something sensitive."""
