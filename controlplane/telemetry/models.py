"""What workers measured, per 10 seconds as it came and per minute for the past; how they hold lanes, quotas and
ladders; what happened.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final, TypeVar

from django.db import models
from django.db.models import F, Func, Q, Value
from django.db.models.fields.json import KT
from django.db.models.functions import Cast

from controlplane.releases.models import SILENT_AFTER
from controlplane.telemetry import (  # noqa: F401 - Django finds models here; these live there
    evidence,
    outcomes,
    samples,
    shadows,
    surface_rows,
    surface_told,
)
from dataplane.sketches import Sketch

BUCKET: Final = timedelta(seconds=10)
MINUTE: Final = timedelta(seconds=60)

# What is told apart, and what is counted, in the order that SQL and readers use.
SERIES: Final = ("lane", "prompt", "version", "canary", "cohort", "tier")
LANE_COUNTS: Final = ("attempts", "failures", "timeouts", "throttled")
COUNTS: Final = (
    "requests",
    "errors",
    "rejected",
    "cancelled",
    "fallbacks",
    *LANE_COUNTS,
    "input_tokens",
    "output_tokens",
    "cost_micros",
    "schema_checked",
    "schema_passed",
    "refusals",
)
SKETCHES: Final = ("latency_ms", "ttft_ms", "drain_tps")
TEXTS: Final = tuple(f"{name}_text" for name in SKETCHES)

# Of the breaker of a lane, the worst first: what a page shows when workers differ.
LANE_STATES: Final = ("forced_open", "open", "half_open", "forced_closed", "closed")
# States in which a lane gets nothing.
SHUT: Final = ("forced_open", "open")
BREAKER_KINDS: Final = "breaker."
QUOTA_KINDS: Final = "quota."
LADDER_KINDS: Final = "ladder."

M = TypeVar("M", bound="Counted")
S = TypeVar("S", bound="State")


def empty_sketch() -> dict[str, Any]:
    """The JSON of a sketch that has counted nothing: what a row has that is older than its column."""
    return Sketch().to_json()


def sketches_as_text() -> dict[str, Cast]:
    """Annotations that give a row its sketches as JSON text, in the columns `TEXTS`."""
    return {text: Cast(name, models.TextField()) for text, name in zip(TEXTS, SKETCHES, strict=True)}


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
        annotated: CountedQuerySet[M] = self.annotate(**sketches_as_text())
        return annotated

    def of_prompt(self, slug: str) -> "CountedQuerySet[M]":
        """Rows of every version of a prompt, whoever it was served to."""
        return self.filter(prompt=slug)


class Counted(models.Model):
    """The columns that every rollup has: its bucket, its series, its counts and its sketches.

    Requests are counted once, under the lane of their last attempt; attempts, what they used and what they took under
    the lane where each was made. So the two only belong together in sums over lanes.

    Shape of a sketch: see `dataplane.sketches.Sketch.to_json`. Columns that came later have a default in the database,
    so that processes of the version before go on writing while it is replaced.
    """

    bucket_at = models.DateTimeField()
    lane = models.CharField(max_length=200, blank=True, help_text="Empty: a request that reached none")
    prompt = models.CharField(max_length=100, blank=True)
    version = models.IntegerField(default=0, help_text="0: no managed prompt")
    canary = models.CharField(max_length=100, blank=True)
    cohort = models.CharField(max_length=10)
    tier = models.CharField(max_length=10)
    requests = models.BigIntegerField(default=0)
    errors = models.BigIntegerField(default=0, help_text="Failures of the upstream or the gateway")
    rejected = models.BigIntegerField(default=0, help_text="The caller's own mistakes")
    cancelled = models.BigIntegerField(default=0, help_text="Callers who left")
    fallbacks = models.BigIntegerField(default=0, db_default=0, help_text="Requests that signed copy answered")
    attempts = models.BigIntegerField(default=0, db_default=0)
    failures = models.BigIntegerField(default=0, db_default=0, help_text="Attempts whose failure is the lane's")
    timeouts = models.BigIntegerField(default=0, db_default=0, help_text="Of the failures")
    throttled = models.BigIntegerField(default=0, db_default=0, help_text="Attempts that the provider answered 429")
    input_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    cost_micros = models.BigIntegerField(default=0, help_text="Millionths of a US dollar")
    schema_checked = models.BigIntegerField(default=0)
    schema_passed = models.BigIntegerField(default=0)
    refusals = models.BigIntegerField(default=0)
    outputs = models.JSONField(
        default=dict,
        db_default=Value({}, output_field=models.JSONField()),
        help_text="What became of checks of answers: {key: count}, see `dataplane.aggregation.output_key`",
    )
    latency_ms = models.JSONField(help_text="Of every attempt")
    ttft_ms = models.JSONField(help_text="Of attempts that gave a piece of an answer")
    drain_tps = models.JSONField(db_default=empty_sketch(), help_text="Tokens per second of each stream")

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
            models.Index(fields=["bucket_at"], condition=~Q(outputs={}), name="minute_with_outputs"),
        ]


class LaneRollup(models.Model):
    """What one lane did in one minute, over all series: the sum of its minute rows, in the same two parts.

    Kept beside them because a breaker's thresholds are tried on 30 days of a lane, and to add up its series anew for
    each of 43,200 minutes takes a quarter of a minute. A minute without an attempt has no row.
    """

    bucket_at = models.DateTimeField()
    lane = models.CharField(max_length=200)
    attempts = models.BigIntegerField()
    failures = models.BigIntegerField()
    timeouts = models.BigIntegerField()
    throttled = models.BigIntegerField()
    latency_ms = models.JSONField()
    ttft_ms = models.JSONField()
    drain_tps = models.JSONField()
    sealed = models.BooleanField()

    class Meta:
        constraints: ClassVar = [
            # In this order, because it is read by lane, over a range.
            models.UniqueConstraint(fields=["lane", "bucket_at", "sealed"], name="one_lane_rollup"),
        ]
        indexes: ClassVar = [models.Index(fields=["bucket_at"], name="lane_rollup_by_age")]

    def __str__(self) -> str:
        return f"{self.bucket_at:%Y-%m-%d %H:%M} {self.lane}"


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


class StateQuerySet(models.QuerySet[S]):
    """Reads of what workers last said of something."""

    def fresh(self, now: datetime) -> "StateQuerySet[S]":
        """What workers that are heard of say; the word of a silent one is believed no longer."""
        return self.filter(reported_at__gt=now - SILENT_AFTER)


class State(models.Model):
    """Whose word a row is, and how new; replaced every second.

    No index on what changes: rows are workers x what they tell of, and each of them would cost more.
    """

    worker = models.CharField(max_length=120)
    started_at = models.DateTimeField(help_text="Of the worker: a later boot knows better than an earlier one")
    seq = models.BigIntegerField(help_text="Of the report, per boot")
    reported_at = models.DateTimeField()

    class Meta:
        abstract = True


class LaneState(State):
    """How one worker holds one lane that has a breaker, as it last said."""

    lane = models.CharField(max_length=200)
    state = models.CharField(max_length=20, help_text="closed, open, half_open, forced_open or forced_closed")
    open_until_at = models.DateTimeField(null=True, blank=True)
    probes = models.IntegerField(help_text="In flight, of this worker")
    attempts = models.BigIntegerField(help_text="In the breaker's window, of the whole fleet as this worker knows it")
    failures = models.BigIntegerField(help_text="Of these attempts")
    cause = models.CharField(max_length=200, blank=True, help_text="What opened it")
    wait_ms = models.FloatField(null=True, blank=True, help_text="What its callers waited for lately; null: too few")

    objects = StateQuerySet["LaneState"].as_manager()

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["worker", "lane"], name="one_lane_state")]
        indexes: ClassVar = [
            # Every page names the lanes that are shut. A row comes here with its state, not with every report.
            models.Index(fields=["lane"], condition=Q(state__in=SHUT), name="lane_state_shut"),
        ]

    def __str__(self) -> str:
        return f"{self.worker} {self.lane} {self.state}"


class QuotaState(State):
    """What one worker knows of one pool: the quota that lanes of one account with the same policy share.

    Limits, what waits, the times and the share used are of the whole fleet, as this worker knows them; a worker that is
    alone, so that it cannot ask the others, knows its own part only.
    """

    pool = models.CharField(max_length=200, help_text="account/policy")
    account = models.CharField(max_length=200)
    policy = models.CharField(max_length=200)
    limits = models.JSONField(help_text="In effect: {name of QUOTA_LIMITS: number}")
    learned = models.JSONField(help_text="What the provider's headers said, in the same shape")
    paused_until_at = models.DateTimeField(null=True, blank=True)
    ramp = models.FloatField(help_text="Share (0..1) of the limits that is open; 1: all of them")
    is_alone = models.BooleanField()
    waiting_interactive = models.BigIntegerField()
    waiting_batch = models.BigIntegerField()
    eta_interactive_seconds = models.FloatField(null=True, blank=True, help_text="For one who came then")
    eta_batch_seconds = models.FloatField(null=True, blank=True)
    in_flight = models.IntegerField(help_text="Of this worker")
    used_share = models.FloatField(help_text="Of the scarcest limit, over its last window")
    granted = models.BigIntegerField(help_text="By this worker since its report before, as the three below")
    throttled = models.BigIntegerField(help_text="Answers 429")
    waited_ms_p50 = models.FloatField(null=True, blank=True)
    waited_ms_p95 = models.FloatField(null=True, blank=True)

    objects = StateQuerySet["QuotaState"].as_manager()

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["worker", "pool"], name="one_quota_state")]

    def __str__(self) -> str:
        return f"{self.worker} {self.pool}"


class LadderState(State):
    """How one worker holds the ladder of one surface; see `dataplane.ladder.ladders.Ladders.states`."""

    surface = models.CharField(max_length=100)
    level = models.PositiveSmallIntegerField(help_text="The rung that triggers engaged")
    engaged = models.JSONField(help_text="{tier: the rung that stands for its callers here}")
    ids = models.JSONField(help_text="Of the activations, holds and orders in force here")
    readings = models.JSONField(help_text="{trigger: what the fleet read at the last turn, or null}")
    generation = models.BigIntegerField(help_text="Grows with each step that triggers took")
    is_alone = models.BooleanField()
    reserved = models.JSONField(help_text="{tier: reserved places in use here}")
    is_engaged = models.GeneratedField(
        expression=Func("engaged", Value("$.* ? (@ > 0)"), function="jsonb_path_exists"),
        output_field=models.BooleanField(),
        db_persist=True,
        help_text="Whether a rung stands for anybody here",
    )

    objects = StateQuerySet["LadderState"].as_manager()

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["worker", "surface"], name="one_ladder_state")]
        # Every page asks on which surfaces any does: mostly on none.
        indexes: ClassVar = [
            models.Index(fields=["surface"], condition=Q(is_engaged=True), name="ladder_state_engaged"),
        ]

    def __str__(self) -> str:
        return f"{self.worker} {self.surface} rung {self.level}"


class LadderMove(models.Model):
    """One step that a ladder took by itself, as one worker told it; others may tell the same step, with its generation.

    See `dataplane.events.LadderMoved`.
    """

    surface = models.CharField(max_length=100)
    at = models.DateTimeField()
    before = models.PositiveSmallIntegerField()
    after = models.PositiveSmallIntegerField()
    cause = models.CharField(max_length=20)
    trigger = models.CharField(max_length=100, blank=True)
    reading = models.FloatField(null=True, blank=True)
    readings = models.JSONField(help_text="{trigger: number or null}")
    generation = models.BigIntegerField()
    worker = models.CharField(max_length=120)
    boot = models.CharField(max_length=32)

    class Meta:
        constraints: ClassVar = [
            # The worker is a part of it: a fleet that lost its store begins to count its steps anew.
            models.UniqueConstraint(fields=["surface", "generation", "worker", "boot"], name="one_ladder_move"),
        ]
        indexes: ClassVar = [models.Index(fields=["surface", "at"], name="ladder_move_of_surface")]

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S} {self.surface} {self.before} to {self.after}"


class LadderOrder(models.Model):
    """A rung that somebody engaged on a host, with an order that was signed beforehand, as its workers told it.

    It ends at `until`, or when none of its workers has it in force any more, as it does when it is stood down there.
    """

    name = models.CharField(max_length=80, primary_key=True)
    surface = models.CharField(max_length=100)
    rung = models.PositiveSmallIntegerField()
    at = models.DateTimeField(help_text="When a worker first obeyed it")
    until = models.DateTimeField()
    reason = models.TextField()
    by = models.CharField(max_length=150, help_text="Who they said they are")
    worker = models.CharField(max_length=120, help_text="Who told of it first")
    last_seen_at = models.DateTimeField(help_text="When a worker last had it in force")
    audited_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes: ClassVar = [
            models.Index(fields=["surface", "at"], name="ladder_order_of_surface"),
            models.Index(fields=["at"], condition=Q(audited_at=None), name="ladder_order_to_audit"),
        ]

    def __str__(self) -> str:
        return f"{self.name} rung {self.rung} of {self.surface}"


class WorkerEventQuerySet(models.QuerySet["WorkerEvent"]):
    def newest(self) -> "WorkerEventQuerySet":
        return self.order_by("-at", "-id")

    def since(self, moment: datetime) -> "WorkerEventQuerySet":
        return self.filter(at__gte=moment)

    def of_lane(self, lane: str) -> "WorkerEventQuerySet":
        """What breakers of one lane did, in every worker."""
        return self.alias(of=KT("data__lane")).filter(kind__startswith=BREAKER_KINDS, of=lane)

    def of_quotas(self) -> "WorkerEventQuerySet":
        """What happened to quotas, in every worker."""
        return self.filter(kind__startswith=QUOTA_KINDS)

    def of_ladders(self) -> "WorkerEventQuerySet":
        """What happened to ladders, in every worker."""
        return self.filter(kind__startswith=LADDER_KINDS)


class WorkerEvent(models.Model):
    """Something that happened in a worker, or in taking in its reports, once however often it is delivered.

    `kind` is stable, such as 'reports.dropped' (data: {"batches": int, "bytes": int}) or, from the ingest itself,
    'ingest.refused' (data: {"entry": str, "problem": str, "bytes": int}). A kind that begins with 'breaker.' is of a
    lane (data: {"lane": str, …}), one that begins with 'quota.' of a pool (data: {"pool": str, …}) or of the worker,
    one that begins with 'ladder.' of a surface (data: {"surface": str, …}) or of the worker.
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
            models.Index(
                KT("data__lane"),
                F("at").desc(),
                condition=Q(kind__startswith=BREAKER_KINDS),
                name="event_of_lane",
            ),
            models.Index(fields=["-at"], condition=Q(kind__startswith=QUOTA_KINDS), name="event_of_quotas"),
            models.Index(fields=["-at"], condition=Q(kind__startswith=LADDER_KINDS), name="event_of_ladders"),
        ]

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S} {self.worker} {self.kind}"
