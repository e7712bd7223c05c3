"""The pages of judges: how each decides, how far it agrees with people, and holding it against them."""

from typing import Any

import yaml
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from controlplane.accounts.access import may, require
from controlplane.console.eval_content import judge_lines, labelled_versions, version_cards
from controlplane.console.forms.evals import CalibrateForm, JudgeForm, JudgeVersionForm
from controlplane.console.requests import actor_of, refused_as_message, refused_into_form
from controlplane.console.views.evals import tabs
from controlplane.evals import calibration, operations
from controlplane.evals.access import (
    MANAGE,
    access_judge,
    access_judge_version,
    access_pinned_set,
    visible_judge_versions,
    visible_judges,
)

VERSIONS_SHOWN = 10


@login_required
@require_safe
def judge_list(request: HttpRequest) -> HttpResponse:
    """Every judge with what it scores, and whether its word counts."""
    operator = actor_of(request)
    context = {
        "tabs": tabs("eval-judges"),
        "lines": judge_lines(visible_judges(operator)),
        "may_manage": may(operator, MANAGE),
    }
    return render(request, "evals/judges.html", context)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def judge_new(request: HttpRequest) -> HttpResponse:
    """Make a judge; how it decides comes next."""
    operator = actor_of(request)
    require(operator, MANAGE)
    form = JudgeForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        made = refused_into_form(
            form, lambda: operations.create_judge(**form.cleaned_data, actor=operator, now=timezone.now())
        )
        if made is not None:
            messages.success(request, f"Judge {made.slug} is there; say how it decides")
            return redirect("eval-judge-version-new", slug=made.slug)
    return render(request, "evals/judge_new.html", {"form": form}, status=400 if form.errors else 200)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def version_new(request: HttpRequest, slug: str) -> HttpResponse:
    """Submit another version of a judge, which nobody has held against people yet."""
    operator = actor_of(request)
    judge = access_judge(operator, slug, to_manage=True)
    newest = judge.versions.first()
    initial = None if newest is None else {"kind": newest.kind, "params": _as_yaml(newest.params)}
    form = JudgeVersionForm(request.POST or None, initial=initial)
    if request.method == "POST" and form.is_valid():
        made = refused_into_form(
            form,
            lambda: operations.submit_judge_version(
                judge=judge, **form.cleaned_data, actor=operator, now=timezone.now()
            ),
        )
        if made is not None:
            messages.success(request, f"{made} is there; it counts for nothing until it is calibrated")
            return redirect("eval-judge", slug=slug)
    return render(
        request, "evals/judge_version_new.html", {"judge": judge, "form": form}, status=400 if form.errors else 200
    )


def _as_yaml(params: Any) -> str:
    return yaml.safe_dump(params, sort_keys=False, allow_unicode=True, width=100)


@login_required
@require_safe
def judge_page(request: HttpRequest, slug: str) -> HttpResponse:
    """One judge: what its versions ask of an answer, and what was found when they were held against people."""
    operator = actor_of(request)
    judge = access_judge(operator, slug)
    cards = version_cards(list(visible_judge_versions(operator, judge)[:VERSIONS_SHOWN]), now=timezone.now())
    labels = labelled_versions(judge)
    context = {
        "judge": judge,
        "cards": cards,
        "form": CalibrateForm(labels=labels),
        "has_labels": bool(labels),
        "is_running": any(card.is_running for card in cards),
        "may_manage": may(operator, MANAGE),
    }
    return render(request, "evals/judge.html", context)


@login_required
@require_POST
def calibrate(request: HttpRequest, slug: str, number: int) -> HttpResponse:
    """Hold a version of a judge against labelled answers."""
    now = timezone.now()
    operator = actor_of(request)
    version = access_judge_version(operator, slug, number, to_manage=True)
    form = CalibrateForm(request.POST, labels=labelled_versions(version.judge))
    if not form.is_valid():
        messages.error(request, f"Choose a set with answers that people labelled for {slug}")
        return redirect("eval-judge", slug=slug)
    labels = access_pinned_set(operator, form.cleaned_data["labels"])
    begun = refused_as_message(
        request,
        lambda: calibration.calibrate(judge_version=version, set_version=labels, actor=operator, now=now),
    )
    if begun is not None:
        messages.success(request, f"{version} is being held against {begun.labelled:,} labelled answers of {labels}")
    return redirect("eval-judge", slug=slug)
