"""Keeps answers that nothing could repair, so that somebody can complete them: see `repair_desk.py`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final
from uuid import UUID

import orjson

from dataplane.errors.answers import RepairFailed, RepairsUnavailable
from dataplane.journey import Journey, hash_user, new_id
from dataplane.messages import ChatRequest, ChatResponse
from dataplane.repair.kept import ID_PREFIX, OpenAnswer
from dataplane.stores.repairs import RepairStore

log = logging.getLogger("ballast.repair")

# Of a request, what says how its answer is read.
_ASKED: Final = ("response_format", "tools")


class OpenAnswers:
    """Keeps answers that nothing could repair. Without a `store`, none is kept."""

    def __init__(self, store: RepairStore | None, *, wall: Callable[[], float]) -> None:
        """`wall` is epoch seconds."""
        self._store = store
        self._wall = wall

    async def keep(
        self, journey: Journey, request: ChatRequest, response: ChatResponse, failure: RepairFailed, *, seconds: float
    ) -> None:
        """Keep an answer for so many seconds, and say under which name in `failure`; or say nothing, if it cannot be
        kept, or an eval asked.

        Args:
            response: With the parts that could be read as they are handed over.
        """
        if self._store is None or journey.tenant is None or journey.is_eval:
            return
        repair = UUID(new_id(self._wall()))
        version, lane = journey.prompt_version, journey.lane
        answer = OpenAnswer(
            id=repair,
            tenant=journey.tenant.slug,
            user_hash=hash_user(journey.user),
            request_id=journey.inbound.request_id,
            route=journey.route,
            prompt="" if version is None else version.prompt,
            version=0 if version is None else version.number,
            lane="" if lane is None else lane.id,
            at=failure.at,
            mode=failure.mode,
            why=failure.why,
            missing=failure.missing,
            payload={
                "body": orjson.loads(response.to_openai()),
                "asked": {name: request.parameters[name] for name in _ASKED if name in request.parameters},
                "value": failure.best,
            },
        )
        try:
            expires_at = await self._store.keep(answer, seconds=seconds)
        except RepairsUnavailable as exc:
            log.warning("the answer to request %s is not kept: %s", journey.inbound.request_id, exc.reason)
            return
        failure.repair, failure.expires_at = f"{ID_PREFIX}{repair.hex}", int(expires_at.timestamp())
