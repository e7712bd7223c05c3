"""Plan to hand work in again, try it dry, have it signed, start it, pause it, stop it. `execution` carries it out."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final
from uuid import UUID

from django.db import transaction

from controlplane import live
from controlplane.accounts.models import Operator
from controlplane.approvals import operations as approvals
from controlplane.approvals.kinds import Kind, Surveyed
from controlplane.approvals.models import ChangeRequest, ChangeState
from controlplane.approvals.policy import Validity
from controlplane.audit import operations as audit
from controlplane.deadletters import edits
from controlplane.deadletters.access import VIEW_PLAN, names_of_plans
from controlplane.deadletters.errors import BadEdit, BadPlan, NeedsSignOff, NoReason, NothingWouldRun, PlanMoved
from controlplane.deadletters.handing_in import digest_of_letters
from controlplane.deadletters.kinds import JOB
from controlplane.deadletters.models import CATEGORIES, DeadLetter
from controlplane.deadletters.plans import CANARY_LETTERS as FEW_FIRST
from controlplane.deadletters.plans import (
    ENDED,
    FAILURE_PERCENT,
    MAX_LETTERS,
    MOST_PER_MINUTE,
    PER_MINUTE,
    PLAN_TRANSITIONS,
    ItemState,
    PlanEvent,
    PlanState,
    RedriveItem,
    RedrivePlan,
    Verdict,
    letter_ids,
    plan_named,
)
from controlplane.work import operations as work
from dataplane.ids import new_id
from dataplane.release import canonical

KIND_NAME: Final = "deadletters.redrive"
STEP: Final = "deadletters.redrive_step"
MIXED: Final = "mixed"
OTHER: Final = "other"


@dataclass(frozen=True, slots=True)
class Choice:
    """Which letters a plan is for: those of a group, the oldest first, or some by their ids.

    Attributes:
        tenants: Slugs that the author may act on; None: all.
        since, until: When the work failed.
        most: Of a group.
    """

    fingerprint: str = ""
    letters: Sequence[UUID] = ()
    tenants: Iterable[str] | None = None
    since: datetime | None = None
    until: datetime | None = None
    most: int = MAX_LETTERS


@dataclass(frozen=True, slots=True)
class Settings:
    """How a plan is carried out."""

    canary_letters: int = FEW_FIRST
    per_minute: int = PER_MINUTE
    most_per_minute: int = MOST_PER_MINUTE
    failure_percent: int = FAILURE_PERCENT

    def check(self) -> None:
        """Raises BadPlan: a number is out of range."""
        if not 1 <= self.canary_letters <= 100:
            raise BadPlan(f"the canary has 1 to 100 letters, not {self.canary_letters}")
        if not 1 <= self.per_minute <= self.most_per_minute <= 6000:
            raise BadPlan("a ramp begins with 1 letter a minute or more, and ends with 6000 or fewer, not below that")
        if not 0 <= self.failure_percent <= 100:
            raise BadPlan(f"the share of failures that stops it is 0 to 100 %, not {self.failure_percent}")


# --- planning --------------------------------------------------------------------------------------------------------
@audit.operation
def plan_redrive(
    *,
    choice: Choice,
    reason: str,
    actor: Operator | str,
    now: datetime,
    edit: Any = None,
    settings: Settings | None = None,
) -> RedrivePlan:
    """Fix which letters are to be handed in again, with which edit. Nothing is handed in yet.

    Raises:
        NoReason: why, is not said.
        BadPlan: there is no such open letter, there are too many, or a number is out of range.
        BadEdit: see `edits.read_edit`; or a whole new body is meant for more than one letter.
    """
    if not reason.strip():
        raise NoReason
    settings = settings or Settings()
    settings.check()
    read = edits.read_edit(edit)
    letters = _chosen(choice)
    if read is not None and "body" in read and len(letters) > 1:
        raise BadEdit(f"a whole new body is for one letter, not for {len(letters)}; say what changes, as 'merge'")
    plan = RedrivePlan.objects.create(
        id=UUID(new_id(now.timestamp())),
        title=_title(letters),
        fingerprint=choice.fingerprint,
        reason=reason.strip()[:1000],
        author=audit.name_of(actor),
        created_at=now,
        size=len(letters),
        tenants=sorted({letter.tenant for letter in letters}),
        kinds=sorted({letter.kind for letter in letters}),
        categories=sorted({letter.category for letter in letters}),
        has_tools=any(letter.has_tools for letter in letters) or _brings_tools(read),
        edit=read,
        edit_digest=edits.digest_of_edit(read),
        letters_digest=digest_of_letters([letter.pk for letter in letters]),
        canary_letters=settings.canary_letters,
        per_minute=settings.per_minute,
        most_per_minute=settings.most_per_minute,
        failure_percent=settings.failure_percent,
    )
    RedriveItem.objects.bulk_create(
        [RedriveItem(plan=plan, letter=letter, position=at) for at, letter in enumerate(letters, 1)], batch_size=1000
    )
    audit.record("redrive.planned", actor=actor, target=plan, at=now, data={"reason": reason, **_facts_of(plan)})
    _tell(plan)
    return plan


def _chosen(choice: Choice) -> list[DeadLetter]:
    rows = DeadLetter.objects.without_words().matching(tenants=choice.tenants).redrivable().order_by("pk")
    if choice.letters:
        wanted = set(choice.letters)
        if len(wanted) > MAX_LETTERS:
            raise BadPlan(f"{len(wanted)} letters are over the {MAX_LETTERS} that fit one plan")
        letters = list(rows.filter(pk__in=wanted))
        if len(letters) < len(wanted):
            raise BadPlan(
                f"{len(wanted) - len(letters)} of {len(wanted)} letters are not open any more, or not yours to redrive"
            )
        return letters
    if not choice.fingerprint:
        raise BadPlan("name a group or letters")
    if not 1 <= choice.most <= MAX_LETTERS:
        raise BadPlan(f"a plan has 1 to {MAX_LETTERS} letters, not {choice.most}")
    rows = rows.filter(fingerprint=choice.fingerprint)
    if choice.since is not None:
        rows = rows.filter(created_at__gte=choice.since)
    if choice.until is not None:
        rows = rows.filter(created_at__lt=choice.until)
    letters = list(rows[: choice.most])
    if not letters:
        raise BadPlan("no open letter of this group fits; nothing is there to hand in again")
    return letters


def _title(letters: Sequence[DeadLetter]) -> str:
    first = letters[0]
    number = f"{len(letters):,} letter{'' if len(letters) == 1 else 's'}"
    same = len({letter.fingerprint for letter in letters}) == 1
    return f"{number} of {first.kind} {first.name}{f', {first.code}' if same else ''}"[:200]


def _brings_tools(edit: Mapping[str, Any] | None) -> bool:
    """Whether an edit may give work tools that it had not; other variables of a prompt give it none."""
    return edit is not None and any(
        member.keys() & {"tools", "functions"} or _names_another_prompt(member.get("prompt", {}))
        for member in edit.values()
    )


def _names_another_prompt(prompt: Any) -> bool:
    return not isinstance(prompt, dict) or bool(prompt.keys() - {"variables"})


# --- the dry run -----------------------------------------------------------------------------------------------------
@audit.operation
def begin_dry_run(*, plan: RedrivePlan, actor: Operator | str, now: datetime) -> RedrivePlan:
    """Have each letter looked at against the release in force; what an earlier dry run found is forgotten.

    Raises:
        PlanMoved: people are asked already, say.
    """
    move(plan, PlanEvent.DRY_RUN, now=now, checked_at=None, checked_release=None, checked_digest="", note="")
    plan.items.update(verdict="", why="", old_digest="", new_digest="", diff="")
    kick(plan, now=now)
    audit.record("redrive.dry_run", actor=actor, target=plan, at=now, data=_facts_of(plan))
    return plan


def checked_digest_of(plan: RedrivePlan) -> str:
    """SHA-256 of what a dry run found, letter by letter, in hex."""
    whole = hashlib.sha256()
    rows = plan.items.order_by("position").values_list("letter_id", "verdict", "why", "old_digest", "new_digest")
    for row in rows:
        whole.update(repr(tuple(map(str, row))).encode())
    return whole.hexdigest()


# --- approval --------------------------------------------------------------------------------------------------------
@audit.operation
def propose_plan(*, plan: RedrivePlan, actor: Operator | str, now: datetime) -> ChangeRequest:
    """Open the change request by which a plan is signed.

    Raises:
        PlanMoved: it was not dry-run, or people are asked already.
        NothingWouldRun: the dry run found nothing to do.
        DigestRejected, PolicyMissing: as `approvals.open_change`.
    """
    move(plan, PlanEvent.PROPOSED, now=now)
    if not plan.items.filter(verdict=Verdict.WOULD_RUN.value).exists():
        raise NothingWouldRun(plan.title)
    content = content_of(plan)
    change = approvals.open_change(
        kind=KIND_NAME,
        target=plan.audit_name,
        title=f"Redrive {plan.title}"[:200],
        content=content,
        content_digest=hashlib.sha256(canonical(content)).hexdigest(),
        reason=plan.reason,
        actor=actor,
        contributors=[plan.author],
        now=now,
    )
    plan.change = change
    plan.save(update_fields=["change"])
    return change


def content_of(plan: RedrivePlan) -> dict[str, Any]:
    """What people sign: all that decides what is handed in. The same letters with the same edit give the same."""
    return {
        "letters": plan.letters_digest,
        "count": plan.size,
        "edit": plan.edit_digest or None,
        "settings": plan.settings(),
        "tenants": plan.tenants,
        "kinds": plan.kinds,
        "categories": plan.categories,
        "has_tools": plan.has_tools,
        "size": plan.size_class,
    }


# --- carrying it out -------------------------------------------------------------------------------------------------
def start_plan(plan: RedrivePlan, *, actor: Operator | str, reason: str, now: datetime) -> None:
    """Let a plan begin with its canary. Only for what has just passed its gate."""
    audit.require_operation()
    move(
        plan,
        PlanEvent.STARTED,
        now=now,
        started_by=audit.name_of(actor),
        started_at=now,
        rate=plan.per_minute,
        rate_at=now,
        hand_in_at=now,
    )
    # The dry run has said why.
    plan.items.waiting().exclude(verdict=Verdict.WOULD_RUN.value).update(state=ItemState.SKIPPED.value, ended_at=now)
    kick(plan, now=now)
    audit.record("redrive.started", actor=actor, target=plan, at=now, data={"reason": reason, **_facts_of(plan)})


@audit.operation
def pause_plan(*, plan: RedrivePlan, actor: Operator | str, reason: str, now: datetime) -> None:
    """Hand nothing more in until it is resumed; what was handed in goes on.

    Raises:
        PlanMoved, NoReason.
    """
    _decide(plan, PlanEvent.PAUSED, "redrive.paused", actor=actor, reason=reason, now=now)


@audit.operation
def resume_plan(*, plan: RedrivePlan, actor: Operator | str, reason: str, now: datetime) -> None:
    """Go on where it was paused, at the pace that it begins with.

    Raises:
        PlanMoved, NoReason.
    """
    more = {"rate": plan.per_minute, "rate_at": now, "hand_in_at": now}
    _decide(plan, PlanEvent.RESUMED, "redrive.resumed", actor=actor, reason=reason, now=now, **more)


@audit.operation
def stop_plan(*, plan: RedrivePlan, actor: Operator | str, reason: str, now: datetime) -> None:
    """Hand nothing more in, for good; what was handed in goes on, and its letters are settled.

    Raises:
        PlanMoved, NoReason.
    """
    more = {"ended_by": audit.name_of(actor), "note": reason.strip()[:300]}
    _decide(plan, PlanEvent.STOPPED, "redrive.stopped", actor=actor, reason=reason, now=now, **more)


@audit.operation
def withdraw_plan(*, plan: RedrivePlan, actor: Operator | str, reason: str, now: datetime) -> None:
    """Give a plan up before people are asked; afterwards its change request is withdrawn.

    Raises:
        PlanMoved, NoReason.
    """
    if plan.state == PlanState.PROPOSED:
        raise PlanMoved(plan.title, state=f"waiting for its sign-offs (CR-{plan.change_id})", event="withdrawn")
    more = {"ended_by": audit.name_of(actor), "note": reason.strip()[:300]}
    _decide(plan, PlanEvent.WITHDRAWN, "redrive.withdrawn", actor=actor, reason=reason, now=now, **more)


@audit.operation
def end_by_itself(*, plan: RedrivePlan, event: PlanEvent, why: str, now: datetime) -> None:
    """Note that a plan is through (FINISHED), or that it stopped itself (STOPPED), and why.

    Raises:
        PlanMoved: somebody ended it meanwhile.
    """
    move(plan, event, now=now, ended_by="ballast", note=why[:300])
    if event is PlanEvent.STOPPED:
        kick(plan, now=now)  # what was handed in goes on
    audit.record(f"redrive.{event}", actor="ballast", target=plan, at=now, data={"reason": why})


def _decide(
    plan: RedrivePlan, event: PlanEvent, action: str, *, actor: Operator | str, reason: str, now: datetime, **more: Any
) -> None:
    if not reason.strip():
        raise NoReason
    move(plan, event, now=now, **more)
    if event is not PlanEvent.WITHDRAWN:
        kick(plan, now=now)
    audit.record(action, actor=actor, target=plan, at=now, data={"reason": reason})


def move(plan: RedrivePlan, event: PlanEvent, *, now: datetime, **more: Any) -> None:
    """Take the one legal step, in the caller's transaction; `plan` is then as it is in the database. Only this function
    assigns `state`.

    Raises:
        PlanMoved: there is none; nothing was changed.
    """
    locked = RedrivePlan.objects.select_for_update().get(pk=plan.pk)
    after = PLAN_TRANSITIONS.get((PlanState(locked.state), event))
    if after is None:
        raise PlanMoved(plan.title, state=locked.state, event=event.replace("_", " "))
    if after in ENDED:
        # An edit is somebody's words: once nothing will be handed in with it any more, nobody needs it.
        more |= {"ended_at": now, "edit": None}
    RedrivePlan.objects.filter(pk=plan.pk).update(state=after.value, **more)
    plan.refresh_from_db()
    _tell(plan)


def kick(plan: RedrivePlan, *, now: datetime, delay_seconds: float = 0.0) -> None:
    """Have the next step of a plan taken, in the caller's transaction, which holds its row. A step that is still on its
    way then finds that it is void.
    """
    plan.step += 1
    RedrivePlan.objects.filter(pk=plan.pk).update(step=plan.step, next_at=now)
    work.enqueue(
        kind=STEP,
        arguments={"plan": str(plan.pk), "step": plan.step},
        key=step_key(plan),
        delay_seconds=delay_seconds,
        now=now,
    )


def step_key(plan: RedrivePlan) -> str:
    """Under what the step that a plan waits for is known among durable work."""
    return f"{plan.pk}:{plan.step}"


def _tell(plan: RedrivePlan) -> None:
    data = {"plan": str(plan.pk), "state": str(plan.state)}
    transaction.on_commit(partial(live.notify, live.DEAD_LETTERS, data))


def _facts_of(plan: RedrivePlan) -> dict[str, Any]:
    return {
        "letters": plan.size,
        "digest": plan.letters_digest,
        "edit": plan.edit_digest,
        "tenants": plan.tenants,
        "fingerprint": plan.fingerprint,
    }


# --- the kind of change ----------------------------------------------------------------------------------------------
def _survey(targets: Iterable[str]) -> dict[str, Surveyed]:
    """Each plan with what its dry run found: another dry run voids what was signed."""
    names = {target: plan_named(target) for target in targets}
    plans = RedrivePlan.objects.in_bulk(names.values())
    return {target: Surveyed({"dry_run": plans[pk].checked_digest}, plans[pk]) for target, pk in names.items()}


def _facts(content: Mapping[str, Any]) -> dict[str, Any]:
    kinds, categories = content["kinds"], content["categories"]
    kind = (JOB if kinds == [JOB] else OTHER) if len(kinds) == 1 else MIXED
    return {
        "has_tools": content["has_tools"],
        "is_edited": content["edit"] is not None,
        "size": content["size"],
        "kind": kind,
        "category": categories[0] if len(categories) == 1 else MIXED,
    }


def _apply(change: ChangeRequest, *, authorisation: approvals.Authorisation, actor: Any, now: datetime) -> None:
    plan = RedrivePlan.objects.select_for_update().get(change=change)
    if digest_of_letters(letter_ids(plan)) != plan.letters_digest or content_of(plan) != change.content:
        raise BadPlan(f"the letters of {plan.title} are not those that were signed; look at the log")
    if edits.digest_of_edit(plan.edit) != plan.edit_digest:
        raise BadPlan(f"the edit of {plan.title} is not the one that was signed; look at the log")
    counted = any(validity is Validity.COUNTS for _, validity in authorisation.standing.signatures)
    if (plan.has_tools or plan.is_edited) and not counted:
        raise NeedsSignOff(plan.title, why="brings tools" if plan.has_tools else "is edited")
    start_plan(plan, actor=actor, reason=f"CR-{change.pk}", now=now)


def _abandon(change: ChangeRequest, *, actor: Any, reason: str, now: datetime) -> None:
    """What was rejected is over; what was withdrawn can be tried dry again."""
    plan = RedrivePlan.objects.get(change=change)
    if plan.state != PlanState.PROPOSED:
        return
    if ChangeRequest.objects.get(pk=change.pk).state == ChangeState.REJECTED:
        move(plan, PlanEvent.WITHDRAWN, now=now, ended_by=audit.name_of(actor), note=reason[:300])
    else:
        move(plan, PlanEvent.SENT_BACK, now=now, note=reason[:300])


KIND = Kind(
    name=KIND_NAME,
    label="Redrive of dead letters",
    survey=_survey,
    facts=_facts,
    view_permission=VIEW_PLAN,
    sign_off_permission="deadletters.sign_off_redrive",
    break_glass_permission="",
    review_permission="",
    apply=_apply,
    abandon=_abandon,
    seen=names_of_plans,
    follows="the canary hands its letters in, one at a time",
    conditions={
        "has_tools": frozenset({True, False}),
        "is_edited": frozenset({True, False}),
        "size": frozenset({"small", "medium", "large"}),
        "kind": frozenset({JOB, OTHER, MIXED}),
        "category": frozenset({*CATEGORIES, MIXED}),
    },
)
