"""The room of shadows: how each stands and what it found, the kill switch, the words of samples."""

from typing import Final

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from controlplane.accounts.access import may, visible
from controlplane.accounts.models import Tenant
from controlplane.audit.models import AuditEvent
from controlplane.console.checklist_content import state_pill
from controlplane.console.diffs import diff_rows
from controlplane.console.replay_content import answer_of
from controlplane.console.requests import actor_of, reason_given, went_through
from controlplane.console.shadow_content import ShadowView, charts, diff_words, sentence
from controlplane.console.timeline import timeline
from controlplane.routing.operations import routing_tables
from controlplane.shadows import operations
from controlplane.shadows.access import (
    KILL,
    OPEN,
    READ,
    access_sample,
    access_shadow,
    visible_checklists,
    visible_samples,
)
from controlplane.shadows.overview import overviews
from controlplane.shadows.reading import read_sample

SAMPLES_SHOWN: Final = 20
CHECKLISTS_SHOWN: Final = 10
EVENTS_SHOWN: Final = 10


@login_required
@require_safe
def shadows(request: HttpRequest) -> HttpResponse:
    """Every shadow of the table in force, and the promotions that wait for signatures."""
    now = timezone.now()
    operator = actor_of(request)
    checklists = visible_checklists(operator)
    row = routing_tables.active()
    table = None if row is None else row.parsed()
    views = [] if table is None else [ShadowView(one) for one in overviews(table, now=now)]
    context = {
        "views": views,
        "sentence": sentence(views) if views else None,
        "checklists": [(one, state_pill(one)) for one in checklists[:CHECKLISTS_SHOWN]],
        "may_propose": may(operator, OPEN),
    }
    return render(request, "shadows/shadows.html", context)


@login_required
@require_safe
def shadow_page(request: HttpRequest, slug: str) -> HttpResponse:
    """One shadow: what it asks and spends, how its candidate differs beyond noise, and some comparisons."""
    now = timezone.now()
    operator = actor_of(request)
    found = access_shadow(operator, slug)
    view = ShadowView(overviews(found.table, now=now, policy=slug)[0])
    samples = list(visible_samples(operator).filter(policy=slug).newest()[:SAMPLES_SHOWN])
    readable = set(visible(operator, Tenant.objects.filter(log_content=True), READ).values_list("slug", flat=True))
    context = {
        "view": view,
        "policy": view.standing.policy,
        "charts": charts(slug, now=now),
        "samples": [(one, diff_words(one.diff), one.texts is not None and one.tenant in readable) for one in samples],
        "checklists": [(one, state_pill(one)) for one in visible_checklists(operator).filter(policy=slug)],
        "may_kill": may(operator, KILL),
        "may_open": may(operator, OPEN),
        "events": timeline(AuditEvent.objects.filter(target=f"shadow:{slug}")[:EVENTS_SHOWN]),
    }
    return render(request, "shadows/shadow.html", context)


@login_required
@require_POST
def shadow_kill(request: HttpRequest, slug: str) -> HttpResponse:
    """Have nothing more asked under a policy."""
    now = timezone.now()
    operator = actor_of(request)
    access_shadow(operator, slug, "hold_lane")
    reason = reason_given(request)
    if reason is not None and went_through(
        request, lambda: operations.kill_shadow(policy=slug, reason=reason, actor=operator, now=now)
    ):
        messages.success(request, f"{slug} is killed; shadow processes obey within a second")
    return redirect("shadow", slug=slug)


@login_required
@require_POST
def shadow_lift(request: HttpRequest, slug: str) -> HttpResponse:
    """Let a killed policy go on."""
    now = timezone.now()
    operator = actor_of(request)
    access_shadow(operator, slug, "hold_lane")
    reason = reason_given(request)
    if reason is not None and went_through(
        request, lambda: operations.lift_shadow(policy=slug, reason=reason, actor=operator, now=now)
    ):
        messages.success(request, f"{slug} goes on; requests are asked again from now")
    return redirect("shadow", slug=slug)


@login_required
@require_safe
def shadow_sample(request: HttpRequest, slug: str, pk: int) -> HttpResponse:
    """The words of one comparison, for who may read them; the record says who did."""
    operator = actor_of(request)
    sample = access_sample(operator, slug, pk)
    texts = read_sample(sample=sample, actor=operator, now=timezone.now())
    sides = [answer_of({"text": texts[one], "tool_calls": texts[f"{one}_tools"]}) for one in ("control", "shadow")]
    context = {
        "sample": sample,
        "question": texts["question"],
        "groups": diff_rows(*sides),
        "words": diff_words(sample.diff),
    }
    return render(request, "shadows/sample.html", context)
