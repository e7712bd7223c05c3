"""The pages of redrives: plan one, see what its dry run says, have it signed, watch it, stop it, read its report."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from controlplane.accounts.models import Operator
from controlplane.approvals import operations as approvals
from controlplane.audit.models import AuditEvent
from controlplane.console.deadletter_words import PLAN_TONES, group_sentence, tenant_words
from controlplane.console.forms.deadletters import PlanForm
from controlplane.console.lists import newest_page
from controlplane.console.redrive_content import Progress, duration_words, edit_diffs, item_lines, start_effect
from controlplane.console.requests import actor_of, reason_given, refused_as_message, refused_into_form, went_through
from controlplane.console.timeline import timeline
from controlplane.console.views.deadletters import tabs
from controlplane.deadletters import redrive
from controlplane.deadletters.access import (
    REDRIVE,
    access_group,
    access_letter,
    access_plan,
    may_redrive,
    require_letters,
    visible_plans,
)
from controlplane.deadletters.plans import ENDED, PlanState, RedrivePlan
from controlplane.deadletters.redrive import Choice
from controlplane.ledger.newest import uuid_of

PAGE_SIZE: Final = 25
_ACTS: Final[dict[str, tuple[Callable[..., None], str]]] = {
    "pause": (redrive.pause_plan, "Paused; what was handed in goes on"),
    "resume": (redrive.resume_plan, "It goes on, at the pace that it begins with"),
    "stop": (redrive.stop_plan, "Stopped for good; what was handed in goes on"),
    "withdraw": (redrive.withdraw_plan, "The plan is given up; its letters stay as they are"),
}


@login_required
@require_safe
def redrive_plans(request: HttpRequest) -> HttpResponse:
    """Every plan that the reader may look at, newest first."""
    operator = actor_of(request)
    page = newest_page(request, visible_plans(operator), size=PAGE_SIZE, parse=uuid_of)
    lines = [
        {
            "plan": plan,
            "tone": PLAN_TONES[PlanState(plan.state)],
            "whose": ", ".join(tenant_words(tenant) for tenant in plan.tenants),
        }
        for plan in page.rows
    ]
    context = {"tabs": tabs(operator, "redrive-plans"), "lines": lines, "page": page}
    return render(request, "deadletters/plans.html", context)


# --- planning --------------------------------------------------------------------------------------------------------
@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def redrive_new(request: HttpRequest, fingerprint: str) -> HttpResponse:
    """Plan a redrive of a group's open letters, and begin its dry run."""
    operator = actor_of(request)
    group, parts = access_group(operator, fingerprint)
    tenants = require_letters(operator, REDRIVE)
    seen = [part for part in parts if tenants is None or part.tenant in tenants]
    size = sum(part.open for part in seen)
    form = PlanForm(request.POST or None, size=size)
    context = {
        "group": group,
        "form": form,
        "sentence": group_sentence(group),
        "size": size,
        "whose": ", ".join(tenant_words(part.tenant) for part in seen if part.open),
        "back": group.pk,
    }
    if request.method != "POST":
        return render(request, "deadletters/new.html", context)
    choice = Choice(fingerprint=fingerprint, tenants=[part.tenant for part in seen])
    return _planned(request, operator, form, choice, context)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def redrive_letter(request: HttpRequest, letter_id: UUID) -> HttpResponse:
    """Plan a redrive of one letter, and begin its dry run."""
    operator = actor_of(request)
    letter = access_letter(operator, letter_id, "redrive_deadletter")
    form = PlanForm(request.POST or None)
    context = {"letter": letter, "form": form, "size": 1, "whose": tenant_words(letter.tenant)}
    if request.method != "POST":
        return render(request, "deadletters/new.html", context)
    return _planned(request, operator, form, Choice(letters=[letter.pk]), context)


def _planned(
    request: HttpRequest, operator: Operator, form: PlanForm, choice: Choice, context: dict[str, Any]
) -> HttpResponse:
    now = timezone.now()
    if form.is_valid():
        plan = refused_into_form(form, lambda: _plan(form, choice, operator, now))
        if plan is not None:
            messages.success(request, "Planned; the dry run has begun, and nothing is handed in")
            return redirect(plan)
    return render(request, "deadletters/new.html", context, status=400)


def _plan(form: PlanForm, choice: Choice, operator: Operator, now: datetime) -> RedrivePlan:
    data = form.cleaned_data
    if choice.fingerprint:
        choice = Choice(
            fingerprint=choice.fingerprint,
            tenants=choice.tenants,
            since=data["since"],
            until=data["until"],
            most=data["most"],
        )
    plan = redrive.plan_redrive(
        choice=choice, reason=data["reason"], actor=operator, now=now, edit=form.patch, settings=form.settings
    )
    return redrive.begin_dry_run(plan=plan, actor=operator, now=now)


