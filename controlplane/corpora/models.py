"""What is known: documents by their newest revision, how they are made searchable, and what is not searchable yet.

The tables' names are in `dataplane.retrieval.tables`, by which gateways read them. What people decided about a corpus
is a versioned document for all of them; what on-call holds, and which namespace serves, stands in its row.
"""

from datetime import datetime
from typing import ClassVar, Final

from django.db import models
from django.db.models import Q
from django.urls import reverse

from controlplane.corpora.records import CorpusMinute as CorpusMinute
from controlplane.corpora.records import Dump as Dump
from controlplane.corpora.records import GhostSample as GhostSample
from controlplane.corpora.records import PromiseBreach as PromiseBreach
from controlplane.corpora.records import Reconciliation as Reconciliation
from controlplane.corpora.records import RecoveryDrill as RecoveryDrill
from controlplane.corpora.records import RecoveryRate as RecoveryRate
from controlplane.versioned.models import DocumentActivation, DocumentVersion
from dataplane.retrieval.policy import MAX_SLUG_CHARACTERS, Corpora
from dataplane.retrieval.tables import CORPORA, DOCUMENTS, NAMESPACES, PENDING, SOURCES, Snapshot, chunks_table

MAX_KEY_CHARACTERS: Final = 500


class CorpusPolicy(DocumentVersion):
    """One immutable version of what is promised of all corpora.

    `document` has the shape of a release's section 'corpora'; `dataplane.retrieval.policy.Corpora.parse` is its
    validator.
    """

    noun = "corpus policy"
    short_noun = "policy"

    class Meta(DocumentVersion.Meta):
        verbose_name_plural = "corpus policies"
        permissions: ClassVar = [
            ("propose_corpora", "Can propose another corpus policy"),
            ("sign_off_corpora", "Can sign off a corpus policy"),
            ("break_glass_corpora", "Can bypass sign-offs on corpora in an incident"),
            ("review_break_glass_corpora", "Can review a bypass on corpora"),
        ]

    def get_absolute_url(self) -> str:
        return reverse("corpus-policy", args=[self.number])

    def parsed(self) -> Corpora:
        """The policy as workers hold it, without knowing which banners are signed."""
        return Corpora.parse(self.document, path="$")


class CorpusPolicyActivation(DocumentActivation):
    """Which corpus policy is in force since when."""

    version = models.ForeignKey(CorpusPolicy, on_delete=models.PROTECT, related_name="activations")


class Corpus(models.Model):
    """One corpus, made when a policy that names it comes into force; it outlives that policy.

    Nobody is served from anything but `live_namespace`, or the snapshot that on-call pinned.
    """

    slug = models.SlugField(max_length=MAX_SLUG_CHARACTERS, unique=True)
    created_at = models.DateTimeField()
    live_namespace = models.ForeignKey(
        "corpora.Namespace", null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    switched_at = models.DateTimeField(null=True, blank=True, help_text="When the namespace began to serve")
    paused_at = models.DateTimeField(null=True, blank=True, help_text="Set: its queries are refused")
    paused_by = models.CharField(max_length=150, blank=True)
    paused_reason = models.TextField(blank=True)
    pinned_namespace = models.ForeignKey(
        "corpora.Namespace", null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    pinned_rev = models.BigIntegerField(null=True, blank=True, help_text="Set: everybody reads this index revision")
    pinned_at = models.DateTimeField(null=True, blank=True)
    pinned_by = models.CharField(max_length=150, blank=True)
    pinned_reason = models.TextField(blank=True)
    low_water = models.BigIntegerField(
        default=0, help_text="Where revisions are global: a change at or below it to a key that is unknown is a replay"
    )

    class Meta:
        db_table = CORPORA
        ordering: ClassVar = ["slug"]
        verbose_name_plural = "corpora"
        permissions: ClassVar = [
            ("feed_corpus", "Can hand in changes of a corpus"),
            ("operate_corpus", "Can pause, pin, reconcile, rebuild and switch a corpus"),
            ("drill_corpus", "Can dump a corpus and run recovery drills"),
        ]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(pinned_rev__isnull=True, pinned_namespace__isnull=True, pinned_at__isnull=True)
                | Q(pinned_rev__isnull=False, pinned_namespace__isnull=False, pinned_at__isnull=False),
                name="corpus_pin_is_whole",
            ),
        ]

    def __str__(self) -> str:
        return self.slug

    def get_absolute_url(self) -> str:
        return reverse("corpus", args=[self.slug])

    @property
    def audit_name(self) -> str:
        return f"corpus:{self.slug}"

    @property
    def pinned(self) -> Snapshot | None:
        """The snapshot that everybody reads; None: the newest state."""
        if self.pinned_namespace_id is None or self.pinned_rev is None:
            return None
        return Snapshot(self.pinned_namespace_id, self.pinned_rev)


