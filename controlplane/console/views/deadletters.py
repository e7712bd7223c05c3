"""The pages of dead letters: groups, one group, one letter, and what people decide about them."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Count, Sum
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from controlplane.accounts.access import may, may_somewhere
from controlplane.accounts.models import Operator
from controlplane.audit.models import AuditEvent
from controlplane.console.deadletter_content import (
    Sees,
    depth_chart,
    group_rows,
    row_of,
    sentence_of,
)
from controlplane.console.deadletter_words import (
    STATE_TONES,
    category_advice,
    category_words,
    group_sentence,
    letter_sentence,
    retention_words,
    tenant_words,
)
from controlplane.console.forms.deadletters import GroupsForm, HoldForm
from controlplane.console.lists import page_by_key
from controlplane.console.requests import actor_of, reason_given, refused_as_message, went_through, whole_number
from controlplane.console.timeline import timeline
from controlplane.deadletters import operations, retention
from controlplane.deadletters.access import (
    DECIDE,
    HOLD,
    READ,
    REDRIVE,
    VIEW_PLAN,
    VIEW_RULES,
    access_group,
    access_letter,
    may_on,
    require_letters,
    tenants_with,
    visible_plans,
)
from controlplane.deadletters.burn import burns
from controlplane.deadletters.kinds import JOB
from controlplane.deadletters.models import DeadLetter, Group, GroupTenant
from controlplane.deadletters.payloads import ConfiguredStore, PayloadError
from controlplane.deadletters.showing import shown_payload
from dataplane.deadletters import Event, State

PAGE_SIZE: Final = 25
HOURS: Final = {24: "24 h", 168: "7 days", 744: "31 days"}
ALL: Final = "all"
_CAUSES: Final = 10
SHOWN_STATES: Final = {"open": "Open", "redriven": "Redriven", "resolved": "Resolved", ALL: "All"}
DECIDED: Final = {
    Event.RESOLVED: "resolved",
    Event.DISCARDED: "discarded",
    Event.REOPENED: "open again",
}


def tabs(operator: Operator, active: str) -> list[dict[str, Any]]:
    """The pages beside the groups that this operator may open."""
    known = (
        ("dead-letters", "Groups", True),
        ("redrive-plans", "Redrives", may(operator, VIEW_PLAN) or may_somewhere(operator, REDRIVE)),
        ("retention-rules", "Retention", may(operator, VIEW_RULES)),
        ("erase-subject", "Erasure", may_somewhere(operator, "accounts.erase_subject")),
    )
    return [
        {"label": label, "url": reverse(name), "active": name == active} for name, label, is_shown in known if is_shown
    ]


def sees_of(operator: Operator) -> Sees:
    """What this operator may know of beside letters."""
    return Sees(may(operator, "releases.view_release"), may(operator, "routing.view_routingtable"))


# --- groups ----------------------------------------------------------------------------------------------------------
@login_required
@require_safe
def dead_letters(request: HttpRequest) -> HttpResponse:
    """Groups with the latest letters first, how many stand open over time, and whether they come too fast."""
    now = timezone.now()
    operator = actor_of(request)
    tenants = require_letters(operator)
    kinds = list(Group.objects.order_by("kind").values_list("kind", flat=True).distinct())
    form = GroupsForm(request.GET, kinds=kinds)
    found = form.cleaned_data if form.is_valid() else {}
    kind, only_open = found.get("kind", ""), found.get("show") != "all"
    page = max(whole_number(request.GET.get("page", "1")) or 1, 1)
    rows = group_rows(
        tenants=tenants,
        kind=kind,
        only_open=only_open,
        skip=(page - 1) * PAGE_SIZE,
        most=PAGE_SIZE + 1,
        sees=sees_of(operator),
    )
    hours = _hours(request)
    kept = {name: value for name, value in found.items() if value}
    oldest = DeadLetter.objects.matching(tenants=tenants).oldest_open()
    burning = burns(now=now, tenants=tenants)
    open_now = open_figures(tenants)
    context = {
        "tabs": tabs(operator, "dead-letters"),
        "form": form,
        "narrowed": bool(kept),
        "rows": rows[:PAGE_SIZE],
        "newer": f"?{urlencode({**kept, 'page': page - 1})}" if page > 1 else "",
        "older": f"?{urlencode({**kept, 'page': page + 1})}" if len(rows) > PAGE_SIZE else "",
        "sentence": sentence_of(
            open_letters=open_now[0],
            groups=open_now[1],
            oldest=oldest.created_at if oldest else None,
            burning=burning,
            now=now,
        ),
        "oldest": oldest,
        "open_letters": open_now[0],
        "open_groups": open_now[1],
        "burning": burning,
        "last_hour": sum(one.long for one in burning),
        "last_minutes": sum(one.short for one in burning),
        "figure": _depth(operator, tenants, hours, now),
        "chart_url": f"{reverse('dead-letters-chart')}?{urlencode({'hours': hours})}",
        "ranges": [
            {"label": label, "url": f"?{urlencode({**kept, 'hours': value})}", "active": value == hours}
            for value, label in HOURS.items()
        ],
    }
    return render(request, "deadletters/groups.html", context)


@login_required
@require_safe
def dead_letters_chart(request: HttpRequest) -> JsonResponse:
    """How many letters stand open over time, as it is now."""
    operator = actor_of(request)
    tenants = require_letters(operator)
    return JsonResponse(_depth(operator, tenants, _hours(request), timezone.now()))


def open_figures(tenants: Sequence[str] | None) -> tuple[int, int]:
    """How many letters are open, and in how many groups; one query."""
    parts = GroupTenant.objects.filter(open__gt=0)
    if tenants is not None:
        parts = parts.filter(tenant__in=tenants)
    found = parts.aggregate(letters=Sum("open"), groups=Count("fingerprint", distinct=True))
    return found["letters"] or 0, found["groups"]


def _depth(operator: Operator, tenants: Sequence[str] | None, hours: int, now: datetime) -> dict[str, Any]:
    return depth_chart(
        tenants=tenants, since=now - timedelta(hours=hours), until=now, releases=sees_of(operator).releases
    )


def _hours(request: HttpRequest) -> int:
    hours = whole_number(request.GET.get("hours", ""))
    return hours if hours in HOURS else next(iter(HOURS))


@login_required
@require_safe
def group(request: HttpRequest, fingerprint: str) -> HttpResponse:
    """One group: what failed alike, its letters, the plans made for it, and what can be done about all of it."""
    operator = actor_of(request)
    found, parts = access_group(operator, fingerprint)
    state = request.GET.get("state", State.OPEN.value)
    state = state if state in {one.value for one in State} else ALL
    slugs = [part.tenant for part in parts]
    rows = DeadLetter.objects.without_words().matching(tenants=slugs, fingerprint=fingerprint)
    rows = rows if state == ALL else rows.filter(state=state)
    shown, older = page_by_key(request, rows, {"state": state}, size=PAGE_SIZE)
    row = row_of(found, parts, sees_of(operator))
    redrives, decides = tenants_with(operator, REDRIVE), tenants_with(operator, DECIDE)
    context = {
        "group": found,
        "row": row,
        "parts": [(part, tenant_words(part.tenant)) for part in parts],
        "category": category_words(found.category),
        "advice": category_advice(found.category),
        "sentence": group_sentence(found),
        "lines": letter_lines(shown),
        "older": older,
        "states": [
            {"label": label, "url": f"?{urlencode({'state': value})}", "active": value == state}
            for value, label in SHOWN_STATES.items()
        ],
        "may_redrive": row.open > 0 and (redrives is None or bool(set(redrives) & set(slugs))),
        "may_decide": row.open > 0 and (decides is None or bool(set(decides) & set(slugs))),
        "plans": list(visible_plans(operator).filter(fingerprint=fingerprint)[:5]),
        "causes": latest_causes([letter.pk for letter in shown]),
        "scope": f"{row.open:,} open letters of {row.whose}",
    }
    return render(request, "deadletters/group.html", context)


def latest_causes(letters: Sequence[UUID]) -> list[dict[str, Any]]:
    """How the latest attempts at the work of these letters ended, as `components/_timeline.html` takes them."""
    rows = DeadLetter.objects.filter(pk__in=letters[:_CAUSES]).only("pk", "causes")
    found: list[dict[str, Any]] = [
        {
            "at": at,
            "text": f"{cause.get('code', '')}{_status_words(cause.get('status'))}: {cause.get('message', '')}",
            "actor": str(cause.get("owner") or ""),
            "url": reverse("dead-letter", args=[row.pk]),
            "tone": "bad",
        }
        for row in rows
        for cause in row.causes
        if (at := _moment(cause.get("at"))) is not None
    ]
    return sorted(found, key=lambda cause: cause["at"], reverse=True)[:_CAUSES]


def _status_words(status: object) -> str:
    return f" ({status})" if status else ""


@login_required
@require_POST
def group_decide(request: HttpRequest, fingerprint: str) -> HttpResponse:
    """Resolve or discard every open letter of a group that the reader may decide about."""
    operator = actor_of(request)
    _, parts = access_group(operator, fingerprint)
    tenants = require_letters(operator, DECIDE)
    event = _decision(request)
    seen = {part.tenant for part in parts}
    slugs = seen if tenants is None else seen & set(tenants)
    reason = reason_given(request)
    if reason is not None and event is not None:
        rows = DeadLetter.objects.open().matching(tenants=slugs, fingerprint=fingerprint)
        names = list(rows.order_by("pk").values_list("pk", flat=True))
        count = _decide(request, names, event, operator, reason)
        if count is not None:
            messages.success(request, f"{count:,} letter{' is' if count == 1 else 's are'} {DECIDED[event]}")
    return redirect("dead-letter-group", fingerprint=fingerprint)


# --- one letter ------------------------------------------------------------------------------------------------------
@login_required
@require_safe
def letter(request: HttpRequest, letter_id: UUID) -> HttpResponse:
    """One letter: how it stands, why each attempt failed, what it takes (redacted), and what can be done about it."""
    now = timezone.now()
    operator = actor_of(request)
    row = access_letter(operator, letter_id)
    held = DeadLetter.objects.only("causes").get(pk=row.pk)
    context = {
        "letter": row,
        "tenant": tenant_words(row.tenant),
        "tone": STATE_TONES[State(row.state)],
        "sentence": letter_sentence(row, now=now),
        "category": category_words(row.category),
        "advice": category_advice(row.category),
        "causes": [{**cause, "at": _moment(cause.get("at"))} for cause in reversed(held.causes)],
        "shown": shown_payload(row),
        "retention": retention_words(row),
        "is_job": row.kind == JOB,
        "may_see_usage": may_somewhere(operator, "accounts.view_usage"),
        "came_from": row.redriven_from,
        "next": DeadLetter.objects.without_words().filter(kind=row.kind, work_id=row.redriven_as).first()
        if row.redriven_as
        else None,
        "may_redrive": row.state == State.OPEN and may_on(operator, REDRIVE, row.tenant),
        "may_decide": row.state != State.PURGED and may_on(operator, DECIDE, row.tenant),
        "may_hold": row.payload_state != "purged" and may_on(operator, HOLD, row.tenant),
        "may_read": row.payload_state != "purged" and may_on(operator, READ, row.tenant),
        "hold_form": HoldForm(),
        "plans": list(visible_plans(operator).filter(items__letter=row)[:5]),
        "events": timeline(AuditEvent.objects.filter(target=row.audit_name)[:20]),
    }
    return render(request, "deadletters/letter.html", context)


@login_required
@require_POST
def letter_decide(request: HttpRequest, letter_id: UUID) -> HttpResponse:
    """Resolve, discard or reopen one letter."""
    operator = actor_of(request)
    row = access_letter(operator, letter_id, "decide_deadletter")
    reason, event = reason_given(request), _decision(request)
    if reason is not None and event is not None and _decide(request, [row.pk], event, operator, reason) is not None:
        messages.success(request, f"The letter is {DECIDED[event]}")
    return redirect("dead-letter", letter_id=row.pk)


@login_required
@require_POST
def letter_hold(request: HttpRequest, letter_id: UUID) -> HttpResponse:
    """Keep a letter's payload from being purged or erased."""
    now = timezone.now()
    operator = actor_of(request)
    row = access_letter(operator, letter_id, "hold_deadletter")
    form = HoldForm(request.POST)
    if not form.is_valid():
        messages.error(request, "Not held: say why, and name a moment or none")
    elif went_through(
        request,
        lambda: retention.hold(
            letter=row,
            actor=operator,
            reason=form.cleaned_data["reason"],
            until=form.cleaned_data["until"],
            now=now,
        ),
    ):
        messages.success(request, "Its payload is kept until the hold is over")
    return redirect("dead-letter", letter_id=row.pk)


