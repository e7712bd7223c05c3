"""Plans to hand work in again: which letters exactly, with which edit, who approved it, and what became of each.

The rows are the record of truth. Whatever dies in the middle of a redrive, they say which letter was handed in as what.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar, Final
from uuid import UUID

import pgtrigger
from django.db import models
from django.db.models import Count, Q, Value
from django.db.models.functions import Cast, Concat, Replace
from django.urls import reverse

# So many letters fit one plan, and from so many on more people are asked.
MAX_LETTERS: Final = 10_000
SMALL_LETTERS: Final = 20
LARGE_LETTERS: Final = 500

# How the record and change requests name a plan: this and its id in hex.
PREFIX: Final = "redrive:"

CANARY_LETTERS: Final = 3
PER_MINUTE: Final = 30
MOST_PER_MINUTE: Final = 240
FAILURE_PERCENT: Final = 20
# The share of failures is that of the last so many which ended, once there are a few.
WINDOW: Final = 20
FEW: Final = 5


class PlanState(StrEnum):
    """Of a plan."""

    PLANNED = "planned"
    CHECKING = "checking"  # the dry run goes on
    CHECKED = "checked"
    PROPOSED = "proposed"  # people are asked
    CANARY = "canary"  # one letter at a time
    RAMP = "ramp"
    PAUSED = "paused"
    STOPPED = "stopped"
    DONE = "done"
    WITHDRAWN = "withdrawn"


class PlanEvent(StrEnum):
    """What happens to a plan."""

    DRY_RUN = "dry_run"
    CHECKED = "checked"
    PROPOSED = "proposed"
    SENT_BACK = "sent_back"  # its change request was withdrawn
    STARTED = "started"  # the change request was applied
    CANARY_PASSED = "canary_passed"
    PAUSED = "paused"
    RESUMED = "resumed"
    STOPPED = "stopped"
    FINISHED = "finished"
    WITHDRAWN = "withdrawn"


PLAN_TRANSITIONS: Final[Mapping[tuple[PlanState, PlanEvent], PlanState]] = {
    (PlanState.PLANNED, PlanEvent.DRY_RUN): PlanState.CHECKING,
    (PlanState.CHECKED, PlanEvent.DRY_RUN): PlanState.CHECKING,
    (PlanState.CHECKING, PlanEvent.CHECKED): PlanState.CHECKED,
    (PlanState.CHECKED, PlanEvent.PROPOSED): PlanState.PROPOSED,
    (PlanState.PROPOSED, PlanEvent.SENT_BACK): PlanState.CHECKED,
    (PlanState.PROPOSED, PlanEvent.STARTED): PlanState.CANARY,
    (PlanState.CANARY, PlanEvent.CANARY_PASSED): PlanState.RAMP,
    (PlanState.CANARY, PlanEvent.PAUSED): PlanState.PAUSED,
    (PlanState.RAMP, PlanEvent.PAUSED): PlanState.PAUSED,
    # What has passed the canary passes it again at once.
    (PlanState.PAUSED, PlanEvent.RESUMED): PlanState.CANARY,
    (PlanState.CANARY, PlanEvent.STOPPED): PlanState.STOPPED,
    (PlanState.RAMP, PlanEvent.STOPPED): PlanState.STOPPED,
    (PlanState.PAUSED, PlanEvent.STOPPED): PlanState.STOPPED,
    (PlanState.CANARY, PlanEvent.FINISHED): PlanState.DONE,
    (PlanState.RAMP, PlanEvent.FINISHED): PlanState.DONE,
    (PlanState.PLANNED, PlanEvent.WITHDRAWN): PlanState.WITHDRAWN,
    (PlanState.CHECKING, PlanEvent.WITHDRAWN): PlanState.WITHDRAWN,
    (PlanState.CHECKED, PlanEvent.WITHDRAWN): PlanState.WITHDRAWN,
    (PlanState.PROPOSED, PlanEvent.WITHDRAWN): PlanState.WITHDRAWN,
}
RUNNING: Final = frozenset({PlanState.CANARY, PlanState.RAMP})
ENDED: Final = frozenset({PlanState.STOPPED, PlanState.DONE, PlanState.WITHDRAWN})


class Verdict(StrEnum):
    """What the dry run says of a letter."""

    WOULD_RUN = "would_run"
    REFUSED = "refused"
    ALREADY_DONE = "already_done"
    PAYLOAD_GONE = "payload_gone"


class ItemState(StrEnum):
    """Of one letter within its plan."""

    PLANNED = "planned"
    HANDED_IN = "handed_in"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


class ItemEvent(StrEnum):
    """What happens to a letter of a plan."""

    HANDED_IN = "handed_in"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


ITEM_TRANSITIONS: Final[Mapping[tuple[ItemState, ItemEvent], ItemState]] = {
    (ItemState.PLANNED, ItemEvent.HANDED_IN): ItemState.HANDED_IN,
    (ItemState.PLANNED, ItemEvent.SKIPPED): ItemState.SKIPPED,
    (ItemState.HANDED_IN, ItemEvent.DONE): ItemState.DONE,
    (ItemState.HANDED_IN, ItemEvent.FAILED): ItemState.FAILED,
}
_ITEM_MOVES: Final = " OR ".join(
    f"(OLD.state = '{before}' AND NEW.state = '{after}')" for (before, _), after in ITEM_TRANSITIONS.items()
)
_PLAN_MOVES: Final = " OR ".join(
    f"(OLD.state = '{before}' AND NEW.state = '{after}')" for (before, _), after in PLAN_TRANSITIONS.items()
)
_FIXED: Final = ", ".join(
    f"OLD.{name}" for name in ("id", "size", "letters_digest", "edit_digest", "tenants", "has_tools", "author")
)
_WAITING: Final = Q(state=ItemState.PLANNED.value)
_UNDER_WAY: Final = Q(state=ItemState.HANDED_IN.value)
_ENDED: Final = Q(ended_at__isnull=False)
_OVER: Final = Q(state__in=sorted(state.value for state in ENDED))


class PlanQuerySet(models.QuerySet["RedrivePlan"]):
    """Plans, newest first."""

    def of_tenants(self, slugs: Iterable[str] | None) -> "PlanQuerySet":
        """Those all of whose letters are of these tenants; None: all plans."""
        if slugs is None:
            return self
        held = list(slugs)
        return self.filter(tenants__contained_by=held) if held else self.none()

    def names(self) -> models.QuerySet["RedrivePlan", str]:
        """Their `audit_name`s, by which change requests name them; to be part of another query."""
        number = Replace(Cast("id", models.CharField()), Value("-"))
        return self.order_by().annotate(name=Concat(Value(PREFIX), number)).values_list("name", flat=True)


class RedrivePlan(models.Model):
    """One decision to hand letters' work in again, and how that goes."""

    id = models.UUIDField(primary_key=True, help_text="Sorts by time")
    state = models.CharField(max_length=10, default=PlanState.PLANNED.value)
    title = models.CharField(max_length=200)
    fingerprint = models.CharField(max_length=32, blank=True, help_text="The group it was made from; empty: letters")
    reason = models.CharField(max_length=1000)
    author = models.CharField(max_length=150)
    created_at = models.DateTimeField()
    size = models.PositiveIntegerField()
    tenants = models.JSONField(help_text="Slugs; an empty one is work of our own")
    kinds = models.JSONField()
    categories = models.JSONField()
    has_tools = models.BooleanField(help_text="The work of one of its letters brings tools")
    edit = models.JSONField(null=True, blank=True, help_text='{"merge": {…}} or {"body": {…}}; null once it is over')
    edit_digest = models.CharField(max_length=64, blank=True, help_text="SHA-256 of the edit; empty without one")
    letters_digest = models.CharField(max_length=64, help_text="SHA-256 of the ids of its letters")
    canary_letters = models.PositiveIntegerField(default=CANARY_LETTERS)
    per_minute = models.PositiveIntegerField(default=PER_MINUTE, help_text="How many the ramp begins with")
    most_per_minute = models.PositiveIntegerField(default=MOST_PER_MINUTE)
    failure_percent = models.PositiveIntegerField(default=FAILURE_PERCENT, help_text="It stops itself above this share")
    change = models.ForeignKey(
        "approvals.ChangeRequest", null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    checked_at = models.DateTimeField(null=True, blank=True)
    checked_release = models.BigIntegerField(null=True, blank=True, help_text="Revision that the dry run was against")
    checked_digest = models.CharField(max_length=64, blank=True, help_text="SHA-256 of what the dry run found")
    rate = models.PositiveIntegerField(default=0, help_text="Letters a minute now")
    rate_at = models.DateTimeField(null=True, blank=True, help_text="Since when")
    hand_in_at = models.DateTimeField(null=True, blank=True, help_text="When the next letter may be handed in")
    step = models.BigIntegerField(default=0, help_text="Counts the steps of its work")
    next_at = models.DateTimeField(null=True, blank=True, help_text="When the next step is due; null: none is")
    note = models.CharField(max_length=300, blank=True, help_text="What it waits for, or why it stopped")
    started_by = models.CharField(max_length=150, blank=True)
    started_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    ended_by = models.CharField(max_length=150, blank=True, help_text="Who stopped it; ballast: it did so itself")

    objects = PlanQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-id"]
        permissions: ClassVar = [("sign_off_redrive", "Can sign off a plan to redrive dead letters")]
        constraints: ClassVar = [
            models.CheckConstraint(condition=Q(state__in=[one.value for one in PlanState]), name="plan_state_is_known"),
            models.CheckConstraint(condition=Q(size__range=(1, MAX_LETTERS)), name="plan_size_in_range"),
            models.CheckConstraint(
                condition=(_OVER & _ENDED) | (~_OVER & Q(ended_at__isnull=True)),
                name="plan_ends_when_it_is_over",
            ),
            models.CheckConstraint(
                condition=Q(canary_letters__range=(1, 100))
                & Q(per_minute__range=(1, 6000))
                & Q(most_per_minute__gte=models.F("per_minute"), most_per_minute__lte=6000)
                & Q(failure_percent__range=(0, 100)),
                name="plan_settings_in_range",
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["next_at"], condition=Q(next_at__isnull=False), name="plans_due"),
            models.Index(fields=["fingerprint", "-id"], name="plans_of_group"),
        ]
        triggers: ClassVar = [
            pgtrigger.Protect(
                name="plan_is_fixed",
                operation=pgtrigger.Update,
                condition=pgtrigger.Condition(
                    f"ROW({_FIXED}) IS DISTINCT FROM ROW({_FIXED.replace('OLD.', 'NEW.')})"
                    f" OR (OLD.state <> NEW.state AND NOT ({_PLAN_MOVES}))"
                ),
            ),
            pgtrigger.Protect(name="plan_stays", operation=pgtrigger.Delete),
        ]

    def __str__(self) -> str:
        return f"Redrive of {self.title}"

    def get_absolute_url(self) -> str:
        return reverse("redrive-plan", args=[self.pk])

    @property
    def audit_name(self) -> str:
        return f"{PREFIX}{self.id.hex}"

    @property
    def is_edited(self) -> bool:
        return bool(self.edit_digest)

    @property
    def is_running(self) -> bool:
        return self.state in RUNNING

    @property
    def is_over(self) -> bool:
        return self.state in ENDED

    @property
    def size_class(self) -> str:
        """What the approval policy looks at: small, medium or large."""
        if self.size <= SMALL_LETTERS:
            return "small"
        return "medium" if self.size <= LARGE_LETTERS else "large"

    def settings(self) -> dict[str, int]:
        """How it is carried out, as its digest covers it."""
        return {
            "canary_letters": self.canary_letters,
            "per_minute": self.per_minute,
            "most_per_minute": self.most_per_minute,
            "failure_percent": self.failure_percent,
        }

    def pace(self, now: datetime) -> timedelta:
        """How far apart letters are handed in now."""
        return timedelta(minutes=1) / max(self.rate, 1)


class ItemQuerySet(models.QuerySet["RedriveItem"]):
    """The letters of plans, in the order in which they are handed in."""

    def with_letters(self) -> "ItemQuerySet":
        """Each with its letter, but for what that says: a payload may be long, and is read when its turn comes."""
        return self.select_related("letter").defer("letter__payload_body", "letter__payload_key", "letter__causes")

    def waiting(self) -> "ItemQuerySet":
        return self.filter(_WAITING).order_by("position")

    def unchecked(self) -> "ItemQuerySet":
        return self.filter(verdict="").order_by("position")

    def under_way(self) -> "ItemQuerySet":
        return self.filter(_UNDER_WAY).order_by("position")

    def last_ended(self, number: int) -> "ItemQuerySet":
        """The latest to come to an end after they were handed in."""
        ended = self.filter(state__in=[ItemState.DONE.value, ItemState.FAILED.value])
        return ended.order_by("-ended_at", "-position")[:number]

    def counted(self) -> dict[tuple[str, str, str, str], int]:
        """How many there are by (state, verdict, why, category)."""
        rows = self.order_by().values_list("state", "verdict", "why", "category").annotate(number=Count("pk"))
        return {(state, verdict, why, category): number for state, verdict, why, category, number in rows}


class RedriveItem(models.Model):
    """One letter of a plan."""

    plan = models.ForeignKey(RedrivePlan, on_delete=models.PROTECT, related_name="items")
    letter = models.ForeignKey("deadletters.DeadLetter", on_delete=models.PROTECT, related_name="redrives")
    position = models.PositiveIntegerField()
    state = models.CharField(max_length=10, default=ItemState.PLANNED.value)
    verdict = models.CharField(max_length=12, blank=True, help_text="Of the dry run; empty before it")
    why = models.CharField(max_length=300, blank=True, help_text="It would be refused, or was skipped")
    old_digest = models.CharField(max_length=64, blank=True, help_text="SHA-256 of what would be handed in unedited")
    new_digest = models.CharField(max_length=64, blank=True, help_text="And edited; empty without an edit")
    diff = models.TextField(blank=True, help_text="What the edit changes, without personal data and secrets")
    work_id = models.UUIDField(null=True, blank=True, help_text="What it was handed in as")
    handed_in_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    category = models.CharField(max_length=20, blank=True, help_text="Why it failed again")
    next_letter = models.UUIDField(null=True, blank=True, help_text="The letter of the work that failed again")

    objects = ItemQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["plan", "position"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["plan", "letter"], name="one_item_per_letter"),
            models.CheckConstraint(condition=Q(state__in=[one.value for one in ItemState]), name="item_state_is_known"),
            models.CheckConstraint(
                condition=Q(verdict__in=["", *(one.value for one in Verdict)]), name="item_verdict_is_known"
            ),
            models.CheckConstraint(
                condition=(_WAITING & Q(work_id__isnull=True, ended_at__isnull=True))
                | (_UNDER_WAY & Q(work_id__isnull=False, handed_in_at__isnull=False, ended_at__isnull=True))
                | (Q(state__in=[ItemState.DONE.value, ItemState.FAILED.value]) & Q(work_id__isnull=False) & _ENDED)
                | (Q(state=ItemState.SKIPPED.value, work_id__isnull=True) & _ENDED),
                name="item_says_where_it_stands",
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["plan", "state", "position"], name="items_of_plan"),
            models.Index(fields=["plan", "-ended_at"], condition=_ENDED, name="items_ended"),
        ]
        triggers: ClassVar = [
            pgtrigger.Protect(
                name="item_is_fixed",
                operation=pgtrigger.Update,
                condition=pgtrigger.Condition(
                    "ROW(OLD.plan_id, OLD.letter_id, OLD.position) IS DISTINCT FROM"
                    " ROW(NEW.plan_id, NEW.letter_id, NEW.position)"
                    f" OR (OLD.state <> NEW.state AND NOT ({_ITEM_MOVES}))"
                    " OR (OLD.work_id IS NOT NULL AND OLD.work_id IS DISTINCT FROM NEW.work_id)"
                ),
            ),
            pgtrigger.Protect(name="item_stays", operation=pgtrigger.Delete),
        ]

    def __str__(self) -> str:
        return f"{self.letter_id} {self.state}"


