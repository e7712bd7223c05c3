"""Changes that wait for people, the people's words on them, and the debts of those who could not wait."""

from datetime import datetime
from typing import Any, ClassVar

import pgtrigger
from django.db import models
from django.db.models import F, Q

from controlplane.accounts.models import Operator
from controlplane.accounts.roles import Role
from controlplane.approvals.kinds import Kind, kind_of
from controlplane.audit.models import append_only


class ApprovalPolicy(models.Model):
    """One immutable version of the approval rules; see `policy.Rule` for the shape of a rule."""

    number = models.PositiveIntegerField(unique=True)
    rules = models.JSONField()
    digest = models.CharField(max_length=64)
    author = models.CharField(max_length=150)
    rationale = models.TextField()
    created_at = models.DateTimeField()

    class Meta:
        ordering: ClassVar = ["-number"]
        permissions: ClassVar = [
            ("propose_policy", "Can propose another approval policy"),
            ("sign_off_policy", "Can sign off an approval policy"),
        ]
        triggers: ClassVar = [append_only()]

    def __str__(self) -> str:
        return f"Approval policy {self.number}"

    @property
    def audit_name(self) -> str:
        return f"approval-policy:{self.number}"


class PolicyActivation(models.Model):
    """Which policy is in force since when; the newest row says which now."""

    policy = models.ForeignKey(ApprovalPolicy, on_delete=models.PROTECT, related_name="activations")
    at = models.DateTimeField()
    actor = models.CharField(max_length=150)
    reason = models.TextField()

    class Meta:
        ordering: ClassVar = ["-id"]
        triggers: ClassVar = [append_only()]

    def __str__(self) -> str:
        return f"{self.policy} since {self.at:%Y-%m-%d %H:%M}"


class ChangeState(models.TextChoices):
    OPEN = "open", "Open"
    APPLIED = "applied", "Applied"
    REJECTED = "rejected", "Rejected"
    WITHDRAWN = "withdrawn", "Withdrawn"


# "Approved" is not a state: it is worked out from the sign-offs each time it matters, so that it cannot be stale.
CHANGE_TRANSITIONS = frozenset(
    {
        (ChangeState.OPEN, ChangeState.APPLIED),
        (ChangeState.OPEN, ChangeState.REJECTED),
        (ChangeState.OPEN, ChangeState.WITHDRAWN),
    }
)


class ChangeRequestQuerySet(models.QuerySet["ChangeRequest"]):
    def open(self) -> "ChangeRequestQuerySet":
        return self.filter(state=ChangeState.OPEN)


