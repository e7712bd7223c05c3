"""Drills over HTTP: leave a provider or a lane on purpose, see what that shows, and propose what it taught."""

from typing import Any

from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.base import OperatorView, Reason, Strict, describe, read
from controlplane.api.views.changes import ChangeRow
from controlplane.routing import drills
from controlplane.routing.access import access_drill, require_holder, visible_drills
from controlplane.routing.drill_words import findings
from controlplane.telemetry.drills import result_or_live
from controlplane.telemetry.lanes import open_now

TAG = "drills"


class DrillRow(serializers.Serializer[Any]):
    id = serializers.IntegerField(source="pk")
    provider = serializers.CharField(allow_blank=True, help_text="Empty: a drill of one lane")
    lanes = serializers.ListField(source="lane_ids", child=serializers.CharField(), help_text="Held open while it runs")
    reason = serializers.CharField()
    by = serializers.CharField(source="actor")
    began_at = serializers.DateTimeField()
    until = serializers.DateTimeField(help_text="Its lanes are back then at the latest")
    release = serializers.IntegerField(source="revision", help_text="The revision that began it")
    table = serializers.IntegerField(source="table.number", help_text="The routing table that was in force")
    effects = serializers.ListField(child=serializers.CharField(), help_text="As they were said before the click")


class FindingRow(serializers.Serializer[Any]):
    tone = serializers.CharField(help_text="good, watch, bad, or off where nothing is concluded")
    text = serializers.CharField()


class LessonRow(serializers.Serializer[Any]):
    kind = serializers.CharField(help_text="breaker or route")
    slug = serializers.CharField()
    name = serializers.CharField()
    before = serializers.FloatField()
    after = serializers.FloatField()
    note = serializers.CharField(help_text="The rule and the figures that it follows from")


class OneDrillRow(DrillRow):
    is_running = serializers.BooleanField()
    is_final = serializers.BooleanField(help_text="False while figures may still change")
    findings = FindingRow(many=True)
    figures = serializers.DictField(help_text="What was measured, as it is kept")
    lessons = LessonRow(many=True, help_text="Guesses of the table in force that it has measured")


class StartDrill(Strict):
    provider = serializers.CharField(max_length=100, default="", help_text="Every lane of it; or `lane`")
    lane = serializers.CharField(max_length=200, default="", help_text="One lane; or `provider`")
    minutes = serializers.IntegerField(help_text=f"{drills.MIN_MINUTES} to {drills.MAX_MINUTES}")
    reason = serializers.CharField(max_length=1000)
    accept_left_out = serializers.BooleanField(
        default=False, help_text="Go on although tenants have no lane left; they get signed copy or an error"
    )


class Drills(OperatorView):
    @describe("drills_list", "Every drill, newest first", tag=TAG, pages_of=DrillRow, refuses=(403,))
    def get(self, request: Request) -> Response:
        return self.page(visible_drills(self.operator).select_related("table"), DrillRow)

    @describe(
        "drills_start",
        "Leave a provider or a lane for some minutes: at once, without sign-offs",
        tag=TAG,
        takes=StartDrill,
        gives=DrillRow,
        status=201,
    )
    def post(self, request: Request) -> Response:
        now = timezone.now()
        require_holder(self.operator)
        drill = drills.start_drill(**read(StartDrill, request), actor=self.operator, now=now, gone=open_now(now))
        return Response(DrillRow(drill).data, status=201)


class OneDrill(OperatorView):
    @describe("drills_retrieve", "One drill with what it shows, live while it runs", tag=TAG, gives=OneDrillRow)
    def get(self, request: Request, pk: int) -> Response:
        now = timezone.now()
        drill = access_drill(self.operator, pk)
        figures = result_or_live(drill, now=now)
        row = {
            **DrillRow(drill).data,
            "is_running": drills.is_running(drill, now),
            "is_final": hasattr(drill, "result"),
            "findings": [finding.to_json() for finding in findings(drill, figures)],
            "figures": figures,
            "lessons": [
                {
                    "kind": one.kind,
                    "slug": one.slug,
                    "name": one.name,
                    "before": one.before,
                    "after": one.after,
                    "note": one.note(drill),
                }
                for one in drills.learned_from(drill, on=now)
            ],
        }
        return Response(row)


class EndDrill(OperatorView):
    @describe(
        "drills_end", "Let its lanes go before their time; nothing happens when it is over", tag=TAG, takes=Reason
    )
    def post(self, request: Request, pk: int) -> Response:
        now = timezone.now()
        drill = access_drill(self.operator, pk, "hold_lane")
        drills.end_drill(drill=drill, **read(Reason, request), actor=self.operator, now=now)
        return Response({})


class ProposeLessons(OperatorView):
    @describe(
        "drills_propose_values",
        "Propose what it measured in the place of guesses: a new routing table and its change request",
        tag=TAG,
        takes=Reason,
        gives=ChangeRow,
        status=201,
    )
    def post(self, request: Request, pk: int) -> Response:
        now = timezone.now()
        drill = access_drill(self.operator, pk, "propose_routing")
        change = drills.propose_lessons(drill=drill, **read(Reason, request), actor=self.operator, now=now)
        return Response(ChangeRow(change).data, status=201)


class ProposeLeaving(OperatorView):
    @describe(
        "drills_propose_leaving",
        "Propose to leave the provider for good: a new routing table without it and its change request",
        tag=TAG,
        takes=Reason,
        gives=ChangeRow,
        status=201,
    )
    def post(self, request: Request, pk: int) -> Response:
        now = timezone.now()
        drill = access_drill(self.operator, pk, "propose_routing")
        asked = read(Reason, request)
        change = drills.propose_leaving(drill=drill, **asked, actor=self.operator, now=now)
        return Response(ChangeRow(change).data, status=201)
