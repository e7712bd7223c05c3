"""Open, amend, sign, apply, bypass and close changes. Every path to production runs through `require` or `apply`."""

import logging
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from controlplane.accounts.models import Operator
from controlplane.accounts.roles import Role
from controlplane.approvals import preparations
from controlplane.approvals.errors import (
    AlreadyOpen,
    BreakGlassRefused,
    ChangeClosed,
    Drifted,
    NotAllowedToSign,
    NotApproved,
    PolicyMissing,
)

# Callers read and write through this one module.
from controlplane.approvals.examination import Examination as Examination
from controlplane.approvals.examination import active_policy as active_policy
from controlplane.approvals.examination import current as current
from controlplane.approvals.examination import current_of
from controlplane.approvals.examination import examine as examine
from controlplane.approvals.examination import examine_one as examine_one
from controlplane.approvals.examination import is_rejected as is_rejected
from controlplane.approvals.examination import is_signed as is_signed
from controlplane.approvals.examination import refuse_rejected as refuse_rejected
from controlplane.approvals.examination import standing as standing
from controlplane.approvals.kinds import APPLY_GATE, check_rules, kind_of
from controlplane.approvals.models import (
    CHANGE_TRANSITIONS,
    ApprovalPolicy,
    BreakGlass,
    ChangeRequest,
    ChangeState,
    Decision,
    PolicyActivation,
    RejectedDigest,
    SignOff,
)
from controlplane.approvals.policy import Authorisation as Authorisation
from controlplane.audit import operations as audit
from dataplane.release import canonical, digest_of

logger = logging.getLogger(__name__)
MAX_BYPASS = timedelta(hours=4)
REVIEW_WITHIN = timedelta(hours=24)


# --- opening and changing --------------------------------------------------------------------------------------------
@audit.operation
def open_change(
    *,
    kind: str,
    target: str,
    title: str,
    content: Any,
    content_digest: str,
    reason: str,
    actor: Operator | str,
    now: datetime,
    contributors: Iterable[str] = (),
) -> ChangeRequest:
    """Open a change request for exactly `content`.

    Args:
        content: JSON; what would be applied.
        content_digest: What a rejection remembers: the digest of the part that users would meet.
        contributors: Others who wrote part of it; like the author they can never sign it off.
    Raises:
        DigestRejected: the same content was rejected before.
        AlreadyOpen: people are asked for the same already, and their words would be split between two requests.
        PolicyMissing: no rule speaks of it.
    """
    refuse_rejected(content_digest)
    _refuse_twin(kind=kind, target=target, content_digest=content_digest)
    seen = current_of(kind_of(kind), target=target, content=content)
    author = audit.name_of(actor)
    change = ChangeRequest.objects.create(
        kind=kind,
        target=target,
        title=title,
        reason=reason,
        content=content,
        content_digest=content_digest,
        base=seen.base,
        rule=dict(seen.rule.source),
        digest=seen.digest,
        author=author,
        contributors=sorted({author, *contributors}),
        opened_at=now,
    )
    audit.record("change.opened", actor=actor, target=change, at=now, data=_facts(change))
    preparations.begin(change, actor=actor, now=now)
    return change


@audit.operation
def amend_change(
    *, change: ChangeRequest, content: Any, content_digest: str, actor: Operator | str, now: datetime
) -> ChangeRequest:
    """Put other content into an open change; its editor becomes a contributor and every sign-off is void by its digest.

    Raises:
        ChangeClosed, DigestRejected, AlreadyOpen, PolicyMissing: and nothing was changed.
    """
    change = _open(change)
    refuse_rejected(content_digest)
    _refuse_twin(kind=change.kind, target=change.target, content_digest=content_digest, apart_from=change)
    before = change.digest
    change.content, change.content_digest = content, content_digest
    change.contributors = sorted({*change.contributors, audit.name_of(actor)})
    _retake_digest(change)
    audit.record("change.amended", actor=actor, target=change, at=now, data={"before": before, **_facts(change)})
    preparations.begin(change, actor=actor, now=now)
    return change


