"""The pages of idempotency keys: find them, and see what became of each, what was billed, and whether that holds."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode
from django.views.decorators.http import require_http_methods, require_safe

from controlplane.console.forms.usage import DEFAULT_KEY_HOURS, KeysForm
from controlplane.console.idempotency_content import BILLED_SHOWN, STEPS_SHOWN, Line, story_of
from controlplane.console.idempotency_evidence import key_csv, keys_csv
from controlplane.console.lists import PAGE_SIZE, page_by_key
from controlplane.console.requests import actor_of, whole_number
from controlplane.console.spreadsheets import csv_file
from controlplane.console.views.usage import tabs
from controlplane.ledger.access import access_evidence, billed_tenants
from controlplane.ledger.idempotency import IdempotencyEvidence, IdempotencyEvidenceQuerySet
from controlplane.ledger.keys import lives_of

# Evidence is dated by the database, whose clock may be ahead of ours; what happened just now belongs to the list.
AHEAD = timedelta(minutes=1)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def idempotency_keys(request: HttpRequest) -> HttpResponse:
    """Keys by their first request or another step of theirs, newest first; pages by key, so a late page costs no more.

    What to look for is posted, so that the id of a user stands in no address, and so in no history and no log.
    """
    asked = _asked(request)
    if asked.form.is_valid() and (request.method == "POST" or asked.form.cleaned_data["user"]):
        return redirect(f"{reverse('idempotency-keys')}?{urlencode(asked.form.query)}")
    kept = asked.form.query if asked.form.is_valid() else {}
    shown, older = page_by_key(request, asked.rows, kept, size=PAGE_SIZE, parse=whole_number)
    lives = lives_of(shown)
    context = {
        "form": asked.form,
        "lines": [Line(row, lives[row.record]) for row in shown],
        "older": older,
        "since": asked.since,
        "event": kept.get("event", ""),
        "user_hash": kept.get("user_hash", ""),
        "narrowed": bool(kept.keys() - {"hours"}),
        "export_query": urlencode(kept),
        "tabs": tabs("idempotency-keys"),
    }
    return render(request, "usage/keys.html", context)


@login_required
@require_safe
def idempotency_keys_export(request: HttpRequest) -> StreamingHttpResponse:
    """What the list is made of, all pages of it, as CSV."""
    name = f"idempotency-keys-{timezone.now().astimezone(UTC):%Y-%m-%d}.csv"
    return csv_file(keys_csv(_asked(request).rows), name)


@login_required
@require_safe
def idempotency_key(request: HttpRequest, record: UUID) -> HttpResponse:
    """One key: what became of it, its steps, what was billed, and whether its chain is whole.

    A long chain is walked only if `verify` is asked for.
    """
    first = access_evidence(actor_of(request), record)
    life = lives_of([first])[record]
    before = whole_number(request.GET.get("before", ""))
    story = story_of(life, before=before, verify="verify" in request.GET, now=timezone.now())
    older = min((step["seq"] for step in story.steps), default=1)
    context = {
        "first": first,
        "found": story,
        "older": f"?{urlencode({'before': older})}#steps" if older > 1 and len(story.steps) == STEPS_SHOWN else "",
        "billed": story.billed[:BILLED_SHOWN],
        "billed_more": len(story.billed[BILLED_SHOWN:]),
    }
    return render(request, "usage/key.html", context)


@login_required
@require_safe
def idempotency_evidence(request: HttpRequest, record: UUID) -> StreamingHttpResponse:
    """Every step of one key, what was billed, and what its chain says, as CSV."""
    first = access_evidence(actor_of(request), record)
    return csv_file(key_csv(record, lives_of([first])[record]), f"idempotency-{record}.csv")


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is asked for: `rows` that the reader may see, since then or, where key, request or user bound them, ever."""

    form: KeysForm
    since: datetime | None
    rows: IdempotencyEvidenceQuerySet


def _asked(request: HttpRequest) -> _Asked:
    now = timezone.now()
    given = request.POST if request.method == "POST" else request.GET
    form = KeysForm({"hours": DEFAULT_KEY_HOURS} | given.dict(), tenants=billed_tenants(actor_of(request)))
    found = form.query if form.is_valid() else {}
    rows = IdempotencyEvidence.objects.matching(
        key=found.get("key", ""),
        tenants=form.wanted,
        user_hash=found.get("user_hash", ""),
        event=found.get("event", ""),
    )
    if not found.get("event"):
        rows = rows.beginnings()
    if found.get("request"):
        rows = rows.of_request(found["request"])
    if any(found.get(name) for name in ("key", "request", "user_hash")):
        return _Asked(form, None, rows)
    since = now - timedelta(hours=found.get("hours") or DEFAULT_KEY_HOURS)
    return _Asked(form, since, rows.between(since, now + AHEAD))
