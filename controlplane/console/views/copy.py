"""The pages on signed copy: the words that people signed beforehand, and the way to other ones."""

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from controlplane.approvals.errors import ApprovalError
from controlplane.audit.models import AuditEvent
from controlplane.console.copy_content import (
    copy_differences,
    copy_rows,
    has_samples,
    placeholders,
    readings,
    version_rows,
)
from controlplane.console.copy_fit import json_checklist
from controlplane.console.copy_rungs import html_from_text, missing_languages
from controlplane.console.forms.copy import (
    MAX_LOCALES,
    AnswersForm,
    BaseWords,
    CopyForm,
    VersionForm,
    words_form,
    words_form_set,
)
from controlplane.console.requests import (
    actor_of,
    on_to_review,
    proposed,
    refused_into_form,
    returned,
    whole_number,
)
from controlplane.console.timeline import timeline
from controlplane.console.views.ladder import tabs
from controlplane.ladder import operations
from controlplane.ladder.access import access_copy, access_version, may, require_writer, visible_copy
from controlplane.ladder.errors import CopyError, InvalidCopy, SameCopy
from controlplane.ladder.models import Copy, CopyKind, CopyVersion

PAGE_SIZE = 50
VERSIONS_SHOWN = 50
TO_HTML = "html-"  # the act of the button beside the plain text of a language, with its place among them


@login_required
@require_safe
def copy_list(request: HttpRequest) -> HttpResponse:
    """Every piece of copy: what is live, who signed it when, in which languages, and which stacks show it."""
    operator = actor_of(request)
    page = Paginator(visible_copy(operator), PAGE_SIZE).get_page(request.GET.get("page"))
    rows = copy_rows(list(page))
    context = {"tabs": tabs("copies"), "page": page, "rows": rows, "may_write": may(operator, "write_copy")}
    return render(request, "ladder/list.html", context)


@login_required
@require_safe
def copy_page(request: HttpRequest, slug: str) -> HttpResponse:
    """One piece: the live words as users read them, who signed them, where they are used, and every version."""
    operator = actor_of(request)
    copy = access_copy(operator, slug)
    (row,) = copy_rows([copy])
    versions = list(copy.versions.select_related("copy").defer("document")[:VERSIONS_SHOWN])
    live = row["live"].version if row["live"] else None
    names = [copy.audit_name, *(version.audit_name for version in versions)]
    context = {
        "copy": copy,
        "row": row,
        "live": live,
        "readings": readings(live) if live else [],
        "has_samples": live is not None and has_samples(live),
        "missing": missing_languages(live) if live else [],
        "rows": version_rows(copy, versions),
        "events": timeline(AuditEvent.objects.about(names, most=12)),
        "may_write": may(operator, "write_copy"),
    }
    return render(request, "ladder/copy.html", context)


