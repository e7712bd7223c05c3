"""Dead letters: asynchronous work that failed for good, one table for every kind of it.

Whoever ends the work writes its letter in the same transaction: the data plane for jobs (`jobs_sql.py`), `operations`
for all else. What counts them up, and what guards them, is in the database (`triggers.py`).
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, ClassVar, Final
from uuid import UUID

from django.db import connection, models
from django.db.models import F, Q

from controlplane.deadletters import triggers
from controlplane.deadletters.erasures import Erasure as Erasure
from controlplane.deadletters.plans import RedriveItem as RedriveItem
from controlplane.deadletters.plans import RedrivePlan as RedrivePlan
from dataplane.deadletters import Category, PayloadState, State
from dataplane.idempotency import MAX_KEY_CHARACTERS

STATES: Final = tuple(state.value for state in State)
CATEGORIES: Final = tuple(category.value for category in Category)
_OPEN: Final = Q(state=State.OPEN.value)
_PENDING: Final = Q(payload_state=PayloadState.PENDING.value)
_STORED: Final = Q(payload_state=PayloadState.STORED.value)
_PURGED: Final = Q(payload_state=PayloadState.PURGED.value)
_HAS_BODY: Final = Q(payload_body__isnull=False)
_HAS_POINTER: Final = ~Q(payload_name="") & ~Q(payload_key="")
_NO_POINTER: Final = Q(payload_name="", payload_key="")

# How many stood open at each moment: those that do now, less what came since, more what went since. Each change is
# added to the last moment before it, and counts for that one and all before it.
_DEPTHS: Final = f"""
WITH moments AS (
    SELECT at, row_number() OVER (ORDER BY at) AS place
    FROM generate_series(%(since)s::timestamptz, %(until)s::timestamptz, make_interval(secs => %(step)s)) AS at
), changes AS (
    SELECT created_at AS at, 1 AS more FROM {triggers.LETTERS}
    WHERE created_at > %(since)s AND (%(everybody)s OR tenant = ANY(%(tenants)s))
    UNION ALL SELECT closed_at, -1 FROM {triggers.LETTERS}
    WHERE closed_at > %(since)s AND (%(everybody)s OR tenant = ANY(%(tenants)s))
), steps AS (
    SELECT width_bucket(at - interval '1 microsecond', (SELECT array_agg(at ORDER BY at) FROM moments)) AS place,
        sum(more) AS more
    FROM changes GROUP BY 1
)
SELECT m.at, (
    SELECT coalesce(sum(open), 0) FROM {triggers.GROUP_TENANTS} WHERE %(everybody)s OR tenant = ANY(%(tenants)s)
) - coalesce(sum(s.more) OVER (ORDER BY m.at DESC), 0) AS depth
FROM moments AS m LEFT JOIN steps AS s USING (place) ORDER BY m.at
"""  # noqa: S608 - names of ours; the values are parameters


class DeadLetterQuerySet(models.QuerySet["DeadLetter"]):
    """Reads for people. Every filter has an index whose order is newest first."""

    def without_words(self) -> "DeadLetterQuerySet":
        """Leave out what may be anybody's words, and what opens them."""
        return self.defer("payload_body", "payload_key", "causes")

    def newest(self) -> "DeadLetterQuerySet":
        return self.order_by("-id")

    def matching(
        self, *, tenants: Iterable[str] | None = None, state: str = "", fingerprint: str = "", kind: str = ""
    ) -> "DeadLetterQuerySet":
        """Letters that fit everything given. `tenants` are the slugs that the reader may see; None means all."""
        rows = self
        if tenants is not None:
            rows = rows.filter(tenant__in=list(tenants))
        given = {"state": state, "fingerprint": fingerprint, "kind": kind}
        return rows.filter(**{name: value for name, value in given.items() if value})

    def before(self, letter: UUID) -> "DeadLetterQuerySet":
        """The rows after this one when sorted newest first."""
        return self.filter(pk__lt=letter)

    def open(self) -> "DeadLetterQuerySet":
        return self.filter(_OPEN)

    def oldest_open(self) -> "DeadLetter | None":
        """The letter that has been open longest."""
        return self.open().without_words().order_by("created_at").first()

    def redrivable(self) -> "DeadLetterQuerySet":
        """Those whose work could be handed in again."""
        return self.open().exclude(_PURGED)


class DeadLetterManager(models.Manager.from_queryset(DeadLetterQuerySet)):  # type: ignore[misc]  # made on the spot
    def depths(
        self, *, since: datetime, until: datetime, step_seconds: float, tenants: Iterable[str] | None = None
    ) -> list[tuple[datetime, int]]:
        """How many letters were open at moments so far apart, of these tenants (None: of all). Reads only what came or
        went since then, by index.
        """
        slugs = None if tenants is None else list(tenants)
        parameters: dict[str, Any] = {"since": since, "until": until, "step": step_seconds, "everybody": slugs is None}
        with connection.cursor() as cursor:
            cursor.execute(_DEPTHS, parameters | {"tenants": slugs or []})
            return [(at, int(depth)) for at, depth in cursor.fetchall()]