def plan_named(name: str) -> UUID:
    """The id of the plan whose `audit_name` this is."""
    return UUID(hex=name.removeprefix(PREFIX))


def forget_letters(letters: Sequence[UUID]) -> None:
    """Wipe what plans say of what these letters said, whose payloads are gone."""
    items = RedriveItem.objects.filter(letter__in=letters)
    items.exclude(diff="", old_digest="").update(diff="", old_digest="", new_digest="")
    # The edit of one letter may be all of what its user said. One for many was written for all of them.
    RedrivePlan.objects.filter(items__letter__in=letters, size=1, edit__isnull=False).update(edit=None)


def counts_of(plan: RedrivePlan) -> dict[str, Any]:
    """How a plan stands. Shape: {"states": {state: n}, "verdicts": {verdict: n}, "refusals": [(why, n)],
    "failures": {category: n}, "skipped": [(why, n)]}; one query.
    """
    states: dict[str, int] = {state.value: 0 for state in ItemState}
    verdicts: dict[str, int] = {verdict.value: 0 for verdict in Verdict}
    refusals: dict[str, int] = {}
    failures: dict[str, int] = {}
    skipped: dict[str, int] = {}
    for (state, verdict, why, category), number in plan.items.counted().items():
        states[state] += number
        if verdict:
            verdicts[verdict] += number
        if verdict not in ("", Verdict.WOULD_RUN) and why:
            refusals[why] = refusals.get(why, 0) + number
        if state == ItemState.FAILED:
            failures[category] = failures.get(category, 0) + number
        if state == ItemState.SKIPPED:
            skipped[why] = skipped.get(why, 0) + number
    return {
        "states": states,
        "verdicts": verdicts,
        "refusals": sorted(refusals.items(), key=lambda one: -one[1]),
        "failures": failures,
        "skipped": sorted(skipped.items(), key=lambda one: -one[1]),
    }


def letter_ids(plan: RedrivePlan) -> list[UUID]:
    """The letters of a plan, in its order."""
    return list(plan.items.order_by("position").values_list("letter_id", flat=True))
