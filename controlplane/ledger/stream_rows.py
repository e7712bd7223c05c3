"""What is known of each resumable stream that has ended: append-only, but for what is derived and says so."""

from collections.abc import Iterable
from typing import Any, ClassVar, Final, Literal

from django.db import models
from django.db.models import Q, QuerySet, Sum
from django.urls import reverse

from controlplane.audit.models import append_only
from controlplane.ledger.figures import Figures
from controlplane.ledger.newest import TimedQuerySet
from controlplane.ledger.refunds import Bill
from dataplane.frames import Ending

OUTCOMES: Final = tuple(ending.value for ending in Ending)
# A caller who had gone and came back reads so; every other reader was there from the beginning, or only acknowledged.
RESUMED: Final = "resumed"


class StreamQuerySet(TimedQuerySet["StreamRow"]):
    """Reads of the pages of streams. Each filter but the route's has an index whose order is newest first."""

    def of_id(self, named: str) -> "StreamQuerySet":
        """The stream of that id, or those of the request of that id."""
        return self.filter(Q(stream_id=named) | Q(request_id=named))

    def matching(
        self,
        *,
        tenants: Iterable[str] | None = None,
        key: str = "",
        keys: Iterable[str] | None = None,
        route: str = "",
        outcome: str = "",
        in_order: bool | None = None,
    ) -> "StreamQuerySet":
        """Streams that fit everything given.

        Args:
            tenants: Slugs that the reader may see; None means all.
            key, keys: The id of an API key; ids, one of which it must be, None for all.
            route: Narrows what else bounds the rows: it has no index of its own.
            in_order: Whether their figures keep their order; None: either.
        """
        rows = self.fitting(tenants, key=key, route=route, outcome=outcome)
        if keys is not None:
            rows = rows.filter(key__in=list(keys))
        if in_order is not None:
            rows = rows.filter(standing__in_order=in_order)
        return rows


class StreamRow(models.Model):
    """One stream as it ended: what it was, what it cost, and how far it had come to its reader by then.

    What happened later is in `deliveries`, and what all of it comes to in `standing`. Tokens are of the output.
    Shape of segments: [{"lane", "model", "how": "first"|"prefill"|"regenerated", "first_seq", "last_seq",
    "billed_tokens", "generated_tokens", "buffered_tokens": int, "partial", "estimated": bool, "cause": str}], in order;
    the cause is the error code of the cut before it.
    """

    stream_id = models.CharField(max_length=32, primary_key=True)
    request_id = models.CharField(max_length=64)
    started_at = models.DateTimeField()
    at = models.DateTimeField(help_text="When it ended, by the worker's clock")
    tenant = models.CharField(max_length=50)
    tier = models.CharField(max_length=10)
    key = models.CharField(max_length=40, blank=True, help_text="Id of the API key it was admitted with")
    user = models.CharField(max_length=64, blank=True, help_text="Prefix of the SHA-256 of the unit, never the unit")
    route = models.CharField(max_length=100)
    prompt = models.CharField(max_length=100, blank=True)
    version = models.IntegerField(default=0)
    canary = models.CharField(max_length=100, blank=True)
    cohort = models.CharField(max_length=10)
    policy = models.CharField(max_length=100, help_text="The stream policy it ran under")
    on_cut = models.CharField(max_length=20, help_text="What that said of a provider who breaks off")
    refund = models.CharField(max_length=40, help_text="What that said of credits: see ledger.refunds")
    outcome = models.CharField(max_length=20, help_text="completed, failed, cancelled or interrupted")
    code = models.CharField(max_length=60, blank=True, help_text="The error that ended it")
    continues = models.CharField(max_length=32, blank=True, help_text="The stream that it goes on from")
    frames = models.BigIntegerField(help_text="Sequence numbers are 1 to this; the last is the terminal event's")
    size_bytes = models.BigIntegerField()
    digest = models.CharField(max_length=64, help_text="SHA-256 of the payloads, each followed by LF")
    text_digest = models.CharField(max_length=64, help_text="SHA-256 of the answer's text")
    billed_tokens = models.BigIntegerField()
    generated_tokens = models.BigIntegerField()
    buffered_tokens = models.BigIntegerField()
    delivered_tokens = models.BigIntegerField(help_text="By the end; later ones are deliveries")
    acked_tokens = models.BigIntegerField(help_text="By the end; later ones are deliveries")
    delivered = models.BigIntegerField(help_text="The last sequence number, by the end")
    acked = models.BigIntegerField(help_text="The last sequence number, by the end")
    resumed = models.BooleanField(help_text="Whether a caller had come back to it by the end")
    cost_micros = models.BigIntegerField(help_text="Millionths of a US dollar")
    segments = models.JSONField()
    kept_transcript = models.BooleanField(help_text="Whether its policy had the words kept")

    objects = StreamQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-at", "-stream_id"]
        indexes: ClassVar = [
            models.Index(fields=["-at", "-stream_id"], name="stream_newest"),
            models.Index(fields=["tenant", "-at", "-stream_id"], name="stream_of_tenant"),
            models.Index(fields=["key", "-at"], condition=~Q(key=""), name="stream_of_key"),
            models.Index(fields=["request_id"], name="stream_of_request"),
            models.Index(fields=["continues"], condition=~Q(continues=""), name="stream_continuing"),
            models.Index(
                fields=["outcome", "-at", "-stream_id"],
                condition=~Q(outcome=Ending.COMPLETED.value),
                name="stream_not_completed",
            ),
        ]
        triggers: ClassVar = [append_only()]

    def __str__(self) -> str:
        return f"{self.stream_id} {self.tenant} {self.outcome}"

    def get_absolute_url(self) -> str:
        return reverse("stream", args=[self.stream_id])

    @property
    def audit_name(self) -> str:
        return f"stream:{self.stream_id}"

    @property
    def written_by(self) -> tuple[str, ...]:
        """The models that wrote it, each once, in order."""
        return tuple(dict.fromkeys(segment["model"] for segment in self.segments))

    def figures(self, *, delivered: int, acked: int) -> Figures:
        """Its five token figures with those two, which move on when it has ended."""
        return Figures(self.billed_tokens, self.generated_tokens, self.buffered_tokens, delivered, acked)

    def bill(self, figures: Figures) -> Bill:
        """What a refund rule may look at."""
        return Bill(
            stream_id=self.stream_id,
            tenant=self.tenant,
            tier=self.tier,
            route=self.route,
            policy=self.policy,
            outcome=self.outcome,
            code=self.code,
            cost_micros=self.cost_micros,
            figures=figures,
        )


