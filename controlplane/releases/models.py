"""Releases as they were signed, and what the data plane says it does with them."""

import hashlib
from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar

import orjson
from django.db import models
from django.db.models import Case, Count, F, Q, Value, When
from django.urls import reverse
from django.utils.functional import cached_property

from controlplane.audit.models import append_only
from controlplane.compiled import compiled
from dataplane.collector import collector_paused
from dataplane.release import Envelope
from dataplane.tracing import TRACEPARENT_LENGTH

# A worker reports every second; three missed reports and a margin, and nobody should believe its last word any more.
SILENT_AFTER = timedelta(seconds=5)
# A worker that said nothing for this long is no longer counted against convergence; it stays on the page as gone.
GONE_AFTER = timedelta(minutes=10)


class Release(models.Model):
    """One signed release: the exact document that the signature covers, for ever."""

    revision = models.BigIntegerField(primary_key=True)
    document = models.TextField(help_text="Canonical JSON (RFC 8785), byte for byte what was signed")
    digest = models.CharField(max_length=64)
    key_id = models.CharField(max_length=16)
    signature = models.CharField(max_length=100)
    reason = models.CharField(max_length=300)
    actor = models.CharField(max_length=150)
    clicked_at = models.DateTimeField(help_text="When the act that led to this release reached the console")
    restores = models.BigIntegerField(null=True, blank=True, help_text="The revision that this one returns to")
    # Beside the document, which is signed: how it went is nobody's to sign.
    traceparent = models.CharField(
        max_length=TRACEPARENT_LENGTH, blank=True, default="", db_default="", help_text="The trace that it was cut in"
    )

    class Meta:
        ordering: ClassVar = ["-revision"]
        permissions: ClassVar = [("roll_back_release", "Can return to an earlier release")]
        triggers: ClassVar = [append_only()]

    def __str__(self) -> str:
        return f"r{self.revision}"

    def get_absolute_url(self) -> str:
        return reverse("release", args=[self.revision])

    @property
    def audit_name(self) -> str:
        return f"release:{self.revision}"

    @cached_property
    def content(self) -> dict[str, Any]:
        """The document, parsed."""
        document = self.document  # fetched first, where it was deferred
        with collector_paused():
            parsed: dict[str, Any] = orjson.loads(document)
        return parsed

    def digest_of_sections(self, names: Iterable[str]) -> str:
        """SHA-256 in hex of these sections of the document, of which nothing is kept; equal ones have the same."""
        document = self.document
        with collector_paused():
            sections = orjson.loads(document)["sections"]
            chosen = orjson.dumps({name: sections.get(name) for name in names}, option=orjson.OPT_SORT_KEYS)
            del sections  # before the collector looks through it
        return hashlib.sha256(chosen).hexdigest()

    def envelope(self) -> Envelope:
        """What workers receive and verify."""
        return Envelope(document=self.document, digest=self.digest, key_id=self.key_id, signature=self.signature)


@compiled()
def _newest() -> models.QuerySet[Release]:
    return Release.objects.defer("document")[:1]


def newest_release() -> Release | None:
    """The current release, whose document is read when it is asked for; None before the first is cut. One query."""
    return _newest.first()


class TrustStatement(models.Model):
    """What was signed about the keys that releases are signed with, as every release since carries it."""

    serial = models.BigIntegerField(primary_key=True)
    document = models.TextField(help_text="Canonical JSON (RFC 8785), byte for byte what was signed")
    digest = models.CharField(max_length=64)
    key_id = models.CharField(max_length=16)
    signature = models.CharField(max_length=100)
    actor = models.CharField(max_length=150)
    at = models.DateTimeField()
    after_revision = models.BigIntegerField(help_text="The release before the first one that carries it; 0: none")

    class Meta:
        ordering: ClassVar = ["serial"]
        triggers: ClassVar = [append_only()]

    def __str__(self) -> str:
        return f"statement {self.serial} about signing keys"

    def envelope(self) -> Envelope:
        """What hosts keep and verify."""
        return Envelope(document=self.document, digest=self.digest, key_id=self.key_id, signature=self.signature)


class Convergence(StrEnum):
    """How a worker stands to the current release."""

    IN_SYNC = "in sync"
    BEHIND = "behind"
    REFUSED = "refused"
    SILENT = "silent"
    STOPPED = "stopped"


def standing_to(current: Release | None, *, now: datetime) -> Case:
    """What `Worker.convergence` says of a worker's row, as an expression."""
    return standing_by(current.digest if current else "", is_any=current is None, now=now)


