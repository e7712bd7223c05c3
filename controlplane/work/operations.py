"""Take work in, hand it out, and write what became of it.

Not operations of people: none of them holds the audit chain.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from random import Random
from typing import Any, Final
from uuid import UUID

from django.db import connection, transaction

from controlplane import tracing
from controlplane.celery import app as celery_app
from controlplane.work import arguments as wire
from controlplane.work import deaths, handlers, sql
from controlplane.work.errors import GiveUp, KeyTaken, LeaseLost, UnknownKind
from controlplane.work.models import Event, State
from dataplane.deadletters import Category, Failure, failure_of
from dataplane.ids import new_id
from dataplane.retry import backoff

logger = logging.getLogger(__name__)

RUN_TASK: Final = "work.run"
RUN_URGENT_TASK: Final = "work.run_urgent"
LEASE_SECONDS: Final = 30.0
# Word that nobody has come for after so long is void: what is due is looked for anyway.
WORD_SECONDS: Final = 60
BASE_SECONDS: Final = 2.0
CAP_SECONDS: Final = 300.0
# Over how long a while those are spread that have died together more than once.
APART_SECONDS: Final = 30.0
SWEPT_AT_ONCE: Final = 500
WORDS_AT_ONCE: Final = 16
# So long after its end a row is of no use to anybody; its dead letter, if it has one, tells the rest.
KEEP_SECONDS: Final = 7 * 24 * 3600.0
POISON: Final = "its worker died {lapses} times in a row"


@dataclass(frozen=True, slots=True)
class Taken:
    """Leave to try a piece of work once, for as long as the lease is renewed."""

    id: UUID
    kind: str
    arguments: bytes
    key: str
    tenant: str
    user_hash: str
    epoch: int
    owner: str
    failures: int
    traceparent: str

    @property
    def attempt(self) -> handlers.Attempt:
        """As its handler is told of it."""
        return handlers.Attempt(self.id, self.kind, self.epoch, self.tenant)


# --- handing in ------------------------------------------------------------------------------------------------------
def enqueue(
    *,
    kind: str,
    arguments: Mapping[str, Any],
    key: str = "",
    tenant: str = "",
    user_hash: str = "",
    delay_seconds: float = 0.0,
    redriven_from: UUID | None = None,
    now: datetime,
) -> UUID:
    """Have something done after the surrounding transaction has committed, and not at all if it does not. Returns the
    id of the work: with a `key`, that of the work of its kind that came under it first.

    Raises:
        UnknownKind: nobody would do it.
        UnserialisableArguments, ArgumentsTooLarge: they cannot be kept.
        KeyTaken: the key came with other arguments before.
    """
    handler = handlers.find(kind)
    data, task = wire.write(kind, arguments), UUID(new_id(now.timestamp()))
    parameters = {
        "id": task,
        "kind": kind,
        "arguments": data,
        "key": key,
        "tenant": tenant,
        "user_hash": user_hash,
        "delay_seconds": delay_seconds,
        "redriven_from": redriven_from,
        "traceparent": tracing.current(),
        "now": now,
    }
    rows = _run(sql.ENQUEUE, parameters)
    if rows:
        if not delay_seconds:
            transaction.on_commit(partial(send_word, is_urgent=handler.is_urgent))
        return task
    [known] = _run(sql.KNOWN, parameters)
    if bytes(known["arguments"]) != data:
        raise KeyTaken(kind, key)
    found: UUID = known["id"]
    return found


def send_word(*, words: int = 1, seconds: float = WORD_SECONDS, is_urgent: bool = False) -> bool:
    """Tell workers, or those for what is urgent, that something is due; False when the broker is away, which the sweep
    makes up for. Never raises: the work is stored, and nobody must be told otherwise.
    """
    try:
        for _ in range(words):
            task = RUN_URGENT_TASK if is_urgent else RUN_TASK
            celery_app.send_task(task, expires=seconds, ignore_result=True)
    except Exception as exc:  # noqa: BLE001 - kombu raises whatever its transport raises
        logger.info("word of work cannot be sent, the sweep will: %s: %s", type(exc).__name__, exc)
        return False
    return True


# --- doing -----------------------------------------------------------------------------------------------------------
def take(*, owner: str, is_urgent: bool = False) -> Taken | None:
    """Take what is due first, of what is urgent alone or of all; None: nothing is."""
    kinds = handlers.urgent_kinds() if is_urgent else None
    rows = _run(sql.TAKE, {"owner": owner, "lease_seconds": LEASE_SECONDS, "kinds": kinds})
    if not rows:
        return None
    [row] = rows
    return Taken(
        id=row["id"],
        kind=row["kind"],
        arguments=bytes(row["arguments"]),
        key=row["key"],
        tenant=row["tenant"],
        user_hash=row["user_hash"],
        epoch=row["epoch"],
        owner=row["owner"],
        failures=row["failures"],
        traceparent=row["traceparent"],
    )


def renew(taken: Taken) -> bool:
    """Hold on to the work; False: it is somebody else's by now."""
    return bool(_run(sql.RENEW, {**_mine(taken), "lease_seconds": LEASE_SECONDS}))


