"""Hands the work of a letter in again, once, and tells how that ended.

What a letter's work becomes has an id that follows from the letter, the edit, and what it was handed in as before. So
whoever hands it in twice, in two plans, by two clicks or after a crash, finds the first.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid5

import orjson
from django.conf import settings
from django.db import connection

from controlplane import tracing
from controlplane.deadletters import operations
from controlplane.deadletters.checks import Work
from controlplane.deadletters.kinds import JOB
from controlplane.deadletters.models import DeadLetter
from controlplane.ledger.deliveries import Delivery
from controlplane.ledger.jobs import Job
from controlplane.work import operations as work
from controlplane.work.models import State as TaskState
from controlplane.work.models import Task
from dataplane.deadletters import Category
from dataplane.idempotency import fingerprint_of
from dataplane.jobs import DEFAULT_EXPIRES_SECONDS, OVER
from dataplane.jobs import State as JobState
from dataplane.stores import jobs_sql as sql

JOBS_PATH: Final = "/v1/jobs"
_TASKS_OVER: Final = frozenset({TaskState.DONE.value, TaskState.DEAD.value})
CANCELLED: Final = "cancelled"
LOST: Final = "lost"


class NoRoom(Exception):
    """The tenant has as many jobs in the queue as it may; there is room later."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How work that was handed in again ended. `category` of a failure, `letter` the one that it left."""

    is_done: bool
    category: str = ""
    letter: UUID | None = None
    at: datetime | None = None


def next_id(letter: DeadLetter, edit_digest: str) -> UUID:
    """The id that the letter's work gets when it is handed in the next time."""
    return uuid5(letter.pk, f"{edit_digest}:{letter.redriven_as or ''}")


def hand_in(letter: DeadLetter, found: Work, *, edit_digest: str, now: datetime) -> UUID:
    """Hand a letter's work in, and mark the letter, in the caller's transaction. Returns the id of the work.

    Args:
        letter: As it is in the database, locked.
    Raises:
        NoRoom: nothing was written.
        LetterMoved: it is not open; roll back.
    """
    made = next_id(letter, edit_digest)
    if letter.kind == JOB:
        _submit(letter, found, job=made)
    else:
        made = work.enqueue(
            kind=letter.name,
            arguments=found.body,
            key=f"redrive:{made}",
            tenant=letter.tenant,
            user_hash=letter.user_hash,
            redriven_from=letter.pk,
            now=now,
        )
    operations.mark_redriven(letter, work_id=made, now=now)
    return made


def _submit(letter: DeadLetter, found: Work, *, job: UUID) -> None:
    """Put a job into the queue of the data plane, by the statement that its gateways use."""
    fields = {"endpoint": found.endpoint, "body": found.body}
    fingerprint = fingerprint_of(fields, path=JOBS_PATH)
    parameters: dict[str, Any] = {
        "job": job,
        "tenant": letter.tenant,
        "key_id": found.key_id,
        "user": found.user,
        "user_hash": letter.user_hash,
        # The idempotency key of the first submission names the first job, for ever: its answer names this one.
        "key": "",
        "fingerprint": fingerprint.sha256,
        "fields": json.dumps(dict(fingerprint.by_field)),
        "endpoint": found.endpoint,
        "request": orjson.dumps(found.body),
        "expires_seconds": float(DEFAULT_EXPIRES_SECONDS),
        "has_tools": letter.has_tools or bool(found.body.get("tools") or found.body.get("functions")),
        "redriven_from": letter.pk,
        "limit": settings.JOB_LIMIT,
        # Whoever asked has it back as one that failed; in a backlog it would say that a question waits since today.
        "surface": "",
        # Of whoever hands it in again, if that is traced: the first one's may be days old, and have long ended.
        "traceparent": tracing.current(),
        **_parcel(letter.work_id),
    }
    with connection.cursor() as cursor:
        cursor.execute(sql.LOCK, parameters)
        cursor.execute(sql.SUBMIT, parameters)
        if cursor.fetchone() is None:
            raise NoRoom(letter.tenant)


def _parcel(job: UUID) -> dict[str, str]:
    """Where the answer goes, if there is one after all: to whom it was promised, as long as that is known."""
    promised = Delivery.objects.filter(pk=job).exclude(address="").first()
    if promised is None:
        return {"channel": "", "address": "", "subject": "", "text": "", "ballast": "{}"}
    return {
        "channel": promised.channel,
        "address": promised.address,
        "subject": promised.subject,
        "text": promised.text,
        "ballast": json.dumps(promised.ballast),
    }


# --- how it ended ----------------------------------------------------------------------------------------------------
def endings_of(works: dict[UUID, DeadLetter]) -> dict[UUID, Ended]:
    """How those works ended that are over, by their ids; of each, the letter that it was handed in from. At most three
    queries.
    """
    over: dict[UUID, tuple[str, datetime | None]] = dict.fromkeys(works, (LOST, None))
    jobs = [name for name, letter in works.items() if letter.kind == JOB]
    if jobs:
        for job, state, at in Job.objects.filter(pk__in=jobs).values_list("pk", "state", "ended_at"):
            over[job] = (state, at)
    tasks = [name for name, letter in works.items() if letter.kind != JOB]
    if tasks:
        for task, state, at in Task.objects.filter(pk__in=tasks).values_list("pk", "state", "ended_at"):
            over[task] = (state, at)
    over = {name: (state, at) for name, (state, at) in over.items() if _is_over(state)}
    failed = [name for name, (state, _) in over.items() if not _is_done(state)]
    kinds = sorted({letter.kind for letter in works.values()})
    letters = DeadLetter.objects.filter(kind__in=kinds, work_id__in=failed).only("pk", "work_id", "category")
    left = {letter.work_id: letter for letter in letters} if failed else {}
    ended = {}
    for name, (state, at) in over.items():
        if _is_done(state):
            ended[name] = Ended(True, at=at)
        elif name in left:
            ended[name] = Ended(False, left[name].category, left[name].pk, at)
        else:
            ended[name] = Ended(False, Category.POLICY.value if state == JobState.CANCELLED else LOST, at=at)
    return ended


def _is_over(state: str) -> bool:
    return state == LOST or state in OVER or state in _TASKS_OVER


def _is_done(state: str) -> bool:
    return state in (JobState.COMPLETED, TaskState.DONE)


def digest_of_letters(letters: list[UUID]) -> str:
    """SHA-256 of the ids of letters, in hex, whatever their order."""
    return hashlib.sha256("\n".join(sorted(str(letter) for letter in letters)).encode()).hexdigest()
