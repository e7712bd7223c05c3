"""The pages of answers that were to be JSON: how they came, what was wrong, and those that wait to be completed."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.http import urlencode
from django.views.decorators.http import require_http_methods, require_safe

from controlplane.accounts.access import may_somewhere
from controlplane.accounts.models import Operator
from controlplane.audit.models import AuditEvent
from controlplane.console.forms.repairs import CompleteForm, RepairsForm
from controlplane.console.lists import page_by_key
from controlplane.console.repair_content import (
    MOST_ROWS,
    SORTS,
    Groups,
    mode_chart,
    mode_rows,
    policies_in_words,
    rung_chart,
    unrepaired_routes,
)
from controlplane.console.repair_words import mode_words, wanted_words
from controlplane.console.requests import actor_of, refused_into_form
from controlplane.console.timeline import timeline
from controlplane.console.views.outcomes import PERIODS, Asked, outcomes_asked
from controlplane.console.views.routing import tabs
from controlplane.console.views.usage import tabs as usage_tabs
from controlplane.ledger.access import (
    COMPLETE,
    READ,
    VIEW,
    access_repair,
    answering_tenants,
    may_complete,
    may_read_content,
    require_answers,
)
from controlplane.ledger.completions import BY_OPERATOR, complete_answer, read_words, standing_of
from controlplane.ledger.repairs import Repair
from controlplane.live import ANSWERS
from controlplane.routing.access import table_access
from controlplane.telemetry.outcomes import REPAIR
from dataplane.repair.kept import COMPLETED, EXPIRED, OPEN

# Over longer than this a few seconds change nothing, and every reader's browser would have all of it read anew.
LIVE_HOURS: Final = 24
# How many of those that wait the page of answers shows; the others have a page of their own.
SHOWN: Final = 10
_CHARTS: Final = {"rungs": rung_chart, "modes": mode_chart}
_TONES: Final = {OPEN: "watch", COMPLETED: "good", EXPIRED: "off"}


# --- how answers came ------------------------------------------------------------------------------------------------
@login_required
@require_safe
def repairs_page(request: HttpRequest) -> HttpResponse:
    """How answers came that were to be JSON, what was wrong per version and lane, and which wait for somebody."""
    now = timezone.now()
    operator = actor_of(request)
    asked = _asked(request, operator)
    found = asked.read(now)
    groups = Groups.of(found.total)
    sort = request.GET.get("sort", "")
    sort = sort if sort in SORTS else next(iter(SORTS))
    worst = asked.worst(order=SORTS[sort].order, limit=MOST_ROWS)
    table = asked.in_force.table
    tenants = answering_tenants(operator)
    is_live = asked.hours <= LIVE_HOURS
    context: dict[str, Any] = {
        "tabs": tabs("repairs"),
        "form": asked.form,
        "ranges": asked.ranges(sort=sort),
        "narrowed": bool(asked.kept),
        "clear": f"?{urlencode({'hours': asked.hours})}",
        "is_live": is_live,
        "total": groups.total,
        "sentence": groups.sentence(asked.period),
        "tiles": groups.tiles(PERIODS[asked.hours]),
        "charts": [
            {
                "id": f"chart-{name}",
                "figure": build(found),
                "url": asked.chart_url(name),
                "topic": ANSWERS if is_live else "",
            }
            for name, build in _CHARTS.items()
        ],
        "worst": worst,
        "rows": mode_rows(worst.rows),
        "sorts": [
            {"label": one.label, "url": asked.url(hours=asked.hours, sort=key), "active": key == sort}
            for key, one in SORTS.items()
        ],
        "policies": policies_in_words(table),
        "unrepaired": unrepaired_routes(table),
        "may_propose": table_access.may_propose(operator),
        "has_tenants": bool(tenants),
        "lines": _lines(Repair.objects.without_words().matching(tenants=tenants).open_at(now).newest()[:SHOWN]),
        "shown": SHOWN,
    }
    return render(request, "routing/repairs.html", context)


@login_required
@require_safe
def repairs_chart(request: HttpRequest, name: str) -> JsonResponse:
    """One chart of the page, as it is now."""
    build = _CHARTS.get(name)
    if build is None:
        raise Http404(f"there is no chart {name!r} of answers")
    return JsonResponse(build(_asked(request, actor_of(request)).read(timezone.now())))


def _asked(request: HttpRequest, operator: Operator) -> Asked:
    return outcomes_asked(request, operator, system=REPAIR, charts="repairs-chart")


# --- answers that wait to be completed -------------------------------------------------------------------------------
@login_required
@require_safe
def repair_list(request: HttpRequest) -> HttpResponse:
    """Answers that nothing could repair, newest first; pages by key, so a late page costs no more."""
    operator = actor_of(request)
    form = RepairsForm(request.GET, tenants=require_answers(operator))
    found = form.cleaned_data if form.is_valid() else {}
    rows = Repair.objects.without_words().matching(
        repair=found.get("repair", ""),
        tenants=form.wanted,
        state=found.get("status", ""),
    )
    kept = {name: value for name, value in found.items() if value}
    shown, older = page_by_key(request, rows, kept)
    context = {
        "form": form,
        "lines": _lines(shown),
        "older": older,
        "narrowed": bool(kept),
        # Of the pages beside it, who only completes answers may see none.
        "tabs": usage_tabs("repair-list") if may_somewhere(operator, VIEW) else [],
    }
    return render(request, "usage/repairs.html", context)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def repair(request: HttpRequest, repair_id: UUID) -> HttpResponse:
    """One answer: what is wrong with it, without its words; and the form that completes it."""
    now = timezone.now()
    operator = actor_of(request)
    posting = request.method == "POST"
    row = access_repair(operator, repair_id, COMPLETE if posting else "")
    is_open = row.state == OPEN and row.expires_at > now
    standing = standing_of(Repair.objects.get(pk=row.pk)) if is_open else None
    form = None
    status = 200
    if standing is not None and may_complete(operator, row):
        form = CompleteForm(request.POST if posting else None, standing=standing)
        if posting:
            status = 400
            if form.is_valid():
                given, reason = form.given, form.cleaned_data["reason"]
                done = refused_into_form(
                    form, lambda: complete_answer(repair=row, given=given, reason=reason, actor=operator, now=now)
                )
                if done is not None:
                    messages.success(request, _done_words(done, row.at_part))
                    return redirect(row)
                status = 409
    elif posting:
        messages.error(request, "Nothing was changed: the answer is open no more")
        return redirect(row)
    tone, sentence = story_of(row, now=now)
    context = {
        "row": row,
        "tone": tone,
        "sentence": sentence,
        "mode": mode_words(row.mode),
        "by": _by(row),
        "flaws": [] if standing is None else [(flaw, wanted_words(flaw.wanted)) for flaw in standing.flaws],
        "standing": standing,
        "form": form,
        "may_see_usage": may_somewhere(operator, VIEW),
        "has_words": Repair.objects.with_words(now).filter(pk=row.pk).exists(),
        "may_read": may_read_content(operator, row),
        "events": timeline(AuditEvent.objects.filter(target=row.audit_name).order_by("-seq")[:20]),
    }
    return render(request, "usage/repair.html", context, status=status)


@login_required
@require_safe
def repair_words_page(request: HttpRequest, repair_id: UUID) -> HttpResponse:
    """The words of one answer, for who may read them; the audit record says who did."""
    operator = actor_of(request)
    row = access_repair(operator, repair_id, READ)
    context = {"row": row, "words": read_words(repair=row, actor=operator, now=timezone.now())}
    return render(request, "usage/repair_words.html", context)


def story_of(row: Repair, *, now: datetime) -> tuple[str, str]:
    """What became of an answer, in a tone and a sentence."""
    if row.state == COMPLETED and row.completed_at is not None:
        return "good", f"Completed by {_by(row)}; the caller fetches it under its id."
    if row.state == EXPIRED or row.expires_at <= now:
        return "off", "Nobody completed it in time. Its words are deleted; the request has to be made anew."
    count = len(row.missing)
    if not count:
        return "watch", f"Waits to be completed: {row.at_part} is not what was asked for."
    return "watch", f"Waits to be completed: of {row.at_part}, {count} field{' is' if count == 1 else 's are'} missing."


def _by(row: Repair) -> str:
    """Who completed it; empty while nobody has."""
    if row.completed_by.startswith(BY_OPERATOR):
        return row.completed_by.removeprefix(BY_OPERATOR)
    return f"the caller, with API key {row.completed_by}" if row.completed_by else ""


def _done_words(row: Repair, part: str) -> str:
    if row.state == COMPLETED:
        return f"{row.name} is complete; the caller can fetch it"
    return f"{part} is right now, and {row.at_part} is not; complete that too"


def _lines(rows: Iterable[Repair]) -> list[dict[str, Any]]:
    return [{"row": row, "tone": _TONES[row.state], "mode": mode_words(row.mode)} for row in rows]
