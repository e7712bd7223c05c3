"""The addresses of jobs: hand one in, look at it, cancel it.

A job is its tenant's, as a stream is. What can be told of a request before it is sent is told when it is handed in;
what only an attempt shows stands in the job afterwards.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

import orjson

from dataplane.desks import DeskCall
from dataplane.envelope import JSON_TYPE, Header, error_body, error_headers, face_of
from dataplane.errors import InvalidRequest, JobErased, JobsUnavailable
from dataplane.idempotency import Scope, fingerprint_of, parse_key
from dataplane.jobs import (
    OVER,
    Figures,
    Job,
    JobRequest,
    State,
    look_again_seconds,
    name_of,
    parse_job,
    read_id,
)
from dataplane.journey import Inbound, Journey, Reply, new_id
from dataplane.pipeline import Pipeline
from dataplane.stores.jobs import JobStore, Submission

log = logging.getLogger("ballast.jobs")

JOBS_PATH: Final = "/v1/jobs"
SUBMIT: Final = "job_submit"
# What one process tells of the whole queue is at most so old: many who wait ask often.
FIGURES_SECONDS: Final = 2.0
# Bodies that may take long to write canonically do not hold up everybody else meanwhile.
THREAD_FROM_BYTES: Final = 16 * 1024


class JobDesk:
    """Answers requests about jobs."""

    path: Final = JOBS_PATH
    operations: Final = {
        (False, ""): {"POST": SUBMIT},
        (True, ""): {"GET": "job_look"},
        (True, "cancel"): {"POST": "job_cancel"},
    }
    reading: Final = frozenset({SUBMIT})

    def __init__(
        self,
        store: JobStore | None,
        pipeline: Pipeline,
        *,
        limit: int,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`store` None: this gateway is told of no database. `limit` is how many jobs a tenant may have in the queue;
        `clock` is monotonic seconds, `wall` epoch seconds.
        """
        self._store = store
        self._pipeline = pipeline
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

    async def serve(self, call: DeskCall, reply: Reply) -> None:
        """Answer one request.

        Raises:
            NoRelease, Unauthorized, InvalidRequest, JobNotFound, JobQueueFull, JobsUnavailable, and whatever the
            request that is handed in would end with before it is sent.
        """
        _, key = self._pipeline.authenticate(call.inbound.authorization)
        if call.operation == SUBMIT:
            await self._submit(call.inbound, reply)
            return
        store, job = self._require(), read_id(call.name)
        if call.action == "cancel":
            was = await store.find(job, tenant=key.tenant.slug)
            known = was if was.state in OVER else await store.cancel(job, tenant=key.tenant.slug)
            is_asked = known.state is State.RUNNING
            await self._tell(202 if is_asked else 200, known, call.inbound, reply, {"cancelling": is_asked})
        else:
            await self._tell(200, await store.find(job, tenant=key.tenant.slug), call.inbound, reply, {})

    async def _submit(self, inbound: Inbound, reply: Reply) -> None:
        try:
            fields = orjson.loads(inbound.body)
        except orjson.JSONDecodeError as exc:
            raise InvalidRequest(f"the request body is not valid JSON: {exc}") from exc
        request = parse_job(fields)
        asked = Inbound(inbound.request_id, request.body, inbound.started, inbound.authorization, inbound.user)
        try:
            journey = self._pipeline.check(asked, path=request.endpoint)
        except InvalidRequest as exc:
            exc.param = f"body.{exc.param}" if exc.param else "body"
            raise
        store, key = self._require(), parse_key(inbound.idempotency_key)
        if len(inbound.body) < THREAD_FROM_BYTES:
            fingerprint = fingerprint_of(fields, path=JOBS_PATH)
        else:
            fingerprint = await asyncio.to_thread(fingerprint_of, fields, path=JOBS_PATH)
        submission = Submission(
            id=UUID(new_id(self._wall())),
            scope=Scope("" if journey.tenant is None else journey.tenant.slug, journey.user),
            key_id=journey.key_id,
            user=inbound.user,
            key=key or "",
            fingerprint=fingerprint,
            endpoint=request.endpoint,
            body=request.body,
            expires_seconds=request.expires_seconds,
            has_tools=_has_tools(journey, request),
        )
        job, is_new = await store.submit(submission, limit=self._limit)
        more = [(b"location", f"{JOBS_PATH}/{job.name}".encode())]
        await self._tell(202 if is_new else 200, job, inbound, reply, {}, more)

    async def _tell(
        self,
        status: int,
        job: Job,
        inbound: Inbound,
        reply: Reply,
        members: dict[str, Any],
        more: list[Header] | None = None,
    ) -> None:
        if job.erased_at is not None:
            await _tell_erased(job, inbound, reply)
            return
        position, eta_seconds = await self._place(job)
        headers: list[Header] = [JSON_TYPE, (b"ballast-request-id", inbound.request_id.encode()), *(more or ())]
        if job.state not in OVER:
            headers.append((b"retry-after", b"%d" % look_again_seconds(eta_seconds)))
        body = job_json(job, position=position, eta_seconds=eta_seconds) | members
        await reply.send_whole(status, headers, orjson.dumps(body))

    async def _place(self, job: Job) -> tuple[int | None, float | None]:
        """Where a job stands and how long it takes. What cannot be looked up is not known; the job is stored."""
        if job.state is not State.QUEUED:
            return None, None
        try:
            position = await self._require().place(job)
        except JobsUnavailable:
            return None, None
        await self.look()
        return position, None if self._figures is None else self._figures.eta_seconds(position)

    def _require(self) -> JobStore:
        if self._store is None:
            raise JobsUnavailable("this gateway is told of no database")
        return self._store


