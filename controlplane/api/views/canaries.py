"""Canaries over HTTP: plan, start, turn, promote, roll back."""

from typing import Any, ClassVar

from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.base import Nothing, OperatorView, Reason, Strict, describe, read
from controlplane.prompts.access import access_version
from controlplane.rollouts import operations
from controlplane.rollouts.access import access_canary, visible_canaries
from controlplane.rollouts.models import DEFAULT_STAGES, Canary, CanaryState
from controlplane.verdicts.references import suggested_guardrails
from controlplane.verdicts.values import Ruling
from controlplane.verdicts.watching import gap, read_watch

TAG = "canaries"
UNIT_CHOICES = Canary._meta.get_field("unit").choices or ()


class StageRow(serializers.Serializer[Any]):
    name = serializers.CharField()
    audience = serializers.ChoiceField(["internal", "all"])
    tenants = serializers.ListField(child=serializers.CharField(), help_text="Empty: every tenant")
    regions = serializers.ListField(child=serializers.CharField(), help_text="Empty: every region")
    weight = serializers.IntegerField(help_text="Buckets of 10000 that are served the candidate")
    evidence = serializers.JSONField(
        required=False,
        help_text="What it asks for: {'unproven': 'wait'|'allow'|'roll_back', 'after_minutes', 'advance'}",
    )


class CanaryRow(serializers.ModelSerializer[Canary]):
    prompt = serializers.SlugRelatedField[Any](slug_field="slug", read_only=True)
    candidate = serializers.IntegerField(source="candidate.number")
    control = serializers.IntegerField(source="control.number")
    stages = StageRow(many=True)
    exposure = serializers.SerializerMethodField(help_text="Share of the public that is served the candidate, 0..1")
    stage = serializers.SerializerMethodField(help_text="Name of the stage it is at; None before the start")

    class Meta:
        model = Canary
        fields: ClassVar = [
            "slug",
            "prompt",
            "candidate",
            "control",
            "unit",
            "salt",
            "stages",
            "guardrails",
            "position",
            "stage",
            "exposure",
            "state",
            "change",
            "bypass_lapses_at",
            "created_by",
            "created_at",
            "started_at",
            "moved_at",
            "ended_at",
            "ended_by",
            "end_reason",
            "end_evidence",
        ]

    def get_exposure(self, canary: Canary) -> float:
        return canary.exposure()

    @extend_schema_field(serializers.CharField(allow_null=True))
    def get_stage(self, canary: Canary) -> str | None:
        return canary.stage["name"] if canary.stage else None


class Plan(Strict):
    unit = serializers.ChoiceField(UNIT_CHOICES, help_text="What stays in one arm")
    stages = serializers.JSONField(
        required=False,
        help_text=(
            "[{'name', 'audience': 'internal'|'all', 'tenants': [], 'regions': [], 'weight': 0..10000, "
            "'evidence'?: {'unproven': 'wait'|'allow'|'roll_back', 'after_minutes': int, "
            "'advance': 'by_hand'|'by_itself'}}, …]; left out: internal only, 1 %, 5 %, 25 %, 50 %, 100 %"
        ),
    )
    guardrails = serializers.JSONField(
        required=False,
        help_text=(
            "{'budget': {'rollback', 'clear'}, 'minimum': {'requests', 'groups', 'pairs'}, 'margins': {guardrail: "
            "number}, 'held_out': 'set@version'|null, 'judges': {guardrail: 'judge@version'}, 'replays_per_minute'}; "
            "left out: the usual ones"
        ),
    )


class NewCanary(Plan):
    reason = serializers.CharField(max_length=1000)


class Knob(Strict):
    position = serializers.IntegerField(min_value=0, help_text="Index of the stage to move to")
    seen = serializers.IntegerField(
        required=False, help_text="`position` as you read it; forward is refused if somebody turned it meanwhile"
    )


class Canaries(OperatorView):
    @describe(
        "canaries_list",
        "Canaries that you may see, newest first",
        tag=TAG,
        pages_of=CanaryRow,
        refuses=(),
        parameters=[
            OpenApiParameter("state", enum=CanaryState.values),
            OpenApiParameter("prompt", description="Slug of the prompt"),
        ],
    )
    def get(self, request: Request) -> Response:
        rows, asked = visible_canaries(self.operator), request.query_params
        if asked.get("state"):
            rows = rows.filter(state=asked["state"])
        if asked.get("prompt"):
            rows = rows.filter(prompt__slug=asked["prompt"])
        return self.page(rows, CanaryRow)


class PlanCanary(OperatorView):
    @describe(
        "canaries_plan",
        "Plan a canary of a version against what is live, and open its change request; it serves nobody yet",
        tag=TAG,
        takes=NewCanary,
        gives=CanaryRow,
        status=201,
    )
    def post(self, request: Request, slug: str, number: int) -> Response:
        now = timezone.now()
        candidate = access_version(self.operator, slug, number, "run_canary")
        body = read(NewCanary, request)
        canary = operations.plan_canary(
            candidate=candidate,
            unit=body["unit"],
            stages=body.get("stages", list(DEFAULT_STAGES)),
            guardrails=body.get("guardrails") or suggested_guardrails(),
            reason=body["reason"],
            actor=self.operator,
            now=now,
        )
        return Response(CanaryRow(canary).data, status=201)


