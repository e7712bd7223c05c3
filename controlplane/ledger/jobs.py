"""Jobs: requests that callers handed in and come back for.

The data plane writes this table by itself (`dataplane/stores/jobs_sql.py`): it is the record of truth, whatever carries
word of a job. Here it is read.
"""

from collections.abc import Iterable
from typing import ClassVar, Final

import pgtrigger
from django.db import models
from django.db.models import Q, Value

from controlplane.ledger.newest import NumberedQuerySet
from dataplane.destinations import TRY_SECONDS, DeliveryState
from dataplane.idempotency import MAX_KEY_CHARACTERS
from dataplane.jobs import ID_PREFIX, OVER, State
from dataplane.tracing import TRACEPARENT_LENGTH

STATES: Final = tuple(state.value for state in State)
_QUEUED: Final = Q(state=State.QUEUED.value)
_RUNNING: Final = Q(state=State.RUNNING.value)
_OVER: Final = tuple(sorted(state.value for state in OVER))
_MAKE_DUE: Final = f"""
    UPDATE ledger_delivery SET
        state = CASE WHEN NEW.state = '{State.CANCELLED}' THEN '{DeliveryState.CANCELLED}' ELSE state END,
        next_at = CASE WHEN NEW.state = '{State.CANCELLED}' THEN NULL ELSE clock_timestamp() END,
        give_up_at = clock_timestamp() + interval '{TRY_SECONDS} seconds'
    WHERE job_id = NEW.id AND state = '{DeliveryState.WAITING}';
    RETURN NULL;
"""  # noqa: S608 - every name in it is a constant of ours
_OVER_IN_SQL: Final = ", ".join(f"'{state}'" for state in _OVER)


class JobQuerySet(NumberedQuerySet["Job"]):
    """Reads for people. Every filter has an index whose order is newest first."""

    def without_words(self) -> "JobQuerySet":
        """Leave out what is the caller's: a request and its answer are kept to be given, not to be looked at."""
        return self.defer("request", "response", "response_headers", "user", "fields", "key", "causes")

    def matching(
        self, *, job: str = "", tenants: Iterable[str] | None = None, state: str = "", delivery: str = ""
    ) -> "JobQuerySet":
        """Jobs that fit everything given.

        Args:
            job: The whole id, as callers know it or as it is stored.
            tenants: Slugs that the reader may see; None means all.
            delivery: How it stands with sending its answer.
        """
        rows = self.fitting(tenants, state=state)
        if delivery:
            rows = rows.filter(delivery__state=delivery)
        return rows.called(job, prefix=ID_PREFIX) if job else rows


