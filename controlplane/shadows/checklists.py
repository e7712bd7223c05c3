"""Open checklists of promotions, sign their items, and end them; and say which a change of routing needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from controlplane.accounts.models import Operator
from controlplane.accounts.operations import SYSTEM
from controlplane.audit import operations as audit
from controlplane.routing.operations import routing_tables
from controlplane.shadows.errors import (
    ChecklistExists,
    ChecklistIsOver,
    MayNotSign,
    NoReason,
    NothingToPromote,
    NotMet,
    SubjectChanged,
)
from controlplane.shadows.evidence import evidence_for
from controlplane.shadows.items import Evidence
from controlplane.shadows.models import (
    SIGNATURES_NEEDED,
    ChecklistEvent,
    ChecklistSignature,
    ChecklistState,
    Item,
    PromotionChecklist,
)
from controlplane.shadows.subjects import Document, is_candidate, lane_digest, twin_digest
from controlplane.shadows.thresholds import read_thresholds
from controlplane.telemetry.shadows import ShadowRun
from dataplane.release import canonical, digest_of
from dataplane.routing import RoutingTable


@dataclass(frozen=True, slots=True)
class InForce:
    """The table in force, as checklists look at it: its document, and the digest of each shadow policy by name."""

    document: Document
    policies: Mapping[str, str]

    @classmethod
    def now(cls) -> "InForce | None":
        """The one that is in force; None: none is. One query."""
        table = routing_tables.active()
        return None if table is None else cls.of(table.document)

    @classmethod
    def of(cls, document: Document) -> "InForce":
        """A table as a document."""
        shadows = RoutingTable.parse(document).shadows
        return cls(document, {slug: policy.digest for slug, policy in shadows.items()})

    def changed(self, checklist: PromotionChecklist) -> str:
        """What is another now than what the checklist is of, in words; empty: nothing."""
        if self.policies.get(checklist.policy) != checklist.policy_digest:
            is_there = checklist.policy in self.policies
            return f"shadow policy {checklist.policy!r} {'decides otherwise now' if is_there else 'is no more'}"
        if is_candidate(self.document, route=checklist.route, lane=checklist.lane) != checklist.policy:
            return f"{checklist.lane!r} is no candidate on route {checklist.route!r} any more"
        if lane_digest(self.document, checklist.lane) != checklist.lane_digest:
            return f"lane {checklist.lane!r} is defined otherwise now"
        return ""

    def serves(self, checklist: PromotionChecklist) -> bool:
        """Whether the lane, or its twin on another account, serves the route."""
        lanes = self.document["routes"].get(checklist.route, {}).get("lanes", ())
        return any(twin_digest(self.document, lane) == checklist.twin_digest for lane in lanes)


@audit.operation
def open_checklist(
    *,
    route: str,
    lane: str,
    reason: str,
    actor: Operator | str,
    now: datetime,
    thresholds: Mapping[str, Any] | None = None,
) -> PromotionChecklist:
    """Open what has to be signed before a candidate may serve the route; who does signs none of it.

    Args:
        thresholds: What differs from `thresholds.defaults`.
    Raises:
        NothingToPromote: the lane is no candidate of a shadow on the route in force, or was never asked there.
        ChecklistExists: there is one that stands.
        InvalidThresholds: by name.
        NoReason: why, is not said.
    """
    held = read_thresholds(thresholds or {})
    why = reason.replace("\0", "").strip()
    if not why:
        raise NoReason("say why it should be promoted; it is the first thing that signers read")
    current = InForce.now()
    policy = "" if current is None else is_candidate(current.document, route=route, lane=lane)
    if current is None or not policy:
        raise NothingToPromote(f"{lane!r} is no candidate of a shadow on route {route!r}; the shadow page lists them")
    subject = {
        "route": route,
        "lane": lane,
        "policy": policy,
        "policy_digest": current.policies[policy],
        "lane_digest": lane_digest(current.document, lane),
        "twin_digest": twin_digest(current.document, lane),
        "thresholds": held,
    }
    if not ShadowRun.objects.filter(route=route, lane=lane, digest=subject["policy_digest"]).exists():
        raise NothingToPromote(f"{lane!r} was never asked anything on route {route!r} under this policy")
    standing = PromotionChecklist.objects.standing().filter(route=route, lane=lane).first()
    if standing is not None:
        if not current.changed(standing):
            raise ChecklistExists(f"{standing} is {standing.state} already", standing.pk)
        _void(standing, current.changed(standing), now=now)
    checklist = PromotionChecklist.objects.create(
        **subject,
        subject_digest=digest_of(canonical(subject)),
        reason=why[:2000],
        opened_by=audit.name_of(actor),
        opened_at=now,
    )
    audit.record("checklist.opened", actor=actor, target=checklist, at=now, data={**checklist.facts(), "reason": why})
    return checklist


def sign_item(*, checklist: PromotionChecklist, item: Item, operator: Operator, now: datetime) -> PromotionChecklist:
    """Put one person's name under what the system measures of an item at this moment; two names settle it, and the last
    item completes the checklist. Returns the checklist as it stands then.

    Measured before the operation, whose lock is everybody's; what the evidence is of is looked at again within it.

    Raises:
        ChecklistIsOver: it is not open.
        SubjectChanged: its policy or lane is another now.
        MayNotSign: they opened it, have signed the item, or two others have.
        NotMet: the evidence does not show what the item asks; the message has the figures.
    """
    current = _require_current(checklist)
    evidence = evidence_for(checklist, current.document, now=now)[item]
    return _sign(checklist, evidence, operator=operator, now=now)


@audit.operation
def _sign(
    checklist: PromotionChecklist, evidence: Evidence, *, operator: Operator, now: datetime
) -> PromotionChecklist:
    row = PromotionChecklist.objects.select_for_update().get(pk=checklist.pk)
    _require_current(row)
    signer, signed = audit.name_of(operator), row.signed()
    names = [one.signer for one in signed[evidence.item]]
    if signer == row.opened_by:
        raise MayNotSign(f"{signer} opened checklist {row.pk}, so two others sign it")
    if signer in names:
        raise MayNotSign(f"{signer} has signed {evidence.item.label.lower()!r} already")
    if len(names) >= SIGNATURES_NEEDED:
        raise MayNotSign(f"{' and '.join(names)} have signed {evidence.item.label.lower()!r} already")
    if not evidence.may_be_signed:
        raise NotMet(f"{evidence.item.label}: {evidence.sentence}")
    signature = ChecklistSignature.objects.create(
        checklist=row,
        item=evidence.item,
        signer=signer,
        at=now,
        standing=evidence.standing,
        sentence=evidence.sentence,
        figures=evidence.figures,
        link=evidence.link,
        subject_digest=row.subject_digest,
        digest=evidence.digest(row.subject_digest),
    )
    data = {
        "item": evidence.item.value,
        "label": evidence.item.label,
        "standing": evidence.standing.value,
        "sentence": evidence.sentence,
        "figures": evidence.figures,
        "digest": signature.digest,
    }
    audit.record("checklist.signed", actor=operator, target=row, at=now, data=data)
    signed[evidence.item].append(signature)
    if all(len(one) >= SIGNATURES_NEEDED for one in signed.values()):
        row.move(ChecklistEvent.COMPLETED, now=now)
        audit.record("checklist.completed", actor=operator, target=row, at=now, data=row.facts())
    return row


def _require_current(checklist: PromotionChecklist) -> InForce:
    if checklist.state != ChecklistState.OPEN:
        raise ChecklistIsOver(f"checklist {checklist.pk} is {checklist.state}; nothing is signed on it any more")
    current = InForce.now()
    changed = "no routing table is in force" if current is None else current.changed(checklist)
    if current is None or changed:
        raise SubjectChanged(f"{changed}, so what was measured is of something else; open another checklist")
    return current


@audit.operation
def withdraw_checklist(*, checklist: PromotionChecklist, reason: str, actor: Operator | str, now: datetime) -> None:
    """Give a promotion up.

    Raises:
        ChecklistIsOver: it has ended already.
        NoReason: why, is not said.
    """
    row = PromotionChecklist.objects.select_for_update().get(pk=checklist.pk)
    if not row.is_standing:
        raise ChecklistIsOver(f"checklist {row.pk} is {row.state} already")
    why = reason.replace("\0", "").strip()
    if not why:
        raise NoReason("say why; it is kept in the audit record")
    row.move(ChecklistEvent.WITHDRAWN, now=now, by=audit.name_of(actor), why=why)
    audit.record("checklist.withdrawn", actor=actor, target=row, at=now, data={"reason": why})


def settle(*, now: datetime) -> int:
    """End checklists whose lane serves its route by now, and those that are of something else; returns how many."""
    standing = list(PromotionChecklist.objects.standing())
    if not standing:
        return 0
    current = InForce.now()
    if current is None:
        return 0
    return sum(
        _settle(checklist, now=now) for checklist in standing if current.changed(checklist) or current.serves(checklist)
    )


@audit.operation
def _settle(checklist: PromotionChecklist, *, now: datetime) -> bool:
    row = PromotionChecklist.objects.select_for_update().get(pk=checklist.pk)
    current = InForce.now()
    if current is None or not row.is_standing:
        return False
    if row.state == ChecklistState.COMPLETE and current.serves(row):
        row.move(ChecklistEvent.PROMOTED, now=now, by=SYSTEM, why=f"its lane serves route {row.route}")
        audit.record("checklist.promoted", actor=SYSTEM, target=row, at=now, data=row.facts())
        return True
    if changed := current.changed(row):
        _void(row, changed, now=now)
        return True
    return False


def _void(checklist: PromotionChecklist, changed: str, *, now: datetime) -> None:
    audit.require_operation()
    checklist.move(ChecklistEvent.CHANGED, now=now, by=SYSTEM, why=changed)
    audit.record("checklist.void", actor=SYSTEM, target=checklist, at=now, data={"reason": changed})
