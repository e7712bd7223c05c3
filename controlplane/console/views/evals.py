"""The room of evals: sets with their versions and rows, what answers to them are held to, and where rows leaked."""

from datetime import datetime
from functools import partial
from typing import Any, Final

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_safe

from controlplane.accounts.access import may, require
from controlplane.accounts.models import Operator, Tenant
from controlplane.audit.models import AuditEvent
from controlplane.console.eval_content import (
    LEAKS_SHOWN,
    PURPOSE_TONES,
    differences,
    gate_words,
    judge_choices,
    leaks_in,
    row_lines,
    set_lines,
    standard_words,
)
from controlplane.console.eval_run_content import run_lines
from controlplane.console.forms.evals import ImportForm, SetForm, StandardForm
from controlplane.console.requests import actor_of, refused_into_form, whole_number
from controlplane.console.timeline import timeline
from controlplane.evals import operations
from controlplane.evals.access import (
    MANAGE,
    access_set,
    access_set_version,
    may_read_rows,
    visible_leaks,
    visible_runs,
    visible_sets,
)
from controlplane.evals.errors import BadRows
from controlplane.evals.models import EvalSet, EvalSetVersion, Judge, Purpose
from controlplane.evals.runs import OVER, EvalStandard
from controlplane.evals.standards import set_standard

ROWS_SHOWN: Final = 25
RUNS_SHOWN: Final = 5
VERSIONS_SHOWN: Final = 20
PROBLEMS_SHOWN: Final = 20
# However many leaked, a page looks at so many: every one of them says the same.
LEAKS_READ: Final = 500


def tabs(active: str) -> list[dict[str, Any]]:
    """The tabs of the room."""
    pages = (("Sets", "evals"), ("Judges", "eval-judges"), ("Runs", "eval-runs"))
    return [{"label": label, "url": reverse(name), "active": name == active} for label, name in pages]


@login_required
@require_safe
def evals(request: HttpRequest) -> HttpResponse:
    """What is being asked, what was found last, and every set."""
    now = timezone.now()
    operator = actor_of(request)
    sets = visible_sets(operator)
    runs = visible_runs(operator)
    manages = may(operator, MANAGE)
    lines = partial(run_lines, now=now, actor=operator.audit_name, manages=manages)
    context = {
        "tabs": tabs("evals"),
        "leaks": leaks_in(visible_leaks(operator)[:LEAKS_READ])[:LEAKS_SHOWN],
        "running": lines(runs.exclude(state__in=OVER)),
        "last": lines(runs.filter(state__in=OVER)[:RUNS_SHOWN]),
        "lines": [(line, standard_words(line.standard)) for line in set_lines(sets)],
        "may_manage": manages,
    }
    return render(request, "evals/evals.html", context)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def set_new(request: HttpRequest) -> HttpResponse:
    """Make a set; its rows come next."""
    operator = actor_of(request)
    require(operator, MANAGE)
    form = SetForm(request.POST or None, tenants=list(Tenant.objects.order_by("slug").values_list("slug", flat=True)))
    if request.method == "POST" and form.is_valid():
        made = refused_into_form(
            form, lambda: operations.create_set(**form.cleaned_data, actor=operator, now=timezone.now())
        )
        if made is not None:
            messages.success(request, f"Set {made.slug} is there; import its rows next")
            return redirect("eval-import", slug=made.slug)
    return render(request, "evals/set_new.html", {"form": form}, status=400 if form.errors else 200)


@login_required
@require_safe
def set_page(request: HttpRequest, slug: str) -> HttpResponse:
    """One set: what it is held to, its versions, its runs, and where its rows leaked."""
    now = timezone.now()
    operator = actor_of(request)
    shown = access_set(operator, slug)
    versions = list(shown.versions.select_related("set")[:VERSIONS_SHOWN])
    standard = shown.standards.first()
    manages = may(operator, MANAGE)
    runs = visible_runs(operator).filter(set_version__set=shown)[:RUNS_SHOWN]
    context = {
        "set": shown,
        "tone": PURPOSE_TONES[Purpose(shown.purpose)],
        "versions": [(one, before) for one, before in zip(versions, [*versions[1:], None], strict=True)],
        "newest": versions[0] if versions else None,
        "standard": standard,
        "standard_words": standard_words(standard),
        "gates": gate_words(shown, standard),
        "leaks": leaks_in(visible_leaks(operator).filter(set_version__set=shown)[:LEAKS_READ]),
        "runs": run_lines(runs, now=now, actor=operator.audit_name, manages=manages),
        "may_manage": manages,
        "may_read": may_read_rows(operator, shown),
        "events": timeline(
            AuditEvent.objects.about([shown.audit_name, *(one.audit_name for one in versions)], most=10)
        ),
    }
    return render(request, "evals/set.html", context)


