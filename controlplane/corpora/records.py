"""What is written down about corpora: how they stood, what was compared, dumps, and drills."""

from typing import ClassVar, Final

import pgtrigger
from django.db import models
from django.db.models import Q
from django.urls import reverse

from dataplane.retrieval.policy import PGVECTOR


class CorpusMinute(models.Model):
    """How a corpus stood in one minute: the worst that was seen of it. Written about every 15 s by `sampling`."""

    corpus = models.ForeignKey("corpora.Corpus", on_delete=models.PROTECT, related_name="minutes")
    minute = models.DateTimeField()
    lag_seconds = models.FloatField()
    pending = models.BigIntegerField()
    poisoned = models.BigIntegerField()
    index_rev = models.BigIntegerField(help_text="Of the live namespace; 0 without one")
    namespace_id_then = models.BigIntegerField(null=True, help_text="That was live")
    max_lag_seconds = models.FloatField(help_text="As the policy in force promised")

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["corpus", "minute"], name="one_row_per_minute")]

    def __str__(self) -> str:
        return f"{self.corpus_id} {self.minute:%H:%M}"


class GhostSample(models.Model):
    """How many of some chunks of what serves, drawn at random, were of documents that were deleted or never were."""

    corpus = models.ForeignKey("corpora.Corpus", on_delete=models.PROTECT, related_name="ghost_samples")
    namespace = models.ForeignKey("corpora.Namespace", on_delete=models.PROTECT, related_name="+")
    at = models.DateTimeField()
    sampled = models.PositiveIntegerField()
    ghosts = models.PositiveIntegerField()
    most = models.FloatField(help_text="With 95 % confidence no greater share of all chunks are ghosts")

    class Meta:
        ordering: ClassVar = ["-id"]
        indexes: ClassVar = [models.Index(fields=["corpus", "-id"], name="ghosts_newest")]

    def __str__(self) -> str:
        return f"{self.ghosts} of {self.sampled} at {self.at:%Y-%m-%d %H:%M}"


class Reconciliation(models.Model):
    """One comparison, by digests: of a namespace with the documents, or of the documents with their source.

    `findings` names what differs, up to a number of each kind; `counts` counts all of them.
    """

    class Scope(models.TextChoices):
        STORE = "store", "Namespace against documents"
        SOURCE = "source", "Documents against their source"

    corpus = models.ForeignKey("corpora.Corpus", on_delete=models.PROTECT, related_name="reconciliations")
    scope = models.CharField(max_length=10, choices=Scope)
    namespace = models.ForeignKey("corpora.Namespace", null=True, blank=True, on_delete=models.PROTECT)
    source = models.CharField(max_length=50, blank=True)
    actor = models.CharField(max_length=150)
    began_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)
    compared = models.BigIntegerField(default=0, help_text="Documents, or chunks, on both sides")
    buckets = models.PositiveIntegerField(default=0)
    buckets_differing = models.PositiveIntegerField(default=0)
    counts = models.JSONField(default=dict, help_text='{"missing", "extra", "stale", "wrong_model", "corrupt": int}')
    findings = models.JSONField(default=list, help_text='[{"kind", "source_key", "detail"}]')
    repaired = models.BigIntegerField(default=0)
    error = models.CharField(max_length=300, blank=True)

    class Meta:
        ordering: ClassVar = ["-id"]

    def __str__(self) -> str:
        return f"{self.get_scope_display()} {self.began_at:%Y-%m-%d %H:%M}"

    @property
    def is_clean(self) -> bool:
        """Whether it came to its end and nothing differed."""
        return self.ended_at is not None and not self.error and not any(self.counts.values())


class DumpState(models.TextChoices):
    """Of a dump."""

    WRITING = "writing", "Being written"
    COMPLETE = "complete", "Complete"
    FAILED = "failed", "Failed"