def finish(taken: Taken) -> None:
    """Note that the work is done, in the transaction of what it did if that is to happen once.

    Raises:
        LeaseLost: it is somebody else's by now.
    """
    if not _run(sql.FINISH, _mine(taken)):
        raise LeaseLost(f"epoch {taken.epoch} of work {taken.id} is over for {taken.owner!r}")


@transaction.atomic
def fail(taken: Taken, error: BaseException, *, rng: Random, now: datetime) -> State:
    """Write why an attempt failed: the work is tried again after a pause, or it is dead and has its letter. Returns
    what it is now.

    Raises:
        LeaseLost: it is somebody else's by now.
    """
    try:
        max_attempts = handlers.find(taken.kind).max_attempts
    except UnknownKind:
        max_attempts = handlers.MAX_ATTEMPTS  # workers of a newer release may know it
    failures = taken.failures + 1
    is_dead = isinstance(error, GiveUp) or failures >= max_attempts
    failure = failure_of(error)
    if isinstance(error, GiveUp):
        failure = Failure(error.category, error.code[:60], failure.message)
    rows = _run(
        sql.FAIL,
        {
            **_mine(taken),
            "event": Event.DIED if is_dead else Event.PUT_BACK,
            "wait_seconds": backoff(failures, base=BASE_SECONDS, cap=CAP_SECONDS, rng=rng),
            "code": failure.code,
            "message": failure.message,
        },
    )
    if not rows:
        raise LeaseLost(f"epoch {taken.epoch} of work {taken.id} is over for {taken.owner!r}")
    if is_dead:
        _bury(rows[0], failure, now=now)
    return State(rows[0]["state"])


def _mine(taken: Taken) -> dict[str, Any]:
    return {"id": taken.id, "epoch": taken.epoch, "owner": taken.owner}


# --- looking after ---------------------------------------------------------------------------------------------------
def sweep(*, now: datetime, send: bool = True) -> int:
    """Put back what dead workers had, bury what they may have died of, delete what was over long ago, and send word of
    what is due. Returns how many rows it changed.

    Several may sweep at a time: each row is taken by one of them.
    """
    changed = 0
    while found := _lapse(now=now):
        changed += found
        if found < SWEPT_AT_ONCE:
            break
    with connection.cursor() as cursor:
        cursor.execute(sql.FORGET, {"keep_seconds": KEEP_SECONDS, "limit": SWEPT_AT_ONCE})
        changed += int(cursor.rowcount)
    # Whoever does all kinds does what is urgent too, should nobody be there for that alone.
    for kinds in (None, handlers.urgent_kinds()):
        [due] = _run(sql.DUE, {"limit": WORDS_AT_ONCE, "kinds": kinds})[0].values()
        if due and send:
            send_word(words=due, is_urgent=kinds is not None)
    return changed


@transaction.atomic
def _lapse(*, now: datetime) -> int:
    rows = _run(sql.LAPSE, {"limit": SWEPT_AT_ONCE, "apart_seconds": APART_SECONDS})
    for row in rows:
        if row["state"] == State.DEAD:
            message = POISON.format(lapses=row["lapses"])
            _bury(row, Failure(Category.POISON, Category.POISON.value, message), now=now)
    return len(rows)


def _bury(row: Mapping[str, Any], failure: Failure, *, now: datetime) -> None:
    try:
        work = handlers.find(row["kind"]).work
    except UnknownKind:
        work = handlers.TASK
    deaths.tell(
        deaths.Death(
            kind=work,
            name=row["kind"],
            work_id=row["id"],
            failure=failure,
            payload=bytes(row["arguments"]),
            attempts=row["epoch"],
            causes=json.loads(row["causes"]),
            tenant=row["tenant"],
            user_hash=row["user_hash"],
            key=row["key"],
            redriven_from=row["redriven_from"],
        ),
        now=now,
    )


def forget_subject(*, tenant: str, user_hash: str) -> int:
    """Delete the rows of work about a data subject that is over. Returns how many."""
    with connection.cursor() as cursor:
        cursor.execute(sql.FORGET_SUBJECT, {"tenant": tenant, "user_hash": user_hash})
        return int(cursor.rowcount)


def _run(statement: str, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        if cursor.description is None:
            return []
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
