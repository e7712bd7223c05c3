"""The usage pages: every attempt with its tokens and its price, what each tenant owes, and one request as it went."""

from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_safe

from controlplane.console.forms.usage import DEFAULT_HOURS, UsageForm
from controlplane.console.lists import page_by_time
from controlplane.console.requests import actor_of
from controlplane.console.waterfall import waterfall
from controlplane.ledger.access import access_request, billed_tenants, keys_beginning, sees_everybody
from controlplane.ledger.idempotency import IdempotencyEvidence
from controlplane.ledger.models import UsageQuerySet, UsageRow
from controlplane.ledger.stream_rows import StreamRow
from controlplane.ledger.totals import totals_by_tenant


@login_required
@require_safe
def usage(request: HttpRequest) -> HttpResponse:
    """Attempts newest first, found by request id, tenant and period; pages by key, so a late page costs no more."""
    now = timezone.now()
    operator = actor_of(request)
    form = UsageForm(request.GET, tenants=billed_tenants(operator), everybody=sees_everybody(operator))
    found = form.cleaned_data if form.is_valid() else {}
    since = now - timedelta(hours=found.get("hours") or DEFAULT_HOURS)
    asked = found.get("request", "").strip()
    key = found.get("key", "")
    rows: UsageQuerySet = UsageRow.objects.matching(
        request_id=asked,
        tenants=form.wanted,
        keys=keys_beginning(operator, key) if key else None,
        prompt=found.get("prompt", ""),
        lane=found.get("lane", ""),
    )
    if not asked:
        rows = rows.between(since, now)
    shown, older = page_by_time(request, rows)
    context = {
        "form": form,
        "rows": shown,
        "older": older,
        "totals": [] if asked else _totals(form.wanted, since=since, until=now),
        "since": since,
        "asked": asked,
        "tabs": tabs("usage"),
    }
    return render(request, "usage/usage.html", context)


@login_required
@require_safe
def usage_request(request: HttpRequest, request_id: str) -> HttpResponse:
    """All attempts of one request, in order and on one line of time, its idempotency key and its streams."""
    attempts = access_request(actor_of(request), request_id)
    found = waterfall(attempts)
    context = {
        "request_id": request_id,
        "found": found,
        "traces": [(trace_id, settings.TRACE_URL.replace("{trace_id}", trace_id)) for trace_id in found.trace_ids],
        "keys": IdempotencyEvidence.objects.beginnings().of_request(request_id).filter(tenant=attempts[0].tenant),
        "streams": StreamRow.objects.filter(request_id=request_id, tenant=attempts[0].tenant).order_by("at"),
    }
    return render(request, "usage/request.html", context)


def tabs(active: str) -> list[dict[str, Any]]:
    """The pages of streams and billing, the one named `active` marked."""
    pages = {
        "usage": "Attempts",
        "usage-retries": "Retries",
        "streams": "Streams",
        "streams-drift": "Drift",
        "idempotency-keys": "Idempotency",
        "jobs": "Jobs",
        "repair-list": "Broken answers",
        "stream-try": "Try a dropped connection",
    }
    return [{"label": label, "url": reverse(name), "active": name == active} for name, label in pages.items()]


def _totals(tenants: list[str] | None, *, since: datetime, until: datetime) -> list[dict[str, Any]]:
    totals = totals_by_tenant(tenants=tenants, since=since, until=until)
    return [{**row, "multiplier": row["attempts"] / row["requests"] if row["requests"] else None} for row in totals]
