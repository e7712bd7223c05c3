"""The ladder policy's pages: what is in force in words, its numbers, other policies, and the way forward and back."""

from typing import Any, Final

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_safe

from controlplane.approvals.access import access_change
from controlplane.console.forms.ladder import PolicyForm
from controlplane.console.ladder_now import surface_url
from controlplane.console.ladder_policy_content import group_of, ladder_effects, surface_number_words, surface_words
from controlplane.console.ladder_record import reading_charts
from controlplane.console.ladder_tried import TRIED, tried
from controlplane.console.policies import comparison, entry_numbers, errors_first
from controlplane.console.requests import actor_of
from controlplane.console.versions import list_context, version_pages
from controlplane.console.views.ladder import tabs
from controlplane.ladder.access import policy_access
from controlplane.ladder.checks import library, policy_problems
from controlplane.ladder.models import LadderPolicy
from controlplane.ladder.policies import ladder_policies, left_over, propose_thresholds
from controlplane.ladder.thresholds import placed_thresholds, with_thresholds
from controlplane.routing.thresholds import Census
from controlplane.telemetry.ladder_simulation import CAVEAT


@login_required
@require_safe
def policy_page(request: HttpRequest) -> HttpResponse:
    """The policy in force in plain words, surface by surface, every number with its origin; and all other policies."""
    today = timezone.now().date()
    found, known = policy_access.in_force(actor_of(request)), library()
    context = list_context(request, policy_access) | {
        "tabs": tabs("ladder-policy"),
        "entries": [surface_words(surface, known, today=today) for surface in found.parsed.values()],
        "census": Census.of(placed_thresholds(found.parsed), today=today),
        "problems": errors_first(policy_problems(found.row.document)) if found.row else [],
        "icon": "ladder",
    }
    return render(request, "ladder/policy.html", context)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def numbers_page(request: HttpRequest, slug: str) -> HttpResponse:
    """The numbers of one surface, each with its origin, and the way to other ones."""
    return entry_numbers(
        request,
        policy_access,
        slug,
        words_of=surface_number_words,
        group_of=group_of,
        charts=lambda surface, now: reading_charts(surface, now=now),
        write=with_thresholds,
        propose=propose_thresholds,
        template="ladder/numbers.html",
    )


@login_required
@require_safe
def change_simulation(request: HttpRequest, pk: int) -> HttpResponse:
    """What the ladders that a change alters would have done; a page of its own, since it takes seconds."""
    change = access_change(actor_of(request), pk)
    found = tried(change, now=timezone.now())
    context = {"change": change, "tried": found, "days": TRIED.days, "caveat": CAVEAT}
    return render(request, "ladder/simulation.html", context)


# --- what the pages of versions show ---------------------------------------------------------------------------------
def _left_over(policy: LadderPolicy, active: LadderPolicy | None) -> dict[str, Any]:
    """What has to be stood down before the policy can be in force, and where; nothing for the one that is.

    Shape: {"left_over": [{"activation": RungActivation, "why": str, "url": str}]}.
    """
    if policy == active:
        return {"left_over": []}
    surfaces = active.document if active else {}
    return {
        "left_over": [
            {
                "activation": one,
                "why": why,
                "url": surface_url(one.surface) if one.surface in surfaces else reverse("ladder"),
            }
            for one, why in left_over(policy, now=timezone.now())
        ]
    }


VERSIONS: Final = version_pages(
    policy_access,
    PolicyForm,
    pages="ladder-policy",
    one_template="ladder/policy_version.html",
    new_template="ladder/policy_new.html",
    compare=comparison(ladder_policies, ladder_effects, policy_problems),
    beside=_left_over,
)
