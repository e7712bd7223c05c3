"""Dead letters over HTTP: groups, letters, what people decide about them. Payloads are redacted, unless somebody reads
one in full and says why.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Final
from uuid import UUID

from django.db.models import Max, Min, Sum
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.base import PAGE_PARAMETERS, OperatorView, Reason, Strict, describe, read
from controlplane.api.cursors import BY_ID, CURSOR_PARAMETERS, Filters, newest_page, older_pages_of, read_query
from controlplane.api.filters import TENANT_PARAMETER, narrow
from controlplane.deadletters import operations, retention
from controlplane.deadletters.access import DECIDE, access_letter, access_letters, require_letters
from controlplane.deadletters.models import CATEGORIES, STATES, DeadLetter, Group, GroupTenant
from controlplane.deadletters.operations import DECISIONS
from controlplane.deadletters.payloads import ConfiguredStore
from controlplane.deadletters.plans import MAX_LETTERS
from controlplane.deadletters.showing import shown_payload
from dataplane.deadletters import Event

TAG: Final = "dead letters"
_DECISIONS: Final = sorted(event.value for event in DECISIONS)


class LetterRow(serializers.ModelSerializer[DeadLetter]):
    """One letter, without anybody's words."""

    state = serializers.ChoiceField(choices=STATES)
    category = serializers.ChoiceField(choices=CATEGORIES)

    class Meta:
        model = DeadLetter
        fields: ClassVar = [
            *("id", "kind", "name", "tenant", "user_hash", "work_id", "state", "category", "code", "summary"),
            *("fingerprint", "attempts", "release_revision", "prompt", "lane", "has_tools", "created_at", "closed_at"),
            *("payload_state", "payload_bytes", "payload_sha256", "payload_expires_at", "hold_by", "hold_until"),
            *("redriven_as", "redriven_from"),
        ]


class OneLetterRow(LetterRow):
    causes = serializers.JSONField(help_text='Its last attempts: [{"at", "owner", "code", "message", "status"}]')
    payload = serializers.CharField(
        source="shown.text", help_text="What the work takes, with words in the place of personal data and secrets"
    )
    payload_problem = serializers.CharField(source="shown.problem", help_text="Why there is none; empty: there is")

    class Meta(LetterRow.Meta):
        fields: ClassVar = [*LetterRow.Meta.fields, "causes", "payload", "payload_problem"]


class GroupRow(serializers.Serializer[Any]):
    """What failed alike, counted over the tenants that the caller may see."""

    fingerprint = serializers.CharField()
    kind = serializers.CharField()
    name = serializers.CharField()
    category = serializers.ChoiceField(choices=CATEGORIES)
    code = serializers.CharField()
    summary = serializers.CharField()
    total = serializers.IntegerField()
    open = serializers.IntegerField()
    first_at = serializers.DateTimeField()
    last_at = serializers.DateTimeField()


class GroupPage(serializers.Serializer[Any]):
    count = serializers.IntegerField()
    results = GroupRow(many=True)


class LetterFilters(Filters):
    tenant = serializers.CharField(required=False)
    state = serializers.ChoiceField(required=False, choices=STATES)
    fingerprint = serializers.CharField(required=False, max_length=32)
    kind = serializers.CharField(required=False, max_length=40)


class GroupFilters(Strict):
    limit = serializers.IntegerField(required=False, min_value=1, max_value=200, default=50)
    offset = serializers.IntegerField(required=False, min_value=0, default=0)
    only_open = serializers.BooleanField(required=False, default=True)


class Decision(Reason):
    """What is to become of letters, and why."""

    event = serializers.ChoiceField(choices=_DECISIONS)
    letters = serializers.ListField(
        child=serializers.UUIDField(), min_length=1, max_length=MAX_LETTERS, help_text="All of them or none"
    )


class Decided(serializers.Serializer[Any]):
    letters = serializers.IntegerField(help_text="How many")


class LetterHold(Reason):
    until = serializers.DateTimeField(required=False, allow_null=True, default=None, help_text="Null: until released")


class Payload(serializers.Serializer[Any]):
    payload = serializers.CharField(help_text="What the work takes, in full")


class DeadLetterGroups(OperatorView):
    @describe(
        "dead_letter_groups_list",
        "What failed alike, those with the latest letters first",
        tag=TAG,
        gives=GroupPage,
        refuses=(400, 403),
        parameters=[
            OpenApiParameter("only_open", bool, description="Those with open letters alone, which is so unless told"),
            *PAGE_PARAMETERS,
        ],
    )
    def get(self, request: Request) -> Response:
        tenants = require_letters(self.operator)
        filters = GroupFilters(data=request.query_params.dict())
        filters.is_valid(raise_exception=True)
        asked = filters.validated_data
        parts = GroupTenant.objects.all() if tenants is None else GroupTenant.objects.filter(tenant__in=tenants)
        sums = (
            parts.order_by()
            .values("fingerprint")
            .annotate(all=Sum("total"), standing=Sum("open"), first=Min("first_at"), last=Max("last_at"))
        )
        if asked["only_open"]:
            sums = sums.filter(standing__gt=0)
        shown = list(sums.order_by("-last", "fingerprint")[asked["offset"] : asked["offset"] + asked["limit"]])
        groups = Group.objects.in_bulk([row["fingerprint"] for row in shown])
        rows = [_group_row(groups[row["fingerprint"]], row) for row in shown]
        return Response(GroupPage({"count": sums.count(), "results": rows}).data)


