"""The front page: is it fine, what changed, what can I do. And what every page asks for beside itself."""

from datetime import datetime, timedelta
from typing import Any, Final

from django.contrib.auth.decorators import login_required
from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_safe

from controlplane.accounts.access import may
from controlplane.accounts.models import Operator
from controlplane.approvals import operations as approvals
from controlplane.approvals.access import inbox, visible_changes, visible_debts
from controlplane.approvals.models import ChangeRequest
from controlplane.console.changes import latest_changes
from controlplane.console.context import badges, house_of
from controlplane.console.corpus_content import CorpusRow, corpus_rows
from controlplane.console.fires import fires
from controlplane.console.ladder_now import SurfaceNow, surfaces_now
from controlplane.console.lane_content import OpenLane, open_lanes
from controlplane.console.names import KINDS, offered
from controlplane.console.palette import entries
from controlplane.console.requests import actor_of
from controlplane.console.status import status_of
from controlplane.corpora.access import VIEW as VIEW_CORPORA
from controlplane.corpora.models import Corpus
from controlplane.corpora.standing import standings
from controlplane.deadletters.access import tenants_with
from controlplane.deadletters.burn import burns
from controlplane.ladder.access import VIEW_LADDER
from controlplane.ladder.checks import signed_words
from controlplane.ladder.policies import ladder_policies
from controlplane.releases.fleet import fleet_page
from controlplane.rollouts.access import visible_canaries
from controlplane.rollouts.models import Canary, CanaryState
from controlplane.routing.holds import active_holds
from controlplane.routing.operations import routing_tables
from controlplane.telemetry.feed import OVERVIEW_WINDOW
from controlplane.telemetry.lanes import lane_states, open_now
from controlplane.telemetry.measures import BY_KEY
from controlplane.telemetry.quotas import quota_states
from controlplane.telemetry.surfaces import ladder_standings
from controlplane.telemetry.traffic import FLEET, Traffic, fleet_traffic, lane_health
from dataplane.retrieval.policy import Corpora

# The tiles: measure, words, digits, the browser's format of a live value.
_TILES: Final = (
    ("requests_per_second", "Traffic", 2, "decimal", "requests"),
    ("error_rate", "Error rate", 2, "percent", "requests"),
    ("latency_p95_ms", "Latency p95", 0, "ms", "attempts"),
    ("cost_per_hour_usd", "Cost", 2, "decimal", "requests"),
)
_LANE_WINDOW: Final = timedelta(minutes=5)
# Drift is looked for in the newest open changes; a page that examined hundreds would not be a front page.
_MOST_EXAMINED: Final = 50
_MOST_WAITING: Final = 5
_MOST_CANARIES: Final = 20
# For so long a roll-back that nobody asked for is news.
_ROLLED_BACK_LATELY: Final = timedelta(hours=24)


@login_required
@require_safe
def overview(request: HttpRequest) -> HttpResponse:
    """What is on fire, how the traffic is, what changed last, what waits for the reader."""
    now = timezone.now()
    operator = actor_of(request)
    sees_fleet = may(operator, "releases.view_release")
    sees_routing = may(operator, "routing.view_routingtable")
    debts = list(visible_debts(operator).unpaid())
    waiting = list(inbox(operator)[: _MOST_WAITING + 1])
    letters = tenants_with(operator)
    burning = fires(
        fleet=fleet_page(now=now) if sees_fleet else None,
        lanes=lane_health(since=now - _LANE_WINDOW, until=now) if sees_fleet else [],
        opened=_opened(now) if sees_routing else [],
        quotas=quota_states(now).values() if sees_routing else [],
        debts=debts,
        drifted=_drifted(operator, now=now),
        burning=burns(now=now, tenants=letters) if letters is None or letters else [],
        canaries=_to_look_at(operator, now=now),
        surfaces=_surfaces(now) if may(operator, VIEW_LADDER) else [],
        corpora=_corpora(now) if may(operator, VIEW_CORPORA) else [],
        now=now,
    )
    context = {
        "fires": burning,
        "tiles": _tiles(fleet_traffic(since=now - OVERVIEW_WINDOW, until=now)) if sees_fleet else [],
        "changes": latest_changes(operator),
        "waiting": waiting[:_MOST_WAITING],
        "more_waiting": len(waiting) > _MOST_WAITING,
        "debts": [{"debt": debt, "mine": debt.actor == operator.username} for debt in debts],
        "canaries": list(visible_canaries(operator).running()),
        "may_roll_back": may(operator, "releases.roll_back_release"),
        "generated_at": now,
    }
    return render(request, "overview/overview.html", context)


