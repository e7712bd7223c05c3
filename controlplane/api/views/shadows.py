"""Shadows over HTTP: how each stands and does, the kill switch, and the checklists of promotions."""

from typing import Any, ClassVar, Final

from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.accounts.access import require
from controlplane.api.base import OperatorView, Reason, Strict, describe, read
from controlplane.routing.access import access_routing
from controlplane.shadows import operations
from controlplane.shadows.access import OPEN, access_checklist, access_shadow, visible_checklists
from controlplane.shadows.checklists import InForce, open_checklist, sign_item, withdraw_checklist
from controlplane.shadows.evidence import evidence_for
from controlplane.shadows.models import ChecklistSignature, ChecklistState, Item, PromotionChecklist
from controlplane.shadows.overview import ShadowOverview, overviews

TAG: Final = "shadows"


# --- shadows ---------------------------------------------------------------------------------------------------------
class ShadowRow(serializers.Serializer[Any]):
    policy = serializers.CharField()
    digest = serializers.CharField(help_text="Of what it decides; a kill is of this digest alone")
    routes = serializers.ListField(child=serializers.CharField())
    lanes = serializers.ListField(child=serializers.CharField(), help_text="Candidates, in order")
    percent = serializers.FloatField(help_text="Of the routes' traffic")
    state = serializers.CharField(help_text="running, paused (until the next UTC day) or killed")
    reason = serializers.CharField(allow_blank=True, help_text="What stopped it")
    by = serializers.CharField(allow_blank=True)
    since = serializers.DateTimeField(allow_null=True)
    last_24_h = serializers.DictField(
        help_text="Counts, discarded and failed by reason, used and limits of the UTC day, figures with the noise "
        "floor beside them and what is beyond it, ratios to control; every figure with its 95 % interval"
    )


class ShadowsAnswer(serializers.Serializer[Any]):
    results = ShadowRow(many=True)


class ShadowHoldRow(serializers.Serializer[Any]):
    policy = serializers.CharField()
    digest = serializers.CharField()
    kind = serializers.CharField(help_text="killed or lifted")
    reason = serializers.CharField()
    by = serializers.CharField(source="actor")
    at = serializers.DateTimeField()


def _row(found: ShadowOverview) -> dict[str, Any]:
    standing, policy = found.standing, found.standing.policy
    return {
        "policy": policy.slug,
        "digest": policy.digest,
        "routes": standing.routes,
        "lanes": policy.lanes,
        "percent": policy.percent.value,
        "state": standing.state.value,
        "reason": standing.reason,
        "by": standing.by,
        "since": standing.since,
        "last_24_h": found.facts(),
    }


class Shadows(OperatorView):
    @describe("shadows_list", "Every shadow of the table in force, and how it does", tag=TAG, gives=ShadowsAnswer)
    def get(self, request: Request) -> Response:
        now = timezone.now()
        found = access_routing(self.operator)
        rows = [_row(one) for one in overviews(found.table, now=now)]
        return Response(ShadowsAnswer({"results": rows}).data)


class OneShadow(OperatorView):
    @describe("shadows_retrieve", "One shadow", tag=TAG, gives=ShadowRow, refuses=(404,))
    def get(self, request: Request, slug: str) -> Response:
        now = timezone.now()
        found = access_shadow(self.operator, slug)
        return Response(ShadowRow(_row(overviews(found.table, now=now, policy=slug)[0])).data)


class KillShadow(OperatorView):
    @describe(
        "shadows_kill",
        "Have nothing more asked under a policy, from within a second on, until it changes or is lifted",
        tag=TAG,
        takes=Reason,
        gives=ShadowHoldRow,
    )
    def post(self, request: Request, slug: str) -> Response:
        now = timezone.now()
        access_shadow(self.operator, slug, "hold_lane")
        hold = operations.kill_shadow(policy=slug, **read(Reason, request), actor=self.operator, now=now)
        return Response(ShadowHoldRow(hold).data)


class LiftShadow(OperatorView):
    @describe("shadows_lift", "Let a killed policy go on", tag=TAG, takes=Reason, gives=ShadowHoldRow)
    def post(self, request: Request, slug: str) -> Response:
        now = timezone.now()
        access_shadow(self.operator, slug, "hold_lane")
        hold = operations.lift_shadow(policy=slug, **read(Reason, request), actor=self.operator, now=now)
        return Response(ShadowHoldRow(hold).data)


# --- promotions ------------------------------------------------------------------------------------------------------
class ItemSignatureRow(serializers.ModelSerializer[ChecklistSignature]):
    class Meta:
        model = ChecklistSignature
        fields: ClassVar = ["item", "signer", "at", "standing", "sentence", "figures", "link", "digest"]


