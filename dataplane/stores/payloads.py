"""Where payloads are kept that are too large, or too much somebody's own, for a table: an object store.

What lies there is encrypted, each object under a key of its own. That key, wrapped by the deployment's, stays with
whoever has the pointer: with the wrapped key deleted, the object and every copy of it are noise, wherever a backup may
have put one. An object is bound to its name, so it cannot pass for another.

`file:///directory` is the default, `s3://bucket/prefix` for more than one host; credentials, region and address of S3
come from the usual variables (`AWS_…`). Everything here blocks, for some seconds at most: an event loop asks in a
thread.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import secrets
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import unquote, urlsplit

import obstore
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from obstore.exceptions import BaseError
from obstore.store import LocalStore, MemoryStore, ObjectStore, S3Store

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_VERSION: Final = b"\x01"
_PURPOSE: Final = b"ballast.payload\n"
_KEY_PURPOSE: Final = b"ballast.payload.key\n"
TIMEOUT_SECONDS: Final = 10
# What S3 says is wrong stands in its answer, which the library's errors carry as text.
_S3_CODE: Final = re.compile(r"<Code>(\w{1,60})</Code>")
_NO_BUCKET: Final = "NoSuchBucket"


class PayloadError(Exception):
    """Root of what can go wrong with a payload. Messages name the object, never what is in it."""

    code = "payload_unavailable"


class PayloadUnavailable(PayloadError):
    """The store, or the key that a payload was written under, cannot be had now."""

    code = "payload_unavailable"


class PayloadGone(PayloadError):
    """There is no such object (any more)."""

    code = "payload_gone"


class PayloadTampered(PayloadError):
    """What lies under the name is not what was put there under it."""

    code = "payload_tampered"


class BadPayloadKeys(Exception):
    """What was to be keys for payloads is none; the message says why."""


class PayloadKeys:
    """Wraps the keys of objects. The first key wraps, every key unwraps, so that keys are changed without a gap; an old
    one may go when the last payload under it has expired.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        """Take at least one key of KEY_BYTES bytes.

        Raises:
            BadPayloadKeys: there is none, or one has another length.
        """
        if not keys or {len(key) for key in keys} != {KEY_BYTES}:
            raise BadPayloadKeys(f"payloads take at least one key, each of {KEY_BYTES} bytes")
        self._keys = {hashlib.sha256(key).hexdigest()[:8]: AESGCM(key) for key in keys}
        self._first = hashlib.sha256(keys[0]).hexdigest()[:8]

    def wrap(self, key: bytes, *, name: str) -> str:
        """Return the key of the object with this name, for nobody but us to read.

        Shape: "<key id>:<base64>".
        """
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = nonce + self._keys[self._first].encrypt(nonce, key, _KEY_PURPOSE + name.encode())
        return f"{self._first}:{base64.b64encode(sealed).decode()}"

    def unwrap(self, wrapped: str, *, name: str) -> bytes:
        """Return what `wrap` was given.

        Raises:
            PayloadUnavailable: it was wrapped by a key that is not here.
            PayloadTampered: `wrap` did not write it, or for another object.
        """
        key_id, _, text = wrapped.partition(":")
        if key_id not in self._keys:
            raise PayloadUnavailable(f"payload {name!r} was written under key {key_id[:16]!r}, which is not here")
        try:
            sealed = base64.b64decode(text, validate=True)
            return self._keys[key_id].decrypt(
                sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _KEY_PURPOSE + name.encode()
            )
        except (InvalidTag, binascii.Error, ValueError) as exc:
            raise PayloadTampered(f"the key of payload {name!r} was not wrapped by us, or not for it") from exc


def parse_payload_keys(text: str) -> PayloadKeys:
    """Read a key file: one key a line, in base64; the first wraps.

    Raises:
        BadPayloadKeys: a line is no base64 or of another length, or there is none.
    """
    try:
        return PayloadKeys([base64.b64decode(line, validate=True) for line in text.split()])
    except ValueError as exc:  # with the line in it, so it is not repeated
        raise BadPayloadKeys("a line is not base64") from exc


def read_payload_keys(path: Path) -> PayloadKeys:
    """Read the keys of payloads. They are never made on the way: another host's would be others.

    Raises:
        BadPayloadKeys: there are none that can be read, or something else.
    """
    try:
        return parse_payload_keys(path.read_text())
    except (OSError, UnicodeDecodeError, BadPayloadKeys) as exc:
        raise BadPayloadKeys(f"{path} (BALLAST_PAYLOAD_KEYS_FILE): {exc}") from exc


class PayloadStore(Protocol):
    """Where payloads are kept. Names are given once: who puts another payload under a name loses the first."""

    def put(self, name: str, data: bytes) -> str:
        """Keep a payload; returns its wrapped key, without which it cannot be read.

        Raises:
            PayloadUnavailable: it is not kept.
        """

    def get(self, name: str, wrapped_key: str) -> bytes:
        """Return a payload.

        Raises:
            PayloadUnavailable, PayloadGone, PayloadTampered.
        """

    def delete(self, name: str) -> None:
        """Delete an object; one that is not there is deleted already.

        Raises:
            PayloadUnavailable: nobody knows whether it is gone.
        """


