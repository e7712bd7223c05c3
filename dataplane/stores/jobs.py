"""Where jobs are kept: PostgreSQL, and nothing else. A broker carries word of them; what it loses is sent again.

Nothing is accepted that is not stored, so when it cannot be asked, no job is taken from anybody.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol
from uuid import UUID

import orjson
import psycopg
from psycopg.rows import DictRow

from dataplane.deadletters import Category, category_of, shortened, storable, summary_of
from dataplane.destinations import Destination
from dataplane.errors.idempotency import IdempotencyMismatch
from dataplane.errors.jobs import JobNotFound, JobQueueFull, JobsUnavailable
from dataplane.idempotency import Fingerprint, Scope
from dataplane.jobs import TRANSITIONS, UNREACHED, Answer, Event, Figures, Job, LeaseLost, State, Taken, Verdict
from dataplane.stores import jobs_sql as sql
from dataplane.stores.postgres import make_pool, run

log = logging.getLogger("ballast.jobs")

WORKING: Final = "ballast-jobs"
SWEPT_AT_ONCE: Final = 500
# Over how long a while those are spread that have died together more than once.
APART_SECONDS: Final = 30.0
UNANSWERED: Final = {
    "code": "unanswered",
    "message": "no gateway gave an answer, or the runner was told to stop before there was one",
}

LAPSED: Final = {"code": sql.LAPSED, "message": sql.BROKEN_OFF_WORDS}


@dataclass(frozen=True, slots=True)
class Submission:
    """A job as it is handed in.

    Attributes:
        scope: Whose `key` it is, which is the idempotency key of the handing in, empty without one.
        user: As the header named it, for the header of its attempts.
        has_tools: Whether its request brings tools, so that doing it twice may have effects.
        redriven_from: The dead letter whose work this is, handed in again.
        surface: The surface whose rung 4 put it off; empty where its caller meant it for a job.
        destination: Where its answer is sent; None: whoever wants it comes for it.
        traceparent: Of the trace that hands it in, which its attempts go on with; empty where that is not traced.
    """

    id: UUID
    scope: Scope
    key_id: str
    user: str | None
    key: str
    fingerprint: Fingerprint
    endpoint: str
    body: bytes
    expires_seconds: float
    has_tools: bool = False
    redriven_from: UUID | None = None
    surface: str = ""
    destination: Destination | None = None
    traceparent: str = ""


class JobStore(Protocol):
    """Where jobs are kept. Every method but `start` and `close` raises JobsUnavailable when that cannot be asked. The
    store's clock is the only one.
    """

    async def start(self) -> None:
        """Begin to connect; never waits for it."""

    async def close(self) -> None:
        """Let go of connections."""

    # For whoever hands in and asks.

    async def submit(self, submission: Submission, *, limit: int) -> tuple[Job, bool]:
        """Keep a job. False: its key came before with the same submission, and this is that job.

        Raises:
            JobQueueFull: the tenant has `limit` jobs in the queue.
            IdempotencyMismatch: its key came before with another submission.
        """

    async def find(self, job: UUID, *, tenant: str) -> Job:
        """The job of a tenant. Raises JobNotFound."""

    async def cancel(self, job: UUID, *, tenant: str) -> Job:
        """End a queued job, ask for the end of a running one, leave one that is over. Raises JobNotFound."""

    async def place(self, job: Job) -> int:
        """Where a queued job stands in the order in which they are served: 1 for the next."""

    async def figures(self) -> Figures:
        """How the queue stands."""

    async def oldest_put_off(self) -> Mapping[str, float]:
        """How long, in seconds, the oldest job has waited by now that rung 4 of each surface put off; without those of
        which none waits.
        """

    # For whoever runs them.

    async def take(self, *, owner: str, lease_seconds: float, sent: UUID | None = None) -> Taken | None:
        """Take the first job that is due. `sent` is the job that word was sent of. None: nothing is due."""

    async def renew(self, taken: Collection[Taken], *, owner: str, lease_seconds: float) -> Mapping[Taken, bool]:
        """Renew leases, in one round trip. Returns those that are still held, and whether the job is to be stopped."""

    async def end(self, taken: Taken, verdict: Verdict, answer: Answer = UNREACHED) -> None:
        """Write what became of an attempt; of a job that has failed for good, its dead letter too. Instead of being put
        back, a job fails that too many have died of in a row, and one whose words were erased is cancelled.

        Raises:
            LeaseLost: the epoch is over; nothing was written.
        """

    async def to_send(self, *, concurrency: int, lost_seconds: float) -> Sequence[UUID]:
        """The jobs that word is to be sent of now; it counts as lost if nobody has come after `lost_seconds`."""

    async def unsend(self, jobs: Collection[UUID]) -> None:
        """Note that word of these was not sent after all."""

    async def resend(self) -> None:
        """Have word of all that is due sent again: what was on its way may be lost."""

    async def sweep(self, *, keep_seconds: float) -> int:
        """Put back what dead runners had, but for what they may have died of, end what has expired, and delete the
        words of what was over `keep_seconds` ago. Returns how many jobs it changed.
        """


class PostgresJobStore:
    """See the module. One per process, on one event loop."""

    def __init__(self, url: str, *, connections: int = 4, timeout_seconds: float = 5.0) -> None:
        """`timeout_seconds` bounds every call."""
        self._timeout_seconds = timeout_seconds
        self._pool = make_pool(url, name=WORKING, connections=connections, timeout_seconds=timeout_seconds)

    async def start(self) -> None:
        """As `JobStore.start`."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """As `JobStore.close`."""
        await self._pool.close()

    async def submit(self, submission: Submission, *, limit: int) -> tuple[Job, bool]:
        """As `JobStore.submit`."""
        fingerprint = submission.fingerprint
        parameters = {
            "job": submission.id,
            "tenant": submission.scope.tenant,
            "key_id": submission.key_id,
            "user": submission.user or "",
            "user_hash": submission.scope.user_hash,
            "key": submission.key,
            "fingerprint": fingerprint.sha256,
            "fields": orjson.dumps(dict(fingerprint.by_field)).decode(),
            "endpoint": submission.endpoint,
            "request": submission.body,
            "expires_seconds": submission.expires_seconds,
            "has_tools": submission.has_tools,
            "redriven_from": submission.redriven_from,
            "limit": limit,
            "surface": submission.surface,
            "traceparent": submission.traceparent,
            **_parcel(submission.destination),
        }
        rows = await self._run(sql.LOCK, sql.SUBMIT, parameters=parameters)
        if not rows:
            raise JobQueueFull(limit=limit)
        (row,) = rows
        if row["fingerprint"] != fingerprint.sha256:
            known = Fingerprint(row["fingerprint"], row["fields"])
            raise IdempotencyMismatch(submission.key, fields=known.differing(fingerprint))
        return _job(row), row["is_new"]

    async def find(self, job: UUID, *, tenant: str) -> Job:
        """As `JobStore.find`."""
        rows = await self._run(sql.FIND, parameters={"job": job, "tenant": tenant})
        if not rows:
            raise JobNotFound(f"job_{job.hex}")
        return _job(rows[0])

    async def cancel(self, job: UUID, *, tenant: str) -> Job:
        """As `JobStore.cancel`."""
        await self._run(sql.CANCEL, parameters={"job": job, "tenant": tenant})
        return await self.find(job, tenant=tenant)

    async def place(self, job: Job) -> int:
        """As `JobStore.place`."""
        (row,) = await self._run(sql.PLACE, parameters={"tag": job.tag, "job": job.id})
        return int(row["position"])

    async def figures(self) -> Figures:
        """As `JobStore.figures`."""
        (row,) = await self._run(sql.FIGURES)
        return Figures(row["queued"], row["running"], row["ended"], row["span_seconds"])

    async def oldest_put_off(self) -> Mapping[str, float]:
        """As `JobStore.oldest_put_off`."""
        return {row["surface"]: row["seconds"] for row in await self._run(sql.OLDEST_PUT_OFF)}

    async def take(self, *, owner: str, lease_seconds: float, sent: UUID | None = None) -> Taken | None:
        """As `JobStore.take`. If the answer is lost, so is the lease: the job comes again when that has run out."""
        rows = await self._run(sql.TAKE, parameters={"owner": owner, "lease_seconds": lease_seconds, "sent": sent})
        if not rows:
            return None
        (row,) = rows
        return Taken(
            id=row["id"],
            epoch=row["epoch"],
            owner=row["owner"],
            tenant=row["tenant"],
            key_id=row["key_id"],
            user=row["user"],
            endpoint=row["endpoint"],
            body=row["request"],
            attempts=row["epoch"],
            failures=row["failures"],
            expires_in_seconds=row["expires_in_seconds"],
            traceparent=row["traceparent"],
        )

    async def renew(self, taken: Collection[Taken], *, owner: str, lease_seconds: float) -> Mapping[Taken, bool]:
        """As `JobStore.renew`."""
        parameters = {
            "jobs": [one.id for one in taken],
            "epochs": [one.epoch for one in taken],
            "owner": owner,
            "lease_seconds": lease_seconds,
        }
        rows = await self._run(sql.RENEW, parameters=parameters)
        held = {(row["id"], row["epoch"]): bool(row["cancel_asked"]) for row in rows}
        return {one: held[one.id, one.epoch] for one in taken if (one.id, one.epoch) in held}

    async def end(self, taken: Taken, verdict: Verdict, answer: Answer = UNREACHED) -> None:
        """As `JobStore.end`."""
        event, is_answered = verdict.event, verdict.event is Event.COMPLETED
        error = None if is_answered or answer.body is None else answer.error()
        usage = answer.usage() if is_answered else None
        parameters = {
            "job": taken.id,
            "epoch": taken.epoch,
            "owner": taken.owner,
            "event": event,
            "wait_seconds": verdict.wait_seconds,
            "delivery": verdict.delivery,
            "apart_seconds": APART_SECONDS,
            "failures": verdict.failures,
            "request_id": answer.request_id,
            "status": answer.status,
            "headers": orjson.dumps(answer.kept_headers).decode(),
            "response": answer.body if is_answered else None,
            "usage": None if usage is None else _json(usage),
            "error": None if error is None else _json(error),
            "error_code": "" if error is None else storable(str(error.get("code")))[:60],
            **_letter(event, error or (LAPSED if answer.is_lost else UNANSWERED), answer.status),
        }
        if await self._run(sql.END, parameters=parameters):
            return
        standing = await self._run(sql.STANDING, parameters=parameters)
        if not standing or standing[0]["state"] != TRANSITIONS[State.RUNNING, event]:
            raise LeaseLost(taken)

    async def to_send(self, *, concurrency: int, lost_seconds: float) -> Sequence[UUID]:
        """As `JobStore.to_send`."""
        parameters = {"concurrency": concurrency, "lost_seconds": lost_seconds}
        return [row["id"] for row in await self._run(sql.SEND, parameters=parameters)]

    async def unsend(self, jobs: Collection[UUID]) -> None:
        """As `JobStore.unsend`."""
        await self._run(sql.UNSEND, parameters={"jobs": list(jobs)})

    async def resend(self) -> None:
        """As `JobStore.resend`."""
        await self._run(sql.RESEND)

    async def sweep(self, *, keep_seconds: float) -> int:
        """As `JobStore.sweep`."""
        parameters = {"limit": SWEPT_AT_ONCE, "keep_seconds": keep_seconds, "apart_seconds": APART_SECONDS}
        changed = 0
        for statement in (sql.LAPSE, sql.EXPIRE, sql.FORGET):
            while found := len(await self._run(statement, parameters=parameters)):
                changed += found
                if statement == sql.LAPSE:
                    await self.resend()  # a dead runner may have had word that it had not begun with
                if found < SWEPT_AT_ONCE:
                    break
        return changed

    async def _run(self, *statements: str, parameters: Mapping[str, Any] | None = None) -> list[DictRow]:
        """Run statements in one transaction; returns the rows of the last.

        Raises:
            JobsUnavailable: the database fails, or gives no answer in time.
        """
        return await run(
            self._pool,
            lambda connection: _execute(connection, statements, parameters or {}),
            timeout_seconds=self._timeout_seconds,
            unavailable=JobsUnavailable,
        )


async def _execute(
    connection: psycopg.AsyncConnection[DictRow], statements: Sequence[str], parameters: Mapping[str, Any]
) -> list[DictRow]:
    if len(statements) == 1:
        cursor = await connection.execute(statements[0].encode(), parameters)
    else:
        async with connection.transaction():
            for statement in statements:
                cursor = await connection.execute(statement.encode(), parameters)
    return await cursor.fetchall() if cursor.description else []


def _parcel(destination: Destination | None) -> dict[str, Any]:
    """What the row of a delivery says; without a channel, there is none."""
    if destination is None:
        return {"channel": "", "address": "", "subject": "", "text": "", "ballast": "{}"}
    mail = destination.mail
    return {
        "channel": destination.channel,
        "address": destination.address,
        "subject": "" if mail is None else mail.subject,
        "text": "" if mail is None else mail.text,
        "ballast": _json(destination.ballast),
    }


def _letter(event: Event, error: Mapping[str, Any], status: int) -> dict[str, Any]:
    """What the causes of a job, and its letter if it has failed for good, say of the attempt that ends."""
    code, message = storable(str(error.get("code")))[:60], str(error.get("message"))
    is_expired = event is Event.EXPIRED
    return {
        "cause_code": code,
        "cause_message": shortened(message),
        "letter_category": Category.EXPIRED if is_expired else category_of(code, status=status),
        "letter_code": Category.EXPIRED if is_expired else code,
        "letter_summary": sql.expired_words(code) if is_expired else summary_of(message),
    }


def _json(value: Any) -> str:
    """A value as PostgreSQL takes it: its JSON holds no NUL, which a provider's error may."""
    return orjson.dumps(value).decode().replace("\\u0000", "\\ufffd")


def _job(row: DictRow) -> Job:
    return Job(
        id=row["id"],
        tenant=row["tenant"],
        endpoint=row["endpoint"],
        state=State(row["state"]),
        tag=row["tag"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        attempts=row["epoch"],
        cancel_asked=row["cancel_asked"],
        ended_at=row["ended_at"],
        status=row["status"],
        headers=tuple((name, value) for name, value in row["response_headers"]),
        response=row["response"],
        error=row["error"],
        usage=row["usage"],
        forgotten_at=row["forgotten_at"],
        redriven_as=row["redriven_as"],
        delivery=row["delivery"],
        erased_at=row["erased_at"],
    )
