"""The releases and fleet pages: what is served where, what any release carries, and the way back to it."""

from collections import Counter
from datetime import datetime
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Window
from django.db.models.functions import RowNumber
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from controlplane.accounts.access import may, require
from controlplane.accounts.models import Operator
from controlplane.console.forms.fields import ReasonForm
from controlplane.console.lists import newest_page
from controlplane.console.release_carried import carried, changes, parts, restorable
from controlplane.console.release_content import words
from controlplane.console.requests import Refusal, actor_of, refused_as_message, whole_number
from controlplane.releases import operations
from controlplane.releases.access import access_release, require_viewer, visible_releases
from controlplane.releases.fleet import fleet_page
from controlplane.releases.models import Ack, Release
from controlplane.releases.previews import preview_roll_back
from controlplane.releases.propagation import propagation

ROLL_BACK = "releases.roll_back_release"
PAGE_SIZE = 25
MAX_ACKS = 100
# Of a large fleet, why its workers refused stands at the top of the page, and who below.
MAX_REASONS = 3
MAX_WORD_CHARACTERS = 100
# "Roll back the last change" looks this far back for a release that differs in something that can be returned.
LOOKED_BACK = 20


@login_required
@require_safe
def release_list(request: HttpRequest) -> HttpResponse:
    """What is current, how every worker stands to it, how fast it got there, and every release before it."""
    now = timezone.now()
    operator = actor_of(request)
    page = newest_page(request, visible_releases(operator), size=PAGE_SIZE)
    word = request.GET.get("worker", "").replace("\0", "").strip()[:MAX_WORD_CHARACTERS]
    shown = fleet_page(now=now, word=word)
    releases, current = page.rows, shown.fleet.current
    each = propagation([release.revision for release in releases] + ([current.revision] if current else []))
    workers = shown.fleet.workers
    context = {
        "current": current,
        "counts": shown.counts,
        "picture": shown.picture,
        "reached": each[current.revision] if current else None,
        "shown": shown,
        "word": word,
        "gateways": [_cell(one.to_json()) for one in workers if shown.is_large or one.worker.kind == "gateway"],
        "agents": [_cell(one.to_json()) for one in workers if not shown.is_large and one.worker.kind != "gateway"],
        "refused": [] if shown.is_large else [one for one in workers if one.reason],
        "reasons": Counter(one.reason for one in workers if one.reason).most_common(MAX_REASONS),
        "rows": [{"release": release, "reached": each[release.revision]} for release in releases],
        "page": page,
        "may_roll_back": may(operator, ROLL_BACK),
        "generated_at": now,
    }
    return render(request, "releases/list.html", context)


@login_required
@require_safe
def fleet_figures(request: HttpRequest) -> JsonResponse:
    """The fleet as JSON: the polling floor under the live topic of the same name."""
    now = timezone.now()
    require_viewer(actor_of(request))
    return JsonResponse({"topic": "fleet", "data": fleet_page(now=now).to_json()})


@login_required
@require_safe
def release_page(request: HttpRequest, revision: int) -> HttpResponse:
    """One release: what it carries, what it changed, how it was signed, who acknowledged it, and the way back to it."""
    now = timezone.now()
    operator = actor_of(request)
    release = access_release(operator, revision, with_document=False)
    without = Release.objects.defer("document")
    current, before = without.first(), without.filter(revision__lt=revision).first()
    each = propagation([revision])
    is_current = current is not None and current.pk == release.pk
    context = {
        "release": release,
        "carried": carried(release),
        "before": before,
        "current": current,
        "is_current": is_current,
        "changes": changes(before, release),
        "acks": _latest_acks(revision),
        "reached": each[revision],
        "roll_back": _roll_back(operator, release, current, now=now) if current and not is_current else None,
        "roll_back_title": f"Roll back to r{revision}",
    }
    return render(request, "releases/release.html", context)


@login_required
@require_safe
def release_document(request: HttpRequest, revision: int) -> HttpResponse:
    """The signed envelope, byte for byte what workers received: an auditor verifies it with the public key alone."""
    release = access_release(actor_of(request), revision)
    answer = HttpResponse(release.envelope().to_json(), content_type="application/json")
    answer["Content-Disposition"] = f'attachment; filename="release-{revision}.json"'
    return answer


