"""The ladder policy's pages: what is in force in words, its numbers, other policies, and the way forward and back."""

from collections.abc import Sequence
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from controlplane.accounts.access import may
from controlplane.approvals.access import access_change
from controlplane.approvals.models import ChangeRequest
from controlplane.audit.models import AuditEvent
from controlplane.console.forms.ladder import PolicyForm
from controlplane.console.forms.routing import as_yaml
from controlplane.console.forms.thresholds import ThresholdsForm
from controlplane.console.ladder_policy_content import (
    SurfaceNumbers,
    group_of,
    ladder_effects,
    policy_differences,
    surface_words,
)
from controlplane.console.ladder_record import reading_charts
from controlplane.console.ladder_tried import TRIED, tried
from controlplane.console.requests import actor_of, on_to_review, reason_given, refused_into_form, went_through
from controlplane.console.timeline import timeline
from controlplane.console.views.ladder import PROPOSE, tabs
from controlplane.ladder import policies
from controlplane.ladder.access import (
    access_ladder,
    access_policy,
    access_surface,
    require_proposer,
    visible_policies,
)
from controlplane.ladder.checks import library, policy_problems
from controlplane.ladder.models import LadderPolicy, LadderPolicyActivation
from controlplane.ladder.policies import ladder_policies
from controlplane.ladder.thresholds import placed_thresholds
from controlplane.routing.thresholds import Census
from controlplane.telemetry.ladder_simulation import CAVEAT
from dataplane.ladder.policy import Ladder
from dataplane.prompts import Problem

PAGE_SIZE = 20


@login_required
@require_safe
def policy_page(request: HttpRequest) -> HttpResponse:
    """The policy in force in plain words, surface by surface, every number with its origin; and all other policies."""
    now = timezone.now()
    operator = actor_of(request)
    found = access_ladder(operator)
    page = Paginator(visible_policies(operator).defer("document"), PAGE_SIZE).get_page(request.GET.get("page"))
    known, today = library(), now.date()
    context = {
        "tabs": tabs("ladder-policy"),
        "active": found.row,
        "activation": LadderPolicyActivation.objects.select_related("version").first(),
        "surfaces": [surface_words(surface, known, today=today) for surface in found.ladder.values()],
        "census": Census.of(placed_thresholds(found.ladder), today=today),
        "problems": _problems(found.row.document) if found.row else [],
        "page": page,
        "rows": _history(list(page), found.row),
        "may_propose": may(operator, PROPOSE),
    }
    return render(request, "ladder/policy.html", context)


@login_required
@require_safe
def version_page(request: HttpRequest, number: int) -> HttpResponse:
    """One policy: what it changes against the one in force, its document, when it was in force, what waits for it."""
    operator = actor_of(request)
    policy = access_policy(operator, number)
    active = ladder_policies.active()
    (row,) = _history([policy], active)
    context = {
        "policy": policy,
        "active": active,
        "row": row,
        "activations": policy.activations.all()[:20],
        "effects": ladder_effects(active.parsed() if active else None, policy.parsed()),
        "differences": policy_differences(active.document if active else None, policy.document),
        "document": as_yaml(policy.document),
        "problems": _problems(policy.document),
        "may_propose": may(operator, PROPOSE),
        "return_title": f"Return to ladder policy {number}",
        "propose_title": f"Propose ladder policy {number}",
        "events": timeline(AuditEvent.objects.filter(target=policy.audit_name)[:20]),
    }
    return render(request, "ladder/policy_version.html", context)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def policy_new(request: HttpRequest) -> HttpResponse:
    """Write another policy, see what it changes, then submit it: stored for ever, in force once people signed."""
    now = timezone.now()
    operator = actor_of(request)
    require_proposer(operator)
    active = ladder_policies.active()
    start = active.document if active else dict(ladder_policies.empty)
    if request.method != "POST":
        form = PolicyForm(initial={"document": as_yaml(start)})
        return render(request, "ladder/policy_new.html", {"form": form, "active": active})
    previewing = request.POST.get("action") == "preview"
    data = request.POST.copy()
    if previewing and not data.get("reason", "").strip():
        data["reason"] = " - "  # a preview needs no reason; the field shows what was typed
    form = PolicyForm(data)
    context: dict[str, Any] = {"form": form, "active": active}
    if not form.is_valid():
        return render(request, "ladder/policy_new.html", context, status=400)
    document, reason = form.cleaned_data["document"], form.cleaned_data["reason"]
    if previewing:
        data["reason"] = request.POST.get("reason", "")
        context |= {
            "form": PolicyForm(initial=data.dict()),
            "effects": ladder_effects(active.parsed() if active else None, Ladder.parse(document, path="$")),
            "differences": policy_differences(start, document),
            "problems": _problems(document),
        }
        return render(request, "ladder/policy_new.html", context)
    policy = refused_into_form(
        form, lambda: ladder_policies.submit(document=document, rationale=reason, actor=operator, now=now)
    )
    if policy is None:
        return render(request, "ladder/policy_new.html", context, status=409)
    return on_to_review(
        request,
        lambda: ladder_policies.propose(version=policy, reason=reason, actor=operator, now=now),
        said=lambda change: f"Submitted {policy}; CR-{change.pk} waits in the approvers' inbox",
        back=policy_url(policy),
    )


