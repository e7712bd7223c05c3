"""The routing pages: the table in force with its lanes' health, other tables, and the way forward and back."""

from datetime import timedelta
from typing import Any, Final

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_safe

from controlplane.accounts.access import may, visible_tenants
from controlplane.console.drill_content import leavable
from controlplane.console.fires import FAILURE_RATE, MIN_ATTEMPTS
from controlplane.console.forms.routing import TableForm
from controlplane.console.requests import actor_of
from controlplane.console.routing_content import (
    idle_rows,
    lane_rows,
    live_copy,
    policies_of,
    reaches,
    route_rows,
    table_differences,
)
from controlplane.console.versions import list_context, version_pages
from controlplane.routing.access import table_access
from controlplane.routing.holds import active_holds
from controlplane.routing.matrix import table_problems
from controlplane.routing.models import RoutingTable
from controlplane.routing.thresholds import census
from controlplane.telemetry.lanes import lane_states
from controlplane.telemetry.traffic import lane_health

HOLD = "routing.hold_lane"
HEALTH_WINDOW: Final = timedelta(minutes=15)


@login_required
@require_safe
def routing_page(request: HttpRequest) -> HttpResponse:
    """The table in force: routes and lanes in order of preference, their health, and whom residency pins where."""
    now = timezone.now()
    operator = actor_of(request)
    context = list_context(request, table_access) | {
        "failure_percent": f"{FAILURE_RATE:.0%}",
        "min_attempts": MIN_ATTEMPTS,
        "generated_at": now,
    }
    if context["active"] is not None:
        table = context["active"].parsed()
        health = lane_health(since=now - HEALTH_WINDOW, until=now)
        standings, held = lane_states(now), active_holds(now)
        context |= {
            "tabs": tabs("routing"),
            "routes": route_rows(table, health, standings, held, live_copy()),
            "idle": idle_rows(table, lane_rows(table, health, standings, held)),
            "policies": policies_of(table),
            "census": census(table, today=now.date()),
            "may_hold": may(operator, HOLD),
            "may_see_copy": may(operator, "ladder.view_copy"),
            "leavable": leavable(table),
            "accounts": table.accounts.values(),
            "tenants": [{"tenant": tenant, "reaches": reaches(table, tenant)} for tenant in visible_tenants(operator)],
        }
    return render(request, "routing/routing.html", context)


# --- what the pages show ----------------------------------------------------------------------------------------------
def tabs(active: str) -> list[dict[str, Any]]:
    """The pages of routing, the one named `active` marked."""
    pages = {
        "routing": "Routes",
        "lane": "Lanes",
        "quotas": "Quota",
        "repairs": "Answers",
        "validators": "Validators",
        "drills": "Drills",
    }
    return [{"label": label, "url": reverse(name), "active": name == active} for name, label in pages.items()]


def _compare(active: RoutingTable | None, document: Any) -> dict[str, Any]:
    """What a table changes, and what the capability matrix has against it."""
    return {
        "differences": table_differences(active.document if active else None, document),
        "problems": table_problems(document),
    }


VERSIONS: Final = version_pages(
    table_access,
    TableForm,
    pages="routing",
    one_template="routing/table.html",
    new_template="routing/new.html",
    compare=_compare,
)
