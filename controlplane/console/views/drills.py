"""The drill pages: leave a provider on purpose, watch it, and turn what was measured into a proposal."""

from collections.abc import Callable
from typing import Any, Final

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from controlplane.accounts.access import may
from controlplane.approvals.models import ChangeRequest
from controlplane.audit.models import AuditEvent
from controlplane.console.drill_content import lane_rows, leavable, preview, proposal, why_not_for_good
from controlplane.console.forms.drills import DrillForm, subject_of
from controlplane.console.requests import actor_of, on_to_review, reason_given, refused_into_form, went_through
from controlplane.console.timeline import timeline
from controlplane.console.views.routing import tabs
from controlplane.routing import drills
from controlplane.routing.access import access_drill, access_routing, require_holder, table_access, visible_drills
from controlplane.routing.drill_words import findings
from controlplane.routing.holds import active_holds
from controlplane.routing.models import Mode
from controlplane.routing.operations import routing_tables
from controlplane.telemetry.drills import result_or_live
from controlplane.telemetry.lanes import open_now

HOLD: Final = "routing.hold_lane"
PAGE_SIZE: Final = 20


@login_required
@require_safe
def drill_list(request: HttpRequest) -> HttpResponse:
    """Every drill with what it showed, and the providers that can be left."""
    now = timezone.now()
    operator = actor_of(request)
    page = Paginator(visible_drills(operator), PAGE_SIZE).get_page(request.GET.get("page"))
    running = drills.running_drill(now)
    active = routing_tables.active()
    context = {
        "tabs": tabs("drills") if active is not None else [],
        "page": page,
        "rows": [
            {
                "drill": drill,
                "is_running": running is not None and running.pk == drill.pk,
                "result": getattr(drill, "result", None),
                "findings": findings(drill, drill.result.figures)[:3] if hasattr(drill, "result") else [],
            }
            for drill in page
        ],
        "choices": leavable(active.parsed()) if active is not None else [],
        "running": running,
        "may_hold": may(operator, HOLD),
    }
    return render(request, "routing/drills.html", context)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def drill_new(request: HttpRequest) -> HttpResponse:
    """Choose what to leave, see what that does, and start."""
    now = timezone.now()
    operator = actor_of(request)
    require_holder(operator)
    found = access_routing(operator)
    choices = leavable(found.table)
    lanes = sorted(lane.id for lane in found.table.lanes.values() if lane.breaker is not None)
    asking = request.method != "POST"
    first = f"provider:{choices[0].slug}" if choices else ""
    target = (request.GET if asking else request.POST).get("target", "") or first
    form = DrillForm(
        None if asking else request.POST,
        providers=[choice.slug for choice in choices],
        lanes=lanes,
        initial={"target": target, "minutes": request.GET.get("minutes", 10)},
    )
    gone = open_now(now)
    status = 200
    if not asking:
        status = 400
        if form.is_valid():
            drill = refused_into_form(
                form,
                lambda: drills.start_drill(
                    **form.subject(),
                    minutes=form.cleaned_data["minutes"],
                    reason=form.cleaned_data["reason"],
                    accept_left_out=form.cleaned_data["accept"],
                    actor=operator,
                    now=now,
                    gone=gone,
                ),
            )
            if drill is not None:
                messages.success(request, f"{drill} began; workers follow within a second")
                return redirect(drill)
            status = 409
    held = [lane for lane, hold in active_holds(now).items() if hold.mode == Mode.OPEN]
    context = {
        "form": form,
        "target": target,
        "preview": preview(found.table, subject_of(target), gone=[*gone, *held]),
        "running": drills.running_drill(now),
    }
    return render(request, "routing/drill_new.html", context, status=status)


@login_required
@require_safe
def drill_page(request: HttpRequest, pk: int) -> HttpResponse:
    """One drill: live while it runs, its result after that, and what it taught."""
    now = timezone.now()
    operator = actor_of(request)
    drill = access_drill(operator, pk)
    active = routing_tables.active()
    figures = result_or_live(drill, now=now)
    is_final = hasattr(drill, "result")
    may_propose = table_access.may_propose(operator)
    context: dict[str, Any] = {
        "drill": drill,
        "is_running": drills.is_running(drill, now),
        "is_final": is_final,
        "figures": figures,
        "findings": findings(drill, figures),
        "rows": lane_rows(figures),
        "may_hold": may(operator, HOLD),
        "may_propose": may_propose,
        "events": timeline(AuditEvent.objects.filter(target=drill.audit_name)[:20]),
    }
    if is_final and active is not None:
        learned = drills.learned_from(drill, on=now)
        context["proposal"] = proposal(active, drill, learned, today=now.date())
    if is_final:
        context |= {
            "not_for_good": why_not_for_good(active, drill),
            "leave_title": f"Propose leaving {drill.subject} for good",
        }
    return render(request, "routing/drill.html", context)


@login_required
@require_POST
def drill_end(request: HttpRequest, pk: int) -> HttpResponse:
    """Let its lanes go at once: one click."""
    now = timezone.now()
    operator = actor_of(request)
    drill = access_drill(operator, pk, "hold_lane")
    reason = request.POST.get("reason", "").strip()[:2000] or "no reason given"
    if went_through(request, lambda: drills.end_drill(drill=drill, reason=reason, actor=operator, now=now)):
        messages.success(request, f"{drill.subject} is used again; the figures are final within two minutes")
    return redirect(drill)


@login_required
@require_POST
def drill_propose(request: HttpRequest, pk: int) -> HttpResponse:
    """Propose what it measured in the place of guesses."""
    return _propose(request, pk, drills.propose_lessons)


@login_required
@require_POST
def drill_leave(request: HttpRequest, pk: int) -> HttpResponse:
    """Propose to leave its provider for good."""
    return _propose(request, pk, drills.propose_leaving)


def _propose(request: HttpRequest, pk: int, operation: Callable[..., ChangeRequest]) -> HttpResponse:
    now = timezone.now()
    operator = actor_of(request)
    drill = access_drill(operator, pk, "propose_routing")
    reason = reason_given(request)
    if reason is None:
        return redirect(drill)
    return on_to_review(
        request,
        lambda: operation(drill=drill, reason=reason, actor=operator, now=now),
        said=lambda change: f"Proposed; CR-{change.pk} waits in the approvers' inbox",
        back=drill.get_absolute_url(),
    )
