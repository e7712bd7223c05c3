"""Approval policy as data: which rule speaks of a change, and what is still missing at one of its gates. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from controlplane.accounts.roles import Role
from controlplane.approvals.errors import MalformedPolicy, PolicyMissing


@dataclass(frozen=True, slots=True)
class Requirement:
    """So many distinct people, each signing as this role."""

    role: Role
    count: int


@dataclass(frozen=True, slots=True)
class Gate:
    """A point that a change cannot pass without its sign-offs, such as 'public' (beyond internal-only) or 'apply'."""

    name: str
    requirements: tuple[Requirement, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the policy. `when`: fact -> accepted values; every fact must match; empty matches everything.

    Shape: {"name": str, "kind": str, "when": {fact: [value, ...]}, "gates": {gate: {role: count}}, "valid_hours": int}.
    """

    name: str
    kind: str
    when: Mapping[str, tuple[Any, ...]]
    gates: Mapping[str, Gate]
    valid_hours: int
    source: Mapping[str, Any]

    def speaks_of(self, kind: str, facts: Mapping[str, Any]) -> bool:
        return self.kind == kind and all(facts.get(fact) in values for fact, values in self.when.items())

    def gate(self, name: str) -> Gate:
        """The gate of that name; one the rule does not list asks for nothing."""
        return self.gates.get(name, Gate(name, ()))


def parse_rules(rules: Any) -> tuple[Rule, ...]:
    """Read the rules of a policy document.

    Raises:
        MalformedPolicy: naming the place, such as 'rules[2].gates.public'.
    """
    if not isinstance(rules, list) or not rules:
        raise MalformedPolicy("rules: expected a list with at least one rule")
    return tuple(_parse_rule(rule, f"rules[{index}]") for index, rule in enumerate(rules))


def _parse_rule(rule: Any, path: str) -> Rule:
    if not isinstance(rule, dict):
        raise MalformedPolicy(f"{path}: expected an object, got {type(rule).__name__}")
    unknown = sorted(rule.keys() - {"name", "kind", "when", "gates", "valid_hours"})
    if unknown:
        raise MalformedPolicy(f"{path}: unknown key {unknown[0]!r}")
    for key in ("name", "kind"):
        if not isinstance(rule.get(key), str) or not rule[key]:
            raise MalformedPolicy(f"{path}.{key}: expected a non-empty text")
    when = rule.get("when", {})
    if not isinstance(when, dict) or not all(isinstance(values, list) and values for values in when.values()):
        raise MalformedPolicy(f"{path}.when: expected fact -> list of accepted values")
    hours = rule.get("valid_hours", 168)
    if not isinstance(hours, int) or isinstance(hours, bool) or not 1 <= hours <= 24 * 90:
        raise MalformedPolicy(f"{path}.valid_hours: expected 1 to {24 * 90} hours, got {hours!r}")
    gates = rule.get("gates")
    if not isinstance(gates, dict) or not gates:
        raise MalformedPolicy(f"{path}.gates: expected gate -> role -> count, with at least one gate")
    parsed = {name: Gate(name, _parse_requirements(needs, f"{path}.gates.{name}")) for name, needs in gates.items()}
    return Rule(rule["name"], rule["kind"], {f: tuple(v) for f, v in when.items()}, parsed, hours, rule)


def _parse_requirements(needs: Any, path: str) -> tuple[Requirement, ...]:
    if not isinstance(needs, dict):
        raise MalformedPolicy(f"{path}: expected role -> count")
    requirements = []
    for role, count in needs.items():
        if role not in Role._value2member_map_:
            raise MalformedPolicy(f"{path}: unknown role {role!r}; choose from {', '.join(Role)}")
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= 10:
            raise MalformedPolicy(f"{path}.{role}: expected 1 to 10 people, got {count!r}")
        requirements.append(Requirement(Role(role), count))
    return tuple(requirements)


def match(rules: Iterable[Rule], *, kind: str, facts: Mapping[str, Any]) -> Rule:
    """Return the first rule that speaks of the change.

    Raises:
        PolicyMissing: none does; a change nobody thought of is refused, never waved through.
    """
    for rule in rules:
        if rule.speaks_of(kind, facts):
            return rule
    raise PolicyMissing(f"no rule of the active approval policy speaks of {kind!r} with {dict(facts)!r}; add one first")


class Validity(StrEnum):
    """Whether a sign-off counts now, and if not, why."""

    COUNTS = "counts"
    VOID = "void"
    EXPIRED = "expired"
    TAKEN_BACK = "taken back"
    CONTRIBUTOR = "contributor"
    ROLE_LOST = "role lost"
    CHANGES_REQUESTED = "changes requested"


@dataclass(frozen=True, slots=True)
class Signature:
    """One operator's latest word on a change, as the policy looks at it."""

    operator: str
    role: Role
    decision: str
    digest: str
    expires_at: datetime
    holds_role: bool
    signed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a change stands at one gate. Open: nothing is `missing`, nobody blocks it, and a rule speaks of it.

    `silent`: no rule of the policy in force does, so nothing passes whatever was signed.
    """

    gate: Gate
    signatures: tuple[tuple[Signature, Validity], ...]
    missing: dict[Role, int]
    blocked_by: tuple[str, ...]
    silent: bool = False

    @property
    def is_open(self) -> bool:
        return not self.silent and not self.missing and not self.blocked_by

    @property
    def sentence(self) -> str:
        """What is missing, in words an operator reads."""
        if self.is_open:
            return "Every required sign-off is there" if self.gate.requirements else "No sign-off is required"
        if self.silent:
            return "The approval policy in force has no rule for this, so nothing passes until it has one"
        parts = [f"{count} more from {role.label.lower()}" for role, count in self.missing.items()]
        parts += [f"changes requested by {name}" for name in self.blocked_by]
        return "Missing: " + ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Authorisation:
    """Why a gate let a change through. `lapses_at` is set when it was broken open instead of signed."""

    digest: str
    standing: Standing
    lapses_at: datetime | None


def judge(signature: Signature, *, digest: str, contributors: frozenset[str], now: datetime) -> Validity:
    """Whether one signature counts towards `digest` at `now`."""
    if signature.decision == "withdraw":
        return Validity.TAKEN_BACK
    if signature.digest != digest or signature.decision not in {"approve", "request_changes"}:
        return Validity.VOID
    if signature.decision == "request_changes":
        return Validity.CHANGES_REQUESTED
    if signature.operator in contributors:
        return Validity.CONTRIBUTOR
    if not signature.holds_role:
        return Validity.ROLE_LOST
    if signature.expires_at <= now:
        return Validity.EXPIRED
    return Validity.COUNTS


def stand(
    gate: Gate, *, signatures: Sequence[Signature], digest: str, contributors: frozenset[str], now: datetime
) -> Standing:
    """Where a change with this digest stands at `gate`.

    Args:
        signatures: Each operator's latest word, at most one per operator: a person counts once, for the one role they
            signed as, so two requirements are never met by the same hand.
        contributors: Usernames of everybody who wrote part of the change; they never count.
    """
    judged = tuple((s, judge(s, digest=digest, contributors=contributors, now=now)) for s in signatures)
    counted = [s for s, validity in judged if validity is Validity.COUNTS]
    missing = {}
    for requirement in gate.requirements:
        have = len({s.operator for s in counted if s.role == requirement.role})
        if have < requirement.count:
            missing[requirement.role] = requirement.count - have
    blocked_by = tuple(s.operator for s, validity in judged if validity is Validity.CHANGES_REQUESTED)
    return Standing(gate, judged, missing, blocked_by if gate.requirements else ())
