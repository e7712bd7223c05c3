"""Look at running canaries, remember what was seen, and act on it: roll back, go on, or wait.

What is looked at is small and does not grow with traffic: sums by group of units, and the pairs that came since. So it
is looked at every few seconds, at every stage, also while a stage waits for people.
"""

import logging
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from django.db import transaction
from django.db.models import Max, Min

from controlplane import live
from controlplane.alerts import kinds
from controlplane.alerts.models import Severity
from controlplane.alerts.operations import raise_alert
from controlplane.approvals.errors import ApprovalError
from controlplane.audit import operations as audit
from controlplane.rollouts import operations as rollouts
from controlplane.rollouts.errors import RolloutError
from controlplane.rollouts.guardrails import Advance, Guardrails, StageEvidence, Unproven
from controlplane.rollouts.models import Canary
from controlplane.telemetry.evidence import exposure_of, live_sums
from controlplane.verdicts.decision import decide
from controlplane.verdicts.models import CanaryWatch, ReplayPair, VerdictPoint
from controlplane.verdicts.values import Exposure, LiveEvidence, ReplayEvidence, Ruling, Verdict
from dataplane.cohorts import CONTROL_START

logger = logging.getLogger(__name__)

BALLAST: Final = "ballast"
# A verdict that is older says nothing of now; so nobody goes on because of it.
STALE_AFTER: Final = timedelta(minutes=2)
# The interval between two points of a chart is at least this, and at least this part of the time since the first.
POINT_EVERY: Final = timedelta(seconds=10)
THINNING: Final = 120
# A pair that is missing for so long, while later ones are there, never comes.
GAP_PATIENCE: Final = timedelta(minutes=5)
PAIRS_AT_ONCE: Final = 2_000


def look_at_all(*, now: datetime) -> int:
    """Look at every running canary that has guardrails; returns how many. One that cannot be looked at keeps nobody
    else from it.
    """
    looked = 0
    for canary in Canary.objects.running().exclude(guardrails=None).with_parts():
        try:
            act(canary, look_at(canary, now=now), now=now)
            looked += 1
        except Exception:
            logger.exception("canary %s cannot be looked at", canary.slug)
    return looked


@transaction.atomic
def look_at(canary: Canary, *, now: datetime) -> Verdict:
    """Decide about a canary from all that is known now, and keep the verdict; as many queries however old it is."""
    policy = Guardrails.parse(canary.guardrails)
    watch = watch_of(canary, now=now)
    replayed = _take_in(watch, now=now)
    is_matched = all(stage["weight"] <= CONTROL_START for stage in canary.stages[: canary.position + 1])
    watch.was_beyond_half = watch.was_beyond_half or not is_matched
    exposure = _exposure(canary, is_matched=is_matched, was_matched=not watch.was_beyond_half)
    verdict = decide(policy, live=_live(canary), replay=replayed, exposure=exposure)
    if watch.ruling != verdict.ruling.value:
        watch.ruling, watch.since = verdict.ruling.value, now
    watch.verdict, watch.looked_at = verdict.to_json(), now
    watch.replayed = replayed.to_json()
    watch.save()
    drawn = _draw(canary, verdict, now=now)
    if drawn or watch.since == now:
        told = {"ruling": watch.ruling, "looked_at": now.isoformat()}
        transaction.on_commit(partial(live.notify, live.verdict_topic(canary.slug), told))
    return verdict


def act(canary: Canary, verdict: Verdict, *, now: datetime) -> None:
    """Do what the plan says should follow. Whoever came first, a person or another look, has decided."""
    asked, due = canary.stage_evidence, is_due(canary, now=now)
    is_overdue = verdict.ruling is Ruling.UNPROVEN and asked.unproven is Unproven.ROLL_BACK and due
    if verdict.ruling is Ruling.REGRESSED or is_overdue:
        roll_back(canary, verdict, now=now)
    elif asked.advance is Advance.BY_ITSELF and due and _lets_on(verdict, asked):
        _go_on(canary, now=now)


