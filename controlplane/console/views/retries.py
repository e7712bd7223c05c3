"""The page of retries: how often requests were tried, what that cost, and the same as a file."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, timedelta
from urllib.parse import urlencode

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_safe

from controlplane.console.forms.usage import DAYS, DEFAULT_DAYS, RetriesForm
from controlplane.console.requests import actor_of
from controlplane.console.retry_content import retries_of
from controlplane.console.spreadsheets import csv_file, csv_line
from controlplane.console.views.usage import tabs
from controlplane.ledger.access import billed_tenants, sees_everybody
from controlplane.ledger.models import DAY_KEY, DAY_SUMS, UsageDay, UsageDayQuerySet
from controlplane.ledger.totals import Counted, counted


@login_required
@require_safe
def retries(request: HttpRequest) -> HttpResponse:
    """The multipliers of whole UTC days up to today: in all, per tenant, per lane and per day, and the causes."""
    asked = _asked(request)
    kept = {name: value for name, value in request.GET.items() if name in asked.form.fields and value}
    context = {
        "form": asked.form,
        "found": retries_of(asked.counted, first=asked.first, until=asked.until, by_arrival=bool(asked.lane)),
        "first": asked.first,
        "last": asked.until - timedelta(days=1),
        "ranges": [
            {"label": label, "url": "?" + urlencode({**kept, "days": days}), "active": days == asked.days}
            for days, label in DAYS.items()
        ],
        "narrowed": bool(kept.keys() - {"days"}),
        "days": asked.days,
        "export_query": urlencode({**kept, "days": asked.days}),
        "tabs": tabs("usage-retries"),
    }
    return render(request, "usage/retries.html", context)


@login_required
@require_safe
def retries_export(request: HttpRequest) -> StreamingHttpResponse:
    """What the page is made of, as CSV: one line per day, tenant, lane, route, kind and cause, oldest first."""
    asked = _asked(request)
    name = f"retries-{asked.first}-{asked.until - timedelta(days=1)}.csv"
    return csv_file(_csv(asked.rows), name)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the address asks for: attempts of the days in [first, until) that the reader may see, `counted` in the steps
    of the page and in `rows` of those of the file.
    """

    form: RetriesForm
    days: int
    first: date
    until: date
    lane: str
    rows: UsageDayQuerySet
    counted: Counted


def _asked(request: HttpRequest) -> _Asked:
    operator = actor_of(request)
    form = RetriesForm(request.GET, tenants=billed_tenants(operator), everybody=sees_everybody(operator))
    found = form.cleaned_data if form.is_valid() else {}
    days = found.get("days") or DEFAULT_DAYS
    until = timezone.now().astimezone(UTC).date() + timedelta(days=1)
    first = until - timedelta(days=days)
    lane = found.get("lane", "")
    rows = UsageDay.objects.between(first, until).matching(tenants=form.wanted, lane=lane)
    return _Asked(
        form, days, first, until, lane, rows, counted(first=first, until=until, tenants=form.wanted, lane=lane)
    )


def _csv(rows: UsageDayQuerySet) -> Iterator[str]:
    columns = (*DAY_KEY, *DAY_SUMS)
    yield csv_line(columns)
    ordered = rows.order_by(*DAY_KEY).values_list(*columns)
    for row in ordered.iterator(chunk_size=1000):
        yield csv_line(row)
