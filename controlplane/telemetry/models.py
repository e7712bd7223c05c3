"""What workers measured: counters and quantile sketches, per 10 seconds as they came and per minute for the past."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final, TypeVar

from django.db import models
from django.db.models import Q
from django.db.models.functions import Cast

BUCKET: Final = timedelta(seconds=10)
MINUTE: Final = timedelta(seconds=60)

# What is told apart, and what is counted, in the order that SQL and readers use.
SERIES: Final = ("lane", "prompt", "version", "canary", "cohort", "tier")
COUNTS: Final = (
    "requests",
    "errors",
    "rejected",
    "cancelled",
    "input_tokens",
    "output_tokens",
    "cost_micros",
    "schema_checked",
    "schema_passed",
    "refusals",
)
SKETCHES: Final = ("latency_ms", "ttft_ms")
TEXTS: Final = tuple(f"{name}_text" for name in SKETCHES)

M = TypeVar("M", bound="Counted")


class CountedQuerySet(models.QuerySet[M]):
    """Reads of rollups; every one starts from a range, since that is what the indexes are made for."""

    def between(self, since: datetime, until: datetime) -> "CountedQuerySet[M]":
        """Rows of the buckets that begin in [since, until)."""
        return self.filter(bucket_at__gte=since, bucket_at__lt=until)

    def of_canary(self, slug: str, cohorts: Iterable[str] = ("canary", "control")) -> "CountedQuerySet[M]":
        """Rows of a canary's matched arms; callers without a unit key ("unkeyed") are in neither."""
        return self.filter(canary=slug, cohort__in=list(cohorts))

    def with_texts(self) -> "CountedQuerySet[M]":
        """Each row with its sketches as JSON text, in the columns `TEXTS`: a faster parser than Django's reads them."""
        texts = {text: Cast(name, models.TextField()) for text, name in zip(TEXTS, SKETCHES, strict=True)}
        annotated: CountedQuerySet[M] = self.annotate(**texts)
        return annotated

    def of_prompt(self, slug: str) -> "CountedQuerySet[M]":
        """Rows of every version of a prompt, whoever it was served to."""
        return self.filter(prompt=slug)


class Counted(models.Model):
    """The columns that every rollup has: its bucket, its series, its counts and its sketches.

    Shape of a sketch: see `dataplane.sketches.Sketch.to_json`.
    """

    bucket_at = models.DateTimeField()
    lane = models.CharField(max_length=200)
    prompt = models.CharField(max_length=100, blank=True)
    version = models.IntegerField(default=0, help_text="0: no managed prompt")
    canary = models.CharField(max_length=100, blank=True)
    cohort = models.CharField(max_length=10)
    tier = models.CharField(max_length=10)
    requests = models.BigIntegerField(default=0)
    errors = models.BigIntegerField(default=0, help_text="Failures of the upstream or the gateway")
    rejected = models.BigIntegerField(default=0, help_text="The caller's own mistakes")
    cancelled = models.BigIntegerField(default=0, help_text="Callers who left")
    input_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    cost_micros = models.BigIntegerField(default=0, help_text="Millionths of a US dollar")
    schema_checked = models.BigIntegerField(default=0)
    schema_passed = models.BigIntegerField(default=0)
    refusals = models.BigIntegerField(default=0)
    latency_ms = models.JSONField()
    ttft_ms = models.JSONField()

    objects = CountedQuerySet[Any].as_manager()

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self.bucket_at:%Y-%m-%d %H:%M:%S} {self.lane} {self.prompt}@{self.version} {self.cohort}"


class Rollup(Counted):
    """One series of one worker in one bucket of 10 s, cumulative: a newer report of the same bucket replaces it.

    Rows are workers x series x buckets kept, never requests. `folded` says that the minute's row contains this state.
    """

    worker = models.CharField(max_length=120)
    boot = models.CharField(max_length=32)
    seq = models.BigIntegerField()
    changed_at = models.DateTimeField(help_text="When the control plane last took in something newer")
    folded = models.BooleanField(default=False)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["bucket_at", "worker", "boot", *SERIES], name="one_rollup"),
        ]
        indexes: ClassVar = [
            models.Index(fields=["canary", "bucket_at"], condition=~Q(canary=""), name="rollup_of_canary"),
            models.Index(fields=["bucket_at"], condition=Q(folded=False), name="rollup_to_fold"),
        ]


class MinuteRollup(Counted):
    """One series of the whole fleet in one minute. Readers add its two parts.

    The unsealed part is computed anew from the 10 s rows that are still there; the sealed part is what has been deleted
    of them, and is only ever added to, in the transaction of the deletion. So every 10 s row counts exactly once,
    however late another one of the same minute arrives.
    """

    sealed = models.BooleanField()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["bucket_at", *SERIES, "sealed"], name="one_minute_rollup"),
        ]
        indexes: ClassVar = [
            models.Index(fields=["canary", "bucket_at"], condition=~Q(canary=""), name="minute_of_canary"),
            models.Index(fields=["prompt", "bucket_at"], condition=~Q(prompt=""), name="minute_of_prompt"),
        ]


class Source(models.Model):
    """One boot of one worker, as far as its rollups have been taken in.

    A worker delivers its buckets in order, so once a later bucket is here, an earlier one is final, and once that has
    been sealed, whatever comes for it again is a repetition.
    """

    worker = models.CharField(max_length=120)
    boot = models.CharField(max_length=32)
    newest_bucket_at = models.DateTimeField()
    sealed_through_at = models.DateTimeField(null=True, blank=True)
    changed_at = models.DateTimeField()

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["worker", "boot"], name="one_source")]

    def __str__(self) -> str:
        return f"{self.worker} {self.boot}"


class WorkerEventQuerySet(models.QuerySet["WorkerEvent"]):
    def newest(self) -> "WorkerEventQuerySet":
        return self.order_by("-at", "-id")

    def since(self, moment: datetime) -> "WorkerEventQuerySet":
        return self.filter(at__gte=moment)


class WorkerEvent(models.Model):
    """Something that happened in a worker, or in taking in its reports, once however often it is delivered.

    `kind` is stable, such as 'reports.dropped' (data: {"batches": int, "bytes": int}) or, from the ingest itself,
    'ingest.refused' (data: {"entry": str, "problem": str, "bytes": int}).
    """

    at = models.DateTimeField()
    worker = models.CharField(max_length=120, blank=True)
    kind = models.CharField(max_length=60)
    data = models.JSONField(default=dict)
    boot = models.CharField(max_length=32)
    seq = models.BigIntegerField()
    position = models.IntegerField(help_text="In its batch")

    objects = WorkerEventQuerySet.as_manager()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["worker", "boot", "seq", "position"], name="one_worker_event")
        ]
        indexes: ClassVar = [
            models.Index(fields=["-at"], name="event_newest"),
            models.Index(fields=["worker", "-at"], name="event_of_worker"),
        ]

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S} {self.worker} {self.kind}"
