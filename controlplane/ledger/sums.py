"""What attempts come to in coarser steps than usage days, so that a month of everybody's is a few thousand rows."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, time
from typing import Any, ClassVar, Final, Literal

from django.db import models
from django.db.models import F, QuerySet, Sum
from django.db.models.functions import TruncDate

from controlplane.ledger.newest import TimedQuerySet

# What a row is the sum of; the columns that it does not name are empty.
TENANT_HOUR: Final = "tenant_hour"
TENANT_DAY: Final = "tenant_day"
LANE_DAY: Final = "lane_day"  # of all tenants, and of each cause
# What tells the rows of `UsageSum` apart, and what they count.
SUM_KEY: Final = ("of", "begins_at", "tenant", "lane", "cause")
SUM_COUNTS: Final = (
    *("attempts", "requests", "extra_attempts", "input_tokens", "output_tokens", "cost_micros"),
    *("asked_attempts", "asked_retries", "asked_failed", "asked_cost_micros", "asked_failed_cost_micros"),
)


class UsageSumQuerySet(TimedQuerySet["UsageSum"]):
    """Reads of sums, in the shapes in which usage days and rows give the same figures."""

    time = "begins_at"

    def days(self, of: str, first: date, until: date) -> UsageSumQuerySet:
        """Sums of the UTC days [first, until)."""
        return self.filter(of=of).between(midnight(first), midnight(until))

    def matching(self, *, tenants: Iterable[str] | None = None, lane: str = "") -> UsageSumQuerySet:
        """Sums that fit everything given; `tenants` are the slugs that the reader may see, None means all."""
        return self.fitting(tenants, lane=lane)

    def totals_by_tenant(self) -> QuerySet[UsageSum, Any]:
        """As `UsageDayQuerySet.totals_by_tenant`."""
        names = ("attempts", "requests", "extra_attempts", "input_tokens", "output_tokens", "cost_micros")
        found: QuerySet[UsageSum, Any] = (
            self.order_by().values("tenant").annotate(**{name: Sum(name) for name in names})
        )
        return found

    def repetition_by(self, name: Literal["day", "tenant", "lane"]) -> QuerySet[UsageSum, Any]:
        """As `UsageDayQuerySet.repetition_by`, in no order."""
        rows = self.filter(asked_attempts__gt=0).order_by()
        if name == "day":
            rows = rows.annotate(day=TruncDate("begins_at", tzinfo=UTC))
        found: QuerySet[UsageSum, Any] = rows.values(name).annotate(
            retries=Sum("asked_retries"),
            attempts=Sum("asked_attempts"),
            requests=Sum("requests"),
            failed=Sum("asked_failed"),
            failed_cost_micros=Sum("asked_failed_cost_micros"),
            cost_micros=Sum("asked_cost_micros"),
        )
        return found

    def extra_by_cause(self) -> QuerySet[UsageSum, Any]:
        """As `UsageDayQuerySet.extra_by_cause`."""
        found: QuerySet[UsageSum, Any] = (
            self.order_by()
            .values("cause")
            .annotate(extra=Sum(F("asked_attempts") - F("requests")))
            .filter(extra__gt=0)
            .order_by("-extra", "cause")
        )
        return found


class UsageSum(models.Model):
    """The attempts of one tenant's UTC hour or day, or of one lane's day by their cause, counted as they are recorded.

    Derived from the usage rows, as usage days are, and counted anew with them. Grows with tenants, hours, lanes and
    days, not with traffic. `asked_` is of what somebody waited for: shadows and evals are left out.
    """

    of = models.CharField(max_length=12, help_text="tenant_hour, tenant_day or lane_day")
    begins_at = models.DateTimeField(help_text="The hour or day, in UTC, in which the attempts ended")
    tenant = models.CharField(max_length=50, blank=True)
    lane = models.CharField(max_length=200, blank=True)
    cause = models.CharField(max_length=60, blank=True)
    attempts = models.BigIntegerField()
    requests = models.BigIntegerField(help_text="Requests whose first attempt is among them")
    extra_attempts = models.BigIntegerField(help_text="Beyond the first of their request, shadows among them")
    input_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    cost_micros = models.BigIntegerField(help_text="Millionths of a US dollar")
    asked_attempts = models.BigIntegerField()
    asked_retries = models.BigIntegerField()
    asked_failed = models.BigIntegerField(help_text="Attempts that neither answered nor were given up by the caller")
    asked_cost_micros = models.BigIntegerField()
    asked_failed_cost_micros = models.BigIntegerField(help_text="What of it was paid for attempts that failed")

    objects = UsageSumQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-begins_at", "-pk"]
        constraints: ClassVar = [models.UniqueConstraint(fields=SUM_KEY, name="usage_sum_of")]

    def __str__(self) -> str:
        return f"{self.of} {self.begins_at:%Y-%m-%d %H} {self.tenant}{self.lane}"


def midnight(day: date) -> datetime:
    """When a UTC day begins."""
    return datetime.combine(day, time(), UTC)
