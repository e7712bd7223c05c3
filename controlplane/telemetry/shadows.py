"""What shadows reported: counts per policy, route, arm and lane, which ever ran, and some comparisons with their words.

Kept by series and bucket like rollups, never by request; how that is folded and forgotten is in `shadow_minutes`.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final

import orjson
from django.db import connection, models
from django.db.models import Q

from controlplane.accounts.models import Tenant
from controlplane.ledger.models import UsageRow
from controlplane.telemetry.reported import (
    Bucketed,
    MinuteRow,
    ReportedRow,
    ReportingSource,
    intake,
    newest_rows,
    row_key,
    take_rows,
)
from dataplane.shadow.counting import CANDIDATE, COUNTS, ShadowSeries

KEEP_SHADOWS: Final = timedelta(days=35)
# Of each policy's digest: what came before the newest so many goes.
KEEP_PER_POLICY: Final = 1_000
DELETIONS_PER_RUN: Final = 20_000
SHADOW_SERIES: Final = ShadowSeries._fields
TALLIES: Final = ("discarded", "failed", "rules")
SHADOW_SKETCHES: Final = ("latency_ms", "control_latency_ms")


class ShadowCounted(Bucketed):
    """The columns of every row that counts shadows. Shapes: see `dataplane.shadow.counting.ShadowCounting.drain`."""

    policy = models.CharField(max_length=100)
    digest = models.CharField(max_length=64, help_text="Of the policy, as it decided then")
    route = models.CharField(max_length=100)
    arm = models.CharField(max_length=10, help_text="candidate, or noise: control asked once more")
    lane = models.CharField(max_length=200, blank=True, help_text="Empty: none was chosen")
    offered = models.BigIntegerField(default=0)
    asked = models.BigIntegerField(default=0)
    answered = models.BigIntegerField(default=0)
    input_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    cost_micros = models.BigIntegerField(default=0, help_text="Millionths of a US dollar, answered or not")
    control_cost_micros = models.BigIntegerField(default=0, help_text="What control cost on the answered")
    schema_both = models.BigIntegerField(default=0)
    schema_control = models.BigIntegerField(default=0)
    schema_shadow = models.BigIntegerField(default=0)
    schema_neither = models.BigIntegerField(default=0)
    tools_agree = models.BigIntegerField(default=0)
    tools_differ = models.BigIntegerField(default=0)
    verdicts_agree = models.BigIntegerField(default=0)
    verdicts_differ = models.BigIntegerField(default=0)
    refused_control = models.BigIntegerField(default=0)
    refused_shadow = models.BigIntegerField(default=0)
    discarded = models.JSONField(help_text="{reason: count}")
    failed = models.JSONField(help_text="{error code: count}")
    rules = models.JSONField(help_text="{rule@version:control's verdict:shadow's: count}")
    moments = models.JSONField(help_text="{name: [how many, sum, sum of squares]}")
    latency_ms = models.JSONField()
    control_latency_ms = models.JSONField()

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self.bucket_at:%Y-%m-%d %H:%M:%S} {self.policy} {self.arm} {self.lane}"


class ShadowRollup(ShadowCounted, ReportedRow):
    """What one process counted in 10 s."""

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["bucket_at", "worker", "boot", *SHADOW_SERIES], name="one_shadow_rollup"),
        ]
        indexes: ClassVar = [
            models.Index(fields=["bucket_at"], condition=Q(folded=False), name="shadow_rollup_to_fold"),
        ]


class ShadowMinute(ShadowCounted, MinuteRow):
    """What the fleet counted in a minute."""

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["bucket_at", *SHADOW_SERIES, "sealed"], name="one_shadow_minute"),
        ]
        indexes: ClassVar = [models.Index(fields=["policy", "bucket_at"], name="shadow_minute_of_policy")]


class ShadowHour(ShadowCounted):
    """What the fleet counted in an hour of UTC. Derived from minutes, and never the other way round."""

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["bucket_at", *SHADOW_SERIES], name="one_shadow_hour"),
        ]
        indexes: ClassVar = [models.Index(fields=["policy", "bucket_at"], name="shadow_hour_of_policy")]


class ShadowSource(ReportingSource):
    """A process that told of shadows."""

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["worker", "boot"], name="one_shadow_source")]


class ShadowRun(models.Model):
    """That a candidate was ever asked what callers asked a route. Never forgotten: promotion hangs on it."""

    policy = models.CharField(max_length=100)
    digest = models.CharField(max_length=64)
    route = models.CharField(max_length=100)
    lane = models.CharField(max_length=200)
    first_at = models.DateTimeField()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["policy", "digest", "route", "lane"], name="one_shadow_run"),
        ]

    def __str__(self) -> str:
        return f"{self.lane} on {self.route} since {self.first_at:%Y-%m-%d}"


# --- samples ---------------------------------------------------------------------------------------------------------
class ShadowSampleQuerySet(models.QuerySet["ShadowSample"]):
    """Reads of samples."""

    def of_user(self, *, tenant: str, user: str) -> "ShadowSampleQuerySet":
        """Comparisons of answers to one user of a tenant; whose they are, the usage of their requests says.

        Args:
            user: As `UsageRow.user` has it.
        """
        rows = self.filter(tenant=tenant)
        theirs = UsageRow.objects.filter(tenant=tenant, user=user, request_id__in=rows.values("request_id"))
        return rows.filter(request_id__in=theirs.values("request_id"))

    def newest(self) -> "ShadowSampleQuerySet":
        return self.order_by("-at", "-id")


class ShadowSample(models.Model):
    """One comparison: how two answers differ in numbers, and what they said where that may be kept."""

    at = models.DateTimeField()
    request_id = models.CharField(max_length=64)
    tenant = models.CharField(max_length=50)
    policy = models.CharField(max_length=100)
    digest = models.CharField(max_length=64)
    route = models.CharField(max_length=100)
    arm = models.CharField(max_length=10)
    lane = models.CharField(max_length=200)
    control_lane = models.CharField(max_length=200)
    prompt = models.CharField(max_length=100, blank=True)
    version = models.IntegerField(help_text="0: no managed prompt")
    diff = models.JSONField(help_text="See `dataplane.shadow.compare.Comparison.to_json`")
    texts = models.JSONField(null=True, help_text="See `dataplane.shadow.comparing.sample_of`; null: not kept")

    objects = ShadowSampleQuerySet.as_manager()

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["request_id", "arm"], name="one_shadow_sample")]
        indexes: ClassVar = [
            models.Index(fields=["policy", "-at", "-id"], name="shadow_sample_of_policy"),
            models.Index(fields=["at"], name="shadow_sample_by_age"),
            models.Index(fields=["tenant"], name="shadow_sample_of_tenant"),
        ]

    def __str__(self) -> str:
        return f"{self.request_id} {self.arm}"


# --- taking in -------------------------------------------------------------------------------------------------------
MEASURED: Final = (*COUNTS, *TALLIES, "moments", *SHADOW_SKETCHES)
_INTAKE: Final = intake(
    ShadowRollup,
    ShadowSource,
    series=SHADOW_SERIES,
    measured=MEASURED,
    types={**dict.fromkeys(COUNTS, "bigint"), **dict.fromkeys((*TALLIES, "moments", *SHADOW_SKETCHES), "jsonb")},
)
_NOTE_RUNS: Final = f"""
INSERT INTO {ShadowRun._meta.db_table} AS s (policy, digest, route, lane, first_at)
SELECT r.policy, r.digest, r.route, r.lane, min(r.bucket_at)
FROM json_to_recordset(%(rows)s::json)
    AS r(policy text, digest text, route text, lane text, arm text, asked bigint, bucket_at timestamptz)
