"""Change requests over HTTP: the inbox, people's words on them, broken glass and its debts."""

from datetime import datetime, timedelta
from typing import Any, ClassVar

from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.accounts.roles import Role
from controlplane.api.base import Nothing, OperatorView, Reason, Strict, describe, read
from controlplane.approvals import operations
from controlplane.approvals.access import access_change, access_debt, actions_on, inbox, visible_changes, visible_debts
from controlplane.approvals.models import BreakGlass, ChangeRequest, ChangeState, Decision, SignOff
from controlplane.approvals.operations import Examination
from controlplane.approvals.policy import Standing

TAG = "changes"
DEBTS = "break-glass"


class ChangeRow(serializers.ModelSerializer[ChangeRequest]):
    class Meta:
        model = ChangeRequest
        fields: ClassVar = [
            "id",
            "kind",
            "target",
            "title",
            "reason",
            "digest",
            "content_digest",
            "author",
            "contributors",
            "state",
            "opened_at",
            "closed_at",
            "closed_by",
            "closing_note",
        ]


class SignOffRow(serializers.ModelSerializer[SignOff]):
    class Meta:
        model = SignOff
        fields: ClassVar = ["operator_name", "role", "decision", "digest", "comment", "signed_at", "expires_at"]


class SignatureRow(serializers.Serializer[Any]):
    """An operator's latest word, and whether it counts now."""

    operator = serializers.CharField()
    role = serializers.CharField()
    decision = serializers.CharField()
    validity = serializers.CharField(help_text="'counts', or why it does not")


class StandingRow(serializers.Serializer[Any]):
    gate = serializers.CharField()
    is_open = serializers.BooleanField()
    sentence = serializers.CharField()
    needed = serializers.DictField(child=serializers.IntegerField(), help_text="Role -> how many distinct people")
    missing = serializers.DictField(child=serializers.IntegerField(), help_text="Role -> how many more")
    blocked_by = serializers.ListField(child=serializers.CharField())
    signatures = SignatureRow(many=True)


class Change(serializers.ModelSerializer[ChangeRequest]):
    content = serializers.JSONField()
    base = serializers.JSONField(allow_null=True)
    contributors = serializers.ListField(child=serializers.CharField())
    current_digest = serializers.SerializerMethodField(
        help_text="Of what would be applied now; sign this one. None once it is closed"
    )
    has_drifted = serializers.SerializerMethodField(help_text="The target or the policy moved: rebase it first")
    standings = serializers.SerializerMethodField(help_text="Where it stands at each gate of its rule")
    sign_offs = SignOffRow(many=True)
    your_actions = serializers.SerializerMethodField()

    class Meta:
        model = ChangeRequest
        fields: ClassVar = [
            *ChangeRow.Meta.fields,
            "content",
            "base",
            "current_digest",
            "has_drifted",
            "standings",
            "sign_offs",
            "your_actions",
        ]

    def get_current_digest(self, change: ChangeRequest) -> str | None:
        examined: Examination | None = self.context["examined"]
        return examined.current.digest if examined else None

    def get_has_drifted(self, change: ChangeRequest) -> bool:
        examined: Examination | None = self.context["examined"]
        return examined is not None and examined.is_drifted

    @extend_schema_field(StandingRow(many=True))
    def get_standings(self, change: ChangeRequest) -> list[dict[str, Any]]:
        examined: Examination | None = self.context["examined"]
        return [_standing_row(standing) for standing in examined.standings()] if examined else []

    @extend_schema_field(serializers.ListField(child=serializers.CharField()))
    def get_your_actions(self, change: ChangeRequest) -> list[str]:
        return sorted(actions_on(self.context["operator"], change))


class Word(Strict):
    """One operator's word on the digest that they were shown."""

    role = serializers.ChoiceField([(role.value, role.label) for role in Role], help_text="The role you sign as")
    decision = serializers.ChoiceField(Decision.choices)
    digest = serializers.RegexField(r"^[0-9a-f]{64}$", help_text="`current_digest` of the change as you read it")
    comment = serializers.CharField(required=False, allow_blank=True, default="", max_length=5000)
    has_seen = serializers.BooleanField(
        default=False, help_text="That you have seen what could not be found out about it: `to_see` of its trials"
    )


