"""The threshold pages: the numbers of one breaker policy or route, their origin, and the way to other ones."""

from typing import Any, Final

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_safe

from controlplane.console.forms.thresholds import TableNumbers, ThresholdsForm
from controlplane.console.lane_content import lane_url
from controlplane.console.policy_words import policy_sentences, policy_warnings, spread_note
from controlplane.console.requests import actor_of, refused_into_form
from controlplane.console.threshold_content import (
    REPLAYED,
    lanes_using,
    listed_thresholds,
    replay,
    routes_naming,
    threshold_charts,
)
from controlplane.console.threshold_words import ORIGINS
from controlplane.routing import operations
from controlplane.routing.access import access_policy, access_routing, table_access
from controlplane.routing.thresholds import BREAKER, NOUNS, PARTS, ROUTE, census, owners_of
from dataplane.routing import RoutingTable as Routing

OVERDUE: Final = "overdue"
_KINDS: Final = {part: kind for kind, part in PARTS.items()}


@login_required
@require_safe
def threshold_list(request: HttpRequest) -> HttpResponse:
    """Every threshold of the table in force, overdue reviews first; by origin behind tabs."""
    now = timezone.now()
    found = access_routing(actor_of(request))
    rows = listed_thresholds(found.table, today=now.date())
    chosen = request.GET.get("origin", "")
    counts = {
        "": len(rows),
        OVERDUE: sum(row.is_overdue for row in rows),
        **{origin: sum(row.placed.provenance.origin == origin for row in rows) for origin in ORIGINS},
    }
    labels = {"": "All", OVERDUE: "Overdue", **{origin: label for origin, (_, label) in ORIGINS.items()}}
    chosen = chosen if chosen in labels else ""
    context = {
        "active": found.row,
        "census": census(found.table, today=now.date()),
        "rows": [row for row in rows if _fits(row, chosen)],
        "tabs": [
            {
                "label": label,
                "url": f"?origin={key}" if key else "?",
                "active": key == chosen,
                "count": counts[key],
            }
            for key, label in labels.items()
        ],
    }
    return render(request, "routing/thresholds.html", context)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def policy_page(request: HttpRequest, part: str, slug: str) -> HttpResponse:
    """One policy's or route's numbers: each with its origin, what its lanes did, and what other numbers would do.

    Args:
        part: Of the routing table: breakers, routes, retries, probes, quotas, streams, repairs or validators.
    """
    now = timezone.now()
    kind = _KINDS.get(part)
    if kind is None:
        raise Http404(f"the routing table has no {part!r} with thresholds")
    operator = actor_of(request)
    posting = request.method == "POST"
    found = access_policy(operator, kind, slug, "propose_routing" if posting else "view_routingtable")
    previewing = posting and request.POST.get("action") == "preview"
    owner = owners_of(found.table, kind)[slug]
    thresholds = owner.thresholds()
    form = ThresholdsForm(
        request.POST if posting else None,
        numbers=TableNumbers(found.row.document, kind, slug),
        thresholds=thresholds,
        today=now.date(),
        previewing=previewing,
    )
    lanes = lanes_using(found.table, kind, slug)
    context: dict[str, Any] = {
        "kind": kind,
        "slug": slug,
        "active": found.row,
        "owner": owner,
        "title": NOUNS[kind].capitalize(),
        "form": form,
        "lanes": [{"id": lane, "url": lane_url(lane)} for lane in lanes],
        "routes": [route.slug for route in routes_naming(found.table, kind, slug)],
        "spread": spread_note(found.table.routes[slug]) if kind == ROUTE else "",
        "sentences": policy_sentences(found.table, kind, slug),
        "warnings": policy_warnings(found.table, kind, slug),
        "may_propose": table_access.may_propose(operator),
        "days": REPLAYED.days,
    }
    status = 200
    if posting and form.is_valid() and previewing:
        if kind == BREAKER:
            after = Routing.parse(form.document)
            context["replayed"] = replay(lanes, before=found.table.breakers[slug], after=after.breakers[slug], now=now)
    elif posting and form.is_valid():
        change = refused_into_form(
            form,
            lambda: operations.propose_thresholds(
                kind=kind,
                slug=slug,
                changes=form.changes,
                reason=form.cleaned_data["reason"],
                actor=operator,
                now=now,
            ),
        )
        if change is not None:
            messages.success(request, f"Proposed; CR-{change.pk} waits in the approvers' inbox")
            return redirect("review", pk=change.pk)
        status = 409
    elif posting:
        status = 400
    context["rows"] = form.rows()
    context["charts"] = {chart.id: chart for chart in threshold_charts(lanes, thresholds, now=now)}
    return render(request, "routing/policy.html", context, status=status)


# --- what the pages show ----------------------------------------------------------------------------------------------
def _fits(row: Any, chosen: str) -> bool:
    if chosen == OVERDUE:
        return bool(row.is_overdue)
    return not chosen or row.placed.provenance.origin == chosen
