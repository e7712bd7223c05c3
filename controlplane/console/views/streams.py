"""The pages of resumable streams: find them, what was billed against what arrived, and each as it went."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from urllib.parse import urlencode

from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_safe

from controlplane.console.drift_content import drift_of
from controlplane.console.forms.usage import DAYS, DEFAULT_DAYS, DEFAULT_STREAM_HOURS, DriftForm, StreamsForm
from controlplane.console.lists import page_by_time
from controlplane.console.requests import actor_of
from controlplane.console.spreadsheets import csv_file
from controlplane.console.stream_content import DELIVERIES_SHOWN, facts, line_of, story_of, words_of
from controlplane.console.stream_evidence import stream_csv, streams_csv
from controlplane.console.views.usage import tabs
from controlplane.ledger.access import (
    access_content,
    access_stream,
    billed_tenants,
    keys_beginning,
    may_read_content,
)
from controlplane.ledger.idempotency import IdempotencyEvidence
from controlplane.ledger.stream_rows import StreamDay, StreamQuerySet, StreamRow
from controlplane.ledger.streams import read_transcript
from dataplane.frames import digest_frames

FRAMES_PER_PAGE = 250


@login_required
@require_safe
def streams(request: HttpRequest) -> HttpResponse:
    """Streams that have ended, newest first; pages by key, so a late page costs no more."""
    asked = _asked(request)
    shown, older = page_by_time(request, asked.rows.select_related("standing"))
    kept = {name: value for name, value in request.GET.items() if name in asked.form.fields and value}
    context = {
        "form": asked.form,
        "lines": [line_of(row) for row in shown],
        "older": older,
        "named": asked.named,
        "narrowed": bool(kept.keys() - {"hours"}),
        "since": asked.since,
        "export_query": urlencode(kept),
        "tabs": tabs("streams"),
    }
    return render(request, "usage/streams.html", context)


@login_required
@require_safe
def streams_export(request: HttpRequest) -> StreamingHttpResponse:
    """What the list is made of, all pages of it, as CSV."""
    return csv_file(streams_csv(_asked(request).rows), f"streams-{timezone.now().astimezone(UTC):%Y-%m-%d}.csv")


@login_required
@require_safe
def drift(request: HttpRequest) -> HttpResponse:
    """What was billed of streams against what came to their readers, on whole UTC days up to today."""
    form = DriftForm(request.GET, tenants=billed_tenants(actor_of(request)))
    found = form.cleaned_data if form.is_valid() else {}
    days = found.get("days") or DEFAULT_DAYS
    until: date = timezone.now().astimezone(UTC).date() + timedelta(days=1)
    first = until - timedelta(days=days)
    rows = StreamDay.objects.between(first, until).matching(tenants=form.wanted, route=found.get("route", ""))
    kept = {name: value for name, value in request.GET.items() if name in form.fields and value}
    context = {
        "form": form,
        "found": drift_of(rows, first=first, until=until),
        "first": first,
        "last": until - timedelta(days=1),
        "ranges": [
            {"label": label, "url": "?" + urlencode({**kept, "days": number}), "active": number == days}
            for number, label in DAYS.items()
        ],
        "narrowed": bool(kept.keys() - {"days"}),
        "days": days,
        "tabs": tabs("streams-drift"),
    }
    return render(request, "usage/drift.html", context)


@login_required
@require_safe
def stream(request: HttpRequest, stream_id: str) -> HttpResponse:
    """One stream: how it ended, how far it came, what wrote it, what happened later, and what is given back."""
    operator = actor_of(request)
    row = access_stream(operator, stream_id)
    context = {
        "row": row,
        "found": story_of(row),
        "shown": DELIVERIES_SHOWN,
        "facts": facts(row),
        "may_read": may_read_content(operator, row),
        "keys": IdempotencyEvidence.objects.beginnings().of_request(row.request_id).filter(tenant=row.tenant),
        "has_transcript": row.kept_transcript and hasattr(row, "transcript"),
    }
    return render(request, "usage/stream.html", context)


@login_required
@require_safe
def stream_evidence(request: HttpRequest, stream_id: str) -> StreamingHttpResponse:
    """Everything that is known of one stream but its words, as CSV."""
    row = access_stream(actor_of(request), stream_id)
    return csv_file(stream_csv(row), f"stream-{row.stream_id}.csv")


@login_required
@require_safe
def stream_transcript(request: HttpRequest, stream_id: str) -> HttpResponse:
    """The words of one stream, for who may read them; the audit record says who did."""
    operator = actor_of(request)
    row = access_content(operator, stream_id)
    frames = read_transcript(row=row, actor=operator, now=timezone.now())
    intact = frames is not None and digest_frames(frame.encode() for frame in frames) == row.digest
    context = {
        "row": row,
        "page": None if frames is None else Paginator(frames, FRAMES_PER_PAGE).get_page(request.GET.get("page")),
        "text": words_of(frames or ()),
        "intact": intact,
    }
    return render(request, "usage/transcript.html", context)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the address asks for: `rows` that the reader may see, since then or, if `named` by an id, ever."""

    form: StreamsForm
    named: str
    since: datetime
    rows: StreamQuerySet


def _asked(request: HttpRequest) -> _Asked:
    now = timezone.now()
    operator = actor_of(request)
    form = StreamsForm({"hours": DEFAULT_STREAM_HOURS} | request.GET.dict(), tenants=billed_tenants(operator))
    found = form.cleaned_data if form.is_valid() else {}
    since = now - timedelta(hours=found.get("hours") or DEFAULT_STREAM_HOURS)
    named, key = found.get("stream", "").strip(), found.get("key", "")
    rows = StreamRow.objects.matching(
        tenants=form.wanted,
        keys=keys_beginning(operator, key) if key else None,
        outcome=found.get("outcome", ""),
        in_order=False if found.get("figures") else None,
    )
    return _Asked(form, named, since, rows.of_id(named) if named else rows.between(since, now))
