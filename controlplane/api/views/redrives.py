"""Redrives over HTTP: plan, dry run, sign-offs (see changes), start, pause, resume, stop, report."""

from typing import Any, ClassVar, Final
from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.base import Nothing, OperatorView, Reason, describe, read
from controlplane.api.views.changes import ChangeRow
from controlplane.approvals import operations as approvals
from controlplane.deadletters import redrive
from controlplane.deadletters.access import REDRIVE, access_plan, require_letters, visible_plans
from controlplane.deadletters.errors import PlanMoved
from controlplane.deadletters.plans import (
    CANARY_LETTERS,
    FAILURE_PERCENT,
    MAX_LETTERS,
    MOST_PER_MINUTE,
    PER_MINUTE,
    RedriveItem,
    RedrivePlan,
    counts_of,
)
from controlplane.deadletters.redrive import Choice, Settings

TAG: Final = "redrives"
_SETTINGS: Final = ("canary_letters", "per_minute", "most_per_minute", "failure_percent")


class PlanRow(serializers.ModelSerializer[RedrivePlan]):
    tenants = serializers.ListField(child=serializers.CharField(), help_text="Slugs; an empty one is work of our own")
    kinds = serializers.ListField(child=serializers.CharField())
    categories = serializers.ListField(child=serializers.CharField())
    change = serializers.PrimaryKeyRelatedField[Any](read_only=True, help_text="The change request that signs it")

    class Meta:
        model = RedrivePlan
        fields: ClassVar = [
            *("id", "state", "title", "fingerprint", "reason", "author", "created_at", "size", "tenants", "kinds"),
            *("categories", "has_tools", "is_edited", "edit_digest", "letters_digest", "size_class", *_SETTINGS),
            *("change", "checked_at", "checked_release", "rate", "note", "started_by", "started_at", "ended_at"),
            "ended_by",
        ]


class Number(serializers.Serializer[Any]):
    why = serializers.CharField()
    letters = serializers.IntegerField()


class Report(serializers.Serializer[Any]):
    """How many letters stand how. Kept with the plan."""

    states = serializers.DictField(child=serializers.IntegerField(), help_text="planned, handed_in, done, failed, …")
    verdicts = serializers.DictField(child=serializers.IntegerField(), help_text="Of the dry run: would_run, …")
    refusals = Number(many=True, help_text="Why letters would not run")
    skipped = Number(many=True, help_text="Why letters were skipped")
    failures = serializers.DictField(child=serializers.IntegerField(), help_text="Failed again, by category")


class PlanReport(PlanRow):
    report = serializers.SerializerMethodField()

    class Meta(PlanRow.Meta):
        fields: ClassVar = [*PlanRow.Meta.fields, "report"]

    @extend_schema_field(Report)
    def get_report(self, plan: RedrivePlan) -> dict[str, Any]:
        counts = counts_of(plan)
        for name in ("refusals", "skipped"):
            counts[name] = [{"why": why, "letters": number} for why, number in counts[name]]
        return counts


class ItemRow(serializers.ModelSerializer[RedriveItem]):
    letter = serializers.UUIDField(source="letter_id")

    class Meta:
        model = RedriveItem
        fields: ClassVar = [
            *("position", "letter", "verdict", "why", "state", "old_digest", "new_digest", "diff", "work_id"),
            *("handed_in_at", "ended_at", "category", "next_letter"),
        ]


class NewPlan(Reason):
    """Which letters, of a group or by their ids, with which edit, and how fast."""

    fingerprint = serializers.CharField(required=False, default="", max_length=32, help_text="Of a group")
    letters = serializers.ListField(
        child=serializers.UUIDField(), required=False, default=list, max_length=MAX_LETTERS, help_text="Or these"
    )
    since = serializers.DateTimeField(required=False, default=None, allow_null=True)
    until = serializers.DateTimeField(required=False, default=None, allow_null=True)
    most = serializers.IntegerField(required=False, default=MAX_LETTERS, min_value=1, max_value=MAX_LETTERS)
    edit = serializers.JSONField(
        required=False,
        default=None,
        allow_null=True,
        help_text='{"merge": a JSON merge patch of each request} or, for one letter, {"body": the whole new body}',
    )
    canary_letters = serializers.IntegerField(required=False, default=CANARY_LETTERS)
    per_minute = serializers.IntegerField(required=False, default=PER_MINUTE)
    most_per_minute = serializers.IntegerField(required=False, default=MOST_PER_MINUTE)
    failure_percent = serializers.IntegerField(required=False, default=FAILURE_PERCENT)


