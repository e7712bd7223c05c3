"""Begin, cancel and end runs of evals; what their workers write down is in `runner`."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final

from django.db import transaction

from controlplane import live
from controlplane.accounts.models import Operator
from controlplane.approvals.models import ChangeRequest
from controlplane.audit import operations as audit
from controlplane.evals.errors import AlreadyRunning, NoStandard, NothingToAsk, RunIsOver
from controlplane.evals.models import EvalSetVersion
from controlplane.evals.runs import (
    TRANSITIONS,
    EvalRun,
    EvalStandard,
    RunEvent,
    RunPurpose,
    RunState,
    demand_digest,
)
from controlplane.evals.standards import DEFAULT_COST_MICROS, judge_versions
from controlplane.evals.subjects import Subject
from controlplane.work import arguments
from controlplane.work import operations as work
from controlplane.work.deaths import Death

RUN: Final = "evals.run"


@audit.operation
def begin_run(
    *,
    subject: Subject,
    set_version: EvalSetVersion,
    actor: Operator | str,
    now: datetime,
    judges: Sequence[str] = (),
    standard: EvalStandard | None = None,
    max_cost_micros: int | None = None,
    change: ChangeRequest | None = None,
) -> EvalRun:
    """Have a subject asked every row of a set version that it can be asked, and the answers judged.

    Args:
        set_version: With its set fetched.
        judges: To look at the answers where nothing hangs on them, such as grounded@2; none: those of the standard.
        standard: What the answers are held to; None: the newest of the set, unless `judges` are given.
        max_cost_micros: At which the run stops; None: what the standard says.
        change: The change that waits for it.
    Raises:
        NoStandard: nobody said what answers to the set are held to, and no judges are given.
        InvalidStandard: a judge is none.
        NothingToAsk: no row can be asked of the subject.
        AlreadyRunning: exactly this is being run.
    """
    if standard is None and not judges:
        standard = EvalStandard.objects.filter(set=set_version.set_id).first()
        if standard is None:
            raise NoStandard(f"nobody has said what answers to {set_version.set.slug!r} are held to; set a standard")
    thresholds: Mapping[str, float] = {} if judges or standard is None else standard.thresholds
    pinned = sorted(judge_versions(judges)) if judges or standard is None else list(standard.judges)
    total = set_version.rows.filter(subject.takes()).count()
    if not total:
        raise NothingToAsk(f"no row of {set_version} can be asked of {subject.name}")
    digest = demand_digest(subject, set_version, judges=pinned, thresholds=thresholds)
    same = EvalRun.objects.of([digest]).unended().first()
    if same is not None:
        raise AlreadyRunning(f"run {same.pk} asks {subject.name} exactly this already; wait for it", same.pk)
    if max_cost_micros is None:
        max_cost_micros = DEFAULT_COST_MICROS if standard is None else standard.max_cost_micros
    run = EvalRun.objects.create(
        subject=subject.to_json(),
        subject_name=subject.name,
        subject_digest=subject.digest,
        set_version=set_version,
        purpose=RunPurpose.LOOK if change is None else RunPurpose.GATE,
        change=change,
        judges=pinned,
        thresholds=dict(thresholds),
        digest=digest,
        max_cost_micros=max_cost_micros,
        total=total,
        actor=audit.name_of(actor),
        begun_at=now,
        moved_at=now,
    )
    enqueue_piece(run, 1, now=now)
    data = {
        "set": set_version.audit_name,
        "subject": subject.name,
        "digest": digest,
        "judges": pinned,
        "thresholds": run.thresholds,
        "max_cost_micros": max_cost_micros,
        "change": None if change is None else change.pk,
    }
    audit.record("evals.run_begun", actor=actor, target=run, at=now, data=data)
    return run


def enqueue_piece(run: EvalRun, piece: int, *, now: datetime) -> None:
    """Have the next rows of a run asked. One piece of a run is under way at a time, and each asks for the next, so that
    a long run does not stand before everybody else's work.
    """
    work.enqueue(kind=RUN, arguments={"run": run.pk, "piece": piece}, key=f"{run.pk}/{piece}", now=now)


@audit.operation
def cancel_run(*, run: EvalRun, actor: Operator | str, now: datetime) -> EvalRun:
    """End a run at once. What is under way is finished and thrown away; nothing more is asked.

    Raises:
        RunIsOver: it has ended.
    """
    name = audit.name_of(actor)
    if not move(run, RunEvent.CANCELLED, now=now, ended_at=now, ended_by=name):
        run.refresh_from_db()
        raise RunIsOver(f"run {run.pk} has ended: {run.get_state_display().lower()}")
    audit.record("evals.run_cancelled", actor=actor, target=run, at=now, data=run.facts())
    return run


# --- what workers do -------------------------------------------------------------------------------------------------
def move(run: EvalRun, event: RunEvent, *, now: datetime, **found: Any) -> bool:
    """Take the one legal step, if nobody else has meanwhile, and say so to whoever watches. Only this function writes
    `state`. `run` is as it is afterwards.
    """
    from_states = [before for before, what in TRANSITIONS if what is event]
    (after,) = {TRANSITIONS[before, event] for before in from_states}
    fields: dict[str, Any] = {"state": after, "moved_at": now, **found}
    if not EvalRun.objects.filter(pk=run.pk, state__in=from_states).update(**fields):
        return False
    run.refresh_from_db()
    announce(run)
    return True


def announce(run: EvalRun) -> None:
    """Tell pages how far a run is, once that is committed. Shape: {"run": int, "state": str, "passed": bool or null,
    "sentence": str, "unanswered": int, "cost_micros": int, **`Progress.to_json`}.
    """
    told = {
        "run": run.pk,
        "state": run.state,
        "passed": run.passed,
        "sentence": run.sentence,
        "unanswered": run.unanswered,
        "cost_micros": run.cost_micros,
        **run.progress.to_json(),
    }
    transaction.on_commit(partial(live.notify, live.eval_topic(run.pk), told))


@audit.operation
def end_run(run: EvalRun, *, now: datetime) -> None:
    """Say what a run found whose every row was asked; nothing where it is over."""
    current = EvalRun.objects.select_for_update().filter(pk=run.pk, state=RunState.RUNNING).first()
    if current is None:
        return
    passed, problem = _result(current)
    move(run, RunEvent.ENDED, now=now, ended_at=now, passed=passed, problem=problem)
    audit.record("evals.run_ended", actor=run.actor, target=run, at=now, data=run.facts() | {"problem": problem})


def _result(run: EvalRun) -> tuple[bool | None, str]:
    """Whether a run passes, and why not where its figures do not say it."""
    if not run.thresholds:
        return None, ""
    loose = uncalibrated(run.judges, run.thresholds)
    if loose:
        return False, f"{', '.join(loose)} uncalibrated, so nothing passes by their word"
    return all(count.is_met for count in run.counts), ""


def uncalibrated(judges: Sequence[str], thresholds: Mapping[str, float]) -> list[str]:
    """Which of these judges, of those that a threshold hangs on, were not found to agree with people; two queries."""
    (loose,) = all_uncalibrated([(judges, thresholds)])
    return loose


def all_uncalibrated(held: Sequence[tuple[Sequence[str], Mapping[str, float]]]) -> list[list[str]]:
    """As `uncalibrated`, of each of several standards; two queries, none for none."""
    if not held:
        return []
    found = judge_versions({name for judges, _ in held for name in judges}, most=None)
    loose = {name: one.judge.score for name, one in found.items() if not one.is_calibrated}
    return [sorted(name for name in judges if loose.get(name) in thresholds) for judges, thresholds in held]


@audit.operation
def fail_run(run: EvalRun, *, problem: str, now: datetime) -> None:
    """End a run that cannot go on; nothing where it is over."""
    if move(run, RunEvent.FAILED, now=now, ended_at=now, problem=problem[:500]):
        data = run.facts() | {"problem": run.problem}
        audit.record("evals.run_failed", actor=run.actor, target=run, at=now, data=data)


def begun_before_switch(key_id: str, switched_at: datetime, now: datetime) -> list[str]:
    """Runs that bring what the key signed with each of their requests: see `releases.trust`."""
    runs = EvalRun.objects.unended().filter(started_at__lt=switched_at).order_by("pk")
    return [f"eval run {run.pk} began before the new key signed, and asks on; wait, or cancel it" for run in runs]


def bury(death: Death, now: datetime) -> None:
    """Fail the run whose work nobody will try again: as `work.deaths.register` wants it."""
    if death.name != RUN:
        return
    run = EvalRun.objects.filter(pk=arguments.read(death.payload)["run"]).first()
    if run is not None:
        fail_run(run, problem=f"its work failed for good: {death.failure.message}", now=now)
