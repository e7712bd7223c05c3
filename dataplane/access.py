"""Who may call the gateway.

Tenants, and their API keys as SHA-256 digests (the key itself is shown once and kept nowhere).
"""

from __future__ import annotations

import hashlib
import math
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
    """One admitted key: `id` names it in logs and on pages.

    It is refused from `expires_at` on, epoch seconds, with the release that says so or any later one. `stands_for` are
    the ids of keys that it took the place of: what was handed in with those runs in its name.
    """

    id: str
    tenant: Tenant
    expires_at: float = math.inf
    stands_for: frozenset[str] = frozenset()

    def speaks_for(self, key_id: str) -> bool:
        """Whether work that was handed in with the key of this id is this key's."""
        return key_id == self.id or key_id in self.stands_for


@dataclass(frozen=True, slots=True)
class AccessTable:
    """The section `access` of a release: tenants by slug, keys by the SHA-256 hex digest of the API key."""

    tenants: dict[str, Tenant]
    keys: dict[str, ApiKey]

    @classmethod
    def parse(cls, section: object, *, path: str = "$.sections.access") -> AccessTable:
        """Read the section, or say where it is wrong.

        Shape: {"tenants": {slug: {"tier", "residency", "region", "internal", "log_content"} and, unless 24,
                "idempotency_hours"}, "keys": {sha256 hex: {"tenant", "id"} and, where there are any, "expires_at":
                ISO-8601, "stands_for": [id]}}.
        Raises:
            MalformedRelease: naming the JSON path.
        """
        members = Node(section, path).members("tenants", "keys")
        tenants = {slug: _parse_tenant(slug, node) for slug, node in members["tenants"].slugged_entries()}
        keys: dict[str, ApiKey] = {}
        for digest, node in members["keys"].entries():
            Node(digest, node.path).sha256()
            keys[digest] = _parse_key(node, tenants)
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


def _parse_key(node: Node, tenants: dict[str, Tenant]) -> ApiKey:
    members = node.members("tenant", "id", optional=("expires_at", "stands_for"))
    return ApiKey(
        id=members["id"].text(),
        tenant=tenants[members["tenant"].reference(tenants, to="tenant")],
        expires_at=members["expires_at"].moment().timestamp() if "expires_at" in members else math.inf,
        stands_for=frozenset(members["stands_for"].texts() if "stands_for" in members else ()),
    )


def key_digest(api_key: str) -> str:
    """The SHA-256 hex digest under which a release knows an API key."""
    return hashlib.sha256(api_key.encode()).hexdigest()
