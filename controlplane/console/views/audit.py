"""The audit page: who did what, when and why; whether anybody edited the record; and the record as a file."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

from django.contrib.auth.decorators import login_required
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from controlplane.accounts.access import may, require, visible_events
from controlplane.archive.operations import newest_anchor, standing
from controlplane.audit.models import AuditEvent
from controlplane.audit.operations import verify
from controlplane.console.forms.audit import AuditForm
from controlplane.console.requests import actor_of, whole_number
from controlplane.console.spreadsheets import csv_line
from controlplane.console.timeline import timeline
from controlplane.releases.anchors import anchors_of_releases
from dataplane.audit_trail import line_of

PAGE_SIZE = 50
EXPORT = "audit.export_audit"
_COLUMNS = ("seq", "at", "actor", "action", "target", "data", "previous_hash", "hash")


@login_required
@require_safe
def audit(request: HttpRequest) -> HttpResponse:
    """The record, newest first; pages by sequence number, so that a late page costs no more than the first."""
    return render(request, "audit/audit.html", _context(request))


@login_required
@require_POST
def audit_verify(request: HttpRequest) -> HttpResponse:
    """Walk the whole chain now and say what was found; the releases are its anchors."""
    visible_events(actor_of(request))  # refuses who may not read it
    found = verify(anchors_of_releases())
    return render(request, "audit/audit.html", {**_context(request), "verified": found, "verified_at": timezone.now()})


@login_required
@require_safe
def audit_export(request: HttpRequest) -> StreamingHttpResponse:
    """The events that fit the filter, oldest first: JSON lines to verify elsewhere, or `?format=csv` to read."""
    operator = actor_of(request)
    require(operator, EXPORT)
    events = AuditForm(request.GET).narrow(visible_events(operator)).order_by("seq")
    if request.GET.get("format") == "csv":
        return _file(_csv(events), suffix="csv", content_type="text/csv; charset=utf-8")
    return _file(_lines(events), suffix="jsonl", content_type="application/x-ndjson")


@login_required
@require_safe
def audit_anchor(request: HttpRequest) -> HttpResponse:
    """The signed head of what was exported last, for an auditor to keep: what was cut off later is told by it."""
    require(actor_of(request), EXPORT)
    anchor = newest_anchor()
    if anchor is None:
        raise Http404("nothing was exported yet")
    response = HttpResponse(anchor, content_type="application/json")
    response["Content-Disposition"] = f'attachment; filename="audit-anchor-{timezone.now():%Y-%m-%d}.json"'
    return response


def _file(content: Iterator[str], *, suffix: str, content_type: str) -> StreamingHttpResponse:
    response = StreamingHttpResponse(content, content_type=content_type)
    response["Content-Disposition"] = f'attachment; filename="audit-{timezone.now():%Y-%m-%d}.{suffix}"'
    return response


def _lines(events: QuerySet[AuditEvent]) -> Iterator[str]:
    for event in events.iterator(chunk_size=1000):
        yield line_of(event.to_json()).decode()


def _csv(events: QuerySet[AuditEvent]) -> Iterator[str]:
    yield csv_line(_COLUMNS)
    for event in events.iterator(chunk_size=1000):
        row = {**event.to_json(), "data": json.dumps(event.data, ensure_ascii=False, sort_keys=True)}
        yield csv_line([row[column] for column in _COLUMNS])


def _context(request: HttpRequest) -> dict[str, Any]:
    operator = actor_of(request)
    form = AuditForm(request.GET)
    events = form.narrow(visible_events(operator)).order_by("-seq")
    before = whole_number(request.GET.get("before", ""))
    if before is not None:
        events = events.filter(seq__lt=before)
    page = list(events[: PAGE_SIZE + 1])
    shown = page[:PAGE_SIZE]
    kept = {key: value for key, value in request.GET.items() if key != "before" and value}
    return {
        "form": form,
        "rows": [{"event": event, **entry} for event, entry in zip(shown, timeline(shown), strict=True)],
        "older": "?" + urlencode({**kept, "before": shown[-1].seq}) if len(page) > PAGE_SIZE else "",
        "filtered": bool(kept),
        "export_query": urlencode(kept),
        "may_export": may(operator, EXPORT),
        "exported": standing(now=timezone.now()),
    }
