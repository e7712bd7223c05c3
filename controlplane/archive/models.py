"""What of the audit record lies in another place, where nobody can change it for a while."""

from typing import ClassVar

from django.db import models

from controlplane.audit.models import append_only


class AuditSegment(models.Model):
    """One stretch of the record that was exported: written once, here and there."""

    number = models.BigIntegerField(primary_key=True)
    first = models.BigIntegerField()
    last = models.BigIntegerField(unique=True)
    head_hash = models.CharField(max_length=64, help_text="Of its last event")
    last_at = models.DateTimeField(help_text="When its last event was recorded")
    manifest_digest = models.CharField(max_length=64)
    store = models.CharField(max_length=500, help_text="Where it lies")
    anchor = models.TextField(help_text="The signed head, as it lies in a second place; empty: there is none")
    exported_at = models.DateTimeField()
    locked_until = models.DateTimeField(help_text="Until when the store lets nobody change or delete it")

    class Meta:
        ordering: ClassVar = ["-number"]
        triggers: ClassVar = [append_only()]

    def __str__(self) -> str:
        return f"segment {self.number}"
