"""The latest changes to what is served, each with who approved it."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from django.db.models import Q

from controlplane.accounts.access import may
from controlplane.accounts.models import Operator
from controlplane.approvals.models import Decision, SignOff
from controlplane.audit.models import AuditEvent
from controlplane.console.timeline import timeline
from controlplane.prompts.access import visible_prompts
from controlplane.rollouts.models import Canary

_CHANGES: Final = (
    "prompt.live",
    "canary.started",
    "canary.knob_turned",
    "canary.promoted",
    "canary.rolled_back",
    "routing.activated",
    "copy.activated",
    "ladder.activated",
    "rung.engaged",
    "rung.stood_down",
    "corpora.activated",
    "corpus.switched",
    "corpus.paused",
    "corpus.resumed",
    "corpus.pinned",
    "corpus.unpinned",
    "policy.activated",
    "release.rolled_back",
    "lane.held",
    "lane.let_go",
)
_GOES_BACK: Final = "needs no sign-off: it goes back to what was approved"
_ENDS: Final = "needs no sign-off: it ends by itself"
_WORDS_SIGNED: Final = "needs no sign-off: its words were signed before"
_TAKEN_BACK: Final = "needs no sign-off: one click takes it back"
# Why nobody signs what on-call does with his own hand.
_UNSIGNED: Final[Mapping[str, str]] = {
    "canary.rolled_back": _GOES_BACK,
    "release.rolled_back": _GOES_BACK,
    "lane.held": _ENDS,
    "lane.let_go": _ENDS,
    "rung.engaged": _WORDS_SIGNED,
    "rung.stood_down": _GOES_BACK,
    "corpus.switched": _TAKEN_BACK,
    "corpus.paused": _TAKEN_BACK,
    "corpus.resumed": _TAKEN_BACK,
    "corpus.pinned": _TAKEN_BACK,
    "corpus.unpinned": _TAKEN_BACK,
}
_CHANGE_NUMBER: Final = re.compile(r"\bCR-(\d+)")


def latest_changes(operator: Operator, *, limit: int = 5) -> list[dict[str, Any]]:
    """The newest changes that the reader may see, as `components/_timeline.html` takes them, with `approved`.

    At most six queries beside those of permissions. `approved`: who signed, or why nobody had to, in words.
    """
    events = list(AuditEvent.objects.filter(_seen_by(operator), action__in=_CHANGES)[:limit])
    approvers = approvers_of(events)
    return [
        {**row, "approved": _approved(event, approvers[event.seq])}
        for event, row in zip(events, timeline(events), strict=True)
    ]


def approvers_of(events: Sequence[AuditEvent]) -> dict[int, list[str]]:
    """Who signed the change request behind each event, by the event's number; two queries however many."""
    change_of = _changes_behind(events)
    signed: dict[int, dict[str, str]] = {}
    for change_id, name, decision in (
        SignOff.objects.filter(change__in=set(change_of.values()))
        .order_by("id")
        .values_list("change_id", "operator_name", "decision")
    ):
        signed.setdefault(change_id, {})[name] = decision
    return {
        event.seq: [
            name
            for name, decision in signed.get(change_of.get(event.seq, 0), {}).items()
            if decision == Decision.APPROVE
        ]
        for event in events
    }


def _approved(event: AuditEvent, names: list[str]) -> str:
    if event.action in _UNSIGNED:
        return _UNSIGNED[event.action]
    return f"approved by {', '.join(names)}" if names else "nobody had to sign"


def _seen_by(operator: Operator) -> Q:
    """The targets whose events the reader may know; by name, since the record outlives the rows it speaks of."""
    seen = Q(pk__in=[])
    if may(operator, "releases.view_release"):
        seen |= Q(target__startswith="release:")
    if may(operator, "routing.view_routingtable"):
        seen |= Q(target__startswith="routing-table:") | Q(target__startswith="lane:")
    if may(operator, "corpora.view_corpuspolicy"):
        seen |= Q(target__startswith="corpus-policy:") | Q(target__startswith="corpus:")
    if may(operator, "ladder.view_ladderpolicy"):
        seen |= Q(target__startswith="ladder-policy:") | Q(target__startswith="surface:")
    if may(operator, "ladder.view_copy"):
        seen |= Q(target__startswith="copy:")
    if may(operator, "approvals.view_approvalpolicy"):
        seen |= Q(target__startswith="approval-policy:")
    if may(operator, "prompts.view_prompt"):
        return seen | Q(target__startswith="prompt:") | Q(target__startswith="canary:")
    prompts = list(visible_prompts(operator))
    for prompt in prompts:
        seen |= Q(target=prompt.audit_name) | Q(target__startswith=f"{prompt.audit_name}@")
    slugs = Canary.objects.filter(prompt__in=prompts).values_list("slug", flat=True)
    return seen | Q(target__in=[f"canary:{slug}" for slug in slugs])


def _changes_behind(events: Sequence[AuditEvent]) -> dict[int, int]:
    """The change request behind each event, by the event's number: a canary's own, or the one that its reason names."""
    slugs = {event.target.removeprefix("canary:") for event in events if event.target.startswith("canary:")}
    for event in events:
        if found := re.match(r"canary (\S+) promoted", str(event.data.get("reason", ""))):
            slugs.add(found[1])
    of_canary = dict(Canary.objects.filter(slug__in=slugs).values_list("slug", "change_id"))
    behind = {}
    for event in events:
        reason = str(event.data.get("reason", ""))
        named = re.match(r"canary (\S+) promoted", reason)
        slug = named[1] if named else event.target.removeprefix("canary:")
        if slug in of_canary:
            behind[event.seq] = of_canary[slug]
        elif number := _CHANGE_NUMBER.search(reason):
            behind[event.seq] = int(number[1])
    return behind
