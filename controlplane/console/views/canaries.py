"""The canary pages: plan one, turn its knob, watch it beside its control, take it back."""

from datetime import datetime
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from controlplane import live
from controlplane.accounts.access import may
from controlplane.accounts.models import Operator
from controlplane.approvals import operations as approvals
from controlplane.approvals.operations import Examination
from controlplane.audit.models import AuditEvent
from controlplane.console.canary_dashboard import RANGES, dashboard
from controlplane.console.forms.canaries import BaseStages, PlanForm, StageFormSet, stage_initial
from controlplane.console.forms.fields import ReasonForm
from controlplane.console.forms.guardrails import GuardrailForm, guardrail_initial
from controlplane.console.lists import newest_page
from controlplane.console.requests import (
    actor_of,
    reason_given,
    refused_as_message,
    refused_into_form,
    went_through,
    whole_number,
)
from controlplane.console.stages import steps, stops
from controlplane.console.timeline import timeline
from controlplane.console.verdict_content import rail_chart, standing, tiles, unit_of
from controlplane.prompts.access import access_prompt, access_version
from controlplane.rollouts import operations
from controlplane.rollouts.access import access_canary, visible_canaries
from controlplane.rollouts.guardrails import DEFAULT_STAGE_EVIDENCE
from controlplane.rollouts.models import Canary, CanaryState, Gate, gate_of
from controlplane.telemetry.feed import CanaryFeed
from controlplane.verdicts.models import CanaryWatch
from controlplane.verdicts.references import held_out_sets, judges, suggested_guardrails
from controlplane.verdicts.watching import gap, read_watch

PAGE_SIZE = 25


@login_required
@require_safe
def canary_list(request: HttpRequest) -> HttpResponse:
    """Running canaries first, then planned ones, then what ended and how."""
    canaries = visible_canaries(actor_of(request))
    ended = canaries.exclude(state__in=[CanaryState.RUNNING, CanaryState.PLANNED])
    context = {
        "running": list(canaries.filter(state=CanaryState.RUNNING)),
        "planned": list(canaries.filter(state=CanaryState.PLANNED)),
        "page": newest_page(request, ended, size=PAGE_SIZE),
    }
    return render(request, "canaries/list.html", context)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def canary_plan(request: HttpRequest, slug: str, number: int) -> HttpResponse:
    """Plan a canary of a version against what is live."""
    now = timezone.now()
    operator = actor_of(request)
    prompt = access_prompt(operator, slug, "run_canary")
    version = access_version(operator, slug, number)
    if request.method != "POST":
        form = PlanForm(initial={"reason": version.rationale})
        stages = StageFormSet(initial=stage_initial(), prefix="stages")
        rails = _guardrail_form(initial=guardrail_initial(suggested_guardrails()))
        context = {"prompt": prompt, "version": version, "form": form, "stages": stages, "rails": rails}
        return render(request, "canaries/plan.html", context)
    form, stages, rails, adding = _typed(request)
    context = {"prompt": prompt, "version": version, "form": form, "stages": stages, "rails": rails}
    if not adding and all([form.is_valid(), stages.is_valid(), rails.is_valid()]):
        canary = refused_into_form(
            form,
            lambda: operations.plan_canary(
                candidate=version,
                unit=form.cleaned_data["unit"],
                stages=stages.stages(),
                guardrails=rails.guardrails(),
                reason=form.cleaned_data["reason"],
                actor=operator,
                now=now,
            ),
        )
        if canary is not None:
            messages.success(request, f"Planned {canary.slug}; CR-{canary.change_id} waits in the approvers' inbox")
            return redirect(canary)
    return render(request, "canaries/plan.html", context, status=200 if adding else 400)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def canary_edit(request: HttpRequest, slug: str) -> HttpResponse:
    """Edit a plan before its start; sign-offs so far become void."""
    now = timezone.now()
    operator = actor_of(request)
    canary = access_canary(operator, slug, "run_canary")
    asking = request.method != "POST"
    if asking:
        form = PlanForm(initial={"unit": canary.unit, "reason": canary.change.reason})
        stages = StageFormSet(initial=stage_initial(canary.stages), prefix="stages")
        rails = _guardrail_form(initial=guardrail_initial(canary.guardrails or suggested_guardrails()))
    else:
        form, stages, rails, asking = _typed(request)
        if not asking and all([form.is_valid(), stages.is_valid(), rails.is_valid()]):
            unit = form.cleaned_data["unit"]
            changed = refused_into_form(
                form,
                lambda: operations.change_plan(
                    canary=canary,
                    unit=unit,
                    stages=stages.stages(),
                    guardrails=rails.guardrails(),
                    actor=operator,
                    now=now,
                ),
            )
            if changed is not None:
                messages.success(request, f"Changed the plan of {canary.slug}; it needs its sign-offs anew")
                return redirect(canary)
    context = {
        "prompt": canary.prompt,
        "version": canary.candidate,
        "canary": canary,
        "form": form,
        "stages": stages,
        "rails": rails,
    }
    return render(request, "canaries/plan.html", context, status=200 if asking else 400)


