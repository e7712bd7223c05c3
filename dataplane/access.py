"""Who may call the gateway.

Tenants, and their API keys as SHA-256 digests (the key itself is shown once and kept nowhere).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from dataplane.documents import Node

TIERS: Final = frozenset({"vip", "standard", "free"})
# For how long a tenant may have its idempotency keys remembered: at least, and at most.
IDEMPOTENCY_HOURS: Final = (24, 72)


@dataclass(frozen=True, slots=True)
class Tenant:
    """A customer of the gateway.

    Empty `residency` means that its bytes may go anywhere; `internal` admits it to internal stages. For
    `idempotency_hours`, its idempotency keys are remembered.
    """

    slug: str
    tier: str
    residency: frozenset[str]
    region: str
    internal: bool
    log_content: bool
    idempotency_hours: int = 24


# Who pays for what Ballast asks providers by itself: probes, embeddings of signed answers. No customer has this slug.
OURSELVES: Final = Tenant(
    slug="ballast", tier="standard", residency=frozenset(), region="", internal=True, log_content=False
)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One admitted key: `id` names it in logs and on pages."""

    id: str
    tenant: Tenant


@dataclass(frozen=True, slots=True)
class AccessTable:
    """The section `access` of a release: tenants by slug, keys by the SHA-256 hex digest of the API key."""

    tenants: dict[str, Tenant]
    keys: dict[str, ApiKey]

    @classmethod
    def parse(cls, section: object, *, path: str = "$.sections.access") -> AccessTable:
        """Read the section, or say where it is wrong.

        Shape: {"tenants": {slug: {"tier", "residency", "region", "internal", "log_content"} and, unless 24,
                "idempotency_hours"}, "keys": {sha256 hex: {"tenant", "id"}}}.
        Raises:
            MalformedRelease: naming the JSON path.
        """
        members = Node(section, path).members("tenants", "keys")
        tenants = {slug: _parse_tenant(slug, node) for slug, node in members["tenants"].slugged_entries()}
        keys: dict[str, ApiKey] = {}
        for digest, node in members["keys"].entries():
            Node(digest, node.path).sha256()
            key = node.members("tenant", "id")
            keys[digest] = ApiKey(key["id"].text(), tenants[key["tenant"].reference(tenants, to="tenant")])
        return cls(tenants, keys)


def _parse_tenant(slug: str, node: Node) -> Tenant:
    members = node.members("tier", "residency", "region", "internal", "log_content", optional=("idempotency_hours",))
    hours = members.get("idempotency_hours")
    least, most = IDEMPOTENCY_HOURS
    return Tenant(
        slug=slug,
        tier=members["tier"].one_of(TIERS),
        residency=frozenset(members["residency"].texts()),
        region=members["region"].text(empty=True),
        internal=members["internal"].flag(),
        log_content=members["log_content"].flag(),
        idempotency_hours=least if hours is None else hours.integer(minimum=least, maximum=most),
    )


def key_digest(api_key: str) -> str:
    """The SHA-256 hex digest under which a release knows an API key."""
    return hashlib.sha256(api_key.encode()).hexdigest()