class NamespaceState(models.TextChoices):
    """Of a namespace. Changes are indexed into every one that is not dropped."""

    BUILDING = "building", "Being built"
    READY = "ready", "Ready to serve"
    DROPPED = "dropped", "Dropped"


class Purpose(models.TextChoices):
    """What a namespace is for; a drill's never serves."""

    SERVING = "serving", "Serving"
    DRILL = "drill", "Drill"


NAMESPACE_TRANSITIONS: Final = {
    (NamespaceState.BUILDING, "built"): NamespaceState.READY,
    (NamespaceState.BUILDING, "dropped"): NamespaceState.DROPPED,
    (NamespaceState.READY, "dropped"): NamespaceState.DROPPED,
}


class Namespace(models.Model):
    """One way to make a corpus searchable: see `tables`. Its row stays when its chunks are dropped."""

    corpus = models.ForeignKey(Corpus, on_delete=models.PROTECT, related_name="namespaces")
    number = models.PositiveIntegerField(help_text="Counts those of its corpus")
    purpose = models.CharField(max_length=10, choices=Purpose, default=Purpose.SERVING)
    state = models.CharField(max_length=10, choices=NamespaceState, default=NamespaceState.BUILDING)
    store = models.CharField(max_length=20, help_text="Where its vectors are: pgvector or qdrant")
    model = models.CharField(max_length=200, help_text="That embedded it, as lanes call it")
    dimensions = models.PositiveIntegerField()
    chunking = models.JSONField(help_text='Shape: {"version", "max_characters", "overlap_characters"}')
    index_rev = models.BigIntegerField(default=0, help_text="Counts batches of changes that became searchable")
    kept_rev = models.BigIntegerField(default=0, help_text="Snapshots before it are gone")
    is_indexed = models.BooleanField(default=False, help_text="Whether its approximate index is built")
    is_filled_apart = models.BooleanField(
        default=False, db_default=False, help_text="Whoever made it fills it and says when it is ready; not indexers"
    )
    build_seconds = models.FloatField(
        default=0, db_default=0, help_text="That batches took while it was being built, whoever indexed them"
    )
    build_chunks = models.BigIntegerField(default=0, db_default=0, help_text="That these batches made")
    build_tokens = models.BigIntegerField(default=0, db_default=0, help_text="That were embedded for them")
    build_cost_micros = models.BigIntegerField(default=0, db_default=0)
    created_at = models.DateTimeField()
    built_at = models.DateTimeField(null=True, blank=True)
    dropped_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = NAMESPACES
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["corpus", "number"], name="one_namespace_per_number"),
            models.CheckConstraint(
                condition=Q(state=NamespaceState.DROPPED, dropped_at__isnull=False)
                | (~Q(state=NamespaceState.DROPPED) & Q(dropped_at__isnull=True)),
                name="namespace_is_dropped_at",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.corpus.slug} namespace {self.number}"

    @property
    def table(self) -> str:
        """Of its chunks."""
        return chunks_table(self.pk)

    @property
    def snapshot(self) -> Snapshot:
        """Its newest state."""
        return Snapshot(self.pk, self.index_rev)


class Document(models.Model):
    """The head of one document: its newest accepted revision, a tombstone too. `operations` of accepting write it."""

    # Its index would be the first column of `one_head_per_document` once more.
    corpus = models.ForeignKey(Corpus, on_delete=models.PROTECT, related_name="documents", db_index=False)
    source_key = models.CharField(max_length=MAX_KEY_CHARACTERS)
    source_rev = models.BigIntegerField(help_text="Monotone per key, as its source counts")
    is_deleted = models.BooleanField(help_text="A tombstone: its words are gone, and it wins ties")
    content = models.TextField(blank=True)
    metadata = models.JSONField(default=dict, help_text="Cited beside it, such as title and url")
    content_sha256 = models.CharField(max_length=64, blank=True, help_text="Of content and metadata; empty if deleted")
    event_at = models.DateTimeField(help_text="When it happened at the source")
    accepted_at = models.DateTimeField()
    seq = models.BigIntegerField(unique=True, help_text="Counts accepted changes of all corpora: consistency tokens")

    class Meta:
        db_table = DOCUMENTS
        constraints: ClassVar = [models.UniqueConstraint(fields=["corpus", "source_key"], name="one_head_per_document")]
        # To count them: a document is wide.
        indexes: ClassVar = [models.Index(fields=["corpus"], condition=Q(is_deleted=False), name="documents_living")]

    def __str__(self) -> str:
        return f"{self.source_key} r{self.source_rev}"


