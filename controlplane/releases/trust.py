"""By which keys this deployment's releases are believed, as the console knows it: see `dataplane.trust`."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from django.conf import settings

from controlplane.releases.errors import SigningKeyMissing
from controlplane.releases.models import TrustStatement
from controlplane.releases.signing import signing_key
from dataplane.release import key_id_of, parse_trusted_keys
from dataplane.trust import Trust, follow

# What still needs a key that is to be retired, one line each: by its id, when another began to sign, and now.
Dependants = Callable[[str, datetime, datetime], list[str]]

_dependants: list[Dependants] = []


def register_dependants(dependants: Dependants) -> None:
    """Have no key retired while something depends on it that this finds."""
    if dependants not in _dependants:
        _dependants.append(dependants)


def dependants_of(key_id: str, *, switched_at: datetime, now: datetime) -> list[str]:
    """What every app has that still needs the key."""
    return [line for dependants in _dependants for line in dependants(key_id, switched_at, now)]


def trust() -> Trust:
    """What hosts believe that have heard everything. One query, and the keys' files.

    It begins with the trusted keys file, where it is here too, the signing key, and all keys that were ever announced:
    a file that lost a key which signed once is no reason to lose what that signed.
    """
    rows = list(TrustStatement.objects.all())
    root: dict[str, Ed25519PublicKey] = {}
    for row in rows:
        root |= parse_trusted_keys(json.dumps(json.loads(row.document)["adds"]))
    with suppress(OSError, ValueError):
        root |= parse_trusted_keys(settings.TRUSTED_KEYS_FILE.read_bytes())
    with suppress(SigningKeyMissing):
        key = signing_key().public_key()
        root[key_id_of(key)] = key
    return follow(root, [row.envelope() for row in rows])


def keys_of_the_past() -> Mapping[str, Ed25519PublicKey]:
    """The public keys by which what was signed here once is believed: every one that is not compromised."""
    return trust().past_and_present


def compile_trust() -> dict[str, Any]:
    """The section 'trust'. One query.

    Shape: see `dataplane.trust`.
    Raises:
        SigningKeyMissing: nothing can be released without it.
    """
    return {
        "signing": key_id_of(signing_key().public_key()),
        "statements": [row.envelope().to_mapping() for row in TrustStatement.objects.all()],
    }
