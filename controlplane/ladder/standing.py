"""What people engaged, as it stands: what workers act on, its end, and the section of the release that carries it."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.db.models import DateTimeField, Max, QuerySet

from controlplane.accounts.models import Operator
from controlplane.audit import operations as audit
from controlplane.compiled import compiled
from controlplane.ladder.models import LadderPolicyActivation, RungActivation, RungMode, RungStoodDown
from controlplane.releases import operations as releases
from dataplane.ladder.activations import Activation

MAX_ACTIVATION: Final = timedelta(hours=24)


def live_activations(now: datetime, *, surface: str | None = None) -> list[RungActivation]:
    """What workers act on now, the newest first, of every surface unless told of which; one query."""
    rows = _newest(now=now) if surface is None else _newest(surface, now=now)
    return sorted((one for one in rows if one.is_active(now)), key=lambda one: -one.pk)


@compiled(now=DateTimeField())
def _newest(*surface: str, now: datetime) -> QuerySet[RungActivation]:
    # Nothing lasts longer, so what is older is over; the log may hold years.
    rows = RungActivation.objects.filter(at__gte=now - MAX_ACTIVATION)
    if surface:
        rows = rows.filter(surface__in=surface)
    return rows.newest_per_scope()


def as_workers_see(rows: Iterable[RungActivation]) -> list[Activation]:
    """The same as values, for `dataplane.ladder.activations.engaged_for`."""
    return [
        Activation(
            id=one.name,
            surface=one.surface,
            mode=one.mode,
            rung=one.rung,
            regions=frozenset(one.regions),
            tiers=frozenset(one.tiers),
            since=one.since,
            until=one.until,
            reason=one.reason,
            by=one.actor,
        )
        for one in rows
    ]


def end_activation(activation: RungActivation, *, reason: str, actor: Operator | str, now: datetime) -> RungStoodDown:
    """Write the end of one that stands, and cut the release; only for operations that have just looked."""
    audit.require_operation()
    ended = RungStoodDown.objects.create(activation=activation, reason=reason, actor=audit.name_of(actor), at=now)
    data = {"activation": activation.name, "mode": activation.mode, "rung": activation.rung, "reason": reason}
    audit.record("rung.stood_down", actor=actor, target=activation, at=now, data=data)
    said = "stood down" if activation.mode == RungMode.ENGAGE else "let go"
    releases.publish_on_commit(reason=f"{activation.said} {said}: {reason}", actor=actor, now=now)
    return ended


def compile_activations() -> dict[str, Any]:
    """The section 'activations': the newest word on each surface and scope that was not stood down; four queries.

    Workers pass over what is over, and the document follows from the rows alone, not from the time. So what was over
    when the last of them was written is left out: it would only pile up, and no policy has to keep a rung for it.
    """
    logs = (RungActivation.objects, RungStoodDown.objects, LadderPolicyActivation.objects)
    last = max((at for log in logs if (at := log.aggregate(last=Max("at"))["last"]) is not None), default=None)
    if last is None:
        return {}
    return {
        one.name: {
            "surface": one.surface,
            "mode": one.mode,
            "rung": one.rung,
            "regions": one.regions,
            "tiers": one.tiers,
            "since": iso(one.since),
            "until": iso(one.until),
            "reason": one.reason,
            "by": one.actor,
        }
        for one in live_activations(last)
    }


def iso(moment: datetime) -> str:
    """A moment as the release says it: to the second, in UTC."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