@login_required
@require_safe
def status(request: HttpRequest) -> JsonResponse:
    """The status sentence and the badges as JSON: what the frame of every page asks for when something has moved."""
    operator = actor_of(request)
    house = house_of(request, operator, now=timezone.now())
    said = status_of(house)
    data = {"status_text": said.text, "tone": said.tone, "badges": badges(operator, house)}
    return JsonResponse({"topic": "status", "data": data})


@login_required
@require_safe
def palette(request: HttpRequest) -> JsonResponse:
    """Every page, prompt, canary, lane and act that the command palette may offer this reader."""
    return JsonResponse({"entries": [entry.to_json() for entry in entries(actor_of(request))]})


@login_required
@require_safe
def names(request: HttpRequest, kind: str) -> JsonResponse:
    """What a field offers while a name is typed: `?part=` is what was typed so far."""
    if kind not in KINDS:
        raise Http404(f"there are no names of {kind!r}")
    return JsonResponse({"names": offered(kind, actor_of(request), request.GET.get("part", ""))})


# --- what the page shows ----------------------------------------------------------------------------------------------
def _to_look_at(operator: Operator, *, now: datetime) -> list[Canary]:
    """The canaries that run, and those that were rolled back by themselves in the last day; one query."""
    lately = Q(end_evidence__isnull=False, ended_at__gt=now - _ROLLED_BACK_LATELY)
    canaries = visible_canaries(operator).select_related("watch").filter(Q(state=CanaryState.RUNNING) | lately)
    return list(canaries.order_by("-ended_at", "prompt__slug")[:_MOST_CANARIES])


def _surfaces(now: datetime) -> list[SurfaceNow]:
    policy = ladder_policies.active()
    return [] if policy is None else surfaces_now(policy.parsed(), ladder_standings(now), now=now)


def _corpora(now: datetime) -> list[CorpusRow]:
    found = standings(now=now)
    promises = {slug: one.promised for slug, one in found.items()}
    corpora = Corpus.objects.select_related("live_namespace").filter(slug__in=found)
    return corpus_rows(corpora, Corpora(promises).with_words(signed_words()), found, now=now)


def _opened(now: datetime) -> list[OpenLane]:
    active = routing_tables.active()
    table = active.parsed() if active else None
    # Of thousands of workers, those of lanes alone that one has shut.
    return open_lanes(table, lane_states(now, open_now(now)), active_holds(now), now=now)


def _drifted(operator: Operator, *, now: datetime) -> list[ChangeRequest]:
    changes = list(visible_changes(operator).open()[:_MOST_EXAMINED])
    examined = approvals.examine(changes, now=now)
    return [change for change in changes if examined[change.pk].is_drifted]


def _tiles(traffic: Traffic) -> list[dict[str, Any]]:
    """The fleet's traffic of the last 15 minutes, as `components/_metric.html` takes it."""
    totals = traffic.arms[FLEET].totals
    tiles = []
    for key, label, digits, format_name, counted in _TILES:
        measure, figure = BY_KEY[key], totals[key]
        tiles.append(
            {
                "label": label,
                "unit": measure.unit,
                "value": "–" if figure.value is None else f"{figure.value * measure.scale:,.{digits}f}",
                "points": traffic.values(FLEET, key),
                "live_key": f"totals.{FLEET}.{key}.value",
                "live_format": format_name,
                "note": f"{figure.n:,} {counted} in 15 min",
            }
        )
    return tiles