class DeadLetter(models.Model):
    """One piece of work that failed for good. The row stays; its payload, and whatever else may be anybody's words,
    goes when its time is over.
    """

    id = models.UUIDField(primary_key=True, help_text="Sorts by time")
    kind = models.SlugField(max_length=40, db_index=False, help_text="Of work: job, push, webhook, eval …")
    name = models.CharField(max_length=120, help_text="Of the task or endpoint")
    tenant = models.CharField(max_length=50, blank=True, help_text="Empty for work of our own")
    user_hash = models.CharField(max_length=64, blank=True, help_text="SHA-256 of the user's id; empty once purged")
    key = models.CharField(max_length=MAX_KEY_CHARACTERS, blank=True, help_text="Idempotency key of the work")
    work_id = models.UUIDField(help_text="Of the job or task")
    state = models.CharField(max_length=20, default=State.OPEN.value)
    causes = models.JSONField(
        default=list, help_text='Its last attempts: [{"at", "owner", "code", "message", "status"}]; empty once purged'
    )
    attempts = models.BigIntegerField(default=0, help_text="How often somebody took the work")
    category = models.CharField(max_length=20)
    code = models.CharField(max_length=60, help_text="Of the error, or the name of the exception")
    summary = models.CharField(max_length=240, blank=True, help_text="The message without numbers, ids and quotations")
    fingerprint = models.CharField(max_length=32, help_text="What letters that failed alike have in common")
    release_revision = models.BigIntegerField(null=True, blank=True, help_text="In force at the last answer")
    prompt = models.CharField(max_length=200, blank=True, help_text="slug@version in force at the last answer")
    lane = models.CharField(max_length=200, blank=True, help_text="That was tried last")
    has_tools = models.BooleanField(default=False, help_text="Doing it twice may have effects")
    created_at = models.DateTimeField(help_text="When the work failed for good")
    closed_at = models.DateTimeField(null=True, blank=True, help_text="When it was left open no longer")
    payload_state = models.CharField(max_length=10, default=PayloadState.PENDING.value)
    payload_body = models.BinaryField(null=True, blank=True, help_text="Until it is in the store")
    payload_name = models.CharField(max_length=200, blank=True, help_text="Of the object in the store")
    payload_key = models.CharField(max_length=200, blank=True, help_text="The object's key, wrapped")
    payload_bytes = models.BigIntegerField(default=0)
    payload_sha256 = models.CharField(max_length=64, blank=True, help_text="Of what the payload says; empty once gone")
    payload_expires_at = models.DateTimeField(help_text="When it is purged, unless it is held")
    hold_by = models.CharField(max_length=150, blank=True, help_text="Who keeps the payload from being purged")
    hold_reason = models.CharField(max_length=300, blank=True)
    hold_until = models.DateTimeField(null=True, blank=True, help_text="Null: until it is released")
    redriven_as = models.UUIDField(null=True, blank=True, help_text="The work that it was handed in again as")
    redriven_from = models.UUIDField(null=True, blank=True, help_text="The letter that this work came from")

    objects = DeadLetterManager()

    class Meta:
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["kind", "work_id"], name="one_letter_per_work"),
            models.CheckConstraint(condition=Q(state__in=STATES), name="letter_state_is_known"),
            models.CheckConstraint(condition=Q(category__in=CATEGORIES), name="letter_category_is_known"),
            models.CheckConstraint(
                condition=(_OPEN & Q(closed_at__isnull=True)) | (~_OPEN & Q(closed_at__isnull=False)),
                name="letter_is_open_or_closed",
            ),
            models.CheckConstraint(
                condition=(_PENDING & _HAS_BODY & _NO_POINTER)
                | (_STORED & ~_HAS_BODY & _HAS_POINTER)
                | (_PURGED & ~_HAS_BODY & _NO_POINTER & Q(payload_sha256="", user_hash="", key="", causes=[])),
                name="payload_is_in_one_place",
            ),
            models.CheckConstraint(condition=~_PURGED | ~Q(state=State.OPEN.value), name="open_letter_has_its_payload"),
            models.CheckConstraint(
                condition=Q(hold_by="", hold_reason="", hold_until__isnull=True)
                | (~Q(hold_by="") & ~Q(hold_reason="")),
                name="hold_says_who_and_why",
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["fingerprint", "-id"], name="letters_of_group"),
            models.Index(fields=["fingerprint", "lane"], name="letters_of_lane"),
            models.Index(fields=["tenant", "-id"], name="letters_of_tenant"),
            models.Index(fields=["state", "-id"], name="letters_by_state"),
            models.Index(fields=["kind", "-id"], name="letters_of_kind"),
            models.Index(fields=["created_at"], name="letters_by_time"),
            models.Index(fields=["closed_at"], condition=Q(closed_at__isnull=False), name="letters_closed"),
            models.Index(fields=["created_at"], condition=_OPEN, name="letters_open"),
            models.Index(fields=["id"], condition=_PENDING, name="letters_to_store"),
            models.Index(fields=["payload_expires_at"], condition=~_PURGED & Q(hold_by=""), name="letters_to_purge"),
            models.Index(fields=["hold_until"], condition=Q(hold_until__isnull=False), name="letters_held_until"),
            models.Index(fields=["tenant", "user_hash"], condition=~Q(user_hash=""), name="letters_of_subject"),
            models.Index(fields=["redriven_as"], condition=Q(redriven_as__isnull=False), name="letters_redriven"),
        ]
        triggers: ClassVar = [triggers.expires(), *triggers.counted(), *triggers.guards()]

    def __str__(self) -> str:
        return f"{self.kind} {self.name} {self.category} {self.state}"

    @property
    def audit_name(self) -> str:
        return f"dead-letter:{self.id.hex}"

    @property
    def is_held(self) -> bool:
        """Whether somebody keeps its payload from being purged."""
        return bool(self.hold_by)

    @property
    def last_cause(self) -> dict[str, Any]:
        """Why the last attempt came to nothing; empty once purged."""
        return self.causes[-1] if self.causes else {}