@audit.operation
def rebase_change(*, change: ChangeRequest, actor: Operator | str, now: datetime) -> ChangeRequest:
    """Take the digest anew after the target or the policy moved, so that people can sign what would be applied now.

    Unlike an amendment it writes no content, so whoever does it does not become a contributor.
    """
    change = _open(change)
    before = change.digest
    _retake_digest(change)
    if change.digest != before:
        audit.record("change.rebased", actor=actor, target=change, at=now, data={"before": before, **_facts(change)})
        preparations.begin(change, actor=actor, now=now)
    return change


def _retake_digest(change: ChangeRequest) -> None:
    seen = current(change)
    change.base, change.rule, change.digest = seen.base, dict(seen.rule.source), seen.digest
    change.save(update_fields=["content", "content_digest", "contributors", "base", "rule", "digest"])


# --- people's words --------------------------------------------------------------------------------------------------
@audit.operation
def sign_off(
    *,
    change: ChangeRequest,
    operator: Operator,
    role: Role,
    decision: Decision,
    digest: str,
    comment: str = "",
    has_seen: bool = False,
    now: datetime,
) -> SignOff:
    """Record one operator's word on the digest that they were shown.

    Args:
        has_seen: That they have seen what could not be found out about the change: see `preparations.to_see`.
    Raises:
        ChangeClosed: too late.
        Drifted: what they were shown is not what would be applied now; show it again.
        NotAllowedToSign: they wrote part of it, or do not hold `role` on the target.
        DigestRejected: the content was rejected before.
        NotPrepared, NotSeen: an approval before what has to be looked into was.
        ValueError: no such decision or role.
    """
    change = _open(change)
    operator, role, decision = _fresh(operator), Role(role), Decision(decision)
    refuse_rejected(change.content_digest)
    if decision == Decision.APPROVE and operator.username in change.contributor_names:
        raise NotAllowedToSign(f"{operator.username!r} wrote part of CR-{change.pk} and cannot sign it off")
    if not operator.is_active or not operator.holds(role, change.target_object()):
        raise NotAllowedToSign(f"{operator.username!r} does not hold the role {role.value!r} on {change.target!r}")
    seen = current(change)
    if decision != Decision.WITHDRAW and not (digest == change.digest == seen.digest):
        raise Drifted(
            f"CR-{change.pk} changed since you read it (you saw {digest[:8]}, now {seen.digest[:8]}); read it again"
        )
    found = preparations.require(change, has_seen=has_seen) if decision == Decision.APPROVE else {}
    row = SignOff.objects.create(
        change=change,
        operator=operator,
        operator_name=operator.username,
        role=role,
        decision=decision,
        digest=digest,
        comment=comment,
        signed_at=now,
        expires_at=now + timedelta(hours=seen.rule.valid_hours),
    )
    audit.record(
        f"change.{decision}",
        actor=operator,
        target=change,
        at=now,
        data={"role": role, "digest": digest, "comment": comment, "expires_at": row.expires_at.isoformat(), **found},
    )
    return row


@audit.operation
def reject_change(*, change: ChangeRequest, actor: Operator | str, reason: str, now: datetime) -> None:
    """Close the change and remember its content: it cannot come back, in any later change.

    What of it is in effect ends, and so does every other open change of the same content: none could ever pass a gate
    again. Also the last step of a roll-back, so that a version that hurt users is not tried again by mistake.

    Raises:
        ChangeClosed: and nothing was changed.
    """
    change = _open(change)
    if not is_rejected(change.content_digest):
        RejectedDigest.objects.create(
            content_digest=change.content_digest,
            target=change.target,
            reason=reason,
            actor=audit.name_of(actor),
            at=now,
        )
    _abandon(change, ChangeState.REJECTED, actor=actor, reason=reason, now=now)
    for other in ChangeRequest.objects.open().filter(content_digest=change.content_digest):
        _abandon(other, ChangeState.REJECTED, actor=actor, reason=f"with CR-{change.pk}: {reason}", now=now)


