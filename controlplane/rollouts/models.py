"""Canaries: one prompt version against the live one, stage by stage."""

from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

import pgtrigger
from django.db import models
from django.db.models import Q
from django.urls import reverse

from controlplane.approvals.models import ChangeRequest
from controlplane.prompts.models import Prompt, PromptVersion
from controlplane.rollouts.guardrails import Advance, Guardrails, StageEvidence, Unproven
from dataplane.cohorts import BUCKETS, CONTROL_START

_EVERYBODY: dict[str, Any] = {"audience": "all", "tenants": [], "regions": []}
_WAIT: dict[str, Any] = StageEvidence(Unproven.WAIT, 0, Advance.BY_HAND).to_json()
# Few are in the first two, who may never be enough to conclude anything from.
_ALLOW: dict[str, Any] = StageEvidence(Unproven.ALLOW, 0, Advance.BY_HAND).to_json()
# Half of internal users, so that the other half is their matched control; then the steps most teams take.
DEFAULT_STAGES: tuple[dict[str, Any], ...] = (
    {
        "name": "Internal only",
        "audience": "internal",
        "tenants": [],
        "regions": [],
        "weight": 5000,
        "evidence": _ALLOW,
    },
    {"name": "1 %", **_EVERYBODY, "weight": 100, "evidence": _ALLOW},
    {"name": "5 %", **_EVERYBODY, "weight": 500, "evidence": _WAIT},
    {"name": "25 %", **_EVERYBODY, "weight": 2500, "evidence": _WAIT},
    {"name": "50 %", **_EVERYBODY, "weight": 5000, "evidence": _WAIT},
    {"name": "100 %", **_EVERYBODY, "weight": 10000, "evidence": _WAIT},
)


class CanaryState(models.TextChoices):
    PLANNED = "planned", "Planned"
    RUNNING = "running", "Running"
    PROMOTED = "promoted", "Promoted"
    ROLLED_BACK = "rolled_back", "Rolled back"
    WITHDRAWN = "withdrawn", "Withdrawn"


class Cause(StrEnum):
    """Why a canary moves along its table."""

    STARTED = "started"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back"
    WITHDRAWN = "withdrawn"


TRANSITIONS = {
    (CanaryState.PLANNED, Cause.STARTED): CanaryState.RUNNING,
    (CanaryState.PLANNED, Cause.WITHDRAWN): CanaryState.WITHDRAWN,
    (CanaryState.RUNNING, Cause.PROMOTED): CanaryState.PROMOTED,
    (CanaryState.RUNNING, Cause.ROLLED_BACK): CanaryState.ROLLED_BACK,
}


class Gate(StrEnum):
    """What a stage's exposure asks of the approval policy, from narrow to wide; a wide one asks the narrow ones too."""

    INTERNAL = "internal"
    PUBLIC = "public"
    LIVE = "live"


def gate_of(stage: dict[str, Any]) -> Gate:
    """The gate in front of a stage: internal tenants only; some of the public; too many for a matched control."""
    if stage["audience"] == "internal":
        return Gate.INTERNAL
    return Gate.PUBLIC if stage["weight"] <= CONTROL_START else Gate.LIVE


class CanaryQuerySet(models.QuerySet["Canary"]):
    def running(self) -> "CanaryQuerySet":
        return self.filter(state=CanaryState.RUNNING)

    def with_parts(self) -> "CanaryQuerySet":
        """Each canary with its prompt, versions and change; one query."""
        return self.select_related("prompt", "candidate", "candidate__prompt", "control", "control__prompt", "change")


