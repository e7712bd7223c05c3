"""Trying the validator policies of a change on stored answers, and what that found."""

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from controlplane.approvals.access import access_change
from controlplane.console.requests import actor_of, refused_as_message
from controlplane.console.trial_content import passages
from controlplane.trials.models import ValidatorTrial
from controlplane.trials.operations import MAX_SAMPLES, subjects, try_change
from controlplane.trials.reading import read_examples


@login_required
@require_POST
def try_again(request: HttpRequest, pk: int) -> HttpResponse:
    """Try every validator policy of a change on what is stored now."""
    now = timezone.now()
    operator = actor_of(request)
    change = access_change(operator, pk, "carry")
    begun = refused_as_message(request, lambda: try_change(change=change, actor=operator, now=now))
    if begun is not None:
        names = ", ".join(trial.policy for trial in begun)
        messages.success(request, f"{names} is being tried on up to {MAX_SAMPLES:,} stored answers")
    return redirect("review", pk=pk)


@login_required
@require_safe
def trial(request: HttpRequest, pk: int, trial_id: int) -> HttpResponse:
    """What one trial found, on the answers themselves where the reader may see their words."""
    now = timezone.now()
    operator = actor_of(request)
    change = access_change(operator, pk)
    # Of this change, or of another that asks for the same policy on the same routes.
    found = ValidatorTrial.objects.of(subjects(change)).filter(pk=trial_id).first()
    if found is None:
        raise Http404(f"CR-{pk} has no trial {trial_id}")
    examples = read_examples(trial=found, actor=operator, now=now)
    rows = [{"example": example, "passages": passages(example)} for example in examples]
    return render(request, "reviews/trial.html", {"change": change, "trial": found, "rows": rows})
