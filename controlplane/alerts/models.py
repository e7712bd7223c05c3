"""Whom to tell, what there was to tell, and what became of telling each of them."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import ClassVar, Final
from urllib.parse import urlsplit

import pgtrigger
from django.db import models
from django.db.models import Q
from django.urls import reverse

from controlplane.alerts import kinds
from controlplane.audit.models import append_only


class ChannelKind(models.TextChoices):
    WEBHOOK = "webhook", "Webhook"
    EMAIL = "email", "E-mail"


class Severity(models.TextChoices):
    """`page`: somebody has to look now; `warn`: today; `info`: nobody has to."""

    PAGE = "page", "Page"
    WARN = "warn", "Warning"
    INFO = "info", "Information"


class DeliveryState(models.TextChoices):
    PENDING = "pending", "Pending"
    DELIVERED = "delivered", "Delivered"
    FAILED = "failed", "Failed"


class DeliveryEvent(StrEnum):
    """What happens to a delivery."""

    TAKEN = "taken"  # the receiver has it
    MISSED = "missed"  # an attempt failed; whether there is another is for the work to say
    DIED = "died"  # there is none: it has its dead letter, from which it can be redriven


TRANSITIONS: Final[Mapping[tuple[DeliveryState, DeliveryEvent], DeliveryState]] = {
    (DeliveryState.PENDING, DeliveryEvent.TAKEN): DeliveryState.DELIVERED,
    (DeliveryState.PENDING, DeliveryEvent.MISSED): DeliveryState.PENDING,
    (DeliveryState.PENDING, DeliveryEvent.DIED): DeliveryState.FAILED,
    # Redriven.
    (DeliveryState.FAILED, DeliveryEvent.TAKEN): DeliveryState.DELIVERED,
    (DeliveryState.FAILED, DeliveryEvent.MISSED): DeliveryState.PENDING,
    (DeliveryState.FAILED, DeliveryEvent.DIED): DeliveryState.FAILED,
}


class ChannelQuerySet(models.QuerySet["Channel"]):
    def wanting(self, kind: str) -> "ChannelQuerySet":
        """The channels that alerts of this kind go to."""
        return self.filter(Q(events=[]) | Q(events__contains=[kind]), enabled=True)


class Channel(models.Model):
    """Somebody to tell: an address of a program, or mailboxes. Disabled it stays, for the record of its deliveries."""

    slug = models.SlugField(max_length=50, unique=True)
    kind = models.CharField(max_length=10, choices=ChannelKind.choices)
    url = models.CharField(max_length=500, blank=True, help_text="Of a webhook; may hold a token, so few see it")
    addresses = models.JSONField(default=list, help_text="Of e-mail")
    events = models.JSONField(default=list, help_text="The kinds of alerts that it wants; empty: all")
    enabled = models.BooleanField(default=True)
    disabled_why = models.CharField(max_length=200, blank=True)
    secret = models.TextField(blank=True, help_text="Of a webhook, sealed")
    old_secret = models.TextField(blank=True, help_text="Its predecessor, sealed; signs too until old_secret_until")
    old_secret_until = models.DateTimeField(null=True, blank=True)
    rotated_at = models.DateTimeField(null=True, blank=True)
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField()

    objects = ChannelQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["slug"]
        verbose_name = "alert channel"
        permissions: ClassVar = [("manage_channels", "Can add, change, rotate and test alert channels")]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=(Q(kind=ChannelKind.WEBHOOK) & ~Q(url="") & ~Q(secret="") & Q(addresses=[]))
                | (Q(kind=ChannelKind.EMAIL, url="", secret="") & ~Q(addresses=[])),
                name="channel_has_what_its_kind_needs",
            ),
            models.CheckConstraint(
                condition=Q(enabled=True, disabled_why="") | (Q(enabled=False) & ~Q(disabled_why="")),
                name="disabled_channel_says_why",
            ),
        ]
        triggers: ClassVar = [pgtrigger.Protect(name="no_delete", operation=pgtrigger.Delete)]

    def __str__(self) -> str:
        return self.slug

    def get_absolute_url(self) -> str:
        return reverse("alert-channel", args=[self.slug])

    @property
    def audit_name(self) -> str:
        return f"alert-channel:{self.slug}"

    @property
    def is_webhook(self) -> bool:
        return self.kind == ChannelKind.WEBHOOK

    @property
    def place(self) -> str:
        """Where it leads, for everybody who may see the channel: of a webhook the host, since paths hold tokens."""
        return (urlsplit(self.url).hostname or "") if self.is_webhook else ", ".join(self.addresses)

    @property
    def wants(self) -> str:
        """What it wants, in words."""
        return "; ".join(kinds.known().get(kind, kind).lower() for kind in self.events) or "every alert"

    def sealed_secrets(self, now: datetime) -> list[str]:
        """The secrets that are signed with now, the new one first."""
        is_overlapping = self.old_secret_until is not None and now < self.old_secret_until
        return [self.secret, *([self.old_secret] if is_overlapping else [])]


class Alert(models.Model):
    """Something that somebody should know. What it says is fixed; `dedupe` names the occasion within its kind."""

    kind = models.CharField(max_length=60, help_text="Such as canary.rolled_back")
    severity = models.CharField(max_length=5, choices=Severity.choices)
    title = models.CharField(max_length=200)
    sentence = models.TextField()
    facts = models.JSONField(default=dict, help_text='{"name": any JSON}; nobody\'s words but ours')
    link = models.CharField(max_length=300, blank=True, help_text="A path of the console")
    target = models.CharField(max_length=200, help_text="As the audit record names it")
    dedupe = models.CharField(max_length=200)
    at = models.DateTimeField()

    class Meta:
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [models.UniqueConstraint(fields=["kind", "dedupe"], name="alert_is_raised_once")]
        indexes: ClassVar = [models.Index(fields=["target", "-id"], name="alerts_of_target")]
        triggers: ClassVar = [append_only()]

    def __str__(self) -> str:
        return f"{self.kind} {self.title}"


class DeliveryQuerySet(models.QuerySet["Delivery"]):
    def newest_of_each(self, channels: models.QuerySet[Channel]) -> "DeliveryQuerySet":
        """The last delivery of each channel, read by index; one query."""
        newest = Delivery.objects.filter(channel=models.OuterRef("pk")).order_by("-created_at", "-id")
        return self.filter(pk__in=channels.order_by().values(newest=models.Subquery(newest.values("pk")[:1])))


class Delivery(models.Model):
    """Telling one channel of one alert. Its id is the `webhook-id`: the same however often it is sent."""

    id = models.UUIDField(primary_key=True, help_text="Sorts by time")
    alert = models.ForeignKey(Alert, on_delete=models.PROTECT, related_name="deliveries")
    channel = models.ForeignKey(Channel, on_delete=models.PROTECT, related_name="deliveries")
    state = models.CharField(max_length=10, choices=DeliveryState.choices, default=DeliveryState.PENDING)
    attempts = models.IntegerField(default=0)
    last_status = models.IntegerField(default=0, help_text="Of HTTP; 0: there was no answer, or it is e-mail")
    last_problem = models.CharField(max_length=300, blank=True)
    ms = models.IntegerField(null=True, blank=True, help_text="Of the last attempt that had an answer")
    created_at = models.DateTimeField()
    delivered_at = models.DateTimeField(null=True, blank=True)

    objects = DeliveryQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-id"]
        verbose_name_plural = "deliveries"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["alert", "channel"], name="one_delivery_per_alert_and_channel"),
            models.CheckConstraint(
                condition=Q(state=DeliveryState.DELIVERED, delivered_at__isnull=False)
                | (~Q(state=DeliveryState.DELIVERED) & Q(delivered_at__isnull=True)),
                name="delivery_has_its_time",
            ),
        ]
        indexes: ClassVar = [models.Index(fields=["channel", "-created_at", "-id"], name="deliveries_of_channel")]
        triggers: ClassVar = [
            pgtrigger.Protect(name="no_delete", operation=pgtrigger.Delete),
            pgtrigger.Protect(
                name="delivered_stays_delivered",
                operation=pgtrigger.Update,
                condition=pgtrigger.Q(old__state=DeliveryState.DELIVERED.value),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.pk} {self.state}"

    @property
    def message_id(self) -> str:
        """By which a receiver knows that it has this one already."""
        return f"msg_{self.pk.hex}"