class ChecklistRow(serializers.ModelSerializer[PromotionChecklist]):
    state = serializers.CharField(help_text="open, complete, promoted, void or withdrawn")
    thresholds = serializers.DictField(child=serializers.FloatField())

    class Meta:
        model = PromotionChecklist
        fields: ClassVar = [
            *("id", "route", "lane", "policy", "policy_digest", "lane_digest", "subject_digest", "thresholds"),
            *("state", "reason", "opened_by", "opened_at", "completed_at", "ended_at", "ended_by", "why_ended"),
        ]


class EvidenceRow(serializers.Serializer[Any]):
    item = serializers.CharField()
    standing = serializers.CharField(help_text="met, moot (nothing to measure), unproven or not_met")
    sentence = serializers.CharField()
    figures = serializers.DictField()
    link = serializers.CharField()


class Checklist(ChecklistRow):
    signatures = ItemSignatureRow(many=True)
    changed = serializers.SerializerMethodField(help_text="What is another now than what it is of; empty: nothing")
    evidence = serializers.SerializerMethodField(help_text="What each item comes to now; empty once it is not open")

    class Meta(ChecklistRow.Meta):
        fields: ClassVar = [*ChecklistRow.Meta.fields, "changed", "evidence", "signatures"]

    def get_changed(self, checklist: PromotionChecklist) -> str:
        current: InForce | None = self.context["current"]
        return "no routing table is in force" if current is None else current.changed(checklist)

    def get_evidence(self, checklist: PromotionChecklist) -> list[dict[str, Any]]:
        current: InForce | None = self.context["current"]
        if current is None or checklist.state != ChecklistState.OPEN or current.changed(checklist):
            return []
        found = evidence_for(checklist, current.document, now=self.context["now"]).values()
        return [dict(EvidenceRow(one).data) for one in found]


class NewChecklist(Strict):
    route = serializers.CharField(max_length=100)
    lane = serializers.CharField(max_length=200, help_text="A candidate of the route's shadow")
    reason = serializers.CharField(max_length=2000)
    thresholds = serializers.DictField(
        child=serializers.FloatField(), required=False, default=dict, help_text="What differs from the usual, by name"
    )


class Sign(Strict):
    item = serializers.ChoiceField(Item.choices)


class Checklists(OperatorView):
    @describe("checklists_list", "Checklists, newest first", tag=TAG, pages_of=ChecklistRow, refuses=(403,))
    def get(self, request: Request) -> Response:
        return self.page(visible_checklists(self.operator), ChecklistRow)

    @describe(
        "checklists_open",
        "Open what has to be signed before a candidate may serve a route; who does signs none of it",
        tag=TAG,
        takes=NewChecklist,
        gives=Checklist,
        status=201,
        refuses=(403,),
    )
    def post(self, request: Request) -> Response:
        now = timezone.now()
        require(self.operator, OPEN)
        opened = open_checklist(**read(NewChecklist, request), actor=self.operator, now=now)
        return Response(_whole(opened, now=now), status=201)


class OneChecklist(OperatorView):
    @describe(
        "checklists_retrieve", "A checklist with its evidence and signatures", tag=TAG, gives=Checklist, refuses=(404,)
    )
    def get(self, request: Request, pk: int) -> Response:
        return Response(_whole(access_checklist(self.operator, pk), now=timezone.now()))


class SignChecklist(OperatorView):
    @describe(
        "checklists_sign",
        "Put one's name under one item, with what the system measures of it at this moment",
        tag=TAG,
        takes=Sign,
        gives=Checklist,
    )
    def post(self, request: Request, pk: int) -> Response:
        now = timezone.now()
        checklist = access_checklist(self.operator, pk, "sign_off_routing")
        item = Item(read(Sign, request)["item"])
        signed = sign_item(checklist=checklist, item=item, operator=self.operator, now=now)
        return Response(_whole(signed, now=now))


class WithdrawChecklist(OperatorView):
    @describe("checklists_withdraw", "Give a promotion up", tag=TAG, takes=Reason, gives=ChecklistRow)
    def post(self, request: Request, pk: int) -> Response:
        now = timezone.now()
        checklist = access_checklist(self.operator, pk, "propose_routing")
        withdraw_checklist(checklist=checklist, **read(Reason, request), actor=self.operator, now=now)
        return Response(ChecklistRow(access_checklist(self.operator, pk)).data)


def _whole(checklist: PromotionChecklist, *, now: Any) -> Any:
    return Checklist(checklist, context={"current": InForce.now(), "now": now}).data
