"""What a runner shows a gateway in the place of the tenant's API key, of which only a digest is known.

A token is signed with the keys that sign resume cursors, which all hosts of a fleet share. It names the tenant, the API
key that the job was handed in with, and the job, is good for a few minutes, and for one request only: the one whose
idempotency key is the job's id. Whether that API key is still admitted is for the release to say.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from dataplane.cursors import CursorKeys
from dataplane.errors.jobs import JobTokenRefused

PREFIX: Final = "bj-"
# From signing to the head of the request is a moment; the rest is for clocks that do not agree.
LIFE_SECONDS: Final = 300
_PURPOSE: Final = b"ballast.job\n"
# Version, job, expiry in epoch seconds, and how long the tenant's slug is, which follows, and then the key's id.
_HEAD: Final = struct.Struct(">B16sQH")
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class JobToken:
    """Leave to ask for one job in the name of an API key. `expires_at` is epoch seconds."""

    job: UUID
    tenant: str
    key_id: str
    expires_at: int


def is_job_token(text: str) -> bool:
    """Whether what is shown means to be a token, rather than an API key."""
    return text.startswith(PREFIX)


def sign_token(keys: CursorKeys, token: JobToken) -> str:
    """Write a token."""
    tenant = token.tenant.encode()
    body = _HEAD.pack(_VERSION, token.job.bytes, token.expires_at, len(tenant)) + tenant + token.key_id.encode()
    return PREFIX + keys.seal(_PURPOSE, body)


def read_token(keys: CursorKeys, text: str, *, job: str | None, now: float) -> JobToken:
    """Read what `sign_token` wrote, with any of the keys.

    Args:
        job: The idempotency key of the request that it is shown with.
        now: Epoch seconds.
    Raises:
        JobTokenRefused: it is none of ours, has expired, or is for another request.
    """
    body = keys.unseal(_PURPOSE, text.removeprefix(PREFIX))
    if body is None or len(body) < _HEAD.size:
        raise JobTokenRefused
    version, job_bytes, expires_at, length = _HEAD.unpack_from(body)
    names = body[_HEAD.size :]
    token = JobToken(UUID(bytes=job_bytes), names[:length].decode(), names[length:].decode(), expires_at)
    if version != _VERSION or expires_at <= now or job != str(token.job):
        raise JobTokenRefused
    return token
