"""Where something may be sent whose address somebody typed: the one judgement for lanes, gauges, webhooks and answers.

Whoever may name an address could otherwise ask services that trust the network they are reached from, or a cloud's
metadata for its credentials. A name is judged by the addresses that it has, and whoever connects goes to these very
addresses: asked again, it could lead elsewhere (DNS rebinding). Redirects are followed nowhere. Pure, but for
`resolve`.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

# Where clouds tell machines about themselves, besides 169.254.169.254, which is link-local: Azure (whose address looks
# like anybody's), Alibaba, Oracle, and AWS over IPv6.
_METADATA: Final = frozenset(
    ipaddress.ip_address(text) for text in ("168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254")
)
# Private by IANA's registries, but not to every version of `ipaddress`.
_PRIVATE: Final = (ipaddress.ip_network("192.0.0.0/24"), ipaddress.ip_network("64:ff9b:1::/48"))
# IPv6 addresses that carry an IPv4 address in their last 32 bits, which is where the packets end.
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
LOOPBACK: Final = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int], Sequence[str]]


class Kind(Enum):
    """What an address is to whoever connects to it."""

    METADATA = "where a cloud's metadata is"
    NOBODY = "which is no single machine"
    LOOPBACK = "this very machine"
    PRIVATE = "a private network"
    PUBLIC = "outside"


class AddressForbidden(Exception):
    """Nothing is sent to where the name leads, or also leads; the message says where, and what would allow it."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """How far something may go: out into the world by https, and into `networks`, by http too.

    `remedy` says how to allow more, after what is refused. `all_private`: every private network and this machine are
    allowed. A cloud's metadata never is.
    """

    networks: tuple[Network, ...]
    remedy: str
    all_private: bool = False

    def refusal(self, address: Address, *, scheme: str) -> str:
        """Why nothing is sent to an address; "" if it may be."""
        where = where_it_ends(address)
        kind = kind_of(where)
        if kind is Kind.METADATA:
            return f"{kind.value}; nothing is ever sent there"
        if kind is Kind.NOBODY:
            return str(kind.value)
        if kind is Kind.PUBLIC:
            return "" if scheme == "https" or self._has(where) else f"{kind.value}, where only https goes"
        return "" if self.all_private or self._has(where) else f"{kind.value}; {self.remedy}"

    def choose(self, host: str, found: Iterable[str], *, scheme: str) -> tuple[str, ...]:
        """The addresses of a host, if something may be sent to all of them.

        Args:
            found: As `resolve` gives them.
        Raises:
            AddressForbidden: one of them is no place to go to; whoever answers for the name could give it at any time.
        """
        chosen = tuple(found)
        for text in chosen:
            # The zone of a link-local address is of no interest: it is refused as such.
            if why := self.refusal(ipaddress.ip_address(text.partition("%")[0]), scheme=scheme):
                raise AddressForbidden(f"{host!r} is at {text}, {why}")
        return chosen

    def _has(self, where: Address) -> bool:
        return any(where.version == network.version and where in network for network in self.networks)


def parse_networks(text: str) -> tuple[Network, ...]:
    """Read networks with commas between, such as `10.0.0.0/8, fd00::/8`.

    Raises:
        ValueError: naming the one that is none.
    """
    networks: list[Network] = []
    for part in (part.strip() for part in text.split(",")):
        if part:
            try:
                networks.append(ipaddress.ip_network(part))
            except ValueError as exc:
                raise ValueError(f"{part!r} is no network such as 10.0.0.0/8: {exc}") from exc
    return tuple(networks)


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, best first. It waits.

    Raises:
        OSError: it has none, or nobody can say now.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def kind_of(where: Address) -> Kind:
    """What an address is, once `where_it_ends` has said which it is."""
    if where in _METADATA or where.is_link_local:
        return Kind.METADATA
    if where.is_multicast or where.is_unspecified:
        return Kind.NOBODY
    if where.is_loopback:
        return Kind.LOOPBACK
    is_site_local = isinstance(where, ipaddress.IPv6Address) and where.is_site_local
    in_registry = any(where in network for network in _PRIVATE)
    return Kind.PRIVATE if not where.is_global or where.is_reserved or is_site_local or in_registry else Kind.PUBLIC


def where_it_ends(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, or the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None) or address
