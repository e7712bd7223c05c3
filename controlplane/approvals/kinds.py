"""The kinds of change. Each app that owns one registers it at start-up; this app knows none of them by name."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from controlplane.approvals.errors import MalformedPolicy
from controlplane.approvals.policy import Authorisation, Rule, parse_rules
from dataplane.release import canonical

if TYPE_CHECKING:
    from django.db import models

    from controlplane.accounts.models import Operator
    from controlplane.approvals.models import BreakGlass, ChangeRequest


# The kind of change that changes the policy itself.
POLICY_KIND = "approval.policy"
# The one gate of a change that is applied in one step.
APPLY_GATE = "apply"


class Apply(Protocol):
    """Carry a change out, inside the transaction that has just checked its sign-offs.

    `authorisation.lapses_at` is set when glass was broken for it: what is written then must remember that nobody signed
    it, so that nothing returns to it later as if somebody had.
    """

    def __call__(self, change: "ChangeRequest", *, authorisation: Authorisation, actor: Any, now: datetime) -> None: ...


class Lapse(Protocol):
    """Undo what a break-glass let through, because its time is over and nobody signed meanwhile."""

    def __call__(self, change: "ChangeRequest", *, debt: "BreakGlass", now: datetime) -> None: ...


@dataclass(frozen=True, slots=True)
class Surveyed:
    """A target as it is now.

    Attributes:
        base: JSON; the revision of it that a change builds on. Any drift of it voids sign-offs.
        target: The object that permissions are asked on.
    """

    base: Any
    target: "models.Model"


class Abandon(Protocol):
    """Stop whatever of an open change is in effect: it was just rejected or withdrawn."""

    def __call__(self, change: "ChangeRequest", *, actor: Any, reason: str, now: datetime) -> None: ...


class Seen(Protocol):
    """The names of targets as a query of one column. It becomes part of another, so it may find however many."""

    def __call__(self, operator: "Operator") -> "models.QuerySet[Any, Any]": ...


@dataclass(frozen=True, slots=True)
class Kind:
    """How one kind of change is understood.

    Attributes:
        survey: From the names of targets, each as it is now; as many queries for a hundred as for one.
        facts: From the content, what the policy's conditions look at.
        gates: The gates that a policy may name for it; a misspelt one would ask for nothing.
        conditions: The facts that a policy may look at, each with every value it can have.
        is_always_signed: A policy must ask somebody at each of its gates, since it refuses what nobody signed.
        sign_off_permission, break_glass_permission, review_permission: 'app.codename' asked on that object.
        seen: The targets that an operator may look at without `view_permission`. For a kind whose targets hang on
            several objects, so that no permission on a single one could say it; None: there are none.
        apply: None where the change is carried out in steps by its own app (a canary's knob), gate by gate.
        lapse: None where a bypass could not be undone; such a kind cannot be broken into.
        abandon: None where an open change has no effect yet.
        follows: What comes of one that was applied, for who applied it.
    """

    name: str
    label: str
    survey: Callable[[Iterable[str]], "Mapping[str, Surveyed]"]
    facts: Callable[[Mapping[str, Any]], dict[str, Any]]
    view_permission: str
    sign_off_permission: str
    break_glass_permission: str
    review_permission: str
    apply: Apply | None = None
    lapse: Lapse | None = None
    abandon: Abandon | None = None
    seen: Seen | None = None
    follows: str = "the release is on its way to the workers"
    gates: tuple[str, ...] = (APPLY_GATE,)
    conditions: Mapping[str, frozenset[str] | frozenset[bool]] = field(default_factory=dict)
    is_always_signed: bool = False

    def base(self, target: str) -> Any:
        """The revision of `target` that a change would build on now."""
        return self.survey([target])[target].base

    def target(self, target: str) -> "models.Model":
        """The object on which permissions for a change of `target` are asked."""
        return self.survey([target])[target].target


_kinds: dict[str, Kind] = {}


def register(kind: Kind) -> None:
    """Make a kind of change known; registering the same name again replaces it."""
    _kinds[kind.name] = kind


def kind_of(name: str) -> Kind:
    """The registered kind; KeyError names what is registered."""
    try:
        return _kinds[name]
    except KeyError:
        raise KeyError(f"no app registered the kind of change {name!r}; known: {sorted(_kinds)}") from None


def all_kinds() -> tuple[Kind, ...]:
    return tuple(_kinds.values())


def check_rules(rules: Any) -> tuple[Rule, ...]:
    """Read rules, and refuse what would open a gate by a slip of the pen or shut the policy in for ever.

    Raises:
        MalformedPolicy: not the published shape; a kind, gate, fact or value that nobody knows, which would ask for
            nothing or never match; nobody asked about what is refused unsigned; or no way left to change the policy
            itself.
    """
    parsed = parse_rules(rules)
    try:
        canonical(rules)
    except ValueError as exc:
        raise MalformedPolicy(f"rules: {exc}") from exc
    known = {kind.name: kind for kind in all_kinds()}
    for index, rule in enumerate(parsed):
        path = f"rules[{index}]"
        if rule.kind not in known:
            raise MalformedPolicy(f"{path}.kind: {rule.kind!r} is not one of {', '.join(sorted(known))}")
        kind = known[rule.kind]
        for gate in rule.gates:
            if gate not in kind.gates:
                raise MalformedPolicy(f"{path}.gates.{gate}: {rule.kind!r} has the gates {', '.join(kind.gates)}")
        for gate in kind.gates if kind.is_always_signed else ():
            if not rule.gate(gate).requirements:
                raise MalformedPolicy(
                    f"{path}.gates.{gate}: asks nobody, so that {rule.kind!r} could never be carried out: "
                    "it is refused unsigned; name who signs it, such as {exec: 1}"
                )
        for fact, values in rule.when.items():
            if fact not in kind.conditions:
                facts = ", ".join(sorted(kind.conditions)) or "none"
                raise MalformedPolicy(f"{path}.when.{fact}: the facts of {rule.kind!r} are: {facts}")
            for value in values:
                if value not in kind.conditions[fact]:
                    choices = ", ".join(sorted(map(str, kind.conditions[fact])))
                    raise MalformedPolicy(f"{path}.when.{fact}: {value!r} is not one of {choices}")
    if not any(rule.kind == POLICY_KIND and rule.gate(APPLY_GATE).requirements for rule in parsed):
        raise MalformedPolicy(f"rules: none asks anybody about {POLICY_KIND!r}, so the policy could not be changed")
    return parsed
