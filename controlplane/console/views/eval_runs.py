"""The pages of eval runs: begin one, watch it, cancel it, read what it found, and run again what a change waits for."""

from datetime import datetime
from typing import Any, Final

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from controlplane.accounts.access import may
from controlplane.accounts.models import Operator
from controlplane.approvals.access import access_change
from controlplane.audit.models import AuditEvent
from controlplane.console.eval_content import judge_choices, standard_words
from controlplane.console.eval_run_content import answer_lines, flips, ranked_answers, run_lines, score_lines
from controlplane.console.forms.evals import RunForm
from controlplane.console.lists import newest_page
from controlplane.console.requests import actor_of, refused_as_message, refused_into_form, whole_number
from controlplane.console.timeline import timeline
from controlplane.console.views.evals import tabs
from controlplane.evals.access import MANAGE, access_run, access_set, access_set_version, may_read_rows, visible_runs
from controlplane.evals.gate import run_change
from controlplane.evals.models import EvalSet
from controlplane.evals.placing import live_lane, prompt_subject
from controlplane.evals.running import begin_run, cancel_run
from controlplane.evals.runs import EvalRun, EvalStandard
from controlplane.evals.subjects import Subject
from controlplane.prompts.access import visible_prompts
from controlplane.prompts.models import PromptVersion

PAGE_SIZE: Final = 25
BESIDE_SHOWN: Final = 8


@login_required
@require_safe
def run_list(request: HttpRequest) -> HttpResponse:
    """Every run, newest first."""
    operator = actor_of(request)
    page = newest_page(request, visible_runs(operator), size=PAGE_SIZE)
    lines = run_lines(page.rows, now=timezone.now(), actor=operator.audit_name, manages=may(operator, MANAGE))
    context = {
        "tabs": tabs("eval-runs"),
        "page": page,
        "running": [line for line in lines if not line.run.is_over],
        "lines": lines,
    }
    return render(request, "evals/runs.html", context)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def run_new(request: HttpRequest, slug: str) -> HttpResponse:
    """Have a version of a prompt, or a lane, asked the rows of a set."""
    now = timezone.now()
    operator = actor_of(request)
    eval_set = access_set(operator, slug, to_manage=True)
    standard = eval_set.standards.first()
    form = RunForm(
        request.POST or None,
        operator=operator,
        numbers=list(eval_set.versions.values_list("number", flat=True)),
        judges=judge_choices(),
        initial={"subject": _likely(standard, operator)},
    )
    if request.method == "POST" and form.is_valid():
        run = refused_into_form(form, lambda: _begin(form, eval_set, standard, operator, now))
        if run is not None:
            messages.success(request, f"{run.subject_name} is being asked {run.total:,} rows of {run.set_version}")
            return redirect("eval-run", pk=run.pk)
    context = {"set": eval_set, "form": form, "standard": standard, "standard_words": standard_words(standard)}
    return render(request, "evals/run_new.html", context, status=400 if form.errors else 200)


def _likely(standard: EvalStandard | None, operator: Operator) -> str:
    """What is most often asked: the newest version of the prompt that the standard names."""
    slug = "" if standard is None else standard.prompt
    versions = PromptVersion.objects.filter(prompt__in=visible_prompts(operator).filter(slug=slug).values("pk"))
    newest = versions.order_by("-number").first() if slug else None
    return f"{slug}@{newest.number}" if newest is not None else ""


def _begin(
    form: RunForm, eval_set: EvalSet, standard: EvalStandard | None, operator: Operator, now: datetime
) -> EvalRun:
    return begin_run(
        subject=_subject(form.asked, standard),
        set_version=access_set_version(operator, eval_set.slug, form.cleaned_data["number"]),
        judges=form.cleaned_data["judges"],
        max_cost_micros=form.max_cost_micros,
        actor=operator,
        now=now,
    )


def _subject(chosen: tuple[str, int] | str, standard: EvalStandard | None) -> Subject:
    if isinstance(chosen, str):
        return live_lane(chosen, prompt="" if standard is None else standard.prompt)
    return prompt_subject(*chosen)


@login_required
@require_safe
def run_page(request: HttpRequest, pk: int) -> HttpResponse:
    """One run: how far it is, what it found, answer by answer, and what differs from another of the set."""
    now = timezone.now()
    operator = actor_of(request)
    run = access_run(operator, pk)
    manages = may(operator, MANAGE)
    (line,) = run_lines([run], now=now, actor=operator.audit_name, manages=manages)
    beside = visible_runs(operator).filter(set_version__set=run.set_version.set).exclude(pk=run.pk)[:BESIDE_SHOWN]
    only_bad = request.GET.get("show") == "bad"
    page = Paginator(ranked_answers(run, only_bad=only_bad), PAGE_SIZE).get_page(request.GET.get("page"))
    may_read = may_read_rows(operator, run.set_version.set)
    context = {
        "run": run,
        "line": line,
        "cancel_title": f"Cancel run {run.pk}: {run.subject_name} on {run.set_version}",
        "scores": score_lines(run),
        "beside": [(other, score_lines(other.run)) for other in run_lines(beside, now=now)],
        "flips": _flips(operator, run, request.GET.get("beside", "")),
        "page": page,
        "answers": answer_lines(page, may_read=may_read),
        "may_read": may_read,
        "only_bad": only_bad,
        "events": timeline(AuditEvent.objects.filter(target=run.audit_name)[:10]),
    }
    return render(request, "evals/run.html", context)


def _flips(operator: Operator, run: EvalRun, asked: str) -> Any:
    number = whole_number(asked)
    if number is None:
        return None
    other = visible_runs(operator).filter(set_version__set=run.set_version.set, pk=number).exclude(pk=run.pk).first()
    if other is None:
        raise Http404(f"there is no other run {asked} of {run.set_version.set.slug}")
    return flips(run, other)


@login_required
@require_POST
def run_cancel(request: HttpRequest, pk: int) -> HttpResponse:
    """End a run at once; what it found stays."""
    now = timezone.now()
    operator = actor_of(request)
    run = access_run(operator, pk, to_cancel=True)
    cancelled = refused_as_message(request, lambda: cancel_run(run=run, actor=operator, now=now))
    if cancelled is not None:
        messages.success(request, f"Run {pk} is cancelled after {cancelled.asked:,} of {cancelled.total:,} rows")
    return redirect("eval-run", pk=pk)


@login_required
@require_POST
def change_run(request: HttpRequest, pk: int) -> HttpResponse:
    """Begin what a change waits for and nobody is at, also again what did not pass."""
    now = timezone.now()
    operator = actor_of(request)
    change = access_change(operator, pk, "carry")
    begun = refused_as_message(request, lambda: run_change(change=change, actor=operator, now=now))
    if begun is not None:
        messages.success(request, f"{len(begun)} eval run{'' if len(begun) == 1 else 's'} began for CR-{pk}")
    return redirect("review", pk=pk)
