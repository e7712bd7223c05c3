"""Plan, start, turn, promote and roll back canaries. Forward asks the approvals; back never does."""

import secrets
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Protocol

from controlplane.accounts.models import Operator
from controlplane.approvals import operations as approvals
from controlplane.approvals.errors import Drifted, NotApproved
from controlplane.approvals.kinds import Kind
from controlplane.approvals.models import BreakGlass, ChangeRequest
from controlplane.audit import operations as audit
from controlplane.prompts import operations as prompts
from controlplane.prompts.models import Prompt, PromptVersion
from controlplane.releases import operations as releases
from controlplane.rollouts.errors import (
    AnotherCanaryRuns,
    CanaryNotPlanned,
    CanaryNotRunning,
    ControlMoved,
    InvalidPlan,
    KnobMoved,
    NotAtLastStage,
    NotProven,
)
from controlplane.rollouts.guardrails import DEFAULT_STAGE_EVIDENCE, Guardrails, StageEvidence, default_guardrails
from controlplane.rollouts.models import TRANSITIONS, Canary, CanaryState, Cause, Gate, plan_content
from dataplane.cohorts import UNITS, CanaryPlan
from dataplane.release import MalformedRelease

KIND_NAME = "prompt.rollout"


class EvidenceCheck(Protocol):
    """Say why a running canary may not go on to the stage at `position`, or be promoted if it is behind the last; None:
    as far as evidence goes, it may.
    """

    def __call__(self, canary: Canary, *, position: int, now: datetime) -> str | None: ...


# --- before the start ------------------------------------------------------------------------------------------------
@audit.operation
def plan_canary(
    *,
    candidate: PromptVersion,
    unit: str,
    stages: list[dict[str, Any]],
    reason: str,
    actor: Operator,
    now: datetime,
    guardrails: dict[str, Any] | None = None,
) -> Canary:
    """Plan a canary of `candidate` against what is live, and open its change request; it serves nobody yet.

    Args:
        guardrails: See `guardrails.Guardrails.parse`; None: the usual ones.
    Raises:
        InvalidPlan: no live version to compare with, or unit and stages do not make a canary.
        DigestRejected, PolicyMissing: from the approvals.
    """
    control = Prompt.objects.with_live().get(pk=candidate.prompt_id).live_version
    if control is None:
        raise InvalidPlan(
            f"prompt {candidate.prompt.slug!r} has no live version to compare with; propose to go live instead"
        )
    if control.pk == candidate.pk:
        raise InvalidPlan(f"{candidate} is live already")
    salt = secrets.token_hex(8)
    stages = check_plan(candidate=candidate, control=control, unit=unit, salt=salt, stages=stages)
    guardrails = check_guardrails(default_guardrails() if guardrails is None else guardrails)
    change = approvals.open_change(
        kind=KIND_NAME,
        target=candidate.prompt.audit_name,
        title=f"Canary of {candidate} against v{control.number}",
        content=plan_content(
            candidate=candidate, control=control, unit=unit, salt=salt, stages=stages, guardrails=guardrails
        ),
        content_digest=candidate.digest,
        reason=reason,
        actor=actor,
        contributors=[candidate.author],
        now=now,
    )
    canary = Canary.objects.create(
        slug=_free_slug(candidate),
        prompt=candidate.prompt,
        candidate=candidate,
        control=control,
        unit=unit,
        salt=salt,
        stages=stages,
        guardrails=guardrails,
        change=change,
        created_by=actor.username,
        created_at=now,
    )
    data = {"change": change.pk, "unit": unit, "stages": stages, "guardrails": guardrails}
    audit.record("canary.planned", actor=actor, target=canary, at=now, data=data)
    return canary


@audit.operation
def change_plan(
    *,
    canary: Canary,
    unit: str,
    stages: list[dict[str, Any]],
    actor: Operator,
    now: datetime,
    guardrails: dict[str, Any] | None = None,
) -> Canary:
    """Edit a canary before its start; its editor becomes a contributor and the sign-offs so far are void.

    Args:
        guardrails: None: they stay as they are.
    Raises:
        CanaryNotPlanned, InvalidPlan: and nothing was changed.
    """
    canary = _fresh(canary)
    if canary.state != CanaryState.PLANNED:
        raise CanaryNotPlanned(f"canary {canary.slug!r} is {canary.get_state_display().lower()}; its plan is fixed")
    stages = check_plan(candidate=canary.candidate, control=canary.control, unit=unit, salt=canary.salt, stages=stages)
    guardrails = canary.guardrails if guardrails is None else check_guardrails(guardrails)
    before = {"unit": canary.unit, "stages": canary.stages, "guardrails": canary.guardrails}
    after = {"unit": unit, "stages": stages, "guardrails": guardrails}
    if before == after:
        return canary
    canary.unit, canary.stages, canary.guardrails = unit, stages, guardrails
    canary.save(update_fields=["unit", "stages", "guardrails"])
    approvals.amend_change(
        change=canary.change, content=canary.plan(), content_digest=canary.candidate.digest, actor=actor, now=now
    )
    audit.record("canary.plan_changed", actor=actor, target=canary, at=now, data={"before": before, "after": after})
    return canary


