"""Runs of evals: what was asked, how far it is, and what was found; and what answers to a set are held to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from math import sqrt
from typing import TYPE_CHECKING, Any, ClassVar, Final

import pgtrigger
from django.db import models
from django.db.models import Q

from controlplane.approvals.models import ChangeRequest
from controlplane.audit.models import append_only
from controlplane.evals.subjects import Subject, read_subject
from dataplane.release import canonical, digest_of

if TYPE_CHECKING:
    from controlplane.evals.models import EvalSetVersion

# A run that nobody moved for so long waits for a worker that is gone; its work comes back by itself, or is dead.
STALLED_AFTER: Final = timedelta(minutes=5)
_Z: Final = 1.6448536269514722  # of the standard normal, 95 %


# --- what answers are held to ----------------------------------------------------------------------------------------
class EvalStandardQuerySet(models.QuerySet["EvalStandard"]):
    def newest(self) -> EvalStandardQuerySet:
        """Of each set the last one."""
        last = EvalStandard.objects.order_by("set_id", "-id").distinct("set_id").values("pk")
        return self.filter(pk__in=last)


class EvalStandard(models.Model):
    """What answers to a set are held to. The newest of a set counts; the others say who had it otherwise before."""

    set = models.ForeignKey("evals.EvalSet", on_delete=models.PROTECT, related_name="standards")
    judges = models.JSONField(help_text="Versions of judges, such as grounded@2")
    thresholds = models.JSONField(help_text="By score, the share of rows that has to pass, above 0 and up to 1")
    routes = models.JSONField(default=list, help_text="Routes whose lanes have to pass it; empty: every route")
    prompt = models.SlugField(blank=True, help_text="By whose live version lanes are asked rows that give variables")
    max_cost_micros = models.BigIntegerField(help_text="What one run may cost, in microdollars")
    author = models.CharField(max_length=150)
    reason = models.TextField()
    created_at = models.DateTimeField()

    objects = EvalStandardQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-id"]
        triggers: ClassVar = [append_only()]

    def __str__(self) -> str:
        return f"Standard {self.pk} of set {self.set_id}"

    @property
    def audit_name(self) -> str:
        return f"eval-set:{self.set.slug}"

    def is_for(self, route: str) -> bool:
        """Whether lanes of a route have to pass it."""
        return not self.routes or route in self.routes

    def facts(self) -> dict[str, Any]:
        """What the audit record keeps of it."""
        names = ("judges", "thresholds", "routes", "prompt", "max_cost_micros")
        return {name: getattr(self, name) for name in names}


# --- runs ------------------------------------------------------------------------------------------------------------
class RunState(models.TextChoices):
    QUEUED = "queued", "Queued"
    RUNNING = "running", "Running"
    DONE = "done", "Done"
    FAILED = "failed", "Failed"
    CANCELLED = "cancelled", "Cancelled"


class RunEvent(StrEnum):
    """What happens to a run."""

    BEGUN = "begun"  # a worker is at it
    ENDED = "ended"  # every row was asked
    FAILED = "failed"  # it cannot go on, or has cost what it may
    CANCELLED = "cancelled"  # somebody wants it no more


TRANSITIONS: Final[Mapping[tuple[RunState, RunEvent], RunState]] = {
    (RunState.QUEUED, RunEvent.BEGUN): RunState.RUNNING,
    (RunState.QUEUED, RunEvent.FAILED): RunState.FAILED,
    (RunState.QUEUED, RunEvent.CANCELLED): RunState.CANCELLED,
    (RunState.RUNNING, RunEvent.ENDED): RunState.DONE,
    (RunState.RUNNING, RunEvent.FAILED): RunState.FAILED,
    (RunState.RUNNING, RunEvent.CANCELLED): RunState.CANCELLED,
}
OVER: Final = (RunState.DONE, RunState.FAILED, RunState.CANCELLED)


class RunPurpose(models.TextChoices):
    """Why it was begun."""

    LOOK = "look", "To look"
    GATE = "gate", "A change waits for it"


@dataclass(frozen=True, slots=True)
class ScoreCount:
    """One score of a run.

    Attributes:
        passed: Rows whose answers passed every judge of the score that they are for.
        n: Rows that count: the score's judges are for them, or they were not answered, which is no pass.
        undecided: Of these, rows of which a judge could not say, which is no pass either.
        threshold: The share that has to pass; None: nothing hangs on it.
    """

    name: str
    passed: int
    n: int
    undecided: int
    threshold: float | None

    @property
    def share(self) -> float | None:
        """Of `n`; None of nothing."""
        return self.passed / self.n if self.n else None

    @property
    def lower(self) -> float:
        """Wilson's lower bound of the share, one-sided, at 95 %: what so many rows can show of rows like them.

        Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22, 1927.
        """
        if not self.n:
            return 0.0
        share, n = self.passed / self.n, self.n
        centre = share + _Z**2 / (2 * n)
        spread = _Z * sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
        return max(0.0, (centre - spread) / (1 + _Z**2 / n))

    @property
    def is_met(self) -> bool:
        """Whether the share is the threshold at least; what floats make of 0.95 of 20 rows does not decide it."""
        return self.threshold is None or (self.n > 0 and self.passed >= self.threshold * self.n - 1e-9)

    @property
    def sentence(self) -> str:
        """For people: 'grounded 36 of 40, 95 % have to pass'."""
        said = f"{self.name} {self.passed:,} of {self.n:,}"
        if self.undecided:
            said += f", {self.undecided:,} undecided"
        return said if self.threshold is None else f"{said}, {100 * self.threshold:g} % have to pass"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is. `per_second` and `eta_seconds` are None where nothing can be said of them."""

    asked: int
    total: int
    per_second: float | None
    eta_seconds: float | None

    def to_json(self) -> dict[str, Any]:
        """Shape: {"asked": int, "total": int, "per_second": number or null, "eta_seconds": number or null}."""
        return {
            "asked": self.asked,
            "total": self.total,
            "per_second": None if self.per_second is None else round(self.per_second, 3),
            "eta_seconds": None if self.eta_seconds is None else round(self.eta_seconds),
        }


