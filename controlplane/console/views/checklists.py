"""Promotions of shadowed lanes: open a checklist, look at its evidence, sign, give it up."""

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from controlplane.accounts.access import may
from controlplane.audit.models import AuditEvent
from controlplane.console.checklist_content import item_rows, sentence, state_pill, threshold_rows
from controlplane.console.forms.shadows import ChecklistForm
from controlplane.console.requests import actor_of, reason_given, refused_as_message, refused_into_form, went_through
from controlplane.console.timeline import timeline
from controlplane.shadows.access import OPEN, SIGN, access_checklist, access_shadow
from controlplane.shadows.checklists import InForce, open_checklist, sign_item, withdraw_checklist
from controlplane.shadows.evidence import evidence_for
from controlplane.shadows.models import ChecklistState, Item


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def checklist_new(request: HttpRequest, slug: str) -> HttpResponse:
    """Open a checklist for a candidate of a shadow; who does signs none of it."""
    operator = actor_of(request)
    found = access_shadow(operator, slug, "propose_routing")
    policy = found.table.shadows[slug]
    routes = [name for name, route in sorted(found.table.routes.items()) if route.shadow == policy]
    asked = {"lane": request.GET.get("lane", policy.lanes[0])}
    form = ChecklistForm(request.POST or None, routes=routes, lanes=policy.lanes, initial=asked)
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        opened = refused_into_form(
            form,
            lambda: open_checklist(
                route=data["route"],
                lane=data["lane"],
                reason=data["reason"],
                thresholds=form.thresholds,
                actor=operator,
                now=timezone.now(),
            ),
        )
        if opened is not None:
            messages.success(request, "Opened; every item needs two signatures, and none of yours")
            return redirect(opened)
    context = {"slug": slug, "form": form}
    return render(request, "shadows/checklist_new.html", context, status=400 if form.errors else 200)


@login_required
@require_safe
def checklist_page(request: HttpRequest, pk: int) -> HttpResponse:
    """One checklist: each item with what is measured now, who signed on which figures, and one click to sign."""
    now = timezone.now()
    operator = actor_of(request)
    checklist = access_checklist(operator, pk)
    current = InForce.now()
    changed = "no routing table is in force" if current is None else current.changed(checklist)
    is_open = checklist.state == ChecklistState.OPEN and current is not None and not changed
    evidence = evidence_for(checklist, current.document, now=now) if is_open and current is not None else {}
    rows = item_rows(checklist, evidence, changed=changed, signer=operator.audit_name, may_sign=may(operator, SIGN))
    context = {
        "checklist": checklist,
        "pill": state_pill(checklist, changed),
        "rows": rows,
        "sentence": sentence(checklist, rows, changed),
        "thresholds": threshold_rows(checklist.thresholds),
        "may_withdraw": checklist.is_standing and may(operator, OPEN),
        "is_open": is_open,
        "events": timeline(AuditEvent.objects.filter(target=checklist.audit_name)[:30]),
    }
    return render(request, "shadows/checklist.html", context)


@login_required
@require_POST
def checklist_sign(request: HttpRequest, pk: int, item: str) -> HttpResponse:
    """Put one's name under one item, with what the system measures of it at this moment."""
    operator = actor_of(request)
    checklist = access_checklist(operator, pk, "sign_off_routing")
    if item not in Item.values:
        messages.error(request, f"There is no item {item!r}")
        return redirect(checklist)
    signed = refused_as_message(
        request,
        lambda: sign_item(checklist=checklist, item=Item(item), operator=operator, now=timezone.now()),
    )
    if signed is not None:
        is_complete = signed.state == ChecklistState.COMPLETE
        said = "the checklist is complete" if is_complete else "its figures are frozen with your name"
        messages.success(request, f"Signed {Item(item).label.lower()!r}; {said}")
    return redirect(f"{checklist.get_absolute_url()}#{item}")


@login_required
@require_POST
def checklist_withdraw(request: HttpRequest, pk: int) -> HttpResponse:
    """Give a promotion up."""
    operator = actor_of(request)
    checklist = access_checklist(operator, pk, "propose_routing")
    reason = reason_given(request)
    if reason is not None and went_through(
        request,
        lambda: withdraw_checklist(checklist=checklist, reason=reason, actor=operator, now=timezone.now()),
    ):
        messages.success(request, "The promotion is given up")
    return redirect(checklist)
