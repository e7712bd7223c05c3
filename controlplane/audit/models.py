"""The record of who changed what: one hash-chained row per operation, append-only in the database itself."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, ClassVar

import pgtrigger
from django.db import models
from django.db.models.expressions import RawSQL

from dataplane import audit_trail

GENESIS = audit_trail.GENESIS


def append_only() -> pgtrigger.Protect:
    """A trigger that refuses UPDATE and DELETE on a table whose rows are a record."""
    return pgtrigger.Protect(name="append_only", operation=pgtrigger.Update | pgtrigger.Delete)


class AuditEventQuerySet(models.QuerySet["AuditEvent"]):
    def about(self, targets: Iterable[str], *, most: int) -> "AuditEventQuerySet":
        """The newest events of these targets, newest first, at most so many; the cost grows with the targets alone.

        Each target's newest are looked up by themselves: asked for all of them at once, the database goes through the
        whole record when they are seldom spoken of.
        """
        newest = RawSQL(  # noqa: S611 - the values are parameters
            "SELECT e.seq FROM unnest(%s::text[]) AS t(target) CROSS JOIN LATERAL (SELECT seq"  # noqa: S608 - our table
            f" FROM {self.model._meta.db_table} WHERE target = t.target ORDER BY seq DESC LIMIT %s) e",
            [sorted(set(targets)), most],
        )
        return self.filter(seq__in=newest).order_by("-seq")[:most]


class AuditEvent(models.Model):
    """One operation: actor and target are text, so that the record outlives the rows it speaks of."""

    seq = models.BigIntegerField(primary_key=True)
    at = models.DateTimeField()
    actor = models.CharField(max_length=150)
    action = models.CharField(max_length=100)
    target = models.CharField(max_length=200)
    data = models.JSONField(default=dict)
    previous_hash = models.CharField(max_length=64)
    hash = models.CharField(max_length=64, unique=True)

    objects = AuditEventQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-seq"]
        indexes: ClassVar = [
            models.Index(fields=["target", "-seq"]),
            models.Index(fields=["actor", "-seq"]),
            models.Index(fields=["action", "-seq"]),
        ]
        permissions: ClassVar = [("export_audit", "Can export and verify the audit record")]
        triggers: ClassVar = [append_only()]

    def __str__(self) -> str:
        return f"{self.seq} {self.action} {self.target}"

    def to_json(self) -> dict[str, Any]:
        """As exports have it. Shape: see `dataplane.audit_trail`."""
        return {
            "seq": self.seq,
            "at": self.at.astimezone(UTC).isoformat(timespec="microseconds"),
            "actor": self.actor,
            "action": self.action,
            "target": self.target,
            "data": self.data,
            "previous_hash": self.previous_hash,
            "hash": self.hash,
        }

    def computed_hash(self) -> str:
        """SHA-256, in hex, over the canonical JSON of every other field, the previous event's hash included."""
        return event_hash(
            seq=self.seq,
            at=self.at,
            actor=self.actor,
            action=self.action,
            target=self.target,
            data=self.data,
            previous_hash=self.previous_hash,
        )


def event_hash(*, seq: int, at: datetime, actor: str, action: str, target: str, data: Any, previous_hash: str) -> str:
    """Return the chain hash of one event; `at` counts to the microsecond, in UTC, as PostgreSQL keeps it."""
    body = {
        "seq": seq,
        "at": at.astimezone(UTC).isoformat(timespec="microseconds"),
        "actor": actor,
        "action": action,
        "target": target,
        "data": data,
        "previous_hash": previous_hash,
    }
    return audit_trail.event_hash(body)
