"""Kill shadows and lift what killed them.

A kill stands twice: as a flag in Redis, which shadow processes obey within a second, and in the release, which outlives
Redis. What a process's own switch concludes is put into the release from here.
"""

import logging
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from django.db import transaction
from django.urls import reverse

from controlplane.accounts.models import Operator
from controlplane.accounts.operations import SYSTEM
from controlplane.alerts.models import Severity
from controlplane.alerts.operations import raise_alert
from controlplane.audit import operations as audit
from controlplane.releases import operations as releases
from controlplane.routing.operations import routing_tables
from controlplane.shadows import flags
from controlplane.shadows.errors import FleetUnreachable, NoReason, ShadowIsKilled, ShadowRuns, UnknownShadow
from controlplane.shadows.models import HoldKind, ShadowHold
from controlplane.shadows.words import measured_words
from controlplane.telemetry.models import WorkerEvent
from dataplane.shadow.policy import ShadowPolicy

logger = logging.getLogger(__name__)

KILLED: Final = "shadow.killed"
BY_HAND: Final = "by_hand"
# A spool may bring what happened hours ago; what is older has been seen, or is of another policy.
LOOKED_BACK: Final = timedelta(hours=24)
MAX_REASON_CHARACTERS: Final = 1000


def policy_in_force(slug: str) -> ShadowPolicy:
    """The policy as the table in force has it.

    Raises:
        UnknownShadow: it has none of this name.
    """
    table = routing_tables.active()
    policy = None if table is None else table.parsed().shadows.get(slug)
    if policy is None:
        raise UnknownShadow(f"the routing table in force has no shadow policy {slug!r}")
    return policy


def killed_now() -> dict[str, ShadowHold]:
    """The hold of each policy that is killed, by its digest; one query."""
    return {hold.digest: hold for hold in ShadowHold.objects.newest_per_policy() if hold.is_killed}


@audit.operation
def kill_shadow(*, policy: str, reason: str, actor: Operator | str, now: datetime) -> ShadowHold:
    """Have nothing more asked under a policy, from within a second on, until it changes or is lifted.

    Raises:
        UnknownShadow: the table in force has none of this name.
        ShadowIsKilled: it is killed already; the message says since when and why.
        NoReason: why, is not said.
    """
    found = policy_in_force(policy)
    standing = killed_now().get(found.digest)
    if standing is not None:
        raise ShadowIsKilled(f"shadow {policy!r} is killed since {standing.at:%Y-%m-%d %H:%M} UTC: {standing.reason}")
    hold = _kill(found.slug, found.digest, cause=BY_HAND, measured={}, reason=_said(reason), actor=actor, now=now)
    transaction.on_commit(partial(_tell, found.digest, hold.reason))
    return hold


def _kill(
    policy: str,
    digest: str,
    *,
    cause: str,
    measured: dict[str, Any],
    reason: str,
    actor: Operator | str,
    now: datetime,
) -> ShadowHold:
    audit.require_operation()
    hold = ShadowHold.objects.create(
        policy=policy,
        digest=digest,
        kind=HoldKind.KILLED,
        cause=cause,
        measured=measured,
        reason=reason,
        actor=audit.name_of(actor),
        at=now,
    )
    data = {"digest": digest, "cause": cause, "measured": measured, "reason": reason}
    audit.record("shadow.killed", actor=actor, target=hold, at=now, data=data)
    releases.publish_on_commit(reason=f"shadow {policy} killed: {reason}", actor=actor, now=now)
    raise_alert(
        kind=KILLED,
        severity=Severity.WARN,
        title=f"Shadow {policy} is killed",
        sentence=f"Nothing more is asked under it, and callers notice nothing. {reason}",
        facts={"policy": policy, "digest": digest, "cause": cause, "by": hold.actor, **measured},
        link=reverse("shadow", args=[policy]),
        target=hold,
        dedupe=f"{digest}:{hold.pk}",
        now=now,
    )
    return hold


def _tell(digest: str, reason: str) -> None:
    """Raise the flag; without Redis the release says it, and nothing can be reserved anyway."""
    if digest not in killed_now():  # somebody lifted it meanwhile
        return
    try:
        flags.raise_flag(digest, reason)
    except FleetUnreachable as exc:
        logger.warning("the kill of shadow %s reaches processes by the release alone: %s", digest[:8], exc)


def lift_shadow(*, policy: str, reason: str, actor: Operator | str, now: datetime) -> ShadowHold:
    """Let a killed policy go on: the flag is taken back, then the release.

    The flag first, and outside the operation, whose lock is everybody's: as long as the release holds the policy
    nothing is asked, so nothing is lost when the second step fails.

    Raises:
        UnknownShadow: the table in force has none of this name.
        ShadowRuns: nothing killed it.
        FleetUnreachable: Redis is away; nothing was changed.
        NoReason: why, is not said.
    """
    found, why = policy_in_force(policy), _said(reason)
    if found.digest not in killed_now() and not flags.has_flag(found.digest):
        raise ShadowRuns(f"nothing killed shadow {policy!r}, so there is nothing to lift")
    flags.lower_flag(found.digest)
    return _lift(found, reason=why, actor=actor, now=now)


@audit.operation
def _lift(policy: ShadowPolicy, *, reason: str, actor: Operator | str, now: datetime) -> ShadowHold:
    before = killed_now().get(policy.digest)
    hold = ShadowHold.objects.create(
        policy=policy.slug,
        digest=policy.digest,
        kind=HoldKind.LIFTED,
        cause=BY_HAND,
        reason=reason,
        actor=audit.name_of(actor),
        at=now,
    )
    data = {"digest": policy.digest, "reason": reason, "before": None if before is None else before.reason}
    audit.record("shadow.lifted", actor=actor, target=hold, at=now, data=data)
    releases.publish_on_commit(reason=f"shadow {policy.slug} goes on: {reason}", actor=actor, now=now)
    return hold


def follow_kills(*, now: datetime) -> int:
    """Put into the release, and tell people of, what shadow processes killed by themselves; returns how many.

    Each once, however many processes concluded the same, and none that was lifted since.
    """
    events = WorkerEvent.objects.since(now - LOOKED_BACK).filter(kind=KILLED).order_by("at", "id")
    newest = {event.data["digest"]: event for event in events}
    if not newest:
        return 0
    return sum(_follow(event, now=now) for digest, event in sorted(newest.items()) if _is_news(digest, event))


def _is_news(digest: str, event: WorkerEvent) -> bool:
    known = ShadowHold.objects.filter(digest=digest).first()
    return known is None or (not known.is_killed and known.at < event.at)


@audit.operation
def _follow(event: WorkerEvent, *, now: datetime) -> bool:
    data = event.data
    if not _is_news(data["digest"], event):  # somebody came first
        return False
    _kill(
        data["policy"],
        data["digest"],
        cause=data["cause"],
        measured=data["measured"],
        reason=f"by itself: {measured_words(data['cause'], data['measured'])}",
        actor=SYSTEM,
        now=now,
    )
    return True


def compile_holds() -> dict[str, Any]:
    """The section 'shadow_holds': every policy that was killed and not lifted; one query."""
    return {
        digest: {"policy": hold.policy, "reason": hold.reason, "by": hold.actor}
        for digest, hold in killed_now().items()
    }


def _said(reason: str) -> str:
    """The reason as it is kept: a NUL is nothing that PostgreSQL can hold."""
    said = reason.replace("\0", "").strip()[:MAX_REASON_CHARACTERS]
    if not said:
        raise NoReason("say why; it is shown wherever the shadow is")
    return said
