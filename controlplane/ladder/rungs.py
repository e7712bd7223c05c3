"""On-call engages a rung, holds triggers down, and stands both down: at once, without sign-offs, for a day at most."""

import re
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Any, Final

from controlplane.accounts.models import Operator, Tenant
from controlplane.audit import operations as audit
from controlplane.ladder.checks import library, signed_words
from controlplane.ladder.errors import InvalidActivation, UnknownSurface, UnsignedRung
from controlplane.ladder.models import LadderPolicy, RungActivation, RungMode, RungStoodDown
from controlplane.ladder.policies import ladder_policies
from controlplane.ladder.standing import MAX_ACTIVATION, end_activation, iso, live_activations
from controlplane.releases import operations as releases
from controlplane.releases.models import Worker
from dataplane.access import TIERS
from dataplane.ladder.policy import MAINTENANCE, OFF, Surface

STAND_DOWN_MINUTES: Final = 15
_REGION: Final = re.compile(r"[a-z0-9]+(?:[-_.][a-z0-9]+)*")
_MAX_REGION_CHARACTERS: Final = 100


@audit.operation
def engage_rung(
    *,
    surface: str,
    rung: int,
    regions: Collection[str] = (),
    tiers: Collection[str] = (),
    until: datetime,
    reason: str,
    actor: Operator | str,
    now: datetime,
) -> RungActivation:
    """Engage a rung of a surface until a time, for everybody or for some regions of gateways and tiers of tenants.

    It ends by itself: workers look at the time, so it ends also when this control plane is away. What is engaged for
    the same surface and scope already is replaced.

    Raises:
        UnknownSurface: the policy in force has no such surface.
        UnsignedRung: words of the rung are not signed by whoever has to; nobody reads unsigned words.
        InvalidActivation: no such rung, region or tier; the end has passed, or is over 24 h ahead; or no reason.
    """
    policy, found = _surface_in_force(surface)
    step = found.rungs.get(rung)
    if step is None:
        numbers = ", ".join(map(str, found.rungs))
        raise InvalidActivation(f"surface {surface!r} has no rung {rung}; it has {numbers}")
    if missing := library().missing(found, step):
        raise UnsignedRung(f"rung {rung} of surface {surface!r} cannot be engaged: {'; '.join(missing)}")
    signed = signed_words()
    row = _put_down(
        RungMode.ENGAGE,
        surface=surface,
        rung=rung,
        regions=regions,
        tiers=tiers,
        until=until,
        reason=reason,
        actor=actor,
        now=now,
        policy=policy,
        words={slug: signed[slug].reference for slug in step.words},
    )
    audit.record("rung.engaged", actor=actor, target=row, at=now, data=_facts(row))
    releases.publish_on_commit(reason=f"{row.said} engaged: {reason}", actor=actor, now=now)
    return row


@audit.operation
def hold_down(
    *,
    surface: str,
    rung: int = OFF,
    regions: Collection[str] = (),
    tiers: Collection[str] = (),
    until: datetime,
    reason: str,
    actor: Operator | str,
    now: datetime,
) -> RungActivation:
    """Let triggers of a surface engage nothing above `rung` until a time; what people engage stands all the same.

    Raises:
        UnknownSurface, InvalidActivation: as `engage_rung`.
    """
    policy, _ = _surface_in_force(surface)
    if not OFF <= rung <= MAINTENANCE:
        raise InvalidActivation(f"triggers are held at a rung of {OFF} to {MAINTENANCE}, not at {rung}")
    row = _put_down(
        RungMode.HOLD,
        surface=surface,
        rung=rung,
        regions=regions,
        tiers=tiers,
        until=until,
        reason=reason,
        actor=actor,
        now=now,
        policy=policy,
        words={},
    )
    audit.record("ladder.held", actor=actor, target=row, at=now, data=_facts(row))
    releases.publish_on_commit(reason=f"{row.said}: {reason}", actor=actor, now=now)
    return row


@audit.operation
def stand_down(
    *,
    surface: str,
    reason: str,
    actor: Operator | str,
    now: datetime,
    is_held_up: bool,
    minutes: int = STAND_DOWN_MINUTES,
) -> list[RungStoodDown]:
    """End all that people engaged on a surface: one tap. Also of one that the policy in force no longer has, and that
    triggers so cannot hold up.

    Args:
        is_held_up: Whether triggers hold it up too, as workers tell: then they are held at nothing for `minutes`, since
            they would engage it again at once. A hold that lasts longer already is left as it is.
    Returns:
        What was ended; nothing the second time.
    Raises:
        UnknownSurface: the policy in force has no such surface, and nothing was ever engaged on one of that name.
        InvalidActivation: no reason, or a hold of no time or of over a day.
    """
    _require_reason(reason)
    policy = ladder_policies.active()
    is_of_policy = policy is not None and surface in policy.document
    if not is_of_policy and not RungActivation.objects.filter(surface=surface).exists():
        raise UnknownSurface(f"{surface!r} is not a surface of the ladder policy in force, nor ever was one engaged")
    live = live_activations(now, surface=surface)
    ended = [end_activation(one, reason=reason, actor=actor, now=now) for one in live if one.mode == RungMode.ENGAGE]
    if is_held_up and is_of_policy:
        until = now + timedelta(minutes=minutes)
        if not any(_holds_all_until(one, until) for one in live):
            hold_down(surface=surface, until=until, reason=reason, actor=actor, now=now)
    return ended


