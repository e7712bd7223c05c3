"""The lane pages: how workers hold a lane, what its breaker did and why, and on-call's own hand on it."""

from datetime import timedelta
from typing import Any, Final

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from controlplane.accounts.access import may
from controlplane.accounts.models import Tenant
from controlplane.console.abilities import abilities
from controlplane.console.forms.lanes import MINUTES, HoldForm, LetGoForm
from controlplane.console.lane_content import (
    effect_words,
    lamp,
    lane_charts,
    lane_events,
    lane_url,
    scope_words,
    steps,
)
from controlplane.console.policy_words import WITHOUT_QUOTA
from controlplane.console.requests import actor_of, went_through
from controlplane.console.routing_content import lane_rows
from controlplane.console.views.routing import tabs
from controlplane.routing import holds
from controlplane.routing.access import access_lane, access_routing, require_holder
from controlplane.routing.effects import pins_of
from controlplane.routing.matrix import known_of
from controlplane.routing.models import LaneHold, Mode
from controlplane.telemetry.lanes import lane_states, lane_workers
from controlplane.telemetry.traffic import lane_health

HOLD: Final = "routing.hold_lane"
HEALTH_WINDOW: Final = timedelta(minutes=15)
NO_REASON: Final = "no reason given"
_MOST_HOLDS: Final = 20
_MOST_WORKERS: Final = 100


@login_required
@require_safe
def lane_page(request: HttpRequest) -> HttpResponse:
    """One lane, named in the query because its id holds slashes; without one, all of them."""
    now = timezone.now()
    operator = actor_of(request)
    lane_id = request.GET.get("lane", "")
    found = access_lane(operator, lane_id) if lane_id else access_routing(operator)
    standings, held = lane_states(now), holds.active_holds(now)
    health = lane_health(since=now - HEALTH_WINDOW, until=now)
    context: dict[str, Any] = {"active": found.row, "may_hold": may(operator, HOLD), "generated_at": now}
    if not lane_id:
        context |= {"rows": lane_rows(found.table, health, standings, held), "tabs": tabs("lane")}
        return render(request, "routing/lanes.html", context)
    lane = found.table.lanes[lane_id]
    events = lane_events(lane_id)
    context |= {
        "lane": lane,
        "abilities": abilities(lane, known_of(found.table, lane)),
        "lamp": lamp(lane, standings.get(lane_id), held.get(lane_id)),
        "hold": held.get(lane_id),
        "without_quota": WITHOUT_QUOTA,
        "workers": lane_workers(lane_id, now=now, most=_MOST_WORKERS),
        "most_workers": _MOST_WORKERS,
        "places": [
            {"route": route.slug, "place": place}
            for route in found.table.routes.values()
            for place, one in enumerate(route.lanes, start=1)
            if one.id == lane_id
        ],
        "steps": steps(events),
        "charts": lane_charts(lane_id, events, now=now),
        "log": LaneHold.objects.filter(lane=lane_id)[:_MOST_HOLDS],
    }
    if context["may_hold"]:
        pins = pins_of(Tenant.objects.values_list("residency", flat=True))
        share = next((one.share for one in health if one.lane == lane_id), None)
        context |= {
            "scope": scope_words(found.table, lane_id, pins, share),
            "effects": {
                mode.value: effect_words(found.table, lane_id, mode, standings=standings, holds=held, pins=pins)
                for mode in (Mode.OPEN, Mode.CLOSED)
            },
            "minutes": MINUTES,
        }
    return render(request, "routing/lane.html", context)


@login_required
@require_POST
def lane_hold(request: HttpRequest) -> HttpResponse:
    """Hold a lane open or closed for a while."""
    now = timezone.now()
    operator = actor_of(request)
    require_holder(operator)
    form = HoldForm(request.POST)
    if not form.is_valid():
        messages.error(request, "Nothing is held: say which lane, open or closed, and for how long")
        return redirect("routing")
    data = form.cleaned_data
    if went_through(
        request,
        lambda: holds.hold_lane(
            lane=data["lane"],
            mode=Mode(data["mode"]),
            until=now + timedelta(minutes=data["minutes"]),
            reason=data["reason"].strip() or NO_REASON,
            actor=operator,
            now=now,
        ),
    ):
        messages.success(request, f"Held {data['mode']} for {MINUTES[data['minutes']]}; workers follow within a second")
        return redirect(lane_url(data["lane"]))
    return redirect("routing")


@login_required
@require_POST
def lane_let_go(request: HttpRequest) -> HttpResponse:
    """Give a lane back to its breaker."""
    now = timezone.now()
    operator = actor_of(request)
    require_holder(operator)
    form = LetGoForm(request.POST)
    if not form.is_valid():
        messages.error(request, "Say which lane")
        return redirect("routing")
    lane, reason = form.cleaned_data["lane"], form.cleaned_data["reason"].strip() or NO_REASON
    if went_through(request, lambda: holds.let_go(lane=lane, reason=reason, actor=operator, now=now)):
        messages.success(request, f"{lane} is automatic again; its breaker decides")
    return redirect("routing")