@login_required
@require_safe
def version_page(request: HttpRequest, slug: str, number: int) -> HttpResponse:
    """One version: what changes against the live one (or another, `?against=`), how it reads, its document."""
    operator = actor_of(request)
    version = access_version(operator, slug, number)
    copy = version.copy
    live = operations.live_activation(copy)
    others = list(copy.versions.exclude(pk=version.pk).defer("document")[:VERSIONS_SHOWN])
    against = _compared_with(request, version, live.version if live else None)
    (row,) = version_rows(copy, [version])
    shown = readings(version)
    context = {
        "copy": copy,
        "version": version,
        "row": row,
        "live": live.version if live else None,
        "against": against,
        "others": others,
        "differences": copy_differences(against, version),
        "before_label": f"v{against.number}" if against else "nothing",
        "after_label": f"v{number}",
        "readings": shown,
        "json_checklist": json_checklist(copy, shown),
        "has_samples": has_samples(version),
        "missing": missing_languages(version),
        "may_propose": may(operator, "write_copy") and row["state"] in {"submitted", "was live"},
        "may_return": may(operator, "return_copy") and row["may_come_back"],
        "propose_title": f"Propose {version}",
        "return_title": f"Return {copy.slug} to v{number}",
        "return_verb": f"Return to v{number}",
        "events": timeline(AuditEvent.objects.filter(target=version.audit_name)[:12]),
    }
    return render(request, "ladder/version.html", context)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def copy_new(request: HttpRequest) -> HttpResponse:
    """Create a piece of copy; its words come next."""
    operator = actor_of(request)
    require_writer(operator)
    form = CopyForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        copy = refused_into_form(
            form, lambda: operations.create_copy(**form.cleaned_data, actor=operator, now=timezone.now())
        )
        if copy is not None:
            messages.success(request, f"Created {copy.slug}; now write its words")
            return redirect("copy-write", slug=copy.slug)
    return render(request, "ladder/new.html", {"form": form}, status=400 if form.errors else 200)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def version_write(request: HttpRequest, slug: str) -> HttpResponse:
    """Write other words: edit from the live ones, see the difference and how they read, then ask people to sign."""
    now = timezone.now()
    operator = actor_of(request)
    copy = access_copy(operator, slug, "write_copy")
    live = operations.live_activation(copy)
    base = live.version if live else copy.versions.select_related("copy").first()
    context: dict[str, Any] = {"copy": copy, "base": base, "is_rung": copy.kind == CopyKind.RUNG}
    context["placeholders"] = placeholders(copy.kind)
    if request.method != "POST":
        return render(request, "ladder/write.html", context | _empty_forms(copy, base))
    data = request.POST.copy()
    action = data.get("action", "")
    if action == "add" or action.startswith(TO_HTML):
        return render(request, "ladder/write.html", context | _typed(copy, data, action))
    if action == "preview" and not data.get("reason", "").strip():
        data["reason"] = " - "  # a preview needs no reason; the field shows what was typed
    form = AnswersForm(data) if copy.kind == CopyKind.ANSWERS else VersionForm(data)
    words: Any = None if copy.kind == CopyKind.ANSWERS else words_form_set(copy.kind, data)
    context |= {"form": form, "words": words}
    if not form.is_valid() or (words is not None and not words.is_valid()):
        return render(request, "ladder/write.html", context, status=400)
    locales = words.locales() if words is not None else form.cleaned_data["locales"]
    document = {"kind": copy.kind, "default_locale": form.cleaned_data["default_locale"], "locales": locales}
    if copy.kind == CopyKind.RUNG and document["default_locale"] not in locales:
        form.add_error("default_locale", f"{document['default_locale']!r} is not among the languages written")
        return render(request, "ladder/write.html", context, status=400)
    if action == "preview":
        return _preview(request, copy, base, document, context)
    reason = form.cleaned_data["reason"]
    try:
        version = operations.submit_version(copy=copy, document=document, rationale=reason, actor=operator, now=now)
    except (CopyError, ApprovalError) as exc:
        context |= {"problem": str(exc), "same": exc.number if isinstance(exc, SameCopy) else None}
        return render(request, "ladder/write.html", context, status=400 if isinstance(exc, InvalidCopy) else 409)
    return on_to_review(
        request,
        lambda: operations.propose_version(version=version, reason=reason, actor=operator, now=now),
        said=lambda change: f"Submitted {version}; CR-{change.pk} waits for who signs it, and nobody reads it before",
        back=version.get_absolute_url(),
    )


@login_required
@require_POST
def words_preview(request: HttpRequest, slug: str) -> HttpResponse:
    """One language of what is being typed, as users would read it: a part of the page for writing. Stores nothing."""
    copy = access_copy(actor_of(request), slug, "write_copy")
    index = whole_number(request.POST.get("index", "")) or 0
    context: dict[str, Any] = {}
    if copy.kind != CopyKind.ANSWERS:
        form = words_form(copy.kind)(request.POST, prefix=f"words-{index}")
        context["form"] = form
        if form.is_valid():
            locale = form.cleaned_data["locale"]
            context |= _draft(copy, {"kind": copy.kind, "default_locale": locale, "locales": {locale: form.words()}})
    return render(request, "ladder/_preview.html", context)


