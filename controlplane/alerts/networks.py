"""Where webhooks may go: not into the network that Ballast itself stands in, unless the deployment says so.

An operator, or a tenant's application, names the address; `dataplane.networks` judges it, as it does those of lanes.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from urllib.parse import SplitResult, urlsplit

from controlplane.alerts.errors import AddressRefused, DeliveryFailed, InvalidChannel
from dataplane.networks import LOOPBACK, AddressForbidden, Allowed, Resolve

MAX_URL_CHARACTERS: Final = 500
_PORTS: Final = {"http": 80, "https": 443}


class Reach(StrEnum):
    """How far into one's own network webhooks may go; each allows what the one before allows."""

    PUBLIC = "public"
    LOOPBACK = "loopback"  # the demo, where receivers are on the same machine
    PRIVATE = "private"


@dataclass(frozen=True, slots=True)
class Place:
    """A receiver's URL, and the addresses that its host had when it was looked up, all of them allowed."""

    url: str
    host: str
    addresses: tuple[str, ...]


def look_up(url: str, *, reach: Reach, resolve: Resolve) -> Place:
    """Check a receiver's URL and look its host up, once; whoever connects must connect to these addresses and not ask
    again, or the name could lead elsewhere by then.

    Raises:
        InvalidChannel: it is no URL that a webhook can have.
        AddressRefused: it leads, or also leads, where webhooks may not go.
        DeliveryFailed: the host has no address now.
    """
    parts = _split(url)
    host = parts.hostname or ""
    try:
        found = resolve(host, parts.port or _PORTS[parts.scheme])
    except (OSError, UnicodeError) as exc:
        raise DeliveryFailed(f"the name {host!r} has no address: {exc}") from exc
    if not found:
        raise DeliveryFailed(f"the name {host!r} has no address")
    try:
        return Place(url, host, allowed(reach).choose(host, found, scheme=parts.scheme))
    except AddressForbidden as exc:
        raise AddressRefused("url", str(exc)) from exc


def allowed(reach: Reach) -> Allowed:
    """The networks that webhooks may go into."""
    return Allowed(
        () if reach == Reach.PUBLIC else LOOPBACK,
        "BALLAST_ALERTS_PRIVATE_NETWORKS=true would allow it",
        all_private=reach == Reach.PRIVATE,
    )


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as exc:
        raise InvalidChannel("url", "this is no usable address; it must look like https://host/path") from exc
    if parts.scheme not in _PORTS or not parts.hostname:
        raise InvalidChannel("url", "this is no usable address; it must look like https://host/path")
    if parts.username is not None or parts.password is not None:
        raise InvalidChannel("url", "a name or password in the address would show in logs; leave it out")
    if parts.fragment:
        raise InvalidChannel("url", "what stands behind '#' is never sent; leave it out")
    if len(url) > MAX_URL_CHARACTERS or not url.isascii() or not url.isprintable() or " " in url:
        raise InvalidChannel("url", f"an address has at most {MAX_URL_CHARACTERS} characters, of ASCII, without spaces")
    return parts
