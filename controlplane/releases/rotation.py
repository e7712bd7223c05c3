"""Give the key that signs releases a successor, in steps that no worker notices.

1. `announce`: the next key's public half goes out in a release that the present key signs, to every host.
2. `switch`: once every worker has that release, the next key signs, and the present one no more.
3. `retire`: once nothing needs the old key, a statement that the new one signs takes every host's belief in it.

`replace_compromised` takes all three at once and waits for nobody. Each step may be repeated after a crash: it looks at
what is there, the files and the statements, and does what is missing.
"""

import os
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from django.conf import settings
from django.db.models import Q

from controlplane.audit import operations as audit
from controlplane.releases.errors import RotationRefused
from controlplane.releases.fleet import FORGOTTEN_AFTER
from controlplane.releases.models import Release, TrustStatement, Worker
from controlplane.releases.operations import current_release, cut_release
from controlplane.releases.signing import read_key, signing_key, signing_key_id
from controlplane.releases.trust import dependants_of, trust
from dataplane.release import key_id_of
from dataplane.trust import Statement, encoded, sign_statement

# Processes that take releases; what else reports needs no signing key.
_TAKERS = ("gateway", "agent", "shadow")


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the rotation stands. Key ids; `next` None: none is announced; `old`: believed and signing no more."""

    signing: str
    next: str | None
    old: tuple[str, ...]
    waiting: tuple[str, ...]


def next_key_file() -> Path:
    """Where the key lies that is to sign next; whoever keeps keys elsewhere puts it there before `announce`."""
    return settings.SIGNING_KEY_FILE.with_name(settings.SIGNING_KEY_FILE.name + ".next")


def old_key_file() -> Path:
    """Where the key lies that signed before, until it is retired."""
    return settings.SIGNING_KEY_FILE.with_name(settings.SIGNING_KEY_FILE.name + ".old")


def standing(*, now: datetime) -> Standing:
    """Where the rotation stands, and which workers have not heard of its last step."""
    signing = signing_key_id()
    known = trust().keys
    following = _next_key()
    next_id = None if following is None else key_id_of(following.public_key())
    old = tuple(sorted(key_id for key_id in known if key_id not in {signing, next_id}))
    last = TrustStatement.objects.last()
    waiting = () if last is None else tuple(_behind(last.after_revision + 1, now=now))
    return Standing(signing, next_id if next_id in known else None, old, waiting)


@audit.operation
def announce(*, actor: Any, now: datetime) -> str:
    """Make the next key, unless it is there, and have every host believe it; returns its id.

    Raises:
        RotationRefused: a key that signed before is still believed; retire it first.
        SigningKeyMissing: there is no key to sign with.
    """
    if old := standing(now=now).old:
        raise RotationRefused(f"{', '.join(old)} signed before and is still believed; retire it first")
    return _announce(actor=actor, now=now)


def _announce(*, actor: Any, now: datetime) -> str:
    """As `announce`, whatever else is believed."""
    signer = signing_key()
    following = _next_key()
    if following is None:
        following = Ed25519PrivateKey.generate()
        pem = following.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        _write_private(next_key_file(), pem)
    key_id = key_id_of(following.public_key())
    if key_id == key_id_of(signer.public_key()):
        raise RotationRefused(f"{next_key_file()} holds the key that signs now; put another there, or none")
    if key_id in trust().retired:
        raise RotationRefused(f"{key_id} was retired, and no host will ever believe it again; make another")
    if not _was_stated(key_id):
        # The present key, too: who looks back at what it signed finds its public half here if no file has it any more.
        adds = {key_id_of(key.public_key()): encoded(key.public_key()) for key in (signer, following)}
        _state(signer, adds=adds, actor=actor, now=now)
        audit.record("signing_key.announced", actor=actor, target=f"signing-key:{key_id}", at=now)
        cut_release(reason=f"signing key {key_id} announced", actor=actor, now=now)
    return key_id


@audit.operation
def switch(*, actor: Any, now: datetime, without: Collection[str] = ()) -> str:
    """Sign with the next key from now on; returns its id.

    Args:
        without: Workers that are not waited for: they ask how keys changed when they are back.
    Raises:
        RotationRefused: no key is announced, or workers have not heard of it; naming them.
    """
    following = _next_key()
    if following is None:
        latest = current_release()
        # A crash after the files changed places, and before a release said so.
        if old_key_file().exists() and (latest is None or latest.key_id != signing_key_id()):
            _say_switched(actor=actor, now=now)
            return signing_key_id()
        raise RotationRefused(f"no key is announced: {next_key_file()} is not there; announce one first")
    key_id = key_id_of(following.public_key())
    announced = TrustStatement.objects.filter(document__contains=key_id).first()
    if announced is None:
        raise RotationRefused(f"key {key_id} is not announced yet; hosts would refuse what it signs")
    _refuse_behind(announced, now=now, without=without)
    _change_places()
    _say_switched(actor=actor, now=now)
    return key_id


@audit.operation
def retire(*, actor: Any, now: datetime, without: Collection[str] = ()) -> tuple[str, ...]:
    """Have no host believe the key any more that signed before; returns the ids of those that were.

    What it signed before and is looked at later (dumps, reports of game days, releases) is still believed here.

    Args:
        without: As `switch`.
    Raises:
        RotationRefused: there is none, or something needs it still, a line each.
    """
    signer = signing_key()
    state = standing(now=now)
    if not state.old:
        raise RotationRefused("there is no old key: no other key is believed than those that sign now and next")
    switched = _switched(state.signing)
    needed = [] if switched is None else _needing(state.old, switched, now=now, without=without)
    if switched is None:
        needed = [f"key {state.signing} has signed no release yet; switch first"]
    if needed:
        raise RotationRefused("; ".join(needed))
    _state(signer, retires=state.old, actor=actor, now=now)
    for key_id in state.old:
        audit.record("signing_key.retired", actor=actor, target=f"signing-key:{key_id}", at=now)
    cut_release(reason=f"signing key {', '.join(state.old)} retired", actor=actor, now=now)
    old_key_file().unlink(missing_ok=True)
    return state.old


def replace_compromised(*, actor: Any, reason: str, now: datetime, key_id: str | None = None) -> tuple[str, str]:
    """Somebody else may have a key: have no host believe it, as fast as releases go out, and where it is the one that
    signs, have another sign. Returns the ids of the key and of the one that signs afterwards.

    Nothing is waited for. Hosts that are away ask how keys changed when they are back. Whoever has the key can say as
    much to a host that has heard nothing yet: put a trusted keys file without it on hosts that were away.

    Args:
        key_id: Which; None: the one that signs.
    Raises:
        RotationRefused: no host believes it.
    """
    signing = signing_key_id()
    gone = key_id or signing
    if gone not in trust().keys:
        raise RotationRefused(f"no host believes {gone}; these are believed: {', '.join(sorted(trust().keys))}")
    if gone != signing:
        _disown(gone, actor=actor, reason=reason, now=now)
        return gone, signing
    successor = _announce_at_once(actor=actor, now=now)
    _replace(gone, actor=actor, reason=reason, now=now)
    return gone, successor


# A release of its own, which the old key signs: hosts hear of the successor by it.
_announce_at_once = audit.operation(_announce)


@audit.operation
def _replace(gone: str, *, actor: Any, reason: str, now: datetime) -> None:
    _change_places()
    _disown(gone, actor=actor, reason=reason, now=now)


@audit.operation
def _disown(gone: str, *, actor: Any, reason: str, now: datetime) -> None:
    """Have no host believe a key, nor what it signed before, and remove its private half here."""
    signer = signing_key()
    _state(signer, retires=(gone,), compromised=True, actor=actor, now=now)
    facts = {"reason": reason, "successor": key_id_of(signer.public_key())}
    audit.record("signing_key.compromised", actor=actor, target=f"signing-key:{gone}", at=now, data=facts)
    cut_release(reason=f"signing key {gone} compromised", actor=actor, now=now)
    for file in (old_key_file(), next_key_file()):
        if file.exists() and key_id_of(read_key(file).public_key()) == gone:
            file.unlink()


def _state(
    signer: Ed25519PrivateKey,
    *,
    adds: dict[str, str] | None = None,
    retires: tuple[str, ...] = (),
    compromised: bool = False,
    actor: Any,
    now: datetime,
) -> None:
    last = TrustStatement.objects.last()
    serial = 1 if last is None else last.serial + 1
    envelope = sign_statement(Statement(serial, adds or {}, retires, compromised), signer)
    latest = current_release()
    TrustStatement.objects.create(
        serial=serial,
        document=envelope.document,
        digest=envelope.digest,
        key_id=envelope.key_id,
        signature=envelope.signature,
        actor=audit.name_of(actor),
        at=now,
        after_revision=0 if latest is None else latest.revision,
    )


def _next_key() -> Ed25519PrivateKey | None:
    return read_key(next_key_file()) if next_key_file().exists() else None


def _write_private(path: Path, data: bytes) -> None:
    """Write a file for our user only, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _was_stated(key_id: str) -> bool:
    """Whether every host was told, also those whose trusted keys file lacks the key."""
    return TrustStatement.objects.filter(document__contains=key_id).exists()


