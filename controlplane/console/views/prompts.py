"""The prompt pages: what is live, what was, what is proposed, and the form that submits the next version."""

from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from controlplane.accounts.access import may, require
from controlplane.approvals.errors import ApprovalError
from controlplane.approvals.models import RejectedDigest
from controlplane.audit.models import AuditEvent
from controlplane.console.changes import approvers_of
from controlplane.console.forms.prompts import MessageFormSet, PromptForm, VersionForm
from controlplane.console.lists import KeyPage
from controlplane.console.previews import differences, preview
from controlplane.console.requests import (
    actor_of,
    proposed,
    refused_into_form,
    returned,
    whole_number,
)
from controlplane.console.timeline import timeline
from controlplane.prompts import operations
from controlplane.prompts.access import access_prompt, visible_prompts
from controlplane.prompts.errors import InvalidVersion, PromptError, SameAsBefore
from controlplane.prompts.models import LiveChange, Prompt, PromptVersion
from controlplane.rollouts.models import Canary, CanaryState
from controlplane.routing.matrix import version_problems
from controlplane.routing.operations import routing_tables
from dataplane.prompts import Problem, validate_version

# A version that came back again and again: so many of its returns are passed over to find who signed it.
LOOKED_BACK = 50
PAGE_SIZE = 50
MAX_WORD_CHARACTERS = 100


@login_required
@require_safe
def prompt_list(request: HttpRequest) -> HttpResponse:
    """The prompts the reader may see by name, a page after the other, or those found by a word; with what is live and
    what is being tried. As many queries however many there are, and a late page costs no more than the first.
    """
    operator = actor_of(request)
    word = request.GET.get("q", "").replace("\0", "").strip()[:MAX_WORD_CHARACTERS]
    found = visible_prompts(operator).filter(slug__gt=request.GET.get("after", "").replace("\0", ""))
    if word:
        found = found.filter(Q(slug__icontains=word) | Q(title__icontains=word))
    page = list(found.order_by("slug")[: PAGE_SIZE + 1])
    prompts = page[:PAGE_SIZE]
    running = {canary.prompt_id: canary for canary in Canary.objects.running().with_parts().filter(prompt__in=prompts)}
    went_live = _latest_live_changes(prompts)
    context = {
        "rows": [
            {"prompt": prompt, "canary": running.get(prompt.pk), "live_change": went_live.get(prompt.pk)}
            for prompt in prompts
        ],
        "word": word,
        "page": KeyPage(
            rows=prompts,
            first_url="?" + urlencode({"q": word} if word else {}) if "after" in request.GET else "",
            next_url=_next_page(prompts[-1].slug, word) if len(page) > PAGE_SIZE else "",
        ),
        "may_add": operator.has_perm("prompts.add_prompt"),
    }
    return render(request, "prompts/list.html", context)


def _next_page(last: str, word: str) -> str:
    return "?" + urlencode(({"q": word} if word else {}) | {"after": last})


@login_required
@require_safe
def prompt_page(request: HttpRequest, slug: str) -> HttpResponse:
    """One prompt: live version, its canary, the versions as a line, who wrote and who approved."""
    operator = actor_of(request)
    prompt = access_prompt(operator, slug, "view_prompt")
    versions = list(prompt.versions.all())
    canaries = list(Canary.objects.with_parts().filter(prompt=prompt))
    events = AuditEvent.objects.about(_audit_names(prompt, versions, canaries), most=12)
    context = {
        "prompt": prompt,
        "live": prompt.live_version,
        "live_change": LiveChange.objects.filter(prompt=prompt).first(),
        "approvers": _approvers(prompt.live_version),
        "canary": next((canary for canary in canaries if canary.is_running), None),
        "planned": [canary for canary in canaries if canary.state == CanaryState.PLANNED],
        "rows": _version_rows(prompt, versions, canaries),
        "events": timeline(events),
        "live_label": f"v{prompt.live_version.number} live" if prompt.live_version else "",
        "live_note": "" if prompt.live_version else "nothing is served",
        "may_submit": may(operator, "prompts.submit_version", prompt),
    }
    return render(request, "prompts/prompt.html", context)


