"""What an eval shows a gateway in the place of an API key: leave to ask as nobody's customer.

A token is signed with a key that signs releases, so that whoever may change what customers get may try it beforehand,
and gateways need no further secret. It says for which run it is, where the bytes of the run's data set may go, and
which sandbox its requests may bring; it is good for an hour at most.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from dataplane.documents import MalformedRelease, Node, parse_json
from dataplane.errors.requests import Unauthorized
from dataplane.release import canonical, key_id_of

PREFIX: Final = "be-"
LIFE_SECONDS: Final = 3600
# Clocks that do not agree: as much longer a token may seem to be good than it may be.
CLOCK_SECONDS: Final = 60
_SIGNED_PREFIX: Final = b"ballast.eval.v1\n"
_KEY_ID_BYTES: Final = 8
# A run's id stands in usage rows as the id of the key, after `RUN`.
RUN: Final = "run:"
_RUN_ID: Final = re.compile(r"[A-Za-z0-9_.-]{1,36}\Z")


@dataclass(frozen=True, slots=True)
class EvalClaims:
    """What a token says. `run` is 1 to 36 letters, digits, `_`, `.` and `-`; empty `residency` means that the bytes may
    go anywhere; `until` is epoch seconds; `sandbox` is the SHA-256 hex digest of the release document that requests
    bring, None: the live release serves them.
    """

    run: str
    residency: frozenset[str]
    until: int
    sandbox: str | None = None

    @classmethod
    def parse(cls, value: object, *, path: str = "$token") -> EvalClaims:
        """Read claims.

        Shape: {"run": str, "residency": [str], "until": int, "sandbox": SHA-256 hex or null}.
        Raises:
            MalformedRelease: naming the JSON path.
        """
        members = Node(value, path).members("run", "residency", "until", "sandbox")
        run, sandbox = members["run"].text(), members["sandbox"]
        if not _RUN_ID.match(run):
            members["run"].refuse(f"{run[:80]!r} is no id of a run (1 to 36 letters, digits, '_', '.' and '-')")
        return cls(
            run,
            frozenset(members["residency"].texts()),
            members["until"].integer(),
            None if sandbox.value is None else sandbox.sha256(),
        )

    def to_mapping(self) -> dict[str, Any]:
        """What `parse` reads."""
        return {"run": self.run, "residency": sorted(self.residency), "until": self.until, "sandbox": self.sandbox}


def is_eval_token(text: str) -> bool:
    """Whether what is shown means to be a token of an eval, rather than an API key."""
    return text.startswith(PREFIX)


def mint(key: Ed25519PrivateKey, claims: EvalClaims) -> str:
    """Write a token. Shape: be-<claims>.<id of the key and signature>, both in base64 as addresses have it.

    Raises:
        ValueError: no gateway would read the claims; the message says why.
    """
    content = claims.to_mapping()
    try:
        EvalClaims.parse(content)
    except MalformedRelease as exc:
        raise ValueError(f"claims of an eval: {exc}") from exc
    payload = canonical(content)
    signer = bytes.fromhex(key_id_of(key.public_key()))
    return f"{PREFIX}{_encode(payload)}.{_encode(signer + key.sign(_SIGNED_PREFIX + payload))}"


def read(token: str, trusted: Mapping[str, Ed25519PublicKey], *, now: float) -> EvalClaims:
    """Read what `mint` wrote.

    Args:
        trusted: Public keys by key id.
        now: Epoch seconds.
    Raises:
        Unauthorized: it is signed with an unknown key, or not by it, says something else, or its time is over.
    """
    written, _, sealed = token.removeprefix(PREFIX).partition(".")
    payload, seal = _decode(written), _decode(sealed)
    key_id, signature = seal[:_KEY_ID_BYTES].hex(), seal[_KEY_ID_BYTES:]
    key = trusted.get(key_id)
    if key is None:
        raise Unauthorized(
            f"the eval token is signed with key {key_id!r}, which is not trusted here; add its public key to the "
            "trusted keys file"
        )
    try:
        key.verify(signature, _SIGNED_PREFIX + payload)
    except InvalidSignature:
        raise Unauthorized(
            f"the signature of the eval token does not fit it and key {key_id!r}; it was altered after signing"
        ) from None
    try:
        claims = EvalClaims.parse(parse_json(payload, path="$token"))
    except (MalformedRelease, UnicodeDecodeError) as exc:
        raise Unauthorized(f"the eval token is malformed: {exc}") from exc
    if claims.until <= now:
        raise Unauthorized(f"the eval token of run {claims.run!r} expired {now - claims.until:.0f} s ago; mint another")
    if claims.until > now + LIFE_SECONDS + CLOCK_SECONDS:
        raise Unauthorized(
            f"the eval token of run {claims.run!r} is good for {claims.until - now:.0f} s more, {LIFE_SECONDS} are the "
            "most; mint one that ends sooner"
        )
    return claims


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeError) as exc:
        raise Unauthorized("the eval token is malformed: it is not two parts in base64") from exc