@audit.operation
def stand_down_one(
    *, activation: RungActivation, reason: str, actor: Operator | str, now: datetime
) -> RungStoodDown | None:
    """End one activation or hold: one tap. Nothing happens when it does not stand any more.

    Raises:
        InvalidActivation: no reason.
    """
    _require_reason(reason)
    if all(one.pk != activation.pk for one in live_activations(now, surface=activation.surface)):
        return None
    return end_activation(activation, reason=reason, actor=actor, now=now)


def known_regions(now: datetime) -> list[str]:
    """The regions that an activation can be for: those of gateways that are heard of, and those of tenants."""
    of_gateways = Worker.objects.expected(now).exclude(region="").values_list("region", flat=True)
    of_tenants = Tenant.objects.exclude(region="").values_list("region", flat=True)
    return sorted({*of_gateways, *of_tenants})


def _surface_in_force(slug: str) -> tuple[LadderPolicy, Surface]:
    policy = ladder_policies.active()
    if policy is None:
        raise UnknownSurface("no ladder policy is in force, so no surface has rungs; propose one first")
    ladder = policy.parsed()
    if slug not in ladder:
        names = ", ".join(sorted(ladder)) or "none"
        raise UnknownSurface(f"{slug!r} is not a surface of {policy}, which is in force; it has {names}")
    return policy, ladder[slug]


def _holds_all_until(one: RungActivation, until: datetime) -> bool:
    """Whether it holds triggers at nothing for everybody, at least so long."""
    return (
        one.mode == RungMode.HOLD
        and one.rung == OFF
        and one.is_for(regions=(), tiers=())
        and one.until >= until.replace(microsecond=0)
    )


def _put_down(
    mode: RungMode,
    *,
    regions: Collection[str],
    tiers: Collection[str],
    until: datetime,
    reason: str,
    actor: Operator | str,
    now: datetime,
    **fields: Any,
) -> RungActivation:
    """Check what both modes share, and write the row."""
    until = until.replace(microsecond=0)  # as the release says it
    if not now < until <= now + MAX_ACTIVATION:
        raise InvalidActivation(
            f"it ends within 24 h: {iso(until)} is not between {iso(now)} and {iso(now + MAX_ACTIVATION)}"
        )
    _require_reason(reason)
    _refuse_unknown("tier", tiers, sorted(TIERS))
    if regions:
        _refuse_unknown_regions(regions, now=now)
    return RungActivation.objects.create(
        mode=mode,
        regions=sorted(set(regions)),
        tiers=sorted(set(tiers)),
        since=now,
        until=until,
        reason=reason,
        actor=audit.name_of(actor),
        at=now,
        **fields,
    )


def _refuse_unknown_regions(regions: Collection[str], *, now: datetime) -> None:
    if Worker.objects.expected(now).exclude(region="").exists():
        _refuse_unknown("region", regions, known_regions(now))
        return
    # Where no gateway says where it is, nobody can tell a slip of the pen from a region, but for its letters.
    for region in regions:
        if len(region) > _MAX_REGION_CHARACTERS or _REGION.fullmatch(region) is None:
            raise InvalidActivation(f"{region[:80]!r} is no name of a region such as 'eu-west'")


def _refuse_unknown(noun: str, asked: Iterable[str], known: Collection[str]) -> None:
    unknown = sorted(set(asked) - set(known))
    if unknown:
        raise InvalidActivation(f"{unknown[0][:80]!r} is not a {noun} that exists; there are {', '.join(known)}")


def _require_reason(reason: str) -> None:
    if not reason.strip():
        raise InvalidActivation("a reason is needed; it is shown wherever the surface is")


def _facts(row: RungActivation) -> dict[str, Any]:
    return {
        "activation": row.name,
        "rung": row.rung,
        "regions": row.regions,
        "tiers": row.tiers,
        "until": iso(row.until),
        "reason": row.reason,
        "policy": row.policy.reference,
        "words": row.words,
    }
