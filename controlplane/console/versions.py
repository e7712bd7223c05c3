"""What the pages of every versioned document do alike: its history, one version, and the way to another one and back.

Their URLs share a prefix: `pages` is the list and what is in force, and `pages`-new, -propose and -return act.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from controlplane.approvals.models import ChangeRequest
from controlplane.audit.models import AuditEvent
from controlplane.console.forms.fields import VersionForm, as_yaml
from controlplane.console.requests import actor_of, on_to_review, proposed, refused_into_form, returned
from controlplane.console.timeline import timeline
from controlplane.versioned.access import VersionAccess
from controlplane.versioned.models import DocumentActivation, DocumentVersion
from controlplane.versioned.operations import Versions

V = TypeVar("V", bound=DocumentVersion)
# From the version in force (None: there is none) and a document: what a page shows of how they differ.
Compare = Callable[[V | None, Any], dict[str, Any]]

View = Callable[..., HttpResponse]

PAGE_SIZE: Final = 20
_MOST_ENTRIES: Final = 20


def _nothing(version: DocumentVersion, active: DocumentVersion | None) -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True, slots=True)
class VersionPages:
    """One version, the editor of another, and the two acts."""

    one: View
    new: View
    propose: View
    return_to: View


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


def list_context(request: HttpRequest, access: VersionAccess[V, Any]) -> dict[str, Any]:
    """What is in force since when, and a page of all versions, for `versioned/_history.html`.

    Shape: {"active": V or None, "activation": its entry of the log, "page", "rows": [Row], "may_propose": bool}.
    """
    operator, versions = actor_of(request), access.versions
    visible = access.visible(operator).defer("document")
    activation = versions.activation()
    active = activation.version if activation else None
    page = Paginator(visible, PAGE_SIZE).get_page(request.GET.get("page"))
    return {
        "active": active,
        "activation": activation,
        "page": page,
        "rows": history(versions, list(page), active),
        "may_propose": access.may_propose(operator),
    }


def version_pages(
    access: VersionAccess[V, Any],
    form_of: type[VersionForm],
    *,
    pages: str,
    one_template: str,
    new_template: str,
    compare: Compare[V],
    beside: Callable[[V, V | None], Mapping[str, Any]] = _nothing,
) -> VersionPages:
    """The pages of one document's versions.

    Args:
        one_template, new_template: Extend `versioned/version.html` and `versioned/new.html`.
        beside: What else the page of one version shows, by the version and the one in force.
    """
    versions = access.versions

    @login_required
    @require_safe
    def one(request: HttpRequest, number: int) -> HttpResponse:
        """One version: what differs from the one in force, its document, when it was in force, what waits for it."""
        operator = actor_of(request)
        version, active = access.version(operator, number), versions.active()
        (row,) = history(versions, [version], active)
        context = {
            "version": version,
            "active": active,
            "row": row,
            "activations": versions.entries().filter(version=version)[:_MOST_ENTRIES],
            **compare(active, version.document),
            **beside(version, active),
            "document": as_yaml(version.document),
            "pages": pages,
            "return_title": f"Return to {version.noun} {version.number}",
            "propose_title": f"Propose {version.noun} {version.number}",
            "events": timeline(AuditEvent.objects.filter(target=version.audit_name)[:_MOST_ENTRIES]),
            "may_propose": access.may_propose(operator),
        }
        return render(request, one_template, context)

    @login_required
    @require_http_methods(["GET", "HEAD", "POST"])
    def new(request: HttpRequest) -> HttpResponse:
        """Write another version, see what it changes, then submit it: stored for ever, in force once people signed."""
        access.require_proposer(actor_of(request))
        return _submission(request, versions, form_of, template=new_template, pages=pages, compare=compare)

    @login_required
    @require_POST
    def propose(request: HttpRequest, number: int) -> HttpResponse:
        """Open the change request that would put a stored version in force, for the reason that was typed."""
        now = timezone.now()
        operator = actor_of(request)
        version = access.version_to_propose(operator, number)
        return proposed(
            request,
            version,
            lambda reason: versions.propose(version=version, reason=reason, actor=operator, now=now),
        )

    @login_required
    @require_POST
    def return_to(request: HttpRequest, number: int) -> HttpResponse:
        """Put a version in force again that was before: one click, no sign-off."""
        now = timezone.now()
        operator = actor_of(request)
        version = access.version_to_propose(operator, number)
        return returned(
            request,
            version,
            lambda reason: versions.return_to(version=version, actor=operator, reason=reason, now=now),
            said=f"{version} is in force; the release is on its way to the workers",
            on=pages,
        )

    return VersionPages(one, new, propose, return_to)


def _submission(
    request: HttpRequest,
    versions: Versions[V, Any],
    form_of: type[VersionForm],
    *,
    template: str,
    pages: str,
    compare: Compare[V],
) -> HttpResponse:
    """Show the editor of another version, what it would change, or store it and open its change request."""
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
