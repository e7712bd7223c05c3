"""Where webhooks may go: not into the network that Ballast itself stands in, unless the deployment says so.

An operator types the address, and the answer's status comes back to the page: without this, whoever manages channels
could ask services that trust the network they are reached from, or a cloud's metadata for its credentials.
"""

import ipaddress
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from urllib.parse import SplitResult, urlsplit

from controlplane.alerts.errors import AddressRefused, DeliveryFailed, InvalidChannel

MAX_URL_CHARACTERS: Final = 500
_PORTS: Final = {"http": 80, "https": 443}
# Where clouds tell machines about themselves, besides 169.254.169.254, which is link-local: Azure (whose address looks
# like anybody's), Alibaba, Oracle, and AWS over IPv6.
_METADATA: Final = frozenset(
    ipaddress.ip_address(text) for text in ("168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254")
)
# Private by IANA's registries, but not to every version of `ipaddress`.
_PRIVATE: Final = (ipaddress.ip_network("192.0.0.0/24"), ipaddress.ip_network("64:ff9b:1::/48"))
# IPv6 addresses that carry an IPv4 address in their last 32 bits, which is where the packets end.
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Sequence[str]]


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


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, best first.

    Raises:
        OSError: it has none, or nobody can say now.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


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
    for text in found:
        # The zone of a link-local address is of no interest: it is refused as such.
        address = ipaddress.ip_address(text.partition("%")[0])
        if why := refusal(address, scheme=parts.scheme, reach=reach):
            raise AddressRefused("url", f"{host!r} is at {text}, {why}")
    return Place(url, host, tuple(found))


def refusal(address: Address, *, scheme: str, reach: Reach) -> str:
    """Why nothing is sent to an address; "" if it may be."""
    where = _where_it_ends(address)
    if where in _METADATA or where.is_link_local:
        return "where a cloud's metadata is; webhooks never go there"
    if where.is_multicast or where.is_unspecified:
        return "which is no single machine"
    if where.is_loopback:
        if reach == Reach.PUBLIC:
            return "this very machine; BALLAST_ALERTS_PRIVATE_NETWORKS=true would allow it"
        return ""
    if _is_private(where):
        if reach != Reach.PRIVATE:
            return "a private network; BALLAST_ALERTS_PRIVATE_NETWORKS=true would allow it"
        return ""
    return "" if scheme == "https" else "outside, where alerts are only sent over https"


def _is_private(address: Address) -> bool:
    is_site_local = isinstance(address, ipaddress.IPv6Address) and address.is_site_local
    in_registry = any(address in network for network in _PRIVATE)
    return not address.is_global or address.is_reserved or is_site_local or in_registry


def _where_it_ends(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, or the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None) or address


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
