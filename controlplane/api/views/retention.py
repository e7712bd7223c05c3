"""For how long payloads of dead letters are kept, and erasures, over HTTP. No user's id is taken, only its hash: bodies
are written into logs too.
"""

from typing import ClassVar, Final

from django.http import Http404
from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.accounts.access import may_somewhere, require
from controlplane.api.base import OperatorView, Reason, describe, read
from controlplane.deadletters import retention
from controlplane.deadletters.access import (
    ERASE,
    SET_RULES,
    access_tenant_to_erase,
    visible_erasures,
    visible_rules,
)
from controlplane.deadletters.erasures import Erasure, ErasureState, Kept
from controlplane.deadletters.models import CATEGORIES, RetentionRule
from controlplane.deadletters.retention import MAX_DAYS
from controlplane.deadletters.subjects import erase_subject

TAG: Final = "retention"


class RuleRow(serializers.ModelSerializer[RetentionRule]):
    class Meta:
        model = RetentionRule
        fields: ClassVar = ["tenant", "category", "days", "reason", "set_by", "set_at"]


class Place(Reason):
    """Which rule; empty: of every tenant, or category, without one of its own."""

    tenant = serializers.CharField(required=False, allow_blank=True, default="", max_length=50)
    category = serializers.ChoiceField(required=False, allow_blank=True, default="", choices=CATEGORIES)


class NewRule(Place):
    days = serializers.IntegerField(min_value=0, max_value=MAX_DAYS, help_text="After the work failed")


class NewErasure(Reason):
    """Whose data goes."""

    tenant = serializers.CharField(max_length=50)
    user_hash = serializers.RegexField(r"^[0-9a-f]{64}\Z", help_text="SHA-256 of the user's id, in hex")


class ErasureRow(serializers.ModelSerializer[Erasure]):
    erased = serializers.IntegerField(help_text="Letters")
    counts = serializers.DictField(
        child=serializers.IntegerField(), help_text=f"Rows that were erased, by kind: {', '.join(Kept)}"
    )
    held = serializers.ListField(child=serializers.UUIDField(), help_text="Letters that stay, on legal hold")
    state = serializers.ChoiceField(choices=[one.value for one in ErasureState])
    objects_left = serializers.SerializerMethodField(help_text="Objects that the payload store has not said are gone")

    class Meta:
        model = Erasure
        fields: ClassVar = [
            *("id", "tenant", "subject", "state", "erased", "counts", "held", "objects_left", "problem"),
            *("asked_by", "asked_at", "again_at", "finished_at", "reason"),
        ]

    def get_objects_left(self, erasure: Erasure) -> int:
        """How many; their names are nobody's business."""
        return len(erasure.objects_left)


class RetentionRules(OperatorView):
    @describe("retention_rules_list", "Every rule of retention", tag=TAG, pages_of=RuleRow, refuses=(403,))
    def get(self, request: Request) -> Response:
        return self.page(visible_rules(self.operator), RuleRow)

    @describe(
        "retention_rules_set",
        "Have payloads kept for so many days, those that are kept now, too",
        tag=TAG,
        takes=NewRule,
        gives=RuleRow,
        status=201,
        refuses=(403,),
    )
    def post(self, request: Request) -> Response:
        now = timezone.now()
        require(self.operator, SET_RULES)
        rule = retention.set_retention(**read(NewRule, request), actor=self.operator, now=now)
        return Response(RuleRow(rule).data, status=201)


class RemoveRetentionRule(OperatorView):
    @describe("retention_rules_remove", "Have the next rule that fits count again", tag=TAG, takes=Place)
    def post(self, request: Request) -> Response:
        now = timezone.now()
        require(self.operator, SET_RULES)
        asked = read(Place, request)
        rule = RetentionRule.objects.filter(tenant=asked["tenant"], category=asked["category"]).first()
        if rule is None:
            raise Http404
        retention.remove_retention(rule=rule, actor=self.operator, reason=asked["reason"], now=now)
        return Response({})


class Erasures(OperatorView):
    @describe(
        "erasures_list",
        "Erasures, newest first: what went, and whether something is left to do",
        tag=TAG,
        pages_of=ErasureRow,
        refuses=(403,),
    )
    def get(self, request: Request) -> Response:
        return self.page(visible_erasures(self.operator), ErasureRow)

    @describe(
        "erasures_create",
        "Erase what is kept of the words of one user; it cannot be undone",
        tag=TAG,
        takes=NewErasure,
        gives=ErasureRow,
        status=201,
    )
    def post(self, request: Request) -> Response:
        now = timezone.now()
        if not may_somewhere(self.operator, ERASE):
            require(self.operator, ERASE)
        asked = read(NewErasure, request)
        tenant = access_tenant_to_erase(self.operator, asked["tenant"])
        erasure = erase_subject(
            tenant=tenant.slug, user_hash=asked["user_hash"], reason=asked["reason"], actor=self.operator, now=now
        )
        return Response(ErasureRow(erasure).data, status=201)
