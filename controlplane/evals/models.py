"""Eval sets and judges with their immutable versions, and what was found out about both."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final

import pgtrigger
from django.db import models
from django.db.models import Prefetch, Q

from controlplane.audit.models import append_only
from controlplane.evals import runs  # noqa: F401 - Django finds models here; these live there
from controlplane.evals.agreement import MIN_KAPPA, MIN_LABELLED, Agreement
from controlplane.evals.judges.kinds import JudgeKind, Judging, read_judge
from controlplane.evals.names import pinned, read_pinned
from controlplane.evals.rows import Row
from controlplane.prompts.models import PromptVersion
from dataplane.documents import Node

# A worker that has not moved for so long is gone, and somebody else may begin anew.
STALLED_AFTER: Final = timedelta(minutes=3)


class Purpose(models.TextChoices):
    """What a set is for; a held-out one must never be tuned on."""

    GOLDEN = "golden", "Golden"
    HELD_OUT = "held_out", "Held out"
    SAFETY = "safety", "Safety"


class EvalSet(models.Model):
    """A named set of rows that answers are scored on."""

    slug = models.SlugField(unique=True)
    name = models.CharField(max_length=120)
    purpose = models.CharField(max_length=10, choices=Purpose.choices)
    capability = models.CharField(max_length=20, default="chat", help_text="What a lane must be able to do to be asked")
    residency = models.JSONField(default=list, blank=True, help_text="Where its rows may go; empty: anywhere")
    tenant = models.CharField(max_length=50, blank=True, help_text="Whose data it is made of; empty: our own")
    description = models.TextField(blank=True)
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField()

    class Meta:
        ordering: ClassVar = ["slug"]
        permissions: ClassVar = [("manage_evals", "Can manage eval sets and judges")]
        triggers: ClassVar = [
            # What was shown to whom, and where rows went, followed from these.
            pgtrigger.Protect(
                name="purpose_is_fixed",
                operation=pgtrigger.Update,
                condition=pgtrigger.AnyChange("slug", "purpose", "capability", "residency", "tenant"),
            ),
            pgtrigger.Protect(name="no_delete", operation=pgtrigger.Delete),
        ]

    def __str__(self) -> str:
        return self.slug

    @property
    def audit_name(self) -> str:
        return f"eval-set:{self.slug}"

    @property
    def is_held_out(self) -> bool:
        """Whether its rows are for those alone who look after evals."""
        return self.purpose == Purpose.HELD_OUT


class EvalSetVersionQuerySet(models.QuerySet["EvalSetVersion"]):
    def newest(self) -> "EvalSetVersionQuerySet":
        """Of each set the last version."""
        last = EvalSetVersion.objects.order_by("set_id", "-number").distinct("set_id").values("pk")
        return self.filter(pk__in=last)

    def named(self, name: str) -> "EvalSetVersionQuerySet":
        """The one of a name such as golden@2, or none."""
        pin = read_pinned(name)
        return self.none() if pin is None else self.filter(set__slug=pin[0], number=pin[1])


class EvalSetVersion(models.Model):
    """The rows of a set as somebody imported them; another import is another version."""

    set = models.ForeignKey(EvalSet, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    digest = models.CharField(max_length=64, help_text="SHA-256 over the hashes of its rows, in order")
    rows_count = models.PositiveIntegerField()
    author = models.CharField(max_length=150)
    reason = models.TextField()
    created_at = models.DateTimeField()

    objects = EvalSetVersionQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-number"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["set", "number"], name="one_number_of_a_set"),
            models.UniqueConstraint(fields=["set", "digest"], name="one_content_of_a_set"),
        ]
        triggers: ClassVar = [append_only()]

    def __str__(self) -> str:
        return f"{self.set.slug} v{self.number}"

    @property
    def audit_name(self) -> str:
        return f"eval-set:{self.pinned}"

    @property
    def pinned(self) -> str:
        """What plans and forms name it by, such as golden@2."""
        return pinned(self.set.slug, self.number)


class EvalRow(models.Model):
    """One row of one version."""

    version = models.ForeignKey(EvalSetVersion, on_delete=models.PROTECT, related_name="rows")
    position = models.PositiveIntegerField(help_text="From 0")
    key = models.CharField(max_length=100, help_text="The row's id, the same from version to version")
    row_hash = models.CharField(max_length=64)
    document = models.JSONField(help_text="See `controlplane.evals.rows.Row.parse`")

    class Meta:
        ordering: ClassVar = ["position"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["version", "position"], name="one_row_per_position"),
            models.UniqueConstraint(fields=["version", "key"], name="one_row_per_key"),
        ]
        triggers: ClassVar = [append_only()]

    def __str__(self) -> str:
        return f"{self.key} of version {self.version_id}"

    def read(self) -> Row:
        """The row as a value."""
        return Row.parse(Node(self.document, "$"))


# --- leaks -----------------------------------------------------------------------------------------------------------
class ProtectedText(models.Model):
    """A text of a held-out row, without its words."""

    version = models.ForeignKey(EvalSetVersion, on_delete=models.PROTECT, related_name="protected_texts")
    row_key = models.CharField(max_length=100)
    place = models.CharField(max_length=220, help_text="Where in the row it stands, such as question")
    runs = models.PositiveIntegerField(help_text="How many runs of words it has of its own")

    class Meta:
        triggers: ClassVar = [append_only()]

    def __str__(self) -> str:
        return f"{self.place} of {self.row_key}"


class ProtectedRun(models.Model):
    """A run of words of a protected text, as a hash: enough to find the text again, and not to read it.

    One to a row, and found by its hash: the planner knows what it costs to look for many numbers among many rows. Of
    arrays it takes one comparison to be as cheap as another, and compares every text with a whole prompt.
    """

    pk = models.CompositePrimaryKey("run", "text_id")
    run = models.BigIntegerField()
    # No text ever goes, and to look each up again when its hundreds of runs are stored takes longer than to store them.
    text = models.ForeignKey(
        ProtectedText, on_delete=models.PROTECT, related_name="by_run", db_constraint=False, db_index=False
    )

    class Meta:
        triggers: ClassVar = [append_only()]

    def __str__(self) -> str:
        return f"{self.run} of text {self.text_id}"


class LeakFindingQuerySet(models.QuerySet["LeakFinding"]):
    def that_count(self) -> "LeakFindingQuerySet":
        """Those of sets as they are now; what stood in a version before matters to nobody any more."""
        return self.filter(set_version__in=EvalSetVersion.objects.newest())

    def of(self, *, prompt: str, number: int) -> "LeakFindingQuerySet":
        """In one version of a prompt."""
        return self.filter(prompt_version__prompt__slug=prompt, prompt_version__number=number)


class LeakFinding(models.Model):
    """Words of a held-out row in a prompt version: what that version scores on the set says nothing."""

    set_version = models.ForeignKey(EvalSetVersion, on_delete=models.PROTECT, related_name="leaks")
    row_key = models.CharField(max_length=100)
    place = models.CharField(max_length=220)
    prompt_version = models.ForeignKey(PromptVersion, on_delete=models.PROTECT, related_name="leaks")
    matched = models.PositiveIntegerField(help_text="Runs of words in common")
    share = models.FloatField(help_text="Of the text's own runs of words, 0..1")
    at = models.DateTimeField()

    objects = LeakFindingQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["set_version", "row_key", "prompt_version"], name="one_leak_per_row"),
        ]
        triggers: ClassVar = [append_only()]

    def __str__(self) -> str:
        return f"{self.row_key} in prompt version {self.prompt_version_id}"


# --- judges ----------------------------------------------------------------------------------------------------------
class Judge(models.Model):
    """Whoever says whether an answer is good in one respect; rows are labelled for it by its slug."""

    slug = models.SlugField(unique=True)
    name = models.CharField(max_length=120)
    score = models.SlugField(help_text="What it scores: grounded, safe, correct, schema, or a name of its own")
    description = models.TextField(blank=True)
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField()

    class Meta:
        ordering: ClassVar = ["slug"]

    def __str__(self) -> str:
        return self.slug

    @property
    def audit_name(self) -> str:
        return f"judge:{self.slug}"


class JudgeVersionQuerySet(models.QuerySet["JudgeVersion"]):
    def with_calibration(self) -> "JudgeVersionQuerySet":
        """Each with its newest calibration that is done; one query more, for however many."""
        done = Calibration.objects.done().order_by("judge_version_id", "-id").distinct("judge_version_id")
        newest = done.select_related("set_version__set")
        return self.select_related("judge").prefetch_related(Prefetch("calibrations", newest, to_attr="newest_done"))


class JudgeVersion(models.Model):
    """How a judge decides, fixed: another way is another version, with a calibration of its own."""

    judge = models.ForeignKey(Judge, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    kind = models.CharField(max_length=15, choices=[(kind.value, kind.value) for kind in JudgeKind])
    params = models.JSONField(help_text="See `controlplane.evals.judges.kinds.read_judge`")
    digest = models.CharField(max_length=64)
    author = models.CharField(max_length=150)
    reason = models.TextField()
    created_at = models.DateTimeField()

    objects = JudgeVersionQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-number"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["judge", "number"], name="one_number_of_a_judge"),
            models.UniqueConstraint(fields=["judge", "digest"], name="one_content_of_a_judge"),
        ]
        triggers: ClassVar = [append_only()]

    def __str__(self) -> str:
        return f"{self.judge.slug} v{self.number}"

    @property
    def audit_name(self) -> str:
        return f"judge:{self.pinned}"

    @property
    def pinned(self) -> str:
        """What standards and plans name it by, such as grounded@2."""
        return pinned(self.judge.slug, self.number)

    def read(self) -> Judging:
        """What decides; reading it takes milliseconds, so it is done once for all rows."""
        return read_judge(self.kind, Node(self.params, "$"))

    @property
    def calibration(self) -> "Calibration | None":
        """The newest that is done: no query after `with_calibration`, else one."""
        if hasattr(self, "newest_done"):
            return next(iter(self.newest_done), None)
        return self.calibrations.done().order_by("-id").first()

    @property
    def is_calibrated(self) -> bool:
        """Whether it was found to agree with people well enough for its word to count."""
        newest = self.calibration
        return newest is not None and newest.is_good


class CalibrationState(models.TextChoices):
    RUNNING = "running", "Running"
    DONE = "done", "Done"
    FAILED = "failed", "Failed"


class CalibrationQuerySet(models.QuerySet["Calibration"]):
    def done(self) -> "CalibrationQuerySet":
        return self.filter(state=CalibrationState.DONE)

    def running(self, now: datetime) -> "CalibrationQuerySet":
        """Those that somebody is at."""
        return self.filter(state=CalibrationState.RUNNING, moved_at__gt=now - STALLED_AFTER)


class Calibration(models.Model):
    """What a judge version said of labelled answers beside what people said. What it found is fixed once it is done."""

    judge_version = models.ForeignKey(JudgeVersion, on_delete=models.PROTECT, related_name="calibrations")
    set_version = models.ForeignKey(EvalSetVersion, on_delete=models.PROTECT, related_name="calibrations")
    actor = models.CharField(max_length=150)
    started_at = models.DateTimeField()
    moved_at = models.DateTimeField(help_text="When its worker was heard of last")
    ended_at = models.DateTimeField(null=True, blank=True)
    state = models.CharField(max_length=10, choices=CalibrationState.choices, default=CalibrationState.RUNNING)
    problem = models.CharField(max_length=300, blank=True)
    labelled = models.PositiveIntegerField(help_text="Rows with an answer and a label for this judge")
    judged = models.PositiveIntegerField(default=0, help_text="Of these so far")
    abstained = models.PositiveIntegerField(default=0, help_text="Of the judged ones, those it said nothing of")
    good_passed = models.PositiveIntegerField(default=0, help_text="Good by their label, and passed")
    good_failed = models.PositiveIntegerField(default=0, help_text="Good by their label, and failed")
    bad_passed = models.PositiveIntegerField(default=0, help_text="Bad by their label, and passed")
    bad_failed = models.PositiveIntegerField(default=0, help_text="Bad by their label, and failed")
    kappa = models.FloatField(null=True, blank=True, help_text="Cohen's; null where it is undefined")

    objects = CalibrationQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(state=CalibrationState.RUNNING, ended_at__isnull=True)
                | Q(state__in=[CalibrationState.DONE, CalibrationState.FAILED], ended_at__isnull=False),
                name="calibration_ends_when_it_is_over",
            ),
        ]
        triggers: ClassVar = [
            pgtrigger.Protect(name="no_delete", operation=pgtrigger.Delete),
            # Gates rest on what it found.
            pgtrigger.Protect(
                name="result_is_fixed",
                operation=pgtrigger.Update,
                condition=pgtrigger.Q(old__state__in=["done", "failed"]),
            ),
        ]

    def __str__(self) -> str:
        return f"Calibration {self.pk} of judge version {self.judge_version_id}"

    @property
    def agreement(self) -> Agreement:
        """Its figures."""
        return Agreement(self.good_passed, self.good_failed, self.bad_passed, self.bad_failed)

    @property
    def is_good(self) -> bool:
        """Whether a judge that did so counts as calibrated."""
        is_done = self.state == CalibrationState.DONE
        return is_done and self.agreement.n >= MIN_LABELLED and self.kappa is not None and self.kappa >= MIN_KAPPA

    @property
    def sentence(self) -> str:
        """What it found, in words."""
        if self.state != CalibrationState.DONE:
            return f"{self.judged:,} of {self.labelled:,} labelled answers judged so far"
        found = self.agreement
        kappa = "undefined" if self.kappa is None else f"{self.kappa:.2f}"
        said = f"agrees with people on {found.good_passed + found.bad_failed:,} of {found.n:,} answers, kappa {kappa}"
        if self.abstained:
            said += f"; said nothing of {self.abstained:,}"
        if not self.is_good:
            said += f"; uncalibrated: needs kappa {MIN_KAPPA} on at least {MIN_LABELLED}"
        return said

    def facts(self) -> dict[str, Any]:
        """What the audit record keeps of it."""
        names = ("labelled", "judged", "abstained", "good_passed", "good_failed", "bad_passed", "bad_failed")
        counts: Iterable[tuple[str, Any]] = ((name, getattr(self, name)) for name in names)
        return {"calibration": self.pk, **dict(counts), "kappa": None if self.kappa is None else round(self.kappa, 4)}
