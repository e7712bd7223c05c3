"""Durable work of the control plane: what is to be done later, surely, and by whoever has time.

The row is the record of truth; Celery carries word that something is due, and may lose it. `operations` moves rows
along the table below, in single statements (`sql.py`).
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import ClassVar, Final

import pgtrigger
from django.db import models
from django.db.models import Q

from dataplane.idempotency import MAX_KEY_CHARACTERS
from dataplane.tracing import TRACEPARENT_LENGTH


class State(StrEnum):
    """Of a task."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    DEAD = "dead"


class Event(StrEnum):
    """What happens to a task."""

    TAKEN = "taken"  # somebody has it, in a new epoch
    PUT_BACK = "put_back"  # it is to be tried again: it failed, or whoever had it is gone
    DONE = "done"
    DIED = "died"  # it has failed for good; its dead letter is written in the same transaction


TRANSITIONS: Final[Mapping[tuple[State, Event], State]] = {
    (State.QUEUED, Event.TAKEN): State.RUNNING,
    (State.RUNNING, Event.PUT_BACK): State.QUEUED,
    (State.RUNNING, Event.DONE): State.DONE,
    (State.RUNNING, Event.DIED): State.DEAD,
}
OVER: Final = frozenset({State.DONE, State.DEAD})

_QUEUED: Final = Q(state=State.QUEUED.value)
_RUNNING: Final = Q(state=State.RUNNING.value)
_OVER: Final = Q(state__in=sorted(state.value for state in OVER))


class Task(models.Model):
    """One piece of work. Some days after it is over, the row goes; if it failed, its dead letter stays."""

    id = models.UUIDField(primary_key=True, help_text="Sorts by time")
    kind = models.CharField(max_length=80, help_text="Names its handler, such as deadletters.delete_objects")
    arguments = models.BinaryField(help_text="JSON")
    key = models.CharField(max_length=MAX_KEY_CHARACTERS, blank=True, help_text="Names one piece of work of its kind")
    tenant = models.CharField(max_length=50, blank=True, help_text="Empty for work of our own")
    user_hash = models.CharField(max_length=64, blank=True, help_text="Whose data it is about; empty for nobody's")
    state = models.CharField(max_length=10, default=State.QUEUED.value)
    epoch = models.BigIntegerField(default=0, help_text="Counts takings; what an earlier one writes is refused")
    owner = models.CharField(max_length=200, blank=True, help_text="Who has it, or had")
    lease_until = models.DateTimeField(null=True, blank=True, help_text="When a running one's owner is held dead")
    failures = models.IntegerField(default=0, help_text="Attempts that its handler failed at")
    lapses = models.IntegerField(default=0, help_text="How many owners in a row died with it")
    causes = models.JSONField(
        default=list, help_text='Its last attempts: [{"at", "owner", "code", "message", "status"}]'
    )
    created_at = models.DateTimeField()
    not_before = models.DateTimeField(help_text="When a queued one may be taken")
    taken_at = models.DateTimeField(null=True, blank=True, help_text="When it was taken last")
    ended_at = models.DateTimeField(null=True, blank=True)
    redriven_from = models.UUIDField(null=True, blank=True, help_text="The dead letter whose work this is")
    traceparent = models.CharField(
        max_length=TRACEPARENT_LENGTH, blank=True, default="", db_default="", help_text="The trace that handed it in"
    )

    class Meta:
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["kind", "key"], condition=~Q(key=""), name="one_task_per_key"),
            models.CheckConstraint(condition=Q(state__in=[state.value for state in State]), name="task_state_is_known"),
            models.CheckConstraint(
                condition=(_OVER & Q(ended_at__isnull=False)) | (~_OVER & Q(ended_at__isnull=True)),
                name="task_ends_when_it_is_over",
            ),
            models.CheckConstraint(
                condition=(_RUNNING & Q(lease_until__isnull=False)) | (~_RUNNING & Q(lease_until__isnull=True)),
                name="task_is_leased_while_it_runs",
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["not_before", "id"], condition=_QUEUED, name="tasks_in_order"),
            models.Index(fields=["lease_until"], condition=_RUNNING, name="tasks_leased"),
            models.Index(fields=["ended_at"], condition=_OVER, name="tasks_over"),
            models.Index(fields=["tenant", "user_hash"], condition=~Q(user_hash=""), name="tasks_of_subject"),
        ]
        triggers: ClassVar = [
            # What is over stays as it ended, and nobody counts takings backwards, whoever writes.
            pgtrigger.Protect(
                name="end_is_fixed",
                operation=pgtrigger.Update,
                condition=pgtrigger.Condition(
                    "NEW.epoch < OLD.epoch OR NEW.kind <> OLD.kind OR OLD.state IN ('done', 'dead')"
                ),
            )
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.id} {self.state}"
