"""The pages of jobs: who handed in what when, how each goes, and why one failed. Nobody's words are on them."""

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from controlplane.console.forms.usage import JobsForm
from controlplane.console.lists import page_by_key
from controlplane.console.requests import actor_of, went_through
from controlplane.console.views.usage import tabs
from controlplane.deadletters.access import VIEW, may_on
from controlplane.deadletters.kinds import JOB
from controlplane.deadletters.models import DeadLetter
from controlplane.deliveries import operations
from controlplane.ledger.access import REDRIVE, access_job, job_tenants
from controlplane.ledger.deliveries import Delivery
from controlplane.ledger.jobs import Job
from dataplane.destinations import Channel, DeliveryState
from dataplane.jobs import State

TONES: Final = {
    State.QUEUED: "off",
    State.RUNNING: "info",
    State.COMPLETED: "good",
    State.FAILED: "bad",
    State.CANCELLED: "off",
    State.EXPIRED: "watch",
}
DELIVERY_TONES: Final = {
    DeliveryState.WAITING: "info",
    DeliveryState.DELIVERING: "info",
    DeliveryState.DELIVERED: "good",
    DeliveryState.FAILED: "bad",
    DeliveryState.GIVEN_UP: "bad",
    DeliveryState.CANCELLED: "off",
}


@login_required
@require_safe
def jobs(request: HttpRequest) -> HttpResponse:
    """Jobs newest first, found by id, tenant and status; pages by key, so a late page costs no more."""
    form = JobsForm(request.GET, tenants=job_tenants(actor_of(request)))
    found = form.cleaned_data if form.is_valid() else {}
    rows = Job.objects.without_words().matching(
        job=found.get("job", ""),
        tenants=form.wanted,
        state=found.get("status", ""),
        delivery=found.get("answer", ""),
    )
    kept = {name: value for name, value in found.items() if value}
    shown, older = page_by_key(request, rows, kept)
    sent = {one.pk: one for one in Delivery.objects.without_words().filter(pk__in=[job.pk for job in shown])}
    context = {
        "form": form,
        "lines": [(job, TONES[State(job.state)], _pill_of(sent.get(job.pk))) for job in shown],
        "older": older,
        "narrowed": bool(kept),
        "tabs": tabs("jobs"),
    }
    return render(request, "usage/jobs.html", context)


@login_required
@require_safe
def job(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """One job: what became of it in a sentence, and the facts of its attempts."""
    operator = actor_of(request)
    row = access_job(operator, job_id)
    tone, sentence = story_of(row)
    letter = DeadLetter.objects.without_words().filter(kind=JOB, work_id=row.pk).first()
    delivery = Delivery.objects.filter(pk=row.pk).first()
    context = {
        "job": row,
        "tone": tone,
        "sentence": sentence,
        "facts": facts_of(row),
        "letter": letter if letter is not None and may_on(operator, VIEW, row.tenant) else None,
        "delivery": delivery,
        "delivery_pill": _pill_of(delivery),
        "delivery_story": "" if delivery is None else told_of(delivery, row),
        "may_send_again": delivery is not None and delivery.may_be_sent_again and may_on(operator, REDRIVE, row.tenant),
        "send_again_title": f"Send the answer of {row.name} again",
    }
    return render(request, "usage/job.html", context)


@login_required
@require_POST
def job_send_again(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """Send a job's answer once more, to where its caller said."""
    operator = actor_of(request)
    row = access_job(operator, job_id, REDRIVE)
    delivery = get_object_or_404(Delivery, pk=row.pk)
    if went_through(request, lambda: operations.send_again(delivery=delivery, actor=operator, now=timezone.now())):
        messages.success(request, f"The answer of {row.name} is being sent to {delivery.place}")
    return redirect("job", job_id=row.pk)


def _pill_of(delivery: Delivery | None) -> tuple[str, str] | None:
    """How it stands with sending an answer, as tone and word; None: whoever wants it comes for it."""
    if delivery is None:
        return None
    return DELIVERY_TONES[DeliveryState(delivery.state)], delivery.state.replace("_", " ")


def told_of(delivery: Delivery, row: Job) -> str:
    """How it stands with sending an answer, in a sentence."""
    by = "an e-mail" if delivery.channel == Channel.EMAIL else "a webhook"
    match DeliveryState(delivery.state):
        case DeliveryState.WAITING if row.ended_at is None:
            return f"Goes out by {by} once the job is over."
        case DeliveryState.WAITING:
            return f"Goes out by {by}." if not delivery.attempts else f"Waits for its next attempt by {by}."
        case DeliveryState.DELIVERING:
            return f"Is being sent by {by}."
        case DeliveryState.DELIVERED:
            return f"Went out by {by}, and was taken."
        case DeliveryState.FAILED:
            return f"Was refused for good: nobody tries {by} again unless somebody asks for it."
        case DeliveryState.GIVEN_UP:
            return f"Was given up after a day of attempts by {by}."
        case DeliveryState.CANCELLED:
            return "Goes nowhere: the job was cancelled, or its words are gone."


def story_of(row: Job) -> tuple[str, str]:
    """What became of a job, in a tone and a sentence."""
    tries = f"{row.epoch} attempt{'' if row.epoch == 1 else 's'}"
    last = f"; the last one brought {row.error_code}" if row.error_code else ""
    match State(row.state):
        case State.QUEUED if row.epoch and row.not_before > timezone.now():
            return "watch", f"Waits to be tried again after {tries}{last}."
        case State.QUEUED:
            return "info", f"Waits for its turn{f' after {tries}{last}' if row.epoch else ''}."
        case State.RUNNING:
            asked = "; it was asked to stop" if row.cancel_asked else ""
            return "info", f"Runs, attempt {row.epoch}{asked}."
        case State.COMPLETED:
            return "good", f"Answered after {tries}."
        case State.FAILED:
            return "bad", f"Failed after {tries} with {row.error_code or 'no code'}."
        case State.CANCELLED:
            return "off", f"Cancelled after {tries}." if row.epoch else "Cancelled before it was tried."
        case State.EXPIRED:
            return "watch", f"Its time was over before there was an answer, after {tries}{last}."


def facts_of(row: Job) -> Sequence[tuple[str, Any]]:
    """What is on record of a job beside its times."""
    usage = row.usage or {}
    known = {"in": usage.get("prompt_tokens"), "out": usage.get("completion_tokens")}
    tokens = ", ".join(f"{count} {way}" for way, count in known.items() if count is not None)
    return (
        ("Endpoint", row.endpoint),
        ("API key", row.key_id),
        ("Attempts", row.epoch),
        ("Perhaps billed in vain", row.failures),
        ("Request", f"{row.request_bytes} bytes"),
        ("Answer", f"status {row.status}, {row.response_bytes} bytes" if row.response_bytes else "none"),
        ("Tokens", tokens or "none told"),
        ("Last runner", row.owner or "none yet"),
    )