@login_required
@require_POST
def policy_propose(request: HttpRequest, number: int) -> HttpResponse:
    """Open the change request that would put a stored policy in force."""
    now = timezone.now()
    operator = actor_of(request)
    policy = access_policy(operator, number, "propose_ladder")
    reason = reason_given(request)
    if reason is None:
        return redirect(policy_url(policy))
    return on_to_review(
        request,
        lambda: ladder_policies.propose(version=policy, reason=reason, actor=operator, now=now),
        said=lambda change: f"Opened CR-{change.pk}; approvers see it in their inbox",
        back=policy_url(policy),
    )


@login_required
@require_POST
def policy_return(request: HttpRequest, number: int) -> HttpResponse:
    """Put a policy in force again that was before: one click, no sign-off."""
    now = timezone.now()
    operator = actor_of(request)
    policy = access_policy(operator, number, "propose_ladder")
    reason = reason_given(request)
    if reason is None:
        return redirect(policy_url(policy))
    if went_through(request, lambda: ladder_policies.return_to(version=policy, actor=operator, reason=reason, now=now)):
        messages.success(request, f"{policy} is in force; the release is on its way to the workers")
    return redirect("ladder-policy")


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def numbers_page(request: HttpRequest, slug: str) -> HttpResponse:
    """The numbers of one surface, each with its origin, and the way to other ones."""
    now = timezone.now()
    operator = actor_of(request)
    posting = request.method == "POST"
    surface = access_surface(operator, slug, "propose_ladder" if posting else "view_ladderpolicy")
    active = access_ladder(operator).row
    assert active is not None  # noqa: S101 - narrows the type; the surface is of the policy in force
    form = ThresholdsForm(
        request.POST if posting else None,
        numbers=SurfaceNumbers(active.document, surface),
        thresholds=dict(surface.thresholds()),
        today=now.date(),
    )
    status = 200
    if posting and form.is_valid():
        change = refused_into_form(
            form,
            lambda: policies.propose_thresholds(
                slug=slug,
                changes={name: new for name, new in form.changes.items() if new is not None},
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
    context = {
        "surface": surface,
        "active": active,
        "form": form,
        "groups": _grouped(form),
        "charts": {chart.id: chart for chart in reading_charts(surface, now=now)},
        "may_propose": may(operator, PROPOSE),
    }
    return render(request, "ladder/numbers.html", context, status=status)


@login_required
@require_safe
def change_simulation(request: HttpRequest, pk: int) -> HttpResponse:
    """What the ladders that a change alters would have done; a page of its own, since it takes seconds."""
    change = access_change(actor_of(request), pk)
    found = tried(change, now=timezone.now())
    context = {"change": change, "tried": found, "days": TRIED.days, "caveat": CAVEAT}
    return render(request, "ladder/simulation.html", context)


# --- what the pages show ----------------------------------------------------------------------------------------------
def policy_url(policy: LadderPolicy) -> str:
    """The page of one policy."""
    return reverse("ladder-policy-version", args=[policy.number])


def _problems(document: Any) -> list[Problem]:
    """What there is against a policy, errors first."""
    return sorted(policy_problems(document), key=lambda problem: not problem.is_error)


def _grouped(form: ThresholdsForm) -> list[tuple[str, list[Any]]]:
    groups: dict[str, list[Any]] = {}
    for row in form.rows():
        groups.setdefault(group_of(row.name), []).append(row)
    return list(groups.items())


def _history(found: Sequence[LadderPolicy], active: LadderPolicy | None) -> list[dict[str, Any]]:
    """Each policy with where it stands; two queries however many.

    Shape: {"policy", "state": in force | was in force | bypassed | proposed | submitted, "last":
    LadderPolicyActivation or None, "change": the open ChangeRequest or None}.
    """
    last: dict[int, LadderPolicyActivation] = {}
    approved: set[int] = set()
    for activation in LadderPolicyActivation.objects.filter(version__in=found).order_by("id"):
        last[activation.version_id] = activation
        if activation.lapses_at is None:
            approved.add(activation.version_id)
    numbers = [policy.number for policy in found]
    proposed = {
        change.content["number"]: change
        for change in ChangeRequest.objects.open().filter(kind=policies.KIND_NAME, content__number__in=numbers)
    }
    rows = []
    for policy in found:
        change = proposed.get(policy.number)
        if active is not None and policy.pk == active.pk:
            state = "in force"
        elif policy.pk in approved:
            state = "was in force"
        elif change is not None:
            state = "proposed"
        else:
            state = "bypassed" if policy.pk in last else "submitted"
        rows.append({"policy": policy, "state": state, "last": last.get(policy.pk), "change": change})
    return rows
