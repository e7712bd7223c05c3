"""Asks the rows of a run, some at a time: what a worker does until every row was asked or somebody cancels."""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import datetime
from time import monotonic
from typing import Any, Final, Protocol

from django.db import Error, transaction
from django.db.models import Exists, OuterRef
from django.utils import timezone

from controlplane.evals.asking import CONCURRENCY, Answered, Asker, JudgesAsker, NotAnswered, open_asker
from controlplane.evals.judges.kinds import Judging, judge_answer
from controlplane.evals.judges.values import Score
from controlplane.evals.models import EvalRow
from controlplane.evals.placing import Placed, place
from controlplane.evals.rows import Row
from controlplane.evals.running import announce, end_run, enqueue_piece, fail_run, move
from controlplane.evals.runs import EvalAnswer, EvalRun, RunEvent, RunState
from controlplane.evals.standards import judge_versions
from controlplane.work.handlers import Attempt

logger = logging.getLogger(__name__)

ROWS_PER_PIECE: Final = 20
# After that nothing more is begun in this piece: a worker is given 300 s, and the last rows may be asked three times.
BEGIN_SECONDS: Final = 45.0
MAX_TEXT_CHARACTERS: Final = 100_000


class OpenAsker(Protocol):
    """`asking.open_asker`."""

    def __call__(self, *, run: str, residency: Iterable[str]) -> AbstractContextManager[Asker]: ...