@login_required
@require_safe
def canary_page(request: HttpRequest, slug: str) -> HttpResponse:
    """One canary: verdict in words, stepper, tiles per guardrail, canary beside control, the knob."""
    now = timezone.now()
    operator = actor_of(request)
    canary = access_canary(operator, slug)
    minutes = _range(request)
    examined = approvals.examine_one(canary.change, now=now)
    watch = read_watch(canary)
    context = {
        "canary": canary,
        "topic": _topic(canary),
        **_judged(canary, watch, now=now),
        **_steering(canary, watch, examined, operator),
        "prompt": canary.prompt,
        "steps": steps(canary, examined),
        "dashboard": dashboard(canary, minutes=minutes, now=now),
        "ranges": [{"label": label, "minutes": value, "active": value == minutes} for value, label in RANGES.items()],
        "first_gate": examined.standing(gate_of(canary.stages[0])),
        "roll_back_title": f"Roll back {canary.prompt.slug} to v{canary.control.number}",
        "roll_back_verb": f"Roll back to v{canary.control.number}",
        "promote_title": f"Promote v{canary.candidate.number} of {canary.prompt.slug}",
        "withdraw_title": f"Give up {canary.slug}",
        "events": timeline(AuditEvent.objects.filter(target=canary.audit_name)[:20]),
    }
    return render(request, "canaries/canary.html", context)


@login_required
@require_safe
def canary_verdict(request: HttpRequest, slug: str) -> HttpResponse:
    """The verdict, the numbers of the guardrails, and what they open, for a page that is open: it asks as often as
    somebody looks.
    """
    now = timezone.now()
    operator = actor_of(request)
    canary = access_canary(operator, slug)
    if not canary.is_running:
        # The page still offers to turn the knob of what has ended.
        return HttpResponse(headers={"HX-Refresh": "true"})
    watch = read_watch(canary)
    examined = approvals.examine_one(canary.change, now=now)
    context = {
        "canary": canary,
        **_judged(canary, watch, now=now),
        **_steering(canary, watch, examined, operator),
    }
    return render(request, "canaries/_judged.html", context)


@login_required
@require_safe
def canary_rail(request: HttpRequest, slug: str, rail: str) -> JsonResponse:
    """The chart of one guardrail, which its page draws anew as points come."""
    canary = access_canary(actor_of(request), slug)
    policy = canary.judged_by
    if policy is None or rail not in policy.margins:
        raise Http404(f"canary {slug!r} has no guardrail {rail!r}")
    return JsonResponse(rail_chart(canary, policy, rail))


@login_required
@require_safe
def canary_figures(request: HttpRequest, slug: str) -> JsonResponse:
    """What the topic of a canary carries, for browsers whose WebSocket is away: the polling floor.

    Shape: {"topic": str, "data": as `telemetry.feed.CanaryFeed.message`}.
    """
    canary = access_canary(actor_of(request), slug)
    return JsonResponse({"topic": _topic(canary), "data": CanaryFeed(canary.slug).message(now=timezone.now())})


@login_required
@require_POST
def canary_start(request: HttpRequest, slug: str) -> HttpResponse:
    """Begin with the first stage."""
    now = timezone.now()
    operator = actor_of(request)
    canary = access_canary(operator, slug, "run_canary")
    if refused_as_message(request, lambda: operations.start_canary(canary=canary, actor=operator, now=now)):
        messages.success(request, f"Started {canary.slug} at {canary.stages[0]['name']}")
    return redirect(canary)


@login_required
@require_POST
def canary_knob(request: HttpRequest, slug: str) -> HttpResponse:
    """Turn the knob to a stage."""
    now = timezone.now()
    operator = actor_of(request)
    canary = access_canary(operator, slug, "turn_knob")
    chosen, seen = (whole_number(request.POST.get(name, "")) for name in ("stage", "seen"))
    if chosen is None:
        messages.error(request, "Choose a stage")
        return redirect(canary)
    turned = refused_as_message(
        request, lambda: operations.turn_knob(canary=canary, position=chosen, seen=seen, actor=operator, now=now)
    )
    if turned is not None and turned.stage is not None:
        messages.success(request, f"{canary.slug} is at {turned.stage['name']}; the fleet page shows who serves it")
    return redirect(canary)


