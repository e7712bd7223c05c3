"""The secrets of webhooks: made here, shown once, kept sealed. What is signed with them is in `signatures.py`."""

import base64
import secrets
from typing import Final

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

from controlplane.alerts.errors import SecretUnreadable
from controlplane.alerts.signatures import PREFIX

SECRET_BYTES: Final = 32
_PURPOSE: Final = b"ballast.alerts.channel-secrets.v1"


def new_secret() -> str:
    """A fresh secret as receivers are given it: `whsec_` and 32 random bytes in base64 (Standard Webhooks)."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def seal(secret: str) -> str:
    """The secret as the database keeps it."""
    return _box().encrypt(secret.encode()).decode()


def unseal(sealed: str) -> str:
    """What `seal` was given.

    Raises:
        SecretUnreadable: it was sealed under another BALLAST_SECRET_KEY, or is damaged.
    """
    try:
        return _box().decrypt(sealed.encode()).decode()
    except InvalidToken as exc:
        raise SecretUnreadable(
            "the channel's secret was sealed under another BALLAST_SECRET_KEY; put that one into"
            " BALLAST_OLD_SECRET_KEYS, or rotate the secret"
        ) from exc


def _box() -> MultiFernet:
    """Seals under a key that follows from the secret key, and opens under those of its predecessors too."""
    return MultiFernet([Fernet(_derived(key)) for key in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)])


def _derived(key: str) -> bytes:
    derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=_PURPOSE).derive(key.encode())
    return base64.urlsafe_b64encode(derived)
