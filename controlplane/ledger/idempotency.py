"""Idempotency keys: what the data plane knows of each while it lives, and the evidence of what became of it.

The data plane writes both tables by itself (`dataplane/stores/idempotency_sql.py`), because whether a key has been used
decides whether a request is executed. Here they are read.
"""

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import ClassVar, Final
from uuid import UUID

import pgtrigger
from django.contrib.postgres.indexes import BrinIndex
from django.db import models
from django.db.models import Q

from controlplane.audit.models import append_only
from controlplane.ledger.newest import NumberedQuerySet
from dataplane.idempotency import EVIDENCE, MAX_KEY_CHARACTERS, Event, State, full_user_hash
from dataplane.release import canonical

LIVING: Final = tuple(state.value for state in State if state is not State.EXPIRED)
# What is looked for by itself. The others are dense: every key that was answered has them.
SOUGHT: Final = tuple(event.value for event in Event if event not in {Event.CREATED, Event.COMPLETED, Event.EXPIRED})


class IdempotencyRecordQuerySet(models.QuerySet["IdempotencyRecord"]):
    """Reads of living records."""

    def without_answers(self) -> "IdempotencyRecordQuerySet":
        """Leave out what is the caller's: answers are kept to be given again, not to be looked at."""
        return self.defer("body", "headers", "fields")

    def of_subject(self, *, tenant: str, user_hash: str, until: datetime | None = None) -> "IdempotencyRecordQuerySet":
        """The records of one user of a tenant; with `until`, those that were there by then."""
        rows = self.filter(tenant=tenant, user_hash=user_hash)
        return rows if until is None else rows.filter(created_at__lte=until)

    def running_at(self, now: datetime) -> "IdempotencyRecordQuerySet":
        """Those that somebody is held to be executing."""
        return self.filter(state=State.RUNNING.value, lease_until__gt=now)

    def forget_answers(self) -> int:
        """Wipe the answers that are kept to be given again; returns how many there were. That each was given stays, so
        nothing is executed anew: whoever repeats it is told that the outcome is not kept.
        """
        return self.filter(body__isnull=False).update(body=None)


class IdempotencyRecord(models.Model):
    """One key of one user of one tenant, until it expires: who executes it, and the outcome once there is one."""

    id = models.UUIDField(primary_key=True)
    tenant = models.CharField(max_length=50)
    user_hash = models.CharField(max_length=64, blank=True, help_text="SHA-256 of the user's id; empty for nobody")
    key = models.CharField(max_length=MAX_KEY_CHARACTERS)
    fingerprint = models.CharField(max_length=64, help_text="SHA-256 of the request's declared fields")
    fields = models.JSONField(help_text="SHA-256 of each declared field, by its name")
    is_repeatable = models.BooleanField(help_text="Whether another owner may begin anew if this one dies")
    state = models.CharField(max_length=20)
    owner = models.CharField(max_length=200, help_text="The process that executes it, or did")
    epoch = models.BigIntegerField(help_text="Counts owners; what an earlier one writes is refused")
    request_id = models.CharField(max_length=64, help_text="The request that is executed, or was")
    lease_until = models.DateTimeField(help_text="When a running one's owner is held to be dead")
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    stream_id = models.CharField(max_length=64, blank=True)
    is_awaited = models.BooleanField(default=False, help_text="Whether a duplicate has come that may be waiting")
    status = models.IntegerField(default=0, help_text="HTTP status of the outcome; 0 before there is one")
    headers = models.JSONField(default=list, help_text='[["name", "value"]] of the outcome')
    media = models.CharField(max_length=100, blank=True)
    body = models.BinaryField(null=True, blank=True, help_text="As it went out; null if too long to keep, or erased")
    body_bytes = models.BigIntegerField(default=0)
    body_sha256 = models.CharField(max_length=64, blank=True)
    usage = models.JSONField(null=True, blank=True)
    evidence_seq = models.IntegerField(help_text="Of the last row of evidence")
    evidence_hash = models.CharField(max_length=64)

    objects = IdempotencyRecordQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-created_at"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["tenant", "user_hash", "key"], name="one_record_per_key"),
            models.CheckConstraint(condition=Q(state__in=LIVING), name="idempotency_state_is_known"),
            models.CheckConstraint(
                condition=Q(state=State.DONE.value, status__gt=0) | (~Q(state=State.DONE.value) & Q(status=0)),
                name="done_has_an_outcome",
            ),
        ]
        indexes: ClassVar = [models.Index(fields=["expires_at"], name="idempotency_expiry")]
        triggers: ClassVar = [
            # One outcome for one key, whoever writes. The body is compared by its digest: it may have megabytes.
            pgtrigger.Protect(
                name="outcome_is_fixed",
                operation=pgtrigger.Update,
                condition=pgtrigger.Condition(
                    "NEW.epoch < OLD.epoch OR NEW.evidence_seq < OLD.evidence_seq"
                    " OR (OLD.state = 'done' AND ROW(OLD.state, OLD.epoch, OLD.fingerprint, OLD.status, OLD.media,"
                    " OLD.body_bytes, OLD.body_sha256) IS DISTINCT FROM ROW(NEW.state, NEW.epoch, NEW.fingerprint,"
                    " NEW.status, NEW.media, NEW.body_bytes, NEW.body_sha256))"
                ),
            )
        ]

    def __str__(self) -> str:
        return f"{self.tenant} {self.key} {self.state}"


