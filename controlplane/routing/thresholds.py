"""The numbers of a routing table: all of them with where each stands, and a table in which some are others. Pure."""

import copy
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Final, Protocol

from controlplane.routing.errors import InvalidThreshold, UnknownPolicy
from dataplane.documents import child_path
from dataplane.policies import (
    BREAKER_THRESHOLDS,
    PROBE_THRESHOLDS,
    QUOTA_OPTIONAL,
    QUOTA_THRESHOLDS,
    RETRY_THRESHOLDS,
    STREAM_THRESHOLDS,
)
from dataplane.repair.policy import REPAIR_THRESHOLDS
from dataplane.routing import ROUTE_THRESHOLDS, RoutingTable
from dataplane.thresholds import Provenance, Threshold
from dataplane.validators.policy import VALIDATOR_THRESHOLDS

BREAKER: Final = "breaker"
ROUTE: Final = "route"
RETRY: Final = "retry"
PROBE: Final = "probe"
QUOTA: Final = "quota"
STREAM: Final = "stream"
REPAIR: Final = "repair"
VALIDATOR: Final = "validator"
SHADOW: Final = "shadow"
FALLBACK: Final = "fallback"
# Which part of the document holds the thresholds of a kind. Those of a shadow are changed with its candidates only, and
# those of a fallback stack with its copy.
PARTS: Final = {
    BREAKER: "breakers",
    ROUTE: "routes",
    RETRY: "retries",
    PROBE: "probes",
    QUOTA: "quotas",
    STREAM: "streams",
    REPAIR: "repairs",
    VALIDATOR: "validators",
}
# Their names, in the order in which people read them; see `names_of`.
NAMES: Final = {
    BREAKER: BREAKER_THRESHOLDS,
    ROUTE: ROUTE_THRESHOLDS,
    RETRY: RETRY_THRESHOLDS,
    PROBE: PROBE_THRESHOLDS,
    QUOTA: QUOTA_THRESHOLDS,
    STREAM: STREAM_THRESHOLDS,
    REPAIR: REPAIR_THRESHOLDS,
    VALIDATOR: VALIDATOR_THRESHOLDS,
}
# Of a rule of a validator policy, which it names by itself: 'no-cards.budget_ms'.
BUDGET: Final = "budget_ms"
# Those that a policy or a route may do without.
_OPTIONAL: Final = {ROUTE: frozenset(ROUTE_THRESHOLDS), QUOTA: frozenset(QUOTA_OPTIONAL)}
# What people call one of a kind.
NOUNS: Final = {
    BREAKER: "breaker policy",
    ROUTE: "route",
    RETRY: "retry policy",
    PROBE: "probe policy",
    QUOTA: "quota policy",
    STREAM: "stream policy",
    REPAIR: "repair policy",
    VALIDATOR: "validator policy",
}


class Owner(Protocol):
    """What has thresholds: a policy or a route."""

    def thresholds(self) -> Mapping[str, Threshold]: ...


@dataclass(frozen=True, slots=True)
class Placed:
    """One threshold of a routing table, or of a ladder: whose it is, such as breaker policy 'hosted-chat', and its name
    there.
    """

    kind: str
    slug: str
    name: str
    threshold: Threshold

    @property
    def provenance(self) -> Provenance:
        return self.threshold.provenance


@dataclass(frozen=True, slots=True)
class Census:
    """How many thresholds there are, how many nobody measured, and how many wait for a review that is due."""

    total: int
    guesses: int
    overdue: int

    @property
    def sentence(self) -> str:
        """In words: '7 of 41 thresholds are guesses (17 %), 2 overdue for review'."""
        if not self.total:
            return "No thresholds"
        share = f"{self.guesses / self.total:.0%}".replace("%", " %")
        verb = "is a guess" if self.guesses == 1 else "are guesses"
        return f"{self.guesses} of {self.total} thresholds {verb} ({share}), {self.overdue} overdue for review"

    @classmethod
    def of(cls, placed: Collection[Placed], *, today: date) -> "Census":
        """Count them."""
        return cls(
            total=len(placed),
            guesses=sum(one.provenance.is_guess for one in placed),
            overdue=sum(one.provenance.is_overdue(today) for one in placed),
        )


