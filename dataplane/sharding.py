"""Which accounts a tenant reaches, so that a tenant that exhausts its own leaves most others theirs. Pure.

Lanes are twins where they differ by their account alone. Of each such group a tenant reaches a few, chosen by its name:
the same in every worker and release, and when an account is added, only tenants that it wins move. Lanes without a twin
are for everybody.

Source: MacCárthaigh, "Shuffle Sharding: Massive and Magical Fault Isolation", AWS Architecture Blog, 2014; Thaler,
Ravishankar, "Using name-based mappings to increase hit rates", 1998 (rendezvous hashing).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import comb
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataplane.routing import Lane


def groups_of_twins(lanes: Iterable[Lane]) -> list[list[Lane]]:
    """Group lanes of the same provider, region, residency and model, in the order in which they first come."""
    groups: dict[tuple[str, str, str, str, str], list[Lane]] = {}
    for lane in lanes:
        key = (lane.provider, lane.region, lane.residency, lane.model, lane.upstream_model)
        groups.setdefault(key, []).append(lane)
    return list(groups.values())


def lanes_of_tenant(lanes: Sequence[Lane], *, tenant: str, accounts: int | None) -> tuple[Lane, ...]:
    """Return those of `lanes` that the tenant reaches: of each group of twins at most `accounts`, its first choice
    first, at the places where the group's first lanes stood. None: all of them, as they are.
    """
    if accounts is None:
        return tuple(lanes)
    at_place: dict[str, Lane | None] = {}
    for group in groups_of_twins(lanes):
        ranked = sorted(group, key=lambda lane: _rank(tenant, lane.account), reverse=True)[:accounts]
        for place, lane in enumerate(group):
            at_place[lane.id] = ranked[place] if place < len(ranked) else None
    return tuple(kept for lane in lanes if (kept := at_place[lane.id]) is not None)


def blast_radius(accounts: int, reached: int) -> float:
    """The share (0..1) of tenants that reach exactly the same accounts as a given one: whom it takes along when it
    exhausts all of its own.

    Args:
        accounts: How many twins there are; >= 1.
        reached: How many of them each tenant reaches; 1 <= reached <= accounts.
    """
    return 1.0 / comb(accounts, reached)


@lru_cache(maxsize=65_536)
def _rank(tenant: str, account: str) -> bytes:
    return hashlib.sha256(f"{tenant}:{account}".encode()).digest()
