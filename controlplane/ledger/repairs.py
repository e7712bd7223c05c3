"""Answers that nothing could repair, as long as somebody can complete them.

The data plane writes this table by itself (`dataplane/stores/repairs.py`). Here it is read, and what is over is
forgotten.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import ClassVar, Final

import pgtrigger
from django.db import models
from django.db.models import Q
from django.db.models.functions import Least, Now
from django.urls import reverse

from controlplane.ledger.newest import NumberedQuerySet
from dataplane.repair.kept import COMPLETED, EXPIRED, ID_PREFIX, OPEN, STATES

_OPEN: Final = Q(state=OPEN)


class RepairQuerySet(NumberedQuerySet["Repair"]):
    """Reads for people. Every filter has an index whose order is newest first."""

    def without_words(self) -> "RepairQuerySet":
        """Leave out what is the caller's: the answer is kept to be completed, not to be looked at."""
        return self.defer("payload")

    def open_at(self, now: datetime) -> "RepairQuerySet":
        """Those that somebody can complete: not completed, and their time is not over."""
        return self.filter(state=OPEN, expires_at__gt=now)

    def with_words(self, now: datetime) -> "RepairQuerySet":
        """Those whose words are kept still: their time is not over, open or not."""
        return self.filter(payload__isnull=False, expires_at__gt=now)

    def matching(self, *, repair: str = "", tenants: Iterable[str] | None = None, state: str = "") -> "RepairQuerySet":
        """Answers that fit everything given.

        Args:
            repair: The whole id, as callers know it or as it is stored.
            tenants: Slugs that the reader may see; None means all.
        """
        rows = self.fitting(tenants, state=state)
        return rows.called(repair, prefix=ID_PREFIX) if repair else rows

    def forget(self, *, now: datetime) -> int:
        """Delete the words of those whose time is over; returns how many there were."""
        over = self.filter(payload__isnull=False, expires_at__lte=now)
        return over.update(
            payload=None, state=models.Case(models.When(_OPEN, then=models.Value(EXPIRED)), default=models.F("state"))
        )

    def erase(self) -> int:
        """Wipe what these say and whose they were, also why each is broken, which may quote it; returns how many there
        were. Nobody finds them any more. By the database's clock, which is the one that their readers ask.
        """
        return self.update(
            payload=None,
            why="",
            missing=[],
            user_hash="",
            expires_at=Least("expires_at", Now()),
            state=models.Case(models.When(_OPEN, then=models.Value(EXPIRED)), default=models.F("state")),
        )


class Repair(models.Model):
    """One answer of one tenant, of which a part was not the JSON that it had to be. Its words are deleted when its time
    is over; the rest stays.
    """

    id = models.UUIDField(primary_key=True)
    tenant = models.CharField(max_length=50)
    user_hash = models.CharField(max_length=64, blank=True, help_text="Of the user's id; empty for nobody")
    request_id = models.CharField(max_length=64)
    route = models.CharField(max_length=100)
    prompt = models.CharField(max_length=100, blank=True)
    version = models.IntegerField(default=0, help_text="0: no managed prompt")
    lane = models.CharField(max_length=200, blank=True)
    state = models.CharField(max_length=20)
    at_part = models.CharField(max_length=40, help_text='"text" or "tool_calls[i]"')
    mode = models.CharField(max_length=40)
    why = models.TextField()
    missing = models.JSONField(default=list, help_text="JSON pointers of the required fields that it lacks")
    payload = models.BinaryField(null=True, blank=True, help_text="JSON; null once forgotten")
    payload_bytes = models.BigIntegerField()
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    completed_at = models.DateTimeField(null=True, blank=True)
    completed_by = models.CharField(
        max_length=170, blank=True, help_text="The API key that it was completed with, or 'operator:' and their name"
    )

    objects = RepairQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(state__in=STATES), name="repair_state_is_known"),
            models.CheckConstraint(
                condition=Q(state=COMPLETED, completed_at__isnull=False)
                | (~Q(state=COMPLETED) & Q(completed_at__isnull=True)),
                name="repair_is_completed_at_some_time",
            ),
            models.CheckConstraint(condition=~_OPEN | Q(payload__isnull=False), name="open_repair_has_words"),
        ]
        indexes: ClassVar = [
            models.Index(fields=["tenant", "-id"], name="repairs_of_tenant"),
            models.Index(fields=["state", "-id"], name="repairs_by_state"),
            models.Index(fields=["expires_at"], condition=Q(payload__isnull=False), name="repairs_with_words"),
        ]
        triggers: ClassVar = [
            # What is over stays so, whoever writes.
            pgtrigger.Protect(
                name="end_is_fixed",
                operation=pgtrigger.Update,
                condition=pgtrigger.Condition(
                    f"NEW.tenant <> OLD.tenant OR (OLD.state = '{EXPIRED}' AND NEW.state <> OLD.state)"
                    f" OR (OLD.state = '{COMPLETED}' AND ROW(OLD.state, OLD.completed_at, OLD.completed_by)"
                    " IS DISTINCT FROM ROW(NEW.state, NEW.completed_at, NEW.completed_by))"
                ),
            )
        ]

    def __str__(self) -> str:
        return f"{self.tenant} {self.name} {self.state}"

    def get_absolute_url(self) -> str:
        return reverse("repair", args=[self.id])

    @property
    def name(self) -> str:
        """Its id as callers know it."""
        return f"{ID_PREFIX}{self.id.hex}"

    @property
    def audit_name(self) -> str:
        return f"repair:{self.name}"
