"""The key that signs releases: read from its file, and from nowhere else."""

from functools import lru_cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from django.conf import settings

from controlplane.releases.errors import SigningKeyMissing


def signing_key() -> Ed25519PrivateKey:
    """The current signing key; the file is read again when it changes, so that a rotation needs no restart.

    Raises:
        SigningKeyMissing: BALLAST_SIGNING_KEY_FILE is absent or is no Ed25519 key in PEM.
    """
    path = Path(settings.SIGNING_KEY_FILE)
    try:
        return _load(path, path.stat().st_mtime_ns)
    except (OSError, ValueError) as exc:
        raise SigningKeyMissing(f"BALLAST_SIGNING_KEY_FILE {str(path)!r} cannot be used: {exc}") from exc


@lru_cache(maxsize=2)
def _load(path: Path, modified_ns: int) -> Ed25519PrivateKey:
    key = load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("not an Ed25519 private key")
    return key