def _change_places() -> None:
    """The next key becomes the signing key. The old one's copy first: a crash loses neither."""
    _write_private(old_key_file(), settings.SIGNING_KEY_FILE.read_bytes())
    next_key_file().replace(settings.SIGNING_KEY_FILE)


def _say_switched(*, actor: Any, now: datetime) -> None:
    key_id = signing_key_id()
    audit.record("signing_key.switched", actor=actor, target=f"signing-key:{key_id}", at=now)
    # Never nothing to cut: the section `trust` says which key signs, and orders for emergencies are signed anew.
    cut_release(reason=f"signing key {key_id} signs from now on", actor=actor, now=now)


def _switched(key_id: str) -> Release | None:
    """The first release that the key signed."""
    return Release.objects.filter(key_id=key_id).order_by("revision").first()


def _needing(old: tuple[str, ...], switched: Release, *, now: datetime, without: Collection[str]) -> list[str]:
    """What still needs a key that signed before, a line each."""
    lines = [
        f"{name} has not taken r{switched.revision}, the first release that the new key signed"
        for name in _behind(switched.revision, now=now)
        if name not in without
    ]
    found = [line for key_id in old for line in dependants_of(key_id, switched_at=switched.clicked_at, now=now)]
    return [*lines, *dict.fromkeys(found)]


def _refuse_behind(announced: TrustStatement, *, now: datetime, without: Collection[str]) -> None:
    behind = [name for name in _behind(announced.after_revision + 1, now=now) if name not in without]
    if behind:
        raise RotationRefused(
            f"{', '.join(behind)} has not taken r{announced.after_revision + 1}, which says that the next key is to be "
            f"believed; wait, or name who is gone with --without"
        )


def _behind(revision: int, *, now: datetime) -> list[str]:
    """Workers heard of within a day, and not stopped on purpose, that have not said that they took the release."""
    takers = Worker.objects.filter(kind__in=_TAKERS, last_seen_at__gt=now - FORGOTTEN_AFTER).exclude(status="stopped")
    older = takers.filter(Q(revision__isnull=True) | Q(revision__lt=revision))
    return list(older.order_by("name").values_list("name", flat=True))
