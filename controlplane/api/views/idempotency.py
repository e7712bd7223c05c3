"""Idempotency keys over HTTP: what became of each, and the evidence of one, step by step. Read only.

No answer is given here, and no user's id is taken: an address is written into logs.
"""

from datetime import datetime
from typing import Any, ClassVar, Final
from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.base import OperatorView, describe
from controlplane.api.cursors import (
    CURSOR_PARAMETERS,
    Filters,
    cursor_key,
    next_page,
    older_pages_of,
    page_of,
    read_query,
)
from controlplane.api.filters import TENANT_PARAMETER, narrow, period_parameters, settle_period
from controlplane.ledger.access import access_evidence, billed_tenants
from controlplane.ledger.idempotency import IdempotencyEvidence
from controlplane.ledger.keys import VERIFIED_AT_ONCE, KeyLife, billed_for, chain_of, lives_of
from dataplane.idempotency import EVIDENCE, MAX_KEY_CHARACTERS, Event, State

TAG = "idempotency keys"
EVENTS: Final = [event.value for event in Event]


class Life(serializers.Serializer[Any]):
    """One key as it stands now."""

    record = serializers.UUIDField(source="first.record", help_text="Of this use of the key; one a key's time")
    key = serializers.CharField(source="first.key")
    tenant = serializers.CharField(source="first.tenant")
    user_hash = serializers.CharField(source="first.user_hash", help_text="SHA-256 of the user's id; empty for nobody")
    state = serializers.ChoiceField(
        choices=[state.value for state in State], help_text="expired: only evidence is left"
    )
    first_at = serializers.DateTimeField(source="first.at")
    first_request_id = serializers.CharField(source="first.request_id")
    last_at = serializers.DateTimeField(source="last.at")
    last_event = serializers.ChoiceField(source="last.event", choices=EVENTS)
    steps = serializers.IntegerField(source="last.seq", help_text="Rows of evidence")
    expires_at = serializers.SerializerMethodField(help_text="Null: its time is over")
    completed_at = serializers.DateTimeField(allow_null=True)
    status = serializers.IntegerField(source="last.status", help_text="HTTP status of the answer; 0: there is none")
    body_sha256 = serializers.CharField(source="last.body_sha256", help_text="Of the answer as it went out")
    stream_id = serializers.CharField(source="last.stream_id", help_text="Empty: the answer was no stream")
    executions = serializers.IntegerField(help_text="How often somebody began to execute it")
    served = serializers.IntegerField(help_text="Requests that got the answer without an execution of their own")
    not_kept = serializers.IntegerField(help_text="Requests that came after an answer too long to keep")
    mismatches = serializers.IntegerField(help_text="Requests refused because they were others")
    is_counted = serializers.BooleanField(help_text="False: it has so many steps that the counts are lower bounds")

    def get_expires_at(self, life: KeyLife) -> datetime | None:
        return None if life.record is None else life.record.expires_at


class Step(serializers.ModelSerializer[IdempotencyEvidence]):
    """One row of evidence: all that its hash covers, and the hash."""

    class Meta:
        model = IdempotencyEvidence
        fields: ClassVar = [*EVIDENCE, "hash"]


class ListedKey(serializers.Serializer[Any]):
    step = Step(help_text="The first request, or the step that was asked for")
    life = Life()


class BilledRequest(serializers.Serializer[Any]):
    request_id = serializers.CharField()
    epoch = serializers.IntegerField(help_text="Which execution it was; 0: none, so it should not have been billed")
    at = serializers.DateTimeField(allow_null=True, help_text="When its first attempt ended; null: none is on record")
    attempts = serializers.IntegerField()
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    cost_micros = serializers.IntegerField()


class ChainFinding(serializers.Serializer[Any]):
    seq = serializers.IntegerField()
    problem = serializers.CharField()


class Chain(serializers.Serializer[Any]):
    """What a walk over all rows found; none is a clean bill."""

    rows = serializers.IntegerField()
    is_closed = serializers.BooleanField(help_text="Its time is over, so nothing follows any more")
    findings = ChainFinding(many=True)


