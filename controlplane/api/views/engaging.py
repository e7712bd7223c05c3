"""What people engage on a surface, over HTTP: see what it would do, engage a rung, hold triggers down, stand down."""

from typing import Any, ClassVar

from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.accounts.models import Tier
from controlplane.api.base import OperatorView, Reason, Strict, describe, read
from controlplane.ladder import rungs
from controlplane.ladder.access import access_activation, access_surface, require_engager, visible_activations
from controlplane.ladder.effects import effect_preview
from controlplane.ladder.errors import InvalidActivation
from controlplane.ladder.models import RungActivation, RungMode
from controlplane.telemetry.surfaces import traffic_share
from dataplane.ladder.policy import MAINTENANCE, OFF

TAG = "ladder"


class StoodDownRow(serializers.Serializer[Any]):
    by = serializers.CharField(source="actor")
    reason = serializers.CharField()
    at = serializers.DateTimeField()


class ActivationRow(serializers.ModelSerializer[RungActivation]):
    name = serializers.CharField(help_text="By which workers and the record know it")
    by = serializers.CharField(source="actor")
    policy = serializers.IntegerField(source="policy.number", help_text="The ladder policy that was in force")
    regions = serializers.ListField(child=serializers.CharField(), help_text="Of gateways; empty: all")
    tiers = serializers.ListField(child=serializers.ChoiceField(Tier.choices), help_text="Empty: all")
    words = serializers.DictField(help_text="The signed words that stood then: {slug: {'number', 'digest'}}")
    stood_down = serializers.SerializerMethodField(help_text="Null: nobody ended it before its time")

    class Meta:
        model = RungActivation
        fields: ClassVar = [
            "id",
            "name",
            "surface",
            "mode",
            "rung",
            "regions",
            "tiers",
            "since",
            "until",
            "reason",
            "by",
            "policy",
            "words",
            "stood_down",
        ]

    def get_stood_down(self, row: RungActivation) -> dict[str, Any] | None:
        return StoodDownRow(row.stood_down).data if row.is_stood_down else None


class Scope(Strict):
    regions = serializers.ListField(
        child=serializers.CharField(max_length=100), default=list, help_text="Of gateways; empty: all of them"
    )
    tiers = serializers.ListField(
        child=serializers.ChoiceField(Tier.choices), default=list, help_text="Of tenants; empty: all of them"
    )


class NewActivation(Scope):
    surface = serializers.CharField(max_length=100)
    mode = serializers.ChoiceField(
        RungMode.choices,
        default=RungMode.ENGAGE,
        help_text="engage: the rung stands; hold: triggers engage nothing above it",
    )
    rung = serializers.IntegerField(min_value=OFF, max_value=MAINTENANCE)
    until = serializers.DateTimeField(help_text="At most 24 h ahead; it ends by itself")
    reason = serializers.CharField(max_length=1000)


class AskedEffect(Scope):
    rung = serializers.IntegerField(min_value=OFF + 1, max_value=MAINTENANCE)


class EffectRow(serializers.Serializer[Any]):
    sentence = serializers.CharField(help_text="Who is touched, and who is exempt, in one line")
    exempt = serializers.ListField(child=serializers.CharField())
    changes = serializers.ListField(child=serializers.CharField(), help_text="What callers get instead, rung by rung")


class StandDown(Reason):
    is_held_up = serializers.BooleanField(
        default=True, help_text="Whether triggers hold the surface up: then they are held down for a while too"
    )
    minutes = serializers.IntegerField(default=rungs.STAND_DOWN_MINUTES, min_value=1, max_value=24 * 60)


class Activations(OperatorView):
    @describe(
        "ladder_activations_list",
        "Everything that people engaged or held down, the newest first",
        tag=TAG,
        pages_of=ActivationRow,
        refuses=(403,),
    )
    def get(self, request: Request) -> Response:
        return self.page(visible_activations(self.operator), ActivationRow)

    @describe(
        "ladder_activations_engage",
        "Engage a rung of a surface, or hold its triggers down, until a time: at once, without sign-offs",
        tag=TAG,
        takes=NewActivation,
        gives=ActivationRow,
        status=201,
    )
    def post(self, request: Request) -> Response:
        now = timezone.now()
        require_engager(self.operator)
        asked = read(NewActivation, request)
        put_down = rungs.engage_rung if asked.pop("mode") == RungMode.ENGAGE else rungs.hold_down
        row = put_down(**asked, actor=self.operator, now=now)
        return Response(ActivationRow(row).data, status=201)


class OneActivation(OperatorView):
    @describe("ladder_activations_retrieve", "One activation or hold", tag=TAG, gives=ActivationRow, refuses=(404,))
    def get(self, request: Request, pk: int) -> Response:
        return Response(ActivationRow(access_activation(self.operator, pk)).data)


class StandOneDown(OperatorView):
    @describe(
        "ladder_activations_stand_down",
        "End one activation or hold; nothing happens when it is over",
        tag=TAG,
        takes=Reason,
        gives=ActivationRow,
    )
    def post(self, request: Request, pk: int) -> Response:
        now = timezone.now()
        row = access_activation(self.operator, pk, "engage_rung")
        rungs.stand_down_one(activation=row, **read(Reason, request), actor=self.operator, now=now)
        return Response(ActivationRow(access_activation(self.operator, pk)).data)


class StandSurfaceDown(OperatorView):
    @describe(
        "ladder_stand_down",
        "End everything that is engaged on a surface, and hold its triggers down for a while",
        tag=TAG,
        takes=StandDown,
    )
    def post(self, request: Request, slug: str) -> Response:
        now = timezone.now()
        require_engager(self.operator)
        rungs.stand_down(surface=slug, **read(StandDown, request), actor=self.operator, now=now)
        return Response({})


class PreviewRung(OperatorView):
    @describe(
        "ladder_preview",
        "What engaging a rung of a surface would do to callers",
        tag=TAG,
        takes=AskedEffect,
        gives=EffectRow,
    )
    def post(self, request: Request, slug: str) -> Response:
        surface = access_surface(self.operator, slug)
        asked = read(AskedEffect, request)
        if asked["rung"] not in surface.rungs:
            raise InvalidActivation(f"surface {slug!r} has no rung {asked['rung']}; it has {_numbers(surface.rungs)}")
        share = traffic_share(slug, regions=asked["regions"], tiers=asked["tiers"], now=timezone.now()).share
        return Response(EffectRow(effect_preview(surface, **asked, share=share)).data)


def _numbers(rungs_of: Any) -> str:
    return ", ".join(map(str, rungs_of))