class Canary(models.Model):
    """One comparison of a candidate with the live version, over its stages.

    Shape of a stage: {"name": str, "audience": "internal|all", "tenants": [str], "regions": [str], "weight": 0..10000,
    "evidence": see `guardrails.StageEvidence`, absent in plans from before there were guardrails}.
    """

    slug = models.SlugField(unique=True, max_length=80)
    prompt = models.ForeignKey(Prompt, on_delete=models.PROTECT, related_name="canaries")
    candidate = models.ForeignKey(PromptVersion, on_delete=models.PROTECT, related_name="canaries")
    control = models.ForeignKey(PromptVersion, on_delete=models.PROTECT, related_name="controlled_canaries")
    unit = models.CharField(max_length=10, choices=[("user", "User"), ("tenant", "Tenant"), ("region", "Region")])
    salt = models.CharField(max_length=64)
    stages = models.JSONField()
    guardrails = models.JSONField(
        null=True, blank=True, help_text="See `guardrails.Guardrails`; null: planned before there were any"
    )
    position = models.SmallIntegerField(default=-1, help_text="Index of the stage it is at; -1 before the start")
    state = models.CharField(max_length=12, choices=CanaryState.choices, default=CanaryState.PLANNED)
    change = models.OneToOneField(ChangeRequest, on_delete=models.PROTECT, related_name="canary")
    bypass_lapses_at = models.DateTimeField(
        null=True, blank=True, help_text="Set while its exposure rests on broken glass; workers stop serving it then"
    )
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True, blank=True)
    moved_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    ended_by = models.CharField(max_length=150, blank=True)
    end_reason = models.TextField(blank=True)
    end_evidence = models.JSONField(
        null=True, blank=True, help_text="What failed, if statistics ended it: the number, its bounds and its margin"
    )

    objects = CanaryQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-id"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["prompt"], condition=Q(state="running"), name="one_running_canary"),
            models.CheckConstraint(condition=~Q(candidate=models.F("control")), name="candidate_is_not_control"),
        ]
        triggers: ClassVar = [
            pgtrigger.Protect(name="no_delete", operation=pgtrigger.Delete),
            pgtrigger.Protect(
                name="carries_its_change",
                operation=pgtrigger.Update,
                condition=pgtrigger.Q(old__change__df=pgtrigger.F("new__change"))
                | pgtrigger.Q(old__prompt__df=pgtrigger.F("new__prompt"))
                | pgtrigger.Q(old__slug__df=pgtrigger.F("new__slug")),
            ),
            # The table of TRANSITIONS once more: whatever path an UPDATE comes by, none that ended runs again.
            pgtrigger.Protect(
                name="ended_stays_ended",
                operation=pgtrigger.Update,
                condition=pgtrigger.Condition(
                    "OLD.state <> NEW.state AND (OLD.state, NEW.state) NOT IN"
                    " (('planned', 'running'), ('planned', 'withdrawn'), ('running', 'promoted'),"
                    " ('running', 'rolled_back'))"
                ),
            ),
            pgtrigger.Protect(
                name="plan_is_fixed_once_started",
                operation=pgtrigger.Update,
                condition=~pgtrigger.Q(old__state="planned")
                & (
                    pgtrigger.Q(old__stages__df=pgtrigger.F("new__stages"))
                    | pgtrigger.Q(old__guardrails__df=pgtrigger.F("new__guardrails"))
                    | pgtrigger.Q(old__salt__df=pgtrigger.F("new__salt"))
                    | pgtrigger.Q(old__unit__df=pgtrigger.F("new__unit"))
                    | pgtrigger.Q(old__candidate__df=pgtrigger.F("new__candidate"))
                    | pgtrigger.Q(old__control__df=pgtrigger.F("new__control"))
                ),
            ),
        ]

    def __str__(self) -> str:
        return self.slug

    def get_absolute_url(self) -> str:
        return reverse("canary", args=[self.slug])

    @property
    def audit_name(self) -> str:
        return f"canary:{self.slug}"

    @property
    def is_running(self) -> bool:
        return self.state == CanaryState.RUNNING

    @property
    def stage(self) -> dict[str, Any] | None:
        """The stage it is at; None before the start."""
        return self.stages[self.position] if self.position >= 0 else None

    @property
    def stage_name(self) -> str:
        """The name of the stage it is at; empty before the start."""
        return self.stage["name"] if self.stage else ""

    @property
    def stage_evidence(self) -> StageEvidence:
        """What the stage that it is at asks for before it is left."""
        return StageEvidence.of(self.stage or {})

    @property
    def judged_by(self) -> Guardrails | None:
        """How it is judged; None: by people alone, as planned before there were guardrails."""
        return None if self.guardrails is None else Guardrails.parse(self.guardrails)

    @property
    def at_last_stage(self) -> bool:
        return self.position == len(self.stages) - 1

    @property
    def headline(self) -> str:
        """In four words: what against what, and how far."""
        where = f"at {self.stage['name']}" if self.is_running and self.stage else self.get_state_display().lower()
        return f"v{self.candidate.number} {where}"

    def exposure(self) -> float:
        """The share of the public that is served the candidate now, 0..1, before any tenant or region limits."""
        if not self.is_running:
            return 0.0
        public = [stage["weight"] for stage in self.stages[: self.position + 1] if stage["audience"] == "all"]
        return max(public, default=0) / BUCKETS

    def gates_up_to(self, position: int) -> list[Gate]:
        """Every gate that serving at `position` passes: those of the widest stage reached, and all narrower ones."""
        gates = list(Gate)
        widest = max((gates.index(gate_of(stage)) for stage in self.stages[: position + 1]), default=-1)
        return gates[: widest + 1]

    def plan(self) -> dict[str, Any]:
        """What people sign off: all that decides who meets which words. The salt is in it, the position is not."""
        return plan_content(
            candidate=self.candidate,
            control=self.control,
            unit=self.unit,
            salt=self.salt,
            stages=self.stages,
            guardrails=self.guardrails,
        )

    def released(self) -> dict[str, Any]:
        """The canary as a release carries it; see `dataplane.cohorts.CanaryPlan.parse`."""
        return {
            "prompt": self.prompt.slug,
            "control": self.control.number,
            "candidate": self.candidate.number,
            "unit": self.unit,
            "salt": self.salt,
            "not_after": _iso(self.bypass_lapses_at),
            "reach": [
                {
                    "stage": stage["name"],
                    "audience": stage["audience"],
                    "tenants": stage["tenants"],
                    "regions": stage["regions"],
                    "weight": stage["weight"],
                }
                for stage in self.stages[: self.position + 1]
            ],
        }


def plan_content(
    *,
    candidate: PromptVersion,
    control: PromptVersion,
    unit: str,
    salt: str,
    stages: list[dict[str, Any]],
    guardrails: dict[str, Any] | None,
) -> dict[str, Any]:
    """The content of a rollout's change request."""
    return {
        "prompt": candidate.prompt.slug,
        "candidate": candidate.reference,
        "control": control.reference,
        "change_class": candidate.change_class,
        "unit": unit,
        "salt": salt,
        "stages": stages,
        # What was signed before there were guardrails stays what was signed.
        **({} if guardrails is None else {"guardrails": guardrails}),
    }


def _iso(at: datetime | None) -> str | None:
    return at.isoformat().replace("+00:00", "Z") if at else None
