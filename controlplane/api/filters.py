"""What the lists of the record are narrowed by, each in one way: the tenant, the period, the days."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers

from controlplane.api.base import Strict

DEFAULT_RANGE: Final = timedelta(hours=24)
# Some of what a list is narrowed by has no index of its own: the period bounds what is read for it.
MAX_RANGE: Final = timedelta(days=31)
DEFAULT_DAYS: Final = timedelta(days=30)

TENANT_PARAMETER: Final = OpenApiParameter("tenant", description="Exactly this tenant, by its slug")
DAY_PARAMETERS: Final = [
    OpenApiParameter("since", OpenApiTypes.DATE, description="This day or later; 30 days before `until` unless told"),
    OpenApiParameter("until", OpenApiTypes.DATE, description="Before this day; tomorrow unless told"),
]


def period_parameters(what: str) -> list[OpenApiParameter]:
    """What `settle_period` reads, in the words of the schema; `what` rows did at their time: "Ended", "Happened"."""
    since, until = f"{what} at or after; 24 h before `until` unless told", f"{what} before; now unless told"
    return [
        OpenApiParameter("since", OpenApiTypes.DATETIME, description=since),
        OpenApiParameter("until", OpenApiTypes.DATETIME, description=f"{until}. At most {MAX_RANGE.days} days"),
    ]


class Period(Strict):
    since = serializers.DateTimeField(required=False)
    until = serializers.DateTimeField(required=False)


def asked_period(asked: Mapping[str, Any], *, now: datetime) -> tuple[datetime, datetime]:
    """The period [since, until) that a query asks for.

    Raises:
        rest_framework.exceptions.ValidationError: as `settled_period`, and for what is no time.
    """
    known = {name: asked[name] for name in ("since", "until") if name in asked}
    period = Period(data=known)
    period.is_valid(raise_exception=True)
    return settled_period(period.validated_data, now=now)


def settled_period(asked: Mapping[str, Any], *, now: datetime) -> tuple[datetime, datetime]:
    """The same of times that are read already.

    Raises:
        rest_framework.exceptions.ValidationError: nothing lies between, or more than MAX_RANGE.
    """
    until: datetime = asked.get("until", now)
    since: datetime = asked.get("since", until - DEFAULT_RANGE)
    if not since < until or until - since > MAX_RANGE:
        raise serializers.ValidationError({"since": [f"before `until`, and at most {MAX_RANGE.days} days"]})
    return since, until


def narrow(tenants: list[str], asked: dict[str, Any]) -> list[str]:
    """The tenants to look at: the one that was asked for, if it is among those that the caller may see."""
    return [slug for slug in tenants if slug == asked.get("tenant", slug)]


def settle_period(asked: dict[str, Any], *, now: datetime) -> tuple[datetime, datetime]:
    """The period [since, until) that is asked for. It goes into `asked`, so that the next page asks for the same one,
    however much later it is.

    Raises:
        rest_framework.exceptions.ValidationError: it is longer than MAX_RANGE.
    """
    until = asked.get("until", now)
    since = asked.get("since", until - DEFAULT_RANGE)
    if until - since > MAX_RANGE:
        raise serializers.ValidationError({"since": [f"at most {MAX_RANGE.days} days before `until`"]})
    asked |= {"since": since, "until": until}
    return since, until


def settle_days(asked: dict[str, Any], *, now: datetime) -> tuple[date, date]:
    """The days [since, until), in UTC, that are asked for. They go into `asked`, as those of `settle_period`."""
    until = asked.get("until", now.astimezone(UTC).date() + timedelta(days=1))
    since = asked.get("since", until - DEFAULT_DAYS)
    asked |= {"since": since, "until": until}
    return since, until
