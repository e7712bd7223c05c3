"""The key that signs releases: read from its file, and from nowhere else. What evals show and bring is signed with it
too.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from django.conf import settings

from controlplane.releases.errors import SigningKeyMissing
from dataplane import eval_tokens, release
from dataplane.eval_tokens import EvalClaims
from dataplane.release import Envelope, key_id_of


def signing_key() -> Ed25519PrivateKey:
    """The current signing key; the file is read again when it changes, so that a rotation needs no restart.

    Raises:
        SigningKeyMissing: BALLAST_SIGNING_KEY_FILE is absent or is no Ed25519 key in PEM.
    """
    return read_key(settings.SIGNING_KEY_FILE)


def signing_key_id() -> str:
    """The id of the current signing key.

    Raises:
        SigningKeyMissing: as `signing_key`.
    """
    return key_id_of(signing_key().public_key())


def read_key(path: Path) -> Ed25519PrivateKey:
    """The key in a file that signs now, or did, or is to.

    Raises:
        SigningKeyMissing: the file is absent or holds no Ed25519 key in PEM.
    """
    try:
        stamp = path.stat()
        return _load(path, stamp.st_mtime_ns, stamp.st_ino)
    except (OSError, ValueError) as exc:
        raise SigningKeyMissing(
            f"the signing key {str(path)!r} (BALLAST_SIGNING_KEY_FILE) cannot be used: {exc}"
        ) from exc


def mint_eval_token(*, run: str, residency: Iterable[str], until: datetime, sandbox: str | None) -> str:
    """What the eval `run` shows a gateway in the place of an API key, to ask as nobody's customer.

    Args:
        run: 1 to 36 letters, digits, `_`, `.` and `-`; its usage rows have the key `run:<run>`.
        residency: Where the bytes of its data set may go; empty: anywhere.
        until: When it ends; an hour from now at most, or gateways refuse it.
        sandbox: Digest of the envelope that its requests bring (see `sign_sandbox`); None: what is live serves them.
    Raises:
        SigningKeyMissing: as `signing_key`.
        ValueError: no gateway would read it; the message says why.
    """
    claims = EvalClaims(run, frozenset(residency), int(until.timestamp()), sandbox)
    return eval_tokens.mint(signing_key(), claims)


def sign_sandbox(document: Mapping[str, Any]) -> Envelope:
    """Sign a document of `operations.sandbox_document`, for evals to bring along; no worker serves customers from it.

    Raises:
        SigningKeyMissing: as `signing_key`.
    """
    return release.sign_sandbox(document, signing_key())


@lru_cache(maxsize=4)
def _load(path: Path, modified_ns: int, inode: int) -> Ed25519PrivateKey:
    key = load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("not an Ed25519 private key")
    return key
