"""The pages of game days: choose what is lost, watch it come back, confirm one on what serves, and take its report."""

from typing import Any, Final

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from controlplane.accounts.access import may
from controlplane.audit.models import AuditEvent
from controlplane.console.forms.game_days import ConfirmForm, GameDayForm
from controlplane.console.game_day_content import (
    check_rows,
    figures,
    pill_of,
    plan_sentences,
    signature_verdict,
    step_rows,
    under_way,
    verdict_sentence,
)
from controlplane.console.requests import actor_of, reason_given, refused_into_form, went_through
from controlplane.console.timeline import timeline
from controlplane.corpora import drills
from controlplane.corpora.access import access_corpus, access_recovery_drill
from controlplane.corpora.errors import CorpusError
from controlplane.corpora.models import Corpus
from controlplane.corpora.policies import promised
from controlplane.corpora.records import UNENDED, DrillState
from controlplane.corpora.scenarios import SCENARIOS, Scenario

DRILL: Final = "corpora.drill_corpus"


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def drill_new(request: HttpRequest, slug: str) -> HttpResponse:
    """Choose what is lost, see what will happen and where, and begin."""
    now = timezone.now()
    operator = actor_of(request)
    corpus = access_corpus(operator, slug, "drill_corpus")
    asking = request.method != "POST"
    scenario = _chosen(request.GET if asking else request.POST)
    form = GameDayForm(None if asking else request.POST, initial={"scenario": scenario.slug})
    status = 200
    if not asking:
        status = 400
        if form.is_valid():
            told = form.cleaned_data
            drill = refused_into_form(form, lambda: drills.start_drill(corpus=corpus, **told, actor=operator, now=now))
            if drill is not None:
                messages.success(request, _begun(drill.targets_live))
                return redirect(drill)
            status = 409
    sentences, refused = _foreseen(corpus, scenario)
    context = {
        "corpus": corpus,
        "form": form,
        "scenario": scenario,
        "sentences": sentences,
        "refused": refused,
        "running": corpus.drills.filter(state__in=UNENDED).first(),
        "words_to_type": drills.words_to_type(corpus),
    }
    return render(request, "corpora/drill_new.html", context, status=status)


@login_required
@require_safe
def drill_page(request: HttpRequest, pk: int) -> HttpResponse:
    """One game day: live while it runs; after that what it took, against what is promised, and its signed report."""
    now = timezone.now()
    operator = actor_of(request)
    drill = access_recovery_drill(operator, pk)
    scenario = SCENARIOS.get(drill.scenario)
    recovery = promised(drill.corpus.slug).recovery
    tone, sentence = verdict_sentence(drill, recovery)
    signature_tone, signature = signature_verdict(drill)
    may_drill = may(operator, DRILL)
    context: dict[str, Any] = {
        "drill": drill,
        "corpus": drill.corpus,
        "scenario": scenario,
        "title": scenario.title if scenario else drill.scenario,
        "pill": pill_of(drill),
        "tone": tone,
        "sentence": sentence,
        "steps": step_rows(drill, recovery),
        "under_way": under_way(drill, now=now),
        "checks": check_rows(drill),
        "figures": figures(drill, recovery),
        "signature": {"tone": signature_tone, "text": signature},
        "may_cancel": may_drill and not drill.is_over,
        "may_confirm": may_drill and drill.state == DrillState.WAITING and operator.username != drill.actor,
        "events": timeline(AuditEvent.objects.filter(target=drill.audit_name)[:20]),
        "generated_at": now,
    }
    return render(request, "corpora/drill.html", context)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def drill_confirm(request: HttpRequest, pk: int) -> HttpResponse:
    """Agree, as the second person, to one in which what comes back serves for a moment."""
    now = timezone.now()
    operator = actor_of(request)
    drill = access_recovery_drill(operator, pk, "drill_corpus")
    form = ConfirmForm(request.POST if request.method == "POST" else None)
    status = 200
    if request.method == "POST":
        status = 400
        if form.is_valid():
            confirmed = refused_into_form(
                form, lambda: drills.confirm_live(drill=drill, **form.cleaned_data, actor=operator, now=now)
            )
            if confirmed is not None:
                messages.success(request, _begun(False))
                return redirect(drill)
            status = 409
    scenario = SCENARIOS[drill.scenario]
    context = {
        "drill": drill,
        "corpus": drill.corpus,
        "scenario": scenario,
        "form": form,
        "words_to_type": drills.words_to_type(drill.corpus),
        "is_waiting": drill.state == DrillState.WAITING,
        "is_mine": operator.username == drill.actor,
    }
    return render(request, "corpora/drill_confirm.html", context, status=status)


@login_required
@require_POST
def drill_cancel(request: HttpRequest, pk: int) -> HttpResponse:
    """Call it off; what it made is dropped."""
    now = timezone.now()
    operator = actor_of(request)
    drill = access_recovery_drill(operator, pk, "drill_corpus")
    reason = reason_given(request)
    if reason is not None and went_through(
        request, lambda: drills.cancel_drill(drill=drill, reason=reason, actor=operator, now=now)
    ):
        messages.success(request, "It is called off; what it made is dropped")
    return redirect(drill)


@login_required
@require_safe
def drill_report(request: HttpRequest, pk: int) -> HttpResponse:
    """The signed report, byte for byte as `manage.py corpus_drill_verify` takes it."""
    drill = access_recovery_drill(actor_of(request), pk)
    data = drills.report_file(drill)
    if not data:
        raise Http404(f"drill {pk} has no signed report")
    answer = HttpResponse(data, content_type="application/json")
    answer["Content-Disposition"] = f'attachment; filename="drill-{drill.corpus.slug}-{pk}.json"'
    return answer


def _chosen(told: Any) -> Scenario:
    return SCENARIOS.get(told.get("scenario", ""), next(iter(SCENARIOS.values())))


def _foreseen(corpus: Corpus, scenario: Scenario) -> tuple[list[str], str]:
    """What it would do, and, where it would be refused, why."""
    try:
        return plan_sentences(scenario, drills.foresee(corpus, scenario), promised(corpus.slug).recovery), ""
    except CorpusError as exc:
        return [], str(exc)


def _begun(waits: bool) -> str:
    if waits:
        return "Nothing happens until somebody else confirms it"
    return "The game day is queued; this page follows it"