@audit.operation
def withdraw_canary(*, canary: Canary, reason: str, actor: Operator, now: datetime) -> None:
    """Give up a canary that never started; its version may be planned again.

    Raises:
        CanaryNotPlanned: and nothing was changed.
    """
    canary = _fresh(canary)
    if canary.state != CanaryState.PLANNED:
        raise CanaryNotPlanned(f"canary {canary.slug!r} is {canary.get_state_display().lower()} and is not given up")
    approvals.withdraw_change(change=canary.change, actor=actor, reason=reason, now=now)


def check_plan(
    *, candidate: PromptVersion, control: PromptVersion, unit: str, salt: str, stages: Any
) -> list[dict[str, Any]]:
    """Return the stages in their canonical shape, checked by the same parser that every worker runs.

    Raises:
        InvalidPlan: naming the place.
    """
    if unit not in UNITS:
        raise InvalidPlan(f"unit: expected one of {', '.join(sorted(UNITS))}, got {unit!r}")
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        raise InvalidPlan("stages: expected a list of stages")
    try:
        reach = [
            {
                "stage": stage.get("name"),
                "audience": stage.get("audience", "all"),
                "tenants": stage.get("tenants", []),
                "regions": stage.get("regions", []),
                "weight": stage.get("weight"),
            }
            for stage in stages
        ]
        evidence = [
            StageEvidence.parse(stage["evidence"], path=f"stages[{index}].evidence")
            if "evidence" in stage
            else DEFAULT_STAGE_EVIDENCE
            for index, stage in enumerate(stages)
        ]
        plan = {"prompt": candidate.prompt.slug, "control": control.number, "candidate": candidate.number}
        CanaryPlan.parse("plan", {**plan, "unit": unit, "salt": salt, "not_after": None, "reach": reach}, path="stages")
    except MalformedRelease as exc:
        raise InvalidPlan(str(exc)) from exc
    widest = 0
    for stage in reach:
        if stage["audience"] == "internal" or stage["tenants"] or stage["regions"]:
            continue
        if stage["weight"] < widest:
            raise InvalidPlan(
                f"stage {stage['stage']!r} reaches fewer users than the stage before it; order them by weight"
            )
        widest = stage["weight"]
    return [
        {
            "name": s["stage"],
            **{key: s[key] for key in ("audience", "tenants", "regions", "weight")},
            "evidence": asked.to_json(),
        }
        for s, asked in zip(reach, evidence, strict=True)
    ]


def check_guardrails(guardrails: Any) -> dict[str, Any]:
    """Return the guardrails in their canonical shape.

    Raises:
        InvalidPlan: naming the place.
    """
    try:
        policy = Guardrails.parse(guardrails)
    except MalformedRelease as exc:
        raise InvalidPlan(str(exc)) from exc
    wrong = [said for check in _plan_checks if (said := check(policy)) is not None]
    if wrong:
        raise InvalidPlan(f"guardrails: {'; '.join(wrong)}")
    return policy.to_json()


# --- while it runs ---------------------------------------------------------------------------------------------------
@audit.operation
def start_canary(*, canary: Canary, actor: Operator, now: datetime) -> Canary:
    """Begin with the first stage.

    Raises:
        CanaryNotPlanned, AnotherCanaryRuns, ControlMoved, NotApproved, Drifted, DigestRejected: and nothing was
            changed.
    """
    canary = _fresh(canary)
    if canary.state != CanaryState.PLANNED:
        raise CanaryNotPlanned(f"canary {canary.slug!r} is {canary.get_state_display().lower()} and cannot start")
    other = Canary.objects.running().filter(prompt=canary.prompt).first()
    if other is not None:
        raise AnotherCanaryRuns(f"canary {other.slug!r} runs on {canary.prompt.slug!r}; end it first")
    if canary.prompt.live_version_id != canary.control_id:
        raise ControlMoved(f"v{canary.control.number} is not live any more; plan the canary anew against what is live")
    _move(canary, Cause.STARTED, actor=actor, reason="", now=now)
    _expose(canary, position=0, actor=actor, now=now)
    audit.record("canary.started", actor=actor, target=canary, at=now, data={"stage": canary.stages[0]["name"]})
    releases.publish_on_commit(
        reason=f"canary {canary.slug} started at {canary.stages[0]['name']}", actor=actor, now=now
    )
    return canary


