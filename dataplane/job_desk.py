"""The addresses of jobs: hand one in, look at it, cancel it.

A job is its tenant's, as a stream is. What can be told of a request before it is sent is told when it is handed in;
what only an attempt shows stands in the job afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import orjson

from dataplane.desks import DeskCall
from dataplane.destinations import Channel, Destination, read_destination
from dataplane.envelope import JSON_TYPE, Header, error_body, error_headers, face_of
from dataplane.errors.jobs import JobErased
from dataplane.errors.requests import InvalidRequest
from dataplane.idempotency import parse_key
from dataplane.job_queue import JobQueue
from dataplane.jobs import OVER, Job, State, look_again_seconds, name_of, parse_job, read_id
from dataplane.journey import Inbound, Journey, Reply
from dataplane.ladder.promises import JOBS_PATH, with_words
from dataplane.ladder.words import Spoken
from dataplane.pipeline import Pipeline
from dataplane.request_parser import CHAT_PATH

SUBMIT: Final = "job_submit"

# The words of (route, an `Accept-Language` header, the request's id, the job as its tenant knows it).
Words = Callable[[str, str | None, str, str], Spoken | None]


def _no_words(*_: object) -> None:
    return None


class JobDesk:
    """Answers requests about jobs."""

    path: Final = JOBS_PATH
    operations: Final = {
        (False, ""): {"POST": SUBMIT},
        (True, ""): {"GET": "job_look"},
        (True, "cancel"): {"POST": "job_cancel"},
    }
    reading: Final = frozenset({SUBMIT})

    def __init__(self, queue: JobQueue, pipeline: Pipeline, *, words: Words = _no_words) -> None:
        """`words` gives those that an answer by e-mail goes out with, as `LadderDesk.speak_later` does."""
        self._queue = queue
        self._pipeline = pipeline
        self._words = words

    async def start(self) -> None:
        """Begin to connect; never waits for it."""
        await self._queue.start()

    async def stop(self) -> None:
        """Let go of the store."""
        await self._queue.stop()

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
        store, job = self._queue.store, read_id(call.name)
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
        told = read_destination(inbound.deliver, request.ballast)
        asked = Inbound(inbound.request_id, request.body, inbound.started, inbound.authorization, inbound.user)
        try:
            journey = self._pipeline.check(asked, path=request.endpoint)
        except InvalidRequest as exc:
            exc.param = f"body.{exc.param}" if exc.param else "body"
            raise
        key, new = parse_key(inbound.idempotency_key), self._queue.new_id()
        journey.inbound = inbound  # beside the request it says what is to become of the job
        destination = None
        if told is not None:
            destination = self._with_words(told, journey, endpoint=request.endpoint, job=name_of(new))
        job, is_new = await self._queue.hand_in(
            journey, request, job=new, fields=fields, path=JOBS_PATH, key=key, destination=destination
        )
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
        position, eta_seconds = await self._queue.place(job)
        headers: list[Header] = [JSON_TYPE, (b"ballast-request-id", inbound.request_id.encode()), *(more or ())]
        if job.state not in OVER:
            headers.append((b"retry-after", b"%d" % look_again_seconds(eta_seconds)))
        body = job_json(job, position=position, eta_seconds=eta_seconds) | members
        await reply.send_whole(status, headers, orjson.dumps(body))

    def _with_words(self, told: Destination, journey: Journey, *, endpoint: str, job: str) -> Destination:
        """As `with_words`; who hands a job in is told nothing of a rung, so a webhook is not either."""
        words, inbound = None, journey.inbound
        # Nobody reads a vector in a mailbox.
        if told.channel is Channel.EMAIL and endpoint == CHAT_PATH:
            words = self._words(journey.route, inbound.accept_language, inbound.request_id, job)
        return with_words(told, words, route=journey.route)


async def _tell_erased(job: Job, inbound: Inbound, reply: Reply) -> None:
    """What is left of a job is told as an error: whoever fetches an answer must not take its absence for one."""
    error = JobErased(job.name)
    told = job_json(job, position=None, eta_seconds=None)
    told |= orjson.loads(error_body(error, request_id=inbound.request_id))
    headers = [*error_headers(error), (b"ballast-request-id", inbound.request_id.encode())]
    await reply.send_whole(face_of(error).status, headers, orjson.dumps(told))


def job_json(job: Job, *, position: int | None, eta_seconds: float | None) -> dict[str, Any]:
    """A job as its tenant reads it.

    Shape: {"id", "object": "job", "endpoint", "status", "created_at", "expires_at", "attempts": int, "delivery": see
    `Job.delivery`} and, queued,
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
        "delivery": job.delivery,
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
