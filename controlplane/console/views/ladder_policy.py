"""The ladder policy's pages: what is in force in words, its numbers, other policies, and the way forward and back."""

from datetime import datetime
from typing import Any, Final

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from controlplane.approvals.access import access_change
from controlplane.console.forms.ladder import PolicyForm
from controlplane.console.ladder_now import surface_url
from controlplane.console.ladder_policy_content import (
    group_of,
    ladder_effects,
    surface_numbers,
    surface_words,
)
from controlplane.console.ladder_record import reading_charts
from controlplane.console.ladder_tried import TRIED, tried
from controlplane.console.previews import entry_differences
from controlplane.console.requests import actor_of
from controlplane.console.versions import list_context, numbers, proposed, returned, submission, version_context
from controlplane.console.views.ladder import tabs
from controlplane.ladder.access import LadderPermission, access_surface, policy_access
from controlplane.ladder.checks import library, policy_problems
from controlplane.ladder.models import LadderPolicy
from controlplane.ladder.policies import ladder_policies, left_over, propose_thresholds
from controlplane.ladder.thresholds import placed_thresholds
from controlplane.routing.thresholds import Census
from controlplane.telemetry.ladder_simulation import CAVEAT
from dataplane.ladder.policy import Ladder
from dataplane.prompts import Problem

PAGES: Final = "ladder-policy"


@login_required
@require_safe
def policy_page(request: HttpRequest) -> HttpResponse:
    """The policy in force in plain words, surface by surface, every number with its origin; and all other policies."""
    now = timezone.now()
    operator = actor_of(request)
    found = policy_access.in_force(operator)
    known, today = library(), now.date()
    context = list_context(request, ladder_policies, policy_access.visible(operator)) | {
        "tabs": tabs("ladder-policy"),
        "surfaces": [surface_words(surface, known, today=today) for surface in found.parsed.values()],
        "census": Census.of(placed_thresholds(found.parsed), today=today),
        "problems": _problems(found.row.document) if found.row else [],
        "may_propose": policy_access.may_propose(operator),
    }
    return render(request, "ladder/policy.html", context)


@login_required
@require_safe
def version_page(request: HttpRequest, number: int) -> HttpResponse:
    """One policy: what it changes against the one in force, its document, when it was in force, what waits for it, and
    which engaged rungs would have to be stood down before.
    """
    now = timezone.now()
    operator = actor_of(request)
    policy = policy_access.version(operator, number)
    context = version_context(ladder_policies, policy, pages=PAGES, compare=_compare)
    context |= {
        "left_over": _left_over(policy, context["active"], now=now),
        "may_propose": policy_access.may_propose(operator),
    }
    return render(request, "ladder/policy_version.html", context)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def policy_new(request: HttpRequest) -> HttpResponse:
    """Write another policy, see what it changes, then submit it: stored for ever, in force once people signed."""
    policy_access.require_proposer(actor_of(request))
    template = "ladder/policy_new.html"
    return submission(request, ladder_policies, PolicyForm, template=template, pages=PAGES, compare=_compare)


@login_required
@require_POST
def policy_propose(request: HttpRequest, number: int) -> HttpResponse:
    """Open the change request that would put a stored policy in force."""
    return proposed(request, ladder_policies, policy_access.version_to_propose(actor_of(request), number))


@login_required
@require_POST
def policy_return(request: HttpRequest, number: int) -> HttpResponse:
    """Put a policy in force again that was before: one click, no sign-off."""
    policy = policy_access.version_to_propose(actor_of(request), number)
    return returned(request, ladder_policies, policy, pages=PAGES)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def numbers_page(request: HttpRequest, slug: str) -> HttpResponse:
    """The numbers of one surface, each with its origin, and the way to other ones."""
    now = timezone.now()
    operator = actor_of(request)
    permission: LadderPermission = "propose_ladder" if request.method == "POST" else "view_ladderpolicy"
    surface = access_surface(operator, slug, permission)
    active = policy_access.in_force(operator).row
    assert active is not None  # noqa: S101 - narrows the type; the surface is of the policy in force
    return numbers(
        request,
        surface_numbers(active.document, surface),
        dict(surface.thresholds()),
        propose=lambda changes, reason: propose_thresholds(
            slug=slug, changes=changes, reason=reason, actor=operator, now=now
        ),
        group_of=group_of,
        template="ladder/numbers.html",
        context={
            "title": surface.title,
            "active": active,
            "charts": {chart.id: chart for chart in reading_charts(surface, now=now)},
            "may_propose": policy_access.may_propose(operator),
        },
    )


@login_required
@require_safe
def change_simulation(request: HttpRequest, pk: int) -> HttpResponse:
    """What the ladders that a change alters would have done; a page of its own, since it takes seconds."""
    change = access_change(actor_of(request), pk)
    found = tried(change, now=timezone.now())
    context = {"change": change, "tried": found, "days": TRIED.days, "caveat": CAVEAT}
    return render(request, "ladder/simulation.html", context)


# --- what the pages show ----------------------------------------------------------------------------------------------
def _compare(active: LadderPolicy | None, document: Any) -> dict[str, Any]:
    """What a policy changes, in words and to the letter, and what there is against it."""
    return {
        "effects": ladder_effects(active.parsed() if active else None, Ladder.parse(document, path="$")),
        "differences": entry_differences(active.document if active else None, document),
        "problems": _problems(document),
    }


def _left_over(policy: LadderPolicy, active: LadderPolicy | None, *, now: datetime) -> list[dict[str, Any]]:
    """What has to be stood down before the policy can be in force, and where; nothing for the one that is.

    Shape: [{"activation": RungActivation, "why": str, "url": str}].
    """
    if policy == active:
        return []
    surfaces = active.document if active else {}
    return [
        {
            "activation": one,
            "why": why,
            "url": surface_url(one.surface) if one.surface in surfaces else reverse("ladder"),
        }
        for one, why in left_over(policy, now=now)
    ]


def _problems(document: Any) -> list[Problem]:
    """What there is against a policy, errors first."""
    return sorted(policy_problems(document), key=lambda problem: not problem.is_error)
