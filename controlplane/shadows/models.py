"""Which shadows were stopped, by whom and why; and what has to be signed before a shadowed lane serves callers."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Final

import pgtrigger
from django.db import models
from django.db.models import Q
from django.urls import reverse

from controlplane.audit.models import append_only


class HoldKind(models.TextChoices):
    """What a row of the log says."""

    KILLED = "killed", "Killed"
    LIFTED = "lifted", "Lifted"


class ShadowHoldQuerySet(models.QuerySet["ShadowHold"]):
    def newest_per_policy(self) -> "ShadowHoldQuerySet":
        """The row that stands for each policy, by its digest; it may say that the policy was lifted."""
        return self.order_by("digest", "-id").distinct("digest")


class ShadowHold(models.Model):
    """That a policy, as it decided then, is asked no more, or again. The newest row of a digest stands."""

    policy = models.CharField(max_length=100)
    digest = models.CharField(max_length=64)
    kind = models.CharField(max_length=10, choices=HoldKind)
    cause = models.CharField(max_length=20, help_text="by_hand, or the threshold that killed it")
    measured = models.JSONField(default=dict, help_text="What was measured, where a threshold did")
    reason = models.TextField()
    actor = models.CharField(max_length=150)
    at = models.DateTimeField()

    objects = ShadowHoldQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(kind__in=HoldKind.values), name="shadow_hold_kind_is_known"),
            models.CheckConstraint(condition=~Q(reason=""), name="shadow_hold_has_a_reason"),
        ]
        indexes: ClassVar = [models.Index(fields=["digest", "-id"], name="shadow_hold_newest")]
        triggers: ClassVar = [append_only()]

    def __str__(self) -> str:
        return f"{self.policy} {self.kind} since {self.at:%Y-%m-%d %H:%M}"

    @property
    def audit_name(self) -> str:
        return f"shadow:{self.policy}"

    @property
    def is_killed(self) -> bool:
        return self.kind == HoldKind.KILLED


class Item(models.TextChoices):
    """What has to be shown of a lane before it is promoted, in the order in which it is read."""

    COMPARISONS = "comparisons", "Enough comparisons"
    SCHEMA = "schema", "Answers meet their schema"
    VALIDATORS = "validators", "Validators and grounding agree"
    TOOLS = "tools", "Tools are called alike"
    COST = "cost", "Cost"
    LATENCY = "latency", "Latency"
    SAFETY = "safety", "Safety eval"
    GOLDEN = "golden", "Golden eval"
    RESIDENCY = "residency", "Residency"


class ChecklistState(models.TextChoices):
    OPEN = "open", "Open"
    COMPLETE = "complete", "Complete"
    PROMOTED = "promoted", "Promoted"
    VOID = "void", "Void"
    WITHDRAWN = "withdrawn", "Withdrawn"


class ChecklistEvent(StrEnum):
    """What happens to a checklist."""

    COMPLETED = "completed"  # two people have signed every item
    PROMOTED = "promoted"  # the lane serves the route
    CHANGED = "changed"  # its policy or its lane is another now
    WITHDRAWN = "withdrawn"  # somebody wants it no more


TRANSITIONS: Final[Mapping[tuple[ChecklistState, ChecklistEvent], ChecklistState]] = {
    (ChecklistState.OPEN, ChecklistEvent.COMPLETED): ChecklistState.COMPLETE,
    (ChecklistState.OPEN, ChecklistEvent.CHANGED): ChecklistState.VOID,
    (ChecklistState.OPEN, ChecklistEvent.WITHDRAWN): ChecklistState.WITHDRAWN,
    (ChecklistState.COMPLETE, ChecklistEvent.PROMOTED): ChecklistState.PROMOTED,
    (ChecklistState.COMPLETE, ChecklistEvent.CHANGED): ChecklistState.VOID,
    (ChecklistState.COMPLETE, ChecklistEvent.WITHDRAWN): ChecklistState.WITHDRAWN,
}
STANDING: Final = (ChecklistState.OPEN, ChecklistState.COMPLETE)
ENDED: Final = (ChecklistState.PROMOTED, ChecklistState.VOID, ChecklistState.WITHDRAWN)
# Two people, neither of whom opened it.
SIGNATURES_NEEDED: Final = 2


class IllegalMove(Exception):
    """A checklist cannot move that way from where it stands: a fault of the caller's."""


