"""Corpora, and the words of their banners, as tests need them. All as JSON."""

from __future__ import annotations

from typing import Any

from tests.dataplane.conftest import LANE, ROUTING, copy_document, threshold

SLUG = "help-centre"
BANNER = "help-centre-age"
MODEL = "embedding"


def corpus(**changes: Any) -> dict[str, Any]:
    """The promise for one corpus, whose documents the route `embed` embeds in 8 dimensions; a member that is an object
    is changed member by member.
    """
    made: dict[str, Any] = {
        "title": "Help centre",
        "tenants": [],
        "residency": [],
        "store": "pgvector",
        "revisions": "per_key",
        "embedding": {
            "route": "embed",
            "model": MODEL,
            "dimensions": 8,
            "document_input_type": None,
            "query_input_type": None,
        },
        "chunking": {"version": "passages.v1", "max_characters": 200, "overlap_characters": 0},
        "freshness": {"max_lag_seconds": threshold(300), "on_breach": "banner", "banner": BANNER},
        "answering": {"chunks": 4, "instructions": "Answer from the passages, and cite them.", "snapshot_hours": 24},
        "recovery": {
            "tier": "standard",
            "strategy": "restore",
            "rpo_seconds": threshold(3600),
            "rto_seconds": threshold(900),
            "reembed_minutes": threshold(30),
            "dump_hours": 24,
            "keep_days": 30,
        },
        "sources": {},
    }
    for name, value in changes.items():
        made[name] = made[name] | value if isinstance(made[name], dict) else value
    return made


def corpora(**changes: Any) -> dict[str, Any]:
    """A release's section `corpora` with that one."""
    return {SLUG: corpus(**changes)}


def embedding_routing() -> dict[str, Any]:
    """A routing table with a route that embeds."""
    name = f"openai/eu-west/main/{MODEL}"
    lane = LANE | {"model": MODEL, "upstream_model": "text-embedding-3-small", "capabilities": ["embeddings"]}
    return ROUTING | {
        "lanes": {**ROUTING["lanes"], name: lane},
        "routes": {**ROUTING["routes"], "embed": {"lanes": [name], "deadline_ms": 15_000}},
    }


def banner_copy() -> dict[str, Any]:
    """The part of a release's section `copy` that signs its banner."""
    return {BANNER: {"version": 1, "digest": "b" * 64, "document": copy_document("freshness")}}