@audit.operation
def roll_back(canary: Canary, verdict: Verdict, *, now: datetime) -> None:
    """End a canary because of its verdict: control for everybody, the digest rejected, and whoever is to know told."""
    failing = verdict.failing
    if failing is None:
        minutes = canary.stage_evidence.after_minutes
        reason = f"not shown to be good within {minutes} min at {canary.stage_name}: {verdict.sentence}"
    else:
        reason = verdict.sentence
    evidence = {
        "ruling": verdict.ruling.value,
        "sentence": verdict.sentence,
        "failing": None if failing is None else failing.to_json(),
        "stage": canary.stage_name,
        "decided_at": now.isoformat(),
    }
    try:
        canary = rollouts.roll_back_canary(canary=canary, reason=reason, evidence=evidence, actor=BALLAST, now=now)
    except RolloutError as exc:
        logger.info("canary %s ended before it was rolled back: %s", canary.slug, exc)
        return
    raise_alert(
        kind=kinds.CANARY_ROLLED_BACK,
        severity=Severity.PAGE,
        title=f"{canary.prompt.slug} v{canary.candidate.number} was rolled back",
        sentence=f"Everybody is served v{canary.control.number} again. {verdict.sentence}",
        facts={
            "canary": canary.slug,
            "prompt": canary.prompt.slug,
            "candidate": canary.candidate.number,
            "control": canary.control.number,
            "digest": canary.candidate.digest,
            **evidence,
        },
        link=canary.get_absolute_url(),
        target=canary.audit_name,
        dedupe=canary.slug,
        now=now,
    )


def is_due(canary: Canary, *, now: datetime) -> bool:
    """Whether the stage that a running canary is at has lasted its time."""
    return canary.moved_at is not None and now >= due_at(canary)


def due_at(canary: Canary) -> datetime:
    """When it has."""
    begun = canary.moved_at or canary.started_at or canary.created_at
    return begun + timedelta(minutes=canary.stage_evidence.after_minutes)


def why_not_yet(canary: Canary, *, position: int, now: datetime) -> str | None:
    """As `rollouts.operations.EvidenceCheck`; one query."""
    return None if canary.guardrails is None else gap(canary, read_watch(canary), position=position, now=now)


def gap(canary: Canary, watch: CanaryWatch | None, *, position: int, now: datetime) -> str | None:
    """Why evidence keeps a running canary from the stage at `position`, given the newest look at it; None: it does not.
    No query.
    """
    if canary.guardrails is None:
        return None
    said = _doubt(watch, now=now)
    if said is None or (watch is not None and watch.ruling == Ruling.REGRESSED):
        return said
    for index in range(canary.position, min(position, len(canary.stages))):
        stage = canary.stages[index]
        asked = StageEvidence.of(stage)
        if asked.unproven is not Unproven.ALLOW:
            return said
        if index > canary.position and asked.after_minutes:
            return f"stage {stage['name']!r} lasts {asked.after_minutes} min without evidence; {said}"
        if index == canary.position and not is_due(canary, now=now):
            return f"people may go on without evidence from {due_at(canary):%H:%M} UTC on; until then: {said}"
    return None


def _doubt(watch: CanaryWatch | None, *, now: datetime) -> str | None:
    """Why nobody can say that a canary makes nothing worse; None: it can be said."""
    if watch is None:
        return "nobody has looked at it yet"
    if watch.ruling == Ruling.CLEAR and now - watch.looked_at > STALE_AFTER:
        return f"nobody has looked at it since {watch.looked_at:%H:%M} UTC; are the control plane's workers running?"
    return None if watch.ruling == Ruling.CLEAR else _lowered(watch.read.sentence)


def _lets_on(verdict: Verdict, asked: StageEvidence) -> bool:
    """Whether evidence lets a canary on whose stage has lasted its time, by the look that was just had: as `gap`."""
    return verdict.ruling is Ruling.CLEAR or asked.unproven is Unproven.ALLOW


