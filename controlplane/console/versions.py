"""What the pages of every versioned document do alike: its history, one version, its numbers, and the way to another
one and back.

Their URLs share a prefix: `pages` is the list and what is in force, and `pages`-new, -propose and -return act.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone

from controlplane.approvals.models import ChangeRequest
from controlplane.audit.models import AuditEvent
from controlplane.console.forms.fields import VersionForm, as_yaml
from controlplane.console.forms.thresholds import Numbers, ThresholdsForm
from controlplane.console.requests import actor_of, on_to_review, reason_given, refused_into_form, went_through
from controlplane.console.timeline import timeline
from controlplane.routing.thresholds import NewValue
from controlplane.versioned.models import DocumentActivation, DocumentVersion
from controlplane.versioned.operations import Versions
from dataplane.thresholds import Threshold

V = TypeVar("V", bound=DocumentVersion)
# From the version in force (None: there is none) and a document: what a page shows of how they differ.
Compare = Callable[[V | None, Any], dict[str, Any]]

PAGE_SIZE: Final = 20
_MOST_ENTRIES: Final = 20


@dataclass(frozen=True, slots=True)
class Row(Generic[V]):
    """A version and where it stands.

    Attributes:
        state: in force | was in force | bypassed | proposed | submitted.
        last: When it was put in force last.
        change: The open one that would put it in force.
    """

    version: V
    state: str
    last: DocumentActivation | None
    change: ChangeRequest | None


def history(versions: Versions[V, Any], found: Sequence[V], active: V | None) -> list[Row[V]]:
    """Each version with where it stands; two queries however many."""
    last: dict[int, DocumentActivation] = {}
    approved: set[int] = set()
    for activation in versions.entries().filter(version__in=found).order_by("id"):
        last[activation.version_id] = activation
        if activation.lapses_at is None:
            approved.add(activation.version_id)
    numbers = [version.number for version in found]
    proposed = {
        change.content["number"]: change
        for change in ChangeRequest.objects.open().filter(kind=versions.kind, content__number__in=numbers)
    }
    rows = []
    for version in found:
        change = proposed.get(version.number)
        if active is not None and version.pk == active.pk:
            state = "in force"
        elif version.pk in approved:
            state = "was in force"
        elif change is not None:
            state = "proposed"
        else:
            state = "bypassed" if version.pk in last else "submitted"
        rows.append(Row(version, state, last.get(version.pk), change))
    return rows


def list_context(request: HttpRequest, versions: Versions[V, Any], visible: QuerySet[V]) -> dict[str, Any]:
    """What is in force since when, and a page of all versions, for `versioned/_history.html`.

    Shape: {"active": V or None, "activation": its entry of the log, "page", "rows": [Row]}.
    """
    activation = versions.activation()
    active = activation.version if activation else None
    page = Paginator(visible.defer("document"), PAGE_SIZE).get_page(request.GET.get("page"))
    return {"active": active, "activation": activation, "page": page, "rows": history(versions, list(page), active)}


def version_context(versions: Versions[V, Any], version: V, *, pages: str, compare: Compare[V]) -> dict[str, Any]:
    """One version, for a page that extends `versioned/version.html`."""
    active = versions.active()
    (row,) = history(versions, [version], active)
    return {
        "version": version,
        "active": active,
        "row": row,
        "activations": versions.entries().filter(version=version)[:_MOST_ENTRIES],
        **compare(active, version.document),
        "document": as_yaml(version.document),
        "pages": pages,
        "return_title": f"Return to {version.noun} {version.number}",
        "propose_title": f"Propose {version.noun} {version.number}",
        "events": timeline(AuditEvent.objects.filter(target=version.audit_name)[:_MOST_ENTRIES]),
    }


def submission(
    request: HttpRequest,
    versions: Versions[V, Any],
    form_of: type[VersionForm],
    *,
    template: str,
    pages: str,
    compare: Compare[V],
) -> HttpResponse:
    """Show the editor of another version, what it would change, or store it and open its change request.

    Args:
        template: Extends `versioned/new.html`.
    """
    now = timezone.now()
    operator = actor_of(request)
    active = versions.active()
    context: dict[str, Any] = {
        "active": active,
        "noun": versions.model.noun,
        "short_noun": versions.model.short_noun,
        "pages": pages,
    }
    if request.method != "POST":
        form = form_of(initial={"document": as_yaml(active.document if active else dict(versions.empty))})
        return render(request, template, context | {"form": form})
    previewing = request.POST.get("action") == "preview"
    data = request.POST.copy()
    if previewing and not data.get("reason", "").strip():
        data["reason"] = " - "  # a preview needs no reason; the field shows what was typed
    form = form_of(data)
    if not form.is_valid():
        return render(request, template, context | {"form": form}, status=400)
    document, reason = form.cleaned_data["document"], form.cleaned_data["reason"]
    if previewing:
        data["reason"] = request.POST.get("reason", "")
        context |= {"form": form_of(initial=data.dict()), **compare(active, document)}
        return render(request, template, context)
    version = refused_into_form(
        form, lambda: versions.submit(document=document, rationale=reason, actor=operator, now=now)
    )
    if version is None:
        return render(request, template, context | {"form": form}, status=409)
    return on_to_review(
        request,
        lambda: versions.propose(version=version, reason=reason, actor=operator, now=now),
        said=lambda change: f"Submitted {version}; CR-{change.pk} waits in the approvers' inbox",
        back=version.get_absolute_url(),
    )


def proposed(request: HttpRequest, versions: Versions[V, Any], version: V) -> HttpResponse:
    """Open the change request that would put a stored version in force, for the reason that was typed."""
    now = timezone.now()
    operator = actor_of(request)
    reason = reason_given(request)
    if reason is None:
        return redirect(version)
    return on_to_review(
        request,
        lambda: versions.propose(version=version, reason=reason, actor=operator, now=now),
        said=lambda change: f"Opened CR-{change.pk}; approvers see it in their inbox",
        back=version.get_absolute_url(),
    )


def returned(request: HttpRequest, versions: Versions[V, Any], version: V, *, pages: str) -> HttpResponse:
    """Put a version in force again that was before, for the reason that was typed."""
    now = timezone.now()
    operator = actor_of(request)
    reason = reason_given(request)
    if reason is None:
        return redirect(version)
    if went_through(request, lambda: versions.return_to(version=version, actor=operator, reason=reason, now=now)):
        messages.success(request, f"{version} is in force; the release is on its way to the workers")
    return redirect(pages)


def numbers(
    request: HttpRequest,
    entry: Numbers,
    thresholds: Mapping[str, Threshold],
    *,
    propose: Callable[[Mapping[str, NewValue | None], str], ChangeRequest],
    group_of: Callable[[str], str],
    template: str,
    context: Mapping[str, Any],
) -> HttpResponse:
    """Show the numbers of one entry, or propose those that were typed.

    Args:
        propose: By what differs, and why.
        group_of: Under which heading a threshold stands.
        template: Gets `form`, and `groups` of its rows by their headings.
    """
    posting = request.method == "POST"
    today = timezone.now().date()
    form = ThresholdsForm(request.POST if posting else None, numbers=entry, thresholds=thresholds, today=today)
    status = 200
    if posting and form.is_valid():
        change = refused_into_form(form, lambda: propose(form.changes, form.cleaned_data["reason"]))
        if change is not None:
            messages.success(request, f"Proposed; CR-{change.pk} waits in the approvers' inbox")
            return redirect("review", pk=change.pk)
        status = 409
    elif posting:
        status = 400
    groups: dict[str, list[Any]] = {}
    for row in form.rows():
        groups.setdefault(group_of(row.name), []).append(row)
    return render(request, template, {**context, "form": form, "groups": list(groups.items())}, status=status)
