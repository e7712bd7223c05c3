"""Objects that S3 itself keeps until a date: put with headers of Object Lock, which the library of stores cannot send.

A put is signed here (AWS Signature Version 4), with the credentials that stand in the usual variables. Mode COMPLIANCE:
nobody can shorten it, the owner of the account neither. The bucket must have been made with Object Lock.
"""

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote, urlsplit

import httpx

from controlplane.corpora.errors import VaultTaken, VaultUnavailable

TIMEOUT_SECONDS: Final = 30.0
MAX_ATTEMPTS: Final = 3
DEFAULT_REGION: Final = "us-east-1"
_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_SERVICE: Final = "s3"
# It was not done, or nobody knows whether it was; to put the same again under the same name is safe.
_AGAIN: Final = frozenset({500, 502, 503, 504})
_TAKEN: Final = frozenset({409, 412})


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who asks. `token` is there when they are lent for a while."""

    key_id: str
    secret: str
    token: str = ""

    @classmethod
    def read(cls, variables: Mapping[str, str]) -> "Credentials | None":
        """Those that stand in variables; None: none do, and the machine's role asks, which only the library knows."""
        key_id, secret = variables.get("AWS_ACCESS_KEY_ID", ""), variables.get("AWS_SECRET_ACCESS_KEY", "")
        return cls(key_id, secret, variables.get("AWS_SESSION_TOKEN", "")) if key_id and secret else None


class LockedPuts:
    """Puts objects into one bucket, each locked until a date."""

    def __init__(
        self,
        *,
        bucket: str,
        prefix: str,
        region: str,
        endpoint: str,
        credentials: Credentials,
        http: httpx.Client,
        clock: Callable[[], datetime],
    ) -> None:
        """Args:
        prefix: What names in the bucket begin with; empty, or without slashes around it.
        endpoint: Of a store of S3's kind, which takes the bucket as the first part of the path; empty: AWS's own.
        clock: The present: S3 takes no signature that is a quarter of an hour old.
        """
        self._base = f"{endpoint.rstrip('/')}/{bucket}" if endpoint else f"https://{bucket}.s3.{region}.amazonaws.com"
        self._prefix = prefix
        self._region = region
        self._credentials = credentials
        self._http = http
        self._clock = clock

    def put(self, name: str, data: bytes, *, retain_until: datetime) -> None:
        """Keep an object that nobody can overwrite or delete before `retain_until`.

        Raises:
            VaultTaken: there is one of this name.
            VaultUnavailable: it is not known to be kept; the message says what S3 said.
        """
        path = quote(f"{self._prefix}/{name}" if self._prefix else name, safe="/-_.~")
        said = ""
        for _ in range(MAX_ATTEMPTS):
            url = f"{self._base}/{path}"
            try:
                answer = self._http.put(url, content=data, headers=self._headers(url, data, retain_until))
            except httpx.HTTPError as exc:
                said = f"{type(exc).__name__}: {exc}"
                continue
            if answer.is_success:
                return
            said = f"HTTP {answer.status_code} {answer.text[:200]}"
            if answer.status_code in _TAKEN:
                raise VaultTaken(f"object {name!r} is there already")
            if answer.status_code not in _AGAIN:
                break
        raise VaultUnavailable(f"object {name!r} cannot be stored under a lock: {said}")

    def _headers(self, url: str, data: bytes, retain_until: datetime) -> dict[str, str]:
        parts, now, digest = urlsplit(url), self._clock().astimezone(UTC), hashlib.sha256(data)
        headers = {
            "host": parts.netloc,
            "if-none-match": "*",
            "x-amz-checksum-sha256": b64encode(digest.digest()).decode(),
            "x-amz-content-sha256": digest.hexdigest(),
            "x-amz-date": f"{now:%Y%m%dT%H%M%SZ}",
            "x-amz-object-lock-mode": "COMPLIANCE",
            "x-amz-object-lock-retain-until-date": f"{retain_until.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
        }
        if self._credentials.token:
            headers["x-amz-security-token"] = self._credentials.token
        signed = ";".join(sorted(headers))
        lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
        request = "\n".join(("PUT", parts.path, "", lines, signed, digest.hexdigest()))
        scope = f"{now:%Y%m%d}/{self._region}/{_SERVICE}/aws4_request"
        text = "\n".join((_ALGORITHM, headers["x-amz-date"], scope, hashlib.sha256(request.encode()).hexdigest()))
        key = f"AWS4{self._credentials.secret}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        return headers | {
            "authorization": f"{_ALGORITHM} Credential={self._credentials.key_id}/{scope},"
            f" SignedHeaders={signed}, Signature={signature}"
        }
