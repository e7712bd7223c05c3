"""The page of validators: what they withhold, repair and warn of, per rule, prompt version and lane."""

from typing import Any, Final

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.http import urlencode
from django.views.decorators.http import require_safe

from controlplane.accounts.access import may
from controlplane.accounts.models import Operator
from controlplane.console.forms.repairs import ValidatedForm
from controlplane.console.repair_content import MOST_ROWS
from controlplane.console.requests import actor_of
from controlplane.console.validator_content import (
    SORTS,
    Answers,
    policies_in_words,
    reject_chart,
    rule_rows,
    rule_times,
    rules_known,
    unvalidated_routes,
)
from controlplane.console.views.outcomes import PERIODS, Asked, outcomes_asked
from controlplane.console.views.routing import tabs
from controlplane.routing.access import access_routing, table_access
from controlplane.telemetry.outcomes import VALIDATOR, VALIDATOR_TIME
from controlplane.trials.operations import last_measured, trials_in_force

CHART: Final = "rejected"


@login_required
@require_safe
def validators_page(request: HttpRequest) -> HttpResponse:
    """What came of answers that rules looked at, over time and per rule, and what each rule is there for."""
    now = timezone.now()
    operator = actor_of(request)
    asked = _asked(request, operator)
    found = asked.read(now)
    rule = asked.kept.get("rule", "")
    answers = Answers.of(found.total)
    sort = request.GET.get("sort", "")
    sort = sort if sort in SORTS else next(iter(SORTS))
    worst = asked.worst(order=SORTS[sort].order, limit=MOST_ROWS, name=f"{rule}@" if rule else "")
    table = asked.in_force.table
    figure = reject_chart(found, rule=rule)
    context: dict[str, Any] = {
        "tabs": tabs("validators"),
        "form": asked.form,
        "ranges": asked.ranges(sort=sort),
        "narrowed": bool(asked.kept),
        "clear": f"?{urlencode({'hours': asked.hours})}",
        "answers": answers,
        "sentence": answers.sentence(asked.period),
        "tiles": answers.tiles(PERIODS[asked.hours]),
        "chart": {"id": f"chart-{CHART}", "figure": figure, "url": asked.chart_url(CHART)},
        "worst": worst,
        "rows": rule_rows(worst.rows),
        "sorts": [
            {"label": one.label, "url": asked.url(hours=asked.hours, sort=key), "active": key == sort}
            for key, one in SORTS.items()
        ],
        "policies": policies_in_words(
            table,
            trials_in_force(asked.in_force.row.document),
            rule_times(asked.total(now, system=VALIDATOR_TIME)) if table.validators else {},
            last_measured() if table.validators else {},
        ),
        "period": asked.period,
        "unvalidated": unvalidated_routes(table),
        "may_propose": table_access.may_propose(operator),
        "may_see_copy": may(operator, "ladder.view_copy"),
    }
    return render(request, "routing/validators.html", context)


@login_required
@require_safe
def validators_chart(request: HttpRequest, name: str) -> JsonResponse:
    """The chart of the page, as it is now."""
    if name != CHART:
        raise Http404(f"there is no chart {name!r} of validators")
    asked = _asked(request, actor_of(request))
    return JsonResponse(reject_chart(asked.read(timezone.now()), rule=asked.kept.get("rule", "")))


def _asked(request: HttpRequest, operator: Operator) -> Asked:
    rules = rules_known(access_routing(operator).table)
    return outcomes_asked(
        request, operator, system=VALIDATOR, charts="validators-chart", form=ValidatedForm, rules=rules
    )