class StreamTranscript(models.Model):
    """The payloads of a stream's frames, where its policy has them kept.

    Never changed; forgotten by `ledger.streams.forget_transcripts`, or by `erase_transcripts` as one user's. Both leave
    the stream's row with its digests, and an audit event.

    Shape of frames: [payload, ...], in order of their sequence numbers from 1 on.
    """

    stream = models.OneToOneField(StreamRow, on_delete=models.PROTECT, primary_key=True, related_name="transcript")
    tenant = models.CharField(max_length=50)
    at = models.DateTimeField(help_text="When the stream ended")
    frames = models.JSONField()

    class Meta:
        indexes: ClassVar = [models.Index(fields=["at"], name="transcript_by_age")]
        triggers: ClassVar = [append_only()]

    def __str__(self) -> str:
        return f"transcript of {self.stream_id}"


class StreamDelivery(models.Model):
    """What was delivered or acknowledged after a stream's row was sent: how far it had come by then.

    It may be here before its row, so nothing in the database holds it to one.
    """

    delivery_id = models.CharField(max_length=32, primary_key=True)
    stream = models.ForeignKey(
        StreamRow, on_delete=models.DO_NOTHING, related_name="deliveries", db_constraint=False, db_index=False
    )
    tenant = models.CharField(max_length=50)
    at = models.DateTimeField()
    delivered = models.BigIntegerField(help_text="Sequence number")
    acked = models.BigIntegerField(help_text="Sequence number")
    delivered_tokens = models.BigIntegerField()
    acked_tokens = models.BigIntegerField()
    reader = models.CharField(max_length=10, help_text="caller, resumed or ack")

    objects = TimedQuerySet["StreamDelivery"].as_manager()

    class Meta:
        ordering: ClassVar = ["-at", "-delivery_id"]
        indexes: ClassVar = [models.Index(fields=["stream", "-at", "-delivery_id"], name="delivery_of_stream")]
        triggers: ClassVar = [append_only()]

    def __str__(self) -> str:
        return f"{self.stream_id} through {self.delivered}"


class StreamCredit(models.Model):
    """A change of what is given back for a stream, and the figures that it was decided on. Their sum is the credit.

    The first is written with the stream's row; a later delivery may take some of it back.
    """

    stream = models.ForeignKey(StreamRow, on_delete=models.PROTECT, related_name="credits", db_index=False)
    tenant = models.CharField(max_length=50)
    at = models.DateTimeField(help_text="When that happened which changed it, by the worker's clock")
    rule = models.CharField(max_length=40)
    change_micros = models.BigIntegerField(help_text="Millionths of a US dollar; below 0: taken back")
    delivered_tokens = models.BigIntegerField()
    acked_tokens = models.BigIntegerField()

    class Meta:
        ordering: ClassVar = ["pk"]
        indexes: ClassVar = [models.Index(fields=["stream", "id"], name="credit_of_stream")]
        triggers: ClassVar = [append_only()]

    def __str__(self) -> str:
        return f"{self.stream_id} {self.change_micros:+d}"


