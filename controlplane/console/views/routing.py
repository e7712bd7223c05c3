"""The routing pages: the table in force with its lanes' health, other tables, and the way forward and back."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from controlplane.accounts.access import may, visible_tenants
from controlplane.approvals.models import ChangeRequest
from controlplane.audit.models import AuditEvent
from controlplane.console.drill_content import leavable
from controlplane.console.fires import FAILURE_RATE, MIN_ATTEMPTS
from controlplane.console.forms.routing import TableForm, as_yaml
from controlplane.console.requests import actor_of, on_to_review, reason_given, refused_into_form, went_through
from controlplane.console.routing_content import (
    idle_rows,
    lane_rows,
    live_copy,
    policies_of,
    reaches,
    route_rows,
    table_differences,
)
from controlplane.console.timeline import timeline
from controlplane.routing import operations
from controlplane.routing.access import access_table, require_proposer, visible_tables
from controlplane.routing.holds import active_holds
from controlplane.routing.matrix import table_problems
from controlplane.routing.models import RoutingActivation, RoutingTable
from controlplane.routing.operations import routing_tables
from controlplane.routing.thresholds import census
from controlplane.telemetry.lanes import lane_states
from controlplane.telemetry.traffic import lane_health
from dataplane.routing import RoutingTable as Routing

PROPOSE = "routing.propose_routing"
HOLD = "routing.hold_lane"
HEALTH_WINDOW: Final = timedelta(minutes=15)
PAGE_SIZE = 20


@login_required
@require_safe
def routing_page(request: HttpRequest) -> HttpResponse:
    """The table in force: routes and lanes in order of preference, their health, and whom residency pins where."""
    now = timezone.now()
    operator = actor_of(request)
    page = Paginator(visible_tables(operator).defer("document"), PAGE_SIZE).get_page(request.GET.get("page"))
    active = routing_tables.active()
    context: dict[str, Any] = {
        "active": active,
        "activation": RoutingActivation.objects.first(),
        "page": page,
        "rows": _history(list(page), active),
        "may_propose": may(operator, PROPOSE),
        "failure_percent": f"{FAILURE_RATE:.0%}",
        "min_attempts": MIN_ATTEMPTS,
        "generated_at": now,
    }
    if active is not None:
        table = Routing.parse(active.document)
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


@login_required
@require_safe
def table_page(request: HttpRequest, number: int) -> HttpResponse:
    """One table: what differs from the one in force, its document, when it was in force, what waits for it."""
    operator = actor_of(request)
    table = access_table(operator, number)
    active = routing_tables.active()
    (row,) = _history([table], active)
    context = {
        "table": table,
        "active": active,
        "row": row,
        "activations": table.activations.all()[:20],
        "differences": table_differences(active.document if active else None, table.document),
        "document": as_yaml(table.document),
        "problems": table_problems(table.document),
        "may_propose": may(operator, PROPOSE),
        "return_title": f"Return to routing table {number}",
        "propose_title": f"Propose routing table {number}",
        "events": timeline(AuditEvent.objects.filter(target=table.audit_name)[:20]),
    }
    return render(request, "routing/table.html", context)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def table_new(request: HttpRequest) -> HttpResponse:
    """Write another table, see what it changes, then submit it: stored for ever, in force once people signed."""
    now = timezone.now()
    operator = actor_of(request)
    require_proposer(operator)
    active = routing_tables.active()
    start = active.document if active else routing_tables.empty
    if request.method != "POST":
        form = TableForm(initial={"document": as_yaml(start)})
        return render(request, "routing/new.html", {"form": form, "active": active})
    previewing = request.POST.get("action") == "preview"
    data = request.POST.copy()
    if previewing and not data.get("reason", "").strip():
        data["reason"] = " - "  # a preview needs no reason; the field shows what was typed
    form = TableForm(data)
    context: dict[str, Any] = {"form": form, "active": active}
    if not form.is_valid():
        return render(request, "routing/new.html", context, status=400)
    document, reason = form.cleaned_data["document"], form.cleaned_data["reason"]
    if previewing:
        data["reason"] = request.POST.get("reason", "")
        context |= {
            "form": TableForm(initial=data.dict()),
            "differences": table_differences(start, document),
            "problems": table_problems(document),
        }
        return render(request, "routing/new.html", context)
    table = refused_into_form(
        form, lambda: routing_tables.submit(document=document, rationale=reason, actor=operator, now=now)
    )
    if table is None:
        return render(request, "routing/new.html", context, status=409)
    return on_to_review(
        request,
        lambda: routing_tables.propose(version=table, reason=reason, actor=operator, now=now),
        said=lambda change: f"Submitted {table}; CR-{change.pk} waits in the approvers' inbox",
        back=table.get_absolute_url(),
    )


@login_required
@require_POST
def table_propose(request: HttpRequest, number: int) -> HttpResponse:
    """Open the change request that would put a stored table in force."""
    now = timezone.now()
    operator = actor_of(request)
    table = access_table(operator, number, "propose_routing")
    reason = reason_given(request)
    if reason is None:
        return redirect(table)
    return on_to_review(
        request,
        lambda: routing_tables.propose(version=table, reason=reason, actor=operator, now=now),
        said=lambda change: f"Opened CR-{change.pk}; approvers see it in their inbox",
        back=table.get_absolute_url(),
    )


@login_required
@require_POST
def table_return(request: HttpRequest, number: int) -> HttpResponse:
    """Put a table in force again that was before: one click, no sign-off."""
    now = timezone.now()
    operator = actor_of(request)
    table = access_table(operator, number, "propose_routing")
    reason = reason_given(request)
    if reason is None:
        return redirect(table)
    if went_through(request, lambda: routing_tables.return_to(version=table, actor=operator, reason=reason, now=now)):
        messages.success(request, f"{table} is in force; the release is on its way to the workers")
    return redirect("routing")


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


def _history(tables: Sequence[RoutingTable], active: RoutingTable | None) -> list[dict[str, Any]]:
    """Each table with where it stands; two queries however many.

    Shape: {"table", "state": in force | was in force | bypassed | proposed | submitted, "last": RoutingActivation or
    None, "change": the open ChangeRequest or None}.
    """
    last: dict[int, RoutingActivation] = {}
    approved: set[int] = set()
    for activation in RoutingActivation.objects.filter(version__in=tables).order_by("id"):
        last[activation.version_id] = activation
        if activation.lapses_at is None:
            approved.add(activation.version_id)
    proposed = {
        change.content["number"]: change
        for change in ChangeRequest.objects.open().filter(
            kind=operations.KIND_NAME, content__number__in=[table.number for table in tables]
        )
    }
    rows = []
    for table in tables:
        change = proposed.get(table.number)
        if active is not None and table.pk == active.pk:
            state = "in force"
        elif table.pk in approved:
            state = "was in force"
        elif change is not None:
            state = "proposed"
        else:
            state = "bypassed" if table.pk in last else "submitted"
        rows.append({"table": table, "state": state, "last": last.get(table.pk), "change": change})
    return rows