@login_required
@require_safe
def version_page(request: HttpRequest, slug: str, number: int) -> HttpResponse:
    """The rows of a version, and what differs from another one: the one before, unless told."""
    operator = actor_of(request)
    version = access_set_version(operator, slug, number)
    others = list(version.set.versions.exclude(pk=version.pk)[:VERSIONS_SHOWN])
    against = _against(request, version, others)
    page = Paginator(version.rows.all(), ROWS_SHOWN).get_page(request.GET.get("page"))
    may_read = may_read_rows(operator, version.set)
    context = {
        "set": version.set,
        "version": version,
        "others": others,
        "against": against,
        "diff": None if against is None else differences(*sorted((against, version), key=lambda one: one.number)),
        "page": page,
        "lines": row_lines(page, may_read=may_read),
        "may_read": may_read,
        "may_manage": may(operator, MANAGE),
    }
    return render(request, "evals/version.html", context)


def _against(request: HttpRequest, version: EvalSetVersion, others: list[EvalSetVersion]) -> EvalSetVersion | None:
    asked = whole_number(request.GET.get("against", ""))
    if asked is not None:
        return next((one for one in others if one.number == asked), None)
    return next((one for one in others if one.number < version.number), None)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def rows_import(request: HttpRequest, slug: str) -> HttpResponse:
    """Import rows as the next version; every wrong line is named, and then nothing is stored."""
    now = timezone.now()
    operator = actor_of(request)
    eval_set = access_set(operator, slug, to_manage=True)
    if request.method != "POST":
        return render(request, "evals/import.html", {"set": eval_set, "form": ImportForm()})
    form = ImportForm(request.POST, request.FILES)
    problems: list[tuple[int, str]] = []
    if form.is_valid():
        found = refused_into_form(form, lambda: _import(form, eval_set, operator, now))
        if isinstance(found, EvalSetVersion):
            return _imported(request, found, is_new=found.created_at == now)
        problems = found or []
    context = {"set": eval_set, "form": form, "problems": problems[:PROBLEMS_SHOWN], "problem_count": len(problems)}
    return render(request, "evals/import.html", context, status=400)


def _import(
    form: ImportForm, eval_set: EvalSet, operator: Operator, now: datetime
) -> EvalSetVersion | list[tuple[int, str]]:
    """The version, or every line that is wrong."""
    try:
        return operations.import_rows(
            eval_set=eval_set, rows=form.rows, reason=form.cleaned_data["reason"], actor=operator, now=now
        )
    except BadRows as exc:
        return exc.problems


def _imported(request: HttpRequest, version: EvalSetVersion, *, is_new: bool) -> HttpResponse:
    if is_new:
        messages.success(request, f"{version} has {version.rows_count:,} rows")
    else:
        messages.info(request, f"{version} has exactly these rows already; nothing was stored")
    return redirect("eval-set-version", slug=version.set.slug, number=version.number)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def standard(request: HttpRequest, slug: str) -> HttpResponse:
    """Say what answers to a set are held to from now on."""
    operator = actor_of(request)
    eval_set = access_set(operator, slug, to_manage=True)
    current: EvalStandard | None = eval_set.standards.first()
    form = StandardForm(
        request.POST or None,
        judges=judge_choices(),
        scores=list(Judge.objects.order_by("score").values_list("score", flat=True).distinct()),
        operator=operator,
        initial=None if current is None else StandardForm.initial_from(current),
    )
    if request.method == "POST" and form.is_valid():
        made = refused_into_form(
            form,
            lambda: set_standard(eval_set=eval_set, **form.to_operation(), actor=operator, now=timezone.now()),
        )
        if made is not None:
            messages.success(request, f"Answers to {slug} are held to {standard_words(made)} from now on")
            return redirect("eval-set", slug=slug)
    context = {"set": eval_set, "form": form, "current": current, "current_words": standard_words(current)}
    return render(request, "evals/standard.html", context, status=400 if form.errors else 200)