class ChangeRequest(models.Model):
    """What somebody wants to change: exactly the content that would be applied, to what, on top of what.

    `digest` covers kind, target, content, base and policy rule. Sign-offs name it; when any part moves it no longer
    matches, and they are void.
    """

    kind = models.CharField(max_length=40)
    target = models.CharField(max_length=200)
    title = models.CharField(max_length=200)
    reason = models.TextField()
    content = models.JSONField()
    content_digest = models.CharField(max_length=64, help_text="What a rejection remembers")
    base = models.JSONField(null=True)
    rule = models.JSONField(help_text="The policy's rule, as it stood when the digest was taken")
    digest = models.CharField(max_length=64)
    author = models.CharField(max_length=150)
    contributors = models.JSONField(default=list, help_text="Usernames of everybody who wrote part of it")
    state = models.CharField(max_length=10, choices=ChangeState.choices, default=ChangeState.OPEN)
    opened_at = models.DateTimeField()
    closed_at = models.DateTimeField(null=True, blank=True)
    closed_by = models.CharField(max_length=150, blank=True)
    closing_note = models.TextField(blank=True)

    objects = ChangeRequestQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-id"]
        indexes: ClassVar = [models.Index(fields=["state", "-id"]), models.Index(fields=["target", "-id"])]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["kind", "target", "content_digest"], condition=Q(state="open"), name="asked_for_once"
            )
        ]
        triggers: ClassVar = [
            pgtrigger.Protect(name="no_delete", operation=pgtrigger.Delete),
            # Who wrote it decides who may sign it, and a closed change is a record.
            pgtrigger.Protect(
                name="keeps_its_authors",
                operation=pgtrigger.Update,
                condition=pgtrigger.Condition(
                    "OLD.kind IS DISTINCT FROM NEW.kind OR OLD.target IS DISTINCT FROM NEW.target"
                    " OR OLD.author IS DISTINCT FROM NEW.author OR NOT NEW.contributors @> OLD.contributors"
                    " OR (OLD.state <> NEW.state AND OLD.state <> 'open')"
                    " OR (OLD.state <> 'open' AND (OLD.content IS DISTINCT FROM NEW.content"
                    " OR OLD.content_digest IS DISTINCT FROM NEW.content_digest"
                    " OR OLD.digest IS DISTINCT FROM NEW.digest))"
                ),
            ),
        ]

    def __str__(self) -> str:
        return f"CR-{self.pk} {self.title}"

    @property
    def audit_name(self) -> str:
        return f"change:{self.pk}"

    @property
    def registered(self) -> Kind:
        """How this kind of change is understood."""
        return kind_of(self.kind)

    @property
    def is_open(self) -> bool:
        return self.state == ChangeState.OPEN

    @property
    def contributor_names(self) -> frozenset[str]:
        return frozenset([self.author, *self.contributors])

    def target_object(self) -> models.Model:
        """The object on which permissions for this change are asked; one query."""
        return self.registered.target(self.target)


class Decision(models.TextChoices):
    APPROVE = "approve", "Approved"
    REQUEST_CHANGES = "request_changes", "Requested changes"
    WITHDRAW = "withdraw", "Took the sign-off back"


class SignOff(models.Model):
    """One word of one person on one digest; the newest row of an operator is their word."""

    change = models.ForeignKey(ChangeRequest, on_delete=models.PROTECT, related_name="sign_offs")
    operator = models.ForeignKey(Operator, on_delete=models.PROTECT, related_name="sign_offs")
    operator_name = models.CharField(max_length=150)
    role = models.CharField(max_length=20, choices=[(role.value, role.label) for role in Role])
    decision = models.CharField(max_length=20, choices=Decision.choices)
    digest = models.CharField(max_length=64)
    comment = models.TextField(blank=True)
    signed_at = models.DateTimeField()
    expires_at = models.DateTimeField()

    class Meta:
        ordering: ClassVar = ["id"]
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(decision__in=Decision.values), name="decision_is_known"),
        ]
        triggers: ClassVar = [
            append_only(),
            pgtrigger.Trigger(
                name="signed_under_their_own_name",
                operation=pgtrigger.Insert,
                when=pgtrigger.Before,
                func="""
                    IF NOT EXISTS (
                        SELECT 1 FROM accounts_operator o
                        WHERE o.id = NEW.operator_id AND o.username = NEW.operator_name
                    ) THEN
                        RAISE EXCEPTION 'sign-off under the name %, which is not the name of operator %',
                            NEW.operator_name, NEW.operator_id USING ERRCODE = 'check_violation';
                    END IF;
                    RETURN NEW;
                """,
            ),
            # The last line of defence for rule 1: whatever path a row comes by, an author's own approval is refused.
            pgtrigger.Trigger(
                name="never_by_a_contributor",
                operation=pgtrigger.Insert,
                when=pgtrigger.Before,
                condition=pgtrigger.Q(new__decision="approve"),
                func="""
                    IF EXISTS (
                        SELECT 1 FROM approvals_changerequest c
                        WHERE c.id = NEW.change_id
                          AND (c.author = NEW.operator_name OR c.contributors ? NEW.operator_name)
                    ) THEN
                        RAISE EXCEPTION 'contributor % cannot sign off change %', NEW.operator_name, NEW.change_id
                            USING ERRCODE = 'check_violation';
                    END IF;
                    RETURN NEW;
                """,
            ),
        ]

    def __str__(self) -> str:
        return f"{self.operator_name} {self.get_decision_display().lower()} CR-{self.change_id}"


