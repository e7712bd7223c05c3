"""Leave a provider, or one lane, on purpose and for minutes: to show that it works, and to measure what is guessed."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from controlplane.accounts.models import Operator, Tenant
from controlplane.approvals.models import ChangeRequest
from controlplane.audit import operations as audit
from controlplane.releases import operations as releases
from controlplane.routing import holds
from controlplane.routing.effects import pins_of
from controlplane.routing.errors import (
    DrillUnderWay,
    InvalidDrill,
    LaneIsHeld,
    NothingLearned,
    TenantsLeftOut,
    UnknownLane,
)
from controlplane.routing.leaving import effects_of_leaving, lanes_of, left_out, touched_routes, without_provider
from controlplane.routing.lessons import Lesson, lessons, servable, with_lessons
from controlplane.routing.models import Drill, DrillResult, LaneHold, Mode
from controlplane.routing.operations import routing_tables
from dataplane.routing import RoutingTable as Routing

MIN_MINUTES: Final = 5
MAX_MINUTES: Final = 60


@audit.operation
def start_drill(
    *,
    provider: str = "",
    lane: str = "",
    minutes: int,
    reason: str,
    actor: Operator | str,
    now: datetime,
    gone: Collection[str] = (),
    accept_left_out: bool = False,
) -> Drill:
    """Hold every lane of `provider`, or the one `lane`, open for so many minutes, and note what began it.

    Args:
        gone: Lanes that get nothing already because their breakers are open, as workers say.
        accept_left_out: Go on although tenants have no lane left; they get signed copy or an error meanwhile.
    Raises:
        UnknownProvider, UnknownLane: the table in force has none.
        InvalidDrill: not one of the two, minutes out of range, no reason, a lane that cannot be held, or one that no
            route uses.
        DrillUnderWay: another one runs.
        LaneIsHeld: somebody holds a lane of it.
        TenantsLeftOut: naming the routes and how many tenants, unless that is accepted.
    """
    if bool(provider) == bool(lane):
        raise InvalidDrill("a drill leaves a provider or a lane; name one of the two")
    if not MIN_MINUTES <= minutes <= MAX_MINUTES:
        raise InvalidDrill(f"a drill lasts {MIN_MINUTES} to {MAX_MINUTES} minutes, not {minutes}")
    if not reason.strip():
        raise InvalidDrill("a drill needs a reason; it is shown wherever its lanes are")
    active = routing_tables.active()
    if active is None:
        raise InvalidDrill("no routing table is in force, so there is nothing to leave")
    table = active.parsed()
    if lane and lane not in table.lanes:
        raise UnknownLane(f"{lane!r} is not a lane of the table in force; the routing page lists them")
    lanes = [lane] if lane else lanes_of(table, provider)
    _refuse_what_cannot_be_held(table, lanes)
    _refuse_beside_others(lanes, now)
    pins = pins_of(Tenant.objects.values_list("residency", flat=True))
    absent = {*gone, *(one for one, hold in holds.active_holds(now).items() if hold.mode == Mode.OPEN)}
    nobodys = left_out(table, lanes, gone=absent, pins=pins)
    if nobodys and not accept_left_out:
        sentences = "; ".join(one.sentence for one in nobodys)
        raise TenantsLeftOut(f"{sentences}. Accept that, or give the route another lane first")
    why = f"drill, leaving {provider or lane}: {reason}"
    until = now.replace(microsecond=0) + timedelta(minutes=minutes)  # as a hold has it
    held = [holds.hold_lane(lane=one, mode=Mode.OPEN, until=until, reason=why, actor=actor, now=now) for one in lanes]
    # Cut here and not before the commit: the drill is measured by how this very release spreads, so it names it.
    release = releases.cut_release(reason=why, actor=actor, now=now) or releases.current_release()
    assert release is not None  # noqa: S101 - narrows the type; one has just been cut
    drill = Drill.objects.create(
        provider=provider,
        lanes=[{"lane": hold.lane, "hold": hold.pk} for hold in held],
        table=active,
        reason=reason,
        actor=audit.name_of(actor),
        began_at=now,
        until=until,
        revision=release.revision,
        effects=effects_of_leaving(table, lanes, gone=absent, pins=pins),
    )
    data = {"subject": drill.subject, "minutes": minutes, "lanes": lanes, "release": release.revision, "reason": reason}
    audit.record("drill.started", actor=actor, target=drill, at=now, data=data)
    return drill


@audit.operation
def end_drill(*, drill: Drill, reason: str, actor: Operator | str, now: datetime) -> None:
    """Let its lanes go before their time: one click. Nothing happens to a lane that is not held by the drill any more,
    and nothing at all when it is over.
    """
    ends = ends_of(drill)
    held = [lane for lane, end in ends.items() if end > now]
    if not held:
        return
    for lane in held:
        holds.let_go(lane=lane, reason=f"{drill} ended: {reason}", actor=actor, now=now)
    audit.record("drill.ended", actor=actor, target=drill, at=now, data={"subject": drill.subject, "reason": reason})


@audit.operation
def record_result(*, drill: Drill, figures: Mapping[str, Any], now: datetime) -> DrillResult:
    """Keep what the drill measured, once; the result that is there already stands."""
    known = DrillResult.objects.filter(drill=drill).first()
    if known is not None:
        return known
    result = DrillResult.objects.create(drill=drill, at=now, figures=dict(figures))
    convergence = figures["convergence"]
    data = {"subject": drill.subject, "converged_ms": convergence["ms"], "workers": convergence["acked"]}
    audit.record("drill.measured", actor="ballast", target=drill, at=now, data=data)
    return result


def learned_from(drill: Drill, *, on: datetime) -> list[Lesson]:
    """What the drill's result says about guesses of the table in force; nothing before there is a result. One query."""
    active, result = routing_tables.active(), getattr(drill, "result", None)
    if active is None or result is None:
        return []
    found = lessons(active.parsed(), drill, result.figures)
    return servable(active.document, found, drill, on=on.astimezone(UTC).date())


