"""The usage page: every attempt with its tokens and its price, and what each tenant owes."""

from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.views.decorators.http import require_safe

from controlplane.accounts.access import may, require, visible
from controlplane.accounts.models import ApiKey, Operator, Tenant
from controlplane.console.forms.usage import DEFAULT_HOURS, UsageForm
from controlplane.console.requests import actor_of
from controlplane.ledger.models import UsageQuerySet, UsageRow

VIEW = "accounts.view_usage"
PAGE_SIZE = 50


@login_required
@require_safe
def usage(request: HttpRequest) -> HttpResponse:
    """Attempts newest first, found by request id, tenant and period; pages by key, so a late page costs no more."""
    now = timezone.now()
    operator = actor_of(request)
    tenants = _tenants(operator)
    form = UsageForm(request.GET, tenants=tenants)
    found = form.cleaned_data if form.is_valid() else {}
    since = now - timedelta(hours=found.get("hours") or DEFAULT_HOURS)
    asked = found.get("request", "").strip()
    wanted = [found["tenant"]] if found.get("tenant") else tenants
    rows: UsageQuerySet = UsageRow.objects.matching(
        request_id=asked,
        tenants=wanted,
        keys=_keys(operator, found.get("key", "")),
        prompt=found.get("prompt", ""),
        lane=found.get("lane", ""),
    )
    if not asked:
        rows = rows.between(since, now)
    rows = _after(request, rows.newest())
    page = list(rows[: PAGE_SIZE + 1])
    context = {
        "form": form,
        "rows": page[:PAGE_SIZE],
        "older": _older(request, page) if len(page) > PAGE_SIZE else "",
        "totals": [] if asked else _totals(wanted, since=since, until=now),
        "since": since,
        "asked": asked,
    }
    return render(request, "usage/usage.html", context)


def _tenants(operator: Operator) -> list[str]:
    """The slugs of the tenants whose usage the reader may see; refuses who may see none."""
    slugs = list(visible(operator, Tenant.objects.all(), VIEW).values_list("slug", flat=True))
    if not slugs and not may(operator, VIEW):
        require(operator, VIEW)
    return slugs


def _keys(operator: Operator, prefix: str) -> list[str] | None:
    """The ids of the visible tenants' keys that begin so; None when no key was asked for."""
    if not prefix:
        return None
    tenants = visible(operator, Tenant.objects.all(), VIEW).order_by().values("pk")
    found = ApiKey.objects.filter(tenant__in=tenants, prefix__startswith=prefix.rstrip("…")[:12])
    return [str(pk) for pk in found.values_list("pk", flat=True)]


def _totals(tenants: list[str], *, since: datetime, until: datetime) -> list[dict[str, Any]]:
    totals = UsageRow.objects.matching(tenants=tenants).totals_by_tenant(since, until)
    return [{**row, "multiplier": row["attempts"] / row["requests"] if row["requests"] else None} for row in totals]


def _after(request: HttpRequest, rows: UsageQuerySet) -> UsageQuerySet:
    at = parse_datetime(request.GET.get("before", ""))
    return (
        rows.before(at, request.GET.get("id", "").replace("\0", ""))
        if at is not None and at.tzinfo is not None
        else rows
    )


def _older(request: HttpRequest, page: list[UsageRow]) -> str:
    last = page[PAGE_SIZE - 1]
    kept = {key: value for key, value in request.GET.items() if key not in {"before", "id"}}
    return "?" + urlencode({**kept, "before": last.at.isoformat(), "id": last.attempt_id})
