"""What was used and what it cost, attempt by attempt: append-only, in the database itself."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final, Literal

from django.db import models
from django.db.models import Count, F, Q, QuerySet, Sum

from controlplane.audit.models import append_only
from controlplane.ledger import deliveries, idempotency, jobs, repairs, stream_rows, sums  # noqa: F401 - Django finds models here; some live there
from controlplane.ledger.newest import TimedQuerySet

# Totals read rows at both ends of their range; a longer one belongs to an export.
MAX_TOTALS_RANGE: Final = timedelta(days=31)
# A copy of a request that nobody waits for: billed, but no try to answer it.
SHADOW: Final = "shadow"
# A question of ours about a model or a prompt: billed, and nobody's request.
EVAL: Final = "eval"
UNASKED: Final = (SHADOW, EVAL)
# Every other outcome is a failure. Who left got what they waited for until then.
UNFAILED: Final = ("ok", "cancelled")
_FIRSTS: Final = Q(attempt=1) & ~Q(kind__in=UNASKED)
# What tells the rows of `UsageDay` apart, and what they count.
DAY_KEY: Final = ("day", "tenant", "lane", "route", "kind", "cause")
DAY_SUMS: Final = (
    *("attempts", "requests", "failed", "input_tokens", "output_tokens", "cost_micros", "failed_cost_micros"),
)


class RangeTooLong(ValueError):
    """Totals were asked for over more days than one page load may read."""

    code = "range_too_long"

    def __init__(self, days: float) -> None:
        super().__init__(
            f"totals over {days:.0f} days were asked for, {MAX_TOTALS_RANGE.days} are the most; narrow the period"
        )
        self.days = days


class UsageQuerySet(TimedQuerySet["UsageRow"]):
    """Reads of the usage page. Each filter has an index whose order is newest first."""

    def of_request(self, request_id: str) -> "UsageQuerySet":
        """Every attempt of one request, retries and fallbacks and shadows included, in the order they were made."""
        return self.filter(request_id=request_id).order_by("at", "attempt_id")

    def matching(
        self,
        *,
        request_id: str = "",
        tenants: Iterable[str] | None = None,
        key: str = "",
        keys: Iterable[str] | None = None,
        prompt: str = "",
        lane: str = "",
    ) -> "UsageQuerySet":
        """Attempts that fit everything given.

        Args:
            tenants: Slugs that the reader may see; None means all.
            key, keys: The id of an API key; ids, one of which it must be, None for all.
        """
        rows = self.fitting(tenants, request_id=request_id, key=key, prompt=prompt, lane=lane)
        return rows if keys is None else rows.filter(key__in=list(keys))

    def totals_by_tenant(self, since: datetime, until: datetime) -> QuerySet["UsageRow", Any]:
        """Per tenant of the range: attempts, requests, tokens and cost, dearest first; one query.

        A request counts where its first attempt ended, so that the parts of a range add up to the whole.

        Shape of a row: {"tenant": str, "attempts": int, "requests": int, "input_tokens": int, "output_tokens": int,
                         "cost_micros": int, "extra_attempts": int}; extra attempts are all that a request made beyond
                         its first: retries, fallbacks and shadows. Evals are attempts alone.
        Raises:
            RangeTooLong: over MAX_TOTALS_RANGE.
        """
        if until - since > MAX_TOTALS_RANGE:
            raise RangeTooLong((until - since) / timedelta(days=1))
        return (
            self.between(since, until)
            .order_by()
            .values("tenant")
            .annotate(
                attempts=Count("attempt_id"),
                requests=Count("attempt_id", filter=_FIRSTS),
                extra_attempts=Count("attempt_id", filter=~_FIRSTS & ~Q(kind=EVAL)),
                input_tokens=Sum("input_tokens"),
                output_tokens=Sum("output_tokens"),
                cost_micros=Sum("cost_micros"),
            )
            .order_by("-cost_micros", "tenant")
        )


class UsageRow(models.Model):
    """One attempt at one lane: what it used, what it cost, how it ended."""

    attempt_id = models.CharField(max_length=36, primary_key=True)
    request_id = models.CharField(max_length=64)
    at = models.DateTimeField(help_text="When the attempt ended, by the worker's clock")
    tenant = models.CharField(max_length=50)
    tier = models.CharField(max_length=10)
    key = models.CharField(max_length=40, blank=True, help_text="Id of the API key it was admitted with")
    route = models.CharField(max_length=100)
    lane = models.CharField(max_length=200)
    prompt = models.CharField(max_length=100, blank=True)
    version = models.IntegerField(default=0)
    canary = models.CharField(max_length=100, blank=True)
    cohort = models.CharField(max_length=10)
    kind = models.CharField(max_length=10, help_text="primary, retry, fallback, probe, shadow, eval")
    cause = models.CharField(
        max_length=60,
        blank=True,
        default="",
        db_default="",
        help_text="Why it was made: how the request's attempt before it ended; empty for a first one",
    )
    attempt = models.IntegerField()
    outcome = models.CharField(max_length=60)
    status = models.IntegerField()
    input_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    cost_micros = models.BigIntegerField(help_text="Millionths of a US dollar")
    latency_ms = models.FloatField()
    ttft_ms = models.FloatField(null=True, blank=True)
    stream = models.BooleanField()
    user = models.CharField(max_length=64, blank=True, help_text="Prefix of the SHA-256 of the unit, never the unit")
    trace_id = models.CharField(
        max_length=32,
        blank=True,
        default="",
        db_default="",
        help_text="The trace that it is part of, in hexadecimal; empty where none was kept",
    )

    objects = UsageQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-at", "-attempt_id"]
        indexes: ClassVar = [
            models.Index(fields=["-at", "-attempt_id"], name="usage_newest"),
            models.Index(fields=["tenant", "-at", "-attempt_id"], name="usage_of_tenant"),
            models.Index(fields=["key", "-at"], condition=~Q(key=""), name="usage_of_key"),
            # Else whoever looks for a prompt or a lane that hardly anybody asked reads all attempts of the period.
            models.Index(fields=["prompt", "-at"], condition=~Q(prompt=""), name="usage_of_prompt"),
            models.Index(fields=["lane", "-at"], name="usage_of_lane"),
            models.Index(fields=["request_id"], name="usage_of_request"),
        ]
        triggers: ClassVar = [append_only()]

    def __str__(self) -> str:
        return f"{self.attempt_id} {self.tenant} {self.kind}"

    @property
    def cost_usd(self) -> float:
        return self.cost_micros / 1e6


class UsageDayQuerySet(TimedQuerySet["UsageDay"]):
    """Reads of days: what each tenant, lane and day made of its attempts."""

    time = "day"

    def matching(self, *, tenants: Iterable[str] | None = None, lane: str = "", route: str = "") -> "UsageDayQuerySet":
        """Days that fit everything given; `tenants` are the slugs that the reader may see, None means all."""
        return self.fitting(tenants, lane=lane, route=route)

    def repetition_by(self, name: Literal["day", "tenant", "lane"]) -> QuerySet["UsageDay", Any]:
        """What `multipliers.Repetition` is made of, per day, tenant or lane; shadows and evals are left out. One
        query.

        Shape of a row: {<name>: date or str, "attempts", "requests", "retries", "failed", "cost_micros",
                         "failed_cost_micros": int}.
        """
        found: QuerySet[UsageDay, Any] = (
            self.exclude(kind__in=UNASKED)
            .order_by()
            .values(name)
            .annotate(
                # In this order: an annotation named like a column hides that column from those that follow.
                retries=Sum("attempts", filter=Q(kind="retry"), default=0),
                attempts=Sum("attempts"),
                requests=Sum("requests"),
                failed=Sum("failed"),
                failed_cost_micros=Sum("failed_cost_micros"),
                cost_micros=Sum("cost_micros"),
            )
            .order_by(name)
        )
        return found

    def extra_by_cause(self) -> QuerySet["UsageDay", Any]:
        """How many attempts were made beyond the first, by what they were made for, most first; one query.

        Shape of a row: {"cause": str, "extra": int}; the cause is empty where the worker did not tell it.
        """
        return (
            self.exclude(kind__in=UNASKED)
            .order_by()
            .values("cause")
            .annotate(extra=Sum(F("attempts") - F("requests")))
            .filter(extra__gt=0)
            .order_by("-extra", "cause")
        )

    def totals_by_tenant(self) -> QuerySet["UsageDay", Any]:
        """What `UsageQuerySet.totals_by_tenant` says of the same days, in the same shape and no order; one query."""
        return (
            self.order_by()
            .values("tenant")
            .annotate(
                extra_attempts=Sum(F("attempts") - F("requests"), filter=~Q(kind=EVAL), default=0),
                attempts=Sum("attempts"),
                requests=Sum("requests"),
                input_tokens=Sum("input_tokens"),
                output_tokens=Sum("output_tokens"),
                cost_micros=Sum("cost_micros"),
            )
        )


class UsageDay(models.Model):
    """The attempts of one UTC day, tenant, lane, route, kind and cause, counted as they are recorded.

    Derived from the usage rows and never the other way round: `rebuild_usage_days` makes the same of them. Grows with
    tenants, lanes and days, not with traffic.
    """

    day = models.DateField(help_text="In UTC, by when the attempts ended")
    tenant = models.CharField(max_length=50)
    lane = models.CharField(max_length=200)
    route = models.CharField(max_length=100)
    kind = models.CharField(max_length=10)
    cause = models.CharField(max_length=60, blank=True)
    attempts = models.BigIntegerField()
    requests = models.BigIntegerField(help_text="Requests whose first attempt is among them")
    failed = models.BigIntegerField(help_text="Attempts that neither answered nor were given up by the caller")
    input_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    cost_micros = models.BigIntegerField(help_text="Millionths of a US dollar")
    failed_cost_micros = models.BigIntegerField(help_text="What of it was paid for attempts that failed")

    objects = UsageDayQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-day", "-pk"]
        constraints: ClassVar = [models.UniqueConstraint(fields=DAY_KEY, name="usage_day_of")]
        indexes: ClassVar = [models.Index(fields=["tenant", "day"], name="usage_day_of_tenant")]

    def __str__(self) -> str:
        return f"{self.day} {self.tenant} {self.lane} {self.kind}"
