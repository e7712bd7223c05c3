"""Rung 4: a question becomes a job of its tenant's, and its caller is told so in the signed words of the rung.

What is kept is the request as it was asked, whole, with its tools; so the answer that comes later is the full one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import orjson

from dataplane.chat import Chat
from dataplane.destinations import MEMBER, Channel, Destination
from dataplane.errors.requests import InvalidRequest
from dataplane.fallback import CopyAnswer
from dataplane.idempotency import parse_key
from dataplane.job_queue import JobQueue
from dataplane.jobs import DEFAULT_EXPIRES_SECONDS, JobRequest, name_of
from dataplane.journey import Journey, Reply
from dataplane.ladder.desk import LadderDesk, Stand
from dataplane.ladder.words import Spoken, respoken
from dataplane.last_words import LastWords
from dataplane.request_parser import CHAT_PATH

JOBS_PATH: Final = "/v1/jobs"
ACCEPTED: Final = 202
# What says how the answer of a request at once comes; that of a job comes whole.
_OF_CONNECTIONS: Final = (MEMBER, "stream", "stream_options")


class Promises:
    """See the module; a `steps.Later`. One per process."""

    def __init__(self, queue: JobQueue, *, desk: LadderDesk, last_words: LastWords, public_url: str = "") -> None:
        """`public_url` is where users reach the gateway, without a slash at its end; empty: nobody said."""
        self._queue = queue
        self._desk = desk
        self._last_words = last_words
        self._public_url = public_url

    async def answer(self, journey: Journey, reply: Reply, chat: Chat, stand: Stand) -> None:
        """As `Later.answer`. What is waited for has the bounds of the store, and the promise those of last words.

        Raises:
            InvalidRequest: its answer is to go out as an e-mail, whose words nobody signed.
            JobQueueFull, IdempotencyMismatch: as of the queue.
            JobsUnavailable: nothing was taken over.
        """
        journey.stage = "putting the answer off"
        spoken = journey.spoken
        if spoken is None:
            raise ValueError("the request stands on no rung, so nothing can be promised in its words")
        fields = orjson.loads(journey.inbound.body)
        job = self._queue.new_id()
        destination = journey.destination
        if destination is not None:
            request_id = journey.inbound.request_id
            later = respoken(spoken, spoken.eta_seconds, **self._values(spoken, request_id), job=name_of(job))
            destination = with_words(destination, later, route=journey.route)
        kept, _ = await self._queue.hand_in(
            journey,
            _as_job(fields),
            job=job,
            fields=fields,
            path=CHAT_PATH,
            key=parse_key(journey.inbound.idempotency_key),
            destination=destination,
            surface=stand.surface.slug,
        )
        position, eta_seconds = await self._queue.place(kept)
        values = self._values(spoken, journey.inbound.request_id)
        if position is not None:
            values["position"] = str(position)
        spoken = respoken(spoken, spoken.eta_seconds if eta_seconds is None else eta_seconds, **values, job=kept.name)
        journey.spoken, journey.copy, journey.fallback = spoken, spoken.copy, "template"
        told = {
            "id": kept.name,
            "status_url": f"{self._public_url}{JOBS_PATH}/{kept.name}",
            "position": position,
            "eta_seconds": eta_seconds,
            "deliver": None if destination is None else destination.channel,
        }
        await self._last_words.say(
            journey,
            reply,
            chat.request,
            CopyAnswer("template", spoken.copy, spoken.locale, spoken.words.detail),
            finish_reason="stop",
            ballast=spoken.to_json_in_full() | {"job": told},
            status=ACCEPTED,
            more=[
                (b"location", f"{JOBS_PATH}/{kept.name}".encode()),
                (b"retry-after", b"%d" % max(1, spoken.eta_seconds)),
            ],
        )

    def _values(self, spoken: Spoken, request_id: str) -> dict[str, str]:
        return {"request_id": request_id, "status_url": self._desk.status_url(spoken.surface.slug)}


def with_words(destination: Destination, spoken: Spoken | None, *, route: str) -> Destination:
    """The destination with what is said beside the answer that goes there. `spoken` are the words of the route's rung 4
    in the caller's language; None: nobody signed any.

    Raises:
        InvalidRequest: it is a mailbox, and there are no words that an e-mail could go out with.
    """
    mail = None if spoken is None else spoken.words.mail
    if destination.channel is Channel.EMAIL and mail is None:
        raise InvalidRequest(
            f"nobody has signed words for an e-mail about route {route!r} in this language; name a webhook, or come"
            " back for the answer",
            param=f"{MEMBER}.deliver.email",
        )
    told = {} if spoken is None else spoken.to_json()
    return replace(destination, mail=mail if destination.channel is Channel.EMAIL else None, ballast=told)


def _as_job(fields: dict[str, Any]) -> JobRequest:
    body = {name: value for name, value in fields.items() if name not in _OF_CONNECTIONS}
    has_tools = bool(body.get("tools") or body.get("functions"))
    return JobRequest(CHAT_PATH, orjson.dumps(body), float(DEFAULT_EXPIRES_SECONDS), has_tools)