@login_required
@require_safe
def release_diff(request: HttpRequest) -> HttpResponse:
    """What differs between any two releases, section by section; by default the newest and the one before it."""
    operator = actor_of(request)
    newest = list(visible_releases(operator).values_list("revision", flat=True)[:2])
    if not newest:
        return render(request, "releases/diff.html", {"parts": []})
    after = access_release(operator, _asked(request, "to", newest[0]), with_document=False)
    before = access_release(operator, _asked(request, "from", max(after.revision - 1, 1)), with_document=False)
    context = {
        "before": before,
        "after": after,
        "parts": parts(before, after),
        "changes": changes(before, after),
        "newest": newest[0],
    }
    return render(request, "releases/diff.html", context)


@login_required
@require_safe
def release_undo(request: HttpRequest) -> HttpResponse:
    """Find the release that undoes the last change, and open its roll-back dialog there."""
    now = timezone.now()
    operator = actor_of(request)
    require(operator, ROLL_BACK)
    # Without their documents: each may have megabytes, and none is read after one that undoes something.
    newest = list(Release.objects.defer("document")[: LOOKED_BACK + 1])
    # What cannot come back (an ended canary, say) is no way to undo anything, so it is tried out, once per state.
    in_vain = {restorable(current) for current in newest[:1]}
    for release in newest[1:]:
        if restorable(release) in in_vain:
            continue
        found = _roll_back(operator, release, newest[0], now=now)
        if found is not None and not found["refusal"]:
            return redirect(f"{reverse('release', args=[release.revision])}#roll-back")
        in_vain.add(restorable(release))
    messages.error(request, f"Nothing that the last {len(newest) or 1} releases changed can be rolled back any more")
    return redirect("releases")


@login_required
@require_POST
def release_roll_back(request: HttpRequest, revision: int) -> HttpResponse:
    """One click: what an earlier release served is served again, as a new release."""
    now = timezone.now()
    operator = actor_of(request)
    release = access_release(operator, revision, "roll_back_release")
    form = ReasonForm(request.POST)
    # A roll-back at night must not fail for want of words: without a reason it happens all the same, and says so.
    reason = form.cleaned_data["reason"] if form.is_valid() else "no reason given"
    restored = refused_as_message(
        request, lambda: operations.roll_back_to(release=release, actor=operator, reason=reason, now=now)
    )
    if restored is None:
        return redirect(release)
    messages.success(request, f"Cut {restored}: it serves what {release} served. The fleet converges below")
    return redirect("releases")


# --- what the pages show ----------------------------------------------------------------------------------------------
def _cell(worker: dict[str, Any]) -> dict[str, Any]:
    """A worker as `components/_fleet_grid.html` takes it."""
    return {**worker, "seen_at": datetime.fromisoformat(worker["seen_at"])}


def _latest_acks(revision: int) -> list[Ack]:
    """The last word of each worker on a release, refusals first, then in the order they came, as many as there is room
    for; a worker that booted again said it again.
    """
    place = Window(RowNumber(), partition_by="worker", order_by="-at")
    last = Ack.objects.filter(revision=revision).annotate(place=place).filter(place=1)
    return list(last.order_by("-verdict", "at")[:MAX_ACKS])


def _roll_back(operator: Operator, release: Release, current: Release, *, now: datetime) -> dict[str, Any] | None:
    """What rolling back would do, tried out and undone, or why it cannot be done; None when it is not theirs to do.

    Shape: {"changes": [str], "refusal": str}; one of them is empty.
    """
    if not may(operator, ROLL_BACK):
        return None
    try:
        sections = preview_roll_back(release=release, actor=operator, now=now)
    except Refusal as exc:
        return {"changes": [], "refusal": str(exc)}
    return {"changes": words(current.content["sections"], sections), "refusal": ""}


def _asked(request: HttpRequest, name: str, default: int) -> int:
    """The revision in a query parameter.

    Raises:
        Http404: it is no number.
    """
    value = request.GET.get(name, "").removeprefix("r") or str(default)
    revision = whole_number(value)
    if revision is None:
        raise Http404(f"{value[:40]!r} is no revision")
    return revision
