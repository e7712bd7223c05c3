"""Submit ladder policies, and move which one is in force: through sign-offs forward, by one click back."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from django.db import DataError
from django.db.models import Max

from controlplane.accounts.models import Operator
from controlplane.approvals import operations as approvals
from controlplane.approvals.kinds import Kind, Surveyed
from controlplane.approvals.models import BreakGlass, ChangeRequest
from controlplane.audit import operations as audit
from controlplane.ladder.checks import library
from controlplane.ladder.errors import (
    AlteredLadder,
    InvalidLadder,
    NeverInForce,
    RungIsEngaged,
    SameLadder,
    UnknownSurface,
)
from controlplane.ladder.models import LadderPolicy, LadderPolicyActivation, RungActivation, RungMode
from controlplane.ladder.standing import end_activation, iso, live_activations
from controlplane.ladder.thresholds import with_thresholds
from controlplane.releases import operations as releases
from controlplane.routing.thresholds import NewValue
from dataplane.ladder.policy import Ladder
from dataplane.release import MalformedRelease, canonical, digest_of

KIND_NAME: Final = "ladder.policy"
TARGET: Final = "ladder"
EMPTY: Final[Mapping[str, Any]] = {}
MAX_SURFACE_CHARACTERS: Final = 100


def active_policy() -> LadderPolicy | None:
    """The policy in force; None before the first was activated."""
    activation = LadderPolicyActivation.objects.select_related("policy").first()
    return activation.policy if activation else None


def check_document(document: Any) -> tuple[str, Ladder]:
    """Return the digest of a document that could be a ladder policy, and the ladder that it is.

    Raises:
        InvalidLadder: naming the JSON path.
    """
    try:
        # Before the parser, which takes JSON for granted: a form's YAML may hold dates and keys that are numbers.
        digest = digest_of(canonical(document))
        ladder = Ladder.parse(document, path="$")
    except MalformedRelease as exc:
        raise InvalidLadder(str(exc)) from exc
    except ValueError as exc:
        raise InvalidLadder(f"$: cannot be written as canonical JSON: {exc}") from exc
    except RecursionError as exc:
        raise InvalidLadder("$: nested too deep") from exc
    for slug in ladder:
        if len(slug) > MAX_SURFACE_CHARACTERS:
            raise InvalidLadder(f"$: a surface's name has at most {MAX_SURFACE_CHARACTERS} characters, not {len(slug)}")
    return digest, ladder


@audit.operation
def submit_policy(*, document: Any, rationale: str, actor: Operator | str, now: datetime) -> LadderPolicy:
    """Store an immutable ladder policy; it moves nothing until its change request is applied.

    Words that nobody signed yet are no mistake: their rung cannot be engaged, that is all. See `checks`.

    Raises:
        InvalidLadder: naming the JSON path.
        SameLadder: it is the policy in force.
        DigestRejected: this document was rejected before.
    """
    digest, _ = check_document(document)
    approvals.refuse_rejected(digest)
    active = active_policy()
    if active is not None and active.digest == digest:
        raise SameLadder(f"{active} is in force and has exactly this content")
    newest = LadderPolicy.objects.aggregate(newest=Max("number"))["newest"] or 0
    try:
        policy = LadderPolicy.objects.create(
            number=newest + 1,
            document=document,
            digest=digest,
            author=audit.name_of(actor),
            rationale=rationale,
            created_at=now,
        )
        policy.refresh_from_db()
    except (DataError, ValueError) as exc:  # a NUL character, which PostgreSQL cannot keep
        raise InvalidLadder(f"$: cannot be stored: {exc}") from exc
    if not policy.is_intact():  # a number such as 1e22 comes back from the database as another
        raise InvalidLadder("$: holds a number that cannot be kept exactly")
    audit.record(
        "ladder.submitted", actor=actor, target=policy, at=now, data={"digest": digest, "rationale": rationale}
    )
    return policy


@audit.operation
def propose_policy(*, policy: LadderPolicy, reason: str, actor: Operator | str, now: datetime) -> ChangeRequest:
    """Open the change request that would put `policy` in force.

    Raises:
        DigestRejected, AlreadyOpen, PolicyMissing: from the approvals.
    """
    return approvals.open_change(
        kind=KIND_NAME,
        target=TARGET,
        title=f"Put ladder policy {policy.number} in force",
        content={
            **policy.reference,
            "regulated": any(surface.regulated for surface in policy.parsed().values()),
        },
        content_digest=policy.digest,
        reason=reason,
        actor=actor,
        contributors=[policy.author],
        now=now,
    )


@audit.operation
def propose_thresholds(
    *, slug: str, changes: Mapping[str, NewValue], reason: str, actor: Operator | str, now: datetime
) -> ChangeRequest:
    """Submit the policy in force with other thresholds of one surface, and open its change request.

    Args:
        slug: Of the surface.
        changes: By the thresholds' names, such as 'triggers.queue.enter'.
    Raises:
        UnknownSurface, InvalidThreshold: as `thresholds.with_thresholds`; UnknownSurface also when no policy is in
            force.
        InvalidLadder, SameLadder, DigestRejected: as `submit_policy`.
    """
    active = active_policy()
    if active is None:
        raise UnknownSurface("no ladder policy is in force; propose one first")
    author, today = audit.name_of(actor), now.astimezone(UTC).date()
    written = {name: new and new.to_json(author=author, on=today) for name, new in changes.items()}
    document = with_thresholds(active.document, slug, written)
    policy = submit_policy(document=document, rationale=reason, actor=actor, now=now)
    return propose_policy(policy=policy, reason=reason, actor=actor, now=now)


def activate(
    policy: LadderPolicy,
    *,
    actor: Operator | str,
    reason: str,
    now: datetime,
    change: ChangeRequest | None = None,
    lapses_at: datetime | None = None,
) -> None:
    """Write the log entry that puts `policy` in force, and cut the release.

    Only for operations that have just passed a gate, that return to an earlier policy, or that set a deployment up.

    Args:
        lapses_at: Set when glass was broken for it.
    Raises:
        AlteredLadder: its document is not what was approved under its digest.
        RungIsEngaged: under it what somebody engaged could not be.
    """
    audit.require_operation()
    policy.refresh_from_db()
    if not policy.is_intact():
        raise AlteredLadder(f"the document of {policy} does not give its digest {policy.digest[:8]}; look at the log")
    for one, why in _left_over(policy, now=now):
        raise RungIsEngaged(
            f"{one.said} is engaged until {iso(one.until)} ({one.name}), and under {policy} {why}; stand it down first"
        )
    before = active_policy()
    LadderPolicyActivation.objects.create(
        policy=policy, change=change, actor=audit.name_of(actor), reason=reason, at=now, lapses_at=lapses_at
    )
    data = {"before": before.reference if before else None, "after": policy.reference, "reason": reason}
    audit.record("ladder.activated", actor=actor, target=policy, at=now, data=data)
    releases.publish_on_commit(reason=f"ladder policy {policy.number}: {reason}", actor=actor, now=now)


@audit.operation
def return_to(*, policy: LadderPolicy, actor: Operator | str, reason: str, now: datetime) -> None:
    """Put a policy in force again that was before: one click, no sign-off, since it was approved then.

    Nothing happens when it is in force.

    Raises:
        NeverInForce: it never was, or only on broken glass.
        DigestRejected: it was rejected since.
        RungIsEngaged: as `activate`.
    """
    active = active_policy()
    if active is not None and active.pk == policy.pk:
        return
    if not policy.activations.filter(lapses_at__isnull=True).exists():
        raise NeverInForce(f"{policy} was never in force with its sign-offs; open a change request for it instead")
    approvals.refuse_rejected(policy.digest)
    activate(policy, actor=actor, reason=reason, now=now)


def compile_ladder() -> dict[str, Any]:
    """The section 'ladder'; one query."""
    active = active_policy()
    return dict(active.document) if active else dict(EMPTY)


def restore_ladder(section: Mapping[str, Any], *, actor: Operator | str, reason: str, now: datetime) -> None:
    """Return to the policy that an older release carried."""
    if section == EMPTY:
        return
    digest = digest_of(canonical(section))
    active = active_policy()
    if active is not None and active.digest == digest:
        return
    known = LadderPolicy.objects.filter(digest=digest, activations__isnull=False).distinct()
    policy = known.filter(activations__lapses_at__isnull=True).first() or known.first()
    if policy is None:
        raise NeverInForce("the release carries a ladder policy that this control plane does not know")
    return_to(policy=policy, actor=actor, reason=reason, now=now)


def _left_over(policy: LadderPolicy, *, now: datetime) -> list[tuple[RungActivation, str]]:
    """What is engaged now and could not be under `policy`, each with why; a surface that it drops has no ladder."""
    ladder, known = policy.parsed(), library()
    found = []
    for one in live_activations(now):
        surface = ladder.get(one.surface)
        if surface is None or one.mode != RungMode.ENGAGE:
            continue
        rung = surface.rungs.get(one.rung)
        if rung is None:
            found.append((one, f"the surface has no rung {one.rung}"))
        elif missing := known.missing(surface, rung):
            found.append((one, "; ".join(missing)))
    return found


# --- the kind of change ----------------------------------------------------------------------------------------------
def _survey(targets: Iterable[str]) -> dict[str, Surveyed]:
    """There is one target, the ladder of every surface. Permissions on it are held everywhere; the newest policy stands
    for it.
    """
    active = active_policy()
    surveyed = Surveyed(active.reference if active else None, LadderPolicy.objects.latest("number"))
    return dict.fromkeys(targets, surveyed)


def _apply(change: ChangeRequest, *, authorisation: approvals.Authorisation, actor: Any, now: datetime) -> None:
    policy = LadderPolicy.objects.get(number=change.content["number"], digest=change.content["digest"])
    approvals.refuse_rejected(policy.digest)
    reason = f"CR-{change.pk}"
    activate(policy, actor=actor, reason=reason, change=change, now=now, lapses_at=authorisation.lapses_at)


def _lapse(change: ChangeRequest, *, debt: BreakGlass, now: datetime) -> None:
    """Go back to the approved policy that was in force before, unless something else was put in force since.

    As with routing, whoever wants to keep it has a second change request for it signed while the bypass lasts. What was
    engaged meanwhile and the older policy cannot carry is stood down, so that an effect that nobody approved ends.
    """
    latest = LadderPolicyActivation.objects.first()
    if latest is None or latest.change_id != change.pk or latest.lapses_at is None:
        return
    approved = LadderPolicyActivation.objects.filter(lapses_at__isnull=True, pk__lt=latest.pk).select_related("policy")
    before = next((one.policy for one in approved if not approvals.is_rejected(one.policy.digest)), None)
    if before is None:
        raise NeverInForce(f"no approved policy was in force before {latest.policy}; propose one")
    reason = f"break-glass on CR-{change.pk} lapsed"
    for one, why in _left_over(before, now=now):
        end_activation(one, reason=f"{reason}, and under {before} {why}", actor="ballast", now=now)
    return_to(policy=before, actor="ballast", reason=reason, now=now)


KIND = Kind(
    name=KIND_NAME,
    label="Ladder policy",
    survey=_survey,
    facts=lambda content: {"regulated": content["regulated"]},
    view_permission="ladder.view_ladderpolicy",
    sign_off_permission="ladder.sign_off_ladder",
    break_glass_permission="ladder.break_glass_ladder",
    review_permission="ladder.review_break_glass_ladder",
    apply=_apply,
    lapse=_lapse,
    conditions={"regulated": frozenset({True, False})},
)
