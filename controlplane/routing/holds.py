"""On-call holds a lane: at once, without sign-offs, and never for longer than a day."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.db.models import QuerySet

from controlplane.accounts.models import Operator
from controlplane.audit import operations as audit
from controlplane.compiled import compiled
from controlplane.releases import operations as releases
from controlplane.routing.errors import InvalidHold, UnknownLane
from controlplane.routing.models import LaneHold, Mode
from controlplane.routing.operations import routing_tables

MAX_HOLD: Final = timedelta(hours=24)
_WORDS: Final = {Mode.OPEN: "open", Mode.CLOSED: "closed"}


@audit.operation
def hold_lane(*, lane: str, mode: Mode, until: datetime, reason: str, actor: Operator | str, now: datetime) -> LaneHold:
    """Hold `lane` open (nothing goes there) or closed (nothing is held back from it) until a time.

    It ends by itself: workers look at the time, so it ends also when this control plane is away. Holding a lane that is
    held already puts the new hold in the place of the old one.

    Raises:
        UnknownLane: the table in force has no such lane.
        InvalidHold: the lane has no breaker that workers could hold, automatic is no hold, the end has passed, or is
            over 24 h ahead, or there is no reason.
    """
    table = routing_tables.active()
    if table is None or lane not in table.document["lanes"]:
        raise UnknownLane(f"{lane!r} is not a lane of the table in force; the routing page lists them")
    if table.document["lanes"][lane].get("breaker") is None:
        raise InvalidHold(
            f"{lane!r} has no breaker to hold; give it one in the routing table, or take it out of its routes"
        )
    if mode not in _WORDS:
        raise InvalidHold(f"{mode.value!r} is no way to hold a lane; let it go instead")
    until = until.replace(microsecond=0)  # as the release says it
    if not now < until <= now + MAX_HOLD:
        raise InvalidHold(
            f"a hold ends within 24 h: {_iso(until)} is not between {_iso(now)} and {_iso(now + MAX_HOLD)}"
        )
    if not reason.strip():
        raise InvalidHold("a hold needs a reason; it is shown wherever the lane is")
    hold = LaneHold.objects.create(lane=lane, mode=mode, reason=reason, actor=audit.name_of(actor), at=now, until=until)
    data = {"mode": mode.value, "until": _iso(until), "reason": reason}
    audit.record("lane.held", actor=actor, target=hold, at=now, data=data)
    releases.publish_on_commit(reason=f"lane {lane} held {mode.value}: {reason}", actor=actor, now=now)
    return hold


@audit.operation
def let_go(*, lane: str, reason: str, actor: Operator | str, now: datetime) -> None:
    """Give `lane` back to its breaker: one click. Nothing happens when nobody holds it.

    A hold whose time is over may be let go too, and so may one on a lane that the table no longer has; both take what
    is left of it out of the release.
    """
    newest = LaneHold.objects.filter(lane=lane).first()
    if newest is None or newest.mode == Mode.AUTOMATIC:
        return
    hold = LaneHold.objects.create(lane=lane, mode=Mode.AUTOMATIC, reason=reason, actor=audit.name_of(actor), at=now)
    audit.record("lane.let_go", actor=actor, target=hold, at=now, data={"before": newest.mode, "reason": reason})
    releases.publish_on_commit(reason=f"lane {lane} let go: {reason}", actor=actor, now=now)


def active_holds(now: datetime) -> dict[str, LaneHold]:
    """The hold that workers act on, for each lane that has one; one query."""
    return {hold.lane: hold for hold in _newest_holds() if hold.is_active(now)}


@compiled()
def _newest_holds() -> QuerySet[LaneHold]:
    return LaneHold.objects.newest_per_lane()


def compile_overrides() -> dict[str, Any]:
    """The section 'lane_overrides': the newest word on each lane that was not let go; one query.

    Expired ones stay in it. Workers pass them over, and the document follows from the rows alone, not from the time.
    """
    return {
        hold.lane: {"mode": hold.mode, "until": _iso(hold.until), "reason": hold.reason, "by": hold.actor}
        for hold in LaneHold.objects.newest_per_lane()
        if hold.until is not None
    }


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