# --- one plan --------------------------------------------------------------------------------------------------------
@login_required
@require_safe
def redrive_plan(request: HttpRequest, plan_id: UUID) -> HttpResponse:
    """One plan: how far it is, what its dry run says, who has to sign, what came of each letter."""
    now = timezone.now()
    operator = actor_of(request)
    plan = access_plan(operator, plan_id)
    progress = Progress.of(plan)
    page = Paginator(plan.items.with_letters(), PAGE_SIZE).get_page(request.GET.get("page"))
    standing = None
    if plan.state == PlanState.PROPOSED and plan.change is not None:
        standing = approvals.examine_one(plan.change, now=now).standing("apply")
    acts = may_redrive(operator, plan)
    is_steered = acts and plan.state in {PlanState.CANARY, PlanState.RAMP, PlanState.PAUSED}
    context = {
        "plan": plan,
        "progress": progress,
        "tone": progress.tone,
        "state_words": plan.state.replace("_", " "),
        "steps": progress.steps(),
        "bar": progress.bar(),
        "lines": item_lines(list(page)),
        "page": page,
        "whose": ", ".join(tenant_words(tenant) for tenant in plan.tenants),
        "standing": standing,
        "may_check": acts and plan.state in {PlanState.PLANNED, PlanState.CHECKED},
        "may_open": acts and plan.state == PlanState.CHECKED and progress.would_run > 0,
        "may_start": acts and standing is not None,
        "may_withdraw": acts and plan.state in {PlanState.PLANNED, PlanState.CHECKING, PlanState.CHECKED},
        "may_pause": is_steered and plan.state != PlanState.PAUSED,
        "may_resume": is_steered and plan.state == PlanState.PAUSED,
        "may_stop": is_steered,
        "is_over": plan.state in ENDED,
        "took": duration_words(plan, now=now),
        "start_effect": start_effect(plan),
        "diffs": edit_diffs(plan),
        "events": timeline(AuditEvent.objects.filter(target=plan.audit_name)[:20]),
    }
    return render(request, "deadletters/plan.html", context)


@login_required
@require_POST
def redrive_check(request: HttpRequest, plan_id: UUID) -> HttpResponse:
    """Begin the dry run anew."""
    operator = actor_of(request)
    plan = access_plan(operator, plan_id, to_redrive=True)
    if went_through(request, lambda: redrive.begin_dry_run(plan=plan, actor=operator, now=timezone.now())):
        messages.success(request, "The dry run has begun; nothing is handed in")
    return redirect("redrive-plan", plan_id=plan.pk)


@login_required
@require_POST
def redrive_open(request: HttpRequest, plan_id: UUID) -> HttpResponse:
    """Open the change request by which a plan is signed."""
    operator = actor_of(request)
    plan = access_plan(operator, plan_id, to_redrive=True)
    change = refused_as_message(request, lambda: redrive.propose_plan(plan=plan, actor=operator, now=timezone.now()))
    if change is not None:
        asks = any(gate["apply"] for gate in [change.rule["gates"]] if "apply" in gate)
        words = "waits in the approvers' inbox" if asks else "needs no sign-off; start it when you are ready"
        messages.success(request, f"CR-{change.pk} {words}")
    return redirect("redrive-plan", plan_id=plan.pk)


@login_required
@require_POST
def redrive_start(request: HttpRequest, plan_id: UUID) -> HttpResponse:
    """Carry the change request out: the canary begins."""
    operator = actor_of(request)
    plan = access_plan(operator, plan_id, to_redrive=True)
    change = plan.change
    if change is None:
        messages.error(request, "Nothing is handed in: open the plan for its sign-offs first")
    elif went_through(request, lambda: approvals.apply_change(change=change, actor=operator, now=timezone.now())):
        messages.success(request, f"Started: the canary hands in {plan.canary_letters}, one at a time")
    return redirect("redrive-plan", plan_id=plan.pk)


def _act(request: HttpRequest, plan_id: UUID, act: str) -> HttpResponse:
    operator = actor_of(request)
    plan = access_plan(operator, plan_id, to_redrive=True)
    operation, words = _ACTS[act]
    reason = reason_given(request)
    if reason is not None and went_through(
        request, lambda: operation(plan=plan, actor=operator, reason=reason, now=timezone.now())
    ):
        messages.success(request, words)
    return redirect("redrive-plan", plan_id=plan.pk)


@login_required
@require_POST
def redrive_pause(request: HttpRequest, plan_id: UUID) -> HttpResponse:
    """Hand nothing more in until it is resumed."""
    return _act(request, plan_id, "pause")


@login_required
@require_POST
def redrive_resume(request: HttpRequest, plan_id: UUID) -> HttpResponse:
    """Go on."""
    return _act(request, plan_id, "resume")


@login_required
@require_POST
def redrive_stop(request: HttpRequest, plan_id: UUID) -> HttpResponse:
    """Hand nothing more in, for good."""
    return _act(request, plan_id, "stop")


@login_required
@require_POST
def redrive_withdraw(request: HttpRequest, plan_id: UUID) -> HttpResponse:
    """Give a plan up before it begins."""
    return _act(request, plan_id, "withdraw")
