"""Which lane is meant: what of its definition evidence is bound to, and which lanes are the same but for their account.

A shadow's account serves nobody, so what is promoted is nearly always the candidate's twin on an account that does.
Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dataplane.release import canonical, digest_of

Document = Mapping[str, Any]

# Whose key it is, and what guards it.
_OF_THE_ACCOUNT: Final = frozenset({"account", "breaker", "probe", "quota"})
_TIMEOUTS: Final = frozenset({"connect_timeout_seconds", "first_byte_timeout_seconds", "idle_timeout_seconds"})


def lane_digest(document: Document, lane: str) -> str:
    """Of all that a lane is, with its account and provider."""
    found = document["lanes"][lane]
    whole = {
        "lane": found,
        "account": document["accounts"][found["account"]],
        "provider": document["providers"][found["provider"]],
    }
    return digest_of(canonical(whole))


def twin_digest(document: Document, lane: str) -> str:
    """Of what has a part in what a lane answers and costs, whichever account asks."""
    found = document["lanes"][lane]
    kept = {name: value for name, value in found.items() if name not in _OF_THE_ACCOUNT | _TIMEOUTS}
    return digest_of(canonical({"lane": kept, "provider": document["providers"][found["provider"]]}))


def kind_of(document: Document, lane: str) -> tuple[str, str, str]:
    """Provider, region and model: what lanes have in common that only differ in their account."""
    found = document["lanes"][lane]
    return found["provider"], found["region"], found["model"]


def is_candidate(document: Document, *, route: str, lane: str) -> str:
    """The slug of the policy by which the lane is a candidate on the route; empty: it is none."""
    slug = document["routes"].get(route, {}).get("shadow")
    policy = document.get("shadows", {}).get(slug) if slug else None
    return str(slug) if policy is not None and lane in policy["lanes"] else ""


def serving_kinds(document: Document, route: str) -> set[tuple[str, str, str]]:
    """What serves the route, by kind."""
    return {kind_of(document, lane) for lane in document["routes"].get(route, {}).get("lanes", ())}
