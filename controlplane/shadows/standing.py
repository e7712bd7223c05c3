"""How each shadow stands, from what people and the fleet said: it runs, rests until tomorrow, or was killed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from controlplane.shadows.models import ShadowHold
from controlplane.shadows.operations import KILLED, LOOKED_BACK
from controlplane.shadows.words import measured_words
from controlplane.telemetry.models import WorkerEvent
from dataplane.routing import RoutingTable
from dataplane.shadow.policy import ShadowPolicy
from dataplane.shadow.switch import State

PAUSED = "shadow.paused"


@dataclass(frozen=True, slots=True)
class ShadowStanding:
    """One policy of the table in force, and how it stands. `since`, `by` and `reason` are of what stopped it."""

    policy: ShadowPolicy
    routes: tuple[str, ...]
    state: State
    reason: str = ""
    by: str = ""
    since: datetime | None = None
    measured: Mapping[str, Any] | None = None


def standings(table: RoutingTable, *, now: datetime) -> list[ShadowStanding]:
    """Every policy, by its name; two queries."""
    holds = {hold.digest: hold for hold in ShadowHold.objects.newest_per_policy()}
    events = list(WorkerEvent.objects.since(now - LOOKED_BACK).filter(kind__in=[KILLED, PAUSED]).order_by("at", "id"))
    return [
        _standing(policy, _routes(table, policy), holds.get(policy.digest), events, now=now)
        for policy in sorted(table.shadows.values(), key=lambda one: one.slug)
    ]


def _routes(table: RoutingTable, policy: ShadowPolicy) -> tuple[str, ...]:
    return tuple(slug for slug, route in sorted(table.routes.items()) if route.shadow == policy)


def _standing(
    policy: ShadowPolicy,
    routes: tuple[str, ...],
    hold: ShadowHold | None,
    events: Iterable[WorkerEvent],
    *,
    now: datetime,
) -> ShadowStanding:
    if hold is not None and hold.is_killed:
        return ShadowStanding(policy, routes, State.KILLED, hold.reason, hold.actor, hold.at, hold.measured)
    own = [event for event in events if event.data.get("digest") == policy.digest]
    for event in reversed(own):
        # A kill that was lifted is none; one that was not put into the release yet is one.
        if event.kind == KILLED and (hold is None or event.at > hold.at):
            said = f"by itself: {measured_words(event.data['cause'], event.data['measured'])}"
            return ShadowStanding(policy, routes, State.KILLED, said, event.worker, event.at, event.data["measured"])
        if event.kind == PAUSED and event.data["measured"].get("day") == now.astimezone(UTC).date().isoformat():
            said = measured_words("budget", event.data["measured"])
            return ShadowStanding(policy, routes, State.PAUSED, said, event.worker, event.at, event.data["measured"])
    return ShadowStanding(policy, routes, State.RUNNING)