class PromotionChecklistQuerySet(models.QuerySet["PromotionChecklist"]):
    def standing(self) -> "PromotionChecklistQuerySet":
        """Those that are open or complete."""
        return self.filter(state__in=STANDING)

    def with_signatures(self) -> "PromotionChecklistQuerySet":
        return self.prefetch_related("signatures")


class PromotionChecklist(models.Model):
    """What has to be shown, and signed, before a shadowed lane may serve a route. Bound to the policy and the lane as
    they were when it was opened: what was measured of others is no evidence.
    """

    route = models.CharField(max_length=100)
    lane = models.CharField(max_length=200)
    policy = models.CharField(max_length=100)
    policy_digest = models.CharField(max_length=64)
    lane_digest = models.CharField(max_length=64, help_text="Of the lane with its account and provider")
    twin_digest = models.CharField(max_length=64, help_text="Of all of it that is the same on another account")
    thresholds = models.JSONField(help_text="What evidence is held to: see `controlplane.shadows.thresholds`")
    subject_digest = models.CharField(max_length=64, help_text="Of all of the above; what signatures are bound to")
    state = models.CharField(max_length=10, choices=ChecklistState, default=ChecklistState.OPEN)
    reason = models.TextField()
    opened_by = models.CharField(max_length=150)
    opened_at = models.DateTimeField()
    completed_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    ended_by = models.CharField(max_length=150, blank=True)
    why_ended = models.TextField(blank=True)

    objects = PromotionChecklistQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["route", "lane"], condition=Q(state__in=STANDING), name="one_standing_checklist"
            ),
            models.CheckConstraint(
                condition=Q(state__in=STANDING, ended_at__isnull=True)
                | Q(state__in=ENDED, ended_at__isnull=False) & ~Q(ended_by="") & ~Q(why_ended=""),
                name="checklist_ends_when_it_is_over",
            ),
            models.CheckConstraint(
                condition=~Q(state__in=[ChecklistState.COMPLETE, ChecklistState.PROMOTED])
                | Q(completed_at__isnull=False),
                name="checklist_is_complete_since",
            ),
        ]
        triggers: ClassVar = [
            pgtrigger.Protect(name="no_delete", operation=pgtrigger.Delete),
            pgtrigger.Protect(
                name="end_is_fixed",
                operation=pgtrigger.Update,
                condition=pgtrigger.Q(old__state__in=[state.value for state in ENDED]),
            ),
            pgtrigger.Protect(
                name="subject_is_fixed",
                operation=pgtrigger.Update,
                condition=pgtrigger.AnyChange(
                    *("route", "lane", "policy", "policy_digest", "lane_digest", "twin_digest", "thresholds"),
                    *("subject_digest", "reason", "opened_by", "opened_at"),
                ),
            ),
            # Whatever wrote it, an item counts only with the signatures of two.
            pgtrigger.Trigger(
                name="complete_when_signed",
                operation=pgtrigger.Update,
                when=pgtrigger.Before,
                condition=pgtrigger.Q(old__state="open", new__state="complete"),
                func=f"""
                    IF (
                        SELECT count(*) FROM (
                            SELECT item FROM shadows_checklistsignature s WHERE s.checklist_id = NEW.id
                            GROUP BY item HAVING count(DISTINCT signer) >= {SIGNATURES_NEEDED}
                        ) signed
                    ) < {len(Item)} THEN
                        RAISE EXCEPTION 'checklist % is not signed by two people on every item', NEW.id
                            USING ERRCODE = 'check_violation';
                    END IF;
                    RETURN NEW;
                """,  # noqa: S608 - two numbers of ours
            ),
        ]

    def __str__(self) -> str:
        return f"Checklist {self.pk} for {self.lane} on {self.route}"

    def get_absolute_url(self) -> str:
        return reverse("checklist", args=[self.pk])

    @property
    def audit_name(self) -> str:
        return f"checklist:{self.pk}"

    @property
    def is_standing(self) -> bool:
        return self.state in STANDING

    def signed(self) -> dict[str, list["ChecklistSignature"]]:
        """Who signed, by item, in the order in which they did; no query where signatures were fetched."""
        found: dict[str, list[ChecklistSignature]] = {item.value: [] for item in Item}
        for one in sorted(self.signatures.all(), key=lambda one: one.pk):
            found[one.item].append(one)
        return found

    def move(self, event: ChecklistEvent, *, now: datetime, by: str = "", why: str = "") -> None:
        """Take the one legal step and store it. Only this method assigns `state`.

        Args:
            by, why: Of an end.
        Raises:
            IllegalMove: it cannot move that way; nothing was changed.
        """
        after = TRANSITIONS.get((ChecklistState(self.state), event))
        if after is None:
            raise IllegalMove(f"checklist {self.pk} is {self.state} and cannot be {event}")
        self.state = after
        if after == ChecklistState.COMPLETE:
            self.completed_at = now
        else:
            self.ended_at, self.ended_by, self.why_ended = now, by, why
        self.save(update_fields=["state", "completed_at", "ended_at", "ended_by", "why_ended"])

    def facts(self) -> dict[str, Any]:
        """What the audit record keeps of it."""
        names = ("route", "lane", "policy", "policy_digest", "lane_digest", "thresholds", "subject_digest", "state")
        return {"checklist": self.pk, **{name: getattr(self, name) for name in names}}