def placed_thresholds(table: RoutingTable) -> list[Placed]:
    """Every threshold of a table, by policy, route and stack, in their order there."""
    return list(_placed(table))


def census(table: RoutingTable, *, today: date) -> Census:
    """Count those of a table."""
    return Census.of(placed_thresholds(table), today=today)


def with_thresholds(document: Mapping[str, Any], kind: str, slug: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a routing document in which some thresholds are others, and nothing else is.

    Whether the numbers are in range is for `RoutingTable.parse` to say.

    Args:
        kind: One of PARTS.
        changes: From a threshold's name to what stands in its place: {"value", "provenance"}; None: it is unset.
    Raises:
        UnknownPolicy: the document has no such policy or route.
        InvalidThreshold: it has no threshold of that name, or cannot do without it.
    """
    changed = copy.deepcopy(dict(document))
    owner = changed.get(PARTS[kind], {}).get(slug)
    if owner is None:
        raise UnknownPolicy(f"{slug!r} is not a {NOUNS[kind]} of this table")
    known = names_of(kind, owner)
    for name, threshold in changes.items():
        if name not in known:
            names = ", ".join(known)
            raise InvalidThreshold(f"{name!r} is not a threshold of {NOUNS[kind]} {slug!r}; it has {names}")
        if threshold is None and not is_optional(kind, name):
            raise InvalidThreshold(f"{NOUNS[kind]} {slug!r} cannot do without {name!r}; give it a number")
        index, member = _place_of(owner, name)
        place = owner if index is None else owner["rules"][index]
        place[member] = None if threshold is None else dict(threshold)
    return changed


def path_of(document: Mapping[str, Any], kind: str, slug: str, name: str) -> str:
    """The JSON path of a threshold in a routing document, by which the parser names it when it refuses it.

    Args:
        name: One of `names_of` the policy or route.
    """
    index, member = _place_of(document[PARTS[kind]][slug], name)
    path = child_path(child_path("$", PARTS[kind]), slug)
    return child_path(path if index is None else f"{child_path(path, 'rules')}[{index}]", member)


def _place_of(owner: Mapping[str, Any], name: str) -> tuple[int | None, str]:
    """The rule whose threshold it is, by its place among the owner's (None: the owner's own), and the member there."""
    rule, _, member = name.rpartition(".")
    index = next(at for at, one in enumerate(owner["rules"]) if one["id"] == rule) if rule else None
    return index, member


def names_of(kind: str, owner: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the thresholds that a policy or a route has or could have, in the order in which people read them.

    Args:
        owner: As the document has it: where it has rules, each has a threshold of its own.
    """
    rules = owner.get("rules", ()) if kind == VALIDATOR else ()
    return (*NAMES[kind], *(f"{rule['id']}.{BUDGET}" for rule in rules))


def is_optional(kind: str, name: str) -> bool:
    """Whether a policy or a route of this kind may do without the threshold."""
    return name in _OPTIONAL.get(kind, ())


def owners_of(table: RoutingTable, kind: str) -> Mapping[str, Owner]:
    """The policies, or the routes, of a kind, by their slug."""
    owners: Mapping[str, Owner] = getattr(table, PARTS[kind])
    return owners


def _placed(table: RoutingTable) -> Iterator[Placed]:
    for kind in PARTS:
        for slug, owner in owners_of(table, kind).items():
            for name, threshold in owner.thresholds().items():
                yield Placed(kind, slug, name, threshold)
    for slug, shadow in table.shadows.items():
        for name, threshold in shadow.thresholds().items():
            yield Placed(SHADOW, slug, name, threshold)
    for slug, stack in table.fallbacks.items():
        if stack.answers is not None and stack.answers.minimum_score is not None:
            yield Placed(FALLBACK, slug, "minimum_score", stack.answers.minimum_score)
