"""Alerts and the channels that they go to over HTTP."""

from typing import Any, ClassVar

from django.db.models import Prefetch
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.accounts.access import require
from controlplane.alerts import operations
from controlplane.alerts.access import MANAGE, access_channel, visible_alerts, visible_channels
from controlplane.alerts.models import Alert, Channel, ChannelKind, Delivery
from controlplane.api.base import Nothing, OperatorView, Strict, describe, read

ALERTS = "alerts"


# --- channels --------------------------------------------------------------------------------------------------------
class ChannelRow(serializers.ModelSerializer[Channel]):
    leads_to = serializers.CharField(source="place", help_text="The webhook's host, or the mailboxes")

    class Meta:
        model = Channel
        fields: ClassVar = [
            "slug",
            "kind",
            "leads_to",
            "events",
            "enabled",
            "disabled_why",
            "rotated_at",
            "old_secret_until",
            "created_by",
            "created_at",
        ]


class IssuedChannel(ChannelRow):
    secret = serializers.CharField(help_text="Of a webhook, shown this once; empty for e-mail")

    class Meta(ChannelRow.Meta):
        fields: ClassVar = [*ChannelRow.Meta.fields, "secret"]


class ChannelChange(Strict):
    url = serializers.CharField(max_length=500, required=False, help_text="Of a webhook; its path is shown to nobody")
    addresses = serializers.ListField(child=serializers.EmailField(), required=False, help_text="Of e-mail")
    events = serializers.ListField(
        child=serializers.CharField(max_length=60), required=False, help_text="Kinds of alerts; []: all"
    )


class NewChannel(ChannelChange):
    slug = serializers.SlugField(max_length=50)
    kind = serializers.ChoiceField(ChannelKind.choices)


class Channels(OperatorView):
    @describe("alert_channels_list", "Channels that alerts go to", tag=ALERTS, pages_of=ChannelRow, refuses=(403,))
    def get(self, request: Request) -> Response:
        return self.page(visible_channels(self.operator), ChannelRow)

    @describe(
        "alert_channels_create",
        "Add a channel; a webhook's secret is in this answer and nowhere else",
        tag=ALERTS,
        takes=NewChannel,
        gives=IssuedChannel,
        status=201,
        refuses=(403,),
    )
    def post(self, request: Request) -> Response:
        now = timezone.now()
        require(self.operator, MANAGE)
        body = read(NewChannel, request)
        kind = ChannelKind(body.pop("kind"))
        issued = operations.create_channel(**body, kind=kind, actor=self.operator, now=now)
        return _once(issued, status=201)


class OneChannel(OperatorView):
    @describe("alert_channels_retrieve", "One channel", tag=ALERTS, gives=ChannelRow, refuses=(404,))
    def get(self, request: Request, slug: str) -> Response:
        return Response(ChannelRow(access_channel(self.operator, slug)).data)

    @describe("alert_channels_change", "Change what is given", tag=ALERTS, takes=ChannelChange, gives=ChannelRow)
    def patch(self, request: Request, slug: str) -> Response:
        now = timezone.now()
        channel = access_channel(self.operator, slug, "manage_channels")
        body = read(ChannelChange, request)
        channel = operations.change_channel(channel=channel, **body, actor=self.operator, now=now)
        return Response(ChannelRow(channel).data)


class RotateSecret(OperatorView):
    @describe(
        "alert_channels_rotate_secret",
        "Give a webhook another secret, shown this once; the old one signs too for 24 h",
        tag=ALERTS,
        takes=Nothing,
        gives=IssuedChannel,
    )
    def post(self, request: Request, slug: str) -> Response:
        now = timezone.now()
        channel = access_channel(self.operator, slug, "manage_channels")
        read(Nothing, request)
        return _once(operations.rotate_secret(channel=channel, actor=self.operator, now=now), status=200)


class EnableChannel(OperatorView):
    @describe("alert_channels_enable", "Send alerts to it again", tag=ALERTS, takes=Nothing, gives=ChannelRow)
    def post(self, request: Request, slug: str) -> Response:
        return _set_enabled(self, request, slug, enabled=True)


class DisableChannel(OperatorView):
    @describe("alert_channels_disable", "Send nothing to it any more", tag=ALERTS, takes=Nothing, gives=ChannelRow)
    def post(self, request: Request, slug: str) -> Response:
        return _set_enabled(self, request, slug, enabled=False)


def _set_enabled(view: OperatorView, request: Request, slug: str, *, enabled: bool) -> Response:
    now = timezone.now()
    channel = access_channel(view.operator, slug, "manage_channels")
    read(Nothing, request)
    operations.set_enabled(channel=channel, enabled=enabled, actor=view.operator, now=now)
    return Response(ChannelRow(access_channel(view.operator, slug)).data)


def _once(issued: operations.Issued, *, status: int) -> Response:
    """A fresh secret; no cache between here and the caller may keep it."""
    body = {**ChannelRow(issued.channel).data, "secret": issued.secret}
    return Response(body, status=status, headers={"Cache-Control": "no-store"})


# --- alerts ----------------------------------------------------------------------------------------------------------
class DeliveryRow(serializers.ModelSerializer[Delivery]):
    channel = serializers.SlugRelatedField[Any](slug_field="slug", read_only=True)
    message_id = serializers.CharField(help_text="The `webhook-id`, the same in every attempt")

    class Meta:
        model = Delivery
        fields: ClassVar = [
            "channel",
            "message_id",
            "state",
            "attempts",
            "last_status",
            "last_problem",
            "ms",
            "created_at",
            "delivered_at",
        ]


class AlertRow(serializers.ModelSerializer[Alert]):
    deliveries = DeliveryRow(many=True)

    class Meta:
        model = Alert
        fields: ClassVar = [
            "id",
            "kind",
            "severity",
            "title",
            "sentence",
            "facts",
            "link",
            "target",
            "at",
            "deliveries",
        ]


class Alerts(OperatorView):
    @describe(
        "alerts_list",
        "What there was to tell, newest first, and what became of telling each channel",
        tag=ALERTS,
        pages_of=AlertRow,
        refuses=(403,),
        parameters=[
            OpenApiParameter("kind", description="Such as canary.rolled_back"),
            OpenApiParameter("target", description="As the audit record names it, such as canary:answers-v2"),
        ],
    )
    def get(self, request: Request) -> Response:
        rows = visible_alerts(self.operator)
        for name in ("kind", "target"):
            if value := request.query_params.get(name):
                rows = rows.filter(**{name: value})
        told = Prefetch("deliveries", Delivery.objects.select_related("channel"))
        return self.page(rows.prefetch_related(told), AlertRow)


class TestChannel(OperatorView):
    @describe(
        "alert_channels_test",
        "Send a test alert to it; the answer names the delivery that is on its way",
        tag=ALERTS,
        takes=Nothing,
        gives=DeliveryRow,
        status=202,
    )
    def post(self, request: Request, slug: str) -> Response:
        now = timezone.now()
        channel = access_channel(self.operator, slug, "manage_channels")
        read(Nothing, request)
        delivery = operations.send_test(channel=channel, actor=self.operator, now=now)
        return Response(DeliveryRow(delivery).data, status=202)