@login_required
@require_safe
def version_page(request: HttpRequest, slug: str, number: int) -> HttpResponse:
    """One version: what changed against the live one (or another, `?against=`), and how it reads."""
    operator = actor_of(request)
    prompt = access_prompt(operator, slug, "view_prompt")
    versions = list(prompt.versions.select_related("prompt"))
    version = get_object_or_404(prompt.versions.select_related("prompt"), number=number)
    against = _compared_with(request, prompt, version, versions)
    canaries = list(Canary.objects.with_parts().filter(prompt=prompt))
    row = next(row for row in _version_rows(prompt, versions, canaries) if row["version"].pk == version.pk)
    context = {
        "prompt": prompt,
        "version": version,
        "against": against,
        "others": [other for other in versions if other.pk != version.pk],
        "differences": differences(against, version),
        "before_label": _label(prompt, against),
        "after_label": _label(prompt, version),
        "preview": preview(version),
        "row": row,
        "canaries": [canary for canary in canaries if canary.candidate_id == version.pk],
        "may_canary": may(operator, "prompts.run_canary", prompt),
        "go_live_title": f"Propose {version} to everybody",
        "return_title": f"Return {prompt.slug} to v{version.number}",
        "return_verb": f"Return to v{version.number}",
        "may_return": row["may_come_back"] and may(operator, "prompts.roll_back", prompt),
        "events": timeline(AuditEvent.objects.filter(target=version.audit_name)[:12]),
    }
    return render(request, "prompts/version.html", context)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def prompt_new(request: HttpRequest) -> HttpResponse:
    """Create a prompt; its first version comes next."""
    operator = actor_of(request)
    require(operator, "prompts.add_prompt")
    table = routing_tables.active()
    form = PromptForm(request.POST or None, routes=sorted(table.document["routes"]) if table else [])
    if request.method == "POST" and form.is_valid():
        prompt = refused_into_form(
            form, lambda: operations.create_prompt(**form.cleaned_data, actor=operator, now=timezone.now())
        )
        if prompt is not None:
            messages.success(request, f"Created {prompt.slug}; now submit its first version")
            return redirect("version-new", slug=prompt.slug)
    return render(request, "prompts/new.html", {"form": form}, status=400 if form.errors else 200)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def version_new(request: HttpRequest, slug: str) -> HttpResponse:
    """Submit a version: edit from the live one, look at the difference and the preview, then submit."""
    now = timezone.now()
    operator = actor_of(request)
    prompt = access_prompt(operator, slug, "submit_version")
    base = prompt.live_version or prompt.versions.first()
    if request.method != "POST":
        form = VersionForm(initial=VersionForm.initial_from(base))
        texts = MessageFormSet(
            initial=base.messages if base else [{"role": "system", "content": ""}], prefix="messages"
        )
        return render(request, "prompts/submit.html", {"prompt": prompt, "base": base, "form": form, "texts": texts})
    data = request.POST.copy()
    if adding := data.get("action") == "add":
        data["messages-TOTAL_FORMS"] = str(min((whole_number(data.get("messages-TOTAL_FORMS", "")) or 0) + 1, 40))
    form, texts = VersionForm(data), MessageFormSet(data, prefix="messages")
    context: dict[str, Any] = {"prompt": prompt, "base": base, "form": form, "texts": texts}
    context["before_label"] = _label(prompt, base)
    if adding:
        return render(request, "prompts/submit.html", context | {"form": VersionForm.as_typed(data)})
    if not (form.is_valid() and texts.is_valid()):
        return render(request, "prompts/submit.html", context, status=400)
    draft = _draft(prompt, form, texts)
    context |= {"draft": draft, "differences": differences(base, draft), "preview": preview(draft)}
    context["lacking"] = _lacking(draft)
    if data.get("action") == "preview":
        return render(request, "prompts/submit.html", context)
    try:
        version = operations.submit_version(
            prompt=prompt,
            messages=draft.messages,
            variables_schema=draft.variables_schema,
            parameters=draft.parameters,
            sample_variables=draft.sample_variables,
            change_class=draft.change_class,
            rationale=draft.rationale,
            actor=operator,
            now=now,
        )
    except InvalidVersion as exc:
        context["problems"] = exc.problems
        return render(request, "prompts/submit.html", context, status=400)
    except (PromptError, ApprovalError) as exc:
        context["problems"] = [("", str(exc))]
        context["same"] = exc.number if isinstance(exc, SameAsBefore) else None
        return render(request, "prompts/submit.html", context, status=409)
    messages.success(request, f"Submitted {version}; it serves nobody yet")
    return redirect(version)


@login_required
@require_POST
def propose_live(request: HttpRequest, slug: str, number: int) -> HttpResponse:
    """Open the change request that would serve a version to everybody at once."""
    now = timezone.now()
    operator = actor_of(request)
    prompt = access_prompt(operator, slug, "run_canary")
    version = get_object_or_404(prompt.versions.select_related("prompt"), number=number)
    return proposed(
        request,
        version,
        lambda reason: operations.propose_live(version=version, reason=reason, actor=operator, now=now),
    )


