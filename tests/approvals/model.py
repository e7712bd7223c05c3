"""What approvals should do, written down a second time and differently: the yardstick of `test_every_order.py`.

Nothing here imports the policy, the standing or the digests of the implementation.
"""

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

GATES = ("internal", "public", "live")
# Per policy: change class -> gate -> role -> people; "routing" and "live" are the kinds that are applied in one step.
POLICIES: dict[str, dict[str, Any]] = {
    "careful": {
        "minor": {"public": {"approver": 1}, "live": {"approver": 2}},
        "legal": {"public": {"approver": 2, "legal": 1}, "live": {"approver": 2, "legal": 1}},
        "apply": {"approver": 2},
        "routing": {"approver": 1},
        "hours": 24,
    },
    "strict": {
        "minor": {"internal": {"approver": 1}, "public": {"approver": 2}},
        "legal": {"internal": {"legal": 1}, "live": {"approver": 3}},
        "apply": {"approver": 2, "legal": 1},
        "routing": {"approver": 2},
        "hours": 4,
    },
    # Nobody may roll out minor changes; the legal rule is the careful one, so its sign-offs stay good.
    "silent": {
        "legal": {"public": {"approver": 2, "legal": 1}, "live": {"approver": 2, "legal": 1}},
        "apply": {"approver": 2},
        "routing": {"approver": 1},
        "hours": 24,
    },
}


def rules_of(name: str) -> list[dict[str, Any]]:
    """The policy in the shape that operators write."""
    spec = POLICIES[name]
    hours = spec["hours"]
    rules = [
        {
            "name": f"{change_class} roll-out",
            "kind": "prompt.rollout",
            "when": {"change_class": [change_class]},
            "gates": spec[change_class],
            "valid_hours": hours,
        }
        for change_class in ("minor", "legal")
        if change_class in spec
    ]
    rules += [
        {"name": "go live", "kind": "prompt.live", "gates": {"apply": spec["apply"]}, "valid_hours": hours},
        {"name": "routing", "kind": "routing.table", "gates": {"apply": spec["routing"]}, "valid_hours": hours},
        {"name": "policy", "kind": "approval.policy", "gates": {"apply": {"admin": 1}}, "valid_hours": hours},
    ]
    return rules


@dataclass
class Word:
    """One sign-off as it was given."""

    operator: str
    role: str
    decision: str
    seen: str
    expires_at: datetime


@dataclass
class Bypass:
    """Broken glass."""

    seen: str
    lapses_at: datetime


@dataclass
class Change:
    """A change as the model knows it; `content` is whatever decides what would be applied."""

    pk: int
    kind: str
    change_class: str
    content: Any
    text: str
    authors: set[str]
    is_open: bool = True
    words: list[Word] = field(default_factory=list)
    bypasses: list[Bypass] = field(default_factory=list)


@dataclass
class Model:
    """The whole deployment, as somebody with pencil and paper would keep it."""

    now: datetime
    policy: str = "careful"
    live: int = 1
    table: int = 1
    roles: dict[str, set[str]] = field(default_factory=dict)
    inactive: set[str] = field(default_factory=set)
    rejected: set[str] = field(default_factory=set)

    def rule(self, change: Change) -> tuple[str, dict[str, dict[str, int]], int] | None:
        """(kind and class, gate -> role -> people, hours); None when the policy is silent on it."""
        spec = POLICIES[self.policy]
        if change.kind == "prompt.rollout":
            gates = spec.get(change.change_class)
            return None if gates is None else (f"{change.kind} {change.change_class}", gates, spec["hours"])
        name = "apply" if change.kind == "prompt.live" else "routing"
        return change.kind, {"apply": spec[name]}, spec["hours"]

    def face(self, change: Change) -> str:
        """Everything that a sign-off is bound to: content, what it builds on, the rule."""
        base = self.table if change.kind == "routing.table" else self.live
        return json.dumps([change.kind, change.content, base, self.rule(change)], sort_keys=True)

    def missing(self, change: Change, gate: str) -> bool:
        """Whether people's words do not open `gate` now."""
        rule = self.rule(change)
        if rule is None:
            return True
        needs = rule[1].get(gate, {})
        if not needs:
            return False
        face = self.face(change)
        latest = {word.operator: word for word in change.words}
        bound = [word for word in latest.values() if word.seen == face]
        if any(word.decision == "request_changes" for word in bound):
            return True
        counted = [
            word
            for word in bound
            if word.decision == "approve"
            and word.expires_at > self.now
            and word.operator not in change.authors
            and word.operator not in self.inactive
            and word.role in self.roles[word.operator]
        ]
        return any(len([word for word in counted if word.role == role]) < people for role, people in needs.items())

    def cover(self, change: Change, gates: tuple[str, ...]) -> str | datetime | None:
        """'signed', the time at which broken glass lapses, or None: nothing covers it."""
        if change.text in self.rejected or not change.is_open or self.rule(change) is None:
            return None
        if not any(self.missing(change, gate) for gate in gates):
            return "signed"
        face = self.face(change)
        in_effect = [one.lapses_at for one in change.bypasses if one.seen == face and one.lapses_at > self.now]
        return max(in_effect, default=None)

    def signs_for(self, hours: int) -> datetime:
        return self.now + timedelta(hours=hours)


def gates_for(reach: list[dict[str, Any]]) -> tuple[str, ...]:
    """The gates in front of these stages: internal tenants, some of the public, more than half of it."""
    level = 0
    for stage in reach:
        if stage["audience"] == "all":
            level = max(level, 1 if stage["weight"] <= 5000 else 2)
    return GATES[: level + 1]
