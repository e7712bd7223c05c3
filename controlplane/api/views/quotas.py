"""Quotas over HTTP: what each account may be sent now, and who waits for it."""

from typing import Any

from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.base import OperatorView, describe
from controlplane.routing.access import access_routing
from controlplane.telemetry.quotas import pools

TAG = "quotas"


class LimitRow(serializers.Serializer[Any]):
    value = serializers.FloatField(help_text="In effect")
    is_learned = serializers.BooleanField(help_text="A header of the provider named less than was declared")
    declared = serializers.FloatField(allow_null=True, help_text="By the policy; null: it does not bound this")


class WaitingRow(serializers.Serializer[Any]):
    interactive = serializers.IntegerField()
    batch = serializers.IntegerField()


class EtaRow(serializers.Serializer[Any]):
    interactive = serializers.FloatField(allow_null=True)
    batch = serializers.FloatField(allow_null=True)


class QuotaStandingRow(serializers.Serializer[Any]):
    paused_seconds = serializers.FloatField(help_text="Nothing is sent for so long; 0: not paused")
    ramp = serializers.FloatField(help_text="Share (0..1) of the limits that is open")
    used_share = serializers.FloatField(help_text="Of the scarcest limit, over its last window")
    waiting = WaitingRow()
    eta_seconds = EtaRow(help_text="For one who comes now; null: not known")
    in_flight = serializers.IntegerField(help_text="Of all workers")
    workers = serializers.IntegerField(help_text="How many tell of it")
    alone = serializers.IntegerField(help_text="How many of them cannot ask the others")


class QuotaRow(serializers.Serializer[Any]):
    pool = serializers.CharField(help_text="account/policy: lanes of one account with the same policy share one quota")
    account = serializers.CharField()
    policy = serializers.CharField()
    lanes = serializers.ListField(child=serializers.CharField())
    window_seconds = serializers.FloatField(help_text="Over which the provider counts; not of concurrency")
    limits = serializers.DictField(child=LimitRow(), help_text="By name")
    attempts = serializers.IntegerField(help_text="On its lanes, in the last 15 min")
    throttled = serializers.IntegerField(help_text="Of these, answered 429")
    standing = QuotaStandingRow(allow_null=True, help_text="Null: no worker tells of it")


class QuotasAnswer(serializers.Serializer[Any]):
    results = QuotaRow(many=True)


class Quotas(OperatorView):
    @describe("quotas_list", "Every quota of the routing table in force, as it stands now", tag=TAG, gives=QuotasAnswer)
    def get(self, request: Request) -> Response:
        found = access_routing(self.operator)
        rows = [pool.to_json() for pool in pools(found.table, now=timezone.now())]
        return Response(QuotasAnswer({"results": rows}).data)