@login_required
@require_POST
def return_to(request: HttpRequest, slug: str, number: int) -> HttpResponse:
    """Make a version live again that was live before: one click, no sign-off."""
    now = timezone.now()
    operator = actor_of(request)
    prompt = access_prompt(operator, slug, "roll_back")
    version = get_object_or_404(prompt.versions.select_related("prompt"), number=number)
    return returned(
        request,
        version,
        lambda reason: operations.return_to(version=version, actor=operator, reason=reason, now=now),
        said=f"{version} is live again",
        on=prompt.get_absolute_url(),
    )


# --- what the pages show ----------------------------------------------------------------------------------------------
def _draft(prompt: Prompt, form: VersionForm, texts: Any) -> PromptVersion:
    """What was typed, as a version that is not stored."""
    return PromptVersion(prompt=prompt, number=0, messages=texts.messages(), digest="", **form.cleaned_data)


def _lacking(draft: PromptVersion) -> list[Problem]:
    """What the draft asks of lanes that lack it; nothing while it has mistakes that its own check will name."""
    if any(problem.is_error for problem in validate_version(draft.messages, draft.variables_schema, draft.parameters)):
        return []
    return version_problems(route=draft.prompt.route, name="this version", parameters=draft.parameters)


def _label(prompt: Prompt, version: PromptVersion | None) -> str:
    """How a side of a difference is named."""
    if version is None:
        return "nothing"
    return f"v{version.number}, live" if version.pk == prompt.live_version_id else f"v{version.number}"


def _compared_with(
    request: HttpRequest, prompt: Prompt, version: PromptVersion, versions: list[PromptVersion]
) -> PromptVersion | None:
    """The version named by `?against=`, else the live one, else the one before.

    Raises:
        Http404: the prompt has no such version.
    """
    asked = request.GET.get("against", "")
    if asked:
        named = next((other for other in versions if other.number == whole_number(asked)), None)
        if named is None:
            raise Http404(f"{prompt.slug!r} has no version {asked!r}")
        return named
    if prompt.live_version is not None and prompt.live_version_id != version.pk:
        return prompt.live_version
    return next((other for other in versions if other.number < version.number), None)


def _approvers(version: PromptVersion | None) -> list[str]:
    """Who signed what made the version live; who came back to it later had nothing to sign."""
    if version is None:
        return []
    events = list(AuditEvent.objects.filter(action="prompt.live", target=version.audit_name)[:LOOKED_BACK])
    return next((names for names in approvers_of(events).values() if names), [])


def _latest_live_changes(prompts: list[Prompt]) -> dict[int, LiveChange]:
    changes = LiveChange.objects.filter(prompt__in=prompts).order_by("prompt_id", "-id").distinct("prompt_id")
    return {change.prompt_id: change for change in changes}


def _version_rows(prompt: Prompt, versions: list[PromptVersion], canaries: list[Canary]) -> list[dict[str, Any]]:
    """Each version with where it stands; two queries however many versions."""
    were_live = set(LiveChange.objects.filter(prompt=prompt).values_list("version_id", flat=True))
    digests = [version.digest for version in versions]
    rejected = {row.content_digest: row for row in RejectedDigest.objects.filter(content_digest__in=digests)}
    latest: dict[int, Canary] = {}
    for canary in reversed(canaries):
        latest[canary.candidate_id] = canary
    return [
        {
            "version": version,
            "state": _state(prompt, version, latest.get(version.pk), were_live, rejected),
            "canary": latest.get(version.pk),
            "rejected": rejected.get(version.digest),
            # Whatever is planned or tried of it now: it was approved once.
            "may_come_back": version.pk in were_live - {prompt.live_version_id} and version.digest not in rejected,
        }
        for version in versions
    ]


def _state(
    prompt: Prompt,
    version: PromptVersion,
    canary: Canary | None,
    were_live: set[int],
    rejected: dict[str, RejectedDigest],
) -> str:
    if version.pk == prompt.live_version_id:
        return "live"
    if version.digest in rejected:
        return "rejected"
    if canary is not None and canary.is_running:
        return "canary"
    if canary is not None and canary.state == CanaryState.PLANNED:
        return "planned"
    return "was live" if version.pk in were_live else "submitted"


def _audit_names(prompt: Prompt, versions: list[PromptVersion], canaries: list[Canary]) -> list[str]:
    return [
        prompt.audit_name,
        *(f"{prompt.audit_name}@{version.number}" for version in versions),
        *(canary.audit_name for canary in canaries),
    ]
