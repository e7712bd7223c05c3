"""What became of checks of answers, as it is kept: by spans of time, and by windows for what is asked first.

All of it derives from minute rows, and never the other way round: `rebuild_outcomes` makes the same of them.
"""

from typing import ClassVar, Final

from django.db import models
from django.db.models import Q

# Systems, as keys name them.
REPAIR: Final = "repair"
VALIDATOR: Final = "validator"
# How long rules took: the outcome is the bound of a class, see `dataplane.validators.pace`.
VALIDATOR_TIME: Final = "validator_time"
# Of repairs: nothing was wrong.
NO_MODE: Final = "none"
# Of totals: every lane together. No lane has the name, whose four parts are divided by slashes.
ALL_LANES: Final = "*"
# Of standings: everything at a place, whatever its name.
WHOLE: Final = ""


class OutcomeRollup(models.Model):
    """What one system counted of the answers to one version of a prompt, of one lane, in one span."""

    system = models.CharField(max_length=200, help_text="As keys name it, see `dataplane.aggregation.output_key`")
    span = models.DurationField(help_text="How long the span is, one of `outcome_spans.SPANS`")
    bucket_at = models.DateTimeField(help_text="When it begins: a multiple of `span` since the epoch")
    prompt = models.CharField(max_length=100, blank=True)
    version = models.IntegerField(help_text="0: no managed prompt")
    lane = models.CharField(max_length=200, blank=True)
    outputs = models.JSONField(help_text="{the rest of the key: count}")

    class Meta:
        constraints: ClassVar = [
            # In this order, because it is read and written by place, over a range.
            models.UniqueConstraint(
                fields=["system", "prompt", "version", "lane", "span", "bucket_at"], name="one_outcome_rollup"
            ),
        ]
        indexes: ClassVar = [models.Index(fields=["bucket_at", "span"], name="outcome_rollup_by_age")]

    def __str__(self) -> str:
        return f"{self.bucket_at:%Y-%m-%d %H:%M} {self.system} {self.prompt}@{self.version} {self.lane}"


class OutcomeTotal(models.Model):
    """The same of one lane whatever the prompt, or of all lanes: what charts draw, however many prompts there are."""

    system = models.CharField(max_length=200)
    span = models.DurationField(help_text="A minute, or one of `outcome_spans.SPANS`")
    bucket_at = models.DateTimeField()
    lane = models.CharField(max_length=200, blank=True, help_text=f"{ALL_LANES!r}: all of them together")
    outputs = models.JSONField(help_text="{the rest of the key: count}")

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["system", "lane", "span", "bucket_at"], name="one_outcome_total"),
        ]
        indexes: ClassVar = [models.Index(fields=["bucket_at"], name="outcome_total_by_age")]

    def __str__(self) -> str:
        return f"{self.bucket_at:%Y-%m-%d %H:%M} {self.system} {self.lane}"


class OutcomePlace(models.Model):
    """One version of a prompt on one lane, of which answers were checked. Kept, as versions are."""

    prompt = models.CharField(max_length=100, blank=True)
    version = models.IntegerField(help_text="0: no managed prompt")
    lane = models.CharField(max_length=200, blank=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["prompt", "version", "lane"], name="one_outcome_place"),
        ]

    def __str__(self) -> str:
        return f"{self.prompt}@{self.version} {self.lane}"


class OutcomeWindow(models.Model):
    """The last so many hours, as far as minutes are folded: what is before `since` was taken out of its standings."""

    hours = models.PositiveSmallIntegerField(primary_key=True)
    since = models.DateTimeField()
    until = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.hours} h from {self.since:%Y-%m-%d %H:%M}"


class OutcomeStanding(models.Model):
    """How often one name (a rule with its version, or what was wrong) was counted at one place in one window.

    Kept added up, so that the worst of a month is found without reading a month. What a system ranks by is in
    `outcome_windows`.
    """

    hours = models.PositiveSmallIntegerField()
    system = models.CharField(max_length=200)
    place = models.ForeignKey(OutcomePlace, on_delete=models.CASCADE)
    name = models.CharField(max_length=200, blank=True, help_text="Empty: answers in all")
    counted = models.BigIntegerField()
    bad = models.BigIntegerField()
    unsure = models.BigIntegerField()
    outcomes = models.JSONField(help_text="{the rest of the key behind the name: count}")

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["hours", "system", "place", "name"], name="one_outcome_standing"),
        ]
        indexes: ClassVar = [
            models.Index(fields=["hours", "system", "place"], condition=Q(name=WHOLE), name="outcome_standing_of_all"),
            models.Index(fields=["hours", "system"], condition=Q(bad__gt=0), name="outcome_standing_bad"),
        ]

    def __str__(self) -> str:
        return f"{self.hours} h {self.system} {self.place_id} {self.name}"
