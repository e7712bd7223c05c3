"""Resumable streams over HTTP: each as it ended and as it stands, what was delivered later, and days. Read only."""

from typing import Any, ClassVar, Final

from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.base import OperatorView, describe
from controlplane.api.cursors import (
    BY_DAY,
    BY_TIME,
    CURSOR_PARAMETERS,
    Filters,
    newest_page,
    older_pages_of,
    read_query,
)
from controlplane.api.filters import (
    DAY_PARAMETERS,
    TENANT_PARAMETER,
    narrow,
    period_parameters,
    settle_days,
    settle_period,
)
from controlplane.ledger.access import access_content, access_stream, billed_tenants
from controlplane.ledger.stream_rows import (
    DAY_KEY,
    DAY_SUMS,
    OUTCOMES,
    TOLD,
    StreamCredit,
    StreamDay,
    StreamDelivery,
    StreamRow,
    StreamStanding,
)
from controlplane.ledger.streams import read_transcript
from dataplane.frames import digest_frames

TAG = "streams"
_COLUMNS: Final = [*TOLD, "kept_transcript"]


class Standing(serializers.ModelSerializer[StreamStanding]):
    """How far it has come to its reader as known now, and what is given back."""

    class Meta:
        model = StreamStanding
        fields: ClassVar = [
            "delivered",
            "acked",
            "delivered_tokens",
            "acked_tokens",
            "resumed",
            "in_order",
            "credit_micros",
        ]


class Stream(serializers.ModelSerializer[StreamRow]):
    standing = Standing()

    class Meta:
        model = StreamRow
        fields: ClassVar = [*_COLUMNS, "standing"]


class Segment(serializers.Serializer[Any]):
    lane = serializers.CharField()
    model = serializers.CharField()
    how = serializers.CharField(help_text="first, prefill (given the words so far) or regenerated (asked anew)")
    first_seq = serializers.IntegerField()
    last_seq = serializers.IntegerField()
    billed_tokens = serializers.IntegerField()
    generated_tokens = serializers.IntegerField()
    buffered_tokens = serializers.IntegerField()
    # The base class has a flag of that name, which only a serializer that writes looks at.
    partial = serializers.BooleanField()  # type: ignore[assignment]
    estimated = serializers.BooleanField(help_text="Its tokens were counted by us, not by the provider")
    cause = serializers.CharField(allow_blank=True, help_text="The error code of the cut before it")


class Credit(serializers.ModelSerializer[StreamCredit]):
    class Meta:
        model = StreamCredit
        fields: ClassVar = ["at", "rule", "change_micros", "delivered_tokens", "acked_tokens"]


class OneStreamRow(Stream):
    segments = Segment(many=True, help_text="What each attempt gave of it, in order")
    credits = Credit(many=True, help_text="Each change of what is given back; they add up to the standing's")
    continued_by = serializers.SerializerMethodField(help_text="The streams that go on from it")

    class Meta(Stream.Meta):
        fields: ClassVar = [*_COLUMNS, "standing", "segments", "credits", "continued_by"]

    def get_continued_by(self, row: StreamRow) -> list[str]:
        later = StreamRow.objects.filter(continues=row.stream_id, tenant=row.tenant).order_by("at")
        return list(later.values_list("stream_id", flat=True))


class Delivery(serializers.ModelSerializer[StreamDelivery]):
    class Meta:
        model = StreamDelivery
        fields: ClassVar = [
            "delivery_id",
            "at",
            "reader",
            "delivered",
            "acked",
            "delivered_tokens",
            "acked_tokens",
        ]


class StreamsDay(serializers.ModelSerializer[StreamDay]):
    class Meta:
        model = StreamDay
        fields: ClassVar = [*DAY_KEY, *DAY_SUMS]


class Transcript(serializers.Serializer[Any]):
    frames = serializers.ListField(
        child=serializers.CharField(), allow_null=True, help_text="The payloads, from number 1 on; null: not kept"
    )
    intact = serializers.BooleanField(help_text="Whether they give the stream's digest")


class StreamFilters(Filters):
    request = serializers.CharField(required=False, max_length=64)
    tenant = serializers.CharField(required=False)
    key = serializers.CharField(required=False, max_length=40)
    route = serializers.CharField(required=False, max_length=100)
    outcome = serializers.ChoiceField(required=False, choices=OUTCOMES)
    in_order = serializers.BooleanField(required=False, allow_null=True, default=None)
    since = serializers.DateTimeField(required=False)
    until = serializers.DateTimeField(required=False)


