"""The demo's Black Friday button."""

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.views.decorators.http import require_POST

from controlplane.accounts.access import require
from controlplane.console import demo_rush
from controlplane.console.requests import actor_of


@login_required
@require_POST
def black_friday(request: HttpRequest) -> HttpResponse:
    """Begin the rush, or end the one that is under way."""
    if not settings.DEMO:
        raise Http404
    require(actor_of(request), "ladder.engage_rung")
    if request.POST.get("act") == "end":
        demo_rush.end()
        messages.success(request, "The shoppers go home. The ladder stands down by itself, one rung at a time.")
    else:
        demo_rush.begin(timezone.now())
        messages.success(
            request,
            f"Black Friday: for {demo_rush.RUSH_SECONDS} s six to eight times as many shoppers ask the web chat, and "
            "the large models slow down under them. Nobody has to do anything; watch the ladder.",
        )
    return redirect("ladder")