class EvidencePage(serializers.Serializer[Any]):
    life = Life()
    billed = BilledRequest(many=True)
    chain = Chain(allow_null=True, help_text="Null: it is long, and `verify` was not asked for")
    next = serializers.URLField(allow_null=True, help_text="Null: there are no later steps")
    results = Step(many=True)


class KeyFilters(Filters):
    key = serializers.CharField(required=False, max_length=MAX_KEY_CHARACTERS)
    request = serializers.CharField(required=False, max_length=64)
    tenant = serializers.CharField(required=False)
    user_hash = serializers.RegexField(r"^[0-9a-f]{64}\Z", required=False)
    event = serializers.ChoiceField(required=False, choices=EVENTS)
    since = serializers.DateTimeField(required=False)
    until = serializers.DateTimeField(required=False)


class EvidenceFilters(Filters):
    verify = serializers.BooleanField(required=False, default=False)


class IdempotencyKeys(OperatorView):
    @describe(
        "idempotency_keys_list",
        "Idempotency keys by their first request, newest first: executed how often, repeated to whom, refused to whom",
        tag=TAG,
        gives=older_pages_of(ListedKey),
        refuses=(400, 403),
        parameters=[
            OpenApiParameter("key", description="Exactly this key, without quotes; then no period is needed"),
            OpenApiParameter("request", description="Keys that this request came with; then no period is needed"),
            TENANT_PARAMETER,
            OpenApiParameter("user_hash", description="SHA-256, in hex, of the user's id; then no period is needed"),
            OpenApiParameter("event", enum=EVENTS, description="Each step of this kind instead of the first requests"),
            *period_parameters("Happened"),
            *CURSOR_PARAMETERS,
        ],
    )
    def get(self, request: Request) -> Response:
        now = timezone.now()
        tenants = billed_tenants(self.operator)
        asked = read_query(KeyFilters, request)
        rows = IdempotencyEvidence.objects.matching(
            key=asked.get("key", ""),
            tenants=narrow(tenants, asked),
            user_hash=asked.get("user_hash", ""),
            event=asked.get("event", Event.CREATED),
        )
        if "request" in asked:
            rows = rows.of_request(asked["request"])
        if "since" in asked or "until" in asked or not asked.keys() & {"key", "request", "user_hash"}:
            rows = rows.between(*settle_period(asked, now=now))
        if "cursor" in asked:
            rows = rows.before(cursor_key(asked, int, int)[0])
        page, more = page_of(rows.newest(), asked)
        lives = lives_of(page)
        key = [page[-1].pk, page[-1].seq] if more else None
        results = [{"step": row, "life": lives[row.record]} for row in page]
        return Response({"next": next_page(request, asked, key), "results": ListedKey(results, many=True).data})


class KeyEvidence(OperatorView):
    @describe(
        "idempotency_keys_evidence_list",
        "The evidence of one key from its first step on, what was billed for it, and whether its chain is whole",
        tag=TAG,
        gives=EvidencePage,
        refuses=(400, 404),
        parameters=[
            OpenApiParameter(
                "verify", bool, description=f"Walk the chain also if it has more than {VERIFIED_AT_ONCE} rows"
            ),
            *CURSOR_PARAMETERS,
        ],
    )
    def get(self, request: Request, record: UUID) -> Response:
        first = access_evidence(self.operator, record)
        asked = read_query(EvidenceFilters, request)
        life = lives_of([first])[record]
        rows = IdempotencyEvidence.objects.of_record(record)
        if "cursor" in asked:
            rows = rows.filter(seq__gt=cursor_key(asked, int, int)[1])
        page, more = page_of(rows, asked)
        body = {
            "life": life,
            "billed": billed_for(life),
            "chain": chain_of(life, however_long=asked["verify"]),
            "next": next_page(request, asked, [page[-1].pk, page[-1].seq] if more else None),
            "results": page,
        }
        return Response(EvidencePage(body).data)
