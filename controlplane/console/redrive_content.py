"""A redrive as its pages show it: the steps from plan to report, how far it is, and what it came to, in words."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from controlplane.approvals.models import ChangeRequest
from controlplane.console.deadletter_words import (
    ITEM_TONES,
    PLAN_TONES,
    VERDICT_WORDS,
    category_words,
    tenant_words,
)
from controlplane.console.diffs import diff_json
from controlplane.console.previews import Difference
from controlplane.console.templatetags.ballast import in_words
from controlplane.deadletters.plans import (
    ItemState,
    PlanState,
    RedriveItem,
    RedrivePlan,
    Verdict,
    counts_of,
    plan_named,
)

_STEPS: Final = ("Plan", "Dry run", "Approval", "Canary", "Ramp", "Report")
_AT: Final = {
    PlanState.PLANNED: 1,
    PlanState.CHECKING: 1,
    PlanState.CHECKED: 2,
    PlanState.PROPOSED: 2,
    PlanState.CANARY: 3,
    PlanState.RAMP: 4,
    PlanState.PAUSED: 4,
    PlanState.STOPPED: 5,
    PlanState.DONE: 5,
    PlanState.WITHDRAWN: 5,
}
SHOWN_DIFFS: Final = 3
_READ_DIFFS: Final = 200


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a plan is. `counts` as `plans.counts_of` gives them."""

    plan: RedrivePlan
    counts: Mapping[str, Any]

    @classmethod
    def of(cls, plan: RedrivePlan) -> "Progress":
        """One query."""
        return cls(plan, counts_of(plan))

    @property
    def tone(self) -> str:
        return PLAN_TONES[PlanState(self.plan.state)]

    @property
    def checked(self) -> int:
        return int(sum(self.counts["verdicts"].values()))

    @property
    def dealt_with(self) -> int:
        """Letters that nothing more will happen to."""
        states = self.counts["states"]
        return int(states["done"] + states["failed"] + states["skipped"])

    @property
    def would_run(self) -> int:
        return int(self.counts["verdicts"][Verdict.WOULD_RUN])

    def sentence(self) -> str:
        """How it stands, in a line."""
        plan, states = self.plan, self.counts["states"]
        if plan.state == PlanState.PLANNED:
            return "Nothing is handed in. Begin the dry run: it looks at each letter against the release in force."
        if plan.state == PlanState.CHECKING:
            return f"The dry run has looked at {self.checked:,} of {plan.size:,}; nothing is handed in."
        if plan.state == PlanState.CHECKED:
            return f"{self.would_run:,} of {plan.size:,} would run; nothing is handed in yet."
        if plan.state == PlanState.PROPOSED:
            return f"CR-{plan.change_id} waits for its sign-offs, or to be started; nothing is handed in yet."
        if plan.state == PlanState.WITHDRAWN:
            return f"Given up by {plan.ended_by}: {plan.note}. Nothing was handed in."
        came_to = f"{states['done']:,} done, {states['failed']:,} failed again, {states['skipped']:,} skipped"
        left = f"{states['planned']:,} left and {states['handed_in']:,} under way"
        if plan.state == PlanState.DONE:
            return f"Every letter has been dealt with: {came_to}."
        if plan.state == PlanState.STOPPED:
            whom = "itself" if plan.ended_by == "ballast" else plan.ended_by
            return f"Stopped by {whom}: {plan.note}. So far {came_to}; {left}."
        how = {
            PlanState.CANARY: f"The canary hands in {plan.canary_letters}, one at a time",
            PlanState.RAMP: f"The ramp hands in {plan.rate} a minute",
            PlanState.PAUSED: "Paused; nothing more is handed in",
        }[PlanState(plan.state)]
        waits = f" It {plan.note}." if plan.note else ""
        return f"{how}: {came_to}; {left}.{waits}"

    def steps(self) -> list[dict[str, Any]]:
        """As `components/_stepper.html` takes them."""
        at = _AT[PlanState(self.plan.state)]
        if self.plan.state == PlanState.PAUSED and self.counts["states"]["done"] < self.plan.canary_letters:
            at = 3
        details = {
            0: f"{self.plan.size:,} letters",
            1: f"{self.would_run:,} would run" if self.plan.checked_at else "",
            2: f"CR-{self.plan.change_id}" if self.plan.change_id else "",
            3: f"{self.plan.canary_letters}, one at a time",
            4: f"{self.plan.per_minute} to {self.plan.most_per_minute} a minute",
            5: f"{self.dealt_with:,} dealt with" if self.plan.is_over else "",
        }
        reached = 2 if self.plan.state == PlanState.WITHDRAWN else at
        return [
            {
                "name": name,
                "detail": details[number],
                "state": "now"
                if number == at
                else "past"
                if number < reached
                else "skipped"
                if number < at
                else "next",
            }
            for number, name in enumerate(_STEPS)
        ]

    def tiles(self) -> list[dict[str, str]]:
        """Of the dry run before it begins, of the letters from then on, as `components/_metric.html` takes them."""
        verdicts, states = self.counts["verdicts"], self.counts["states"]
        if self.plan.started_at is None:
            shown = [(words, verdicts[verdict], "") for verdict, (words, _) in VERDICT_WORDS.items()]
        else:
            shown = [
                ("done", states["done"], "their letters are resolved"),
                ("failed again", states["failed"], "each has a new letter, or is open again"),
                ("under way", states["handed_in"], "handed in, not over"),
                ("left", states["planned"], "not handed in"),
                ("skipped", states["skipped"], "their letters stay as they are"),
            ]
        of = f"of {self.plan.size:,}"
        return [
            {"label": label[:1].upper() + label[1:], "value": f"{number:,}", "note": note or of}
            for label, number, note in shown
        ]

    def bar(self) -> dict[str, Any] | None:
        """As `components/_progress.html` takes it; None while there is nothing to wait for."""
        if self.plan.state == PlanState.CHECKING:
            return {"label": "Dry run", "value": self.checked, "note": f"{self.checked:,} of {self.plan.size:,}"}
        if self.plan.started_at is None:
            return None
        return {"label": "Letters", "value": self.dealt_with, "note": f"{self.dealt_with:,} of {self.plan.size:,}"}

    def reasons(self) -> list[tuple[str, int]]:
        """Why letters would not run, or were skipped, the most frequent first."""
        found: list[tuple[str, int]] = self.counts["skipped" if self.plan.started_at else "refusals"]
        return found

    def failures(self) -> list[tuple[str, int]]:
        """Why letters failed again."""
        found = self.counts["failures"].items()
        return sorted(((category_words(name), number) for name, number in found), key=lambda one: -one[1])


