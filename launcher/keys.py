"""Keys and secrets that a copy makes for itself on its first start, readable by its owner only."""

import base64
import hashlib
import json
import os
import secrets
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from launcher.errors import LauncherError


def private_directory(path: Path) -> Path:
    """Make a directory that only its owner may enter, unless it is there already, and return it.

    One that is there keeps its mode: it may be somebody's /etc/ballast.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    private = path.with_name(f".{path.name}.{os.getpid()}")
    private.unlink(missing_ok=True)
    descriptor = os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    private.replace(path)


def keep_secret(path: Path) -> str:
    """Return the secret kept in `path`, making 32 random bytes (64 hex digits) of it the first time."""
    if path.exists():
        kept = path.read_text().strip()
        if kept:
            return kept
    made = secrets.token_hex(32)
    write_private(path, made.encode() + b"\n")
    return made


def keep_payload_keys(path: Path) -> None:
    """Make the key that payloads are encrypted with if it is not there: one line, 32 random bytes in base64.

    More than one host needs the same file, so nobody but the launcher makes it.
    """
    if not path.exists():
        private_directory(path.parent)
        write_private(path, base64.b64encode(secrets.token_bytes(32)) + b"\n")


def make_keys(directory: Path) -> str:
    """Make every key that a deployment of several hosts needs, in files of the names that they have there; what is
    there already stays. Returns the signing key's id.

    Raises:
        LauncherError: a file that is there cannot be understood.
    """
    private_directory(directory)
    keep_payload_keys(directory / "payload-keys")
    # The same shape: one line, 32 random bytes in base64.
    keep_payload_keys(directory / "cursor-keys")
    for name in ("secret-key", "agent-token"):
        keep_secret(directory / name)
    return keep_signing_key(directory / "release-signing.pem", directory / "trusted-keys.json")


def key_id_of(raw_public_key: bytes) -> str:
    """Return a signing key's name: the first 16 hex digits of SHA-256 over the raw 32-byte public key."""
    return hashlib.sha256(raw_public_key).hexdigest()[:16]


def keep_signing_key(
    signing_key_file: Path, trusted_keys_file: Path, *, may_trust: bool = True, statements_file: Path | None = None
) -> str:
    """Make the Ed25519 key that signs releases if it is not there, trust it, and return its key id.

    Keys already trusted stay trusted: that is how a key is rotated. With `may_trust` false the list is somebody
    else's: it is checked, never written; a key that `statements_file` speaks of is one that this host has heard of by
    a release, and its workers judge by themselves.
    Shape of the trusted keys: {"<key id>": "<base64 of the raw public key>", ...}.

    Raises:
        LauncherError: a file that is there cannot be understood, or a list we may not write lacks our key.
    """
    if not signing_key_file.exists():
        private_directory(signing_key_file.parent)
        pem = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_private(signing_key_file, pem)
    raw = _public_bytes(signing_key_file)
    key_id = key_id_of(raw)
    trusted = _read_trusted(trusted_keys_file)
    encoded = base64.b64encode(raw).decode("ascii")
    if trusted.get(key_id) != encoded:
        if not may_trust and _speaks_of(statements_file, key_id):
            return key_id
        if not may_trust:
            raise LauncherError(
                f"BALLAST_TRUSTED_KEYS_FILE: {trusted_keys_file} does not trust the signing key {key_id!r}; "
                f"add it, or no worker will accept a release"
            )
        private_directory(trusted_keys_file.parent)
        write_private(trusted_keys_file, json.dumps({**trusted, key_id: encoded}, indent=2).encode() + b"\n")
    return key_id


def _speaks_of(statements_file: Path | None, key_id: str) -> bool:
    return statements_file is not None and statements_file.exists() and key_id in statements_file.read_text()


def _public_bytes(signing_key_file: Path) -> bytes:
    try:
        key = serialization.load_pem_private_key(signing_key_file.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as exc:
        raise LauncherError(
            f"BALLAST_SIGNING_KEY_FILE: {signing_key_file} is not a readable PEM private key without a password"
        ) from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise LauncherError(f"BALLAST_SIGNING_KEY_FILE: {signing_key_file} holds a key that is not Ed25519")
    return key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def _read_trusted(trusted_keys_file: Path) -> dict[str, str]:
    if not trusted_keys_file.exists():
        return {}
    try:
        trusted = json.loads(trusted_keys_file.read_text())
    except (OSError, ValueError) as exc:
        raise LauncherError(f"BALLAST_TRUSTED_KEYS_FILE: {trusted_keys_file} is not readable JSON") from exc
    if not isinstance(trusted, dict) or not all(isinstance(value, str) for value in trusted.values()):
        raise LauncherError(f"BALLAST_TRUSTED_KEYS_FILE: {trusted_keys_file} must map key ids to base64 public keys")
    return trusted
