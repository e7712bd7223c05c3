"""What a change would do, as a reviewer reads it: differences, preview, plan, and the facts to check."""

from typing import Any

from controlplane.approvals.models import ApprovalPolicy, ChangeRequest
from controlplane.console.diffs import diff_json
from controlplane.console.previews import Difference, differences, preview
from controlplane.prompts.models import PromptVersion
from controlplane.rollouts.models import Canary
from controlplane.routing.models import RoutingTable


def review_content(change: ChangeRequest) -> dict[str, Any]:
    """The content of a change for `reviews/review.html`.

    Shape: {"before", "after": names of the two sides, "differences": [Difference], "version"?, "preview"?, "canary"?,
    "checklist": [{"text", "met": bool or None}]}.
    """
    readers = {
        "prompt.rollout": _read_prompt,
        "prompt.live": _read_prompt,
        "routing.table": _read_routing,
        "approval.policy": _read_policy,
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
    parts = [
        Difference(part.capitalize(), diff_json(before.document[part] if before else {}, after.document[part]))
        for part in ("routes", "lanes", "accounts", "providers")
    ]
    return {
        "before": f"table {before.number}" if before else "nothing",
        "after": f"table {after.number}",
        "differences": parts,
        "table": after,
        "checklist": [{"text": "The workers' parser accepts it", "met": True}],
    }


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