class OneCanary(OperatorView):
    @describe("canaries_retrieve", "One canary", tag=TAG, gives=CanaryRow, refuses=(404,))
    def get(self, request: Request, slug: str) -> Response:
        return Response(CanaryRow(access_canary(self.operator, slug)).data)


class CanaryVerdictRow(serializers.Serializer[Any]):
    ruling = serializers.ChoiceField([ruling.value for ruling in Ruling])
    sentence = serializers.CharField(help_text="In words, for people")
    looked_at = serializers.DateTimeField(allow_null=True, help_text="null: nobody has looked at it yet")
    waits_for = serializers.CharField(
        allow_null=True, help_text="Why evidence keeps it from the next stage; null: it does not"
    )
    readings = serializers.ListField(
        child=serializers.DictField(),
        help_text="What each stream of evidence says of each guardrail: see docs/statistics.md",
    )
    alarms = serializers.ListField(child=serializers.DictField(), help_text="Why live traffic counts for nothing")


class CanaryVerdict(OperatorView):
    @describe(
        "canaries_verdict",
        "What statistics say of a canary, and what it waits for",
        tag=TAG,
        gives=CanaryVerdictRow,
        refuses=(404,),
    )
    def get(self, request: Request, slug: str) -> Response:
        canary, now = access_canary(self.operator, slug), timezone.now()
        watch = read_watch(canary)
        verdict = {"ruling": Ruling.UNPROVEN.value, "sentence": "Nobody has looked at it yet."}
        verdict |= {"readings": [], "alarms": []} if watch is None else watch.verdict
        waits = gap(canary, watch, position=canary.position + 1, now=now) if canary.is_running else None
        looked_at = None if watch is None else watch.looked_at
        return Response(CanaryVerdictRow({**verdict, "looked_at": looked_at, "waits_for": waits}).data)


class ChangePlan(OperatorView):
    @describe(
        "canaries_change_plan",
        "Edit a canary before its start; you become a contributor and its sign-offs are void",
        tag=TAG,
        takes=Plan,
        gives=CanaryRow,
    )
    def post(self, request: Request, slug: str) -> Response:
        now = timezone.now()
        canary = access_canary(self.operator, slug, "run_canary")
        body = read(Plan, request)
        canary = operations.change_plan(
            canary=canary,
            unit=body["unit"],
            stages=body.get("stages", canary.stages),
            guardrails=body.get("guardrails"),
            actor=self.operator,
            now=now,
        )
        return Response(CanaryRow(canary).data)


class StartCanary(OperatorView):
    @describe("canaries_start", "Begin with the first stage", tag=TAG, takes=Nothing, gives=CanaryRow)
    def post(self, request: Request, slug: str) -> Response:
        now = timezone.now()
        canary = access_canary(self.operator, slug, "run_canary")
        read(Nothing, request)
        return Response(CanaryRow(operations.start_canary(canary=canary, actor=self.operator, now=now)).data)


class TurnKnob(OperatorView):
    @describe(
        "canaries_knob",
        "Move a running canary to a stage: forward through every gate on the way, back without any",
        tag=TAG,
        takes=Knob,
        gives=CanaryRow,
    )
    def post(self, request: Request, slug: str) -> Response:
        now = timezone.now()
        canary = access_canary(self.operator, slug, "turn_knob")
        canary = operations.turn_knob(canary=canary, **read(Knob, request), actor=self.operator, now=now)
        return Response(CanaryRow(canary).data)


class PromoteCanary(OperatorView):
    @describe("canaries_promote", "Make the candidate live", tag=TAG, takes=Nothing, gives=CanaryRow)
    def post(self, request: Request, slug: str) -> Response:
        now = timezone.now()
        canary = access_canary(self.operator, slug, "run_canary")
        read(Nothing, request)
        return Response(CanaryRow(operations.promote_canary(canary=canary, actor=self.operator, now=now)).data)


class RollBackCanary(OperatorView):
    @describe(
        "canaries_roll_back",
        "End a running canary: everybody is served the control again, and the candidate is rejected for good",
        tag=TAG,
        takes=Reason,
        gives=CanaryRow,
    )
    def post(self, request: Request, slug: str) -> Response:
        now = timezone.now()
        canary = access_canary(self.operator, slug, "roll_back")
        canary = operations.roll_back_canary(canary=canary, **read(Reason, request), actor=self.operator, now=now)
        return Response(CanaryRow(canary).data)


class WithdrawCanary(OperatorView):
    @describe("canaries_withdraw", "Give up a canary that never started", tag=TAG, takes=Reason, gives=CanaryRow)
    def post(self, request: Request, slug: str) -> Response:
        now = timezone.now()
        canary = access_canary(self.operator, slug, "run_canary")
        operations.withdraw_canary(canary=canary, **read(Reason, request), actor=self.operator, now=now)
        return Response(CanaryRow(access_canary(self.operator, slug)).data)
