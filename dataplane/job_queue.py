"""The queue of jobs as one gateway sees it: hand one in, and say where it stands.

Two take requests into it: whoever hands in jobs at their address (`job_desk.py`), and the rung of the ladder on which
answers come later (`ladder/promises.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Final
from uuid import UUID

from dataplane.destinations import HEADER, Destination
from dataplane.errors.jobs import JobsUnavailable
from dataplane.idempotency import Scope, fingerprint_of
from dataplane.jobs import Figures, Job, JobRequest, State
from dataplane.journey import Journey, new_id
from dataplane.stores.jobs import JobStore, Submission

# What one process tells of the whole queue is at most so old: many who wait ask often.
FIGURES_SECONDS: Final = 2.0
# Bodies that may take long to write canonically do not hold up everybody else meanwhile.
THREAD_FROM_BYTES: Final = 16 * 1024


class JobQueue:
    """See the module. One per process."""

    def __init__(
        self,
        store: JobStore | None,
        *,
        limit: int,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`store` None: this gateway is told of no database. `limit` is how many jobs a tenant may have in the queue;
        `clock` is monotonic seconds, `wall` epoch seconds.
        """
        self._store = store
        self._limit = limit
        self._clock = clock
        self._wall = wall
        self._figures: Figures | None = None
        self._figures_at = 0.0

    async def start(self) -> None:
        """Begin to connect; never waits for it."""
        if self._store is not None:
            await self._store.start()

    async def stop(self) -> None:
        """Let go of the store."""
        if self._store is not None:
            await self._store.close()

    @property
    def store(self) -> JobStore:
        """Where jobs are kept. Raises JobsUnavailable: this gateway is told of no place."""
        if self._store is None:
            raise JobsUnavailable("this gateway is told of no database")
        return self._store

    @property
    def figures(self) -> Figures | None:
        """How the queue stood when it was asked last; None while nobody could."""
        return self._figures

    async def look(self) -> None:
        """Ask how the queue stands, unless that was a moment ago. Who cannot be told keeps nothing older."""
        if self._store is None or (self._figures is not None and self._clock() - self._figures_at < FIGURES_SECONDS):
            return
        try:
            self._figures = await self._store.figures()
            self._figures_at = self._clock()
        except JobsUnavailable:
            self._figures = None

    def new_id(self) -> UUID:
        """The id of the next job."""
        return UUID(new_id(self._wall()))

    async def hand_in(
        self,
        journey: Journey,
        request: JobRequest,
        *,
        job: UUID,
        fields: Mapping[str, Any],
        path: str,
        key: str | None,
        destination: Destination | None,
        surface: str = "",
    ) -> tuple[Job, bool]:
        """Keep a job. False: its key came before with the same request, and this is that job.

        Args:
            journey: Who asks, and with which prompt.
            job: Its id if it is new.
            fields: The body that it was asked with, by which the same request is known again; `path` is its address.
            key: The caller's idempotency key.
            destination: Where its answer is sent, with the words that it takes.
            surface: Whose rung 4 puts it off; empty where its caller meant it for a job.
        Raises:
            JobQueueFull, IdempotencyMismatch, JobsUnavailable: as of the store.
        """
        store, header = self.store, journey.inbound.deliver
        asked = fields if header is None else {**fields, HEADER: header}
        if len(request.body) < THREAD_FROM_BYTES:
            fingerprint = fingerprint_of(asked, path=path)
        else:
            fingerprint = await asyncio.to_thread(fingerprint_of, asked, path=path)
        submission = Submission(
            id=job,
            scope=Scope("" if journey.tenant is None else journey.tenant.slug, journey.user),
            key_id=journey.key_id,
            user=journey.inbound.user,
            key=key or "",
            fingerprint=fingerprint,
            endpoint=request.endpoint,
            body=request.body,
            expires_seconds=request.expires_seconds,
            has_tools=_has_tools(journey, request),
            surface=surface,
            destination=destination,
            traceparent="" if journey.inbound.trace is None else journey.inbound.trace.traceparent,
        )
        return await store.submit(submission, limit=self._limit)

    async def place(self, job: Job) -> tuple[int | None, float | None]:
        """Where a job stands (1: the next), and in how many seconds it is likely to be done. What cannot be looked up
        is not known; the job is stored.
        """
        if job.state is not State.QUEUED:
            return None, None
        try:
            position = await self.store.place(job)
        except JobsUnavailable:
            return None, None
        await self.look()
        return position, None if self._figures is None else self._figures.eta_seconds(position)


def _has_tools(journey: Journey, request: JobRequest) -> bool:
    """Whether a job's request brings tools of its own, or those of its prompt as it is served now."""
    version = journey.prompt_version
    return request.has_tools or (version is not None and bool(version.parameters.get("tools")))