@audit.operation
def propose_lessons(*, drill: Drill, reason: str, actor: Operator | str, now: datetime) -> ChangeRequest:
    """Submit the table in force with what the drill measured in the place of guesses, and open its change request.

    Raises:
        NothingLearned: no guess of the table in force was measured by it, or it has no result yet.
        SameRouting, DigestRejected: as `Versions.submit`.
    """
    learned, active = learned_from(drill, on=now), routing_tables.active()
    if active is None or not learned:
        raise NothingLearned(f"{drill} measured nothing that is a guess in the table in force")
    today = now.astimezone(UTC).date()
    document = with_lessons(active.document, learned, drill, author=audit.name_of(actor), on=today)
    return routing_tables.propose_document(document=document, reason=reason, actor=actor, now=now)


@audit.operation
def propose_leaving(*, drill: Drill, reason: str, actor: Operator | str, now: datetime) -> ChangeRequest:
    """Submit the table in force without the provider that the drill left, and open its change request.

    Raises:
        InvalidDrill: it left a single lane.
        UnknownProvider, RouteWithoutLanes: as `leaving.without_provider`.
        InvalidRouting, DigestRejected: as `Versions.submit`.
    """
    if not drill.provider:
        raise InvalidDrill(f"{drill} left one lane; take that out of the routing table instead")
    active = routing_tables.active()
    document = without_provider(active.document if active else routing_tables.empty, drill.provider)
    return routing_tables.propose_document(document=document, reason=reason, actor=actor, now=now)


def ends_of(drill: Drill) -> dict[str, datetime]:
    """When each of its lanes is back: at the drill's end, or when somebody gave it another word before; one query."""
    ends = dict.fromkeys(drill.lane_ids, drill.until)
    own = {entry["lane"]: entry["hold"] for entry in drill.lanes}
    later = LaneHold.objects.filter(lane__in=own, pk__gt=min(own.values()), at__lt=drill.until).order_by("pk")
    for hold in later:
        if hold.pk > own[hold.lane]:
            ends[hold.lane] = min(ends[hold.lane], max(hold.at, drill.began_at))
    return ends


def is_running(drill: Drill, now: datetime) -> bool:
    """Whether it still holds a lane; no query once its time is over."""
    return now < drill.until and any(end > now for end in ends_of(drill).values())


def running_drill(now: datetime) -> Drill | None:
    """The drill that runs; there is one at most."""
    return next((drill for drill in Drill.objects.filter(until__gt=now) if is_running(drill, now)), None)


def _refuse_what_cannot_be_held(table: Routing, lanes: Collection[str]) -> None:
    if not touched_routes(table, lanes):
        raise InvalidDrill(f"no route uses {' or '.join(lanes)}, so nobody would notice that it is left")
    bare = [lane for lane in lanes if table.lanes[lane].breaker is None]
    if bare:
        # Workers hold breakers, not lanes; it would look left and go on getting requests.
        raise InvalidDrill(f"{' and '.join(bare)} cannot be held: without a breaker policy nothing holds a lane back")


def _refuse_beside_others(lanes: Collection[str], now: datetime) -> None:
    other = running_drill(now)
    if other is not None:
        raise DrillUnderWay(f"{other}, leaving {other.subject}, runs until {_clock(other.until)}; end it first")
    held = holds.active_holds(now)
    for lane in lanes:
        if lane in held:
            hold = held[lane]
            raise LaneIsHeld(
                f"{lane} is held {hold.mode} by {hold.actor} until {_clock(hold.until)}: {hold.reason}; let it go first"
            )


def _clock(moment: datetime | None) -> str:
    return "–" if moment is None else f"{moment.astimezone(UTC):%H:%M} UTC"
