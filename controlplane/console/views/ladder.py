"""The ladder as it stands: what users read on each surface, and the way to engage a rung or to stand it down."""

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.text import capfirst
from django.views.decorators.http import require_http_methods, require_safe

from controlplane.accounts.access import may
from controlplane.audit.models import AuditEvent
from controlplane.console import demo_rush
from controlplane.console.forms.ladder import MINUTES, EngageForm
from controlplane.console.ladder_engaging import confirmed, engaged_already, sheet
from controlplane.console.ladder_now import SurfaceNow, surface_url, surfaces_now
from controlplane.console.ladder_record import episode_rows, reading_charts
from controlplane.console.ladder_words import clock, rung_shown, scope_shown
from controlplane.console.requests import actor_of, refused_as_message, refused_into_form, went_through
from controlplane.console.timeline import timeline
from controlplane.ladder import rungs
from controlplane.ladder.access import access_activation, access_surface, policy_access, require_engager
from controlplane.ladder.models import RungMode, surface_name
from controlplane.telemetry.surfaces import ladder_standings
from dataplane.ladder.policy import MAINTENANCE, OFF, Ladder

ENGAGE = "ladder.engage_rung"
NO_REASON = "no reason given"
SIGNED_OUT = "Nothing was changed: the page asks for a tap of yours, and this was only a link. Tap again"
_MOST_EVENTS = 12


@login_required
@require_safe
def now_page(request: HttpRequest) -> HttpResponse:
    """Every surface in one look: what users read now, on which rung, by whom, and how far triggers are from moving."""
    now = timezone.now()
    operator = actor_of(request)
    found = policy_access.in_force(operator)
    context = {
        "tabs": tabs("ladder"),
        "policy": found.row,
        "surfaces": surfaces_now(found.parsed, ladder_standings(now), now=now),
        "may_engage": may(operator, ENGAGE),
        "may_propose": policy_access.may_propose(operator),
        "rush": demo_rush.current(now) if settings.DEMO else None,
        "generated_at": now,
    }
    return render(request, "ladder/now.html", context)