@login_required
@require_POST
def canary_promote(request: HttpRequest, slug: str) -> HttpResponse:
    """Make the candidate live."""
    now = timezone.now()
    operator = actor_of(request)
    canary = access_canary(operator, slug, "run_canary")
    if refused_as_message(request, lambda: operations.promote_canary(canary=canary, actor=operator, now=now)):
        messages.success(request, f"{canary.candidate} is live")
    return redirect(canary)


@login_required
@require_POST
def canary_roll_back(request: HttpRequest, slug: str) -> HttpResponse:
    """One click: everybody is served the control again."""
    now = timezone.now()
    operator = actor_of(request)
    canary = access_canary(operator, slug, "roll_back")
    form = ReasonForm(request.POST)
    # A roll-back at night must not fail for want of words: without a reason it happens all the same, and says so.
    reason = form.cleaned_data["reason"] if form.is_valid() else "no reason given"
    if refused_as_message(
        request, lambda: operations.roll_back_canary(canary=canary, reason=reason, actor=operator, now=now)
    ):
        messages.success(request, f"Rolled back to v{canary.control.number}; v{canary.candidate.number} is rejected")
    return redirect(canary)


@login_required
@require_POST
def canary_withdraw(request: HttpRequest, slug: str) -> HttpResponse:
    """Give up a canary that never started."""
    now = timezone.now()
    operator = actor_of(request)
    canary = access_canary(operator, slug, "run_canary")
    reason = reason_given(request)
    if reason is None:
        return redirect(canary)
    if went_through(request, lambda: operations.withdraw_canary(canary=canary, reason=reason, actor=operator, now=now)):
        messages.success(request, f"Gave up {canary.slug}")
    return redirect(canary)


# --- what the pages show ----------------------------------------------------------------------------------------------
def _typed(request: HttpRequest) -> tuple[PlanForm, BaseStages, GuardrailForm, bool]:
    """The posted plan, and whether one more empty stage was asked for; then nothing is judged yet."""
    data = request.POST.copy()
    adding = data.get("action") == "add"
    if adding:
        total = whole_number(data.get("stages-TOTAL_FORMS", "")) or 0
        data["stages-TOTAL_FORMS"] = str(min(total + 1, 20))
        for name, value in {"audience": "all", **DEFAULT_STAGE_EVIDENCE.to_json()}.items():
            data.setdefault(f"stages-{total}-{name}", str(value))
    form = PlanForm(initial=data.dict()) if adding else PlanForm(data)
    rails = _guardrail_form(initial=data.dict()) if adding else _guardrail_form(data)
    return form, StageFormSet(data, prefix="stages"), rails, adding


def _guardrail_form(*args: Any, **kwargs: Any) -> GuardrailForm:
    return GuardrailForm(*args, held_out=held_out_sets(), judges=judges(), **kwargs)


def _topic(canary: Canary) -> str:
    return live.canary_topic(canary.slug)


def _judged(canary: Canary, watch: CanaryWatch | None, *, now: datetime) -> dict[str, Any]:
    """The verdict, and each guardrail's tile with the place of its chart."""
    rails = [
        {
            "tile": tile,
            "id": f"rail-{tile.key}",
            "title": f"{tile.title}: worse than control by",
            "unit": unit_of(tile.key),
            "src": reverse("canary-rail", args=[canary.slug, tile.key]),
        }
        for tile in tiles(canary, watch)
    ]
    topic = live.verdict_topic(canary.slug)
    return {"standing": standing(canary, watch, now=now), "rails": rails, "verdict_topic": topic}


def _steering(canary: Canary, watch: CanaryWatch | None, examined: Examination, operator: Operator) -> dict[str, Any]:
    """The stops of the knob and what else the operator may do to a running canary, as people and evidence allow."""

    def unproven(position: int) -> str | None:
        return gap(canary, watch, position=position, now=examined.at)

    return {
        "stops": stops(canary, examined, unproven=unproven) if canary.is_running else [],
        "unproven": unproven(len(canary.stages)) if canary.is_running else None,
        "seen": {"seen": canary.position},
        "may_knob": may(operator, "prompts.turn_knob", canary.prompt),
        "may_run": may(operator, "prompts.run_canary", canary.prompt),
        "may_roll_back": may(operator, "prompts.roll_back", canary.prompt),
        "live_gate": examined.standing(Gate.LIVE),
    }


def _range(request: HttpRequest) -> int:
    """The minutes that the charts show; the first of RANGES unless another of them was asked for."""
    asked = whole_number(request.GET.get("minutes", ""))
    return asked if asked in RANGES else next(iter(RANGES))