class DeadLetters(OperatorView):
    @describe(
        "dead_letters_list",
        "Dead letters, newest first",
        tag=TAG,
        gives=older_pages_of(LetterRow),
        refuses=(400, 403),
        parameters=[
            TENANT_PARAMETER,
            OpenApiParameter("state", enum=STATES, description="Exactly this state"),
            OpenApiParameter("fingerprint", description="Those of this group"),
            OpenApiParameter("kind", description="Exactly this kind of work"),
            *CURSOR_PARAMETERS,
        ],
    )
    def get(self, request: Request) -> Response:
        tenants = require_letters(self.operator)
        asked = read_query(LetterFilters, request)
        seen = asked.get("tenant") and [asked["tenant"]] if tenants is None else narrow(tenants, asked)
        rows = DeadLetter.objects.without_words().matching(
            tenants=seen,
            state=asked.get("state", ""),
            fingerprint=asked.get("fingerprint", ""),
            kind=asked.get("kind", ""),
        )
        return newest_page(rows, request, asked, order=BY_ID, row=LetterRow)


class OneDeadLetter(OperatorView):
    @describe("dead_letters_read", "One letter with why it failed, its payload redacted", tag=TAG, gives=OneLetterRow)
    def get(self, request: Request, letter: UUID) -> Response:
        row = access_letter(self.operator, letter)
        row.causes = DeadLetter.objects.only("causes").get(pk=row.pk).causes
        row.shown = shown_payload(row)  # type: ignore[attr-defined]  # for the serializer alone
        return Response(OneLetterRow(row).data)


class DecideDeadLetters(OperatorView):
    @describe(
        "dead_letters_decide",
        "Resolve, discard or reopen letters, all of them or none",
        tag=TAG,
        takes=Decision,
        gives=Decided,
    )
    def post(self, request: Request) -> Response:
        now = timezone.now()
        require_letters(self.operator, DECIDE)
        asked = read(Decision, request)
        names = access_letters(self.operator, asked["letters"], DECIDE)
        count = operations.decide(
            letters=names, event=Event(asked["event"]), actor=self.operator, reason=asked["reason"], now=now
        )
        return Response(Decided({"letters": count}).data)


class ReadDeadLetter(OperatorView):
    @describe(
        "dead_letters_read_payload",
        "What the work takes, in full; who read it, and why, is recorded",
        tag=TAG,
        takes=Reason,
        gives=Payload,
    )
    def post(self, request: Request, letter: UUID) -> Response:
        now = timezone.now()
        row = access_letter(self.operator, letter, "read_content")
        reason = read(Reason, request)["reason"]
        data = operations.read_payload(letter=row, store=ConfiguredStore(), actor=self.operator, reason=reason, now=now)
        return Response(Payload({"payload": data.decode("utf-8", "replace")}).data)


class HoldDeadLetter(OperatorView):
    @describe(
        "dead_letters_hold",
        "Keep a letter's payload from being purged or erased, and its work from being handed in again",
        tag=TAG,
        takes=LetterHold,
        gives=LetterRow,
    )
    def post(self, request: Request, letter: UUID) -> Response:
        now = timezone.now()
        row = access_letter(self.operator, letter, "hold_deadletter")
        retention.hold(letter=row, **read(LetterHold, request), actor=self.operator, now=now)
        return Response(LetterRow(row).data)


class ReleaseDeadLetter(OperatorView):
    @describe(
        "dead_letters_release",
        "Let a letter's payload go when its time is over",
        tag=TAG,
        takes=Reason,
        gives=LetterRow,
    )
    def post(self, request: Request, letter: UUID) -> Response:
        now = timezone.now()
        row = access_letter(self.operator, letter, "hold_deadletter")
        retention.release_hold(letter=row, **read(Reason, request), actor=self.operator, now=now)
        return Response(LetterRow(row).data)


def _group_row(group: Group, sums: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "fingerprint": group.pk,
        "kind": group.kind,
        "name": group.name,
        "category": group.category,
        "code": group.code,
        "summary": group.summary,
        "total": sums["all"],
        "open": sums["standing"],
        "first_at": sums["first"],
        "last_at": sums["last"],
    }
