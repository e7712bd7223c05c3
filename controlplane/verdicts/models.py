"""What statistics say of canaries: the newest verdict, how it came about, and the pairs that were replayed for it."""

from typing import ClassVar

import pgtrigger
from django.db import models
from django.db.models import F, Q
from django.db.models.fields.json import KT
from django.db.models.functions import Cast

from controlplane.audit.models import append_only
from controlplane.rollouts.guardrails import RAILS
from controlplane.rollouts.models import Canary
from controlplane.verdicts.paired import paired_harm
from controlplane.verdicts.values import Ruling, Verdict


class CanaryWatch(models.Model):
    """The newest look at one canary. What it looks at grows only by what came since: sums of the fleet, and pairs.

    `replayed` keeps what is remembered of all pairs up to `replayed_through`; shape: {rail: `paired.Pairs.to_json`}.
    """

    canary = models.OneToOneField(Canary, on_delete=models.PROTECT, related_name="watch")
    ruling = models.CharField(max_length=10, choices=[(ruling.value, ruling.value) for ruling in Ruling])
    verdict = models.JSONField(help_text="See `values.Verdict.to_json`")
    looked_at = models.DateTimeField()
    since = models.DateTimeField(help_text="When it began to say so")
    replayed = models.JSONField(default=dict)
    replayed_through = models.BigIntegerField(default=0, help_text="Number of the last pair that is in `replayed`")
    was_beyond_half = models.BooleanField(
        default=False, help_text="Whether it reached more units than there are left to compare with"
    )
    handed_out = models.BigIntegerField(
        default=0, help_text="Number of the last pair that somebody was asked to replay"
    )
    handed_out_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"{self.canary_id}: {self.ruling}"

    @property
    def read(self) -> Verdict:
        """The verdict as a value."""
        return Verdict.from_json(self.verdict)


class VerdictPointQuerySet(models.QuerySet["VerdictPoint"]):
    def of(self, canary: Canary) -> "VerdictPointQuerySet":
        """Those of one canary, in their order."""
        return self.filter(canary=canary).order_by("at", "id")


class VerdictPoint(models.Model):
    """One reading of one look, for charts: few enough however long a canary runs, see `watching.THINNING`."""

    canary = models.ForeignKey(Canary, on_delete=models.PROTECT, related_name="points")
    at = models.DateTimeField()
    rail = models.CharField(max_length=20)
    stream = models.CharField(max_length=10)
    harm = models.FloatField(null=True, help_text="In the rail's unit; more is worse")
    lower = models.FloatField(null=True)
    upper = models.FloatField(null=True)
    canary_n = models.BigIntegerField()
    control_n = models.BigIntegerField()
    ruling = models.CharField(max_length=10)

    objects = VerdictPointQuerySet.as_manager()

    class Meta:
        indexes: ClassVar = [models.Index(fields=["canary", "rail", "at"], name="point_of_canary")]
        triggers: ClassVar = [append_only()]

    def __str__(self) -> str:
        return f"{self.canary_id} {self.at:%Y-%m-%d %H:%M:%S} {self.rail} {self.stream}"


class ReplayPairQuerySet(models.QuerySet["ReplayPair"]):
    def after(self, number: int) -> "ReplayPairQuerySet":
        """Those with a higher number, in their order."""
        return self.filter(number__gt=number).order_by("number")

    def before(self, pk: int) -> "ReplayPairQuerySet":
        """Those that came before this one."""
        return self.filter(pk__lt=pk)

    def newest(self) -> "ReplayPairQuerySet":
        """The newest first."""
        return self.order_by("-pk")

    def worse(self, rail: str) -> "ReplayPairQuerySet":
        """Those in which the candidate did worse than control on a rail."""
        ours, theirs = (KT(f"scores__{rail}__{side}") for side in ("candidate", "control"))
        numbers = {"ours": Cast(ours, models.FloatField()), "theirs": Cast(theirs, models.FloatField())}
        worse = Q(ours__lt=F("theirs")) if RAILS[rail].worse == "below" else Q(ours__gt=F("theirs"))
        return self.alias(**numbers).filter(worse)


class ReplayPair(models.Model):
    """One held-out query, asked of both versions.

    Shape of `candidate` and `control`: see `replay.Side.to_json`; of `scores`: {rail: {"candidate": float, "control":
    float}}, without the rails of which one side could not be scored. A pair that could not be asked has no scores and
    says why in `problem`.
    """

    canary = models.ForeignKey(Canary, on_delete=models.PROTECT, related_name="pairs")
    number = models.BigIntegerField(help_text="From 1; which row it asks follows from it")
    row_id = models.CharField(max_length=100, help_text="Of the held-out set")
    at = models.DateTimeField()
    candidate = models.JSONField()
    control = models.JSONField()
    scores = models.JSONField(default=dict)
    problem = models.CharField(max_length=300, blank=True)

    objects = ReplayPairQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["canary", "number"]
        constraints: ClassVar = [models.UniqueConstraint(fields=["canary", "number"], name="one_pair_of_a_number")]
        indexes: ClassVar = [models.Index(fields=["canary", "row_id", "-number"], name="pair_of_row")]
        triggers: ClassVar = [pgtrigger.Protect(name="result_is_fixed", operation=pgtrigger.Update)]

    def __str__(self) -> str:
        return f"{self.canary_id} #{self.number} {self.row_id}"

    def harms(self) -> dict[str, float]:
        """By rail, how much worse the candidate did than control, in [-1, 1]; see `paired.paired_harm`."""
        return {key: paired_harm(RAILS[key], **values) for key, values in self.scores.items()}