def _has_tools(journey: Journey, request: JobRequest) -> bool:
    """Whether a job's request brings tools of its own, or those of its prompt as it is served now."""
    version = journey.prompt_version
    return request.has_tools or (version is not None and bool(version.parameters.get("tools")))


async def _tell_erased(job: Job, inbound: Inbound, reply: Reply) -> None:
    """What is left of a job is told as an error: whoever fetches an answer must not take its absence for one."""
    error = JobErased(job.name)
    told = job_json(job, position=None, eta_seconds=None)
    told |= orjson.loads(error_body(error, request_id=inbound.request_id))
    headers = [*error_headers(error), (b"ballast-request-id", inbound.request_id.encode())]
    await reply.send_whole(face_of(error).status, headers, orjson.dumps(told))


def job_json(job: Job, *, position: int | None, eta_seconds: float | None) -> dict[str, Any]:
    """A job as its tenant reads it.

    Shape: {"id", "object": "job", "endpoint", "status", "created_at", "expires_at", "attempts": int} and, queued,
    "position" (1: the next) and "eta_seconds", null while nobody knows; running, "cancelling": bool; over, "ended_at",
    "response": {"status", "headers": {name: value}, "body"} or null, "usage" and "error": the envelope's member or
    null, "forgotten_at", null while its words are kept, and "redriven_as": the id of the job that the work of a failed
    one was handed in again as, null otherwise. "erased_at" only if they were erased. Times are whole epoch seconds.
    """
    told: dict[str, Any] = {
        "id": job.name,
        "object": "job",
        "endpoint": job.endpoint,
        "status": job.state,
        "created_at": int(job.created_at.timestamp()),
        "expires_at": int(job.expires_at.timestamp()),
        "attempts": job.attempts,
    }
    if job.erased_at is not None:
        told["erased_at"] = int(job.erased_at.timestamp())
    if job.state is State.QUEUED:
        told |= {"position": position, "eta_seconds": eta_seconds}
    elif job.state is State.RUNNING:
        told |= {"cancelling": job.cancel_asked}
    if job.ended_at is not None:
        response = None
        if job.response is not None:
            body = orjson.Fragment(job.response)
            response = {"status": job.status, "headers": dict(job.headers), "body": body}
        told |= {
            "ended_at": int(job.ended_at.timestamp()),
            "response": response,
            "usage": job.usage,
            "error": job.error,
            "forgotten_at": None if job.forgotten_at is None else int(job.forgotten_at.timestamp()),
            "redriven_as": None if job.redriven_as is None else name_of(job.redriven_as),
        }
    return told