class EvalRunQuerySet(models.QuerySet["EvalRun"]):
    def with_set(self) -> EvalRunQuerySet:
        return self.select_related("set_version__set")

    def unended(self) -> EvalRunQuerySet:
        """Those that still ask, or will."""
        return self.filter(state__in=[RunState.QUEUED, RunState.RUNNING])

    def of(self, digests: Iterable[str]) -> EvalRunQuerySet:
        """Those of exactly these demands, newest first."""
        return self.filter(digest__in=list(digests)).order_by("-id")


class EvalRun(models.Model):
    """One subject, asked the rows of one version of a set, and held to thresholds by pinned judges.

    `digest` covers subject, rows, judges and thresholds: any other of these is another run's.
    """

    subject = models.JSONField(help_text="See `controlplane.evals.subjects.read_subject`")
    subject_name = models.CharField(max_length=300)
    subject_digest = models.CharField(max_length=64)
    set_version = models.ForeignKey("evals.EvalSetVersion", on_delete=models.PROTECT, related_name="runs")
    purpose = models.CharField(max_length=10, choices=RunPurpose.choices)
    change = models.ForeignKey(ChangeRequest, null=True, blank=True, on_delete=models.PROTECT, related_name="eval_runs")
    judges = models.JSONField(help_text="Versions of judges, such as grounded@2")
    thresholds = models.JSONField(help_text="By score, the share of rows that has to pass")
    digest = models.CharField(max_length=64)
    max_cost_micros = models.BigIntegerField()
    state = models.CharField(max_length=10, choices=RunState.choices, default=RunState.QUEUED)
    total = models.PositiveIntegerField(help_text="Rows that the subject can be asked")
    asked = models.PositiveIntegerField(default=0)
    unanswered = models.PositiveIntegerField(default=0, help_text="Of these, rows that got no answer in every attempt")
    withheld = models.PositiveIntegerField(default=0, help_text="Of these, rows whose answer the gateway kept back")
    scores = models.JSONField(default=dict, help_text='By score {"passed", "n", "undecided"}')
    cost_micros = models.BigIntegerField(default=0, help_text="Of answers and of judges")
    actor = models.CharField(max_length=150)
    begun_at = models.DateTimeField(help_text="When somebody asked for it")
    started_at = models.DateTimeField(null=True, blank=True, help_text="When a worker took it up")
    moved_at = models.DateTimeField(help_text="When its worker was heard of last")
    ended_at = models.DateTimeField(null=True, blank=True)
    ended_by = models.CharField(max_length=150, blank=True, help_text="Who cancelled it")
    passed = models.BooleanField(null=True, blank=True, help_text="Null: it is not done, or nothing hangs on it")
    problem = models.CharField(max_length=500, blank=True, help_text="Why it did not end, or passed nothing")

    objects = EvalRunQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-id"]
        indexes: ClassVar = [
            models.Index(fields=["digest", "-id"], name="eval_run_of_demand"),
            models.Index(fields=["subject_digest", "-id"], name="eval_run_of_subject"),
        ]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(state__in=[RunState.QUEUED, RunState.RUNNING], ended_at__isnull=True)
                | Q(state__in=OVER, ended_at__isnull=False),
                name="eval_run_ends_when_it_is_over",
            ),
            models.CheckConstraint(
                condition=Q(state=RunState.QUEUED, started_at__isnull=True) | ~Q(state=RunState.QUEUED),
                name="eval_run_starts_when_it_runs",
            ),
            models.CheckConstraint(
                condition=Q(passed__isnull=True) | Q(state=RunState.DONE), name="eval_run_passes_when_it_is_done"
            ),
            models.CheckConstraint(condition=Q(asked__lte=models.F("total")), name="eval_run_asks_each_row_once"),
        ]
        triggers: ClassVar = [
            pgtrigger.Protect(name="no_delete", operation=pgtrigger.Delete),
            # People sign for what it found.
            pgtrigger.Protect(
                name="result_is_fixed",
                operation=pgtrigger.Update,
                condition=pgtrigger.Q(old__state__in=["done", "failed", "cancelled"]),
            ),
            pgtrigger.Protect(
                name="subject_is_fixed",
                operation=pgtrigger.Update,
                condition=pgtrigger.AnyChange(
                    *("subject", "subject_digest", "set_version", "judges", "thresholds", "digest", "max_cost_micros")
                ),
            ),
        ]

    def __str__(self) -> str:
        return f"Eval run {self.pk} of {self.subject_name}"

    @property
    def audit_name(self) -> str:
        return f"eval-run:{self.pk}"

    @property
    def is_over(self) -> bool:
        return self.state in OVER

    @property
    def is_done(self) -> bool:
        return self.state == RunState.DONE

    def is_stalled(self, now: datetime) -> bool:
        """Whether its worker seems gone."""
        return not self.is_over and self.moved_at < now - STALLED_AFTER

    def read_subject(self) -> Subject:
        """What is asked."""
        return read_subject(self.subject)

    @property
    def progress(self) -> Progress:
        """How far it is; no query."""
        began, rate = self.started_at, None
        if began is not None and self.asked and (seconds := (self.moved_at - began).total_seconds()) > 0:
            rate = self.asked / seconds
        left = None if self.is_over or rate is None else (self.total - self.asked) / rate
        return Progress(self.asked, self.total, rate, left)

    @property
    def counts(self) -> list[ScoreCount]:
        """What was found so far, by score; every score that something hangs on is there."""
        names = sorted({*self.scores, *self.thresholds})
        none = {"passed": 0, "n": 0, "undecided": 0}
        return [ScoreCount(name, **self.scores.get(name, none), threshold=self.thresholds.get(name)) for name in names]

    @property
    def sentence(self) -> str:
        """What it found, or how far it is, for people."""
        if not self.is_over:
            return f"{self.asked:,} of {self.total:,} rows asked so far"
        said = "; ".join(count.sentence for count in self.counts) or "no judge looked at the answers"
        if self.unanswered:
            said += f"; {self.unanswered:,} of {self.total:,} rows got no answer"
        if self.state == RunState.CANCELLED:
            return f"cancelled by {self.ended_by} after {self.asked:,} of {self.total:,} rows"
        return f"{said}; {self.problem}" if self.problem else said

    def facts(self) -> dict[str, Any]:
        """What the audit record keeps of it."""
        names = (
            *("subject_name", "subject_digest", "digest", "judges", "thresholds", "state", "passed", "total", "asked"),
            *("unanswered", "withheld", "scores", "cost_micros"),
        )
        return {"run": self.pk, **{name: getattr(self, name) for name in names}}