@login_required
@require_POST
def version_propose(request: HttpRequest, slug: str, number: int) -> HttpResponse:
    """Open the change request that would make a stored version live."""
    now = timezone.now()
    operator = actor_of(request)
    version = access_version(operator, slug, number, "write_copy")
    return proposed(
        request,
        version,
        lambda reason: operations.propose_version(version=version, reason=reason, actor=operator, now=now),
        readers="who signs it sees",
    )


@login_required
@require_POST
def version_return(request: HttpRequest, slug: str, number: int) -> HttpResponse:
    """Make words live again that were signed and live before: one click, no sign-off."""
    now = timezone.now()
    operator = actor_of(request)
    version = access_version(operator, slug, number, "return_copy")
    return returned(
        request,
        version,
        lambda reason: operations.return_to(version=version, actor=operator, reason=reason, now=now),
        said=f"{version} is live; the release is on its way to the workers",
        on=version.copy.get_absolute_url(),
    )


# --- what the pages show ----------------------------------------------------------------------------------------------
def _empty_forms(copy: Copy, base: CopyVersion | None) -> dict[str, Any]:
    """The form before anything was typed: it starts from other words, where there are some."""
    document = base.document if base else None
    initial = {"default_locale": document["default_locale"] if document else "en"}
    if copy.kind == CopyKind.ANSWERS:
        return {"form": AnswersForm(initial={**initial, "locales": AnswersForm.initial_from(document)}), "words": None}
    return {
        "form": VersionForm(initial=initial),
        "words": words_form_set(copy.kind, initial=BaseWords.initial_from(document)),
    }


def _typed(copy: Copy, data: QueryDict, action: str) -> dict[str, Any]:
    """What was typed so far, not judged yet: with room for another language, or with HTML made of a plain text."""
    if action.startswith(TO_HTML):
        words = f"words-{action.removeprefix(TO_HTML)}"
        data[f"{words}-html"] = html_from_text(data.get(f"{words}-detail", ""))
    initial = BaseWords.typed_in(data, copy.kind)
    if action == "add":
        initial = [*initial, {}][:MAX_LOCALES]
    typed = {name: data.get(name, "") for name in VersionForm.base_fields}
    return {"form": VersionForm(initial=typed), "words": words_form_set(copy.kind, initial=initial)}


def _draft(copy: Copy, document: Any) -> dict[str, Any]:
    """How words that nobody stored yet would read, or the problem that workers would have with them."""
    try:
        operations.check_document(copy, document)
    except InvalidCopy as exc:
        return {"problem": str(exc)}
    draft = CopyVersion(copy=copy, number=0, digest="", document=document)
    return {"draft": draft, "readings": readings(draft), "has_samples": has_samples(draft)}


def _preview(
    request: HttpRequest, copy: Copy, base: CopyVersion | None, document: Any, context: dict[str, Any]
) -> HttpResponse:
    """What was typed beside what is live, and as users would read it; nothing is stored."""
    form = context["form"]
    typed = {name: request.POST.get(name, "") for name in form.fields}
    context["form"] = type(form)(initial=typed)
    context |= _draft(copy, document)
    if "draft" not in context:
        return render(request, "ladder/write.html", context, status=400)
    context |= {
        "differences": copy_differences(base, context["draft"]),
        "missing": missing_languages(context["draft"]),
        "before_label": f"v{base.number}" if base else "nothing",
    }
    return render(request, "ladder/write.html", context)


def _compared_with(request: HttpRequest, version: CopyVersion, live: CopyVersion | None) -> CopyVersion | None:
    """The version named by `?against=`, else the live one, else the one before.

    Raises:
        Http404: the piece has no such version.
    """
    asked = request.GET.get("against", "")
    if asked:
        named = version.copy.versions.filter(number=whole_number(asked) or 0).first()
        if named is None:
            raise Http404(f"{version.copy.slug!r} has no version {asked!r}")
        return named
    if live is not None and live.pk != version.pk:
        return live
    return version.copy.versions.filter(number__lt=version.number).first()
