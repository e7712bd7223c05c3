"""Which lanes may serve a request: the routing table of a release, and the chooser that puts residency first.

Pure: no await, no I/O. The console previews a routing change with the same code that the workers decide with.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from dataplane.documents import Node
from dataplane.errors import NoEligibleLane, UnknownRoute

WIRES: Final = frozenset({"openai", "anthropic", "azure-openai"})
CAPABILITIES: Final = frozenset({"chat", "stream", "tools", "json_schema", "embeddings"})
MAX_PRICE_MICROS: Final = 10**12
MAX_TIMEOUT_SECONDS: Final = 3600.0
MAX_DEADLINE_MS: Final = 3_600_000
_SECRET: Final = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*\Z|file:/.+\Z")


@dataclass(frozen=True, slots=True)
class Provider:
    """A vendor, or a self-hosted server, and the wire format it speaks: openai, anthropic or azure-openai."""

    slug: str
    wire: str


@dataclass(frozen=True, slots=True)
class Account:
    """One credential at a provider. `secret` is a reference (`env:NAME` or `file:/path`), never the secret itself."""

    slug: str
    provider: str
    base_url: str
    secret: str
    api_version: str | None


@dataclass(frozen=True, slots=True)
class Lane:
    """Provider x region x account x model: the unit of health. Prices are micro-units of money per million tokens."""

    id: str
    provider: str
    region: str
    account: str
    model: str
    upstream_model: str
    residency: str
    capabilities: frozenset[str]
    input_micros_per_million_tokens: int
    output_micros_per_million_tokens: int
    connect_timeout_seconds: float
    first_byte_timeout_seconds: float
    idle_timeout_seconds: float

    def cost_micros(self, *, input_tokens: int, output_tokens: int) -> int:
        """What these tokens cost on this lane, in micro-units of money, rounded half up to a whole micro."""
        million_fold = (
            input_tokens * self.input_micros_per_million_tokens + output_tokens * self.output_micros_per_million_tokens
        )
        return (million_fold + 500_000) // 1_000_000


@dataclass(frozen=True, slots=True)
class Route:
    """What a caller names as `model`: lanes in order of preference, and how long one request may take."""

    slug: str
    lanes: tuple[Lane, ...]
    deadline_ms: int


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """The section `routing` of a release, every reference resolved."""

    providers: dict[str, Provider]
    accounts: dict[str, Account]
    lanes: dict[str, Lane]
    routes: dict[str, Route]

    @classmethod
    def parse(cls, section: object, *, path: str = "$.sections.routing") -> RoutingTable:
        """Read the section, or say where it is wrong.

        Shape: {"providers": {slug: {"wire"}}, "accounts": {slug: {"provider", "base_url", "secret", "api_version"}},
                "lanes": {id: {...}}, "routes": {slug: {"lanes": [lane id, ...], "deadline_ms": int}}}.
        Raises:
            MalformedRelease: an unknown or missing key, a dangling reference, a duplicate or a number out of range,
                naming the JSON path.
        """
        members = Node(section, path).members("providers", "accounts", "lanes", "routes")
        providers = {
            slug: Provider(slug, node.members("wire")["wire"].one_of(WIRES))
            for slug, node in members["providers"].slugged_entries()
        }
        accounts = {slug: _parse_account(slug, node, providers) for slug, node in members["accounts"].slugged_entries()}
        lanes: dict[str, Lane] = {}
        identities: dict[tuple[str, str, str, str], str] = {}
        for lane_id, node in members["lanes"].entries():
            lane = _parse_lane(lane_id, node, providers, accounts)
            identity = (lane.provider, lane.region, lane.account, lane.model)
            if identity in identities:
                node.refuse(f"same provider, region, account and model as lane {identities[identity]!r}")
            identities[identity] = lane_id
            lanes[lane_id] = lane
        routes = {slug: _parse_route(slug, node, lanes) for slug, node in members["routes"].slugged_entries()}
        return cls(providers, accounts, lanes, routes)


def _parse_account(slug: str, node: Node, providers: dict[str, Provider]) -> Account:
    members = node.members("provider", "base_url", "secret", "api_version")
    base_url = members["base_url"].text()
    try:
        parts = urlsplit(base_url)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or parts.username is not None or parts.query or parts.fragment:
        members["base_url"].refuse(f"{base_url!r} is not an http(s) address without credentials, query or fragment")
    secret = members["secret"].text()
    if not _SECRET.match(secret):
        # The value is not repeated: someone may have pasted the secret itself.
        members["secret"].refuse("expected a reference, env:NAME or file:/path")
    provider = members["provider"].reference(providers, to="provider")
    api_version = members["api_version"].optional_text()
    if api_version is None and providers[provider].wire == "azure-openai":
        members["api_version"].refuse("an azure-openai account needs an API version")
    return Account(slug, provider, base_url.rstrip("/"), secret, api_version)


def _parse_lane(lane_id: str, node: Node, providers: dict[str, Provider], accounts: dict[str, Account]) -> Lane:
    members = node.members(
        "provider",
        "region",
        "account",
        "model",
        "upstream_model",
        "residency",
        "capabilities",
        "input_micros_per_million_tokens",
        "output_micros_per_million_tokens",
        "connect_timeout_seconds",
        "first_byte_timeout_seconds",
        "idle_timeout_seconds",
    )
    if not lane_id or not lane_id.isascii() or not lane_id.isprintable() or " " in lane_id:
        node.refuse(f"{lane_id!r} is not a lane id (printable ASCII without spaces)")
    provider = members["provider"].reference(providers, to="provider")
    account = members["account"].reference(accounts, to="account")
    if accounts[account].provider != provider:
        members["account"].refuse(
            f"account {account!r} belongs to provider {accounts[account].provider!r}, not {provider!r}"
        )
    for item in members["capabilities"].items(minimum=1):
        item.one_of(CAPABILITIES)
    return Lane(
        id=lane_id,
        provider=provider,
        region=members["region"].text(),
        account=account,
        model=members["model"].text(),
        upstream_model=members["upstream_model"].text(),
        residency=members["residency"].text(),
        capabilities=frozenset(members["capabilities"].texts()),
        input_micros_per_million_tokens=members["input_micros_per_million_tokens"].integer(maximum=MAX_PRICE_MICROS),
        output_micros_per_million_tokens=members["output_micros_per_million_tokens"].integer(maximum=MAX_PRICE_MICROS),
        connect_timeout_seconds=members["connect_timeout_seconds"].number(above=0, maximum=MAX_TIMEOUT_SECONDS),
        first_byte_timeout_seconds=members["first_byte_timeout_seconds"].number(above=0, maximum=MAX_TIMEOUT_SECONDS),
        idle_timeout_seconds=members["idle_timeout_seconds"].number(above=0, maximum=MAX_TIMEOUT_SECONDS),
    )


def _parse_route(slug: str, node: Node, lanes: dict[str, Lane]) -> Route:
    members = node.members("lanes", "deadline_ms")
    members["lanes"].texts(minimum=1)
    chosen = tuple(lanes[item.reference(lanes, to="lane")] for item in members["lanes"].items())
    return Route(slug, chosen, members["deadline_ms"].integer(minimum=1, maximum=MAX_DEADLINE_MS))


def eligible_lanes(
    table: RoutingTable, *, route: str, residency: frozenset[str], needs: frozenset[str]
) -> tuple[Lane, ...]:
    """The lanes of `route`, in its order, that may serve the request. Residency is looked at before anything else.

    Args:
        residency: Where the tenant's bytes may go; empty means anywhere.
        needs: Capabilities that the request uses, such as {"chat", "stream", "tools"}.
    Raises:
        UnknownRoute: the table has no such route.
        NoEligibleLane: nothing is left; it says what excluded each lane.
    """
    chosen = table.routes.get(route)
    if chosen is None:
        raise UnknownRoute(route)
    eligible = tuple(
        lane for lane in chosen.lanes if (not residency or lane.residency in residency) and needs <= lane.capabilities
    )
    if not eligible:
        raise NoEligibleLane(route, excluded={lane.id: _why_excluded(lane, residency, needs) for lane in chosen.lanes})
    return eligible


def _why_excluded(lane: Lane, residency: frozenset[str], needs: frozenset[str]) -> str:
    if residency and lane.residency not in residency:
        return f"residency {lane.residency!r} is outside the pin {', '.join(sorted(residency))}"
    return f"lacks {', '.join(sorted(needs - lane.capabilities))}"
