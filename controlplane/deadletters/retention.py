"""For how long the payloads of dead letters are kept, and who may keep one longer."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from django.db import connection
from django.db.models import Case, F, Value, When

from controlplane.accounts.models import Operator, Tenant
from controlplane.audit import operations as audit
from controlplane.deadletters import triggers
from controlplane.deadletters.errors import (
    BadRetention,
    HeldAlready,
    HoldInThePast,
    NoReason,
    NotHeld,
    PayloadPurged,
)
from controlplane.deadletters.models import CATEGORIES, DeadLetter, RetentionRule
from controlplane.deadletters.payloads import DELETE
from controlplane.deadletters.plans import forget_letters
from controlplane.work import operations as work
from dataplane.deadletters import PayloadState, State

# Who the audit record says purged: the rules did.
RETENTION: Final = "retention"
MAX_DAYS: Final = 3650
# What one step of purging holds the audit chain for.
PURGED_PER_STEP: Final = 500

_REDATE: Final = f"""
UPDATE {triggers.LETTERS} AS d SET payload_expires_at = d.created_at + make_interval(days => {triggers.days_of("d")})
WHERE d.payload_state <> '{PayloadState.PURGED}' AND %(tenant)s IN ('', d.tenant) AND %(category)s IN ('', d.category)
"""  # noqa: S608 - names of ours; the values are parameters


# --- rules -----------------------------------------------------------------------------------------------------------
@audit.operation
def set_retention(
    *, tenant: str = "", category: str = "", days: int, actor: Operator | str, reason: str, now: datetime
) -> RetentionRule:
    """Have the payloads of a tenant (empty: of all without a rule) and a category (likewise) kept for so many days
    after the work failed. It counts for those that are kept now, too.

    Raises:
        NoReason: why, is not said.
        BadRetention: no such tenant or category, or days outside 0 to MAX_DAYS.
    """
    if not reason.strip():
        raise NoReason
    if category and category not in CATEGORIES:
        raise BadRetention(f"there is no category {category!r}; there are {', '.join(CATEGORIES)}")
    if tenant and not Tenant.objects.filter(slug=tenant).exists():
        raise BadRetention(f"there is no tenant {tenant!r}")
    if not 0 <= days <= MAX_DAYS:
        raise BadRetention(f"{days} days are outside 0 to {MAX_DAYS}")
    before = RetentionRule.objects.filter(tenant=tenant, category=category).values_list("days", flat=True).first()
    rule, _ = RetentionRule.objects.update_or_create(
        tenant=tenant,
        category=category,
        defaults={"days": days, "reason": reason[:300], "set_by": audit.name_of(actor), "set_at": now},
    )
    redated = _redate(tenant, category)
    data = {"days": days, "before": before, "letters": redated, "reason": reason}
    audit.record("retention.set", actor=actor, target=rule, at=now, data=data)
    return rule


@audit.operation
def remove_retention(*, rule: RetentionRule, actor: Operator | str, reason: str, now: datetime) -> None:
    """Have the next rule that fits count again, for what is kept now, too.

    Raises:
        NoReason: why, is not said.
    """
    if not reason.strip():
        raise NoReason
    RetentionRule.objects.filter(tenant=rule.tenant, category=rule.category).delete()
    redated = _redate(rule.tenant, rule.category)
    data = {"days": rule.days, "letters": redated, "reason": reason}
    audit.record("retention.removed", actor=actor, target=rule.audit_name, at=now, data=data)


def _redate(tenant: str, category: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute(_REDATE, {"tenant": tenant, "category": category})
        return int(cursor.rowcount)


# --- holds -----------------------------------------------------------------------------------------------------------
@audit.operation
def hold(
    *, letter: DeadLetter, actor: Operator | str, reason: str, until: datetime | None = None, now: datetime
) -> None:
    """Keep the payload of a letter from being purged or erased: until then, or until the hold is released.

    Raises:
        NoReason, HoldInThePast, HeldAlready; PayloadPurged: there is nothing left to keep.
    """
    if not reason.strip():
        raise NoReason
    if until is not None and until <= now:
        raise HoldInThePast
    held = DeadLetter.objects.filter(pk=letter.pk, hold_by="").exclude(payload_state=PayloadState.PURGED.value)
    name = audit.name_of(actor)
    if not held.update(hold_by=name, hold_reason=reason[:300], hold_until=until):
        letter.refresh_from_db(fields=["hold_by", "payload_state"])
        if letter.payload_state == PayloadState.PURGED:
            raise PayloadPurged(letter.pk)
        raise HeldAlready(letter.pk, by=letter.hold_by)
    letter.hold_by, letter.hold_reason, letter.hold_until = name, reason[:300], until
    data = {"reason": reason, "until": until.isoformat() if until else None, "tenant": letter.tenant}
    audit.record("dead_letter.held", actor=actor, target=letter, at=now, data=data)


@audit.operation
def release_hold(*, letter: DeadLetter, actor: Operator | str, reason: str, now: datetime) -> None:
    """Let a letter's payload go when its time is over.

    Raises:
        NoReason, NotHeld.
    """
    if not reason.strip():
        raise NoReason
    letter.refresh_from_db(fields=["hold_by", "hold_reason"])
    data = {"reason": reason, "held_by": letter.hold_by, "held_for": letter.hold_reason, "tenant": letter.tenant}
    if not _unhold([letter.pk]):
        raise NotHeld(letter.pk)
    letter.hold_by, letter.hold_reason, letter.hold_until = "", "", None
    audit.record("dead_letter.released", actor=actor, target=letter, at=now, data=data)


@audit.operation
def lapse_holds(*, now: datetime) -> int:
    """End the holds whose time is over. Returns how many."""
    over = list(DeadLetter.objects.filter(hold_until__lte=now).order_by("pk").values_list("pk", flat=True))
    if over:
        _unhold(over)
        data = {"letters": len(over), "ids": [str(name) for name in over[:PURGED_PER_STEP]]}
        audit.record("dead_letters.holds_lapsed", actor=RETENTION, target="dead-letters", at=now, data=data)
    return len(over)


def _unhold(names: Sequence[UUID]) -> int:
    rows = DeadLetter.objects.filter(pk__in=names).exclude(hold_by="")
    return int(rows.update(hold_by="", hold_reason="", hold_until=None))


# --- going -----------------------------------------------------------------------------------------------------------
@audit.operation
def purge_expired(*, now: datetime) -> int:
    """Purge payloads whose time is over and that nobody holds, the oldest first. Returns how many; at most so many at a
    time, whoever calls goes on until there are none.
    """
    due = DeadLetter.objects.exclude(payload_state=PayloadState.PURGED.value).filter(
        hold_by="", payload_expires_at__lte=now
    )
    names = list(due.order_by("payload_expires_at").values_list("pk", flat=True)[:PURGED_PER_STEP])
    purged = _purge(names, now=now)
    if purged:
        audit.record("dead_letters.purged", actor=RETENTION, target="dead-letters", at=now, data={"letters": purged})
    return purged


def _purge(names: Sequence[UUID], *, now: datetime) -> int:
    """Wipe these, and have the objects deleted by durable work, which goes on until the store has said that they are
    gone. Returns how many were purged.
    """
    wiped, objects = wipe(names, now=now)
    if objects:
        work.enqueue(kind=DELETE, arguments={"names": objects}, now=now)
    return wiped


def wipe(names: Sequence[UUID], *, now: datetime) -> tuple[int, list[str]]:
    """Wipe what these letters say, and the keys of their objects, so that no copy of those can be read from the commit
    on. Whatever is held meanwhile stays. Returns how many were wiped, and the names of the objects, which the caller is
    to have deleted.
    """
    rows = DeadLetter.objects.select_for_update().filter(pk__in=names, hold_by="")
    locked = list(rows.order_by("pk").values_list("pk", "payload_name"))
    if not locked:
        return 0, []
    is_open = When(state=State.OPEN.value, then=Value(State.PURGED.value))
    DeadLetter.objects.filter(pk__in=[name for name, _ in locked]).update(
        payload_state=PayloadState.PURGED.value,
        payload_body=None,
        payload_name="",
        payload_key="",
        payload_sha256="",
        causes=[],
        key="",
        user_hash="",
        state=Case(is_open, default=F("state")),
        closed_at=Case(When(state=State.OPEN.value, then=Value(now)), default=F("closed_at")),
    )
    forget_letters([name for name, _ in locked])
    return len(locked), [name for _, name in locked if name]
