"""Runs of evals as pages show them: how far they are, what they found by row, and what a change waits for."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.db.models import Case, IntegerField, Q, QuerySet, Value, When

from controlplane.approvals.models import ChangeRequest
from controlplane.console.templatetags.ballast import micros
from controlplane.evals.gate import Met, Unknown, look_into
from controlplane.evals.rows import Row
from controlplane.evals.runs import EvalAnswer, EvalRun, RunState, ScoreCount

NONE: Final = "–"
_FAILED: Final = Q(scores__contains=[{"applies": True, "passed": False}])
_UNDECIDED: Final = Q(scores__contains=[{"applies": True, "passed": None}])


@dataclass(frozen=True, slots=True)
class RunLine:
    """A run with what there is to say of it now."""

    run: EvalRun
    is_stalled: bool
    may_cancel: bool = False

    @property
    def tone(self) -> str:
        """good: it passed; bad: it did not, or broke off; watch: nobody moves it; info: it asks, or only looked."""
        run = self.run
        if self.is_stalled:
            return "watch"
        if run.state == RunState.CANCELLED:
            return "off"
        if run.state == RunState.FAILED or run.passed is False:
            return "bad"
        return "good" if run.passed else "info"

    @property
    def verdict(self) -> str:
        """In a word or two."""
        run = self.run
        if run.state == RunState.QUEUED:
            return "waits for a worker"
        if run.state == RunState.RUNNING:
            return "asking"
        if run.state == RunState.CANCELLED:
            return "cancelled"
        if run.state == RunState.FAILED:
            return "stopped"
        return {True: "passed", False: "did not pass", None: "looked at"}[run.passed]

    @property
    def sentence(self) -> str:
        """Verdict and why, in a line."""
        run = self.run
        if run.is_over:
            said = run.sentence if run.state == RunState.CANCELLED else f"{self.verdict}: {run.sentence}"
            return f"{said[:1].upper()}{said[1:]}."
        if self.is_stalled:
            return (
                f"Nobody has moved it for minutes, after {run.asked:,} of {run.total:,} rows. Its work comes back by "
                "itself once a worker is there; or cancel it."
            )
        if run.state == RunState.QUEUED:
            return f"It waits for a worker; {run.total:,} rows are to be asked."
        return f"{run.asked:,} of {run.total:,} rows asked so far."

    @property
    def note(self) -> str:
        """What stands beside its bar: '20 of 45 rows · 3.2 a second · about 8 s left · $0.01 of $10.00'."""
        run, progress = self.run, self.run.progress
        said = [f"{progress.asked:,} of {progress.total:,} rows"]
        if progress.per_second is not None and not self.is_stalled:
            said.append(f"{progress.per_second:,.1f} a second")
        if progress.eta_seconds is not None and not self.is_stalled:
            said.append(f"about {duration(progress.eta_seconds)} left")
        if run.unanswered:
            said.append(f"{run.unanswered:,} without an answer")
        return " · ".join([*said, f"{micros(run.cost_micros)} of {micros(run.max_cost_micros)}"])

    @property
    def cancel_effect(self) -> str:
        """What cancelling does, for whoever is asked."""
        # Without numbers: they go on while the question stands.
        waits = f" CR-{self.run.change_id} goes on waiting until it is run again." if self.run.change_id else ""
        return f"Nothing more is asked; the answers so far stay, and the run passes nothing.{waits}"


def run_lines(runs: Iterable[EvalRun], *, now: datetime, actor: str = "", manages: bool = False) -> list[RunLine]:
    """Runs as the reader sees them: whoever manages evals may cancel any, and everybody their own."""
    return [
        RunLine(run, run.is_stalled(now), may_cancel=not run.is_over and (manages or run.actor == actor))
        for run in runs
    ]


def duration(seconds: float) -> str:
    """'8 s', '3 min', '2 h'."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{round(seconds / 3600)} h"


# --- scores ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class ScoreLine:
    """One score of a run, for people."""

    count: ScoreCount
    is_over: bool

    @property
    def share(self) -> str:
        return NONE if self.count.share is None else f"{self.count.share:.1%}"

    @property
    def needed(self) -> str:
        return "nothing hangs on it" if self.count.threshold is None else f"{100 * self.count.threshold:g} %"

    @property
    def shows(self) -> str:
        """The noise floor of so many rows."""
        return NONE if not self.count.n else f"at least {self.count.lower:.1%}"

    @property
    def verdict(self) -> tuple[str, str]:
        """Tone and word."""
        if self.count.threshold is None:
            return "off", "not gated"
        if self.count.is_met:
            return "good", "met" if self.is_over else "met so far"
        return ("bad", "not met") if self.is_over else ("watch", "not met so far")


def score_lines(run: EvalRun) -> list[ScoreLine]:
    """Every score that was given or that something hangs on."""
    return [ScoreLine(count, run.is_over) for count in run.counts]


# --- answers ---------------------------------------------------------------------------------------------------------
def ranked_answers(run: EvalRun, *, only_bad: bool) -> QuerySet[EvalAnswer]:
    """What failed first, then what could not be said, then the rest; each in the order of the rows."""
    rank = Case(
        When(_FAILED, then=Value(0)),
        When(~Q(problem_code=""), then=Value(1)),
        When(_UNDECIDED, then=Value(2)),
        default=Value(3),
        output_field=IntegerField(),
    )
    found = run.answers.select_related("row").annotate(rank=rank).order_by("rank", "row__position")
    return found.filter(rank__lt=3) if only_bad else found


