"""The quota page: what each account may be sent now, and who waits for it."""

from typing import Any, Final

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_safe

from controlplane.console.quota_content import PoolRow, WorkerRow, quota_events, sentence_of
from controlplane.console.requests import actor_of
from controlplane.console.timeline import worker_timeline
from controlplane.console.views.routing import tabs
from controlplane.routing.access import access_routing, table_access
from controlplane.telemetry.quotas import pools, workers_of

_MOST_WORKERS: Final = 100


@login_required
@require_safe
def quota_page(request: HttpRequest) -> HttpResponse:
    """Every pool of the table in force; of one named in the query, since its name holds a slash, the workers too."""
    now = timezone.now()
    operator = actor_of(request)
    found = access_routing(operator)
    chosen = request.GET.get("pool", "")
    known = pools(found.table, now=now)
    if chosen and chosen not in {pool.name for pool in known}:
        raise Http404(f"the routing table in force has no quota {chosen!r}")
    context: dict[str, Any] = {
        "active": found.row,
        "tabs": tabs("quotas"),
        "rows": [PoolRow(pool, is_open=pool.name == chosen) for pool in known],
        "sentence": sentence_of(known) if known else None,
        "policies": tuple(found.table.quotas),
        "may_propose": table_access.may_propose(operator),
    }
    if known:
        context["events"] = worker_timeline(quota_events(now=now))
    if chosen:
        workers = [WorkerRow(row, now) for row in workers_of(chosen, now=now, most=_MOST_WORKERS)]
        context |= {"chosen": chosen, "workers": workers, "most": _MOST_WORKERS}
    return render(request, "routing/quotas.html", context)