@audit.operation
def turn_knob(
    *, canary: Canary, position: int, actor: Operator | str, now: datetime, seen: int | None = None
) -> Canary:
    """Move a running canary to the stage at `position`; forward through every gate on the way, back without any.

    Args:
        seen: The position that the actor was shown; it guards the way forward only. None: they were shown none.
    Raises:
        KnobMoved: forward, and somebody else turned it since.
        NotProven: forward, and the stage that it is at waits for evidence.
        CanaryNotRunning, NotApproved, Drifted, DigestRejected, InvalidPlan: and nothing was changed.
    """
    canary = _fresh(canary)
    _require_running(canary)
    if seen is not None and seen != canary.position < position:
        raise KnobMoved(
            f"canary {canary.slug!r} is at {canary.stages[canary.position]['name']} by now; look again before going on"
        )
    if not 0 <= position < len(canary.stages):
        raise InvalidPlan(f"canary {canary.slug!r} has stages 0 to {len(canary.stages) - 1}, not {position}")
    if position == canary.position:
        return canary
    if position > canary.position:
        _require_proven(canary, position=position, now=now)
    before = canary.stages[canary.position]["name"]
    _expose(canary, position=position, actor=actor, now=now)
    after = canary.stages[position]["name"]
    audit.record("canary.knob_turned", actor=actor, target=canary, at=now, data={"before": before, "after": after})
    releases.publish_on_commit(reason=f"canary {canary.slug} from {before} to {after}", actor=actor, now=now)
    return canary


@audit.operation
def promote_canary(*, canary: Canary, actor: Operator | str, now: datetime) -> Canary:
    """Make the candidate live and end the canary.

    Raises:
        CanaryNotRunning, NotAtLastStage, NotProven, NotApproved, DigestRejected: and nothing was changed.
    """
    canary = _fresh(canary)
    _require_running(canary)
    if not canary.at_last_stage:
        raise NotAtLastStage(
            f"canary {canary.slug!r} is at {canary.stages[canary.position]['name']}; promote from the last stage"
        )
    _require_proven(canary, position=len(canary.stages), now=now)
    _require_as_signed(canary)
    # Live is wider than any stage: a plan that skipped the public passes its gate now.
    passed = approvals.require(canary.change, gates=list(Gate), now=now)
    authorisation = next((one for one in passed if one.lapses_at is not None), passed[-1])
    if authorisation.lapses_at is not None:
        # What is live does not lapse by itself, so broken glass can never lead there.
        raise NotApproved(
            f"canary {canary.slug!r} runs on broken glass; {authorisation.standing.sentence}",
            {role.value: count for role, count in authorisation.standing.missing.items()},
        )
    _move(canary, Cause.PROMOTED, actor=actor, reason="promoted", now=now)
    approvals.mark_applied(canary.change, actor=actor, now=now, note=authorisation.standing.sentence)
    prompts.go_live(canary.candidate, actor=actor, reason=f"canary {canary.slug} promoted", now=now)
    audit.record("canary.promoted", actor=actor, target=canary, at=now, data={"candidate": canary.candidate.reference})
    return canary


@audit.operation
def roll_back_canary(
    *, canary: Canary, reason: str, actor: Operator | str, now: datetime, evidence: Mapping[str, Any] | None = None
) -> Canary:
    """End a running canary: everybody is served the control again, and the candidate's digest is rejected for good.

    Args:
        evidence: What failed, as JSON, where statistics decided it.
    Raises:
        CanaryNotRunning: it had ended; nothing was changed.
    """
    canary = _fresh(canary)
    _end(canary, reason=reason, actor=actor, now=now, evidence=evidence)
    approvals.reject_change(change=canary.change, actor=actor, reason=f"canary rolled back: {reason}", now=now)
    return canary


