"""Usage over HTTP: every attempt with its tokens and its price, and what they come to by day. Read only."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any, ClassVar, Final

from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.base import OperatorView, Strict, describe
from controlplane.api.cursors import CURSOR_PARAMETERS, DEFAULT_LIMIT, MAX_LIMIT, CursorField, next_url
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


class _Filters(Strict):
    """The query; a parameter that it does not know would claim a narrower answer than was given, so it is refused."""

    tenant = serializers.CharField(required=False)
    lane = serializers.CharField(required=False)
    limit = serializers.IntegerField(required=False, min_value=1, default=DEFAULT_LIMIT)
    cursor = CursorField(required=False)


class AttemptFilters(_Filters):
    request = serializers.CharField(required=False, max_length=64)
    key = serializers.CharField(required=False, max_length=40)
    since = serializers.DateTimeField(required=False)
    until = serializers.DateTimeField(required=False)


class DayFilters(_Filters):
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
        asked = _read(AttemptFilters, request)
        rows = UsageRow.objects.matching(
            request_id=asked.get("request", ""),
            tenants=_narrow(tenants, asked),
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
            rows = rows.before(*_key(asked, _moment, _text))
        page, more = _page(rows.newest(), asked)
        key = [page[-1].at.isoformat(), page[-1].attempt_id] if more else None
        return Response(AttemptPage({"next": _next(request, asked, key), "results": page}).data)


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
        asked = _read(DayFilters, request)
        until = asked.get("until", today + timedelta(days=1))
        since = asked.get("since", until - DEFAULT_DAYS)
        asked |= {"since": since, "until": until}
        rows = UsageDay.objects.between(since, until).matching(
            tenants=_narrow(tenants, asked), lane=asked.get("lane", ""), route=asked.get("route", "")
        )
        if "cursor" in asked:
            rows = rows.before(*_key(asked, date.fromisoformat, int))
        page, more = _page(rows.newest(), asked)
        key = [page[-1].day.isoformat(), page[-1].pk] if more else None
        return Response(DayPage({"next": _next(request, asked, key), "results": page}).data)


def _read(filters: type[_Filters], request: Request) -> dict[str, Any]:
    parsed = filters(data=request.query_params.dict())
    parsed.is_valid(raise_exception=True)
    asked: dict[str, Any] = parsed.validated_data
    return asked


def _narrow(tenants: list[str], asked: dict[str, Any]) -> list[str]:
    """The tenants to look at: the one that was asked for, if it is among those that the caller may see."""
    return [slug for slug in tenants if slug == asked.get("tenant", slug)]


def _key(asked: dict[str, Any], first: Callable[[str], Any], second: Callable[[Any], Any]) -> tuple[Any, Any]:
    """What the cursor holds, read by `first` and `second`; a caller may have made it up."""
    try:
        return first(asked["cursor"][0]), second(asked["cursor"][1])
    except (TypeError, ValueError, OverflowError):
        raise serializers.ValidationError({"cursor": ["this is no cursor of this list; begin without one"]}) from None


def _moment(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"{text!r} has no zone")
    return at


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"{value!r} is no text that a row could hold")
    return value


def _page(rows: Any, asked: dict[str, Any]) -> tuple[list[Any], bool]:
    """The rows of this page, and whether there are more."""
    limit = min(asked["limit"], MAX_LIMIT)
    found = list(rows[: limit + 1])
    return found[:limit], len(found) > limit


def _next(request: Request, asked: dict[str, Any], key: list[Any] | None) -> str | None:
    if key is None:
        return None
    kept = {name: value for name, value in asked.items() if name != "cursor"}
    return next_url(
        request, {name: value.isoformat() if isinstance(value, date) else value for name, value in kept.items()}, key
    )