class Dump(models.Model):
    """One self-sufficient copy of a namespace in an object store; its signed manifest says the rest."""

    corpus = models.ForeignKey("corpora.Corpus", on_delete=models.PROTECT, related_name="dumps")
    namespace = models.ForeignKey("corpora.Namespace", on_delete=models.PROTECT, related_name="dumps")
    name = models.CharField(max_length=200, unique=True, help_text="Of its folder in the store")
    state = models.CharField(max_length=10, choices=DumpState, default=DumpState.WRITING)
    actor = models.CharField(max_length=150)
    index_rev = models.BigIntegerField(default=0, help_text="Of the namespace, as dumped")
    high_water_seq = models.BigIntegerField(default=0, help_text="Every change up to it is in the dump")
    rows = models.BigIntegerField(default=0)
    bytes = models.BigIntegerField(default=0)
    blocks = models.PositiveIntegerField(default=0)
    root_sha256 = models.CharField(max_length=64, blank=True, help_text="Of the manifest's canonical bytes")
    began_at = models.DateTimeField()
    as_of = models.DateTimeField(null=True, blank=True, help_text="The moment that it shows")
    ended_at = models.DateTimeField(null=True, blank=True)
    retain_until = models.DateTimeField(null=True, blank=True, help_text="Nobody can delete it before")
    copied_to = models.CharField(max_length=200, blank=True, help_text="The second store; empty: not copied")
    copied_at = models.DateTimeField(null=True, blank=True)
    verified_at = models.DateTimeField(null=True, blank=True)
    verify_error = models.CharField(max_length=300, blank=True, help_text="What the last verification found")
    error = models.CharField(max_length=300, blank=True)
    deleted_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering: ClassVar = ["-id"]

    def __str__(self) -> str:
        return self.name


class RecoveryWay(models.TextChoices):
    """How a namespace came to be again."""

    RESTORE = "restore", "Restored from a dump"
    REBUILD = "rebuild", "Embedded again"


class RecoveryRate(models.Model):
    """How fast a namespace came to be, once: what predictions of the next time go by. Written when it was there."""

    corpus = models.ForeignKey("corpora.Corpus", on_delete=models.PROTECT, related_name="recovery_rates")
    way = models.CharField(max_length=10, choices=RecoveryWay)
    dump = models.ForeignKey(Dump, null=True, blank=True, on_delete=models.PROTECT, related_name="restores")
    namespace_id_then = models.BigIntegerField(help_text="Into which")
    store = models.CharField(max_length=20, default=PGVECTOR, db_default=PGVECTOR)
    dimensions = models.PositiveIntegerField()
    rows = models.BigIntegerField(help_text="Chunks")
    bytes = models.BigIntegerField(default=0, help_text="Of a dump's chunks")
    tokens = models.BigIntegerField(default=0, help_text="Of what was embedded")
    cost_micros = models.BigIntegerField(default=0)
    load_seconds = models.FloatField(help_text="Until every chunk stood in its table")
    index_seconds = models.FloatField(help_text="From there until the indexes were built")
    at = models.DateTimeField(help_text="When it was begun")

    class Meta:
        ordering: ClassVar = ["-id"]

    def __str__(self) -> str:
        return f"{self.get_way_display()} {self.at:%Y-%m-%d %H:%M}"

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.load_seconds + self.index_seconds


class PromiseClause(models.TextChoices):
    """One thing that is promised of a corpus, and that can be found broken."""

    FRESHNESS = "freshness", "how old it is"
    RTO = "rto", "how long it is predicted to take to have it back"
    REEMBED = "reembed", "how long it is predicted to take to embed it again"
    RPO = "rpo", "how old its newest dump is"
    DRILLED = "drilled", "how long it took to have it back in a drill"
    PROVEN = "proven", "how long ago it came back in a drill"


class PromiseBreach(models.Model):
    """One thing that was promised of a corpus and is not kept, from the look that found it to the last of those that
    found it kept again. `breaches` writes it.
    """

    corpus = models.ForeignKey("corpora.Corpus", on_delete=models.PROTECT, related_name="breaches")
    clause = models.CharField(max_length=10, choices=PromiseClause)
    words = models.TextField(help_text="As it was found last")
    since = models.DateTimeField()
    kept_since = models.DateTimeField(null=True, blank=True, help_text="Set: it is kept again, for how long is seen")
    ended_at = models.DateTimeField(null=True, blank=True, help_text="Set: it was, for long enough")

    class Meta:
        ordering: ClassVar = ["-id"]
        verbose_name_plural = "promise breaches"
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["corpus", "clause"], condition=Q(ended_at__isnull=True), name="one_breach_of_a_clause_at_a_time"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.clause} of {self.corpus_id} since {self.since:%Y-%m-%d %H:%M}"


class DrillState(models.TextChoices):
    """Of a drill."""

    WAITING = "waiting", "Waiting for a second person"
    QUEUED = "queued", "Queued"
    RUNNING = "running", "Running"
    PASSED = "passed", "Passed"
    FAILED = "failed", "Failed"
    CANCELLED = "cancelled", "Cancelled"