def _end(
    canary: Canary,
    *,
    reason: str,
    actor: Operator | str,
    now: datetime,
    evidence: Mapping[str, Any] | None = None,
) -> None:
    _require_running(canary)
    at = canary.stages[canary.position]["name"]
    _move(canary, Cause.ROLLED_BACK, actor=actor, reason=reason, now=now)
    data: dict[str, Any] = {"stage": at, "reason": reason}
    if evidence is not None:
        canary.end_evidence = data["evidence"] = dict(evidence)
        canary.save(update_fields=["end_evidence"])
    audit.record("canary.rolled_back", actor=actor, target=canary, at=now, data=data)
    releases.publish_on_commit(reason=f"canary {canary.slug} rolled back: {reason}", actor=actor, now=now)


def _expose(canary: Canary, *, position: int, actor: Operator | str, now: datetime) -> None:
    """Pass every gate up to `position` and write it; going back asks nobody.

    Going back from broken glass to what is signed anyway takes the lapse away; to anything else it keeps it.
    """
    gates = canary.gates_up_to(position)
    if position > canary.position:
        _require_as_signed(canary)
        passed = approvals.require(canary.change, gates=gates, now=now)
        canary.bypass_lapses_at = min((one.lapses_at for one in passed if one.lapses_at is not None), default=None)
    elif canary.bypass_lapses_at is not None and approvals.is_signed(canary.change, gates=gates, now=now):
        canary.bypass_lapses_at = None
    moved = (
        Canary.objects.running()
        .filter(pk=canary.pk)
        .update(position=position, moved_at=now, bypass_lapses_at=canary.bypass_lapses_at)
    )
    if not moved:
        raise CanaryNotRunning(f"canary {canary.slug!r} ended before the knob was turned")
    canary.position, canary.moved_at = position, now


_evidence_checks: list[EvidenceCheck] = []
_plan_checks: list[Callable[[Guardrails], str | None]] = []


def ask_about_guardrails(check: Callable[[Guardrails], str | None]) -> None:
    """Have `check` say what is wrong with the guardrails of a plan, such as that they name what is not there; None:
    nothing. Doing so twice is doing so once. For apps above this one.
    """
    if check not in _plan_checks:
        _plan_checks.append(check)


def ask_for_evidence(check: EvidenceCheck) -> None:
    """Have `check` asked before any canary goes on; doing so twice is doing so once. For apps above this one."""
    if check not in _evidence_checks:
        _evidence_checks.append(check)


def what_is_unproven(canary: Canary, *, position: int, now: datetime) -> list[str]:
    """Why a running canary may not go on to the stage at `position` yet, or be promoted if that is behind the last, as
    far as evidence goes; sign-offs are another matter.
    """
    return [said for check in _evidence_checks if (said := check(canary, position=position, now=now)) is not None]


def _require_proven(canary: Canary, *, position: int, now: datetime) -> None:
    if said := what_is_unproven(canary, position=position, now=now):
        raise NotProven(f"canary {canary.slug!r} stays at {canary.stages[canary.position]['name']}: {'; '.join(said)}")


def _require_as_signed(canary: Canary) -> None:
    """Return if the plan in the table is the content that people sign, and its words are those of its digest.

    Raises:
        Drifted, AlteredVersion: somebody wrote to a table by hand.
    """
    if canary.plan() != canary.change.content or canary.candidate.digest != canary.change.content_digest:
        raise Drifted(f"the plan of canary {canary.slug!r} is not the content of CR-{canary.change_id}; plan it anew")
    prompts.require_intact(canary.candidate)


def _move(canary: Canary, cause: Cause, *, actor: Operator | str, reason: str, now: datetime) -> None:
    """Take the one legal step. Only this function assigns `state`; an illegal cause raises and changes nothing."""
    before = CanaryState(canary.state)
    if (before, cause) not in TRANSITIONS:
        raise CanaryNotRunning(f"canary {canary.slug!r} is {before.label.lower()} and cannot be {cause}")
    canary.state = TRANSITIONS[before, cause]
    if cause is Cause.STARTED:
        canary.started_at = now
    else:
        canary.ended_at, canary.ended_by, canary.end_reason = now, audit.name_of(actor), reason
        canary.bypass_lapses_at = None
    canary.save(update_fields=["state", "started_at", "ended_at", "ended_by", "end_reason", "bypass_lapses_at"])


def _require_running(canary: Canary) -> None:
    if not canary.is_running:
        ended = f" since {canary.ended_at:%Y-%m-%d %H:%M} UTC ({canary.end_reason})" if canary.ended_at else ""
        raise CanaryNotRunning(f"canary {canary.slug!r} is {canary.get_state_display().lower()}{ended}")