class Job(models.Model):
    """One job of one tenant. Its words are deleted some time after it is over; the rest stays."""

    id = models.UUIDField(primary_key=True)
    tenant = models.CharField(max_length=50)
    key_id = models.CharField(max_length=64, help_text="The API key that it was handed in with")
    user = models.TextField(blank=True, help_text="As the caller named it; empty for nobody, and once forgotten")
    user_hash = models.CharField(
        max_length=64, blank=True, help_text="SHA-256 of the user's id; empty for nobody, and once erased"
    )
    key = models.CharField(max_length=MAX_KEY_CHARACTERS, blank=True, help_text="Idempotency key of the submission")
    fingerprint = models.CharField(max_length=64, help_text="SHA-256 of the submission's fields; empty once erased")
    fields = models.JSONField(default=dict, help_text="SHA-256 of each field, by its name")
    endpoint = models.CharField(max_length=40)
    request = models.BinaryField(null=True, blank=True, help_text="JSON; null once forgotten")
    request_bytes = models.BigIntegerField()
    state = models.CharField(max_length=20)
    tag = models.BigIntegerField(help_text="Jobs are served by tag, then by id")
    epoch = models.BigIntegerField(default=0, help_text="Counts takings; what an earlier one writes is refused")
    owner = models.CharField(max_length=200, blank=True, help_text="The runner that has it, or had")
    lease_until = models.DateTimeField(null=True, blank=True, help_text="When a running one's owner is held dead")
    created_at = models.DateTimeField()
    not_before = models.DateTimeField(help_text="When a queued one may be taken")
    sent_until = models.DateTimeField(null=True, blank=True, help_text="When word of a queued one counts as lost")
    expires_at = models.DateTimeField()
    taken_at = models.DateTimeField(null=True, blank=True, help_text="When it was taken last")
    ended_at = models.DateTimeField(null=True, blank=True)
    cancel_asked = models.BooleanField(default=False)
    failures = models.IntegerField(default=0, help_text="Attempts that a provider may be paid for, and brought nothing")
    request_id = models.CharField(max_length=64, blank=True, help_text="Of the last attempt that was answered")
    status = models.IntegerField(default=0, help_text="HTTP status of the last answer; 0 before there is one")
    response_headers = models.JSONField(default=list, help_text='[["name", "value"]]')
    response = models.BinaryField(null=True, blank=True, help_text="As it came; null without one, or once forgotten")
    response_bytes = models.BigIntegerField(default=0)
    usage = models.JSONField(null=True, blank=True)
    error = models.JSONField(null=True, blank=True, help_text="The envelope's member; null once forgotten")
    error_code = models.CharField(max_length=60, blank=True, help_text="Of the last attempt that brought nothing")
    forgotten_at = models.DateTimeField(null=True, blank=True, help_text="When its words were deleted")
    erased_at = models.DateTimeField(null=True, blank=True, help_text="When they were, as those of its user")
    # With defaults in the database too: a gateway that is older than this still hands in jobs.
    causes = models.JSONField(
        default=list,
        db_default=Value([], output_field=models.JSONField()),
        help_text='Why its last attempts came to nothing: [{"at", "owner", "code", "message", "status"}]',
    )
    lapses = models.IntegerField(default=0, db_default=0, help_text="How often in a row whoever had it died")
    has_tools = models.BooleanField(default=False, db_default=False)
    redriven_from = models.UUIDField(null=True, blank=True, help_text="The dead letter whose work this is")
    surface = models.TextField(blank=True, db_default=Value(""), help_text="Whose rung 4 put it off; empty: nobody did")
    traceparent = models.CharField(
        max_length=TRACEPARENT_LENGTH, blank=True, default="", db_default="", help_text="The trace that handed it in"
    )

    objects = JobQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["tenant", "user_hash", "key"], condition=~Q(key=""), name="one_job_per_key"
            ),
            models.CheckConstraint(condition=Q(state__in=STATES), name="job_state_is_known"),
            models.CheckConstraint(
                condition=Q(state__in=_OVER, ended_at__isnull=False) | (~Q(state__in=_OVER) & Q(ended_at__isnull=True)),
                name="job_ends_when_it_is_over",
            ),
            models.CheckConstraint(
                condition=(_RUNNING & Q(lease_until__isnull=False)) | (~_RUNNING & Q(lease_until__isnull=True)),
                name="job_is_leased_while_it_runs",
            ),
            models.CheckConstraint(
                condition=Q(erased_at__isnull=True)
                | Q(request__isnull=True, response__isnull=True, error__isnull=True, user="", user_hash="", key=""),
                name="erased_job_has_no_words",
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["tag", "id"], condition=_QUEUED, name="jobs_in_order"),
            models.Index(fields=["tenant", "tag"], condition=_QUEUED | Q(epoch__gt=0), name="jobs_of_tenant_in_order"),
            models.Index(fields=["tag"], condition=Q(epoch__gt=0), name="jobs_taken"),
            models.Index(fields=["tenant"], condition=_QUEUED, name="jobs_waiting"),
            models.Index(fields=["sent_until"], condition=_QUEUED, name="jobs_sent"),
            models.Index(fields=["expires_at"], condition=_QUEUED, name="jobs_expiry"),
            models.Index(fields=["lease_until"], condition=_RUNNING, name="jobs_leased"),
            models.Index(fields=["ended_at", "state"], name="jobs_ended"),
            models.Index(fields=["ended_at"], condition=Q(forgotten_at__isnull=True), name="jobs_with_words"),
            models.Index(fields=["tenant", "-id"], name="jobs_of_tenant"),
            models.Index(fields=["state", "-id"], name="jobs_by_state"),
            models.Index(fields=["tenant", "user_hash"], condition=~Q(user_hash=""), name="jobs_of_subject"),
            models.Index(fields=["surface", "created_at"], condition=_QUEUED & ~Q(surface=""), name="jobs_put_off"),
        ]
        triggers: ClassVar = [
            # What is over stays as it ended, and nobody counts takings backwards, whoever writes.
            pgtrigger.Protect(
                name="end_is_fixed",
                operation=pgtrigger.Update,
                condition=pgtrigger.Condition(
                    "NEW.epoch < OLD.epoch OR NEW.tag <> OLD.tag OR NEW.tenant <> OLD.tenant"
                    f" OR (OLD.state IN ({_OVER_IN_SQL})"
                    " AND ROW(OLD.state, OLD.epoch, OLD.ended_at, OLD.status, OLD.usage)"
                    " IS DISTINCT FROM ROW(NEW.state, NEW.epoch, NEW.ended_at, NEW.status, NEW.usage))"
                ),
            ),
            # However it ends. What its caller cancelled is sent to nobody.
            pgtrigger.Trigger(
                name="end_makes_delivery_due",
                when=pgtrigger.After,
                operation=pgtrigger.Update,
                condition=pgtrigger.Condition("OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL"),
                func=_MAKE_DUE,
            ),
        ]

    def __str__(self) -> str:
        return f"{self.tenant} {self.name} {self.state}"

    @property
    def name(self) -> str:
        """Its id as callers know it."""
        return f"{ID_PREFIX}{self.id.hex}"
