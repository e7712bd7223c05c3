"""Orders that engage a rung on a host which the control plane does not reach. Each is signed beforehand, one for every
rung that can be engaged, and travels in the release; whoever is on the host decides when, and nothing else. Pure.

The section `emergency` of a release: {surface: {"1".."6": envelope}}. It is no part of what serves requests, so the
parser of releases passes over it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from dataplane.documents import Node, ReleaseRefused, parse_json
from dataplane.errors import GatewayError
from dataplane.ladder.activations import ENGAGE, Activation
from dataplane.ladder.policy import MAINTENANCE, MAX_EMERGENCY_MINUTES, RUNGS, Ladder
from dataplane.release import Envelope, Release, sign_under, verified_digest

SIGNED_PREFIX: Final = b"ballast.emergency.v1\n"
# What the ids of such activations begin with, wherever they are shown.
ID_PREFIX: Final = "emergency-"
MAX_ID_CHARACTERS: Final = 80
MAX_ORDERS: Final = 100
MAX_REASON_CHARACTERS: Final = 300
MAX_NAME_CHARACTERS: Final = 150


class OrderRefused(GatewayError):
    """An order that is well signed engages nothing here and now; the message says why."""

    code = "order_refused"


@dataclass(frozen=True, slots=True)
class Order:
    """What was signed: that `rung` of `surface` may be engaged for `max_minutes` at a time, with exactly these words.

    `words` are the digests of all copy that the rung shows, by `slug@version`.
    """

    surface: str
    rung: int
    words: Mapping[str, str]
    max_minutes: int

    @classmethod
    def parse(cls, content: object, *, path: str = "$order") -> Order:
        """Read the document of an order, or raise MalformedRelease.

        Shape: {"surface": slug, "rung": 1..6, "words": {"slug@version": sha256}, "max_minutes": int}.
        """
        members = Node(content, path).members("surface", "rung", "words", "max_minutes")
        words = {reference: node.sha256() for reference, node in members["words"].entries()}
        if not words:
            members["words"].refuse("a rung without words engages nothing")
        return cls(
            surface=members["surface"].text(),
            rung=members["rung"].integer(minimum=1, maximum=MAINTENANCE),
            words=words,
            max_minutes=members["max_minutes"].integer(minimum=1, maximum=MAX_EMERGENCY_MINUTES),
        )

    def to_mapping(self) -> dict[str, Any]:
        """What `parse` reads."""
        return {
            "surface": self.surface,
            "rung": self.rung,
            "words": dict(self.words),
            "max_minutes": self.max_minutes,
        }


@dataclass(frozen=True, slots=True)
class Given:
    """An order as somebody gave it on a host: from when until when, why, and who they said they are."""

    id: str
    envelope: Envelope
    since: datetime
    until: datetime
    reason: str
    by: str

    def to_mapping(self) -> dict[str, Any]:
        """What `parse_given` reads of one."""
        return {
            "id": self.id,
            "envelope": self.envelope.to_mapping(),
            "since": _written(self.since),
            "until": _written(self.until),
            "reason": self.reason,
            "by": self.by,
        }


# --- what is signed --------------------------------------------------------------------------------------------------
def orders_of(ladder: Ladder, signed: Mapping[str, tuple[str, str]]) -> Iterator[Order]:
    """The orders for all rungs that can be engaged, by surface and from the lowest.

    Args:
        ladder: Which knows already what is signed: see `Ladder.with_words`.
        signed: All copy that is: by its slug, `slug@version` and the digest of that.
    """
    for slug, surface in sorted(ladder.items()):
        for number in surface.engageable:
            words = dict(signed[words] for words in surface.rungs[number].words)
            yield Order(slug, number, words, int(surface.emergency_minutes.value))


def sign_order(order: Order, key: Ed25519PrivateKey) -> Envelope:
    """Sign an order. The same order and key give the same envelope."""
    return sign_under(order.to_mapping(), key, prefix=SIGNED_PREFIX)


def parse_signed(section: object, *, path: str = "$.sections.emergency") -> dict[str, dict[int, Envelope]]:
    """Read the section `emergency` of a release, or raise MalformedRelease: by surface and rung, none verified yet."""
    found: dict[str, dict[int, Envelope]] = {}
    for surface, node in Node(section, path).entries():
        found[surface] = {}
        for key, entry in node.entries():
            if key not in {str(number) for number in RUNGS}:
                entry.refuse(f"{key[:20]!r} is no rung; there are 1 to {MAINTENANCE}")
            found[surface][int(key)] = Envelope.from_mapping(entry.value)
    return found


# --- what is obeyed --------------------------------------------------------------------------------------------------
def read_order(envelope: Envelope, *, trusted: Mapping[str, Ed25519PublicKey]) -> Order:
    """Read what `sign_order` signed.

    Args:
        trusted: Public keys by key id.
    Raises:
        UnknownKey, BadSignature, DigestMismatch, MalformedRelease: in the order of the checks.
    """
    verified_digest(envelope, trusted, prefix=SIGNED_PREFIX)
    return Order.parse(parse_json(envelope.document, path="$order"))


def most_minutes(order: Order, release: Release) -> int:
    """For how long an order may be given at a time, by what was signed and by the policy that is being served.

    Raises:
        OrderRefused: the release has no such surface or rung, or other words for it, or unsigned ones.
    """
    surface = release.ladder.get(order.surface)
    if surface is None:
        raise OrderRefused(f"release {release.revision} has no surface {order.surface!r}")
    if order.rung not in surface.engageable:
        raise OrderRefused(f"rung {order.rung} of surface {order.surface!r} has no signed words in this release")
    pieces = [release.copy[words] for words in surface.rungs[order.rung].words]
    if dict(order.words) != {piece.reference: piece.digest for piece in pieces}:
        raise OrderRefused(
            f"the words of rung {order.rung} of surface {order.surface!r} are not those that the order was signed "
            f"with, {', '.join(order.words)}; engage it anew with the order of release {release.revision}"
        )
    return min(order.max_minutes, int(surface.emergency_minutes.value))


def parse_given(content: object, *, path: str = "$") -> tuple[Given, ...]:
    """Read what was given on a host, or raise MalformedRelease. Nothing of it is verified.

    Shape: {"orders": [{"id": "emergency-…", "envelope": envelope, "since", "until": ISO-8601, "reason": str, "by":
            str}]}.
    """
    orders = Node(content, path).members("orders")["orders"]
    nodes = orders.items()
    if len(nodes) > MAX_ORDERS:
        orders.refuse(f"{len(nodes)} orders; at most {MAX_ORDERS}")
    given: dict[str, Given] = {}
    for node in nodes:
        members = node.members("id", "envelope", "since", "until", "reason", "by")
        key = _short(members["id"], MAX_ID_CHARACTERS)
        if not key.startswith(ID_PREFIX):
            members["id"].refuse(f"{key!r} does not begin with {ID_PREFIX!r}")
        if key in given:
            members["id"].refuse(f"{key!r} is given twice")
        given[key] = Given(
            id=key,
            envelope=Envelope.from_mapping(members["envelope"].value),
            since=members["since"].moment(),
            until=members["until"].moment(),
            reason=_short(members["reason"], MAX_REASON_CHARACTERS),
            by=_short(members["by"], MAX_NAME_CHARACTERS),
        )
    return tuple(given.values())


def obeyed(given: Given, *, trusted: Mapping[str, Ed25519PublicKey], release: Release) -> Activation:
    """What a given order engages from its `since` on: its rung, for everybody whom this host serves.

    Raises:
        ReleaseRefused: the order is not what the holder of a trusted key signed; see `read_order`.
        OrderRefused: see `most_minutes`; or it was given for longer than it may be.
    """
    order = read_order(given.envelope, trusted=trusted)
    minutes = most_minutes(order, release)
    lasting = given.until - given.since
    if not timedelta(0) < lasting <= timedelta(minutes=minutes):
        raise OrderRefused(f"it was given for {lasting.total_seconds() / 60:g} min; 1 to {minutes} are allowed")
    return Activation(
        id=given.id,
        surface=order.surface,
        mode=ENGAGE,
        rung=order.rung,
        regions=frozenset(),
        tiers=frozenset(),
        since=given.since,
        until=given.until,
        reason=given.reason,
        by=given.by,
    )


def by_surface(activations: Iterable[Activation]) -> dict[str, tuple[Activation, ...]]:
    """The same by surface, as a desk takes them."""
    found: dict[str, tuple[Activation, ...]] = {}
    for one in activations:
        found[one.surface] = (*found.get(one.surface, ()), one)
    return found


def surface_named(envelope: Envelope) -> str | None:
    """The surface that an order says it is for, believed or not, to find it again; None where it says none."""
    try:
        return Order.parse(parse_json(envelope.document, path="$order")).surface
    except ReleaseRefused:
        return None


def _short(node: Node, maximum: int) -> str:
    text = node.text()
    if len(text) > maximum:
        node.refuse(f"{len(text)} characters; at most {maximum}")
    return text


def _written(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
