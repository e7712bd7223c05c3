"""Have the validator policies of a change tried on stored answers, and say how far that is.

An app of its own, above both sides that it brings together: routing may know nothing of what workers report, and
telemetry nothing of changes. Approvals know it as a preparation only.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from controlplane.accounts.models import Operator
from controlplane.approvals.models import ChangeRequest
from controlplane.approvals.preparations import Preparation
from controlplane.audit import operations as audit
from controlplane.routing.models import RoutingTable
from controlplane.routing.operations import KIND_NAME
from controlplane.telemetry.samples import AnswerSample
from controlplane.trials.errors import AlreadyTrying, NothingToTry
from controlplane.trials.models import TrialState, ValidatorTrial
from controlplane.trials.subjects import Document, Subject, subjects_of
from controlplane.work import operations as work

RUN: Final = "trials.run"
MAX_SAMPLES: Final = 1_000


def subjects(change: ChangeRequest) -> list[Subject]:
    """The validator policies that have to be tried before the change is approved; two queries, for routing alone."""
    if change.kind != KIND_NAME:
        return []
    numbers = [change.content["number"], *([change.base["number"]] if change.base else [])]
    documents = dict(RoutingTable.objects.filter(number__in=numbers).values_list("number", "document"))
    return subjects_of(documents.get(numbers[1]) if change.base else None, documents[numbers[0]])


def trials_of(change: ChangeRequest) -> list[tuple[Subject, ValidatorTrial | None]]:
    """Each policy that has to be tried, with its trial: the newest that is done, else the newest."""
    return _with_trials(subjects(change))


def _with_trials(asked: Sequence[Subject]) -> list[tuple[Subject, ValidatorTrial | None]]:
    found: dict[str, ValidatorTrial] = {}
    for trial in ValidatorTrial.objects.of(asked) if asked else ():
        known = found.get(trial.digest)
        if known is None or (trial.is_done and not known.is_done):
            found[trial.digest] = trial
    return [(subject, found.get(subject.digest)) for subject in asked]


@audit.operation
def try_change(*, change: ChangeRequest, actor: Operator | str, now: datetime) -> list[ValidatorTrial]:
    """Try every policy of the change on what is stored now, also those that were tried before.

    Raises:
        NothingToTry: there is none.
        AlreadyTrying: all of them are being tried.
    """
    asked = subjects(change)
    if not asked:
        raise NothingToTry(f"CR-{change.pk} puts no validator policy in force that is new or different")
    begun = _begin(change, asked, actor=actor, now=now)
    if not begun:
        raise AlreadyTrying(f"the validator policies of CR-{change.pk} are being tried already; wait for the result")
    return begun


def begin(change: ChangeRequest, *, actor: Any, now: datetime) -> None:
    """Try what was never tried; in the operation that opened the change or gave it other content."""
    missing = [subject for subject, trial in trials_of(change) if trial is None or not trial.is_done]
    _begin(change, missing, actor=actor, now=now)


def _begin(
    change: ChangeRequest, asked: Sequence[Subject], *, actor: Operator | str, now: datetime
) -> list[ValidatorTrial]:
    audit.require_operation()  # its lock keeps two from trying the same at a time
    busy = set(ValidatorTrial.objects.of(asked).running(now).values_list("digest", flat=True)) if asked else set()
    begun = []
    for subject in asked:
        if subject.digest in busy:
            continue
        trial = ValidatorTrial.objects.create(
            change=change,
            policy=subject.policy,
            routes=list(subject.routes),
            document=dict(subject.document),
            digest=subject.digest,
            actor=audit.name_of(actor),
            started_at=now,
            moved_at=now,
        )
        work.enqueue(kind=RUN, arguments={"trial": trial.pk}, now=now)
        data = {"trial": trial.pk, "policy": subject.policy, "digest": subject.digest}
        audit.record("change.trial_begun", actor=actor, target=change, at=now, data=data)
        begun.append(trial)
    return begun


# --- what approvals ask ----------------------------------------------------------------------------------------------
def unmet(change: ChangeRequest) -> list[str]:
    """As `Preparation.unmet`."""
    said = []
    found = trials_of(change)
    emptied = _came_since([trial for _, trial in found if trial is not None and trial.is_done and not trial.available])
    for subject, trial in found:
        name = f"validator policy {subject.policy!r}"
        if trial is None:
            said.append(f"{name} was not tried on stored answers yet")
        elif trial.state == TrialState.FAILED:
            said.append(f"the trial of {name} failed: {trial.problem}; try it again")
        elif not trial.is_done:
            said.append(f"{name} is being tried: {trial.tried:,} of {trial.available:,} stored answers so far")
        elif trial.pk in emptied:
            said.append(f"{name} was tried while no answer was stored; now some are, so try it again")
    return said


def _came_since(trials: Sequence[ValidatorTrial]) -> set[int]:
    """Which of these, of trials that found nothing to try, would find something now; at most one query."""
    routes = {route for trial in trials for route in trial.routes}
    if not routes:
        return set()
    stored = set(AnswerSample.objects.allowed().of_routes(routes).values_list("route", flat=True).distinct())
    return {trial.pk for trial in trials if stored.intersection(trial.routes)}


def to_see(change: ChangeRequest) -> list[str]:
    """As `Preparation.to_see`: what was tried on nothing."""
    return [
        f"no answer of {_routes(subject)} is stored, so nobody knows what {subject.policy!r} would block"
        for subject, trial in trials_of(change)
        if trial is not None and trial.is_done and not trial.tried
    ]


def _routes(subject: Subject) -> str:
    return f"route{'' if len(subject.routes) == 1 else 's'} {', '.join(subject.routes)}"


def facts(change: ChangeRequest) -> Mapping[str, Any]:
    """As `Preparation.facts`: every trial that the approval rests on."""
    found = [trial.facts() for _, trial in trials_of(change) if trial is not None]
    return {"trials": found} if found else {}


PREPARATION: Final = Preparation(begin=begin, unmet=unmet, to_see=to_see, facts=facts)


# --- reading what was found ------------------------------------------------------------------------------------------
def trials_in_force(document: Document) -> dict[str, ValidatorTrial]:
    """The newest trial that is done of each policy exactly as a routing table has it, by its name; one query."""
    asked = subjects_of(None, document)
    done = ValidatorTrial.objects.of(asked).filter(state=TrialState.DONE).order_by("id") if asked else ()
    return {trial.policy: trial for trial in done}


def last_measured() -> dict[str, ValidatorTrial]:
    """The newest trial on any answers of each policy, as it is or as somebody wanted it, by its name; one query."""
    done = ValidatorTrial.objects.filter(state=TrialState.DONE, tried__gt=0)
    return {trial.policy: trial for trial in done.order_by("policy", "-id").distinct("policy")}
