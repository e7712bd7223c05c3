"""What `python -m dataplane engage | stand-down | orders` does on a host: gives an order that was signed beforehand,
takes it back, says which there are.

It needs the release on this host's disk and the keys that it trusts, and nothing that runs. It says what it did, and
how to undo it.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from dataplane.documents import ReleaseRefused, parse_json
from dataplane.ladder.emergency import (
    ID_PREFIX,
    Given,
    Order,
    OrderRefused,
    most_minutes,
    obeyed,
    parse_given,
    parse_signed,
    read_order,
    surface_named,
)
from dataplane.ladder.errors import CommandRefused
from dataplane.ladder.orders import orders_file
from dataplane.ladder.policy import MAINTENANCE, RUNGS
from dataplane.release import Envelope, Release, verify
from dataplane.stores.files import write_atomically
from dataplane.trust import read_trusted

COMMAND: Final = "python -m dataplane"
_STILL: Final = "Rungs that the console or triggers engaged are no part of this."


@dataclass(frozen=True, slots=True)
class Host:
    """What such a command has of its host. `gateway_url` is only told to whoever wants to look."""

    release_file: Path
    trusted_keys_file: Path
    gateway_url: str


@dataclass(frozen=True, slots=True)
class _Served:
    """What this host serves, verified, and the orders that came with it, which are not yet."""

    release: Release
    trusted: Mapping[str, Ed25519PublicKey]
    envelopes: Mapping[str, Mapping[int, Envelope]]

    def orders(self, surface: str) -> dict[int, tuple[Order, int]]:
        """What can be engaged here, by rung, and for how many minutes at most."""
        found = {}
        for rung, envelope in sorted(self.envelopes.get(surface, {}).items()):
            try:
                order = read_order(envelope, trusted=self.trusted)
                # Where an order lies is not signed; what it says is.
                if (order.surface, order.rung) == (surface, rung):
                    found[rung] = (order, most_minutes(order, self.release))
            except (ReleaseRefused, OrderRefused):
                continue
        return found


def engage(host: Host, surface: str, rung: int, *, minutes: int, reason: str, by: str, now: datetime) -> str:
    """Engage a rung on this host for so long, in the place of what was ordered for the surface here before. Returns
    what to tell whoever did it.

    Raises:
        CommandRefused: there is no usable release, it has no such order, or the order is not good for that.
        OSError: the file cannot be written.
    """
    served = _served(host)
    orders = served.orders(surface)
    if rung not in orders:
        raise CommandRefused(_nothing_to_engage(served, surface, rung, orders))
    most = orders[rung][1]
    if not 1 <= minutes <= most:
        raise CommandRefused(f"rung {rung} of {surface!r} can be engaged for 1 to {most} min at a time, not {minutes}")
    given = Given(
        id=f"{ID_PREFIX}{surface}-{rung}-{secrets.token_hex(4)}",
        envelope=served.envelopes[surface][rung],
        since=now.replace(microsecond=0),
        until=now.replace(microsecond=0) + timedelta(minutes=minutes),
        reason=reason.strip(),
        by=by.strip(),
    )
    _check_words(given)
    with _only_one(host):
        before, note = _given(host)
        kept = [one for one in before if one.until > now and surface_named(one.envelope) != surface]
        _write(host, [*kept, given])
    lines = [
        f"Engaged rung {rung} ({RUNGS[rung]}) of {surface} on this host until {_clock(given.until)} ({minutes} min).",
        f"Words that users read: {', '.join(orders[rung][0].words)}. Order {given.id}, reason: {given.reason}.",
        "Every gateway process of this host obeys within two seconds; other hosts need the same command.",
        f"Look:  curl -s '{host.gateway_url}/v1/status?surface={surface}'",
        f"Undo:  {COMMAND} stand-down {surface}",
    ]
    return "\n".join([*note, *lines])


def stand_down(host: Host, surface: str, *, now: datetime) -> str:
    """Take back what was ordered for a surface on this host; needs no release. Twice is once.

    Raises:
        OSError: the file cannot be written.
    """
    with _only_one(host):
        before, note = _given(host)
        running = [one for one in before if one.until > now]
        kept = [one for one in running if surface_named(one.envelope) != surface]
        if len(kept) == len(running) and not note:
            return f"Nothing is ordered for {surface} on this host. {_STILL}"
        _write(host, kept)
    ended = ", ".join(one.id for one in running if one not in kept) or "nothing that was in force"
    return "\n".join([*note, f"Stood down {surface} on this host: {ended}. {_STILL}"])


def list_orders(host: Host, *, now: datetime) -> str:
    """Say what can be engaged on this host, and what is.

    Raises:
        CommandRefused: there is no usable release.
    """
    served = _served(host)
    given, note = _given(host)
    lines = [f"Release {served.release.revision}, cut {_clock(served.release.cut_at)}.", *note]
    engaged: dict[tuple[str, int], Given] = {}
    for one in given:
        try:
            activation = obeyed(one, trusted=served.trusted, release=served.release)
        except (ReleaseRefused, OrderRefused) as exc:
            lines.append(f"{one.id} is not obeyed: {exc}")
            continue
        if activation.since <= now < activation.until:
            engaged[activation.surface, activation.rung] = one
    for surface in sorted(served.release.ladder):
        lines.append(f"{surface} ({served.release.ladder[surface].title})")
        orders = served.orders(surface)
        for rung in RUNGS:
            if rung not in orders:
                lines.append(f"  {rung} {RUNGS[rung]}: no order; its words are unsigned or it is not on this ladder")
                continue
            order, minutes = orders[rung]
            line = f"  {rung} {RUNGS[rung]}: up to {minutes} min, words {', '.join(order.words)}"
            if (known := engaged.get((surface, rung))) is not None:
                line += f"; ENGAGED until {_clock(known.until)} by {known.by}: {known.reason}"
            lines.append(line)
    if not served.release.ladder:
        lines.append("It has no ladder, so there is nothing to engage.")
    return "\n".join(lines)


def _served(host: Host) -> _Served:
    try:
        trusted = read_trusted(host.trusted_keys_file, host.release_file)
        envelope = Envelope.from_json(host.release_file.read_bytes())
        release = verify(envelope, trusted=trusted, current=None)
        sections = parse_json(envelope.document)["sections"]
        return _Served(release, trusted, parse_signed(sections.get("emergency", {})))
    except (ReleaseRefused, OSError, ValueError) as exc:
        raise CommandRefused(f"this host has no usable release, so no orders either: {exc}") from exc


def _nothing_to_engage(served: _Served, surface: str, rung: int, orders: Mapping[int, object]) -> str:
    known = ", ".join(sorted(served.release.ladder)) or "none"
    if surface not in served.release.ladder:
        return f"release {served.release.revision} has no surface {surface!r}; there are: {known}"
    if rung not in RUNGS:
        return f"{rung} is no rung; there are 1 to {MAINTENANCE}"
    there_are = ", ".join(map(str, sorted(orders))) or "none"
    return (
        f"release {served.release.revision} has no order for rung {rung} of {surface!r} that this host may obey; "
        f"there are: {there_are}"
    )


def _check_words(given: Given) -> None:
    """Refuse what gateways would not read back, such as a reason that is empty or too long."""
    try:
        parse_given({"orders": [given.to_mapping()]})
    except ReleaseRefused as exc:
        raise CommandRefused(str(exc)) from exc


def _given(host: Host) -> tuple[tuple[Given, ...], list[str]]:
    """What is ordered on this host, and a note for whoever asks where that cannot be read; gateways obey nothing of it
    then either.
    """
    file = orders_file(host.release_file)
    try:
        return parse_given(parse_json(file.read_bytes())), []
    except FileNotFoundError:
        return (), []
    except (ReleaseRefused, UnicodeError) as exc:
        return (), [f"Note: {file} was damaged and counted for nothing: {exc}."]


def _write(host: Host, given: list[Given]) -> None:
    file = orders_file(host.release_file)
    write_atomically(file, orjson.dumps({"orders": [one.to_mapping() for one in given]}))
    # Only its owner may read it: whoever runs this as root must not shut the gateways out.
    if os.geteuid() == 0:
        owner = host.release_file.parent.stat() if not host.release_file.exists() else host.release_file.stat()
        os.chown(file, owner.st_uid, owner.st_gid)


@contextmanager
def _only_one(host: Host) -> Iterator[None]:
    """Two people on one host must not undo what the other has just ordered."""
    directory = os.open(host.release_file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _clock(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
