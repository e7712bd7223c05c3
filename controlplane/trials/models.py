"""Rules that were tried on stored answers before they decide anything: what they would have done."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final

import pgtrigger
from django.db import models
from django.db.models import Q

from controlplane.approvals.models import ChangeRequest
from controlplane.trials.subjects import Subject


class TrialState(models.TextChoices):
    RUNNING = "running", "Running"
    DONE = "done", "Done"
    FAILED = "failed", "Failed"


# A worker that has not moved for so long is gone, and somebody else may begin anew.
STALLED_AFTER: Final = timedelta(minutes=3)


class ValidatorTrialQuerySet(models.QuerySet["ValidatorTrial"]):
    def of(self, subjects: Iterable[Subject]) -> "ValidatorTrialQuerySet":
        """Trials of exactly these, whichever change they were begun for; newest first."""
        return self.filter(digest__in=[subject.digest for subject in subjects]).order_by("-id")

    def running(self, now: datetime) -> "ValidatorTrialQuerySet":
        """Those that somebody is at."""
        return self.filter(state=TrialState.RUNNING, moved_at__gt=now - STALLED_AFTER)


class ValidatorTrial(models.Model):
    """One validator policy, tried on the stored answers of the routes that would use it. It holds no word of them.

    `digest` covers the policy's document and those routes: any edit is another subject, which this is no trial of.
    """

    change = models.ForeignKey(ChangeRequest, on_delete=models.PROTECT, related_name="trials")
    policy = models.CharField(max_length=100)
    routes = models.JSONField(help_text="Slugs")
    document = models.JSONField(help_text="The policy, as the routing table has it")
    digest = models.CharField(max_length=64)
    actor = models.CharField(max_length=150)
    started_at = models.DateTimeField()
    moved_at = models.DateTimeField(help_text="When its worker was heard of last")
    ended_at = models.DateTimeField(null=True, blank=True)
    state = models.CharField(max_length=10, choices=TrialState.choices, default=TrialState.RUNNING)
    problem = models.CharField(max_length=300, blank=True)
    available = models.IntegerField(default=0, help_text="Samples that there were to try it on")
    tried = models.IntegerField(default=0, help_text="Of these")
    would_block = models.IntegerField(default=0)
    would_repair = models.IntegerField(default=0)
    would_warn = models.IntegerField(default=0)
    abstained = models.IntegerField(default=0, help_text="Samples of which at least one rule could not say")
    micros_p50 = models.IntegerField(null=True, blank=True, help_text="Of processor time, all rules of one answer")
    micros_p99 = models.IntegerField(null=True, blank=True)
    rules = models.JSONField(default=list, help_text="See `controlplane.trials.tally.Tally.rules`")
    examples = models.JSONField(default=list, help_text="See `controlplane.trials.tally.Tally.examples`")

    objects = ValidatorTrialQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-id"]
        indexes: ClassVar = [
            models.Index(fields=["digest", "-id"], name="trial_of_subject"),
            models.Index(fields=["policy", "-id"], name="trial_of_policy"),
        ]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(state=TrialState.RUNNING, ended_at__isnull=True)
                | Q(state__in=[TrialState.DONE, TrialState.FAILED], ended_at__isnull=False),
                name="trial_ends_when_it_is_over",
            ),
        ]
        triggers: ClassVar = [
            pgtrigger.Protect(name="no_delete", operation=pgtrigger.Delete),
            # People sign for what it found.
            pgtrigger.Protect(
                name="result_is_fixed",
                operation=pgtrigger.Update,
                condition=pgtrigger.Q(old__state__in=["done", "failed"]),
            ),
        ]

    def __str__(self) -> str:
        return f"Trial {self.pk} of {self.policy}"

    @property
    def is_done(self) -> bool:
        return self.state == TrialState.DONE

    def is_running(self, now: datetime) -> bool:
        """Whether somebody is at it."""
        return self.state == TrialState.RUNNING and self.moved_at > now - STALLED_AFTER

    @property
    def judges(self) -> list[str]:
        """The rules that a model decides, which no trial asks."""
        return sorted(rule["id"] for rule in self.document["rules"] if rule["kind"] == "judge")

    @property
    def sentence(self) -> str:
        """What it found: 'would have blocked 3 of 1,000'."""
        if not self.tried:
            return "there was no stored answer to try it on, so nobody knows what it would block"
        said = f"would have blocked {self.would_block:,} of {self.tried:,}"
        if self.would_repair:
            said += f", taken something out of {self.would_repair:,}"
        if self.would_warn:
            said += f", warned of {self.would_warn:,}"
        if self.abstained:
            said += f"; at {self.abstained:,} a rule could not say"
        return said

    def facts(self) -> dict[str, Any]:
        """What the audit record keeps of it."""
        names = ("policy", "digest", "available", "tried", "would_block", "would_repair", "would_warn", "abstained")
        return {"trial": self.pk, **{name: getattr(self, name) for name in names}}
