"""What a change would do, as a reviewer reads it: differences, preview, plan, and the facts to check."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

from controlplane.approvals.models import ApprovalPolicy, ChangeRequest
from controlplane.console.copy_content import copy_differences, has_samples, readings
from controlplane.console.copy_fit import json_checklist
from controlplane.console.copy_rungs import missing_languages
from controlplane.console.corpus_policy_content import corpora_effects
from controlplane.console.diffs import diff_json
from controlplane.console.ladder_policy_content import ladder_effects
from controlplane.console.policies import comparison
from controlplane.console.policy_words import Effect, table_effects
from controlplane.console.previews import Difference, differences, preview
from controlplane.console.redrive_content import redrive_review
from controlplane.console.routing_content import table_differences
from controlplane.console.threshold_content import PolicyReplay, altered_policies, replay_change
from controlplane.corpora import checks as corpora_checks
from controlplane.corpora.policies import KIND_NAME as CORPORA_KIND
from controlplane.corpora.policies import corpus_policies
from controlplane.deadletters.redrive import KIND_NAME as REDRIVE_KIND
from controlplane.ladder.checks import policy_problems
from controlplane.ladder.models import CopyVersion
from controlplane.ladder.policies import KIND_NAME as LADDER_KIND
from controlplane.ladder.policies import ladder_policies
from controlplane.prompts.models import PromptVersion
from controlplane.rollouts.models import Canary
from controlplane.routing.models import RoutingTable
from controlplane.routing.operations import KIND_NAME as ROUTING_KIND
from controlplane.versioned.operations import Versions
from dataplane.documents import MalformedRelease
from dataplane.prompts import Problem

P = TypeVar("P")


def review_content(change: ChangeRequest) -> dict[str, Any]:
    """The content of a change for `reviews/review.html`.

    Shape: {"before", "after": names of the two sides, "differences": [Difference], "version"?, "preview"?, "canary"?,
    "effects"?, "is_simulated"?, "readings"?, "has_samples"?, "plan"?, "checklist": [{"text", "met": bool or None}]}.
    """
    readers = {
        "prompt.rollout": _read_prompt,
        "prompt.live": _read_prompt,
        "routing.table": _read_routing,
        "copy.version": _read_copy,
        LADDER_KIND: _read_ladder,
        CORPORA_KIND: _read_corpora,
        "approval.policy": _read_policy,
        REDRIVE_KIND: redrive_review,
    }
    read = readers.get(change.kind)
    if read is None:
        shown = [Difference(change.registered.label, diff_json(change.base, change.content))]
        return {"before": "in force", "after": "proposed", "differences": shown, "checklist": []}
    return read(change)


def _read_prompt(change: ChangeRequest) -> dict[str, Any]:
    version = _version(change.content["prompt"], change.content["candidate"])
    base = _version(change.content["prompt"], change.base) if change.base else None
    shown = preview(version)
    canary = Canary.objects.with_parts().filter(change=change).first()
    checklist = [
        {"text": "The samples fill every variable", "met": not shown.error},
        {"text": f"Class {version.get_change_class_display().lower()}, as its author says", "met": None},
        {"text": "The digest is that of the stored version", "met": version.digest == change.content_digest},
    ]
    if canary is not None:
        matched = all(stage["weight"] <= 5000 for stage in canary.stages[:-1])
        checklist.append({"text": "Every stage but the last leaves a matched control", "met": matched})
    return {
        "before": f"v{base.number}, live when proposed" if base else "nothing",
        "after": f"v{version.number}",
        "differences": differences(base, version),
        "version": version,
        "preview": shown,
        "canary": canary,
        "checklist": checklist,
    }


def _read_routing(change: ChangeRequest) -> dict[str, Any]:
    after = RoutingTable.objects.get(number=change.content["number"])
    before = RoutingTable.objects.get(number=change.base["number"]) if change.base else None
    return {
        "before": f"table {before.number}" if before else "nothing",
        "after": f"table {after.number}",
        "differences": table_differences(before.document if before else None, after.document),
        "table": after,
        "effects": _effects(before, after),
        "alters_breakers": before is not None and _alters_breakers(before, after),
        "checklist": [{"text": "The workers' parser accepts it", "met": True}],
    }


def _read_ladder(change: ChangeRequest) -> dict[str, Any]:
    found = _read_entries(change, ladder_policies, ladder_effects, policy_problems)
    return {**found, "is_simulated": True}


def _read_corpora(change: ChangeRequest) -> dict[str, Any]:
    return _read_entries(change, corpus_policies, corpora_effects, corpora_checks.policy_problems)


def _read_entries(
    change: ChangeRequest,
    versions: Versions[Any, P],
    effects: Callable[[P | None, P], list[Effect]],
    problems: Callable[[Any], list[Problem]],
) -> dict[str, Any]:
    """Of a policy that is a document of entries by their slugs."""
    numbered = versions.model._default_manager
    after = numbered.get(number=change.content["number"])
    before = numbered.get(number=change.base["number"]) if change.base else None
    found = comparison(versions, effects, problems)(before, after.document)
    return {
        "before": f"policy {before.number}" if before else "nothing",
        "after": f"policy {after.number}",
        "differences": found["differences"],
        "effects": found["effects"],
        "checklist": _policy_checklist(found["problems"]),
    }


def _policy_checklist(problems: list[Problem]) -> list[dict[str, Any]]:
    return [
        {"text": "The workers' parser accepts it", "met": True},
        {"text": "Its routes and words fit what is in force", "met": not any(one.is_error for one in problems)},
        *({"text": f"{one.path}: {one.message}", "met": False} for one in problems),
    ]


def _read_copy(change: ChangeRequest) -> dict[str, Any]:
    versions = CopyVersion.objects.select_related("copy").filter(copy__slug=change.content["copy"])
    after = versions.get(number=change.content["version"]["number"])
    before = versions.get(number=change.base["number"]) if change.base else None
    lost = set(before.document["locales"]) - set(after.document["locales"]) if before else set()
    checklist: list[dict[str, Any]] = [
        {"text": "The digest is that of the stored version", "met": after.digest == change.content_digest},
        {"text": "Says the same in every language, and nothing untrue", "met": None},
    ]
    if before is not None:
        text = f"No longer says it in {', '.join(sorted(lost))}" if lost else "Every language of before is written"
        checklist.append({"text": text, "met": not lost})
    checklist += [{"text": line, "met": False} for line in missing_languages(after)]
    if after.copy.regulated:
        checklist.append({"text": "Regulated: legal answers for every word", "met": None})
    shown = readings(after)
    return {
        "before": f"v{before.number}, live when proposed" if before else "nothing",
        "after": f"v{after.number}",
        "differences": copy_differences(before, after),
        "readings": shown,
        "has_samples": has_samples(after),
        "checklist": [*checklist, *json_checklist(after.copy, shown)],
    }


def replay_of(change: ChangeRequest, *, now: datetime) -> list[PolicyReplay]:
    """What the last 30 days would have been under the breaker policies that a change of routing alters."""
    if change.kind != ROUTING_KIND or not change.base:
        return []
    numbers = (change.base["number"], change.content["number"])
    tables = {table.number: table for table in RoutingTable.objects.filter(number__in=numbers)}
    before, after = (tables[number] for number in numbers)
    if not _alters_breakers(before, after):
        return []
    return replay_change(before.parsed(), after.parsed(), now=now)


def _effects(before: RoutingTable | None, after: RoutingTable) -> list[Effect]:
    try:
        return table_effects(before.parsed() if before else None, after.parsed())
    except MalformedRelease:  # as below
        return []


def _alters_breakers(before: RoutingTable, after: RoutingTable) -> bool:
    try:
        return bool(altered_policies(before.parsed(), after.parsed()))
    except MalformedRelease:  # somebody wrote to the table by hand; the change is refused when it is applied
        return False


def _read_policy(change: ChangeRequest) -> dict[str, Any]:
    after = ApprovalPolicy.objects.get(number=change.content["number"])
    before = ApprovalPolicy.objects.get(number=change.base["number"]) if change.base else None
    return {
        "before": f"policy {before.number}" if before else "nothing",
        "after": f"policy {after.number}",
        "differences": [Difference("Rules", diff_json(before.rules if before else [], after.rules))],
        "checklist": [],
    }


def _version(prompt: str, reference: Any) -> PromptVersion:
    return PromptVersion.objects.select_related("prompt").get(prompt__slug=prompt, number=reference["number"])