@dataclass(frozen=True, slots=True)
class AnswerLine:
    """What came of one row. `row` None: the words are not for the reader."""

    answer: EvalAnswer
    row: Row | None

    @property
    def verdict(self) -> tuple[str, str]:
        """Tone and words."""
        if self.answer.is_unanswered:
            return "watch", "no answer"
        if self.answer.problem_code:
            return "bad", "withheld"
        given = [score for score in self.answer.scores if score["applies"]]
        if any(score["passed"] is False for score in given):
            return "bad", "failed"
        if any(score["passed"] is None for score in given):
            return "watch", "undecided"
        return ("good", "passed") if given else ("off", "not judged")

    @property
    def scores(self) -> list[dict[str, Any]]:
        """What each judge that the row is for said: {"judge", "tone", "word", "why"}."""
        tones = {True: ("good", "passed"), False: ("bad", "failed"), None: ("watch", "cannot say")}
        return [
            {
                "judge": score["judge"],
                "tone": tones[score["passed"]][0],
                "word": tones[score["passed"]][1],
                "why": score["why"] if self.row is not None else "",
            }
            for score in self.answer.scores
            if score["applies"]
        ]

    @property
    def text(self) -> str:
        """The answer, with the functions that it calls."""
        parts = [self.answer.text] if self.answer.text else []
        parts += [f"{name}({arguments})" for name, arguments in self.answer.tool_calls]
        return "\n".join(parts)


def answer_lines(answers: Iterable[EvalAnswer], *, may_read: bool) -> list[AnswerLine]:
    """Answers with their rows' words, if the reader may have them."""
    return [AnswerLine(one, one.row.read() if may_read else None) for one in answers]


# --- beside another run ----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Flips:
    """Rows that one run passed and the other did not, by their keys. Rows that only one of both asked say nothing."""

    other: EvalRun
    worse: tuple[str, ...]
    better: tuple[str, ...]
    same: int

    @property
    def sentence(self) -> str:
        """In a line; what so few rows can show is said too."""
        both = self.same + len(self.worse) + len(self.better)
        if not both:
            return f"No row was asked in both, so nothing can be said beside run {self.other.pk}."
        if not self.worse and not self.better:
            return f"The same {both:,} rows passed and failed as in run {self.other.pk}."
        return (
            f"Beside run {self.other.pk} ({self.other.subject_name}), of {both:,} rows {len(self.worse):,} went from "
            f"passed to failed and {len(self.better):,} from failed to passed."
        )


def flips(run: EvalRun, other: EvalRun) -> Flips:
    """Row by row, by the ids of rows, so that versions of a set can be compared too; two queries."""
    now, before = _fates(run), _fates(other)
    both = [key for key in now if key in before]
    worse = tuple(key for key in both if before[key] and not now[key])
    better = tuple(key for key in both if now[key] and not before[key])
    return Flips(other, worse, better, len(both) - len(worse) - len(better))


def _fates(run: EvalRun) -> Mapping[str, bool]:
    """By row, whether its answer passed all that it was judged by."""
    found = run.answers.order_by("row__position").values_list("row__key", "problem_code", "scores")
    return {
        key: not problem and all(score["passed"] is True for score in scores if score["applies"])
        for key, problem, scores in found
    }


# --- what a change waits for -----------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class GateLine:
    """One run that a change needs; `line` None: it was not begun, and `lacking` says why where that is known."""

    met: Met
    line: RunLine | None
    lacking: str

    @property
    def name(self) -> str:
        return self.met.demand.name

    @property
    def tone(self) -> str:
        if self.met.is_met:
            return "good"
        return "bad" if self.line is None else self.line.tone

    @property
    def is_asking(self) -> bool:
        return self.line is not None and not self.line.run.is_over

    @property
    def text(self) -> str:
        """What there is to know of it in one sentence."""
        if self.line is None:
            return f"It {self.lacking or 'was not asked yet'}."
        return self.line.sentence


@dataclass(frozen=True, slots=True)
class GateSection:
    """What the review of a change says of evals: nothing for most changes. `unknown` is empty once it is closed."""

    lines: Sequence[GateLine]
    unknown: Sequence[Unknown]

    @property
    def is_asking(self) -> bool:
        return any(line.is_asking for line in self.lines)

    @property
    def can_run(self) -> bool:
        """Whether a run could be begun, if its judges are calibrated."""
        return any(not line.met.is_met and not line.is_asking for line in self.lines)

    @property
    def checklist(self) -> list[dict[str, Any]]:
        """The same for `reviews/_checklist.html`."""
        found = [
            {"text": f"{line.name}: {line.text[:1].lower()}{line.text[1:].rstrip('.')}", "met": line.met.is_met}
            for line in self.lines
        ]
        return [*found, *({"text": f"{one.said[:1].upper()}{one.said[1:]}", "met": None} for one in self.unknown)]


def gate_section(change: ChangeRequest, unmet: Sequence[str], *, now: datetime) -> GateSection:
    """Every run that a change of routing waits for, and what no run can show. What is asked now is shown before what
    was found earlier.

    Args:
        unmet: Why nobody may approve the change, as `approvals.preparations` says it.
    """
    found, unknown = look_into(change)
    lines = []
    for met in found:
        run = met.run if met.is_met else met.under_way or met.run
        name = met.demand.name
        lacking = next((said.removeprefix(name).strip() for said in unmet if said.startswith(name)), "")
        lines.append(GateLine(met, None if run is None else RunLine(run, run.is_stalled(now)), lacking))
    return GateSection(lines, unknown if change.is_open else ())
