"""Usage over HTTP: every attempt with its tokens and its price, and what they come to by day. Read only."""

from typing import ClassVar

from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.base import OperatorView, describe
from controlplane.api.cursors import (
    BY_DAY,
    BY_TIME,
    CURSOR_PARAMETERS,
    Filters,
    newest_page,
    older_pages_of,
    read_query,
)
from controlplane.api.filters import (
    DAY_PARAMETERS,
    TENANT_PARAMETER,
    narrow,
    period_parameters,
    settle_days,
    settle_period,
)
from controlplane.ledger.access import billed_tenants
from controlplane.ledger.models import DAY_KEY, DAY_SUMS, UsageDay, UsageRow

TAG = "usage"


class Attempt(serializers.ModelSerializer[UsageRow]):
    class Meta:
        model = UsageRow
        fields: ClassVar = [
            "attempt_id",
            "request_id",
            "at",
            "tenant",
            "tier",
            "key",
            "route",
            "lane",
            "prompt",
            "version",
            "canary",
            "cohort",
            "kind",
            "cause",
            "attempt",
            "outcome",
            "status",
            "input_tokens",
            "output_tokens",
            "cost_micros",
            "latency_ms",
            "ttft_ms",
            "stream",
            "user",
            "trace_id",
        ]


class Day(serializers.ModelSerializer[UsageDay]):
    class Meta:
        model = UsageDay
        fields: ClassVar = [*DAY_KEY, *DAY_SUMS]


class AttemptFilters(Filters):
    tenant = serializers.CharField(required=False)
    lane = serializers.CharField(required=False)
    request = serializers.CharField(required=False, max_length=64)
    key = serializers.CharField(required=False, max_length=40)
    since = serializers.DateTimeField(required=False)
    until = serializers.DateTimeField(required=False)


class DayFilters(Filters):
    tenant = serializers.CharField(required=False)
    lane = serializers.CharField(required=False)
    route = serializers.CharField(required=False)
    since = serializers.DateField(required=False)
    until = serializers.DateField(required=False)


class Usage(OperatorView):
    @describe(
        "usage_list",
        "Attempts, newest first: retries and fallbacks are rows of their own, with what they were made for",
        tag=TAG,
        gives=older_pages_of(Attempt),
        refuses=(400, 403),
        parameters=[
            OpenApiParameter("request", description="Exactly this request; then no period is needed"),
            TENANT_PARAMETER,
            OpenApiParameter("key", description="Admitted with the API key of this id"),
            OpenApiParameter("lane", description="At exactly this lane"),
            *period_parameters("Ended"),
            *CURSOR_PARAMETERS,
        ],
    )
    def get(self, request: Request) -> Response:
        now = timezone.now()
        tenants = billed_tenants(self.operator)
        asked = read_query(AttemptFilters, request)
        rows = UsageRow.objects.matching(
            request_id=asked.get("request", ""),
            tenants=narrow(tenants, asked),
            key=asked.get("key", ""),
            lane=asked.get("lane", ""),
        )
        if "request" not in asked or "since" in asked or "until" in asked:
            rows = rows.between(*settle_period(asked, now=now))
        return newest_page(rows, request, asked, order=BY_TIME, row=Attempt)


class UsageDays(OperatorView):
    @describe(
        "usage_days_list",
        "Attempts counted by UTC day, tenant, lane, route, kind and cause, newest day first",
        tag=TAG,
        gives=older_pages_of(Day),
        refuses=(400, 403),
        parameters=[
            TENANT_PARAMETER,
            OpenApiParameter("lane", description="At exactly this lane"),
            OpenApiParameter("route", description="Of exactly this route"),
            *DAY_PARAMETERS,
            *CURSOR_PARAMETERS,
        ],
    )
    def get(self, request: Request) -> Response:
        now = timezone.now()
        tenants = billed_tenants(self.operator)
        asked = read_query(DayFilters, request)
        rows = UsageDay.objects.between(*settle_days(asked, now=now)).matching(
            tenants=narrow(tenants, asked), lane=asked.get("lane", ""), route=asked.get("route", "")
        )
        return newest_page(rows, request, asked, order=BY_DAY, row=Day)
