"""Take what is known of a candidate at one moment: what shadows reported, what evals found, what usage says of pins.

Taken by the system whenever it is asked for, and never typed by anybody.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import urlencode

from django.db.models import Sum
from django.urls import reverse

from controlplane.accounts.models import Tenant
from controlplane.evals.gate import Met, runs_of_lane
from controlplane.ledger.models import SHADOW, UsageDay
from controlplane.shadows.figures import Ratios, figures_of, sides
from controlplane.shadows.items import Evidence, Measured, RunFound, judge
from controlplane.shadows.models import Item, PromotionChecklist
from controlplane.shadows.subjects import Document
from controlplane.telemetry.shadow_sums import shadow_days, shadow_sums
from controlplane.telemetry.shadows import ShadowRun

# What is older says little of today, and is forgotten soon after.
LOOKED_BACK: Final = timedelta(days=30)


def evidence_for(checklist: PromotionChecklist, document: Document, *, now: datetime) -> dict[Item, Evidence]:
    """What every item of a checklist comes to now; as many queries whatever there is.

    Args:
        document: The routing table that the checklist is of; it has the lane.
    """
    measured = measure(checklist, document, now=now)
    return {
        item: replace(one, link=_link(checklist, one)) for item, one in judge(measured, checklist.thresholds).items()
    }


def measure(checklist: PromotionChecklist, document: Document, *, now: datetime) -> Measured:
    """Everything that is known of the checklist's lane on its route, under its policy."""
    of = {"digest": checklist.policy_digest, "route": checklist.route, "lane": checklist.lane}
    run = ShadowRun.objects.filter(policy=checklist.policy, **of).first()
    begun = now if run is None else run.first_at
    since = max(begun, now - LOOKED_BACK).replace(second=0, microsecond=0)
    sums = shadow_sums(since=since, until=now + timedelta(minutes=1), policy=checklist.policy)
    candidate, noise = sides(sums, **of)
    asked, pinned, outside = _pins(checklist, document, since=begun)
    return Measured(
        answered=candidate.counts["answered"],
        days=shadow_days(**of, since=since),
        figures=figures_of(candidate, noise),
        ratios=Ratios.of(candidate),
        cost_micros=candidate.counts["cost_micros"],
        control_cost_micros=candidate.counts["control_cost_micros"],
        evals=_evals(checklist, document),
        asked=asked,
        pinned=pinned,
        outside=outside,
    )


def _evals(checklist: PromotionChecklist, document: Document) -> dict[str, tuple[RunFound, ...]]:
    found: dict[str, tuple[RunFound, ...]] = {}
    for met in runs_of_lane(document, checklist.lane, route=checklist.route)[0]:
        purpose = met.demand.held.version.set.purpose
        found[purpose] = (*found.get(purpose, ()), _run_found(met))
    return found


def _run_found(met: Met) -> RunFound:
    name, run = met.demand.held.version.set.slug, met.run
    if run is None:
        return RunFound(name, None, None, "not asked yet")
    return RunFound(name, run.pk, run.passed if run.is_done else None, run.sentence)


def _pins(checklist: PromotionChecklist, document: Document, *, since: datetime) -> tuple[int, int, int]:
    """How many requests were asked of the lane, how many by tenants with a pin, and how many against it; as usage was
    billed, from the day on which the policy first ran.
    """
    days = UsageDay.objects.filter(
        kind=SHADOW, lane=checklist.lane, route=checklist.route, day__gte=since.astimezone(UTC).date()
    )
    by_tenant = dict(days.order_by().values_list("tenant").annotate(asked=Sum("attempts")))
    pins = dict(Tenant.objects.filter(slug__in=by_tenant).values_list("slug", "residency"))
    home = document["lanes"][checklist.lane]["residency"]
    pinned = {tenant: asked for tenant, asked in by_tenant.items() if pins.get(tenant)}
    outside = sum(asked for tenant, asked in pinned.items() if home not in pins[tenant])
    return sum(by_tenant.values()), sum(pinned.values()), outside


def _link(checklist: PromotionChecklist, evidence: Evidence) -> str:
    """Where it can be looked at."""
    if evidence.item in (Item.SAFETY, Item.GOLDEN):
        runs = [one["run"] for one in evidence.figures["runs"] if one["run"] is not None]
        return reverse("eval-run", args=[runs[0]]) if runs else reverse("eval-runs")
    if evidence.item == Item.RESIDENCY:
        return f"{reverse('usage')}?{urlencode({'lane': checklist.lane})}"
    return (
        f"{reverse('shadow', args=[checklist.policy])}#{'figures' if evidence.item != Item.COMPARISONS else 'traffic'}"
    )
