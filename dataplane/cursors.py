"""Resume cursors: whoever shows one may read on in one stream of one tenant, until it expires.

A cursor stands in an address where a header cannot be sent (a browser's EventSource), so it is a capability of its own:
signed, bound to its tenant and its stream, short-lived, and good for reading and acknowledging only.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dataplane.errors.streams import CursorExpired, InvalidCursor

_VERSION: Final = 1
# Version, stream id, sequence number, expiry in epoch seconds; the tenant's slug and the MAC follow.
_HEAD: Final = struct.Struct(">B16sQQ")
_MAC_BYTES: Final = 16
_PURPOSE: Final = b"ballast.cursor\n"
MIN_KEY_BYTES: Final = 32


class BadCursorKeys(Exception):
    """What was to be keys for cursors is none; the message says why."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a stream: the caller has the frames up to `after` (0: none). `expires_at` is epoch seconds."""

    stream: str
    tenant: str
    after: int
    expires_at: int


class CursorKeys:
    """Signs and reads cursors. The first key signs, every key reads, so that keys are changed without a gap."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        """Take at least one key of at least MIN_KEY_BYTES bytes.

        Raises:
            BadCursorKeys: there is none, or one is too short.
        """
        if not keys or min(map(len, keys)) < MIN_KEY_BYTES:
            raise BadCursorKeys(f"cursors take at least one key, each of {MIN_KEY_BYTES} bytes or more")
        self._keys = tuple(keys)

    def sign(self, cursor: Cursor) -> str:
        """Write a cursor; `stream` is 32 hex digits."""
        body = _HEAD.pack(_VERSION, bytes.fromhex(cursor.stream), cursor.after, cursor.expires_at)
        return self.seal(_PURPOSE, body + cursor.tenant.encode())

    def read(self, text: str, *, now: float) -> Cursor:
        """Read what `sign` wrote, with any of the keys. `now` is epoch seconds.

        Raises:
            InvalidCursor: it was not written by this gateway, or was altered.
            CursorExpired: it was good until then.
        """
        body = self.unseal(_PURPOSE, text)
        if body is None or len(body) < _HEAD.size:
            raise InvalidCursor
        version, stream, after, expires_at = _HEAD.unpack_from(body)
        if version != _VERSION:
            raise InvalidCursor
        if expires_at <= now:
            raise CursorExpired(expired_seconds=now - expires_at)
        return Cursor(stream.hex(), body[_HEAD.size :].decode(), after, expires_at)

    def seal(self, purpose: bytes, body: bytes) -> str:
        """Write `body` so that it can be read and not altered; what is sealed for one purpose is none for another."""
        return base64.urlsafe_b64encode(body + _mac(self._keys[0], purpose + body)).rstrip(b"=").decode()

    def unseal(self, purpose: bytes, text: str) -> bytes | None:
        """Return what `seal` was given, with any of the keys; None for what it did not write."""
        try:
            data = base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, UnicodeError):
            return None
        body, mac = data[:-_MAC_BYTES], data[-_MAC_BYTES:]
        return body if any(hmac.compare_digest(mac, _mac(key, purpose + body)) for key in self._keys) else None


def parse_cursor_keys(text: str) -> CursorKeys:
    """Read a key file: one key a line, in base64; the first signs.

    Raises:
        BadCursorKeys: a line is no base64 or too short, or there is none.
    """
    try:
        return CursorKeys([base64.b64decode(line, validate=True) for line in text.split()])
    except ValueError as exc:  # with the line in it, so it is not repeated
        raise BadCursorKeys("a line is not base64") from exc


def _mac(key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, body, hashlib.sha256)[:_MAC_BYTES]