@dataclass(frozen=True, slots=True)
class PinnedJudge:
    """A judge of a run."""

    name: str
    score: str
    judging: Judging


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one row. `scores` is empty where there is no answer."""

    row: EvalRow
    came: Answered | NotAnswered
    scores: tuple[tuple[PinnedJudge, Score], ...]
    judging_micros: int


def run_work(arguments: dict[str, Any], attempt: Attempt) -> None:
    """As `controlplane.work` calls it."""
    run_piece(arguments["run"], arguments["piece"], now=timezone.now, clock=monotonic)


def run_piece(
    pk: int,
    piece: int,
    *,
    now: Callable[[], datetime],
    clock: Callable[[], float],
    open_asker: OpenAsker = open_asker,
) -> None:
    """Ask the next rows of a run and have the rest asked by another piece, or end the run; nothing where it is over.

    A row that was asked before is not asked again, so whoever takes the piece up after somebody who died goes on.
    """
    run = EvalRun.objects.with_set().filter(pk=pk).unended().first()
    if run is None:
        return
    try:
        move(run, RunEvent.BEGUN, now=now(), started_at=now())
        if _ask_some(run, now=now, clock=clock, open_asker=open_asker):
            enqueue_piece(run, piece + 1, now=now())
    except Error:
        raise  # the database is away: the work is tried again
    except Exception as exc:
        logger.exception("eval run %s cannot go on", pk)
        fail_run(run, problem=f"{type(exc).__name__}: {exc}", now=now())


def _ask_some(run: EvalRun, *, now: Callable[[], datetime], clock: Callable[[], float], open_asker: OpenAsker) -> bool:
    """Ask up to ROWS_PER_PIECE rows; whether there is more to ask."""
    began = clock()
    rows = _unasked(run)
    if not rows:
        end_run(run, now=now())
        return False
    placed, judges = place(run.read_subject()), _judges(run)
    told: list[Outcome] = []
    residency = run.set_version.set.residency
    with open_asker(run=f"eval-{run.pk}", residency=residency) as asker, ThreadPoolExecutor(CONCURRENCY) as pool:
        for first in range(0, len(rows), CONCURRENCY):
            if clock() - began > BEGIN_SECONDS:
                break
            some = [(row, row.read()) for row in rows[first : first + CONCURRENCY]]
            outcomes = list(pool.map(lambda pair: _outcome(asker, placed, judges, *pair), some))
            told += outcomes
            if not record(run, outcomes, scores={judge.score for judge in judges}, now=now()):
                return False
            if run.cost_micros >= run.max_cost_micros and run.asked < run.total:
                fail_run(run, problem=_too_dear(run), now=now())
                return False
    if len(told) >= ROWS_PER_PIECE and all(_is_unanswered(one.came) for one in told):
        fail_run(run, problem=_nobody_answers(told), now=now())
        return False
    if run.asked >= run.total:
        end_run(run, now=now())
        return False
    return True


def _unasked(run: EvalRun) -> list[EvalRow]:
    asked = EvalAnswer.objects.filter(run=run, row=OuterRef("pk"))
    rows = run.set_version.rows.filter(run.read_subject().takes()).exclude(Exists(asked))
    return list(rows.order_by("position")[:ROWS_PER_PIECE])


def _judges(run: EvalRun) -> list[PinnedJudge]:
    found = judge_versions(run.judges)
    return [PinnedJudge(name, found[name].judge.score, found[name].read()) for name in run.judges]


def _outcome(asker: Asker, placed: Placed, judges: Sequence[PinnedJudge], row: EvalRow, read: Row) -> Outcome:
    """Ask one row and have the answer judged; in a thread, so the database is none of its business."""
    came = asker.ask(placed, read)
    if isinstance(came, NotAnswered):
        return Outcome(row, came, (), 0)
    judges_asker = JudgesAsker(asker)
    scores = tuple((judge, judge_answer(judge.judging, read, came, asker=judges_asker)) for judge in judges)
    return Outcome(row, came, scores, judges_asker.cost_micros)


def _is_unanswered(came: Answered | NotAnswered) -> bool:
    return isinstance(came, NotAnswered) and not came.is_answers_fault


def _too_dear(run: EvalRun) -> str:
    return f"stopped at its cost limit: {run.cost_micros:,} of {run.max_cost_micros:,} microdollars are spent"


def _nobody_answers(told: Sequence[Outcome]) -> str:
    (came, count), *_ = Counter(
        f"{one.came.code}: {one.came.message}" for one in told if isinstance(one.came, NotAnswered)
    ).most_common(1)
    return f"stopped: {len(told)} rows one after the other got no answer, {count} of them for: {came}"


# --- what is written down --------------------------------------------------------------------------------------------
@transaction.atomic
def record(run: EvalRun, outcomes: Sequence[Outcome], *, scores: Collection[str], now: datetime) -> bool:
    """Keep what came of some rows, each once; False, and nothing is kept, where the run is over. `run` is as it is
    afterwards.

    Args:
        scores: All that the run's judges give.
    """
    # Its lock makes two workers of one run, one of them held dead too soon, count each row once.
    current = EvalRun.objects.select_for_update().filter(pk=run.pk, state=RunState.RUNNING).first()
    if current is None:
        return False
    known = set(current.answers.filter(row__in=[one.row for one in outcomes]).values_list("row_id", flat=True))
    new = [one for one in outcomes if one.row.pk not in known]
    EvalAnswer.objects.bulk_create(_answer(current, one, now=now) for one in new)
    run.scores = current.scores
    for one in new:
        run.scores = _tallied(run.scores, one, scores=scores)
    run.asked = current.asked + len(new)
    run.unanswered = current.unanswered + sum(_is_unanswered(one.came) for one in new)
    run.withheld = current.withheld + sum(
        isinstance(one.came, NotAnswered) and one.came.is_answers_fault for one in new
    )
    run.cost_micros = current.cost_micros + sum(one.came.cost_micros + one.judging_micros for one in new)
    run.moved_at = now
    run.save(update_fields=["scores", "asked", "unanswered", "withheld", "cost_micros", "moved_at"])
    announce(run)
    return True


def _tallied(
    counts: Mapping[str, Mapping[str, int]], one: Outcome, *, scores: Collection[str]
) -> dict[str, dict[str, int]]:
    """`counts` with one row more. No answer is a pass of nothing, and neither is one that a judge could not decide."""
    by_score: dict[str, list[Score]] = {}
    for judge, score in one.scores:
        if score.applies:
            by_score.setdefault(judge.score, []).append(score)
    found = {name: dict(count) for name, count in counts.items()}
    for name in sorted(scores):
        given = by_score.get(name, [])
        if not given and isinstance(one.came, Answered):
            continue
        count = found.setdefault(name, {"passed": 0, "n": 0, "undecided": 0})
        count["n"] += 1
        count["passed"] += bool(given) and all(score.passed is True for score in given)
        has_failed = any(score.passed is False for score in given)
        count["undecided"] += not has_failed and any(score.passed is None for score in given)
    return found


def _answer(run: EvalRun, one: Outcome, *, now: datetime) -> EvalAnswer:
    came = one.came
    answer = EvalAnswer(
        run=run,
        row=one.row,
        cost_micros=came.cost_micros,
        judging_micros=one.judging_micros,
        latency_ms=came.latency_ms,
        request_id=came.request_id[:60],
        at=now,
    )
    if isinstance(came, NotAnswered):
        answer.problem_code, answer.problem = came.code[:60], _storable(came.message)[:300]
        answer.is_unanswered = not came.is_answers_fault
        return answer
    answer.text, answer.refused, answer.schema_passed = _storable(came.text), came.refused, came.schema
    answer.tool_calls = [[_storable(name), _storable(arguments)] for name, arguments in came.tool_calls]
    answer.lane = came.lane[:200]
    answer.scores = [
        {"judge": judge.name, "score": judge.score, **asdict(score), "why": _storable(score.why)}
        for judge, score in one.scores
    ]
    return answer


def _storable(text: str) -> str:
    """A text without what PostgreSQL cannot keep, and no longer than anybody reads."""
    return text[:MAX_TEXT_CHARACTERS].replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