class StreamDayFilters(Filters):
    tenant = serializers.CharField(required=False)
    route = serializers.CharField(required=False)
    since = serializers.DateField(required=False)
    until = serializers.DateField(required=False)


class Streams(OperatorView):
    @describe(
        "streams_list",
        "Streams that have ended, newest first: what was billed of each, and how far it came",
        tag=TAG,
        gives=older_pages_of(Stream),
        refuses=(400, 403),
        parameters=[
            OpenApiParameter("request", description="Of exactly this request; then no period is needed"),
            TENANT_PARAMETER,
            OpenApiParameter("key", description="Admitted with the API key of this id"),
            OpenApiParameter("route", description="Of exactly this route"),
            OpenApiParameter("outcome", enum=OUTCOMES, description="How they ended"),
            OpenApiParameter("in_order", bool, description="False: those whose token figures do not add up"),
            *period_parameters("Ended"),
            *CURSOR_PARAMETERS,
        ],
    )
    def get(self, request: Request) -> Response:
        now = timezone.now()
        tenants = billed_tenants(self.operator)
        asked = read_query(StreamFilters, request)
        rows = StreamRow.objects.matching(
            tenants=narrow(tenants, asked),
            key=asked.get("key", ""),
            route=asked.get("route", ""),
            outcome=asked.get("outcome", ""),
            in_order=asked["in_order"],
        )
        if "request" in asked:
            rows = rows.filter(request_id=asked["request"])
        if "request" not in asked or "since" in asked or "until" in asked:
            rows = rows.between(*settle_period(asked, now=now))
        return newest_page(rows.select_related("standing"), request, asked, order=BY_TIME, row=Stream)


class StreamDays(OperatorView):
    @describe(
        "streams_days_list",
        "Streams counted by the UTC day on which they ended, tenant, route and outcome, newest day first",
        tag=TAG,
        gives=older_pages_of(StreamsDay),
        refuses=(400, 403),
        parameters=[
            TENANT_PARAMETER,
            OpenApiParameter("route", description="Of exactly this route"),
            *DAY_PARAMETERS,
            *CURSOR_PARAMETERS,
        ],
    )
    def get(self, request: Request) -> Response:
        now = timezone.now()
        tenants = billed_tenants(self.operator)
        asked = read_query(StreamDayFilters, request)
        rows = StreamDay.objects.between(*settle_days(asked, now=now)).matching(
            tenants=narrow(tenants, asked), route=asked.get("route", "")
        )
        return newest_page(rows, request, asked, order=BY_DAY, row=StreamsDay)


class OneStream(OperatorView):
    @describe(
        "streams_retrieve",
        "One stream: what wrote it, how far it came, and each change of what is given back",
        tag=TAG,
        gives=OneStreamRow,
    )
    def get(self, request: Request, stream_id: str) -> Response:
        return Response(OneStreamRow(access_stream(self.operator, stream_id)).data)


class StreamDeliveries(OperatorView):
    @describe(
        "streams_deliveries_list",
        "What was delivered or acknowledged of a stream after it had ended, newest first",
        tag=TAG,
        gives=older_pages_of(Delivery),
        refuses=(400, 403, 404),
        parameters=CURSOR_PARAMETERS,
    )
    def get(self, request: Request, stream_id: str) -> Response:
        row = access_stream(self.operator, stream_id)
        asked = read_query(Filters, request)
        rows = StreamDelivery.objects.filter(stream=row)
        return newest_page(rows, request, asked, order=BY_TIME, row=Delivery)


class StreamTranscripts(OperatorView):
    @describe(
        "streams_transcript_retrieve",
        "The words of a stream, for who may read its tenant's content; the audit record says who did",
        tag=TAG,
        gives=Transcript,
    )
    def get(self, request: Request, stream_id: str) -> Response:
        now = timezone.now()
        row = access_content(self.operator, stream_id)
        frames = read_transcript(row=row, actor=self.operator, now=now)
        intact = frames is not None and digest_frames(frame.encode() for frame in frames) == row.digest
        return Response({"frames": frames, "intact": intact})