class ChecklistSignature(models.Model):
    """One person's word on one item, with what the system measured at that moment."""

    checklist = models.ForeignKey(PromotionChecklist, on_delete=models.PROTECT, related_name="signatures")
    item = models.CharField(max_length=20, choices=Item)
    signer = models.CharField(max_length=150)
    at = models.DateTimeField()
    standing = models.CharField(max_length=10, help_text="What the evidence came to: met, or moot")
    sentence = models.TextField(help_text="The evidence in words")
    figures = models.JSONField(help_text="The evidence in numbers, as they were taken by the system")
    link = models.CharField(max_length=300, help_text="Where it can be looked at: a path of the console")
    subject_digest = models.CharField(max_length=64, help_text="Of the checklist")
    digest = models.CharField(max_length=64, help_text="SHA-256 of subject, item, standing and figures")

    class Meta:
        ordering: ClassVar = ["id"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["checklist", "item", "signer"], name="one_signature_each"),
            models.CheckConstraint(condition=Q(standing__in=["met", "moot"]), name="signed_only_when_met"),
            models.CheckConstraint(condition=Q(item__in=Item.values), name="signed_item_is_known"),
        ]
        triggers: ClassVar = [
            append_only(),
            pgtrigger.Trigger(
                name="never_by_the_opener",
                operation=pgtrigger.Insert,
                when=pgtrigger.Before,
                func="""
                    IF NOT EXISTS (
                        SELECT 1 FROM shadows_promotionchecklist c
                        WHERE c.id = NEW.checklist_id AND c.state = 'open' AND c.opened_by <> NEW.signer
                          AND c.subject_digest = NEW.subject_digest
                    ) THEN
                        RAISE EXCEPTION '% cannot sign checklist %', NEW.signer, NEW.checklist_id
                            USING ERRCODE = 'check_violation';
                    END IF;
                    RETURN NEW;
                """,
            ),
        ]

    def __str__(self) -> str:
        return f"{self.item} of checklist {self.checklist_id} by {self.signer}"
