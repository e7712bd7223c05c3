"""Lanes over HTTP: how they are held now, and on-call's own hand on them. Ids hold slashes, so bodies name lanes."""

from typing import Any, ClassVar

from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.accounts.models import Tenant
from controlplane.api.base import OperatorView, Strict, describe, read
from controlplane.routing import holds
from controlplane.routing.access import access_routing, require_holder
from controlplane.routing.effects import effects_of_holding, pins_of
from controlplane.routing.models import LaneHold, Mode
from controlplane.routing.operations import routing_tables
from controlplane.telemetry.lanes import lane_states
from dataplane.routing import RoutingTable as Routing

TAG = "lanes"


class HoldRow(serializers.ModelSerializer[LaneHold]):
    mode = serializers.CharField(help_text="open or closed")
    by = serializers.CharField(source="actor")

    class Meta:
        model = LaneHold
        fields: ClassVar = ["lane", "mode", "reason", "by", "at", "until"]


class LaneStandingRow(serializers.Serializer[Any]):
    state = serializers.CharField(help_text="The worst that a worker holds it in: closed, open, half_open, forced_…")
    workers = serializers.DictField(child=serializers.IntegerField(), help_text="How many hold it in which state")
    open_for_seconds = serializers.FloatField(allow_null=True)
    probes = serializers.IntegerField()
    attempts = serializers.IntegerField(help_text="In the breaker's window, of the whole fleet")
    failures = serializers.IntegerField()
    cause = serializers.CharField(allow_blank=True)


class LaneRow(serializers.Serializer[Any]):
    lane = serializers.CharField()
    routes = serializers.ListField(child=serializers.CharField())
    residency = serializers.CharField()
    breaker = serializers.CharField(allow_null=True, help_text="Its policy; null: nothing is ever held back from it")
    quota = serializers.CharField(allow_null=True, help_text="Its policy; null: nobody waits for what it is admitted")
    standing = LaneStandingRow(allow_null=True, help_text="Null: no worker tells of it")
    hold = HoldRow(allow_null=True, help_text="Null: nobody holds it")


class LanesAnswer(serializers.Serializer[Any]):
    results = LaneRow(many=True)


class Hold(Strict):
    lane = serializers.CharField(max_length=200)
    mode = serializers.ChoiceField(
        ["open", "closed"], help_text="open: nothing goes there; closed: nothing is held back"
    )
    until = serializers.DateTimeField(help_text="At most 24 h ahead; it ends by itself")
    reason = serializers.CharField(max_length=1000)


class LetGo(Strict):
    lane = serializers.CharField(max_length=200)
    reason = serializers.CharField(max_length=1000)


class Held(HoldRow):
    effects = serializers.ListField(child=serializers.CharField(), help_text="What it does to callers, in sentences")

    class Meta(HoldRow.Meta):
        fields: ClassVar = [*HoldRow.Meta.fields, "effects"]


class Lanes(OperatorView):
    @describe("lanes_list", "Every lane of the routing table in force, as it is held now", tag=TAG, gives=LanesAnswer)
    def get(self, request: Request) -> Response:
        now = timezone.now()
        table = access_routing(self.operator).table
        standings, held = lane_states(now), holds.active_holds(now)
        rows = [
            {
                "lane": lane.id,
                "routes": _routes(table, lane.id),
                "residency": lane.residency,
                "breaker": lane.breaker.slug if lane.breaker else None,
                "quota": lane.quota.slug if lane.quota else None,
                "standing": standings[lane.id].to_json() if lane.id in standings else None,
                "hold": held.get(lane.id),
            }
            for lane in sorted(table.lanes.values(), key=lambda lane: lane.id)
        ]
        return Response(LanesAnswer({"results": rows}).data)


class HoldLane(OperatorView):
    @describe(
        "lanes_hold",
        "Hold a lane open or closed until a time: at once, without sign-offs",
        tag=TAG,
        takes=Hold,
        gives=Held,
        status=201,
    )
    def post(self, request: Request) -> Response:
        now = timezone.now()
        require_holder(self.operator)
        asked = read(Hold, request)
        mode = Mode(asked.pop("mode"))
        others = [lane for lane, hold in holds.active_holds(now).items() if hold.mode == Mode.OPEN]
        hold = holds.hold_lane(**asked, mode=mode, actor=self.operator, now=now)
        effects = _effects(hold.lane, mode, others)
        return Response({**HoldRow(hold).data, "effects": effects}, status=201)


class LetLaneGo(OperatorView):
    @describe(
        "lanes_let_go", "Give a lane back to its breaker; nothing happens when nobody holds it", tag=TAG, takes=LetGo
    )
    def post(self, request: Request) -> Response:
        now = timezone.now()
        require_holder(self.operator)
        holds.let_go(**read(LetGo, request), actor=self.operator, now=now)
        return Response({})


def _routes(table: Routing, lane: str) -> list[str]:
    return [route.slug for route in table.routes.values() if any(one.id == lane for one in route.lanes)]


def _effects(lane: str, mode: Mode, held_open: list[str]) -> list[str]:
    active = routing_tables.active()
    assert active is not None  # noqa: S101 - narrows the type; a lane of it has just been held
    pins = pins_of(Tenant.objects.values_list("residency", flat=True))
    return effects_of_holding(active.parsed(), lane, mode, held_open=held_open, pins=pins)
