"""A change as it is now: target, policy and sign-offs looked at afresh each time it matters. Reads only."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from django.db.models import Model

from controlplane.accounts.roles import Role
from controlplane.approvals.errors import DigestRejected, PolicyMissing
from controlplane.approvals.kinds import Kind, kind_of
from controlplane.approvals.models import ApprovalPolicy, ChangeRequest, PolicyActivation, RejectedDigest, SignOff
from controlplane.approvals.policy import Rule, Signature, Standing, match, parse_rules, stand
from dataplane.release import canonical, digest_of


@dataclass(frozen=True, slots=True)
class Current:
    """A change as it would be applied at this moment: the target's base, the policy's rule, the digest of it all.

    `silent`: the policy has no rule for it any more. `rule` is then the one it was opened under, and the digest is
    one that nobody has signed.
    """

    base: Any
    rule: Rule
    digest: str
    silent: bool = False


def active_policy() -> ApprovalPolicy:
    """The policy in force.

    Raises:
        PolicyMissing: none was ever activated; `manage.py bootstrap_policy` activates the built-in one.
    """
    activation = PolicyActivation.objects.select_related("policy").first()
    if activation is None:
        raise PolicyMissing("no approval policy is active, so nothing can be approved; activate one first")
    return activation.policy


def current(change: ChangeRequest) -> Current:
    """Look at the target and the policy as they are now; the digest differs from `change.digest` after any drift."""
    return current_of(change.registered, target=change.target, content=change.content)


def current_of(kind: Kind, *, target: str, content: Any) -> Current:
    rules = parse_rules(active_policy().rules)
    return _take_digest(kind, rules, base=kind.base(target), target=target, content=content)


def _take_digest(kind: Kind, rules: Sequence[Rule], *, base: Any, target: str, content: Any) -> Current:
    rule = match(rules, kind=kind.name, facts=kind.facts(content))
    return Current(base, rule, _digest(kind, rule, base=base, target=target, content=content))


def _digest(kind: Kind, rule: Rule | None, *, base: Any, target: str, content: Any) -> str:
    said = dict(rule.source) if rule else None
    return digest_of(canonical({"kind": kind.name, "target": target, "content": content, "base": base, "rule": said}))


def _look_at(change: ChangeRequest, rules: Sequence[Rule], *, base: Any) -> Current:
    """A change that was opened once, also if the policy fell silent on it since: pages and the way back need it."""
    kind = change.registered
    try:
        return _take_digest(kind, rules, base=base, target=change.target, content=change.content)
    except PolicyMissing:
        digest = _digest(kind, None, base=base, target=change.target, content=change.content)
        return Current(base, _own_rule(change), digest, silent=True)


def _own_rule(change: ChangeRequest) -> Rule:
    """The rule under which the change's digest was taken, whatever the policy says now."""
    (rule,) = parse_rules([change.rule])
    return rule


@dataclass(frozen=True, slots=True)
class Examination:
    """A change looked at once: as it would be applied now, with everybody's word on it."""

    change: ChangeRequest
    current: Current
    target: Model
    signatures: tuple[Signature, ...]
    at: datetime

    @property
    def is_drifted(self) -> bool:
        """Whether what people signed is no longer what would be applied."""
        return self.current.digest != self.change.digest

    def standing(self, gate: str) -> Standing:
        """Where the change stands at `gate`; one that the rule does not list is open, if there is a rule."""
        found = stand(
            self.current.rule.gate(gate),
            signatures=self.signatures,
            digest=self.current.digest,
            contributors=self.change.contributor_names,
            now=self.at,
        )
        return replace(found, silent=True) if self.current.silent else found

    def as_it_closed(self) -> "Examination":
        """A closed change with the words that counted when it closed, whatever moved since: target, policy or roles."""
        change = self.change
        return replace(
            self,
            current=Current(change.base, _own_rule(change), change.digest),
            signatures=tuple(replace(signature, holds_role=True) for signature in self.signatures),
            at=change.closed_at or self.at,
        )

    def standings(self) -> list[Standing]:
        """Where it stands at every gate that the rule lists, in the rule's order."""
        return [self.standing(gate) for gate in self.current.rule.gates]


def examine(changes: Sequence[ChangeRequest], *, now: datetime) -> dict[int, Examination]:
    """Examine changes by their primary keys, each against target, policy and sign-offs as they are now.

    As many queries for a page of changes as for one: three, and what each kind's survey takes.
    """
    if not changes:
        return {}
    rules = parse_rules(active_policy().rules)
    surveyed = {
        kind: kind_of(kind).survey({change.target for change in changes if change.kind == kind})
        for kind in {change.kind for change in changes}
    }
    latest: dict[int, dict[int, SignOff]] = {}
    rows = SignOff.objects.filter(change__in=changes).select_related("operator").prefetch_related("operator__grants")
    for sign_off in rows:
        latest.setdefault(sign_off.change_id, {})[sign_off.operator_id] = sign_off
    examined = {}
    for change in changes:
        found = surveyed[change.kind][change.target]
        current = _look_at(change, rules, base=found.base)
        words = latest.get(change.pk, {}).values()
        signed = tuple(_signature(word, found.target) for word in words)
        examined[change.pk] = Examination(change, current, found.target, signed, now)
    return examined


def examine_one(change: ChangeRequest, *, now: datetime) -> Examination:
    """Examine a single change."""
    return examine([change], now=now)[change.pk]


def _signature(sign_off: SignOff, target: Model) -> Signature:
    return Signature(
        operator=sign_off.operator_name,
        role=Role(sign_off.role),
        decision=sign_off.decision,
        digest=sign_off.digest,
        expires_at=sign_off.expires_at,
        holds_role=sign_off.operator.is_active and sign_off.operator.holds(sign_off.role, target),
        signed_at=sign_off.signed_at,
    )


def standing(change: ChangeRequest, *, gate: str, now: datetime) -> Standing:
    """Where the change stands at `gate`, worked out from the target, the policy and the sign-offs as they are now."""
    return examine_one(change, now=now).standing(gate)


def is_signed(change: ChangeRequest, *, gates: Iterable[str], now: datetime) -> bool:
    """Whether sign-offs alone open every one of `gates` now; a change that no rule speaks of is not signed."""
    examined = examine_one(change, now=now)
    return all(examined.standing(gate).is_open for gate in gates)


def is_rejected(content_digest: str) -> bool:
    """Whether this content was rejected before."""
    return RejectedDigest.objects.filter(content_digest=content_digest).exists()


def refuse_rejected(content_digest: str) -> None:
    """Raise DigestRejected, saying when, by whom and why, if this content was rejected before."""
    rejected = RejectedDigest.objects.filter(content_digest=content_digest).first()
    if rejected is not None:
        raise DigestRejected(
            f"content {content_digest[:8]} was rejected on {rejected.at:%Y-%m-%d} by {rejected.actor!r}: "
            f"{rejected.reason}"
        )
