"""Providers, accounts, lanes and routes: one immutable document per version, and a log of which is in force.

Beside the table, and without sign-offs, stands what on-call decided about single lanes for the next hours.
"""

from datetime import datetime
from typing import Any, ClassVar, Final

from django.db import models
from django.urls import reverse

from controlplane.audit.models import append_only
from controlplane.remembered import Remembered
from controlplane.versioned.models import DocumentActivation, DocumentVersion
from dataplane.routing import RoutingTable as Routing

# The one in force, and what is compared with it.
_PARSED: Final = Remembered[tuple[Any, Routing]](4)


class RoutingTable(DocumentVersion):
    """One immutable version of everything that says where requests may go.

    `document` has the shape of a release's section 'routing'; `dataplane.routing.RoutingTable.parse` is its validator.
    """

    noun = "routing table"
    short_noun = "table"

    class Meta(DocumentVersion.Meta):
        permissions: ClassVar = [
            ("propose_routing", "Can propose another routing table"),
            ("sign_off_routing", "Can sign off a routing table"),
            ("break_glass_routing", "Can bypass sign-offs on routing in an incident"),
            ("review_break_glass_routing", "Can review a bypass on routing"),
        ]

    def get_absolute_url(self) -> str:
        return reverse("routing-table", args=[self.number])

    def parsed(self) -> Routing:
        """The table as workers hold it; one that was parsed lately is not parsed again. Leave it as it is.

        Raises:
            MalformedRelease: it is none any more, because somebody wrote to the database by hand.
        """
        document, parsed = _PARSED.get(self.digest, lambda: (self.document, Routing.parse(self.document)))
        return parsed if document == self.document else Routing.parse(self.document)


class RoutingActivation(DocumentActivation):
    """Which routing table is in force since when."""

    version = models.ForeignKey(RoutingTable, on_delete=models.PROTECT, related_name="activations")


class Mode(models.TextChoices):
    """What a lane is held at; `automatic` is the end of a hold."""

    OPEN = "open"
    CLOSED = "closed"
    AUTOMATIC = "automatic"


class LaneHoldQuerySet(models.QuerySet["LaneHold"]):
    def newest_per_lane(self) -> "LaneHoldQuerySet":
        """The row that stands for each lane, by lane; it may have expired, or say that the lane was let go."""
        return self.order_by("lane", "-id").distinct("lane")


class LaneHold(models.Model):
    """On-call's word on one lane: nothing goes there (open), or nothing is held back from it (closed), until a time.

    The newest row of a lane stands. Rows are kept, so that the log says who held what, when and why.
    """

    lane = models.CharField(max_length=200)
    mode = models.CharField(max_length=10, choices=Mode)
    reason = models.TextField()
    actor = models.CharField(max_length=150)
    at = models.DateTimeField()
    until = models.DateTimeField(null=True, blank=True, help_text="Null exactly where the mode is automatic")

    objects = LaneHoldQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-id"]
        permissions: ClassVar = [("hold_lane", "Can hold a lane open or closed")]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=models.Q(mode=Mode.AUTOMATIC, until__isnull=True)
                # In SQL a comparison with null is not false, so a missing end has to be refused by name.
                | models.Q(mode__in=[Mode.OPEN, Mode.CLOSED], until__isnull=False, until__gt=models.F("at")),
                name="hold_expires",
            ),
        ]
        indexes: ClassVar = [models.Index(fields=["lane", "-id"], name="hold_newest")]
        triggers: ClassVar = [append_only()]

    def __str__(self) -> str:
        return f"{self.lane} {self.mode} since {self.at:%Y-%m-%d %H:%M}"

    @property
    def audit_name(self) -> str:
        return lane_name(self.lane)

    def is_active(self, now: datetime) -> bool:
        """Whether workers act on it: it was not let go, and its time is not over."""
        return self.until is not None and now < self.until


def lane_name(lane: str) -> str:
    """How the audit record knows a lane."""
    return f"lane:{lane}"[:200]


class Drill(models.Model):
    """A provider, or one lane, left on purpose for a while, to see what happens.

    Made of holds, one per lane, and over when they are: by themselves at `until`, or one by one as they are let go.
    """

    provider = models.CharField(max_length=100, blank=True, help_text="Empty: a drill of one lane")
    lanes = models.JSONField(help_text='Shape: [{"lane": str, "hold": id of its LaneHold}]')
    table = models.ForeignKey(RoutingTable, on_delete=models.PROTECT, related_name="drills")
    reason = models.TextField()
    actor = models.CharField(max_length=150)
    began_at = models.DateTimeField(help_text="When the click reached the console")
    until = models.DateTimeField()
    revision = models.BigIntegerField(help_text="Of the release that began it")
    effects = models.JSONField(help_text="What it would do to callers, in sentences, as it was said before the click")

    class Meta:
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            models.CheckConstraint(condition=models.Q(until__gt=models.F("began_at")), name="drill_expires"),
        ]
        triggers: ClassVar = [append_only()]

    def __str__(self) -> str:
        return f"Drill {self.pk}"

    def get_absolute_url(self) -> str:
        return reverse("drill", args=[self.pk])

    @property
    def audit_name(self) -> str:
        return f"drill:{self.pk}"

    @property
    def subject(self) -> str:
        """What is left: a provider's name, or a lane's id."""
        return self.provider or self.lane_ids[0]

    @property
    def lane_ids(self) -> list[str]:
        return [entry["lane"] for entry in self.lanes]

    @property
    def minutes(self) -> int:
        """How long it was to last."""
        return round((self.until - self.began_at).total_seconds() / 60)


class DrillResult(models.Model):
    """What a drill measured, once it was over: written once, by the control plane itself."""

    drill = models.OneToOneField(Drill, on_delete=models.PROTECT, related_name="result")
    at = models.DateTimeField()
    figures = models.JSONField(help_text="See controlplane.telemetry.drills.measure")

    class Meta:
        triggers: ClassVar = [append_only()]

    def __str__(self) -> str:
        return f"Result of {self.drill}"