class Bypass(Strict):
    reason = serializers.CharField(max_length=1000)
    incident = serializers.CharField(max_length=100)
    minutes = serializers.IntegerField(min_value=1, max_value=240, help_text="Its effect lapses by itself after these")
    digest = serializers.CharField(
        max_length=64, default=None, help_text="Of what you read; if that has moved since, nothing is bypassed"
    )


class Review(Strict):
    note = serializers.CharField(max_length=5000)


class DebtRow(serializers.ModelSerializer[BreakGlass]):
    is_overdue = serializers.SerializerMethodField()

    class Meta:
        model = BreakGlass
        fields: ClassVar = [
            "id",
            "change",
            "actor",
            "reason",
            "incident",
            "used_at",
            "lapses_at",
            "ended_at",
            "end_note",
            "review_due_at",
            "is_overdue",
            "reviewed_by",
            "reviewed_at",
            "review_note",
        ]

    def get_is_overdue(self, debt: BreakGlass) -> bool:
        return debt.is_overdue(self.context["now"])


class Changes(OperatorView):
    @describe(
        "changes_list",
        "Change requests that you may see, newest first",
        tag=TAG,
        pages_of=ChangeRow,
        refuses=(),
        parameters=[
            OpenApiParameter("state", enum=ChangeState.values),
            OpenApiParameter("kind"),
            OpenApiParameter("target", description="Such as 'prompt:support-answer'"),
            OpenApiParameter("author"),
            OpenApiParameter("inbox", bool, description="Only those that wait for your word"),
        ],
    )
    def get(self, request: Request) -> Response:
        asked = request.query_params
        rows = inbox(self.operator) if asked.get("inbox") in ("1", "true") else visible_changes(self.operator)
        fields = ("state", "kind", "target", "author")
        return self.page(rows.filter(**{name: asked[name] for name in fields if asked.get(name)}), ChangeRow)


class ChangeView(OperatorView):
    """A URL that answers with one change as it is now."""

    def answer(self, change: ChangeRequest, *, now: datetime) -> Response:
        change = ChangeRequest.objects.prefetch_related("sign_offs").get(pk=change.pk)
        context = {"examined": _examined(change, now=now), "operator": self.operator}
        return Response(Change(change, context=context).data)


def _examined(change: ChangeRequest, *, now: datetime) -> Examination | None:
    """The change as it would be applied now; None when it is closed."""
    return operations.examine_one(change, now=now) if change.is_open else None


def _standing_row(standing: Standing) -> dict[str, Any]:
    return {
        "gate": standing.gate.name,
        "is_open": standing.is_open,
        "sentence": standing.sentence,
        "needed": {need.role.value: need.count for need in standing.gate.requirements},
        "missing": {role.value: count for role, count in standing.missing.items()},
        "blocked_by": standing.blocked_by,
        "signatures": [
            {"operator": s.operator, "role": s.role.value, "decision": s.decision, "validity": validity.value}
            for s, validity in standing.signatures
        ],
    }


class OneChange(ChangeView):
    @describe("changes_retrieve", "One change: content, standing, words", tag=TAG, gives=Change, refuses=(404,))
    def get(self, request: Request, pk: int) -> Response:
        now = timezone.now()
        return self.answer(access_change(self.operator, pk), now=now)


class SignOffChange(ChangeView):
    @describe(
        "changes_sign_off",
        "Say your word on a change: approve, request changes, or take your word back",
        tag=TAG,
        takes=Word,
        gives=Change,
    )
    def post(self, request: Request, pk: int) -> Response:
        now = timezone.now()
        change = access_change(self.operator, pk, "sign_off")
        word = read(Word, request)
        operations.sign_off(
            change=change,
            operator=self.operator,
            role=Role(word["role"]),
            decision=Decision(word["decision"]),
            digest=word["digest"],
            comment=word["comment"],
            has_seen=word["has_seen"],
            now=now,
        )
        return self.answer(change, now=now)