def _go_on(canary: Canary, *, now: datetime) -> None:
    """Turn the knob to the next stage, or promote, if evidence and sign-offs allow it; else wait.

    Both are asked by the operation alone, under its lock: what is kept of the look may be another's by then.
    """
    try:
        if canary.at_last_stage:
            rollouts.promote_canary(canary=canary, actor=BALLAST, now=now)
        else:
            following = canary.position + 1
            rollouts.turn_knob(canary=canary, position=following, seen=canary.position, actor=BALLAST, now=now)
    except (RolloutError, ApprovalError) as exc:
        # Most often people have not signed yet; the page says what is missing, and safety is watched all the while.
        logger.info("canary %s does not go on by itself: %s", canary.slug, exc)


# --- what is looked at -----------------------------------------------------------------------------------------------
def watch_of(canary: Canary, *, now: datetime) -> CanaryWatch:
    """The canary's watch, locked: two looks at a time would take the same pairs in twice."""
    begun = {"ruling": Ruling.UNPROVEN.value, "verdict": {}, "looked_at": now, "since": now}
    CanaryWatch.objects.get_or_create(canary=canary, defaults=begun)
    return CanaryWatch.objects.select_for_update().get(canary=canary)


def _take_in(watch: CanaryWatch, *, now: datetime) -> ReplayEvidence:
    """Everything that was replayed, with the pairs that came since the last look.

    Strictly by number: to leave out the ones that take long, and count those that come quickly, would be to choose.
    """
    evidence = ReplayEvidence.from_json(watch.replayed)
    for pair in ReplayPair.objects.filter(canary=watch.canary_id).after(watch.replayed_through)[:PAIRS_AT_ONCE]:
        if pair.number != watch.replayed_through + 1 and now - pair.at < GAP_PATIENCE:
            break
        evidence = evidence.with_scores(pair.scores)
        watch.replayed_through = pair.number
    return evidence


def _live(canary: Canary) -> LiveEvidence | None:
    sums = live_sums(canary.slug)
    if not sums["canary"] and not sums["control"]:
        return None
    return LiveEvidence(canary=sums["canary"], control=sums["control"])


def _exposure(canary: Canary, *, is_matched: bool, was_matched: bool) -> Exposure:
    seen = exposure_of(canary.slug)
    return Exposure(
        canary_units=seen.canary_units,
        control_units=seen.control_units,
        both=seen.both,
        contaminated_groups=seen.contaminated_groups,
        matched=is_matched,
        turned_back=is_matched and not was_matched,
    )


def _draw(canary: Canary, verdict: Verdict, *, now: datetime) -> bool:
    """Add a point to the charts, if the last one is old enough, or something was decided; tell whether there is one."""
    ends = VerdictPoint.objects.of(canary).order_by().aggregate(first=Min("at"), newest=Max("at"))
    first, newest = ends["first"] or now, ends["newest"]
    apart = max(POINT_EVERY, (now - first) / THINNING)
    if newest is not None and verdict.ruling is not Ruling.REGRESSED and now - newest < apart:
        return False
    VerdictPoint.objects.bulk_create(
        VerdictPoint(
            canary=canary,
            at=now,
            rail=reading.rail,
            stream=reading.stream.value,
            harm=reading.harm,
            lower=reading.lower,
            upper=reading.upper,
            canary_n=reading.canary_n,
            control_n=reading.control_n,
            ruling=reading.ruling.value,
        )
        for reading in verdict.readings
    )
    return True


def _lowered(sentence: str) -> str:
    return (sentence[:1].lower() + sentence[1:]).rstrip(".")


def read_watch(canary: Canary) -> CanaryWatch | None:
    """The newest look at a canary, for pages; one query.

    None: nobody has looked at it yet, though pairs may have been handed out to replay for it.
    """
    return CanaryWatch.objects.filter(canary=canary).exclude(verdict={}).first()