WHERE r.arm = '{CANDIDATE}' AND r.lane <> '' AND r.asked > 0
GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
ON CONFLICT (policy, digest, route, lane) DO UPDATE SET first_at = excluded.first_at
WHERE excluded.first_at < s.first_at
"""  # noqa: S608 - every name in it is a constant of ours; the values are parameters


def record_shadows(reports: Iterable[Mapping[str, Any]], *, now: datetime) -> set[str]:
    """Take in what reports tell of shadows; delivered twice, late or out of order, it gives the same tables.

    At most five statements, however many rows, and none where there are none.

    Args:
        reports: Each with `worker`, `boot`, `seq`, `shadow` and `shadow_samples`, as
            `telemetry.reports.parse_report` returns them. Buckets over 5 min ahead are left out, and so are those older
            than 35 days.
    Returns:
        The policies that something was told of.
    """
    heard = list(reports)
    rows = newest_rows(heard, "shadow", key=row_key(SHADOW_SERIES), keep=KEEP_SHADOWS, now=now)
    if rows:
        take_rows(_INTAKE, rows, now=now)
        with connection.cursor() as cursor:
            cursor.execute(_NOTE_RUNS, {"rows": orjson.dumps(rows).decode()})
    kept = _record_samples(heard)
    return {row["policy"] for row in rows} | kept


_FIELDS: Final = (
    *("request_id", "tenant", "policy", "digest", "route", "arm", "lane"),
    *("control_lane", "prompt", "version", "diff"),
)


def _record_samples(reports: Iterable[Mapping[str, Any]]) -> set[str]:
    """Keep samples, each once, with the words of tenants that allow it now; returns their policies.

    A worker may not have heard yet that a tenant took its consent back, so it is asked for again here.
    """
    rows = {(one["request_id"], one["arm"]): one for report in reports for one in report["shadow_samples"]}
    if not rows:
        return set()
    asked = {one["tenant"] for one in rows.values()}
    consenting = set(Tenant.objects.filter(slug__in=asked, log_content=True).values_list("slug", flat=True))
    samples = [
        ShadowSample(
            at=datetime.fromtimestamp(one["at"], UTC),
            texts=one["texts"] if one["tenant"] in consenting else None,
            **{name: one[name] for name in _FIELDS},
        )
        for _, one in sorted(rows.items())
    ]
    ShadowSample.objects.bulk_create(samples, ignore_conflicts=True)
    return {one["policy"] for one in rows.values()}


# --- forgetting samples ----------------------------------------------------------------------------------------------
_FORGET: Final = f"""
DELETE FROM {ShadowSample._meta.db_table} WHERE id IN (
    SELECT id FROM (
        SELECT id, at, row_number() OVER (PARTITION BY digest ORDER BY at DESC, id DESC) AS place
        FROM {ShadowSample._meta.db_table}
    ) s
    WHERE s.place > %(keep)s OR s.at < %(horizon)s
    LIMIT %(limit)s
)
"""  # noqa: S608 - as above


def forget_shadow_samples(*, now: datetime, keep_days: int, keep_per_policy: int = KEEP_PER_POLICY) -> int:
    """Delete samples that are too old, and all but the newest of each policy; of those that stay, take the words of
    tenants whose contents may not be kept any more. Returns how many were deleted; what is over DELETIONS_PER_RUN is
    left to the next run.
    """
    consenting = Tenant.objects.filter(log_content=True).values("slug")
    ShadowSample.objects.filter(texts__isnull=False).exclude(tenant__in=consenting).update(texts=None)
    asked: dict[str, Any] = {
        "keep": keep_per_policy,
        "horizon": now - timedelta(days=keep_days),
        "limit": DELETIONS_PER_RUN,
    }
    with connection.cursor() as cursor:
        cursor.execute(_FORGET, asked)
        return int(cursor.rowcount)
