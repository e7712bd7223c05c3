"""For how long payloads of dead letters are kept, and the erasure of what they say of one person."""

import re
from collections.abc import Mapping
from typing import Any, Final

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST

from controlplane.accounts.access import may, require, visible
from controlplane.accounts.models import Tenant
from controlplane.audit.models import AuditEvent
from controlplane.console.forms.deadletters import ErasureForm, RuleForm
from controlplane.console.requests import actor_of, reason_given, refused_into_form, went_through
from controlplane.console.timeline import timeline
from controlplane.console.views.deadletters import tabs
from controlplane.deadletters import retention
from controlplane.deadletters.access import ERASE, SET_RULES, visible_erasures, visible_rules
from controlplane.deadletters.erasures import Erasure, Kept
from controlplane.deadletters.subjects import erase_subject
from dataplane.deadletters import RETENTION_DAYS
from dataplane.idempotency import full_user_hash

SHOWN: Final = 50
# One of a kind, and several.
_WORDS: Final[Mapping[Kept, tuple[str, str]]] = {
    Kept.LETTERS: ("dead letter", "dead letters"),
    Kept.SUMMARIES: ("summary of a letter", "summaries of letters"),
    Kept.JOBS: ("job", "jobs"),
    Kept.REPLAYS: ("answer kept under a key", "answers kept under keys"),
    Kept.REPAIRS: ("answer kept to be completed", "answers kept to be completed"),
    Kept.TRANSCRIPTS: ("transcript", "transcripts"),
    Kept.SAMPLES: ("sample", "samples"),
    Kept.SHADOWS: ("comparison with a shadow", "comparisons with a shadow"),
    Kept.WORK: ("piece of durable work", "pieces of durable work"),
}
_HASH: Final = re.compile(r"[0-9a-f]{64}\Z")
_ACTIONS: Final = ("retention.set", "retention.removed")


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def rules(request: HttpRequest) -> HttpResponse:
    """Every rule of retention, and the form that sets one."""
    operator = actor_of(request)
    found = visible_rules(operator)
    may_set = may(operator, SET_RULES)
    posting = request.method == "POST"
    if posting:
        require(operator, SET_RULES)
    form = RuleForm(request.POST if posting else None, tenants=Tenant.objects.all())
    if posting and form.is_valid():
        data = form.cleaned_data
        rule = refused_into_form(form, lambda: retention.set_retention(**data, actor=operator, now=timezone.now()))
        if rule is not None:
            messages.success(request, f"Kept from now on: {rule}; it counts for what is kept already, too")
            return redirect("retention-rules")
    context: dict[str, Any] = {
        "tabs": tabs(operator, "retention-rules"),
        "rows": [{"rule": rule, "dialog": f"remove-{number}"} for number, rule in enumerate(found)],
        "form": form if may_set else None,
        "default_days": RETENTION_DAYS,
        "events": timeline(AuditEvent.objects.filter(action__in=_ACTIONS)[:10]),
    }
    return render(request, "deadletters/retention.html", context, status=400 if posting else 200)


@login_required
@require_POST
def rule_remove(request: HttpRequest) -> HttpResponse:
    """Have the next rule that fits count again."""
    operator = actor_of(request)
    known = visible_rules(operator)
    require(operator, SET_RULES)
    tenant, category = request.POST.get("tenant", ""), request.POST.get("category", "")
    rule = known.filter(tenant=tenant, category=category).first()
    if rule is None:
        raise Http404("there is no such rule")
    reason = reason_given(request)
    if reason is not None and went_through(
        request, lambda: retention.remove_retention(rule=rule, actor=operator, reason=reason, now=timezone.now())
    ):
        messages.success(request, f"Removed: {rule}")
    return redirect("retention-rules")


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def erase(request: HttpRequest) -> HttpResponse:
    """Erase what is kept of one user of a tenant, and see how far earlier erasures are."""
    operator = actor_of(request)
    tenants = visible(operator, Tenant.objects.all(), ERASE)
    has_tenants = tenants.exists()
    if not has_tenants and not may(operator, ERASE):
        require(operator, ERASE)
        raise PermissionDenied
    posting = request.method == "POST"
    form = ErasureForm(request.POST if posting else None, tenants=tenants)
    status = 400 if posting else 200
    if posting and form.is_valid():
        data = form.cleaned_data
        subject = data["user"] if _HASH.match(data["user"]) else full_user_hash(data["user"])
        done = refused_into_form(
            form,
            lambda: erase_subject(
                tenant=data["tenant"], user_hash=subject, reason=data["reason"], actor=operator, now=timezone.now()
            ),
        )
        if done is not None:
            held = f"; {len(done.held):,} stay, on legal hold" if done.held else ""
            messages.success(request, f"Erased: {went(done)}{held}; below you see when all of it is done")
            return redirect("erase-subject")
    context = {
        "tabs": tabs(operator, "erase-subject"),
        "form": form,
        "has_tenants": has_tenants,
        "lines": [
            {"erasure": one, "went": went(one), "left": left_of(one), "tone": "good" if one.is_done else "watch"}
            for one in visible_erasures(operator)[:SHOWN]
        ],
    }
    return render(request, "deadletters/erase.html", context, status=status)


def went(erasure: Erasure) -> str:
    """What an erasure came to, kind by kind: '2 dead letters, 1 job'."""
    said = [f"{number:,} {_WORDS[Kept(kind)][number > 1]}" for kind, number in erasure.counts.items() if number]
    return ", ".join(said) or "there was nothing"


def left_of(erasure: Erasure) -> str:
    """What is left to do of one; empty when it is done."""
    if erasure.is_done:
        return ""
    left = len(erasure.objects_left)
    if erasure.problem:
        stays = f"; {left:,} object{'' if left == 1 else 's'} not deleted yet" if left else ""
        return f"{erasure.problem}{stays}; it is tried again every minute"
    if left:
        return f"{left:,} object{'' if left == 1 else 's'} of the payload store to be deleted; nobody can read them"
    return f"gone over once more at {erasure.again_at:%H:%M} UTC, for what was under way"
