"""Usage over HTTP: every attempt with its tokens and its price, and what they come to by day. Read only."""

from datetime import UTC, date, timedelta
from typing import Any, ClassVar, Final

from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.base import OperatorView, describe
from controlplane.api.cursors import (
    CURSOR_PARAMETERS,
    Filters,
    cursor_key,
    moment,
    next_page,
    page_of,
    read_query,
    text_key,
)
from controlplane.ledger.access import billed_tenants
from controlplane.ledger.models import UsageDay, UsageRow

TAG = "usage"
DEFAULT_RANGE: Final = timedelta(hours=24)
# A lane has no index of its own: the period bounds what is read for it.
MAX_RANGE: Final = timedelta(days=31)
DEFAULT_DAYS: Final = timedelta(days=30)


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
        ]


class Day(serializers.ModelSerializer[UsageDay]):
    class Meta:
        model = UsageDay
        fields: ClassVar = [
            "day",
            "tenant",
            "lane",
            "route",
            "kind",
            "cause",
            "attempts",
            "requests",
            "failed",
            "input_tokens",
            "output_tokens",
            "cost_micros",
            "failed_cost_micros",
        ]


class AttemptPage(serializers.Serializer[Any]):
    next = serializers.URLField(allow_null=True, help_text="Null: there are no older ones")
    results = Attempt(many=True)


class DayPage(serializers.Serializer[Any]):
    next = serializers.URLField(allow_null=True, help_text="Null: there are no older ones")
    results = Day(many=True)


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
        gives=AttemptPage,
        refuses=(400, 403),
        parameters=[
            OpenApiParameter("request", description="Exactly this request; then no period is needed"),
            OpenApiParameter("tenant", description="Exactly this tenant, by its slug"),
            OpenApiParameter("key", description="Admitted with the API key of this id"),
            OpenApiParameter("lane", description="At exactly this lane"),
            OpenApiParameter(
                "since", OpenApiTypes.DATETIME, description="Ended at or after; 24 h before `until` unless told"
            ),
            OpenApiParameter(
                "until", OpenApiTypes.DATETIME, description="Ended before; now unless told. At most 31 days"
            ),
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
            until = asked.get("until", now)
            since = asked.get("since", until - DEFAULT_RANGE)
            if until - since > MAX_RANGE:
                raise serializers.ValidationError({"since": [f"at most {MAX_RANGE.days} days before `until`"]})
            rows = rows.between(since, until)
            # The next page asks for the same period, however much later it is.
            asked |= {"since": since, "until": until}
        if "cursor" in asked:
            rows = rows.before(*cursor_key(asked, moment, text_key))
        page, more = page_of(rows.newest(), asked)
        key = [page[-1].at.isoformat(), page[-1].attempt_id] if more else None
        return Response(AttemptPage({"next": next_page(request, asked, key), "results": page}).data)


class UsageDays(OperatorView):
    @describe(
        "usage_days_list",
        "Attempts counted by UTC day, tenant, lane, route, kind and cause, newest day first",
        tag=TAG,
        gives=DayPage,
        refuses=(400, 403),
        parameters=[
            OpenApiParameter("tenant", description="Exactly this tenant, by its slug"),
            OpenApiParameter("lane", description="At exactly this lane"),
            OpenApiParameter("route", description="Of exactly this route"),
            OpenApiParameter(
                "since", OpenApiTypes.DATE, description="This day or later; 30 days before `until` unless told"
            ),
            OpenApiParameter("until", OpenApiTypes.DATE, description="Before this day; tomorrow unless told"),
            *CURSOR_PARAMETERS,
        ],
    )
    def get(self, request: Request) -> Response:
        today = timezone.now().astimezone(UTC).date()
        tenants = billed_tenants(self.operator)
        asked = read_query(DayFilters, request)
        until = asked.get("until", today + timedelta(days=1))
        since = asked.get("since", until - DEFAULT_DAYS)
        asked |= {"since": since, "until": until}
        rows = UsageDay.objects.between(since, until).matching(
            tenants=narrow(tenants, asked), lane=asked.get("lane", ""), route=asked.get("route", "")
        )
        if "cursor" in asked:
            rows = rows.before(*cursor_key(asked, date.fromisoformat, int))
        page, more = page_of(rows.newest(), asked)
        key = [page[-1].day.isoformat(), page[-1].pk] if more else None
        return Response(DayPage({"next": next_page(request, asked, key), "results": page}).data)


def narrow(tenants: list[str], asked: dict[str, Any]) -> list[str]:
    """The tenants to look at: the one that was asked for, if it is among those that the caller may see."""
    return [slug for slug in tenants if slug == asked.get("tenant", slug)]
