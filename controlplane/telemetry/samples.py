"""Answers as models gave them, kept so that a rule can be tried before it decides anything. Few, and not for long.

Only of tenants whose contents may be kept, and only while they may: what a tenant took back is neither read nor kept.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final

from django.db import connection, models

from controlplane.accounts.models import Tenant
from controlplane.ledger.models import UsageRow
from dataplane.validators.values import Output, Source

# Of each route: what came before the newest so many goes.
KEEP_PER_ROUTE: Final = 1_000
DELETIONS_PER_RUN: Final = 20_000


class AnswerSampleQuerySet(models.QuerySet["AnswerSample"]):
    """Reads of samples; every one begins with `allowed`, so that none outlives its tenant's consent on a page."""

    def allowed(self) -> "AnswerSampleQuerySet":
        """Those of tenants whose contents may be kept now."""
        return self.filter(tenant__in=Tenant.objects.filter(log_content=True).values("slug"))

    def of_routes(self, routes: Iterable[str]) -> "AnswerSampleQuerySet":
        """Answers that these routes gave."""
        return self.filter(route__in=list(routes))

    def of_user(self, *, tenant: str, user: str) -> "AnswerSampleQuerySet":
        """Answers to one user of a tenant. A sample does not say whose it is; the usage of its request does.

        Args:
            user: As `UsageRow.user` has it.
        """
        rows = self.filter(tenant=tenant)
        theirs = UsageRow.objects.filter(tenant=tenant, user=user, request_id__in=rows.values("request_id"))
        return rows.filter(request_id__in=theirs.values("request_id"))

    def newest(self) -> "AnswerSampleQuerySet":
        return self.order_by("-at", "-id")


class AnswerSample(models.Model):
    """One answer, after it was repaired and before any rule looked at it. See `dataplane.samples`."""

    at = models.DateTimeField()
    request_id = models.CharField(max_length=64, unique=True)
    tenant = models.CharField(max_length=50)
    route = models.CharField(max_length=100)
    prompt = models.CharField(max_length=100, blank=True)
    version = models.IntegerField(help_text="0: no managed prompt")
    lane = models.CharField(max_length=200, blank=True)
    text = models.TextField(blank=True)
    tool_calls = models.JSONField(help_text="[[name, arguments as the model wrote them]]")
    sources = models.JSONField(help_text='What the answer may rest on: [{"id", "text"}]')
    question = models.TextField(blank=True)
    is_json = models.BooleanField(help_text="Whether the caller asked for JSON")

    objects = AnswerSampleQuerySet.as_manager()

    class Meta:
        indexes: ClassVar = [
            models.Index(fields=["route", "-at", "-id"], name="sample_of_route"),
            models.Index(fields=["at"], name="sample_by_age"),
            models.Index(fields=["tenant"], name="sample_of_tenant"),
        ]

    def __str__(self) -> str:
        return f"{self.request_id} of {self.route}"

    def output(self) -> Output:
        """The answer as rules look at it."""
        return Output(
            self.text,
            tuple((name, arguments) for name, arguments in self.tool_calls),
            tuple(Source(source["id"], source["text"]) for source in self.sources),
            self.question,
            is_json=self.is_json,
        )


_FIELDS: Final = (
    *("request_id", "tenant", "route", "prompt", "version", "lane"),
    *("text", "tool_calls", "sources", "question", "is_json"),
)


def record_samples(reports: Iterable[Mapping[str, Any]]) -> int:
    """Keep the samples of reports, each once however often it is delivered; returns how many may be kept.

    A worker may not have heard yet that a tenant took its consent back, so it is asked for again here. At most two
    statements, and none where there are no samples.

    Args:
        reports: Each with `samples`, as `telemetry.reports.parse_report` returns them.
    """
    rows = {sample["request_id"]: sample for report in reports for sample in report["samples"]}
    if not rows:
        return 0
    asked = {sample["tenant"] for sample in rows.values()}
    consenting = set(Tenant.objects.filter(slug__in=asked, log_content=True).values_list("slug", flat=True))
    kept = [
        AnswerSample(at=datetime.fromtimestamp(sample["at"], UTC), **{name: sample[name] for name in _FIELDS})
        for _, sample in sorted(rows.items())
        if sample["tenant"] in consenting
    ]
    AnswerSample.objects.bulk_create(kept, ignore_conflicts=True)
    return len(kept)


_FORGET: Final = f"""
DELETE FROM {AnswerSample._meta.db_table} WHERE id IN (
    SELECT id FROM (
        SELECT id, at, tenant, row_number() OVER (PARTITION BY route ORDER BY at DESC, id DESC) AS place
        FROM {AnswerSample._meta.db_table}
    ) s
    WHERE s.place > %(keep)s OR s.at < %(horizon)s OR NOT EXISTS (
        SELECT 1 FROM {Tenant._meta.db_table} t WHERE t.slug = s.tenant AND t.log_content
    )
    LIMIT %(limit)s
)
"""  # noqa: S608 - every name in it is a constant of ours; the values are parameters


def forget_samples(*, now: datetime, keep_days: int, keep_per_route: int = KEEP_PER_ROUTE) -> int:
    """Delete samples of tenants that may not be kept any more, those that are too old, and all but the newest of each
    route. Returns how many; what is over DELETIONS_PER_RUN is left to the next run.
    """
    asked: dict[str, Any] = {
        "keep": keep_per_route,
        "horizon": now - timedelta(days=keep_days),
        "limit": DELETIONS_PER_RUN,
    }
    with connection.cursor() as cursor:
        cursor.execute(_FORGET, asked)
        return int(cursor.rowcount)
