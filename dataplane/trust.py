"""By which keys a host believes releases, while these change: statements, each signed with a key that was believed
before it. Pure, but for `read_trusted`.

A host begins with the keys of its trusted keys file. The section `trust` of a release carries all statements there ever
were, oldest first, so that whoever verified a release knows which keys may sign the next; the agent keeps them beside
its release, where gateways read and verify them again. A statement that is signed with a key that is not believed at
that point says nothing: what a retired key signs, or a key that nobody here ever believed, is passed over.

Shape of the section: {"signing": key id, "statements": [envelope]}; that of the file: {"statements": [envelope]}.
Shape of a statement: {"serial": int, "adds": {key id: raw public key in base64}, "retires": [key id], "compromised":
                       bool}.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from dataplane.documents import MalformedRelease, Node, ReleaseRefused, parse_json
from dataplane.release import Envelope, parse_trusted_keys, sign_under, verified_digest

Keys = Mapping[str, Ed25519PublicKey]

SIGNED_PREFIX: Final = b"ballast.trust.v1\n"


@dataclass(frozen=True, slots=True)
class Statement:
    """What was signed: which public keys may sign from now on, by key id, and which never may again. `compromised`:
    somebody else may have these, so that nothing they signed is believed, earlier things neither.
    """

    serial: int
    adds: Mapping[str, str]
    retires: tuple[str, ...]
    compromised: bool = False

    @classmethod
    def parse(cls, content: object, *, path: str = "$statement") -> Statement:
        """Read the document of a statement, or raise MalformedRelease."""
        members = Node(content, path).members("serial", "adds", "retires", "compromised")
        adds = {key_id: node.text() for key_id, node in members["adds"].entries()}
        try:
            parse_trusted_keys(json.dumps(adds))
        except ValueError as exc:
            members["adds"].refuse(str(exc))
        return cls(
            serial=members["serial"].integer(minimum=1),
            adds=adds,
            retires=tuple(members["retires"].texts()),
            compromised=members["compromised"].flag(),
        )

    def to_mapping(self) -> dict[str, Any]:
        """What `parse` reads."""
        return {
            "serial": self.serial,
            "adds": dict(self.adds),
            "retires": list(self.retires),
            "compromised": self.compromised,
        }


@dataclass(frozen=True, slots=True)
class Trust:
    """What follows from a trusted keys file and statements. `retired` keys sign nothing any more; what they signed
    before is believed by whoever looks back, unless they are `compromised`.
    """

    keys: Keys
    retired: Keys
    compromised: frozenset[str]

    @property
    def past_and_present(self) -> dict[str, Ed25519PublicKey]:
        """For what was signed once and is looked at later, such as a dump: the keys and those retired in good order."""
        kept = {key_id: key for key_id, key in self.retired.items() if key_id not in self.compromised}
        return {**kept, **self.keys}


def encoded(key: Ed25519PublicKey) -> str:
    """A public key as trusted keys files and statements have it."""
    return base64.b64encode(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()


def sign_statement(statement: Statement, key: Ed25519PrivateKey) -> Envelope:
    """Sign a statement with a key that is believed so far."""
    return sign_under(statement.to_mapping(), key, prefix=SIGNED_PREFIX)


def read_statement(envelope: Envelope, *, trusted: Keys) -> Statement:
    """Read what `sign_statement` signed.

    Raises:
        UnknownKey, BadSignature, DigestMismatch, MalformedRelease: in the order of the checks.
    """
    verified_digest(envelope, trusted, prefix=SIGNED_PREFIX)
    return Statement.parse(parse_json(envelope.document, path="$statement"))


def follow(root: Keys, envelopes: Iterable[Envelope]) -> Trust:
    """What is believed after all statements, in their order.

    Never nothing: a statement that would leave no key is passed over. A key that was retired stays so, whatever adds it
    afterwards, and whether or not it stands in the trusted keys file.
    """
    keys, retired, compromised = dict(root), dict[str, Ed25519PublicKey](), set[str]()
    for envelope in envelopes:
        try:
            statement = read_statement(envelope, trusted=keys)
        except ReleaseRefused:
            continue
        added = parse_trusted_keys(json.dumps(dict(statement.adds)))
        after = {**keys, **{key_id: key for key_id, key in added.items() if key_id not in retired}}
        gone = {key_id: after.pop(key_id) for key_id in statement.retires if key_id in after}
        if not after:
            continue
        keys = after
        retired.update(gone)
        if statement.compromised:
            compromised.update(statement.retires)
    return Trust(keys, retired, frozenset(compromised))


def merged(kept: Sequence[Envelope], heard: Sequence[Envelope]) -> tuple[Envelope, ...]:
    """Everything that was kept, then what is new: whoever sends an older list takes no retirement back."""
    known = {one.digest + one.signature for one in kept}
    return (*kept, *(one for one in heard if one.digest + one.signature not in known))


def trust_file(release_file: Path) -> Path:
    """Where a host keeps the statements that it has heard: beside its release."""
    return release_file.with_name(release_file.name + ".trust")


def read_kept(release_file: Path) -> tuple[Envelope, ...]:
    """The statements that this host has heard, none verified; none where it has heard none.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not what `written` gave.
    """
    try:
        data = trust_file(release_file).read_bytes()
    except FileNotFoundError:
        return ()
    try:
        statements = Node(parse_json(data), "$").members("statements")["statements"]
        return tuple(Envelope.from_mapping(one.value) for one in statements.items())
    except (MalformedRelease, UnicodeDecodeError) as exc:
        raise ValueError(f"statements about signing keys, {trust_file(release_file)}: {exc}") from exc


def written(statements: Iterable[Envelope]) -> bytes:
    """The bytes of a host's file."""
    return json.dumps({"statements": [one.to_mapping() for one in statements]}, separators=(",", ":")).encode()


def read_trusted(trusted_keys_file: Path, release_file: Path) -> Keys:
    """The public keys, by their ids, that this host believes now: those of its file, and what statements made of them.

    Raises:
        OSError: a file cannot be read.
        ValueError: one is not what it must be. The statements are not left out then: a key that was retired would be
            believed again.
    """
    root = parse_trusted_keys(trusted_keys_file.read_bytes())
    return follow(root, read_kept(release_file)).keys