class RedrivePlans(OperatorView):
    @describe("redrive_plans_list", "Plans, newest first", tag=TAG, pages_of=PlanRow, refuses=(403,))
    def get(self, request: Request) -> Response:
        return self.page(visible_plans(self.operator), PlanRow)

    @describe(
        "redrive_plans_create",
        "Fix which letters are to be handed in again; nothing is handed in yet",
        tag=TAG,
        takes=NewPlan,
        gives=PlanReport,
        status=201,
        refuses=(403,),
    )
    def post(self, request: Request) -> Response:
        now = timezone.now()
        tenants = require_letters(self.operator, REDRIVE)
        asked = read(NewPlan, request)
        choice = Choice(
            fingerprint=asked["fingerprint"],
            letters=asked["letters"],
            tenants=tenants,
            since=asked["since"],
            until=asked["until"],
            most=asked["most"],
        )
        plan = redrive.plan_redrive(
            choice=choice,
            reason=asked["reason"],
            actor=self.operator,
            now=now,
            edit=asked["edit"],
            settings=Settings(**{name: asked[name] for name in _SETTINGS}),
        )
        return Response(PlanReport(plan).data, status=201)


class OneRedrivePlan(OperatorView):
    @describe("redrive_plans_read", "One plan with its report", tag=TAG, gives=PlanReport)
    def get(self, request: Request, plan: UUID) -> Response:
        return Response(PlanReport(access_plan(self.operator, plan)).data)


class RedrivePlanLetters(OperatorView):
    @describe("redrive_plans_letters", "What came of each letter of a plan", tag=TAG, pages_of=ItemRow)
    def get(self, request: Request, plan: UUID) -> Response:
        return self.page(access_plan(self.operator, plan).items.order_by("position"), ItemRow)


class DryRunRedrive(OperatorView):
    @describe(
        "redrive_plans_dry_run",
        "Look at each letter against the release in force; it goes on after the answer",
        tag=TAG,
        takes=Nothing,
        gives=PlanRow,
    )
    def post(self, request: Request, plan: UUID) -> Response:
        now = timezone.now()
        row = access_plan(self.operator, plan, to_redrive=True)
        read(Nothing, request)
        return Response(PlanRow(redrive.begin_dry_run(plan=row, actor=self.operator, now=now)).data)


class OpenRedrive(OperatorView):
    @describe(
        "redrive_plans_open",
        "Open the change request by which a plan is signed",
        tag=TAG,
        takes=Nothing,
        gives=ChangeRow,
        status=201,
    )
    def post(self, request: Request, plan: UUID) -> Response:
        now = timezone.now()
        row = access_plan(self.operator, plan, to_redrive=True)
        read(Nothing, request)
        change = redrive.propose_plan(plan=row, actor=self.operator, now=now)
        return Response(ChangeRow(change).data, status=201)


class StartRedrive(OperatorView):
    @describe("redrive_plans_start", "Begin with the canary, once it is signed", tag=TAG, takes=Nothing, gives=PlanRow)
    def post(self, request: Request, plan: UUID) -> Response:
        now = timezone.now()
        row = access_plan(self.operator, plan, to_redrive=True)
        read(Nothing, request)
        if row.change is None:
            raise PlanMoved(row.title, state=row.state, event="started")
        approvals.apply_change(change=row.change, actor=self.operator, now=now)
        row.refresh_from_db()
        return Response(PlanRow(row).data)


def _steered(name: str, summary: str, operation: Any) -> type[OperatorView]:
    """A view that has one plan paused, resumed, stopped or withdrawn, for a reason."""

    class Steered(OperatorView):
        @describe(f"redrive_plans_{name}", summary, tag=TAG, takes=Reason, gives=PlanRow)
        def post(self, request: Request, plan: UUID) -> Response:
            now = timezone.now()
            row = access_plan(self.operator, plan, to_redrive=True)
            operation(plan=row, **read(Reason, request), actor=self.operator, now=now)
            row.refresh_from_db()
            return Response(PlanRow(row).data)

    return Steered


PauseRedrive = _steered("pause", "Hand nothing more in until it is resumed", redrive.pause_plan)
ResumeRedrive = _steered("resume", "Go on where it was paused", redrive.resume_plan)
StopRedrive = _steered("stop", "Hand nothing more in, for good", redrive.stop_plan)
WithdrawRedrive = _steered("withdraw", "Give a plan up before people are asked", redrive.withdraw_plan)
