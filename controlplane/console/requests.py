"""What every page does with a request: know the operator, and turn an operation's refusal into words on the page."""

from collections.abc import Callable
from typing import TypeVar

from django import forms
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from controlplane.accounts.errors import AccessError
from controlplane.accounts.models import Operator
from controlplane.alerts.errors import AlertError
from controlplane.approvals.errors import ApprovalError
from controlplane.approvals.models import ChangeRequest
from controlplane.console.forms.fields import ReasonForm
from controlplane.corpora.errors import CorpusError
from controlplane.deadletters.errors import DeadLetterError
from controlplane.deliveries.errors import DeliveryError
from controlplane.evals.errors import EvalError
from controlplane.ladder.errors import CopyError, LadderError
from controlplane.ledger.completions import RepairError
from controlplane.prompts.errors import PromptError
from controlplane.releases.errors import ReleaseError
from controlplane.rollouts.errors import RolloutError
from controlplane.routing.errors import RoutingError
from controlplane.shadows.errors import ShadowError
from controlplane.trials.errors import TrialError
from controlplane.versioned.models import Version

T = TypeVar("T")

_MOST_DIGITS = 18  # fits the database's widest integer

# Everything an operation may refuse with; anything else is a fault of ours and becomes a 500.
Refusal = (
    AccessError,
    AlertError,
    ApprovalError,
    CopyError,
    CorpusError,
    DeadLetterError,
    DeliveryError,
    EvalError,
    LadderError,
    PromptError,
    ReleaseError,
    RepairError,
    RolloutError,
    RoutingError,
    ShadowError,
    TrialError,
)


def actor_of(request: HttpRequest) -> Operator:
    """The signed-in operator of a view that is behind `login_required`."""
    operator = request.user
    assert isinstance(operator, Operator)  # noqa: S101 - narrows the type; login_required has seen to it
    return operator


def whole_number(text: str) -> int | None:
    """The number that a browser sent in digits; None for anything else, '²' and a thousand nines included."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS else None


def reason_given(request: HttpRequest) -> str | None:
    """Why, in the operator's own words; None when nothing (or too much) was typed, and a message asks for it."""
    form = ReasonForm(request.POST)
    if not form.is_valid():
        messages.error(request, "Say why; the reason is kept in the audit record")
        return None
    reason: str = form.cleaned_data["reason"]
    return reason


def refused_as_message(request: HttpRequest, operation: Callable[[], T]) -> T | None:
    """Run an operation; show its refusal as a message and return None."""
    try:
        return operation()
    except Refusal as exc:
        messages.error(request, str(exc))
        return None


def went_through(request: HttpRequest, operation: Callable[[], object]) -> bool:
    """Run an operation whose result nobody needs; show its refusal as a message and return False."""
    # In a tuple, since the operation may well return None.
    return refused_as_message(request, lambda: (operation(),)) is not None


def on_to_review(
    request: HttpRequest, propose: Callable[[], ChangeRequest], *, said: Callable[[ChangeRequest], str], back: str
) -> HttpResponse:
    """Open a change request: its review comes next, with what is `said` of it; `back` if that is refused."""
    change = refused_as_message(request, propose)
    if change is None:
        return redirect(back)
    messages.success(request, said(change))
    return redirect("review", pk=change.pk)


def proposed(
    request: HttpRequest, version: Version, propose: Callable[[str], ChangeRequest], *, readers: str = "approvers see"
) -> HttpResponse:
    """Open the change request for a stored version, by the reason that was typed.

    Args:
        readers: Who is asked now, as the message says it.
    """
    reason = reason_given(request)
    if reason is None:
        return redirect(version)
    return on_to_review(
        request,
        lambda: propose(reason),
        said=lambda change: f"Opened CR-{change.pk}; {readers} it in their inbox",
        back=version.get_absolute_url(),
    )


def returned(
    request: HttpRequest, version: Version, return_to: Callable[[str], object], *, said: str, on: str
) -> HttpResponse:
    """Go back to a version, by the reason that was typed, and then `on`, with what is `said` of it."""
    reason = reason_given(request)
    if reason is None:
        return redirect(version)
    if went_through(request, lambda: return_to(reason)):
        messages.success(request, said)
    return redirect(on)


def refused_into_form(form: forms.BaseForm, operation: Callable[[], T]) -> T | None:
    """Run an operation; put its refusal beside the form's fields and return None."""
    try:
        return operation()
    except ValidationError as exc:
        form.add_error(None, exc)
    except Refusal as exc:
        form.add_error(None, str(exc))
    return None
