"""Erasures of data subjects: whose, what went, and what is left to do. It is done when nothing is."""

from datetime import datetime
from enum import StrEnum
from typing import ClassVar, Final

import pgtrigger
from django.db import models
from django.db.models import Q

# Of the hash of a user's id, so many digits are kept: enough to show whose request was honoured to who knows them, too
# few to name anybody.
SUBJECT_CHARACTERS: Final = 8


class ErasureState(StrEnum):
    """Of an erasure."""

    UNDER_WAY = "under_way"
    DONE = "done"


class Kept(StrEnum):
    """What is kept of a user's words. Counted by rows."""

    LETTERS = "letters"  # dead letters: payloads, error messages
    SUMMARIES = "summaries"  # what the groups of these letters may quote
    JOBS = "jobs"
    REPLAYS = "replays"  # answers that are given again under an idempotency key
    REPAIRS = "repairs"  # answers that somebody could complete
    TRANSCRIPTS = "transcripts"
    SAMPLES = "samples"  # answers that rules are tried on
    SHADOWS = "shadows"  # comparisons of answers with what a shadow would have said
    WORK = "work"  # durable work that is over


_DONE: Final = Q(state=ErasureState.DONE.value)


class ErasureQuerySet(models.QuerySet["Erasure"]):
    """Erasures, newest first."""

    def under_way(self) -> "ErasureQuerySet":
        """Those that something is left to do of, the oldest first."""
        return self.filter(state=ErasureState.UNDER_WAY.value).order_by("id")


class Erasure(models.Model):
    """One erasure of one user of a tenant. While it is under way it knows whose; afterwards it does not."""

    id = models.UUIDField(primary_key=True, help_text="Sorts by time")
    tenant = models.CharField(max_length=50)
    subject = models.CharField(max_length=SUBJECT_CHARACTERS, help_text="How the hash of the user's id begins")
    user_hash = models.CharField(max_length=64, blank=True, help_text="SHA-256 of the user's id; empty once it is done")
    reason = models.CharField(max_length=1000)
    asked_by = models.CharField(max_length=150)
    asked_at = models.DateTimeField()
    again_at = models.DateTimeField(help_text="When it is gone over again, for what was under way")
    state = models.CharField(max_length=10, default=ErasureState.UNDER_WAY.value)
    counts = models.JSONField(help_text="{kind: rows that were erased}, see `Kept`")
    held = models.JSONField(help_text="Ids of the letters that stay, on legal hold")
    objects_left = models.JSONField(help_text="Names of objects that the payload store has not said are gone")
    problem = models.CharField(max_length=300, blank=True, help_text="Why it could not go on when it was tried last")
    finished_at = models.DateTimeField(null=True, blank=True)

    objects = ErasureQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(state__in=[one.value for one in ErasureState]), name="erasure_state_is_known"
            ),
            models.CheckConstraint(
                condition=(_DONE & Q(user_hash="", objects_left=[], problem="", finished_at__isnull=False))
                | (~_DONE & ~Q(user_hash="") & Q(finished_at__isnull=True)),
                name="erasure_is_done_when_all_is_gone",
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["tenant", "-id"], name="erasures_of_tenant"),
            models.Index(fields=["id"], condition=~_DONE, name="erasures_under_way"),
        ]
        triggers: ClassVar = [
            pgtrigger.Protect(
                name="done_is_fixed",
                operation=pgtrigger.Update,
                condition=pgtrigger.Condition(f"OLD.state = '{ErasureState.DONE}'"),
            ),
            pgtrigger.Protect(name="erasure_stays", operation=pgtrigger.Delete),
        ]

    def __str__(self) -> str:
        return f"{self.subject} of {self.tenant}: {self.state}"

    @property
    def audit_name(self) -> str:
        return f"tenant:{self.tenant}"

    @property
    def is_done(self) -> bool:
        return self.state == ErasureState.DONE

    @property
    def erased(self) -> int:
        """How many letters went."""
        return int(self.counts.get(Kept.LETTERS, 0))

    def is_due(self, now: datetime) -> bool:
        """Whether what was under way when it was asked for has had its time."""
        return now >= self.again_at