def _fresh(canary: Canary) -> Canary:
    return Canary.objects.with_parts().select_for_update(of=("self",)).get(pk=canary.pk)


def _free_slug(candidate: PromptVersion) -> str:
    base = f"{candidate.prompt.slug}-v{candidate.number}"
    taken = set(Canary.objects.filter(slug__startswith=base).values_list("slug", flat=True))
    return next(slug for slug in (base, *(f"{base}-{n}" for n in range(2, len(taken) + 3))) if slug not in taken)


# --- what the release carries, and what happens around it ------------------------------------------------------------
def compile_canaries() -> dict[str, Any]:
    """The section 'canaries': every running one with the stages it has reached; one query."""
    return {canary.slug: canary.released() for canary in Canary.objects.running().with_parts()}


def restore_canaries(section: Mapping[str, Any], *, actor: Operator | str, reason: str, now: datetime) -> None:
    """Turn running canaries down to where an older release had them; never up, and none that ended comes back."""
    for canary in Canary.objects.running().with_parts():
        entry = section.get(canary.slug)
        if entry is None or entry["control"] != canary.control.number:
            approvals.withdraw_change(change=canary.change, actor=actor, reason=reason, now=now)
        elif len(entry["reach"]) - 1 < canary.position:
            turn_knob(canary=canary, position=len(entry["reach"]) - 1, actor=actor, now=now)


def served_candidates() -> Iterable[PromptVersion]:
    """Candidates and controls of running canaries: releases carry them though they are not live. Two queries."""
    pairs = Canary.objects.running().values_list("candidate_id", "control_id")
    return PromptVersion.objects.select_related("prompt").filter(pk__in={pk for pair in pairs for pk in pair})


def end_on_live_change(version: PromptVersion, *, actor: Operator | str, reason: str, now: datetime) -> None:
    """What is live changed under a running canary: its comparison means nothing now, so it ends without a verdict."""
    for canary in Canary.objects.running().with_parts().filter(prompt=version.prompt_id).exclude(control=version):
        why = f"{version} went live under it: {reason}"
        approvals.withdraw_change(change=canary.change, actor=actor, reason=why, now=now)


def _abandon(change: ChangeRequest, *, actor: Operator | str, reason: str, now: datetime) -> None:
    """End the canary whose change was rejected or withdrawn: nothing could ever carry it further."""
    canary = _fresh(Canary.objects.get(change=change))
    if canary.is_running:
        _end(canary, reason=reason, actor=actor, now=now)
    elif canary.state == CanaryState.PLANNED:
        _move(canary, Cause.WITHDRAWN, actor=actor, reason=reason, now=now)
        audit.record("canary.withdrawn", actor=actor, target=canary, at=now, data={"reason": reason})


def _lapse(change: ChangeRequest, *, debt: BreakGlass, now: datetime) -> None:
    """Turn the knob back to the last stage that the sign-offs allow; to none at all, roll back."""
    canary = Canary.objects.with_parts().get(change=change)
    if not canary.is_running or canary.bypass_lapses_at is None or canary.bypass_lapses_at > now:
        return  # ended, signed, or resting on a later bypass
    allowed = -1
    for position in range(canary.position + 1):
        if not approvals.is_signed(change, gates=canary.gates_up_to(position), now=now):
            break
        allowed = position
    why = f"break-glass of {debt.actor} lapsed"
    if allowed < 0:
        approvals.withdraw_change(change=change, actor="ballast", reason=why, now=now)
    elif allowed < canary.position:
        turn_knob(canary=canary, position=allowed, actor="ballast", now=now)
    else:
        Canary.objects.filter(pk=canary.pk).update(bypass_lapses_at=None)
        releases.publish_on_commit(
            reason=f"canary {canary.slug} signed off before its bypass lapsed", actor="ballast", now=now
        )


KIND = Kind(
    name=KIND_NAME,
    label="Canary",
    survey=prompts.survey_prompts,
    facts=lambda content: {"change_class": content["change_class"]},
    view_permission="prompts.view_prompt",
    sign_off_permission="prompts.sign_off",
    break_glass_permission="prompts.break_glass",
    review_permission="prompts.review_break_glass",
    lapse=_lapse,
    abandon=_abandon,
    gates=tuple(Gate),
    conditions=prompts.CONDITIONS,
)
