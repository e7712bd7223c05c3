"""The corpus policy's pages: what is in force in words, its numbers, other policies, and the way forward and back."""

from typing import Final

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_safe

from controlplane.console.corpus_content import lag_chart
from controlplane.console.corpus_policy_content import corpora_effects, promise_words
from controlplane.console.corpus_words import group_of, number_words
from controlplane.console.forms.corpora import CorpusPolicyForm
from controlplane.console.policies import comparison, entry_numbers, errors_first
from controlplane.console.requests import actor_of
from controlplane.console.versions import list_context, version_pages
from controlplane.console.views.corpora import tabs
from controlplane.corpora.access import policy_access
from controlplane.corpora.checks import policy_problems
from controlplane.corpora.policies import corpus_policies, propose_thresholds
from controlplane.corpora.thresholds import placed_thresholds, with_thresholds
from controlplane.ladder.checks import signed_words
from controlplane.routing.thresholds import Census

VERSIONS: Final = version_pages(
    policy_access,
    CorpusPolicyForm,
    pages="corpus-policies",
    one_template="corpora/policy_version.html",
    new_template="corpora/policy_new.html",
    compare=comparison(corpus_policies, corpora_effects, policy_problems),
)


@login_required
@require_safe
def policy_page(request: HttpRequest) -> HttpResponse:
    """The policy in force in plain words, corpus by corpus, every number with its origin; and all other policies."""
    today = timezone.now().date()
    found = policy_access.in_force(actor_of(request))
    corpora = found.parsed.with_words(signed_words())
    context = list_context(request, policy_access) | {
        "tabs": tabs("corpus-policies"),
        "entries": [promise_words(corpus, today=today) for corpus in corpora.values()],
        "census": Census.of(placed_thresholds(corpora), today=today),
        "problems": errors_first(policy_problems(found.row.document)) if found.row else [],
        "icon": "database",
    }
    return render(request, "corpora/policy.html", context)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def numbers_page(request: HttpRequest, slug: str) -> HttpResponse:
    """The numbers of one corpus, each with its origin, and the way to other ones."""
    return entry_numbers(
        request,
        policy_access,
        slug,
        words_of=lambda corpus: number_words,
        group_of=group_of,
        charts=lambda corpus, now: [lag_chart(corpus, now=now)],
        write=with_thresholds,
        propose=propose_thresholds,
        template="corpora/numbers.html",
    )