class Pending(models.Model):
    """A document whose newest revision a namespace has not made searchable yet; there is one row however often it
    changed.

    The row goes with the transaction that makes it searchable, or that deletes the document.
    """

    namespace = models.ForeignKey(Namespace, on_delete=models.CASCADE, related_name="pending")
    document = models.ForeignKey(Document, on_delete=models.CASCADE, related_name="pending")
    first_seq = models.BigIntegerField(help_text="Of the oldest change that is not searchable")
    last_seq = models.BigIntegerField(help_text="Of the newest")
    since = models.DateTimeField(help_text="When the oldest of them happened at the source")
    due_at = models.DateTimeField(help_text="When it may be taken")
    owner = models.CharField(max_length=200, blank=True)
    leased_until = models.DateTimeField(null=True, blank=True)
    failures = models.PositiveIntegerField(default=0)
    is_poisoned = models.BooleanField(default=False, help_text="Nothing could index it: its dead letter tells why")

    class Meta:
        db_table = PENDING
        constraints: ClassVar = [models.UniqueConstraint(fields=["namespace", "document"], name="one_pending_row")]
        indexes: ClassVar = [
            # With the id, since a whole corpus may be due at one moment, which each batch would sort.
            models.Index(fields=["namespace", "due_at", "id"], condition=Q(is_poisoned=False), name="pending_in_order"),
            models.Index(fields=["namespace", "since"], condition=Q(is_poisoned=False), name="pending_oldest"),
            models.Index(fields=["namespace", "first_seq"], name="pending_by_seq"),
        ]

    def __str__(self) -> str:
        return f"{self.document_id} in {self.namespace_id}"


class Source(models.Model):
    """How far a source's outbox was read. What nobody has looked for since `checked_at` may be as old as that."""

    corpus = models.ForeignKey(Corpus, on_delete=models.PROTECT, related_name="sources")
    name = models.SlugField(max_length=50)
    checked_at = models.DateTimeField(help_text="When its outbox was last looked at")
    oldest_at = models.DateTimeField(null=True, blank=True, help_text="Of the oldest change seen there and not taken")
    waiting = models.BigIntegerField(default=0, help_text="Changes seen there and not taken")
    error = models.CharField(max_length=300, blank=True, help_text="Why it cannot be read; empty: it can")

    class Meta:
        db_table = SOURCES
        constraints: ClassVar = [models.UniqueConstraint(fields=["corpus", "name"], name="one_source_per_name")]

    def __str__(self) -> str:
        return f"{self.corpus.slug}/{self.name}"

    def lag_since(self) -> datetime:
        """Since when a change may stand there that nobody took."""
        return self.checked_at if self.oldest_at is None else min(self.oldest_at, self.checked_at)


class Sandbox(models.Model):
    """Where a drill takes place: what is lost, what comes back, and which of the two is searched. It is to a drill what
    its row is to a corpus.

    Of a live drill `lost` is what serves, which nobody harms; otherwise both are the drill's own and go with it.
    """

    drill = models.OneToOneField(RecoveryDrill, on_delete=models.PROTECT, related_name="sandbox")
    lost = models.ForeignKey(Namespace, on_delete=models.PROTECT, related_name="+")
    recovered = models.ForeignKey(Namespace, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    live_namespace = models.ForeignKey(Namespace, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    facts = models.JSONField(default=dict, help_text="What was found on the way: see `drilling`")
    cleared_at = models.DateTimeField(null=True, blank=True, help_text="Set: nothing of it is left")

    class Meta:
        verbose_name_plural = "sandboxes"

    def __str__(self) -> str:
        return f"sandbox of {self.drill_id}"
