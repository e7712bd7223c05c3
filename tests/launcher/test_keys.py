"""Keys and secrets: made once, closed to others, rotated by adding."""

import base64
import hashlib
import json
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dataplane.release import parse_trusted_keys
from dataplane.stores.cursor_keys import read_cursor_keys
from launcher.errors import LauncherError
from launcher.keys import keep_secret, keep_signing_key, make_keys


def test_the_signing_key_is_made_once_and_trusted(tmp_path: Path) -> None:
    """The key id is the first 16 hex digits of SHA-256 over the raw public key; both files are for their owner only."""
    pem, trusted = tmp_path / "keys" / "release-signing.pem", tmp_path / "keys" / "trusted-keys.json"

    key_id = keep_signing_key(pem, trusted)

    key = serialization.load_pem_private_key(pem.read_bytes(), password=None)
    assert isinstance(key, Ed25519PrivateKey)
    raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    assert key_id == hashlib.sha256(raw).hexdigest()[:16]
    assert json.loads(trusted.read_text()) == {key_id: base64.b64encode(raw).decode()}
    assert [stat.S_IMODE(path.stat().st_mode) for path in (pem, trusted, pem.parent)] == [0o600, 0o600, 0o700]
    assert keep_signing_key(pem, trusted) == key_id


def test_a_new_signing_key_leaves_the_old_one_trusted(tmp_path: Path) -> None:
    """That is how a key is rotated."""
    pem, trusted = tmp_path / "signing.pem", tmp_path / "trusted.json"
    old = keep_signing_key(pem, trusted)
    pem.unlink()

    new = keep_signing_key(pem, trusted)

    assert set(json.loads(trusted.read_text())) == {old, new}


def test_a_list_of_somebody_else_is_checked_and_never_written(tmp_path: Path) -> None:
    """Without our key in it no worker would accept a release, which is said at once."""
    trusted = tmp_path / "trusted.json"
    trusted.write_text("{}")

    with pytest.raises(LauncherError, match="BALLAST_TRUSTED_KEYS_FILE"):
        keep_signing_key(tmp_path / "signing.pem", trusted, may_trust=False)

    assert trusted.read_text() == "{}"


def test_a_key_that_releases_told_of_is_no_reason_to_stop(tmp_path: Path) -> None:
    """After a rotation somebody else's list may lack the key; the host's workers have heard of it, and verify it."""
    pem, trusted, statements = (tmp_path / name for name in ("signing.pem", "trusted.json", "release.json.trust"))
    key_id = keep_signing_key(pem, trusted)
    trusted.write_text("{}")
    statements.write_text(f'{{"statements": [{{"document": "{key_id}"}}]}}')

    assert keep_signing_key(pem, trusted, may_trust=False, statements_file=statements) == key_id
    statements.write_text('{"statements": []}')
    with pytest.raises(LauncherError, match="does not trust the signing key"):
        keep_signing_key(pem, trusted, may_trust=False, statements_file=statements)


@pytest.mark.parametrize("kind", ["not a key", "another curve"])
def test_a_file_that_cannot_sign_releases_is_refused(tmp_path: Path, kind: str) -> None:
    """The line names the variable."""
    pem = tmp_path / "signing.pem"
    other = Ed448PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem.write_bytes(other if kind == "another curve" else b"hello")

    with pytest.raises(LauncherError, match="BALLAST_SIGNING_KEY_FILE"):
        keep_signing_key(pem, tmp_path / "trusted.json")


def test_a_secret_is_kept(tmp_path: Path) -> None:
    """64 hex digits, the same ones next time, for their owner only."""
    path = tmp_path / "secret"

    secret = keep_secret(path)

    assert len(bytes.fromhex(secret)) == 32
    assert keep_secret(path) == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_keys_of_a_deployment_are_made_once_and_understood_by_those_who_read_them(tmp_path: Path) -> None:
    """A second time changes nothing; workers trust the signing key, and gateways read the cursor keys."""
    directory = tmp_path / "keys"
    key_id = make_keys(directory)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}

    assert make_keys(directory) == key_id
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
    assert set(before) == {
        "release-signing.pem",
        "trusted-keys.json",
        "payload-keys",
        "cursor-keys",
        "secret-key",
        "agent-token",
    }
    assert set(parse_trusted_keys(before["trusted-keys.json"])) == {key_id}
    read_cursor_keys(directory / "cursor-keys")
    assert all(path.stat().st_mode & 0o077 == 0 for path in directory.iterdir())