class IdempotencyEvidenceQuerySet(NumberedQuerySet["IdempotencyEvidence"]):
    """Reads for disputes. Every filter has an index, but for events that are dense."""

    def of_record(self, record: UUID) -> "IdempotencyEvidenceQuerySet":
        """The chain of one record, from its first row."""
        return self.filter(record=record).order_by("seq")

    def between(self, since: datetime, until: datetime) -> "IdempotencyEvidenceQuerySet":
        """What happened in [since, until), by the database's clock."""
        return self.filter(at__gte=since, at__lt=until)

    def matching(
        self,
        *,
        key: str = "",
        request_id: str = "",
        tenants: Iterable[str] | None = None,
        user: str = "",
        user_hash: str = "",
        event: str = "",
    ) -> "IdempotencyEvidenceQuerySet":
        """Rows that fit everything given.

        Args:
            request_id: Of the request that was executed, or of one that was replayed, attached or refused.
            tenants: Slugs that the reader may see; None means all.
            user: The id itself, which is nowhere stored.
            user_hash: Its `full_user_hash`, where the id must not be known.
        """
        whose = user_hash or (full_user_hash(user) if user else "")
        return self.fitting(tenants, key=key, request_id=request_id, user_hash=whose, event=event)

    def of_request(self, request_id: str) -> "IdempotencyEvidenceQuerySet":
        """Every row of the records that this request had anything to do with. One query at once."""
        # Not a subquery: the planner takes it for many records, and walks through all rows to find the few.
        rows = IdempotencyEvidence.objects.filter(request_id=request_id)
        return self.filter(record__in=set(rows.values_list("record", flat=True)))

    def beginnings(self) -> "IdempotencyEvidenceQuerySet":
        """The row that each record began with."""
        return self.filter(event=Event.CREATED)


class IdempotencyEvidence(models.Model):
    """One step of one record: what happened, for which request, under which owner. It outlives the record."""

    id = models.BigAutoField(primary_key=True)
    record = models.UUIDField()
    seq = models.IntegerField(help_text="Counts the steps of the record from 1")
    at = models.DateTimeField(help_text="By the database's clock")
    event = models.CharField(max_length=20)
    tenant = models.CharField(max_length=50)
    user_hash = models.CharField(max_length=64, blank=True, help_text="SHA-256 of the user's id; empty for nobody")
    key = models.CharField(max_length=MAX_KEY_CHARACTERS)
    request_id = models.CharField(max_length=64, blank=True, help_text="The request that caused it; empty for time")
    owner = models.CharField(max_length=200)
    epoch = models.BigIntegerField()
    fingerprint = models.CharField(max_length=64, help_text="Of the request that caused it")
    status = models.IntegerField(help_text="HTTP status of the outcome; 0 before there is one")
    body_sha256 = models.CharField(max_length=64, blank=True, help_text="Of the outcome's body as it went out")
    stream_id = models.CharField(max_length=64, blank=True)
    detail = models.TextField(blank=True, help_text="JSON: usage when completed, names of fields at a mismatch")
    previous_hash = models.CharField(max_length=64)
    hash = models.CharField(max_length=64)

    objects = IdempotencyEvidenceQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-pk"]
        constraints: ClassVar = [models.UniqueConstraint(fields=["record", "seq"], name="evidence_is_a_chain")]
        indexes: ClassVar = [
            models.Index(fields=["key", "-id"], name="evidence_of_key"),
            models.Index(fields=["request_id"], condition=~Q(request_id=""), name="evidence_of_request"),
            models.Index(fields=["tenant", "-id"], name="evidence_of_tenant"),
            models.Index(fields=["user_hash", "-id"], condition=~Q(user_hash=""), name="evidence_of_user"),
            # Of its own, because the planner then sees that its rows lie in the table's order.
            models.Index(fields=["id"], condition=Q(event=Event.CREATED.value), name="evidence_of_beginnings"),
            models.Index(fields=["event", "-id"], condition=Q(event__in=SOUGHT), name="evidence_of_event"),
            BrinIndex(fields=["at"], name="evidence_by_time", autosummarize=True),
        ]
        triggers: ClassVar = [append_only()]

    def __str__(self) -> str:
        return f"{self.record} {self.seq} {self.event}"

    def computed_hash(self) -> str:
        """SHA-256, in hex, over the canonical JSON of `EVIDENCE`: every other field, the hash before included."""
        body = {name: getattr(self, name) for name in EVIDENCE}
        body["record"] = str(self.record)
        body["at"] = self.at.astimezone(UTC).isoformat(timespec="microseconds")
        return hashlib.sha256(canonical(body)).hexdigest()
