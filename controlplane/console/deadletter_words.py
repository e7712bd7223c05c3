"""Dead letters in words: why work failed, how a letter stands, for how long its payload is kept."""

from datetime import datetime
from typing import Final

from controlplane.console.templatetags.ballast import in_words
from controlplane.deadletters.kinds import JOB
from controlplane.deadletters.models import DeadLetter, Group, RetentionRule
from controlplane.deadletters.plans import ItemState, PlanState, Verdict
from dataplane.deadletters import RETENTION_DAYS, Category, PayloadState, State

CATEGORY_WORDS: Final = {
    Category.RATE_LIMIT: ("rate limit", "There was no room for it. Redrive it when there is."),
    Category.VALIDATION: ("validation", "What was asked, or answered, is not what it must be. Edit it, or discard it."),
    Category.MODEL_REFUSAL: ("model refusal", "A content filter refused it. Edit it, or discard it."),
    Category.TIMEOUT: ("time-out", "It took longer than it may."),
    Category.POISON: ("poison", "Its runners died of it. Look at it before anything else."),
    Category.POLICY: ("policy", "A rule of ours or of the tenant's forbids it."),
    Category.DEPENDENCY: ("dependency", "Somebody whom it needs was away. Redrive it when they are back."),
    Category.EXPIRED: ("expired", "Its time was over before it was done."),
    Category.BUG: ("bug", "Nobody foresaw it. Mend what did it first."),
    Category.UNSERIALISABLE: ("unserialisable", "It could not be read, let alone begun."),
}
STATE_TONES: Final = {
    State.OPEN: "bad",
    State.REDRIVEN: "info",
    State.RESOLVED: "good",
    State.DISCARDED: "off",
    State.PURGED: "off",
}
PLAN_TONES: Final = {
    PlanState.PLANNED: "off",
    PlanState.CHECKING: "info",
    PlanState.CHECKED: "info",
    PlanState.PROPOSED: "watch",
    PlanState.CANARY: "canary",
    PlanState.RAMP: "info",
    PlanState.PAUSED: "watch",
    PlanState.STOPPED: "bad",
    PlanState.DONE: "good",
    PlanState.WITHDRAWN: "off",
}
ITEM_TONES: Final = {
    ItemState.PLANNED: "off",
    ItemState.HANDED_IN: "info",
    ItemState.DONE: "good",
    ItemState.FAILED: "bad",
    ItemState.SKIPPED: "off",
}
VERDICT_WORDS: Final = {
    Verdict.WOULD_RUN: ("would run", "good"),
    Verdict.REFUSED: ("would be refused", "bad"),
    Verdict.ALREADY_DONE: ("done already", "off"),
    Verdict.PAYLOAD_GONE: ("payload gone", "watch"),
}
OURSELVES: Final = "our own"


def category_words(category: str) -> str:
    """'time-out'; what is no category, such as 'lost', as it is."""
    known = {one.value: name for one, (name, _) in CATEGORY_WORDS.items()}
    return known.get(category, category)


def category_advice(category: str) -> str:
    """What it means, and what can be done about it."""
    known = {one.value: advice for one, (_, advice) in CATEGORY_WORDS.items()}
    return known.get(category, "")


def tenant_words(tenant: str) -> str:
    """The slug; of work of our own, words."""
    return tenant or OURSELVES


def group_sentence(group: Group) -> str:
    """'job /v1/chat/completions: upstream_unavailable: the provider is away'."""
    said = f"{group.code}: {group.summary}" if group.summary and group.summary != group.code else group.code
    return f"{group.kind} {group.name}: {said}"


def letter_sentence(letter: DeadLetter, *, now: datetime) -> str:
    """How a letter stands, in a line."""
    tries = f"{letter.attempts} attempt{'' if letter.attempts == 1 else 's'}"
    since = in_words(letter.created_at - now)
    what = "The job" if letter.kind == JOB else f"The {letter.kind}"
    match State(letter.state):
        case State.OPEN:
            return f"{what} failed for good {since}, after {tries}, with {letter.code}. Nobody has decided about it."
        case State.REDRIVEN:
            return f"{what} was handed in again; its new run decides what becomes of this letter."
        case State.RESOLVED:
            return f"{what} is done, or somebody resolved it otherwise."
        case State.DISCARDED:
            return f"{what} is not wanted any more."
        case State.PURGED:
            return f"{what} failed {since} and nobody redrove it before its payload's time was over."


def retention_words(letter: DeadLetter) -> str:
    """For how long the payload is kept, by which rule; one query."""
    if letter.payload_state == PayloadState.PURGED:
        return "purged: neither payload nor error messages are kept anywhere"
    rules = {
        (rule.tenant, rule.category): rule
        for rule in RetentionRule.objects.filter(tenant__in=["", letter.tenant], category__in=["", letter.category])
    }
    places = ((letter.tenant, letter.category), (letter.tenant, ""), ("", letter.category), ("", ""))
    rule = next((rules[place] for place in places if place in rules), None)
    days, whose = (
        (RETENTION_DAYS, "where no rule says otherwise") if rule is None else (rule.days, f"by the rule {rule}")
    )
    where = "encrypted in the payload store" if letter.payload_state == PayloadState.STORED else "in the table"
    kept = f"kept {where} for {days} days after the work failed, {whose}"
    if letter.is_held:
        return f"{kept}; held beyond that by {letter.hold_by}: {letter.hold_reason}"
    return kept
