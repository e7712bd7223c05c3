"""Submit routing tables, and move which one is in force: through sign-offs forward, by one click back."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from django.db import DataError
from django.db.models import Max

from controlplane.accounts.models import Operator
from controlplane.approvals import operations as approvals
from controlplane.approvals.kinds import Kind, Surveyed
from controlplane.approvals.models import BreakGlass, ChangeRequest
from controlplane.audit import operations as audit
from controlplane.releases import operations as releases
from controlplane.routing.errors import AlteredTable, InvalidRouting, NeverInForce, SameRouting, UnknownPolicy
from controlplane.routing.models import RoutingActivation, RoutingTable
from controlplane.routing.thresholds import NewValue, with_thresholds
from dataplane.release import MalformedRelease, canonical, digest_of
from dataplane.routing import RoutingTable as Routing

KIND_NAME = "routing.table"
TARGET = "routing"
EMPTY: dict[str, Any] = {"providers": {}, "accounts": {}, "lanes": {}, "routes": {}}


def active_table() -> RoutingTable | None:
    """The table in force; None before the first was activated."""
    activation = RoutingActivation.objects.select_related("table").first()
    return activation.table if activation else None


@audit.operation
def submit_table(*, document: Any, rationale: str, actor: Operator | str, now: datetime) -> RoutingTable:
    """Store an immutable routing table; it carries nothing until its change request is applied.

    Raises:
        InvalidRouting: naming the JSON path.
        SameRouting: it is the table in force.
        DigestRejected: this document was rejected before.
    """
    try:
        Routing.parse(document)
    except MalformedRelease as exc:
        raise InvalidRouting(str(exc)) from exc
    digest = digest_of(canonical(document))
    approvals.refuse_rejected(digest)
    active = active_table()
    if active is not None and active.digest == digest:
        raise SameRouting(f"{active} is in force and has exactly this content")
    newest = RoutingTable.objects.aggregate(newest=Max("number"))["newest"] or 0
    try:
        table = RoutingTable.objects.create(
            number=newest + 1,
            document=document,
            digest=digest,
            author=audit.name_of(actor),
            rationale=rationale,
            created_at=now,
        )
    except (DataError, ValueError) as exc:  # a NUL character, which PostgreSQL cannot keep
        raise InvalidRouting(f"cannot be stored: {exc}") from exc
    audit.record(
        "routing.submitted", actor=actor, target=table, at=now, data={"digest": digest, "rationale": rationale}
    )
    return table


@audit.operation
def propose_table(*, table: RoutingTable, reason: str, actor: Operator | str, now: datetime) -> ChangeRequest:
    """Open the change request that would put `table` in force."""
    return approvals.open_change(
        kind=KIND_NAME,
        target=TARGET,
        title=f"Put routing table {table.number} in force",
        content=table.reference,
        content_digest=table.digest,
        reason=reason,
        actor=actor,
        contributors=[table.author],
        now=now,
    )


@audit.operation
def propose_thresholds(
    *, kind: str, slug: str, changes: Mapping[str, NewValue | None], reason: str, actor: Operator | str, now: datetime
) -> ChangeRequest:
    """Submit the table in force with other thresholds of one policy or route, and open its change request.

    Args:
        kind: One of `thresholds.PARTS`.
        changes: By the thresholds' names; None unsets one that `thresholds.is_optional`.
    Raises:
        UnknownPolicy, InvalidThreshold: as `thresholds.with_thresholds`; UnknownPolicy also when no table is in force.
        InvalidRouting, SameRouting, DigestRejected: as `submit_table`.
    """
    active = active_table()
    if active is None:
        raise UnknownPolicy("no routing table is in force; propose one first")
    author, today = audit.name_of(actor), now.astimezone(UTC).date()
    written = {name: new and new.to_json(author=author, on=today) for name, new in changes.items()}
    document = with_thresholds(active.document, kind, slug, written)
    table = submit_table(document=document, rationale=reason, actor=actor, now=now)
    return propose_table(table=table, reason=reason, actor=actor, now=now)


def activate(
    table: RoutingTable,
    *,
    actor: Operator | str,
    reason: str,
    now: datetime,
    change: ChangeRequest | None = None,
    lapses_at: datetime | None = None,
) -> None:
    """Write the log entry that puts `table` in force, and cut the release.

    Only for operations that have just passed a gate, that return to an earlier table, or that set a deployment up.

    Args:
        lapses_at: Set when glass was broken for it.
    Raises:
        AlteredTable: its document is not what was approved under its digest.
    """
    audit.require_operation()
    table.refresh_from_db()
    if not table.is_intact():
        raise AlteredTable(f"the document of {table} does not give its digest {table.digest[:8]}; look at the log")
    before = active_table()
    RoutingActivation.objects.create(
        table=table, change=change, actor=audit.name_of(actor), reason=reason, at=now, lapses_at=lapses_at
    )
    data = {"before": before.reference if before else None, "after": table.reference, "reason": reason}
    audit.record("routing.activated", actor=actor, target=table, at=now, data=data)
    releases.publish_on_commit(reason=f"routing table {table.number}: {reason}", actor=actor, now=now)


@audit.operation
def return_to(*, table: RoutingTable, actor: Operator | str, reason: str, now: datetime) -> None:
    """Put a table in force again that was before: one click, no sign-off, since it was approved then.

    Nothing happens when it is in force.

    Raises:
        NeverInForce: it never was, or only on broken glass.
        DigestRejected: it was rejected since.
    """
    active = active_table()
    if active is not None and active.pk == table.pk:
        return
    if not table.activations.filter(lapses_at__isnull=True).exists():
        raise NeverInForce(f"{table} was never in force with its sign-offs; open a change request for it instead")
    approvals.refuse_rejected(table.digest)
    activate(table, actor=actor, reason=reason, now=now)


def compile_routing() -> dict[str, Any]:
    """The section 'routing'; one query."""
    active = active_table()
    return dict(active.document) if active else EMPTY


def restore_routing(section: Mapping[str, Any], *, actor: Operator | str, reason: str, now: datetime) -> None:
    """Return to the table that an older release carried."""
    if section == EMPTY:
        return
    digest = digest_of(canonical(section))
    active = active_table()
    if active is not None and active.digest == digest:
        return
    known = RoutingTable.objects.filter(digest=digest, activations__isnull=False).distinct()
    table = known.filter(activations__lapses_at__isnull=True).first() or known.first()
    if table is None:
        raise NeverInForce("the release carries a routing table that this control plane does not know")
    return_to(table=table, actor=actor, reason=reason, now=now)


# --- the kind of change ----------------------------------------------------------------------------------------------
def _survey(targets: Iterable[str]) -> dict[str, Surveyed]:
    """There is one target, all of routing. Permissions on it are held everywhere; the newest table stands for it."""
    active = active_table()
    surveyed = Surveyed(active.reference if active else None, RoutingTable.objects.latest("number"))
    return dict.fromkeys(targets, surveyed)


def _apply(change: ChangeRequest, *, authorisation: approvals.Authorisation, actor: Any, now: datetime) -> None:
    table = RoutingTable.objects.get(number=change.content["number"], digest=change.content["digest"])
    approvals.refuse_rejected(table.digest)
    reason = f"CR-{change.pk}"
    activate(table, actor=actor, reason=reason, change=change, now=now, lapses_at=authorisation.lapses_at)


def _lapse(change: ChangeRequest, *, debt: BreakGlass, now: datetime) -> None:
    """Go back to the approved table that was in force before, unless something else was put in force since.

    Whoever wants to keep it opens a second change request for the same table while the bypass lasts; once that is
    signed and applied, the lapse finds nothing of its own to undo.
    """
    latest = RoutingActivation.objects.first()
    if latest is None or latest.change_id != change.pk or latest.lapses_at is None:
        return
    approved = RoutingActivation.objects.filter(lapses_at__isnull=True, pk__lt=latest.pk).select_related("table")
    before = next((one.table for one in approved if not approvals.is_rejected(one.table.digest)), None)
    if before is None:
        raise NeverInForce(f"no approved table was in force before {latest.table}; propose one")
    return_to(table=before, actor="ballast", reason=f"break-glass on CR-{change.pk} lapsed", now=now)


KIND = Kind(
    name=KIND_NAME,
    label="Routing table",
    survey=_survey,
    facts=lambda content: {},
    view_permission="routing.view_routingtable",
    sign_off_permission="routing.sign_off_routing",
    break_glass_permission="routing.break_glass_routing",
    review_permission="routing.review_break_glass_routing",
    apply=_apply,
    lapse=_lapse,
)