class Group(models.Model):
    """Letters that failed alike, counted by the database with each of them."""

    fingerprint = models.CharField(primary_key=True, max_length=32)
    kind = models.CharField(max_length=40)
    name = models.CharField(max_length=120)
    category = models.CharField(max_length=20)
    code = models.CharField(max_length=60)
    summary = models.CharField(max_length=240, blank=True)
    total = models.BigIntegerField()
    open = models.BigIntegerField()
    first_at = models.DateTimeField()
    last_at = models.DateTimeField()

    class Meta:
        ordering: ClassVar = ["-last_at"]
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(open__gte=0, open__lte=F("total")), name="group_counts_what_there_is"),
        ]
        indexes: ClassVar = [
            models.Index(fields=["-last_at"], name="groups_by_last"),
            models.Index(fields=["-open", "-last_at"], condition=Q(open__gt=0), name="groups_open"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.summary or self.code}"


class GroupTenant(models.Model):
    """The part of one tenant in a group: whom a failure touches; and all that who sees this tenant only may see."""

    pk = models.CompositePrimaryKey("fingerprint", "tenant")
    fingerprint = models.CharField(max_length=32)
    tenant = models.CharField(max_length=50, blank=True)
    total = models.BigIntegerField()
    open = models.BigIntegerField()
    first_at = models.DateTimeField()
    last_at = models.DateTimeField()

    class Meta:
        ordering: ClassVar = ["-last_at"]
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(open__gte=0, open__lte=F("total")), name="part_counts_what_there_is"),
        ]
        indexes: ClassVar = [models.Index(fields=["tenant", "-last_at"], name="parts_of_tenant")]

    def __str__(self) -> str:
        return f"{self.tenant}: {self.open} of {self.total} open in {self.fingerprint}"


class RetentionRule(models.Model):
    """For how long payloads are kept. The rule that says most of a letter counts: tenant and category, tenant,
    category, neither; where there is none, RETENTION_DAYS.
    """

    pk = models.CompositePrimaryKey("tenant", "category")
    tenant = models.CharField(max_length=50, blank=True, help_text="Empty: of every tenant without a rule")
    category = models.CharField(max_length=20, blank=True, help_text="Empty: of every category without a rule")
    days = models.PositiveIntegerField()
    reason = models.CharField(max_length=300)
    set_by = models.CharField(max_length=150)
    set_at = models.DateTimeField()

    class Meta:
        ordering: ClassVar = ["tenant", "category"]
        permissions: ClassVar = [("set_retention", "Can set for how long payloads of dead letters are kept")]
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(category__in=(*CATEGORIES, "")), name="rule_category_is_known"),
            models.CheckConstraint(condition=Q(days__lte=3650), name="rule_days_in_range"),
        ]

    def __str__(self) -> str:
        return f"{self.tenant or 'every tenant'}, {self.category or 'every category'}: {self.days} days"

    @property
    def audit_name(self) -> str:
        return f"retention:{self.tenant or '*'}/{self.category or '*'}"
