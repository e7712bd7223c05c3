"""What ladders did: episodes with their post-mortems, how much of the time rungs were on, and, for everybody outside,
what customers are promised beside what they got.
"""

from datetime import timedelta
from typing import Any, Final

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import cache_control
from django.views.decorators.http import require_safe

from controlplane.console.ladder_fairness import fairness_of, signed
from controlplane.console.ladder_record import EpisodeRow, RungRow
from controlplane.console.requests import actor_of, whole_number
from controlplane.console.spreadsheets import csv_file, csv_line
from controlplane.console.views.ladder import tabs
from controlplane.ladder.access import access_surface, policy_access
from controlplane.ladder.policies import ladder_policies
from controlplane.telemetry.ladder_capacity import DAYS, MOST_DAYS, capacity, capacity_rows, spoken
from controlplane.telemetry.ladder_episodes import Episode, episode
from controlplane.telemetry.ladder_postmortem import postmortem
from dataplane.ladder.policy import Ladder

RANGES: Final = (1, 7, DAYS)
MEASURED: Final = timedelta(days=DAYS)
_SHARED_SECONDS: Final = 60


@login_required
@require_safe
def capacity_page(request: HttpRequest) -> HttpResponse:
    """How much of the last days each rung of a surface was on: whether what serves it is large enough."""
    now = timezone.now()
    ladder = policy_access.in_force(actor_of(request)).parsed
    slug = request.GET.get("surface", next(iter(ladder), ""))
    if slug and slug not in ladder:
        raise Http404(f"the ladder policy in force has no surface {slug[:80]!r}")
    days = _days(request)
    context: dict[str, Any] = {
        "tabs": tabs("ladder-capacity"),
        "surfaces": list(ladder.values()),
        "days": days,
        "ranges": RANGES,
    }
    if slug:
        used = capacity(slug, days=days, now=now)
        context |= {
            "surface": ladder[slug],
            "capacity": used,
            "rows": [RungRow(one) for one in used.rungs],
            "triggers": [
                {"slug": one.slug, "presses": one.presses, "stood": spoken(one.seconds)} for one in used.triggers
            ],
        }
    return render(request, "ladder/capacity.html", context)


@login_required
@require_safe
def capacity_export(request: HttpRequest, slug: str) -> StreamingHttpResponse:
    """The same as CSV."""
    access_surface(actor_of(request), slug)
    days = _days(request)
    rows = capacity_rows(capacity(slug, days=days, now=timezone.now()))
    return csv_file((csv_line(row) for row in rows), f"capacity-{slug}-{days}-days.csv")


@login_required
@require_safe
def episode_page(request: HttpRequest, slug: str, number: int) -> HttpResponse:
    """One episode: what happened to the ladder step by step, whom it touched, what they waited and what it cost."""
    surface = access_surface(actor_of(request), slug)
    found = _episode(slug, number)
    return render(request, "ladder/episode.html", {"surface": surface, "episode": found, "row": EpisodeRow(found)})


@login_required
@require_safe
def episode_postmortem(request: HttpRequest, slug: str, number: int) -> HttpResponse:
    """The episode as a document to work on, in Markdown."""
    surface = access_surface(actor_of(request), slug)
    text = postmortem(_episode(slug, number), surface=surface, url=request.build_absolute_uri("/").rstrip("/"))
    answer = HttpResponse(text, content_type="text/markdown; charset=utf-8")
    answer["Content-Disposition"] = f'attachment; filename="postmortem-{slug}-{number}.md"'
    return answer


@require_safe
@cache_control(public=True, max_age=_SHARED_SECONDS)
def fairness(request: HttpRequest) -> HttpResponse:
    """For everybody, signed in or not: who is promised what when capacity runs short, and what they really got."""
    now = timezone.now()
    policy = ladder_policies.active()
    ladder = Ladder() if policy is None else policy.parsed()
    context = {
        "surfaces": [fairness_of(surface, since=now - MEASURED, until=now) for surface in ladder.values()],
        "days": MEASURED.days,
        "policy": policy,
        "signed": signed(policy) if policy else "",
        "now": now,
        "demo": settings.DEMO,
    }
    return render(request, "ladder/fairness.html", context)


def _days(request: HttpRequest) -> int:
    asked = whole_number(request.GET.get("days", "")) or DAYS
    return max(1, min(asked, MOST_DAYS))


def _episode(slug: str, number: int) -> Episode:
    found = episode(slug, number, now=timezone.now()) if number < 10**10 else None
    if found is None:
        raise Http404(f"surface {slug!r} had no rung on from then")
    return found