@audit.operation
def withdraw_change(*, change: ChangeRequest, actor: Operator | str, reason: str, now: datetime) -> None:
    """Close the change without a verdict on its content, ending what of it is in effect; it may be opened again.

    Raises:
        ChangeClosed: and nothing was changed.
    """
    _abandon(_open(change), ChangeState.WITHDRAWN, actor=actor, reason=reason, now=now)


def _abandon(change: ChangeRequest, state: ChangeState, *, actor: Operator | str, reason: str, now: datetime) -> None:
    _close(change, state, actor=actor, note=reason, now=now)
    abandon = change.registered.abandon
    if abandon is not None:
        abandon(change, actor=actor, reason=reason, now=now)


# --- going through the gate ------------------------------------------------------------------------------------------
def require(change: ChangeRequest, *, gates: Sequence[str], now: datetime) -> list[Authorisation]:
    """Return why `change` may pass each of `gates` now, having recomputed its digest from what is in the database.

    Call it inside the operation that carries the change out. As many queries for all gates as for one.

    Raises:
        ChangeClosed: it was applied, rejected or withdrawn meanwhile; sign-offs on it open nothing any more.
        NotApproved: naming how many sign-offs are missing from which role at the first gate that is closed.
        PolicyMissing: the policy fell silent on it.
        DigestRejected: the content was rejected.
    """
    audit.require_operation()
    change = _open(change)
    refuse_rejected(change.content_digest)
    examined = examine_one(change, now=now)
    digest = examined.current.digest
    standings = {gate: examined.standing(gate) for gate in gates}
    closed = {gate: seen for gate, seen in standings.items() if not seen.is_open}
    lapses_at = None
    if closed:
        gate, seen = next(iter(closed.items()))
        said = f"CR-{change.pk} cannot pass {str(gate)!r}"
        if seen.silent:
            raise PolicyMissing(f"{said}. {seen.sentence}")
        bypass = change.bypasses.in_effect(now).filter(digest=digest).first()
        if bypass is None:
            raise NotApproved(
                f"{said} yet. {seen.sentence}", {role.value: count for role, count in seen.missing.items()}
            )
        lapses_at = bypass.lapses_at
    return [Authorisation(digest, seen, lapses_at if gate in closed else None) for gate, seen in standings.items()]


@audit.operation
def apply_change(*, change: ChangeRequest, actor: Operator | str, now: datetime) -> ChangeRequest:
    """Carry out a change whose kind is applied in one step.

    Raises:
        ChangeClosed, NotApproved, DigestRejected: and nothing was changed.
    """
    change = _open(change)
    kind = change.registered
    if kind.apply is None:
        raise ChangeClosed(f"CR-{change.pk} is carried out step by step on its own page, not from here")
    [authorisation] = require(change, gates=[APPLY_GATE], now=now)
    mark_applied(change, actor=actor, now=now, note=authorisation.standing.sentence)
    kind.apply(change, authorisation=authorisation, actor=actor, now=now)
    return change


def mark_applied(change: ChangeRequest, *, actor: Operator | str, now: datetime, note: str) -> None:
    """Close a change as carried out; the caller has just passed its last gate in the same transaction."""
    _close(_open(change), ChangeState.APPLIED, actor=actor, note=note, now=now)


