"""Embeds texts for a request, or for ourselves. Each call of a lane is an attempt, and is billed as one to whoever it
is made for.

Vectors of two models cannot be compared, so whoever asks names the lanes, all of them of one model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dataplane.attempts import Attempts, Work
from dataplane.journey import CHARACTERS_PER_TOKEN, Attempt, Journey
from dataplane.lane_caller import LaneCaller
from dataplane.messages import EmbeddingRequest
from dataplane.policies import RetryPolicy
from dataplane.providers.base import Adapter, UpstreamCall
from dataplane.release import Release
from dataplane.routing import Lane
from dataplane.thresholds import Threshold
from dataplane.timers import Deadline
from dataplane.vectors import Vectors, unit_vectors

NEEDS: Final = frozenset({"embeddings"})
AS_NUMBERS: Final[Mapping[str, Any]] = {"encoding_format": "float"}


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors of texts, one a row and each of length 1, and the lane that gave them."""

    vectors: Vectors
    lane: Lane


class TextEmbedder:
    """See the module. For all requests of a process."""

    def __init__(self, *, attempts: Attempts, caller: LaneCaller) -> None:
        self._attempts = attempts
        self._caller = caller

    async def embed(
        self,
        journey: Journey,
        release: Release,
        lanes: Sequence[Lane],
        texts: list[str],
        *,
        deadline: Deadline,
        deadline_ms: float,
        parameters: Mapping[str, Any] | None = None,
        dimensions: int | None = None,
        policy: RetryPolicy | None = None,
        limit: Threshold | None = None,
        has_fallback: bool = True,
        kind: str = "",
    ) -> Embedded:
        """Embed `texts` by the first of `lanes` that does.

        Args:
            deadline, deadline_ms, policy, limit, has_fallback: As `Work` has them.
            parameters: What a model is told beside, such as `input_type`.
            dimensions: An answer with vectors of another length is a failed attempt.
            kind: Member of `journey.ASIDE`, as which the attempts are recorded; empty: as those at the answer itself.
        Raises:
            GatewayError: no lane gave vectors.
        """
        request = EmbeddingRequest(route="", input=texts, parameters={**AS_NUMBERS, **(parameters or {})})

        def prepare(lane: Lane) -> tuple[UpstreamCall, Adapter]:
            account, adapter, secret = self._caller.access(release, lane)
            return adapter.embedding_call(request, lane=lane, account=account, secret=secret), adapter

        async def make(attempt: Attempt, call: UpstreamCall, adapter: Adapter) -> Embedded:
            response = await self._caller.embed(attempt, call, adapter, limit=limit)
            return Embedded(unit_vectors(response.raw, count=len(texts), dimensions=dimensions), attempt.lane)

        aside = journey.aside
        journey.aside = kind or aside
        try:
            return await self._attempts.until_answered(
                journey,
                lanes,
                Work(
                    prepare=prepare,
                    make=make,
                    deadline=deadline,
                    deadline_ms=deadline_ms,
                    policy=policy,
                    limit=limit,
                    has_fallback=has_fallback,
                    size=lambda _: (sum(map(len, texts)) // CHARACTERS_PER_TOKEN, 0),
                    operation="embeddings",
                ),
            )
        finally:
            journey.aside = aside