def demand_digest(
    subject: Subject, set_version: EvalSetVersion, *, judges: Iterable[str], thresholds: Mapping[str, float]
) -> str:
    """Names what a run is of: this subject, these rows of this set, these judges, these thresholds."""
    said = {
        "subject": subject.digest,
        "set": set_version.set.slug,
        "rows": set_version.digest,
        "judges": sorted(judges),
        "thresholds": dict(thresholds),
    }
    return digest_of(canonical(said))


class EvalAnswer(models.Model):
    """What came of one row in one run."""

    run = models.ForeignKey(EvalRun, on_delete=models.PROTECT, related_name="answers")
    row = models.ForeignKey("evals.EvalRow", on_delete=models.PROTECT, related_name="answers")
    text = models.TextField(blank=True)
    tool_calls = models.JSONField(default=list, help_text="[[name, arguments as the model wrote them]]")
    refused = models.BooleanField(default=False, help_text="The provider itself said that it is a refusal")
    schema_passed = models.BooleanField(null=True, blank=True, help_text="Null: no schema was asked for")
    scores = models.JSONField(default=list, help_text='[{"judge", "score", "passed", "value", "why", "applies"}]')
    cost_micros = models.BigIntegerField(default=0)
    judging_micros = models.BigIntegerField(default=0, help_text="What its judges cost")
    latency_ms = models.FloatField(default=0)
    lane = models.CharField(max_length=200, blank=True)
    request_id = models.CharField(max_length=60, blank=True)
    problem_code = models.CharField(max_length=60, blank=True, help_text="Why there is no answer; empty: there is")
    problem = models.CharField(max_length=300, blank=True)
    is_unanswered = models.BooleanField(default=False, help_text="The world's fault, not the answer's")
    at = models.DateTimeField()

    class Meta:
        ordering: ClassVar = ["id"]
        constraints: ClassVar = [models.UniqueConstraint(fields=["run", "row"], name="one_answer_per_row_of_a_run")]
        triggers: ClassVar = [append_only()]

    def __str__(self) -> str:
        return f"Answer {self.pk} of run {self.run_id}"
