"""`POST /v1/retrieve`: a question to a corpus, answered with passages, their revisions and how fresh they are.

It is a request like any other: it is admitted, billed, bounded by its deadline, and recorded once. No rung of a ladder
takes its place, since nothing else could.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from dataplane.envelope import JSON_TYPE
from dataplane.journey import Inbound, Journey, Reply
from dataplane.pipeline import Pipeline
from dataplane.request_headers import read_deadline
from dataplane.retrieval.found import Chunk
from dataplane.retrieval.freshness import freshness_json
from dataplane.retrieval.policy import Corpus
from dataplane.retrieval.requests import parse_retrieval
from dataplane.retrieval.retriever import Retrieved, Retriever, corpus_of
from dataplane.timers import TimerWheel

PATH: Final = "/v1/retrieve"
OPERATION: Final = "retrieve"
# What an answer says of what it rests on.
CONSISTENCY: Final = "deletes: strong per document; other changes: eventual, see freshness"


class RetrieveDesk:
    """See the module."""

    def __init__(self, retriever: Retriever, pipeline: Pipeline, *, timers: TimerWheel) -> None:
        self._retriever = retriever
        self._pipeline = pipeline
        self._timers = timers

    async def start(self) -> None:
        """Begin to connect; never waits for it."""
        await self._retriever.start()

    async def stop(self) -> None:
        """Let go of the store."""
        await self._retriever.stop()

    async def serve(self, inbound: Inbound, reply: Reply) -> None:
        """Answer one request; errors become responses, cancellation passes through."""
        await self._pipeline.serve_life(OPERATION, inbound, reply, self._retrieve)

    async def _retrieve(self, journey: Journey, reply: Reply) -> None:
        release, tenant = self._pipeline.admit(journey)
        asked = parse_retrieval(journey.inbound.body)
        corpus = corpus_of(release, tenant, asked.corpus)
        journey.route = corpus.embedding.route
        default_ms = release.routing.routes[journey.route].deadline_ms
        journey.deadline_ms = read_deadline(journey.inbound.deadline_ms, default_ms=default_ms)
        with self._timers.deadline(self._pipeline.remaining_seconds(journey)) as deadline:
            retrieved = await self._retriever.retrieve(
                journey,
                corpus,
                asked.query,
                k=corpus.answering.chunks if asked.k is None else asked.k,
                mode=asked.mode,
                deadline=deadline,
                filters=asked.filters,
            )
            journey.outcome = "ok"
            journey.stage = "responding"
            headers = [*journey.headers(JSON_TYPE), (b"ballast-lane", retrieved.lane.encode())]
            await reply.send_whole(200, headers, orjson.dumps(retrieval_json(corpus, retrieved)))


def retrieval_json(corpus: Corpus, retrieved: Retrieved) -> dict[str, Any]:
    """The answer.

    Shape: {"object": "retrieval", "corpus": slug, "query_embedding": {"model", "lane": str}, "freshness": see
            `freshness_json`, "banner": see `Banner.to_json`, or null, "chunks": [see `chunk_json`, the nearest first],
            "consistency": str}.
    """
    return {
        "object": "retrieval",
        "corpus": corpus.slug,
        "query_embedding": {"model": retrieved.model, "lane": retrieved.lane},
        "freshness": freshness_json(retrieved.standing, retrieved.judged),
        "banner": retrieved.banner_json(),
        "chunks": [chunk_json(chunk) for chunk in retrieved.chunks],
        "consistency": CONSISTENCY,
    }


def chunk_json(chunk: Chunk) -> dict[str, Any]:
    """A chunk as answers have it.

    Shape: {"id": str, "source_key": str, "source_rev", "ordinal": int, "text": str, "metadata": {...}, "score": number
            up to 1, "event_at": epoch seconds, "is_current": bool}.
    """
    return {
        "id": f"ch_{chunk.id}",
        "source_key": chunk.source_key,
        "source_rev": chunk.source_rev,
        "ordinal": chunk.ordinal,
        "text": chunk.text,
        "metadata": chunk.metadata,
        "score": round(chunk.score, 6),
        "event_at": round(chunk.event_at.timestamp(), 3),
        "is_current": chunk.is_current,
    }