def duration_words(plan: RedrivePlan, *, now: datetime) -> str:
    """How long it took, or takes: '12 min', '12 min so far'."""
    if plan.started_at is None:
        return "not started"
    took = in_words(plan.started_at - (plan.ended_at or now)).removesuffix(" ago")
    return took if plan.ended_at else f"{took} so far"


def start_effect(plan: RedrivePlan) -> str:
    """What starting it does, for the dialog that asks."""
    first = min(plan.canary_letters, plan.size)
    canary = f"The canary hands in {first} of {plan.size}, one at a time and under their old keys; all must succeed."
    ramp = (
        f"Then the others, {plan.per_minute} a minute and more, until more than {plan.failure_percent} % fail again."
        if first < plan.size
        else ""
    )
    return f"{canary} {ramp}".strip()


def item_lines(items: list[RedriveItem]) -> list[dict[str, Any]]:
    """Letters of a plan, a line each."""
    lines = []
    for item in items:
        verdict, tone = VERDICT_WORDS[Verdict(item.verdict)] if item.verdict else ("", "off")
        state = item.state.replace("_", " ")
        lines.append(
            {
                "item": item,
                "tenant": tenant_words(item.letter.tenant),
                "verdict": verdict,
                "verdict_tone": tone,
                "state": state,
                "state_tone": ITEM_TONES[ItemState(item.state)],
                "category": category_words(item.category) if item.category else "",
            }
        )
    return lines


@dataclass(frozen=True, slots=True)
class EditDiff:
    """What an edit changes in some letters of a plan, the same in each. `old` and `new`: digests in the first."""

    positions: tuple[int, ...]
    old: str
    new: str
    text: str

    @property
    def whose(self) -> str:
        """'Letters 1, 2, 3 and 9 more'."""
        named = ", ".join(str(position) for position in self.positions[:3])
        more = len(self.positions) - 3
        return f"Letter{'' if len(self.positions) == 1 else 's'} {named}" + (f" and {more} more" if more > 0 else "")


def edit_diffs(plan: RedrivePlan) -> list[EditDiff]:
    """What the edit of a plan changes, some of it: what it changes alike stands once; one query."""
    if not plan.is_edited:
        return []
    found: dict[str, list[RedriveItem]] = {}
    for item in plan.items.exclude(diff="").order_by("position")[:_READ_DIFFS]:
        found.setdefault(item.diff, []).append(item)
    diffs = [
        EditDiff(tuple(item.position for item in items), items[0].old_digest, items[0].new_digest, text)
        for text, items in found.items()
    ]
    return diffs[:SHOWN_DIFFS]


# --- as its reviewers read it ----------------------------------------------------------------------------------------
def redrive_review(change: ChangeRequest) -> dict[str, Any]:
    """A redrive for `reviews/review.html`: what would be handed in, what the edit changes, what to check."""
    # By name: a plan whose change request was withdrawn may have another by now, and the withdrawn one is read still.
    plan = RedrivePlan.objects.defer("edit").get(pk=plan_named(change.target))
    progress = Progress.of(plan)
    shown = [Difference("Letters, edit and pace", diff_json({}, change.content))]
    refused = plan.size - progress.would_run
    whose = ", ".join(tenant_words(tenant) for tenant in plan.tenants)
    checklist: list[dict[str, Any]] = [
        {
            "text": f"The dry run against r{plan.checked_release} lets {progress.would_run:,} of {plan.size:,} run",
            "met": True,
        },
        {"text": f"Of {whose}; each stays within its residency pin, which the dry run held", "met": True},
    ]
    if refused:
        checklist.append({"text": f"{refused:,} would be skipped; the plan says why", "met": None})
    if plan.has_tools:
        checklist.append({"text": "Their work brings tools: doing it again may have effects outside", "met": None})
    if plan.is_edited:
        checklist.append({"text": "The edit asks for what the tenant wanted", "met": None})
    checklist.append({"text": "What made them fail is over", "met": None})
    return {
        "before": "as they failed",
        "after": "as handed in",
        "differences": shown,
        "plan": plan,
        "plan_sentence": progress.sentence(),
        "plan_diffs": edit_diffs(plan),
        "checklist": checklist,
    }
