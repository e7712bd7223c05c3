"""The replays of a canary, query by query: what both versions answered, and how they scored."""

from urllib.parse import urlencode

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_safe

from controlplane.console.lists import page_by_key
from controlplane.console.replay_content import answer_of, answers_diff, is_rail, pair_row, replayed_rails
from controlplane.console.requests import actor_of, whole_number
from controlplane.evals.access import may_read_rows
from controlplane.evals.models import EvalRow, EvalSetVersion
from controlplane.rollouts.access import access_canary
from controlplane.rollouts.models import Canary
from controlplane.verdicts.models import ReplayPair
from controlplane.verdicts.references import set_version


@login_required
@require_safe
def replay_list(request: HttpRequest, slug: str) -> HttpResponse:
    """The newest pairs, or those in which the candidate did worse on one guardrail."""
    operator = actor_of(request)
    canary = access_canary(operator, slug)
    rails = replayed_rails(canary)
    asked = request.GET.get("worse", "")
    pairs = ReplayPair.objects.filter(canary=canary)
    if asked:
        if not is_rail(canary, asked):
            raise Http404(f"replays tell nothing of {asked!r}")
        pairs = pairs.worse(asked)
    kept = {"worse": asked} if asked else {}
    shown, following = page_by_key(request, pairs, kept, parse=whole_number)
    address = reverse("replays", args=[slug])
    choices = [("All", ""), *((f"Worse {rail.label}", rail.key) for rail in rails)]
    tabs = [
        {"label": label, "url": f"{address}?{urlencode({'worse': key})}" if key else address, "active": key == asked}
        for label, key in choices
    ]
    context = {
        "canary": canary,
        "rails": rails,
        "rows": [pair_row(pair, rails) for pair in shown],
        "next": following,
        "tabs": tabs,
        "asked": asked,
        "held_out": canary.guardrails["held_out"] if canary.guardrails else None,
    }
    return render(request, "canaries/replays.html", context)


@login_required
@require_safe
def replay_page(request: HttpRequest, slug: str, number: int) -> HttpResponse:
    """One pair: both answers side by side. Its words are for those who may read held-out rows."""
    operator = actor_of(request)
    canary = access_canary(operator, slug)
    pair = ReplayPair.objects.filter(canary=canary, number=number).first()
    if pair is None:
        raise Http404(f"canary {slug!r} has no replay {number}")
    held_out = _held_out(canary)
    may_read = held_out is not None and may_read_rows(operator, held_out.set)
    rails = replayed_rails(canary)
    row = pair_row(pair, rails)
    context = {
        "canary": canary,
        "pair": pair,
        "scores": [score for score in row.scores if score is not None],
        "may_read": may_read,
        **(_words(held_out, pair) if held_out is not None and may_read else {}),
    }
    return render(request, "canaries/replay.html", context)


def _held_out(canary: Canary) -> EvalSetVersion | None:
    """The rows that the canary's versions are asked; None: its plan names none."""
    policy = canary.judged_by
    return None if policy is None or policy.held_out is None else set_version(policy.held_out)


def _words(held_out: EvalSetVersion, pair: ReplayPair) -> dict[str, object]:
    found = EvalRow.objects.filter(version=held_out, key=pair.row_id).first()
    row = None if found is None else found.read()
    return {
        "question": "" if row is None else row.question,
        "sources": () if row is None else row.sources,
        "diff": answers_diff(pair),
        "same": answer_of(pair.candidate),
    }