# --- when it cannot wait ---------------------------------------------------------------------------------------------
@audit.operation
def break_glass(
    *,
    change: ChangeRequest,
    actor: Operator,
    reason: str,
    incident: str,
    lasts: timedelta,
    now: datetime,
    digest: str | None = None,
) -> BreakGlass:
    """Let `change` pass its gates for a while without its sign-offs, and owe a review by somebody else.

    Args:
        lasts: Up to 4 h; afterwards the effect is undone unless the sign-offs came meanwhile.
        digest: Of what the actor was shown; None where nothing was shown, as on a command line.
    Raises:
        BreakGlassRefused: no reason, no incident, too long, an effect that cannot lapse, or a debt is unpaid.
        Drifted: what they were shown is not what would be applied now.
        ChangeClosed, DigestRejected: and nothing was changed.
    """
    change = _open(change)
    refuse_rejected(change.content_digest)
    seen = current(change)
    if digest is not None and digest != seen.digest:
        raise Drifted(
            f"CR-{change.pk} changed since you read it (you saw {digest[:8]}, now {seen.digest[:8]}); read it again"
        )
    reason, incident = reason.strip(), incident.strip()
    if not reason or not incident:
        raise BreakGlassRefused("a bypass needs a reason and the id of the incident it serves")
    if change.registered.lapse is None:
        raise BreakGlassRefused(f"a change of kind {change.kind!r} cannot lapse by itself, so it cannot be broken into")
    if seen.base is None:
        raise BreakGlassRefused(f"nothing is in force on {change.target!r} yet that a bypass could lapse back to")
    if not timedelta(minutes=1) <= lasts <= MAX_BYPASS:
        raise BreakGlassRefused(f"a bypass lasts 1 to {int(MAX_BYPASS.total_seconds() // 60)} minutes, not {lasts}")
    debt = BreakGlass.objects.unpaid().first()
    if debt is not None:
        raise BreakGlassRefused(
            f"the bypass of CR-{debt.change_id} by {debt.actor!r} is not reviewed yet; somebody other than "
            f"{debt.actor!r} must review it before glass is broken again"
        )
    bypass = BreakGlass.objects.create(
        change=change,
        actor=actor.username,
        reason=reason,
        incident=incident,
        digest=seen.digest,
        used_at=now,
        lapses_at=now + lasts,
        review_due_at=now + REVIEW_WITHIN,
    )
    # Who cannot wait for sign-offs cannot wait for what they rest on either; that it was not there is on record.
    unmet = preparations.unmet(change)
    facts = bypass.facts() | ({"unmet": unmet} if unmet else {})
    audit.record("break_glass.used", actor=actor, target=change, at=now, data=facts)
    return bypass


@audit.operation
def review_break_glass(*, debt: BreakGlass, reviewer: Operator, note: str, now: datetime) -> None:
    """Pay a debt: somebody other than who broke the glass has looked at it and says what they think.

    Raises:
        BreakGlassRefused: their own, for what they wrote themselves, reviewed before, or without a note.
    """
    if reviewer.username == debt.actor:
        raise BreakGlassRefused("nobody reviews their own bypass; ask another approver")
    if reviewer.username in debt.change.contributor_names:
        raise BreakGlassRefused(f"{reviewer.username!r} wrote part of CR-{debt.change_id}; ask another approver")
    if not note.strip():
        raise BreakGlassRefused("a review says what was found")
    paid = (
        BreakGlass.objects.unpaid()
        .filter(pk=debt.pk)
        .update(reviewed_by=reviewer.username, reviewed_at=now, review_note=note.strip())
    )
    if not paid:
        raise BreakGlassRefused("this bypass was reviewed before")
    audit.record("break_glass.reviewed", actor=reviewer, target=debt, at=now, data={"note": note.strip()})


def lapse_due(*, now: datetime) -> int:
    """End every bypass whose time is over, undoing its effect where nobody signed meanwhile; return how many.

    Each in an operation of its own: one that cannot be undone must not keep the others in effect.
    """
    ended = 0
    for debt in BreakGlass.objects.filter(ended_at__isnull=True, lapses_at__lte=now).select_related("change"):
        try:
            end_bypass(debt=debt, now=now)
        except Exception:
            logger.exception("the bypass of CR-%s cannot be undone; it is tried again", debt.change_id)
        else:
            ended += 1
    return ended


@audit.operation
def end_bypass(*, debt: BreakGlass, now: datetime) -> None:
    """End one bypass now; its kind undoes what only the bypass had let through."""
    ended = BreakGlass.objects.filter(pk=debt.pk, ended_at__isnull=True).update(ended_at=now, end_note="lapsed")
    if not ended:
        return
    audit.record("break_glass.lapsed", actor="ballast", target=debt, at=now)
    lapse = debt.change.registered.lapse
    if lapse is not None:
        lapse(debt.change, debt=debt, now=now)


