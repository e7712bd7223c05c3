"""What the console shows alike of ladder and corpus policies: documents of entries by their slugs, surfaces or corpora,
each with numbers of its own.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Protocol, TypeVar

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone

from controlplane.console.forms.thresholds import EntryNumbers, ThresholdsForm, Write
from controlplane.console.policy_words import Effect
from controlplane.console.previews import entry_differences
from controlplane.console.requests import actor_of, refused_into_form
from controlplane.console.threshold_content import Chart
from controlplane.console.threshold_words import ORIGINS, Words
from controlplane.console.versions import Compare
from controlplane.versioned.access import VersionAccess
from controlplane.versioned.models import DocumentVersion
from controlplane.versioned.operations import ProposeNumbers, Versions
from dataplane.prompts import Problem
from dataplane.thresholds import Threshold


class Entry(Protocol):
    """A surface, or a corpus."""

    @property
    def title(self) -> str: ...

    def thresholds(self) -> Iterable[tuple[str, Threshold]]:
        """All its numbers by name."""


V = TypeVar("V", bound=DocumentVersion)
P = TypeVar("P")
E = TypeVar("E", bound=Entry)


# --- pages ------------------------------------------------------------------------------------------------------------
def comparison(
    versions: Versions[V, P],
    effects: Callable[[P | None, P], list[Effect]],
    problems: Callable[[Any], list[Problem]],
) -> Compare[V]:
    """What a policy changes, in words and to the letter, and what there is against it, for pages of
    `versions.version_pages`.
    """

    def compare(active: V | None, document: Any) -> dict[str, Any]:
        return {
            "effects": effects(versions.parse(active.document) if active else None, versions.parse(document)),
            "differences": entry_differences(active.document if active else None, document),
            "problems": errors_first(problems(document)),
        }

    return compare


def errors_first(problems: Iterable[Problem]) -> list[Problem]:
    """As `versioned/_problems.html` takes them."""
    return sorted(problems, key=lambda problem: not problem.is_error)


def entry_numbers(
    request: HttpRequest,
    access: VersionAccess[V, Mapping[str, E]],
    slug: str,
    *,
    words_of: Callable[[E], Callable[[str], Words]],
    group_of: Callable[[str], str],
    charts: Callable[[E, datetime], Iterable[Chart]],
    write: Write,
    propose: ProposeNumbers,
    template: str,
) -> HttpResponse:
    """Show the numbers of one entry of the policy in force, each with its origin, or propose those that were typed.

    Args:
        words_of: What each number of an entry means.
        group_of: Under which heading a number stands.
        charts: Of what was seen lately, for the numbers that it is held against.
        template: Extends `versioned/numbers.html`; gets `slug`, `active`, `form`, and `groups` of its rows by their
            headings.
    """
    now = timezone.now()
    operator = actor_of(request)
    posting = request.method == "POST"
    entry = access.entry(operator, slug, access.propose if posting else access.view)
    active = access.in_force(operator).row
    assert active is not None  # noqa: S101 - narrows the type; the entry is of the policy in force
    thresholds = dict(entry.thresholds())
    form = ThresholdsForm(
        request.POST if posting else None,
        numbers=EntryNumbers(access.versions, active.document, slug, tuple(thresholds), words_of(entry), write),
        thresholds=thresholds,
        today=now.date(),
    )
    status = 200
    if posting and form.is_valid():
        change = refused_into_form(
            form,
            lambda: propose(
                slug=slug, changes=form.changes, reason=form.cleaned_data["reason"], actor=operator, now=now
            ),
        )
        if change is not None:
            messages.success(request, f"Proposed; CR-{change.pk} waits in the approvers' inbox")
            return redirect("review", pk=change.pk)
        status = 409
    elif posting:
        status = 400
    groups: dict[str, list[Any]] = {}
    for row in form.rows():
        groups.setdefault(group_of(row.name), []).append(row)
    context = {
        "title": entry.title,
        "slug": slug,
        "active": active,
        "form": form,
        "groups": list(groups.items()),
        "charts": {chart.id: chart for chart in charts(entry, now)},
        "may_propose": access.may_propose(operator),
    }
    return render(request, template, context, status=status)


# --- what another policy changes --------------------------------------------------------------------------------------
def entry_effects(
    before: Mapping[str, E] | None,
    after: Mapping[str, E],
    *,
    gone: Callable[[E], str],
    changed: Callable[[E | None, E], Iterable[Effect]],
) -> list[Effect]:
    """What putting `after` in force changes: first what becomes of entries that it drops, then entry by entry.

    Args:
        changed: Of an entry, from what it was; None: it is new.
    """
    old = before or {}
    dropped = [Effect(gone(entry)) for slug, entry in old.items() if slug not in after]
    return [*dropped, *(effect for slug, entry in after.items() for effect in changed(old.get(slug), entry))]


def moved_numbers(
    before: E, after: E, words_of: Callable[[str], Words], *, label: Callable[[str, Words], str]
) -> tuple[str, ...]:
    """The numbers that both have and that differ, each with where it comes from now: 'Calm 5 s → 10 s (incident)'."""
    old, moved = dict(before.thresholds()), []
    for name, threshold in after.thresholds():
        if name in old and old[name].value != threshold.value:
            words = words_of(name)
            numbers = f"{words.shown(old[name].value)} → {words.shown(threshold.value)}"
            moved.append(f"{label(name, words)} {numbers} ({ORIGINS[threshold.provenance.origin][1].lower()})")
    return tuple(moved)
