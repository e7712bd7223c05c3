"""Who is promised what when capacity runs short, and what they got, in words for people outside; nobody is named."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from controlplane.approvals.models import Decision
from controlplane.ladder.effects import TIER_NAMES
from controlplane.ladder.models import LadderPolicy
from controlplane.telemetry.surfaces import TierServed, served
from dataplane.ladder.policy import RUNGS, Surface

# Who is served as if no rung were engaged though a policy does not say so: the gateway's own rules, the same for all.
RULES: Final = (
    "A question that was put off is answered in full later, also while answers to others are shorter.",
    "Our own tests of models are never put on a ladder. They are no customer's, and use no place that a tier has.",
    "A rung can be engaged for some tiers or regions only. It is then in the signed release and in the audit record, "
    "with who decided it and why.",
)
_MEANINGS: Final = {
    1: "Answers are shorter than usual.",
    2: "The assistant looks nothing up and does nothing for you.",
    3: "A smaller model answers.",
    4: "Questions are kept and answered later.",
    5: "Only answers to frequent questions are given.",
    6: "Nothing is answered; a page says until when.",
}


@dataclass(frozen=True, slots=True)
class TierFairness:
    """One tier: what it is promised and what it got, in words, and whether that was kept; None: nobody asked."""

    name: str
    reserved: str
    promised: str
    measured: str
    is_kept: bool | None


@dataclass(frozen=True, slots=True)
class SurfaceFairness:
    """One surface, for people outside."""

    title: str
    steps: tuple[tuple[str, str], ...]
    tiers: tuple[TierFairness, ...]
    exemptions: tuple[str, ...]


def fairness_of(surface: Surface, *, since: datetime, until: datetime) -> SurfaceFairness:
    """A surface in plain words; one query."""
    measured = {one.tier: one for one in served(surface.slug, since=since, until=until, promises=surface.promises)}
    return SurfaceFairness(
        title=surface.title,
        steps=tuple((RUNGS[number], _MEANINGS[number]) for number in surface.rungs),
        tiers=tuple(_tier(surface, tier, name, measured.get(tier)) for tier, name in TIER_NAMES.items()),
        exemptions=tuple(_exemptions(surface)),
    )


def signed(policy: LadderPolicy) -> str:
    """How many people signed a policy before it was in force; two queries."""
    approved = policy.activations.filter(change__isnull=False, lapses_at__isnull=True).select_related("change").first()
    if approved is None or approved.change is None:
        return "which nobody has signed yet"
    words = approved.change.sign_offs.filter(decision=Decision.APPROVE, digest=approved.change.digest)
    people = words.values("operator").distinct().count()
    return f"which {people} {'person' if people == 1 else 'people'} signed"


def _tier(surface: Surface, tier: str, name: str, known: TierServed | None) -> TierFairness:
    promise = surface.promises.get(tier)
    places = promise.reserved_concurrency.value if promise else 0
    return TierFairness(
        name=name,
        reserved=f"{places:,.0f} requests at once" if places else "none",
        promised="nothing" if promise is None else f"{100 * promise.served_share.value:.10g} % of questions",
        measured=_measured(known),
        is_kept=known.is_kept if known else None,
    )


def _measured(known: TierServed | None) -> str:
    share = known.answered if known else None
    if known is None or share is None or share.value is None:
        return "nobody asked"
    low, high = (f"{100 * bound:.1f}" for bound in (share.low or 0.0, share.high or 0.0))
    later = f"; {known.outcomes['later']:,} more were answered later" if known.outcomes["later"] else ""
    return f"{100 * share.value:.1f} % of {known.answerable:,} questions (95 %: {low} to {high} %){later}"


def _exemptions(surface: Surface) -> Iterator[str]:
    for tier, name in TIER_NAMES.items():
        promise = surface.promises.get(tier)
        if promise is not None and promise.reserved_concurrency.value:
            places = f"{promise.reserved_concurrency.value:,.0f}"
            yield (
                f"{name}: up to {places} questions at once are answered as if nothing were engaged, short of "
                "maintenance. Beyond them the tier is treated like every other."
            )
    yield from RULES