@login_required
@require_safe
def surface_page(request: HttpRequest, slug: str) -> HttpResponse:
    """One surface in depth: the same, who of the workers engaged it, what its triggers read, and what happened."""
    now = timezone.now()
    operator = actor_of(request)
    surface = access_surface(operator, slug)
    row = _row(slug, Ladder({slug: surface}), now=now)
    context = {
        "row": row,
        "surface": surface,
        "confirmed": confirmed(row.engaged, now=now),
        "charts": reading_charts(surface, now=now),
        "episodes": episode_rows(slug, now=now),
        "may_engage": may(operator, ENGAGE),
        "events": timeline(AuditEvent.objects.filter(target=surface_name(slug))[:_MOST_EVENTS]),
        "generated_at": now,
    }
    return render(request, "ladder/surface.html", context)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def engage(request: HttpRequest, slug: str, number: int) -> HttpResponse:
    """Engage a rung. The first tap asks for this sheet, everything on it filled in; the second sends it.

    Raises:
        Http404: no such surface is in force, or it has no such rung.
    """
    now = timezone.now()
    operator = actor_of(request)
    surface = access_surface(operator, slug, "engage_rung")
    if number not in surface.rungs:
        raise Http404(f"surface {slug!r} has no rung {number} in the policy in force")
    regions = rungs.known_regions(now)
    usual = EngageForm.usual(regions=regions)
    if request.method != "POST":
        asked = request.GET if "minutes" in request.GET else None
        form = EngageForm(asked, regions=regions, initial=usual)
        return _sheet(request, sheet(surface, number, form, now=now))
    form = EngageForm(request.POST, regions=regions, initial=usual)
    if not form.is_valid():
        return _sheet(request, sheet(surface, number, form, now=now), status=400)
    scope, minutes = form.scope(), form.cleaned_data["minutes"]
    twice = engaged_already(slug, number, scope, minutes=minutes, actor=operator.username, now=now)
    if twice is not None:
        messages.success(request, f"{capfirst(rung_shown(number))} is engaged already, until {clock(twice.until)}")
        return redirect(f"{surface_url(slug)}#confirmation")
    row = refused_into_form(
        form,
        lambda: rungs.engage_rung(
            surface=slug,
            rung=number,
            **scope,
            until=now + timedelta(minutes=minutes),
            reason=form.reason,
            actor=operator,
            now=now,
        ),
    )
    if row is None:
        return _sheet(request, sheet(surface, number, form, now=now), status=409)
    whom = scope_shown(scope["regions"], scope["tiers"])
    said = f"{capfirst(rung_shown(number))}, for {whom} on {surface.title}, ends after {MINUTES[minutes]}"
    messages.success(request, f"{said}; it is on its way to every worker")
    return redirect(f"{surface_url(slug)}#confirmation")


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def stand_down(request: HttpRequest, slug: str) -> HttpResponse:
    """End all that is engaged on a surface: one tap. Triggers that pressed it up are held down for a while."""
    now = timezone.now()
    operator = actor_of(request)
    require_engager(operator)
    if request.method != "POST":  # the way back from signing in leads here
        messages.error(request, SIGNED_OUT)
        return redirect(_back(operator, slug))
    told = ladder_standings(now).get(slug)
    is_held_up = told is not None and told.level > OFF
    ended = refused_as_message(
        request,
        lambda: rungs.stand_down(surface=slug, reason=_reason(request), actor=operator, now=now, is_held_up=is_held_up),
    )
    if ended is not None:
        messages.success(request, _stood_down(slug, [one.activation.rung for one in ended], is_held_up))
    return redirect(_back(operator, slug))


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def end_one(request: HttpRequest, pk: int) -> HttpResponse:
    """End one activation, or let triggers go that were held down: one tap."""
    now = timezone.now()
    operator = actor_of(request)
    row = access_activation(operator, pk, "engage_rung")
    if request.method != "POST":
        messages.error(request, SIGNED_OUT)
        return redirect(_back(operator, row.surface))
    if went_through(
        request,
        lambda: rungs.stand_down_one(activation=row, reason=_reason(request), actor=operator, now=now),
    ):
        messages.success(request, f"{capfirst(row.said)} is over; the release is on its way to the workers")
    return redirect(_back(operator, row.surface))


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def engage_again(request: HttpRequest, pk: int) -> HttpResponse:
    """Take back that a rung was stood down: it is engaged again for the same callers until the same time."""
    now = timezone.now()
    operator = actor_of(request)
    row = access_activation(operator, pk, "engage_rung")
    back = redirect(_back(operator, row.surface))
    if request.method != "POST":
        messages.error(request, SIGNED_OUT)
        return back
    if row.mode != RungMode.ENGAGE or not row.is_stood_down:
        messages.error(request, f"{capfirst(row.said)} was not stood down, so there is nothing to take back")
        return back
    if engaged_already(row.surface, row.rung, {"regions": row.regions, "tiers": row.tiers}, actor=None, now=now):
        messages.success(request, f"{capfirst(row.said)} is engaged already")
        return back
    if went_through(
        request,
        lambda: rungs.engage_rung(
            surface=row.surface,
            rung=row.rung,
            regions=row.regions,
            tiers=row.tiers,
            until=row.until,
            reason=f"again: {row.reason}",
            actor=operator,
            now=now,
        ),
    ):
        messages.success(request, f"{capfirst(row.said)} is on its way to every worker again")
    return back


# --- what the pages share ---------------------------------------------------------------------------------------------
def tabs(active: str) -> list[dict[str, Any]]:
    """The pages of the ladder, the one named `active` marked."""
    pages = {"ladder": "Now", "ladder-policy": "Policy", "ladder-capacity": "Capacity", "copies": "Copy"}
    return [{"label": label, "url": reverse(name), "active": name == active} for name, label in pages.items()]


def _row(slug: str, ladder: Ladder, *, now: Any) -> SurfaceNow:
    (row,) = surfaces_now(ladder, {one: told for one, told in ladder_standings(now).items() if one == slug}, now=now)
    return row


def _sheet(request: HttpRequest, context: dict[str, Any], *, status: int = 200) -> HttpResponse:
    """A part that opens over the page where a script asked for it, else a page of its own."""
    template = "ladder/_sheet_dialog.html" if request.headers.get("HX-Request") else "ladder/engage.html"
    return render(request, template, context, status=status)


def _back(operator: Any, slug: str) -> str:
    """The surface's page; that of all, where the policy in force no longer has it."""
    return surface_url(slug) if slug in policy_access.in_force(operator).parsed else reverse("ladder")


def _reason(request: HttpRequest) -> str:
    return request.POST.get("reason", "").strip()[:1000] or NO_REASON


def _stood_down(slug: str, numbers: list[int], is_held_up: bool) -> str:
    if not numbers and not is_held_up:
        return f"Nothing was engaged on {slug} any more; nothing was changed"
    parts = []
    if numbers:
        parts.append(f"Stood down {slug}, which was on {rung_shown(min(max(numbers), MAINTENANCE))}")
    if is_held_up:
        parts.append(f"its triggers pressed, so they are held down for {rungs.STAND_DOWN_MINUTES} min")
    return capfirst("; ".join(parts))
