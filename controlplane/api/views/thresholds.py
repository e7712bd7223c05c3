"""The thresholds of policies and routes over HTTP: read them, and propose others."""

from collections.abc import Mapping
from typing import Any, ClassVar

from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.base import OperatorView, Strict, describe, read
from controlplane.api.views.changes import ChangeRow
from controlplane.routing import operations
from controlplane.routing.access import access_policy
from controlplane.routing.thresholds import BREAKER, PROBE, QUOTA, RETRY, ROUTE, STREAM, NewValue, owners_of
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
    thresholds = serializers.DictField(child=NewThreshold(), allow_empty=False, help_text="Those to change, by name")
    reason = serializers.CharField(max_length=1000)


class _Policy(OperatorView):
    kind: ClassVar[str]

    def _get(self, slug: str) -> Response:
        today = timezone.now().date()
        found = access_policy(self.operator, self.kind, slug)
        rows = {
            name: {"value": one.value, "provenance": {**_plain(one), "is_overdue": one.provenance.is_overdue(today)}}
            for name, one in owners_of(found.table, self.kind)[slug].thresholds().items()
        }
        return Response(Thresholds({"slug": slug, "table": found.row.number, "thresholds": rows}).data)

    def _patch(self, request: Request, slug: str) -> Response:
        now = timezone.now()
        access_policy(self.operator, self.kind, slug, "propose_routing")
        asked = read(NewThresholds, request)
        changes = {name: NewValue(**new) for name, new in asked["thresholds"].items()}
        change = operations.propose_thresholds(
            kind=self.kind, slug=slug, changes=changes, reason=asked["reason"], actor=self.operator, now=now
        )
        return Response(ChangeRow(change).data, status=201)


class OneBreaker(_Policy):
    kind = BREAKER

    @describe(
        "breakers_retrieve", "One breaker policy of the table in force", tag=TAG, gives=Thresholds, refuses=(404,)
    )
    def get(self, request: Request, slug: str) -> Response:
        return self._get(slug)

    @describe(
        "breakers_propose",
        "Propose other thresholds of a breaker policy: a new routing table and its change request",
        tag=TAG,
        takes=NewThresholds,
        gives=ChangeRow,
        status=201,
    )
    def patch(self, request: Request, slug: str) -> Response:
        return self._patch(request, slug)


class OneRoute(_Policy):
    kind = ROUTE

    @describe("routes_retrieve", "The thresholds of one route in force", tag=TAG, gives=Thresholds, refuses=(404,))
    def get(self, request: Request, slug: str) -> Response:
        return self._get(slug)

    @describe(
        "routes_propose",
        "Propose other thresholds of a route: a new routing table and its change request",
        tag=TAG,
        takes=NewThresholds,
        gives=ChangeRow,
        status=201,
    )
    def patch(self, request: Request, slug: str) -> Response:
        return self._patch(request, slug)


class OneRetryPolicy(_Policy):
    kind = RETRY

    @describe("retries_retrieve", "One retry policy of the table in force", tag=TAG, gives=Thresholds, refuses=(404,))
    def get(self, request: Request, slug: str) -> Response:
        return self._get(slug)

    @describe(
        "retries_propose",
        "Propose other thresholds of a retry policy: a new routing table and its change request",
        tag=TAG,
        takes=NewThresholds,
        gives=ChangeRow,
        status=201,
    )
    def patch(self, request: Request, slug: str) -> Response:
        return self._patch(request, slug)


class OneProbePolicy(_Policy):
    kind = PROBE

    @describe("probes_retrieve", "One probe policy of the table in force", tag=TAG, gives=Thresholds, refuses=(404,))
    def get(self, request: Request, slug: str) -> Response:
        return self._get(slug)

    @describe(
        "probes_propose",
        "Propose other thresholds of a probe policy: a new routing table and its change request",
        tag=TAG,
        takes=NewThresholds,
        gives=ChangeRow,
        status=201,
    )
    def patch(self, request: Request, slug: str) -> Response:
        return self._patch(request, slug)


class OneQuotaPolicy(_Policy):
    kind = QUOTA

    @describe(
        "quota_policies_retrieve",
        "The thresholds of one quota policy of the table in force; a limit that it does not bound is left out",
        tag=TAG,
        gives=Thresholds,
        refuses=(404,),
    )
    def get(self, request: Request, slug: str) -> Response:
        return self._get(slug)

    @describe(
        "quota_policies_propose",
        "Propose other thresholds of a quota policy, or limits that it did not have: a new routing table and its "
        "change request",
        tag=TAG,
        takes=NewThresholds,
        gives=ChangeRow,
        status=201,
    )
    def patch(self, request: Request, slug: str) -> Response:
        return self._patch(request, slug)


class OneStreamPolicy(_Policy):
    kind = STREAM

    @describe(
        "stream_policies_retrieve",
        "The thresholds of one stream policy of the table in force",
        tag=TAG,
        gives=Thresholds,
        refuses=(404,),
    )
    def get(self, request: Request, slug: str) -> Response:
        return self._get(slug)

    @describe(
        "stream_policies_propose",
        "Propose other thresholds of a stream policy: a new routing table and its change request",
        tag=TAG,
        takes=NewThresholds,
        gives=ChangeRow,
        status=201,
    )
    def patch(self, request: Request, slug: str) -> Response:
        return self._patch(request, slug)


def _plain(threshold: Threshold) -> Mapping[str, Any]:
    said = threshold.provenance
    return {name: getattr(said, name) for name in ("origin", "note", "link", "author", "on", "review_by")}