class DrillEvent(models.TextChoices):
    """What happens to a drill."""

    CONFIRMED = "confirmed", "A second person agreed"
    BEGUN = "begun", "Somebody began it"
    PASSED = "passed", "It came back whole"
    FAILED = "failed", "It did not"
    CANCELLED = "cancelled", "Somebody called it off"


DRILL_TRANSITIONS: Final = {
    (DrillState.WAITING, DrillEvent.CONFIRMED): DrillState.QUEUED,
    (DrillState.WAITING, DrillEvent.CANCELLED): DrillState.CANCELLED,
    (DrillState.QUEUED, DrillEvent.BEGUN): DrillState.RUNNING,
    (DrillState.QUEUED, DrillEvent.FAILED): DrillState.FAILED,
    (DrillState.QUEUED, DrillEvent.CANCELLED): DrillState.CANCELLED,
    (DrillState.RUNNING, DrillEvent.PASSED): DrillState.PASSED,
    (DrillState.RUNNING, DrillEvent.FAILED): DrillState.FAILED,
    (DrillState.RUNNING, DrillEvent.CANCELLED): DrillState.CANCELLED,
}
UNENDED: Final = (DrillState.WAITING, DrillState.QUEUED, DrillState.RUNNING)


class RecoveryDrill(models.Model):
    """One game day: a loss on purpose in a sandbox namespace, and how long it took to come back from it.

    What ended stays as it ended: its report is evidence.
    """

    corpus = models.ForeignKey("corpora.Corpus", on_delete=models.PROTECT, related_name="drills")
    scenario = models.CharField(max_length=30)
    targets_live = models.BooleanField(default=False, help_text="Asked for by one person, confirmed by another")
    state = models.CharField(max_length=10, choices=DrillState, default=DrillState.QUEUED)
    reason = models.TextField()
    actor = models.CharField(max_length=150)
    asked_at = models.DateTimeField()
    confirmed_by = models.CharField(max_length=150, blank=True)
    confirmed_at = models.DateTimeField(null=True, blank=True)
    began_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    namespace = models.ForeignKey("corpora.Namespace", null=True, blank=True, on_delete=models.PROTECT)
    dump = models.ForeignKey(Dump, null=True, blank=True, on_delete=models.PROTECT)
    steps = models.JSONField(
        default=list, help_text='[{"name", "began_at", "ended_at", "done", "of": int or null, "words"}]'
    )
    seconds = models.JSONField(default=dict, help_text='{"detect", "decide", "restore", "verify", "switch": seconds}')
    predicted_seconds = models.FloatField(null=True, blank=True, help_text="RTO as predicted before it began")
    rto_seconds = models.FloatField(null=True, blank=True, help_text="From the loss to searchable and verified")
    rpo_seconds = models.FloatField(null=True, blank=True, help_text="Age of what was restored")
    cost_micros = models.BigIntegerField(default=0, help_text="Of embedding again")
    tokens = models.BigIntegerField(default=0)
    acceptance = models.JSONField(default=dict, help_text="Each check, what it found and whether it passed")
    error = models.CharField(max_length=300, blank=True)
    report = models.JSONField(null=True, blank=True)
    report_signature = models.JSONField(null=True, blank=True, help_text="Envelope of the report, signed")

    class Meta:
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(targets_live=False)
                | Q(state__in=[DrillState.WAITING, DrillState.CANCELLED])
                | (Q(confirmed_at__isnull=False) & ~Q(confirmed_by="") & ~Q(confirmed_by=models.F("actor"))),
                name="live_drill_has_two_people",
            ),
            # What two measure at a time says nothing of either.
            models.UniqueConstraint(
                fields=["corpus"], condition=Q(state__in=UNENDED), name="one_drill_of_a_corpus_at_a_time"
            ),
        ]
        triggers: ClassVar = [
            pgtrigger.Protect(
                name="end_is_fixed",
                operation=pgtrigger.Update | pgtrigger.Delete,
                condition=pgtrigger.Condition("OLD.state IN ('passed', 'failed', 'cancelled')"),
            )
        ]

    def __str__(self) -> str:
        return f"{self.scenario} of {self.corpus_id}"

    def get_absolute_url(self) -> str:
        return reverse("recovery-drill", args=[self.pk])

    @property
    def audit_name(self) -> str:
        return f"recovery-drill:{self.pk}"

    @property
    def is_over(self) -> bool:
        """Whether nothing of it changes any more."""
        return self.state not in UNENDED
