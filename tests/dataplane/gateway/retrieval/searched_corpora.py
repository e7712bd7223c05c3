"""Corpora that a live gateway searches: a release that promises them, and what stands in the database."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import numpy as np

from dataplane.retrieval.hashes import Vector
from dataplane.simulator.embeddings import embed
from tests.corpora_documents import SLUG, banner_copy, corpus
from tests.dataplane.gateway.conftest import LiveGateway, release_sections
from tests.dataplane.retrieval.corpus_tables import CorpusTables

DIMENSIONS = 1536
LANE = "openai/eu/main/embedding"
OTHER = "openai/eu/main/other"
REFUND = "How do I get a refund for my parcel?"


def searched_sections(simulator_url: str) -> dict[str, Any]:
    """A release with three corpora: one that says how old it is, one that blocks, and one of a single tenant's."""
    made = copy.deepcopy(release_sections(simulator_url))
    routing = made["routing"]
    routing["lanes"][OTHER] = routing["lanes"][LANE] | {"model": "other"}
    routing["routes"]["embed"]["lanes"] = [OTHER, LANE]
    embedding = {"dimensions": DIMENSIONS}
    made["corpora"] = {
        SLUG: corpus(embedding=embedding),
        "strict": corpus(embedding=embedding, freshness={"on_breach": "block"}),
        "private": corpus(embedding=embedding, tenants=["acme"]),
    }
    made["copy"] = banner_copy()
    return made


def fill(tables: CorpusTables, corpus: int, *, word: str = "refund", **about: Any) -> int:
    """A namespace of three documents, by which the question finds the one with `word` in it."""
    namespace = tables.namespace(corpus, dimensions=DIMENSIONS, **about)
    for key, text in {
        "refunds": f"How to get a {word} for a parcel",
        "hours": "We are open from nine to five",
        "jobs": "Work with us: drivers wanted",
    }.items():
        tables.chunk(namespace, key, text, vector_of(text), metadata={"title": key, "is_public": key != "jobs"})
    return namespace


def vector_of(text: str) -> Vector:
    """As the simulator embeds it."""
    return np.array(embed(text, DIMENSIONS), dtype=np.float32)


def serve_all(tables: CorpusTables) -> dict[str, int]:
    """What serves each of the three corpora, by its slug: a namespace of three documents."""
    made = {}
    for slug in (SLUG, "strict", "private"):
        corpus = tables.corpus(slug)
        made[slug] = fill(tables, corpus)
        tables.serve(corpus, made[slug])
    return made


def ago(seconds: float) -> datetime:
    """So long before now."""
    return datetime.now(UTC) - timedelta(seconds=seconds)


def error_of(response: httpx.Response) -> Any:
    """What a refusal says."""
    return response.json()["error"]


def metric(gateway: LiveGateway, name: str, **labels: str) -> float:
    """A figure at /metrics; 0 where there is none."""
    told = ",".join(f'{key}="{value}"' for key, value in labels.items())
    wanted = f"{name}{{{told}}} "
    lines = httpx.get(f"{gateway.url}/metrics", timeout=60).text.splitlines()
    return next((float(line.removeprefix(wanted)) for line in lines if line.startswith(wanted)), 0.0)