# --- the policy itself -----------------------------------------------------------------------------------------------
@audit.operation
def submit_policy(*, rules: Any, rationale: str, actor: Operator | str, now: datetime) -> ApprovalPolicy:
    """Store a policy version; it is in force once a change request activates it.

    Raises:
        MalformedPolicy: naming the place.
    """
    check_rules(rules)
    newest = ApprovalPolicy.objects.order_by("-number").first()
    policy = ApprovalPolicy.objects.create(
        number=newest.number + 1 if newest else 1,
        rules=rules,
        digest=digest_of(canonical(rules)),
        author=audit.name_of(actor),
        rationale=rationale,
        created_at=now,
    )
    audit.record("policy.submitted", actor=actor, target=policy, at=now, data={"digest": policy.digest})
    return policy


def activate_policy(policy: ApprovalPolicy, *, actor: Operator | str, reason: str, now: datetime) -> None:
    """Put a policy in force. Reached through its change request, and once when a deployment is set up."""
    audit.require_operation()
    check_rules(policy.rules)
    PolicyActivation.objects.create(policy=policy, at=now, actor=audit.name_of(actor), reason=reason)
    audit.record("policy.activated", actor=actor, target=policy, at=now, data={"digest": policy.digest})


@audit.operation
def bootstrap_policy(*, rules: Any, actor: str, now: datetime) -> ApprovalPolicy:
    """Put the first policy in force; refused once there is one, since from then on policy changes by its own rules."""
    if PolicyActivation.objects.exists():
        raise PolicyMissing("a policy is in force; change it through a change request of kind 'approval.policy'")
    policy = submit_policy(rules=rules, rationale="first policy of this deployment", actor=actor, now=now)
    activate_policy(policy, actor=actor, reason="bootstrap", now=now)
    return policy


# --- shared steps ----------------------------------------------------------------------------------------------------
def _refuse_twin(*, kind: str, target: str, content_digest: str, apart_from: ChangeRequest | None = None) -> None:
    twin = ChangeRequest.objects.open().filter(kind=kind, target=target, content_digest=content_digest).first()
    if twin is not None and twin != apart_from:
        raise AlreadyOpen(
            f"CR-{twin.pk}, opened by {twin.author!r}, asks for the same; have that one signed, or withdraw it first",
            twin.pk,
        )


def _open(change: ChangeRequest) -> ChangeRequest:
    """The change as it is in the database now, if it is still open."""
    fresh = ChangeRequest.objects.select_for_update().get(pk=change.pk)
    if not fresh.is_open:
        raise ChangeClosed(
            f"CR-{fresh.pk} is {fresh.get_state_display().lower()} since {fresh.closed_at:%Y-%m-%d %H:%M} UTC"
        )
    return fresh


def _fresh(operator: Operator) -> Operator:
    """The operator as they are now: a role may have gone while a page's copy of them waited for the chain."""
    return Operator.objects.prefetch_related("grants").get(pk=operator.pk)


def _close(change: ChangeRequest, state: ChangeState, *, actor: Operator | str, note: str, now: datetime) -> None:
    """Take the one legal step. Only this function assigns `state`."""
    if (ChangeState(change.state), state) not in CHANGE_TRANSITIONS:
        raise ChangeClosed(f"CR-{change.pk} is {change.state} and cannot become {state}")
    change.state, change.closed_at, change.closed_by, change.closing_note = state, now, audit.name_of(actor), note
    change.save(update_fields=["state", "closed_at", "closed_by", "closing_note"])
    audit.record(f"change.{state}", actor=actor, target=change, at=now, data={"note": note, **_facts(change)})


def _facts(change: ChangeRequest) -> dict[str, Any]:
    return {
        "kind": change.kind,
        "target": change.target,
        "digest": change.digest,
        "content_digest": change.content_digest,
    }
