"""Providers' keys: found by reference, read again when a file changes, never repeated in a message."""

from __future__ import annotations

import pytest

from dataplane.credentials import RECHECK_SECONDS, SecretStore, SecretUnavailable


def test_environment_secret_is_trimmed():
    """A line end from a careless `echo` does no harm."""
    assert SecretStore({"KEY": " sk-1\n"}).resolve("env:KEY", now=0) == "sk-1"


def test_changed_file_is_read_again(tmp_path):
    """Rotation by replacing the file is noticed, within the time that spares the disk."""
    path = tmp_path / "key"
    path.write_text("sk-1\n")
    store = SecretStore({})
    reference = f"file:{path}"

    assert store.resolve(reference, now=0) == "sk-1"
    path.write_text("sk-second\n")

    assert store.resolve(reference, now=RECHECK_SECONDS / 2) == "sk-1"
    assert store.resolve(reference, now=RECHECK_SECONDS) == "sk-second"


def test_secret_that_appears_later_is_found(tmp_path):
    """A missing file is an error each time it is asked for, until it is there."""
    path = tmp_path / "key"
    store = SecretStore({})
    with pytest.raises(SecretUnavailable, match="FileNotFoundError"):
        store.resolve(f"file:{path}", now=0)

    path.write_text("sk-1")

    assert store.resolve(f"file:{path}", now=0) == "sk-1"


@pytest.mark.parametrize("value", ["", "  ", "sk-1\r\nx: y", "sk-ü"])
def test_unusable_secret_is_named_and_not_shown(value):
    """Empty, or with characters that a header cannot carry: the message has the reference only."""
    with pytest.raises(SecretUnavailable, match="env:KEY") as caught:
        SecretStore({"KEY": value}).resolve("env:KEY", now=0)

    assert "sk-" not in str(caught.value)


def test_unknown_kind_of_reference_is_refused():
    """Only env: and file: exist."""
    with pytest.raises(SecretUnavailable):
        SecretStore({}).resolve("vault:x", now=0)
