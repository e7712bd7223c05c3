"""What people decide about the shadow of a route: which lanes are tried on how much of its traffic, and when it stops.

A part of the routing table, reviewed and signed with it, and referred to by name from routes. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import rfc8785

from dataplane.documents import Node, child_path
from dataplane.thresholds import Threshold

if TYPE_CHECKING:
    from dataplane.routing import Account, Lane, Route

MAX_CALLS_PER_DAY: Final = 10**9
MAX_TOKENS_PER_DAY: Final = 10**12
MAX_COST_MICROS_PER_DAY: Final = 10**12
MAX_MINIMUM_CALLS: Final = 10_000
MAX_COST_RATIO: Final = 1000.0
MAX_IN_FLIGHT: Final = 256
MAX_QUEUE: Final = 1000
MAX_DEADLINE_MS: Final = 600_000
# Shares are told to two decimals of a percent, as there are buckets.
BUCKETS_PER_PERCENT: Final = 100
_JUST_BELOW_ZERO: Final = -0.001
_BUDGET: Final = ("calls", "tokens", "cost_micros")
_KILL: Final = ("failure_rate", "minimum_calls", "cost_ratio")


@dataclass(frozen=True, slots=True)
class ShadowPolicy:
    """How a route's traffic is asked again of candidates.

    Attributes:
        lanes: Ids of candidates in order; the first that can carry a request, within its tenant's residency, is asked.
        percent: Of the route's answered requests, drawn by their content.
        noise_lanes: Lanes of the models that serve the route, on the shadow's account: they are asked as control once
            more, so that it shows how far two answers of one model are apart.
        noise_percent: Of the requests that are asked again.
        calls, tokens, cost_micros: What may be spent on one UTC day by the whole fleet, noise included.
        failure_rate: Share (0..1) of the last `minimum_calls` calls of candidates at one process that failed; at or
            above it, the shadow is killed.
        cost_ratio: What the answers among them cost beside what control's did; above it, the shadow is killed.
        max_in_flight: How many are asked at once by one process.
        queue: How many more wait there; what comes then is discarded.
        deadline_ms: How long one call may take.
        digest: SHA-256 (hex) of all that the policy decides, without the provenance of its numbers.
    """

    slug: str
    lanes: tuple[str, ...]
    percent: Threshold
    noise_lanes: tuple[str, ...]
    noise_percent: Threshold
    calls: Threshold
    tokens: Threshold
    cost_micros: Threshold
    failure_rate: Threshold
    minimum_calls: Threshold
    cost_ratio: Threshold
    max_in_flight: Threshold
    queue: Threshold
    deadline_ms: Threshold
    digest: str

    @classmethod
    def parse(cls, slug: str, node: Node) -> ShadowPolicy:
        """Read one policy, or raise MalformedRelease. Whether its lanes will do is for `check_shadows` to say.

        Shape: {"lanes": [lane id], "percent": see `Threshold.parse`, "noise_lanes": [lane id], "noise_percent",
                "budget": {"calls", "tokens", "cost_micros"}, "kill": {"failure_rate", "minimum_calls", "cost_ratio"},
                "max_in_flight", "queue", "deadline_ms"}.
        """
        members = node.members(
            "lanes",
            "percent",
            "noise_lanes",
            "noise_percent",
            "budget",
            "kill",
            "max_in_flight",
            "queue",
            "deadline_ms",
        )
        lanes, noise_lanes = members["lanes"].texts(minimum=1), members["noise_lanes"].texts()
        budget, kill = members["budget"].members(*_BUDGET), members["kill"].members(*_KILL)
        numbers = {
            "percent": _percent(members["percent"]),
            "noise_percent": _percent(members["noise_percent"]),
            "calls": Threshold.parse_whole(budget["calls"], minimum=1, maximum=MAX_CALLS_PER_DAY),
            "tokens": Threshold.parse_whole(budget["tokens"], minimum=1, maximum=MAX_TOKENS_PER_DAY),
            "cost_micros": Threshold.parse_whole(budget["cost_micros"], minimum=1, maximum=MAX_COST_MICROS_PER_DAY),
            "failure_rate": Threshold.parse(kill["failure_rate"], above=0, maximum=1),
            "minimum_calls": Threshold.parse_whole(kill["minimum_calls"], minimum=1, maximum=MAX_MINIMUM_CALLS),
            "cost_ratio": Threshold.parse(kill["cost_ratio"], above=0, maximum=MAX_COST_RATIO),
            "max_in_flight": Threshold.parse_whole(members["max_in_flight"], minimum=1, maximum=MAX_IN_FLIGHT),
            "queue": Threshold.parse_whole(members["queue"], minimum=1, maximum=MAX_QUEUE),
            "deadline_ms": Threshold.parse_whole(members["deadline_ms"], minimum=1, maximum=MAX_DEADLINE_MS),
        }
        if numbers["noise_percent"].value and not noise_lanes:
            members["noise_lanes"].refuse(
                "empty, so that nothing can be asked for noise_percent; name one, or set it to 0"
            )
        decided = {name: threshold.value for name, threshold in numbers.items()}
        content = rfc8785.dumps({"slug": slug, "lanes": list(lanes), "noise_lanes": list(noise_lanes), **decided})
        return cls(
            slug=slug, lanes=lanes, noise_lanes=noise_lanes, digest=hashlib.sha256(content).hexdigest(), **numbers
        )

    @property
    def all_lanes(self) -> tuple[str, ...]:
        """Every lane that it may ask, each once."""
        return tuple(dict.fromkeys((*self.lanes, *self.noise_lanes)))

    def thresholds(self) -> Mapping[str, Threshold]:
        """Every number of the policy by its name, in the order of the class."""
        return {name: getattr(self, name) for name in SHADOW_THRESHOLDS}


SHADOW_THRESHOLDS: Final = tuple(
    name for name in ShadowPolicy.__dataclass_fields__ if name not in ("slug", "lanes", "noise_lanes", "digest")
)


def _percent(node: Node) -> Threshold:
    threshold = Threshold.parse(node, above=_JUST_BELOW_ZERO, maximum=100)
    buckets = threshold.value * BUCKETS_PER_PERCENT
    if threshold.value < 0 or abs(buckets - round(buckets)) > 1e-6:
        node.refuse(f"{threshold.value:g} is no percentage from 0 with at most two decimals")
    return threshold


def check_shadows(
    section: Node,
    policies: Mapping[str, ShadowPolicy],
    *,
    lanes: Mapping[str, Lane],
    routes: Mapping[str, Route],
    accounts: Mapping[str, Account],
) -> None:
    """Return if the lanes of every policy exist, chat, and stand apart from all that serves callers.

    Raises:
        MalformedRelease: naming the JSON path.
    """
    in_use = {lane.account: (route.slug, lane.id) for route in routes.values() for lane in route.lanes}
    for slug, policy in policies.items():
        node = Node(section.value[slug], child_path(section.path, slug))
        members = dict(node.entries())
        for name in ("lanes", "noise_lanes"):
            for item in members[name].items():
                _check_lane(item, lanes[item.reference(lanes, to="lane")], in_use, accounts)
        served = {lane.model for route in routes.values() if route.shadow is policy for lane in route.lanes}
        for item in members["noise_lanes"].items():
            model = lanes[item.text()].model
            if served and model not in served:
                item.refuse(f"its model {model!r} serves no route of this shadow, so it is no control of anything")


def _check_lane(node: Node, lane: Lane, in_use: Mapping[str, tuple[str, str]], accounts: Mapping[str, Account]) -> None:
    if "chat" not in lane.capabilities:
        node.refuse(f"lane {lane.id!r} does not chat")
    if lane.probe is not None:
        node.refuse(f"lane {lane.id!r} has a probe policy, by which gateways would ask it; set it to null")
    own = accounts[lane.account]
    for account, (route, other) in in_use.items():
        if account == lane.account:
            node.refuse(
                f"lane {lane.id!r} has account {account!r}, which lane {other!r} of route {route!r} has too; "
                "a shadow needs credentials and quota of its own"
            )
        if accounts[account].secret == own.secret and accounts[account].provider == own.provider:
            node.refuse(
                f"account {lane.account!r} of lane {lane.id!r} has the secret of account {account!r}, which serves "
                f"route {route!r}; a shadow needs credentials and quota of its own"
            )