@login_required
@require_POST
def letter_release(request: HttpRequest, letter_id: UUID) -> HttpResponse:
    """Let a letter's payload go when its time is over."""
    operator = actor_of(request)
    row = access_letter(operator, letter_id, "hold_deadletter")
    reason = reason_given(request)
    if reason is not None and went_through(
        request, lambda: retention.release_hold(letter=row, actor=operator, reason=reason, now=timezone.now())
    ):
        messages.success(request, "The hold is released; its retention counts again")
    return redirect("dead-letter", letter_id=row.pk)


@login_required
@require_POST
@never_cache
def letter_payload(request: HttpRequest, letter_id: UUID) -> HttpResponse:
    """What the work takes, in full, for who may read it and says why. It is not shown again without another reason."""
    operator = actor_of(request)
    row = access_letter(operator, letter_id, "read_content")
    reason = reason_given(request)
    if reason is None:
        return redirect("dead-letter", letter_id=row.pk)
    try:
        data = refused_as_message(
            request,
            lambda: operations.read_payload(
                letter=row, store=ConfiguredStore(), actor=operator, reason=reason, now=timezone.now()
            ),
        )
    except PayloadError as exc:
        messages.error(request, str(exc))
        data = None
    if data is None:
        return redirect("dead-letter", letter_id=row.pk)
    context = {"letter": row, "tenant": tenant_words(row.tenant), "text": data.decode("utf-8", "replace")}
    return render(request, "deadletters/payload.html", context)


def _moment(text: object) -> datetime | None:
    """When an attempt ended, as whoever wrote it says."""
    try:
        at = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return at if at.tzinfo else None


def _decision(request: HttpRequest) -> Event | None:
    asked = request.POST.get("event", "")
    if asked not in {event.value for event in DECIDED}:
        messages.error(request, "Nothing was changed: it is not said what is to become of it")
        return None
    return Event(asked)


def _decide(request: HttpRequest, names: Sequence[UUID], event: Event, operator: Operator, reason: str) -> int | None:
    if not names:
        messages.error(request, "Nothing was changed: no letter is open there any more")
        return None
    return refused_as_message(
        request,
        lambda: operations.decide(letters=names, event=event, actor=operator, reason=reason, now=timezone.now()),
    )


def letter_lines(rows: Sequence[DeadLetter]) -> list[dict[str, Any]]:
    """Letters, a line each."""
    return [
        {
            "letter": row,
            "tenant": tenant_words(row.tenant),
            "tone": STATE_TONES[State(row.state)],
            "category": category_words(row.category),
        }
        for row in rows
    ]