def standing_by(digest: str, *, is_any: bool, now: datetime) -> Case:
    """As `standing_to`; `is_any`: there is no release, so that whatever a worker serves is it."""
    return Case(
        When(status="stopped", then=Value(Convergence.STOPPED.value)),
        When(last_seen_at__lte=now - SILENT_AFTER, then=Value(Convergence.SILENT.value)),
        When(Q(pk=F("pk")) if is_any else Q(digest=digest), then=Value(Convergence.IN_SYNC.value)),
        When(refused_digest=digest, then=Value(Convergence.REFUSED.value)),
        default=Value(Convergence.BEHIND.value),
    )


class WorkerQuerySet(models.QuerySet["Worker"]):
    def gateways(self) -> "WorkerQuerySet":
        """The processes that serve traffic; agents only carry releases to them."""
        return self.filter(kind="gateway")

    def expected(self, now: datetime) -> "WorkerQuerySet":
        """Gateways that count towards convergence: not stopped on purpose, and heard of lately."""
        return self.gateways().exclude(status="stopped").filter(last_seen_at__gt=now - GONE_AFTER)


class Worker(models.Model):
    """One data-plane process, as it last described itself."""

    name = models.CharField(max_length=120, primary_key=True)
    kind = models.CharField(max_length=20)
    host = models.CharField(max_length=100)
    region = models.CharField(max_length=100, blank=True, help_text="Of a gateway; empty: it tells of none")
    pid = models.IntegerField()
    boot = models.CharField(max_length=32)
    sequence = models.BigIntegerField(default=0, help_text="Of the last report that was taken in, per boot")
    status = models.CharField(max_length=20)
    revision = models.BigIntegerField(null=True, blank=True)
    digest = models.CharField(max_length=64, blank=True)
    in_flight = models.IntegerField(default=0)
    started_at = models.DateTimeField()
    last_seen_at = models.DateTimeField()
    refused_revision = models.BigIntegerField(null=True, blank=True)
    refused_digest = models.CharField(max_length=64, blank=True)
    refused_reason = models.TextField(blank=True)

    objects = WorkerQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["name"]

    def __str__(self) -> str:
        return self.name

    def convergence(self, current: Release | None, *, now: datetime) -> Convergence:
        """How this worker stands to `current`; its digest decides, since a revision alone could be forged."""
        if self.status == "stopped":
            return Convergence.STOPPED
        if self.last_seen_at <= now - SILENT_AFTER:
            return Convergence.SILENT
        if current is None or self.digest == current.digest:
            return Convergence.IN_SYNC
        if self.refused_digest == current.digest:
            return Convergence.REFUSED
        return Convergence.BEHIND


def worker_counts(current: Release | None, *, now: datetime) -> dict[Convergence, int]:
    """How many of the expected stand how to `current`; one query, which gives a few rows however many there are."""
    digest = current.digest if current else ""
    return {Convergence(name): count for name, count in _counts(current is None, digest=digest, now=now)}


@compiled(digest=models.CharField(), now=models.DateTimeField())
def _counts(is_any: bool, *, digest: str, now: datetime) -> models.QuerySet[Worker, tuple[str, int]]:
    standing = standing_by(digest, is_any=is_any, now=now)
    groups = Worker.objects.expected(now).annotate(standing=standing).order_by().values_list("standing")
    return groups.annotate(count=Count("pk"))


class Ack(models.Model):
    """One worker's verdict on one release, once per boot."""

    worker = models.CharField(max_length=120)
    boot = models.CharField(max_length=32)
    revision = models.BigIntegerField()
    digest = models.CharField(max_length=64)
    verdict = models.CharField(max_length=4, choices=[("ack", "ACK"), ("nack", "NACK")])
    reason = models.TextField(blank=True)
    at = models.DateTimeField()
    latency_ms = models.FloatField(
        null=True,
        help_text="From the click to the worker's verdict, the two clocks trusted to agree; null for a worker that "
        "started after the click, since it was not there to be reached",
    )

    class Meta:
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["worker", "boot", "revision", "digest", "verdict"], name="one_verdict")
        ]
        indexes: ClassVar = [
            models.Index(fields=["revision", "verdict"]),
            # Drills ask who took anything up within their few minutes.
            models.Index(fields=["at"], name="acks_by_time"),
        ]
        triggers: ClassVar = [append_only()]

    def __str__(self) -> str:
        return f"{self.worker} {self.verdict} r{self.revision}"


class Reach(models.Model):
    """How one release reached the gateways, once a later one had long taken its place: see `propagation.settle`.

    Kept, because its ACKs are as many as there are processes, and a list of releases would read them all.
    """

    release = models.OneToOneField(Release, primary_key=True, on_delete=models.PROTECT, related_name="reach")
    acked = models.IntegerField()
    refused = models.IntegerField()
    reached = models.IntegerField()
    p50_ms = models.FloatField(null=True)
    p99_ms = models.FloatField(null=True)
    last_ms = models.FloatField(null=True)

    class Meta:
        verbose_name_plural = "reaches"

    def __str__(self) -> str:
        return f"reach of r{self.release_id}"