class ObjectPayloadStore:
    """See the module."""

    def __init__(self, objects: ObjectStore, keys: PayloadKeys) -> None:
        self._objects = objects
        self._keys = keys

    def put(self, name: str, data: bytes) -> str:
        """As `PayloadStore.put`."""
        key, nonce = AESGCM.generate_key(8 * KEY_BYTES), secrets.token_bytes(_NONCE_BYTES)
        sealed = _VERSION + nonce + AESGCM(key).encrypt(nonce, data, _PURPOSE + name.encode())
        try:
            obstore.put(self._objects, name, sealed)
            if isinstance(self._objects, LocalStore) and self._objects.prefix is not None:
                _sync(Path(self._objects.prefix) / name)
        except (BaseError, OSError) as exc:
            raise PayloadUnavailable(f"payload {name!r} cannot be stored: {_told(exc)}") from exc
        return self._keys.wrap(key, name=name)

    def get(self, name: str, wrapped_key: str) -> bytes:
        """As `PayloadStore.get`."""
        key = self._keys.unwrap(wrapped_key, name=name)
        try:
            sealed = obstore.get(self._objects, name).bytes().to_bytes()
        except (BaseError, OSError) as exc:
            if _says_gone(exc):
                raise PayloadGone(f"payload {name!r} is not in the store (any more)") from exc
            raise PayloadUnavailable(f"payload {name!r} cannot be read: {_told(exc)}") from exc
        nonce = sealed[len(_VERSION) : len(_VERSION) + _NONCE_BYTES]
        if not sealed.startswith(_VERSION) or len(sealed) < len(_VERSION) + _NONCE_BYTES + _TAG_BYTES:
            raise PayloadTampered(f"what lies under {name!r} is no payload of ours")
        try:
            return AESGCM(key).decrypt(nonce, sealed[len(_VERSION) + _NONCE_BYTES :], _PURPOSE + name.encode())
        except InvalidTag as exc:
            raise PayloadTampered(f"what lies under {name!r} is not what was put there") from exc

    def delete(self, name: str) -> None:
        """As `PayloadStore.delete`."""
        try:
            obstore.delete(self._objects, name)
        except (BaseError, OSError) as exc:
            if not _says_gone(exc):
                raise PayloadUnavailable(f"payload {name!r} cannot be deleted: {_told(exc)}") from exc


def is_store_url(url: str) -> bool:
    """Whether `open_objects` knows what to do with an address."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    if parts.scheme == "s3":
        return bool(parts.hostname)
    return (parts.scheme == "file" and parts.path.startswith("/") and not parts.netloc) or url == "memory://"


def open_objects(url: str, *, allow_http: bool = False, region: str | None = None) -> ObjectStore:
    """Return the object store at an address; connects to nothing yet.

    Args:
        allow_http: S3 may be asked without TLS, where `AWS_ENDPOINT_URL` says so.
        region: Of the bucket; None: as `AWS_REGION` says.
    Raises:
        ValueError: it is no `file:///directory`, `s3://bucket/prefix` or, which forgets, `memory://`.
        OSError: the directory cannot be made.
    """
    if not is_store_url(url):
        raise ValueError(f"{url!r} is no payload store; expected file:///directory or s3://bucket/prefix")
    parts = urlsplit(url)
    if parts.scheme == "file":
        directory = Path(unquote(parts.path))
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return LocalStore(directory)
    if parts.scheme == "s3":
        return S3Store(
            parts.netloc,
            prefix=parts.path.strip("/") or None,
            config=None if region is None else {"region": region},
            client_options={"timeout": f"{TIMEOUT_SECONDS}s", "allow_http": allow_http},
            retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=TIMEOUT_SECONDS)},
        )
    return MemoryStore()


def _sync(path: Path) -> None:
    """Have a file and its place in its directory survive a power cut; the library leaves that to chance."""
    for place, flags in ((path, os.O_RDONLY), (path.parent, os.O_RDONLY | os.O_DIRECTORY)):
        descriptor = os.open(place, flags | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _s3_code(error: Exception) -> str:
    found = _S3_CODE.search(str(error))
    return found[1] if found else ""


def _says_gone(error: Exception) -> bool:
    """Whether the object alone is not there. A bucket that is not there, or is misspelt, is a store that is away: of
    its objects nothing is known, and whoever took them for gone would never come back for them.
    """
    return isinstance(error, FileNotFoundError) and _s3_code(error) != _NO_BUCKET


def _told(error: Exception) -> str:
    line = next(iter(str(error).splitlines()), type(error).__name__)
    code = _s3_code(error)
    return f"{code}: {line.partition('<?xml')[0].rstrip(': ')[-200:]}" if code else line[:200]
