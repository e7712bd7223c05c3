"""The thresholds of policies and routes over HTTP: read them, and propose others."""

from collections.abc import Mapping
from datetime import date
from typing import Any

from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.base import OperatorView, Strict, describe, read
from controlplane.api.views.changes import ChangeRow
from controlplane.routing import operations
from controlplane.routing.access import access_policy
from controlplane.routing.thresholds import (
    BREAKER,
    NOUNS,
    PROBE,
    QUOTA,
    REPAIR,
    RETRY,
    ROUTE,
    STREAM,
    VALIDATOR,
    NewValue,
    owners_of,
)
from dataplane.thresholds import ORIGINS, Threshold

TAG = "routing"


class ProvenanceRow(serializers.Serializer[Any]):
    origin = serializers.ChoiceField(sorted(ORIGINS))
    note = serializers.CharField()
    link = serializers.CharField(allow_blank=True)
    author = serializers.CharField()
    on = serializers.DateField()
    review_by = serializers.DateField()
    is_overdue = serializers.BooleanField()


class ThresholdRow(serializers.Serializer[Any]):
    value = serializers.FloatField()
    provenance = ProvenanceRow()


class Thresholds(serializers.Serializer[Any]):
    slug = serializers.CharField()
    table = serializers.IntegerField(help_text="The routing table in force, which they are part of")
    thresholds = serializers.DictField(child=ThresholdRow(), help_text="By name")


class NewThreshold(Strict):
    value = serializers.FloatField(help_text="Shares as 0..1; the unit is in the threshold's name")
    origin = serializers.ChoiceField(sorted(ORIGINS))
    note = serializers.CharField(max_length=500)
    link = serializers.CharField(max_length=500, allow_blank=True, default="", help_text="Only a guess may have none")
    review_by = serializers.DateField()


class NewThresholds(Strict):
    thresholds = serializers.DictField(
        child=NewThreshold(allow_null=True),
        allow_empty=False,
        help_text="Those to change, by name; null unsets what may be unset",
    )
    reason = serializers.CharField(max_length=1000)


def _view(kind: str, operations_of: str, *, reading: str = "", proposing: str = "") -> type[OperatorView]:
    """The endpoint of one kind of policies: read the thresholds of one that is in force, and propose others.

    Args:
        operations_of: With which the names of its operations begin in the schema.
        reading, proposing: What else the schema says of each.
    """

    class OneOfThem(OperatorView):
        @describe(
            f"{operations_of}_retrieve",
            f"The thresholds of one {NOUNS[kind]} of the table in force{reading}",
            tag=TAG,
            gives=Thresholds,
            refuses=(404,),
        )
        def get(self, request: Request, slug: str) -> Response:
            today = timezone.now().date()
            found = access_policy(self.operator, kind, slug)
            thresholds = owners_of(found.table, kind)[slug].thresholds()
            rows = {name: plain(threshold, today=today) for name, threshold in thresholds.items()}
            return Response(Thresholds({"slug": slug, "table": found.row.number, "thresholds": rows}).data)

        @describe(
            f"{operations_of}_propose",
            f"Propose other thresholds of a {NOUNS[kind]}{proposing}: a new routing table and its change request",
            tag=TAG,
            takes=NewThresholds,
            gives=ChangeRow,
            status=201,
        )
        def patch(self, request: Request, slug: str) -> Response:
            now = timezone.now()
            access_policy(self.operator, kind, slug, "propose_routing")
            asked = read(NewThresholds, request)
            changes = {name: new and NewValue(**new) for name, new in asked["thresholds"].items()}
            change = operations.propose_thresholds(
                kind=kind, slug=slug, changes=changes, reason=asked["reason"], actor=self.operator, now=now
            )
            return Response(ChangeRow(change).data, status=201)

    return OneOfThem


def plain(threshold: Threshold, *, today: date) -> Mapping[str, Any]:
    """A threshold as `ThresholdRow` shows it."""
    said = threshold.provenance
    provenance = {name: getattr(said, name) for name in ("origin", "note", "link", "author", "on", "review_by")}
    return {"value": threshold.value, "provenance": provenance | {"is_overdue": said.is_overdue(today)}}


OneBreaker = _view(BREAKER, "breakers")
OneRoute = _view(ROUTE, "routes")
OneRetryPolicy = _view(RETRY, "retries")
OneProbePolicy = _view(PROBE, "probes")
OneQuotaPolicy = _view(
    QUOTA,
    "quota_policies",
    reading="; a limit that it does not bound is left out",
    proposing=", or limits that it did not have",
)
OneStreamPolicy = _view(STREAM, "stream_policies")
OneRepairPolicy = _view(REPAIR, "repair_policies")
OneValidatorPolicy = _view(
    VALIDATOR, "validator_policies", reading="; those of a rule have its name in front, as in 'no-cards.budget_ms'"
)
