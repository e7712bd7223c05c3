"""Hold a judge against people: have it judge answers that were labelled, and say how far both agree."""

import logging
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import datetime
from typing import Any, Final

from django.db import Error
from django.utils import timezone

from controlplane.accounts.models import Operator
from controlplane.audit import operations as audit
from controlplane.evals.agreement import Agreement
from controlplane.evals.errors import AlreadyCalibrating, NobodyToAsk, NothingToCalibrate
from controlplane.evals.judges import asking
from controlplane.evals.judges.kinds import JudgeKind, Judging, judge_answer
from controlplane.evals.judges.values import Answered, Asker
from controlplane.evals.models import Calibration, CalibrationState, EvalRow, EvalSetVersion, JudgeVersion
from controlplane.evals.rows import Row
from controlplane.work import operations as work
from controlplane.work.handlers import Attempt

logger = logging.getLogger(__name__)

RUN: Final = "evals.calibrate"
# So many rows are judged, and told, at a time.
AT_A_TIME: Final = 25


@audit.operation
def calibrate(
    *, judge_version: JudgeVersion, set_version: EvalSetVersion, actor: Operator | str, now: datetime
) -> Calibration:
    """Have a judge held against the labels of a set; a worker does it, and says how far it is.

    Raises:
        NothingToCalibrate: no row has an answer and a label for the judge.
        AlreadyCalibrating: it is being done.
        NobodyToAsk: the judge asks a gateway, and there is none.
    """
    if judge_version.kind != JudgeKind.DETERMINISTIC and not asking.is_provided():
        raise NobodyToAsk(f"{judge_version} asks a route of the gateway, and none is set up for judges to ask")
    labelled = _labelled(judge_version, set_version).count()
    if not labelled:
        raise NothingToCalibrate(
            f"no row of {set_version} has an answer with a label for {judge_version.judge.slug!r}; import some"
        )
    same = Calibration.objects.filter(judge_version=judge_version, set_version=set_version)
    if same.running(now).exists():
        raise AlreadyCalibrating(f"{judge_version} is being calibrated on {set_version} already; wait for the result")
    made = Calibration.objects.create(
        judge_version=judge_version,
        set_version=set_version,
        actor=audit.name_of(actor),
        started_at=now,
        moved_at=now,
        labelled=labelled,
    )
    work.enqueue(kind=RUN, arguments={"calibration": made.pk}, now=now)
    data = {"calibration": made.pk, "set": set_version.audit_name, "labelled": labelled}
    audit.record("evals.calibration_begun", actor=actor, target=judge_version, at=now, data=data)
    return made


def _labelled(judge_version: JudgeVersion, set_version: EvalSetVersion) -> Any:
    """The rows whose answers somebody labelled for the judge, in their order."""
    return set_version.rows.filter(document__has_key="answer", document__labels__has_key=judge_version.judge.slug)


# --- what a worker does ----------------------------------------------------------------------------------------------
def run_work(arguments: dict[str, Any], attempt: Attempt) -> None:
    """As `controlplane.work` calls it."""
    run_calibration(arguments["calibration"], now=timezone.now)


def run_calibration(pk: int, *, now: Callable[[], datetime]) -> None:
    """Judge every labelled answer, from the beginning; nothing where that is over."""
    made = (
        Calibration.objects.select_related("judge_version__judge", "set_version__set")
        .filter(pk=pk, state=CalibrationState.RUNNING)
        .first()
    )
    if made is None:
        return
    try:
        _run(made, now=now)
    except Error:
        raise  # the database is away: the work is tried again
    except Exception as exc:
        logger.exception("calibration %s cannot be made", pk)
        _end(made, CalibrationState.FAILED, at=now(), problem=f"{type(exc).__name__}; it is in the log of the workers")


def _run(made: Calibration, *, now: Callable[[], datetime]) -> None:
    judging = made.judge_version.read()
    is_asking = made.judge_version.kind != JudgeKind.DETERMINISTIC
    residency = made.set_version.set.residency
    counts = {"abstained": 0, "good_passed": 0, "good_failed": 0, "bad_passed": 0, "bad_failed": 0}
    judged = 0
    with asking.asking(residency, purpose=f"calibration-{made.pk}") if is_asking else nullcontext() as asker:
        for row in _rows(made):
            counts[_outcome(judging, row, made.judge_version.judge.slug, asker)] += 1
            judged += 1
            if judged % AT_A_TIME == 0:
                _update(made, judged=judged, moved_at=now())
    found = Agreement(**{name: count for name, count in counts.items() if name != "abstained"})
    _end(made, CalibrationState.DONE, at=now(), judged=judged, kappa=found.kappa, **counts)


def _rows(made: Calibration) -> Iterator[Row]:
    rows: Any = _labelled(made.judge_version, made.set_version)
    for row in rows.order_by("position").iterator(chunk_size=AT_A_TIME):
        assert isinstance(row, EvalRow)  # noqa: S101 - narrows the type
        yield row.read()


def _outcome(judging: Judging, row: Row, judge: str, asker: Asker | None) -> str:
    """The name of the count that the judge's word on a labelled answer adds to."""
    score = judge_answer(judging, row, Answered(row.answer or "", is_json=row.is_json), asker=asker)
    if score.passed is None:
        return "abstained"
    return f"{'good' if row.labels[judge] else 'bad'}_{'passed' if score.passed else 'failed'}"


def _update(made: Calibration, **fields: Any) -> bool:
    return bool(Calibration.objects.filter(pk=made.pk, state=CalibrationState.RUNNING).update(**fields))


@audit.operation
def _end(made: Calibration, state: CalibrationState, *, at: datetime, **found: Any) -> None:
    """Take the one legal step, if nobody else has: a worker that was held dead may come to its end too."""
    if not _update(made, state=state, ended_at=at, moved_at=at, **found):
        return
    made.refresh_from_db()
    action = "evals.calibrated" if made.state == CalibrationState.DONE else "evals.calibration_failed"
    data = made.facts() | {"set": made.set_version.audit_name, "problem": made.problem}
    audit.record(action, actor=made.actor, target=made.judge_version, at=at, data=data)
