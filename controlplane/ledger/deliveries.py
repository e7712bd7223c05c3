"""Deliveries: where the answer of a job goes once there is one, and what became of sending it.

The data plane writes the row with the job's own (`dataplane/stores/jobs_sql.py`), and wipes it with the job's words. A
trigger makes it due when the job ends, however that happens. Sending is the control plane's (`deliveries`).
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import ClassVar, Final
from urllib.parse import urlsplit

import pgtrigger
from django.db import models
from django.db.models import Q, Value

from controlplane.ledger.jobs import Job
from dataplane.destinations import Channel, DeliveryState, told_of

CHANNELS: Final = tuple(channel.value for channel in Channel)
STATES: Final = tuple(state.value for state in DeliveryState)
OPEN: Final = (DeliveryState.WAITING.value, DeliveryState.DELIVERING.value)


class Event(StrEnum):
    """What happens to a delivery."""

    TAKEN = "taken"  # somebody sends it now
    DELIVERED = "delivered"
    MISSED = "missed"  # there is another attempt
    REFUSED = "refused"  # the receiver will never take it
    GIVEN_UP = "given_up"  # there is no time left for another attempt
    CANCELLED = "cancelled"  # there is nothing to send any more
    AGAIN = "again"  # somebody asked for it


TRANSITIONS: Final[Mapping[tuple[DeliveryState, Event], DeliveryState]] = {
    (DeliveryState.WAITING, Event.TAKEN): DeliveryState.DELIVERING,
    (DeliveryState.WAITING, Event.CANCELLED): DeliveryState.CANCELLED,
    # Whoever had it is gone: it is taken again.
    (DeliveryState.DELIVERING, Event.TAKEN): DeliveryState.DELIVERING,
    (DeliveryState.DELIVERING, Event.DELIVERED): DeliveryState.DELIVERED,
    (DeliveryState.DELIVERING, Event.MISSED): DeliveryState.WAITING,
    (DeliveryState.DELIVERING, Event.REFUSED): DeliveryState.FAILED,
    (DeliveryState.DELIVERING, Event.GIVEN_UP): DeliveryState.GIVEN_UP,
    (DeliveryState.DELIVERING, Event.CANCELLED): DeliveryState.CANCELLED,
    (DeliveryState.FAILED, Event.AGAIN): DeliveryState.WAITING,
    (DeliveryState.GIVEN_UP, Event.AGAIN): DeliveryState.WAITING,
    (DeliveryState.DELIVERED, Event.AGAIN): DeliveryState.WAITING,
}


class AnswerDeliveryQuerySet(models.QuerySet["Delivery"]):
    def without_words(self) -> "AnswerDeliveryQuerySet":
        """Leave out what is the caller's, and what was signed for its users."""
        return self.defer("address", "subject", "text", "ballast")

    def due(self, now: datetime) -> "AnswerDeliveryQuerySet":
        """Those that somebody should send now, the longest due first; what somebody had who is gone is among them."""
        return self.filter(state__in=OPEN, next_at__lte=now).order_by("next_at")


class Delivery(models.Model):
    """Sending the answer of one job. Sent again, it has the same id, by which its receiver knows it."""

    job = models.OneToOneField(Job, primary_key=True, on_delete=models.CASCADE, related_name="delivery")
    channel = models.CharField(max_length=10)
    address = models.TextField(blank=True, help_text="A mailbox, or a webhook's URL; empty once forgotten or erased")
    subject = models.TextField(blank=True, help_text="Of an e-mail, as it was signed; empty once forgotten or erased")
    text = models.TextField(blank=True, help_text="What stands above the answer in an e-mail; likewise")
    ballast = models.JSONField(default=dict, help_text="What was said of the rung that it was put off on")
    state = models.CharField(max_length=10, default=DeliveryState.WAITING.value)
    attempts = models.IntegerField(default=0, db_default=0)
    next_at = models.DateTimeField(null=True, blank=True, help_text="When it is tried, or somebody is held to be gone")
    give_up_at = models.DateTimeField(null=True, blank=True, help_text="Null until the job is over")
    last_status = models.IntegerField(default=0, db_default=0, help_text="Of HTTP; 0: no answer, or it is e-mail")
    last_problem = models.CharField(max_length=300, blank=True, db_default=Value(""))
    created_at = models.DateTimeField()
    delivered_at = models.DateTimeField(null=True, blank=True)

    objects = AnswerDeliveryQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-job"]
        verbose_name_plural = "deliveries"
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(channel__in=CHANNELS), name="answer_goes_by_a_known_channel"),
            models.CheckConstraint(condition=Q(state__in=STATES), name="answer_delivery_state_is_known"),
            models.CheckConstraint(
                condition=Q(state__in=OPEN) | Q(next_at__isnull=True), name="answer_is_due_while_it_is_open"
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["next_at"], condition=Q(state__in=OPEN), name="answers_due"),
            models.Index(fields=["state", "-job"], name="answers_by_state"),
        ]
        triggers: ClassVar = [pgtrigger.Protect(name="no_delete", operation=pgtrigger.Delete)]

    def __str__(self) -> str:
        return f"{self.message_id} {self.state}"

    @property
    def message_id(self) -> str:
        """By which a receiver knows that it has this one already."""
        return f"msg_{self.pk.hex}"

    @property
    def place(self) -> str:
        """Where it leads, for everybody who may see the job: the host; the rest names a person, or may hold a token."""
        if self.channel == Channel.EMAIL:
            return self.address.rpartition("@")[2]
        return urlsplit(self.address).hostname or ""

    @property
    def words(self) -> str:
        """The signed words that it was promised in; "" where nobody put it off."""
        return told_of(self.ballast)

    @property
    def is_open(self) -> bool:
        """Whether it waits for its job or for somebody to send it."""
        return self.state in OPEN

    @property
    def may_be_sent_again(self) -> bool:
        """Whether somebody may ask for it: it was tried, and there is still something to send."""
        return (DeliveryState(self.state), Event.AGAIN) in TRANSITIONS and self.address != ""
