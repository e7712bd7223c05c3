"""The corpus policy's pages: what is in force in words, its numbers, other policies, and the way forward and back."""

from typing import Any, Final

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from controlplane.console.corpus_content import lag_chart
from controlplane.console.corpus_policy_content import corpora_effects, corpus_numbers, promise_words
from controlplane.console.corpus_words import group_of
from controlplane.console.forms.corpora import CorpusPolicyForm
from controlplane.console.previews import entry_differences
from controlplane.console.requests import actor_of
from controlplane.console.versions import list_context, numbers, proposed, returned, submission, version_context
from controlplane.console.views.corpora import tabs
from controlplane.corpora.access import CorpusPermission, access_promised, policy_access
from controlplane.corpora.checks import policy_problems
from controlplane.corpora.models import CorpusPolicy
from controlplane.corpora.policies import corpus_policies, propose_thresholds
from controlplane.corpora.thresholds import placed_thresholds
from controlplane.ladder.checks import signed_words
from controlplane.routing.thresholds import Census
from dataplane.prompts import Problem
from dataplane.retrieval.policy import Corpora

PAGES: Final = "corpus-policies"


@login_required
@require_safe
def policy_page(request: HttpRequest) -> HttpResponse:
    """The policy in force in plain words, corpus by corpus, every number with its origin; and all other policies."""
    today = timezone.now().date()
    operator = actor_of(request)
    found = policy_access.in_force(operator)
    corpora = found.parsed.with_words(signed_words())
    context = list_context(request, corpus_policies, policy_access.visible(operator)) | {
        "tabs": tabs("corpus-policies"),
        "corpora": [promise_words(corpus, today=today) for corpus in corpora.values()],
        "census": Census.of(placed_thresholds(corpora), today=today),
        "problems": _problems(found.row.document) if found.row else [],
        "may_propose": policy_access.may_propose(operator),
    }
    return render(request, "corpora/policy.html", context)


@login_required
@require_safe
def version_page(request: HttpRequest, number: int) -> HttpResponse:
    """One policy: what it changes against the one in force, its document, and when it was in force."""
    operator = actor_of(request)
    policy = policy_access.version(operator, number)
    context = version_context(corpus_policies, policy, pages=PAGES, compare=_compare)
    return render(
        request, "corpora/policy_version.html", context | {"may_propose": policy_access.may_propose(operator)}
    )


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def policy_new(request: HttpRequest) -> HttpResponse:
    """Write another policy, see what it changes, then submit it: stored for ever, in force once people signed."""
    policy_access.require_proposer(actor_of(request))
    template = "corpora/policy_new.html"
    return submission(request, corpus_policies, CorpusPolicyForm, template=template, pages=PAGES, compare=_compare)


@login_required
@require_POST
def policy_propose(request: HttpRequest, number: int) -> HttpResponse:
    """Open the change request that would put a stored policy in force."""
    return proposed(request, corpus_policies, policy_access.version_to_propose(actor_of(request), number))


@login_required
@require_POST
def policy_return(request: HttpRequest, number: int) -> HttpResponse:
    """Put a policy in force again that was before: one click, no sign-off."""
    policy = policy_access.version_to_propose(actor_of(request), number)
    return returned(request, corpus_policies, policy, pages=PAGES)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def numbers_page(request: HttpRequest, slug: str) -> HttpResponse:
    """The numbers of one corpus, each with its origin, and the way to other ones."""
    now = timezone.now()
    operator = actor_of(request)
    permission: CorpusPermission = "propose_corpora" if request.method == "POST" else "view_corpuspolicy"
    promised = access_promised(operator, slug, permission)
    active = policy_access.in_force(operator).row
    assert active is not None  # noqa: S101 - narrows the type; the corpus is of the policy in force
    chart = lag_chart(promised, now=now)
    return numbers(
        request,
        corpus_numbers(active.document, promised),
        dict(promised.thresholds()),
        propose=lambda changes, reason: propose_thresholds(
            slug=slug, changes=changes, reason=reason, actor=operator, now=now
        ),
        group_of=group_of,
        template="corpora/numbers.html",
        context={
            "title": promised.title,
            "slug": slug,
            "active": active,
            "charts": {chart.id: chart},
            "may_propose": policy_access.may_propose(operator),
        },
    )


# --- what the pages show ----------------------------------------------------------------------------------------------
def _compare(active: CorpusPolicy | None, document: Any) -> dict[str, Any]:
    """What a policy changes, in words and to the letter, and what there is against it."""
    return {
        "effects": corpora_effects(active.parsed() if active else None, Corpora.parse(document, path="$")),
        "differences": entry_differences(active.document if active else None, document),
        "problems": _problems(document),
    }


def _problems(document: Any) -> list[Problem]:
    """What there is against a policy, errors first."""
    return sorted(policy_problems(document), key=lambda problem: not problem.is_error)
