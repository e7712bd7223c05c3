"""Words that people sign before they are needed, and the ladder that shows them: both in immutable versions, each with
a log that says which is live.

Beside it, and without sign-offs, stands what on-call engaged on a surface, or held its triggers at, for a while.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import ClassVar

import pgtrigger
from django.db import models
from django.urls import reverse

from controlplane.audit.models import append_only
from controlplane.versioned.models import DocumentActivation, DocumentVersion, Version
from dataplane.documents import Node
from dataplane.ladder.policy import MAINTENANCE, OFF, Ladder
from dataplane.release import canonical, digest_of
from dataplane.signed_copy import SignedCopy, parse_copy


class CopyKind(models.TextChoices):
    """What a piece of copy is for: the rung of a fallback stack that may name it is called the same, `escalation` is
    what a validator policy names, `rung` what the rung of a degradation ladder shows, and `freshness` what goes with
    answers from a corpus that is older than promised.
    """

    ANSWERS = "answers", "Answers to known questions"
    TEMPLATE = "template", "Template"
    OUTAGE = "outage", "Outage notice"
    ESCALATION = "escalation", "Words for a withheld answer"
    RUNG = "rung", "Words of a ladder's rung"
    FRESHNESS = "freshness", "Banner of a corpus that is older than promised"


class Copy(models.Model):
    """A piece of copy that fallback stacks, validator policies and ladders name by its slug."""

    slug = models.SlugField(unique=True)
    kind = models.CharField(max_length=10, choices=CopyKind.choices)
    title = models.CharField(max_length=120)
    description = models.TextField(blank=True)
    regulated = models.BooleanField(default=False, help_text="Legal signs every word of it too")
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField()

    class Meta:
        ordering: ClassVar = ["slug"]
        verbose_name = "piece of copy"
        verbose_name_plural = "pieces of copy"
        permissions: ClassVar = [
            ("write_copy", "Can write and propose copy"),
            ("sign_off_copy", "Can sign off copy"),
            ("return_copy", "Can return copy to words that were signed before"),
        ]
        triggers: ClassVar = [
            # Changes and stacks name it by its slug; who signs, and where it may stand, follow from the other two.
            pgtrigger.Protect(
                name="identity_is_fixed",
                operation=pgtrigger.Update,
                condition=pgtrigger.Condition(
                    "OLD.slug IS DISTINCT FROM NEW.slug OR OLD.kind IS DISTINCT FROM NEW.kind"
                    " OR OLD.regulated IS DISTINCT FROM NEW.regulated"
                ),
            ),
        ]

    def __str__(self) -> str:
        return self.slug

    def get_absolute_url(self) -> str:
        return reverse("copy", args=[self.slug])

    @property
    def audit_name(self) -> str:
        return f"copy:{self.slug}"


class CopyVersion(Version):
    """One immutable version: exactly the words that users would read, and why somebody wants them.

    `document` has the shape that `dataplane.signed_copy.parse_copy` reads; that is its validator.
    """

    copy = models.ForeignKey(Copy, on_delete=models.PROTECT, related_name="versions")
    document = models.JSONField()

    class Meta(Version.Meta):
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["copy", "number"], name="one_number_per_copy"),
            models.UniqueConstraint(fields=["copy", "digest"], name="one_content_per_copy"),
        ]

    def __str__(self) -> str:
        return f"{self.copy.slug} v{self.number}"

    def get_absolute_url(self) -> str:
        return reverse("copy-version", args=[self.copy.slug, self.number])

    @property
    def audit_name(self) -> str:
        return f"copy:{self.copy.slug}@{self.number}"

    def digested(self) -> str:
        return digest_of(canonical(self.document))

    def parsed(self) -> SignedCopy:
        """The words as workers hold them."""
        return parse_copy(self.copy.slug, Node(self.document, "$"), version=self.number, digest=self.digest)


class CopyActivationQuerySet(models.QuerySet["CopyActivation"]):
    def current(self) -> "CopyActivationQuerySet":
        """The newest activation of each piece, with its version and piece: what is live; one query however many."""
        newest = self.order_by("version__copy_id", "-id").distinct("version__copy_id")
        return newest.select_related("version__copy")


class CopyActivation(models.Model):
    """Which version of a piece is live since when; its newest row says which now. Each went live through its sign-offs,
    or went back to what had.
    """

    version = models.ForeignKey(CopyVersion, on_delete=models.PROTECT, related_name="activations")
    change = models.ForeignKey(
        "approvals.ChangeRequest", null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    actor = models.CharField(max_length=150)
    reason = models.TextField()
    at = models.DateTimeField()

    objects = CopyActivationQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-id"]
        triggers: ClassVar = [append_only()]

    def __str__(self) -> str:
        return f"{self.version} since {self.at:%Y-%m-%d %H:%M}"


# --- the ladder ------------------------------------------------------------------------------------------------------
class LadderPolicy(DocumentVersion):
    """One immutable version of every surface's ladder: its rungs, its triggers, and what each tier is promised.

    `document` has the shape of a release's section 'ladder'; `dataplane.ladder.policy.Ladder.parse` is its validator.
    """

    noun = "ladder policy"
    short_noun = "policy"

    class Meta(DocumentVersion.Meta):
        verbose_name_plural = "ladder policies"
        permissions: ClassVar = [
            ("propose_ladder", "Can propose another ladder policy"),
            ("sign_off_ladder", "Can sign off a ladder policy"),
            ("break_glass_ladder", "Can bypass sign-offs on the ladder in an incident"),
            ("review_break_glass_ladder", "Can review a bypass on the ladder"),
        ]

    def get_absolute_url(self) -> str:
        return reverse("ladder-policy-version", args=[self.number])

    def parsed(self) -> Ladder:
        """The ladder as workers hold it; which of its words are signed is not said here."""
        return Ladder.parse(self.document, path="$")


class LadderPolicyActivation(DocumentActivation):
    """Which ladder policy is in force since when."""

    version = models.ForeignKey(LadderPolicy, on_delete=models.PROTECT, related_name="activations")


class RungMode(models.TextChoices):
    """What people do to a surface; see `dataplane.ladder.activations.Activation`."""

    ENGAGE = "engage", "Rung engaged"
    HOLD = "hold", "Triggers held down"


class RungActivationQuerySet(models.QuerySet["RungActivation"]):
    def newest_per_scope(self) -> "RungActivationQuerySet":
        """The row that stands for each surface, mode, and set of regions and tiers; it may be over, or stood down."""
        scope = ("surface", "mode", "regions", "tiers")
        newest = self.order_by(*scope, "-id").distinct(*scope)
        return newest.select_related("stood_down", "policy").defer("policy__document")


class RungActivation(models.Model):
    """On-call's word on one surface until a time: a rung is engaged, or triggers engage nothing above a rung.

    The newest row of a surface, mode and scope stands, until its time is over or somebody stands it down. Rows are
    kept, so that the log says who engaged what, for whom, when and why.
    """

    surface = models.CharField(max_length=100)
    mode = models.CharField(max_length=10, choices=RungMode)
    rung = models.PositiveSmallIntegerField(help_text="1 to 6; of a hold 0 to 6")
    regions = models.JSONField(default=list, help_text="Of gateways, sorted; empty: all of them")
    tiers = models.JSONField(default=list, help_text="Of tenants, sorted; empty: all of them")
    since = models.DateTimeField()
    until = models.DateTimeField()
    reason = models.TextField()
    actor = models.CharField(max_length=150)
    at = models.DateTimeField()
    policy = models.ForeignKey(LadderPolicy, on_delete=models.PROTECT, related_name="rung_activations")
    words = models.JSONField(
        default=dict,
        help_text='The signed words that stood when it was engaged: {slug: {"number", "digest"}}; of a hold none',
    )

    objects = RungActivationQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-id"]
        permissions: ClassVar = [("engage_rung", "Can engage rungs, hold triggers down and stand both down")]
        constraints: ClassVar = [
            models.CheckConstraint(condition=models.Q(until__gt=models.F("since")), name="rung_ends"),
            models.CheckConstraint(
                condition=models.Q(mode=RungMode.ENGAGE, rung__gt=OFF) | models.Q(mode=RungMode.HOLD),
                name="rung_is_engaged",
            ),
            models.CheckConstraint(condition=models.Q(rung__lte=MAINTENANCE), name="rung_exists"),
        ]
        indexes: ClassVar = [models.Index(fields=["surface", "-id"], name="rung_newest")]
        triggers: ClassVar = [append_only()]

    def __str__(self) -> str:
        return f"{self.said} since {self.at:%Y-%m-%d %H:%M}"

    @property
    def audit_name(self) -> str:
        return surface_name(self.surface)

    @property
    def name(self) -> str:
        """By which the release, workers and the record know it."""
        return f"{self.surface}-{self.pk}"

    @property
    def said(self) -> str:
        """What was done to what, such as 'rung 3 of web-chat'."""
        what = f"rung {self.rung}" if self.mode == RungMode.ENGAGE else f"hold at rung {self.rung}"
        return f"{what} of {self.surface}"

    @property
    def is_stood_down(self) -> bool:
        """Whether somebody ended it; one query unless it was fetched with `stood_down`."""
        return hasattr(self, "stood_down")

    def is_active(self, now: datetime) -> bool:
        """Whether workers act on it, if it is the newest of its scope: not stood down, and its time is not over."""
        return now < self.until and not self.is_stood_down

    def is_for(self, *, regions: Iterable[str], tiers: Iterable[str]) -> bool:
        """Whether it has exactly this scope."""
        return (self.regions, self.tiers) == (sorted(set(regions)), sorted(set(tiers)))


class RungStoodDown(models.Model):
    """The end of an activation before its time: written once."""

    activation = models.OneToOneField(RungActivation, on_delete=models.PROTECT, related_name="stood_down")
    actor = models.CharField(max_length=150)
    reason = models.TextField()
    at = models.DateTimeField()

    class Meta:
        verbose_name_plural = "rungs stood down"
        triggers: ClassVar = [append_only()]

    def __str__(self) -> str:
        return f"{self.activation} stood down"


def surface_name(surface: str) -> str:
    """How the audit record knows a surface."""
    return f"surface:{surface}"[:200]