class RejectedDigest(models.Model):
    """Content that was rejected, by people or by a roll-back; it cannot come back under another name."""

    content_digest = models.CharField(max_length=64, unique=True)
    target = models.CharField(max_length=200)
    reason = models.TextField()
    actor = models.CharField(max_length=150)
    at = models.DateTimeField()

    class Meta:
        ordering: ClassVar = ["-id"]
        triggers: ClassVar = [append_only()]

    def __str__(self) -> str:
        return f"{self.content_digest[:8]} of {self.target}"


class BreakGlassQuerySet(models.QuerySet["BreakGlass"]):
    def unpaid(self) -> "BreakGlassQuerySet":
        """Bypasses that nobody else has reviewed yet."""
        return self.filter(reviewed_at__isnull=True)

    def in_effect(self, now: datetime) -> "BreakGlassQuerySet":
        return self.filter(ended_at__isnull=True, lapses_at__gt=now)


class BreakGlass(models.Model):
    """A bypass of the sign-offs of one change: in effect for a while, and a debt until somebody else reviewed it."""

    change = models.ForeignKey(ChangeRequest, on_delete=models.PROTECT, related_name="bypasses")
    actor = models.CharField(max_length=150)
    reason = models.TextField()
    incident = models.CharField(max_length=100)
    digest = models.CharField(max_length=64)
    used_at = models.DateTimeField()
    lapses_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)
    end_note = models.CharField(max_length=200, blank=True)
    review_due_at = models.DateTimeField()
    reviewed_by = models.CharField(max_length=150, blank=True)
    reviewed_at = models.DateTimeField(null=True, blank=True)
    review_note = models.TextField(blank=True)

    objects = BreakGlassQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            models.CheckConstraint(
                condition=Q(reviewed_at__isnull=True) | ~Q(reviewed_by=F("actor")), name="debt_reviewed_by_another"
            ),
            models.CheckConstraint(condition=~Q(reason="") & ~Q(incident=""), name="bypass_says_why"),
        ]
        triggers: ClassVar = [
            pgtrigger.Protect(name="no_delete", operation=pgtrigger.Delete),
            # An end and a review are written once; everything else never changes, the time it lapses above all.
            pgtrigger.Protect(
                name="terms_are_fixed",
                operation=pgtrigger.Update,
                condition=pgtrigger.Condition(
                    "ROW(OLD.change_id, OLD.actor, OLD.reason, OLD.incident, OLD.digest, OLD.used_at, OLD.lapses_at,"
                    " OLD.review_due_at) IS DISTINCT FROM ROW(NEW.change_id, NEW.actor, NEW.reason, NEW.incident,"
                    " NEW.digest, NEW.used_at, NEW.lapses_at, NEW.review_due_at)"
                    " OR (OLD.ended_at IS NOT NULL AND OLD.ended_at IS DISTINCT FROM NEW.ended_at)"
                    " OR (OLD.reviewed_at IS NOT NULL AND ROW(OLD.reviewed_at, OLD.reviewed_by)"
                    " IS DISTINCT FROM ROW(NEW.reviewed_at, NEW.reviewed_by))"
                ),
            ),
        ]

    def __str__(self) -> str:
        return f"Break-glass on CR-{self.change_id} by {self.actor}"

    @property
    def audit_name(self) -> str:
        return f"break-glass:{self.pk}"

    def is_in_effect(self, now: datetime) -> bool:
        return self.ended_at is None and self.lapses_at > now

    def is_overdue(self, now: datetime) -> bool:
        return self.reviewed_at is None and self.review_due_at < now

    def facts(self) -> dict[str, Any]:
        """What the audit keeps of it."""
        return {"incident": self.incident, "reason": self.reason, "lapses_at": self.lapses_at.isoformat()}
