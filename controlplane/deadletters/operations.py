"""Bury work, decide what becomes of its letter, and see who may keep what it said, and for how long."""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from django.db import transaction

from controlplane.accounts.models import Operator
from controlplane.audit import operations as audit
from controlplane.deadletters.errors import LetterMoved, NoReason
from controlplane.deadletters.models import DeadLetter
from controlplane.deadletters.payloads import payload_of
from controlplane.work.deaths import Death
from dataplane.deadletters import (
    KEPT_CAUSES,
    TRANSITIONS,
    Event,
    PayloadState,
    State,
    fingerprint_of,
    storable,
    summary_of,
)
from dataplane.ids import new_id
from dataplane.stores.payloads import PayloadStore

# What people decide about a letter. It is redriven by a plan, and purged by its retention.
DECISIONS: Final = frozenset({Event.RESOLVED, Event.DISCARDED, Event.REOPENED})
NAMED: Final = 100  # of many letters at once, the audit record names so many


# --- written with the work -------------------------------------------------------------------------------------------
def bury(death: Death, now: datetime, *, facts: Mapping[str, Any] | None = None) -> UUID | None:
    """Write the letter of work that has failed for good, in the caller's transaction, which is the one that says so of
    the work. None: it has one already.

    Args:
        facts: Of the last answer, as far as there was one: `release_revision`, `prompt`, `lane`.
    """
    letter = UUID(new_id(now.timestamp()))
    summary = summary_of(death.failure.message)
    name, code = storable(death.name)[:120], storable(death.failure.code)[:60]
    made = DeadLetter(
        id=letter,
        kind=death.kind,
        name=name,
        tenant=death.tenant,
        user_hash=death.user_hash,
        key=death.key,
        work_id=death.work_id,
        state=State.OPEN.value,
        causes=[_storable(cause) for cause in death.causes[-KEPT_CAUSES:]],
        attempts=death.attempts,
        category=death.failure.category.value,
        code=code,
        summary=summary,
        fingerprint=fingerprint_of(
            kind=death.kind, name=name, category=death.failure.category.value, code=code, summary=summary
        ),
        has_tools=death.has_tools,
        created_at=now,
        payload_body=death.payload,
        payload_bytes=len(death.payload),
        payload_sha256=hashlib.sha256(death.payload).hexdigest(),
        payload_expires_at=now,  # the trigger knows for how long
        redriven_from=death.redriven_from,
        **(facts or {}),
    )
    DeadLetter.objects.bulk_create([made], ignore_conflicts=True)
    return letter if DeadLetter.objects.filter(pk=letter).exists() else None


def _storable(cause: Mapping[str, Any]) -> dict[str, Any]:
    return {name: storable(value) if isinstance(value, str) else value for name, value in cause.items()}


# --- what becomes of letters -----------------------------------------------------------------------------------------
@audit.operation
def decide(*, letters: Iterable[UUID], event: Event, actor: Operator | str, reason: str, now: datetime) -> int:
    """Resolve, discard or reopen letters, all of them or none. Returns how many.

    Args:
        event: Of DECISIONS.
    Raises:
        NoReason: why, is not said.
        LetterMoved: one does not stand where that could happen to it; it is purged, say, and is to be reopened.
    """
    if event not in DECISIONS:
        raise ValueError(f"{event} is nothing that a person decides about a letter")
    if not reason.strip():
        raise NoReason
    names = sorted(set(letters))
    _move(names, event, now=now)
    data = {"letters": len(names), "reason": reason, "ids": [str(name) for name in names[:NAMED]]}
    target = f"dead-letter:{names[0].hex}" if len(names) == 1 else "dead-letters"
    audit.record(f"dead_letters.{event}", actor=actor, target=target, at=now, data=data)
    return len(names)


@transaction.atomic
def mark_redriven(letter: DeadLetter, *, work_id: UUID, now: datetime) -> None:
    """Note, in the transaction that hands its work in again, as what.

    Raises:
        LetterMoved: it is not open (any more): its work was handed in again, or is not to be.
    """
    _move([letter.pk], Event.REDRIVEN, now=now, redriven_as=work_id)


@transaction.atomic
def settle_redriven(letter: DeadLetter, *, is_done: bool, now: datetime) -> None:
    """Note what became of work that was handed in again: it is done, or its letter is open once more.

    Raises:
        LetterMoved: it is not redriven (any more), or is to be open again without its payload.
    """
    event = Event.RESOLVED if is_done else Event.REOPENED
    _move([letter.pk], event, now=now, only_from=State.REDRIVEN)


def _move(names: list[UUID], event: Event, *, now: datetime, only_from: State | None = None, **more: Any) -> None:
    """Take the one legal step with each of these. Only this, and a purge, assign `state`.

    Raises:
        LetterMoved: one of them cannot; nothing was changed.
    """
    # In one order, so that nobody waits in a circle.
    rows = DeadLetter.objects.select_for_update().filter(pk__in=names).order_by("pk")
    standing = {pk: (state, payload) for pk, state, payload in rows.values_list("pk", "state", "payload_state")}
    for name in names:
        state, payload_state = standing.get(name, ("gone", ""))
        # An open letter is one whose work can be handed in again.
        is_lost = event is Event.REOPENED and payload_state == PayloadState.PURGED
        if (state, event) not in TRANSITIONS or is_lost or only_from not in (None, state):
            raise LetterMoved(name, state="purged" if is_lost else state, event=event)
    for (before, what), after in TRANSITIONS.items():
        if what is event:
            closed = {"closed_at": None if after is State.OPEN else now} if State.OPEN in (before, after) else {}
            # Who stood there when they were locked: what another step has moved by now is not moved on.
            here = [name for name in names if standing[name][0] == before]
            DeadLetter.objects.filter(pk__in=here).update(state=after.value, **closed, **more)


# --- reading ---------------------------------------------------------------------------------------------------------
@audit.operation
def read_payload(
    *, letter: DeadLetter, store: PayloadStore, actor: Operator | str, reason: str, now: datetime
) -> bytes:
    """What the work takes, in full. Who reads it, and why, is recorded.

    Raises:
        NoReason, PayloadPurged; and of the store PayloadUnavailable, PayloadGone, PayloadTampered.
    """
    if not reason.strip():
        raise NoReason
    data = payload_of(letter, store)
    facts = {"tenant": letter.tenant, "reason": reason}
    audit.record("dead_letter.read", actor=actor, target=letter, at=now, data=facts)
    return data