class StandingQuerySet(models.QuerySet["StreamStanding"]):
    def undecided(self) -> "StandingQuerySet":
        """Streams whose credit could not be decided; one that is known by a delivery only has nothing to decide yet."""
        return self.filter(credit_micros=None, stream__at__isnull=False)


class StreamStanding(models.Model):
    """How far a stream has come to its reader as known now: the most that its row or any delivery told.

    Derived: `rebuild_stream_days` makes the same of the record. Without its row it holds only what deliveries told.
    """

    stream = models.OneToOneField(
        StreamRow, on_delete=models.DO_NOTHING, primary_key=True, related_name="standing", db_constraint=False
    )
    delivered = models.BigIntegerField(default=0, help_text="The last sequence number")
    acked = models.BigIntegerField(default=0, help_text="The last sequence number")
    delivered_tokens = models.BigIntegerField(default=0)
    acked_tokens = models.BigIntegerField(default=0)
    resumed = models.BooleanField(default=False, help_text="Whether a caller came back to it")
    in_order = models.BooleanField(default=True, help_text="Whether its five token figures keep their order")
    credit_micros = models.BigIntegerField(null=True, blank=True, help_text="Null: not decided")

    objects = StandingQuerySet.as_manager()

    class Meta:
        indexes: ClassVar = [
            models.Index(fields=["stream"], condition=Q(in_order=False), name="stream_out_of_order"),
            models.Index(fields=["stream"], condition=Q(credit_micros=None), name="stream_undecided"),
        ]

    def __str__(self) -> str:
        return f"{self.stream_id} through {self.delivered}"

    @property
    def figures(self) -> Figures:
        """The five token figures as known now; only of a stream whose row is here."""
        return self.stream.figures(delivered=self.delivered_tokens, acked=self.acked_tokens)


class StreamDayQuerySet(TimedQuerySet["StreamDay"]):
    """Reads of days: what each tenant, route and outcome came to."""

    time = "day"

    def matching(self, *, tenants: Iterable[str] | None = None, route: str = "") -> "StreamDayQuerySet":
        """Days that fit everything given; `tenants` are the slugs that the reader may see, None means all."""
        return self.fitting(tenants, route=route)

    def sums_by(self, name: Literal["day", "tenant", "route", "outcome"]) -> QuerySet["StreamDay", Any]:
        """All of `DAY_SUMS` per day, tenant, route or outcome; one query.

        Shape of a row: {<name>: date or str, <each of DAY_SUMS>: int}.
        """
        sums = {one: Sum(one) for one in DAY_SUMS}
        found: QuerySet[StreamDay, Any] = self.order_by().values(name).annotate(**sums).order_by(name)
        return found


class StreamDay(models.Model):
    """The streams of one UTC day, tenant, route and outcome, counted as they and their deliveries are recorded.

    A stream counts on the day on which it ended, also for what is delivered later. Derived: `rebuild_stream_days` makes
    the same of the record. Grows with tenants, routes and days, not with traffic.
    """

    day = models.DateField(help_text="In UTC, by when the streams ended")
    tenant = models.CharField(max_length=50)
    route = models.CharField(max_length=100)
    outcome = models.CharField(max_length=20)
    streams = models.BigIntegerField()
    resumed = models.BigIntegerField(help_text="Streams that a caller came back to")
    drifted = models.BigIntegerField(help_text="Streams whose token figures break their order")
    billed_tokens = models.BigIntegerField()
    generated_tokens = models.BigIntegerField()
    buffered_tokens = models.BigIntegerField()
    delivered_tokens = models.BigIntegerField()
    acked_tokens = models.BigIntegerField()
    cost_micros = models.BigIntegerField(help_text="Millionths of a US dollar")
    refund_micros = models.BigIntegerField(help_text="What of it is given back")

    objects = StreamDayQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-day", "-pk"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["day", "tenant", "route", "outcome"], name="stream_day_of")
        ]
        indexes: ClassVar = [models.Index(fields=["tenant", "day"], name="stream_day_of_tenant")]

    def __str__(self) -> str:
        return f"{self.day} {self.tenant} {self.route} {self.outcome}"


DAY_KEY: Final = ("day", "tenant", "route", "outcome")
DAY_SUMS: Final = (
    "streams",
    "resumed",
    "drifted",
    "billed_tokens",
    "generated_tokens",
    "buffered_tokens",
    "delivered_tokens",
    "acked_tokens",
    "cost_micros",
    "refund_micros",
)
# Of a stream as it ended, what lists and files tell, in this order; what came later is its standing's.
TOLD: Final = (
    *("stream_id", "request_id", "started_at", "at", "tenant", "tier", "key", "user", "route", "prompt", "version"),
    *("canary", "cohort", "policy", "on_cut", "refund", "outcome", "code", "continues", "frames", "size_bytes"),
    *("digest", "text_digest", "billed_tokens", "generated_tokens", "buffered_tokens", "cost_micros"),
)