class RejectChange(ChangeView):
    @describe(
        "changes_reject",
        "Close a change and remember its content: it cannot come back, and a canary of it is rolled back",
        tag=TAG,
        takes=Reason,
        gives=Change,
    )
    def post(self, request: Request, pk: int) -> Response:
        now = timezone.now()
        change = access_change(self.operator, pk, "sign_off")
        operations.reject_change(change=change, **read(Reason, request), actor=self.operator, now=now)
        return self.answer(change, now=now)


class WithdrawChange(ChangeView):
    @describe("changes_withdraw", "Close a change without a verdict", tag=TAG, takes=Reason, gives=Change)
    def post(self, request: Request, pk: int) -> Response:
        now = timezone.now()
        change = access_change(self.operator, pk, "carry")
        operations.withdraw_change(change=change, **read(Reason, request), actor=self.operator, now=now)
        return self.answer(change, now=now)


class RebaseChange(ChangeView):
    @describe(
        "changes_rebase",
        "Take a change's digest anew after a drift, so that it can be signed as it would be applied now",
        tag=TAG,
        takes=Nothing,
        gives=Change,
    )
    def post(self, request: Request, pk: int) -> Response:
        now = timezone.now()
        change = access_change(self.operator, pk, "carry")
        read(Nothing, request)
        return self.answer(operations.rebase_change(change=change, actor=self.operator, now=now), now=now)


class ApplyChange(ChangeView):
    @describe("changes_apply", "Carry out a change whose sign-offs are there", tag=TAG, takes=Nothing, gives=Change)
    def post(self, request: Request, pk: int) -> Response:
        now = timezone.now()
        change = access_change(self.operator, pk, "carry")
        read(Nothing, request)
        return self.answer(operations.apply_change(change=change, actor=self.operator, now=now), now=now)


class BreakGlassOnChange(OperatorView):
    @describe(
        "changes_break_glass",
        "Let a change pass its gates for a while without its sign-offs, and owe a review",
        tag=DEBTS,
        takes=Bypass,
        gives=DebtRow,
        status=201,
    )
    def post(self, request: Request, pk: int) -> Response:
        now = timezone.now()
        change = access_change(self.operator, pk, "break_glass")
        body = read(Bypass, request)
        debt = operations.break_glass(
            change=change,
            actor=self.operator,
            reason=body["reason"],
            incident=body["incident"],
            lasts=timedelta(minutes=body["minutes"]),
            digest=body["digest"],
            now=now,
        )
        return Response(DebtRow(debt, context={"now": now}).data, status=201)


class Debts(OperatorView):
    @describe(
        "break_glass_list",
        "Uses of break-glass that you may see, newest first",
        tag=DEBTS,
        pages_of=DebtRow,
        refuses=(),
        parameters=[OpenApiParameter("unpaid", bool, description="Only those that nobody has reviewed yet")],
    )
    def get(self, request: Request) -> Response:
        now = timezone.now()
        rows = visible_debts(self.operator)
        if request.query_params.get("unpaid") in ("1", "true"):
            rows = rows.filter(reviewed_at__isnull=True)
        return self.page(rows, DebtRow, now=now)


class OneDebt(OperatorView):
    @describe("break_glass_retrieve", "One use of break-glass", tag=DEBTS, gives=DebtRow, refuses=(404,))
    def get(self, request: Request, pk: int) -> Response:
        now = timezone.now()
        return Response(DebtRow(access_debt(self.operator, pk, "view"), context={"now": now}).data)


class ReviewDebt(OperatorView):
    @describe("break_glass_review", "Pay a debt: say what you found", tag=DEBTS, takes=Review, gives=DebtRow)
    def post(self, request: Request, pk: int) -> Response:
        now = timezone.now()
        debt = access_debt(self.operator, pk, "review")
        operations.review_break_glass(debt=debt, **read(Review, request), reviewer=self.operator, now=now)
        debt.refresh_from_db()
        return Response(DebtRow(debt, context={"now": now}).data)
