"""How each surface's ladder stands now: what users read, its six steps, its triggers, and who decided what for whom."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.db.models import QuerySet
from django.urls import reverse
from django.utils.text import capfirst

from controlplane.approvals.models import ChangeRequest
from controlplane.compiled import compiled
from controlplane.console.ladder_signed import SignedWords, read_signed
from controlplane.console.ladder_triggers import TriggerRow, trigger_row
from controlplane.console.ladder_words import clock, rung_shown, scope_shown, tiers_shown
from controlplane.console.wording import listed
from controlplane.ladder.effects import TIER_NAMES
from controlplane.ladder.models import RungActivation, RungMode, RungStoodDown
from controlplane.ladder.standing import as_workers_see, live_activations
from controlplane.telemetry.models import LadderMove, LadderOrder
from controlplane.telemetry.surfaces import LadderStanding
from dataplane.ladder.activations import Activation, Engaged, engaged_for
from dataplane.ladder.emergency import ID_PREFIX
from dataplane.ladder.policy import MAINTENANCE, OFF, RUNGS, Ladder, Surface
from dataplane.ladder.words import speak_to_everybody
from dataplane.signed_copy import CopyBook

# While an engaged rung may be taken up again by one tap after it was stood down.
AGAIN_FOR: Final = timedelta(minutes=15)
_ELSEWHERE: Final = ""


# --- the steps -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Engagement:
    """One reason why a step is taken, in words; `row` None: triggers, or an order on a host."""

    text: str
    until: datetime | None
    row: RungActivation | None = None
    reason: str = ""
    workers: int | None = None  # how many say that they engaged it

    @property
    def scope(self) -> str:
        """For whom people engaged it."""
        return "" if self.row is None else scope_shown(self.row.regions, self.row.tiers)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a ladder, as `components/_ladder.html` takes it.

    `state` is engaged, kept (a higher one is engaged, which keeps what this does), signed, unsigned or absent;
    `missing` why nobody and nothing can engage it, `changes` what waits for who signs, `words` the slugs of its copy.
    """

    number: int
    name: str
    state: str
    engagements: tuple[Engagement, ...] = ()
    missing: tuple[str, ...] = ()
    signers: str = ""
    changes: tuple[ChangeRequest, ...] = ()
    words: tuple[str, ...] = ()
    url: str = ""


@dataclass(frozen=True, slots=True)
class Readers:
    """Who reads the same now: for whom, on which rung, and what; no banner where no rung is engaged."""

    who: str
    rung: int
    name: str
    banner: str = ""
    detail: str = ""
    locale: str = ""


# --- the triggers ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Places:
    """Reserved places of a tier, of all workers that are heard of."""

    tier: str
    used: int
    total: int


@dataclass(frozen=True, slots=True)
class Order:
    """A rung that somebody engaged on a host, without this control plane, and how many workers obey it. Rung OFF: no
    worker told yet what it says.
    """

    id: str
    workers: int
    rung: int = OFF
    by: str = ""
    reason: str = ""
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class SurfaceNow:
    """Everything that a surface's card says. `rung` is the highest that stands for anybody, `level` what triggers
    engaged; `held` what holds them down; `again` what was stood down a moment ago and can be taken up again.
    """

    surface: Surface
    rung: int
    level: int
    tone: str
    sentence: str
    readers: tuple[Readers, ...]
    steps: tuple[Step, ...]
    triggers: tuple[TriggerRow, ...]
    places: tuple[Places, ...]
    engaged: tuple[RungActivation, ...]
    held: tuple[RungActivation, ...]
    orders: tuple[Order, ...]
    workers: int
    alone: int
    ids: Mapping[str, int]
    again: RungStoodDown | None

    @property
    def slug(self) -> str:
        return self.surface.slug

    @property
    def url(self) -> str:
        return surface_url(self.slug)

    @property
    def is_engaged(self) -> bool:
        return self.rung != OFF

    @property
    def can_stand_down(self) -> bool:
        """Whether there is anything that one tap here can end; an order on a host is ended there."""
        return bool(self.engaged) or (self.level != OFF and not any(one.rung == OFF for one in self.held))

    @property
    def pill(self) -> str:
        """Where it stands, in two words."""
        return f"rung {self.rung}" if self.is_engaged else "no rung engaged"


def surface_url(slug: str) -> str:
    """The page of one surface."""
    return reverse("ladder-surface", args=[slug])


def surfaces_now(ladder: Ladder, told: Mapping[str, LadderStanding], *, now: datetime) -> list[SurfaceNow]:
    """Every surface of a policy as it stands now, in the policy's order; as many queries however many there are.

    Args:
        told: What workers tell of each; see `telemetry.surfaces.ladder_standings`.
    """
    known = read_signed(ladder)
    live = live_activations(now)
    ended = _stood_down_lately(now)
    orders, moves = _orders(told), newest_moves(ladder)
    return [
        _surface_now(
            surface,
            known,
            [one for one in live if one.surface == slug],
            told.get(slug),
            orders.get(slug, ()),
            moves.get(slug),
            ended.get(slug),
            now=now,
        )
        for slug, surface in ladder.items()
    ]


def _surface_now(
    surface: Surface,
    known: SignedWords,
    live: Sequence[RungActivation],
    told: LadderStanding | None,
    orders: tuple[Order, ...],
    moved: LadderMove | None,
    ended: RungStoodDown | None,
    *,
    now: datetime,
) -> SurfaceNow:
    missing = {number: known.library.missing(surface, rung) for number, rung in surface.rungs.items()}
    signed = [number for number in surface.rungs if not missing[number]]
    engaged_by_triggers = told.level if told else OFF
    level = max((number for number in signed if number <= engaged_by_triggers), default=OFF)
    standing = _standing(as_workers_see(live), level, now=now)
    rung = max(*(one.rung for one in standing.values()), *(one.rung for one in orders))
    engaged = tuple(one for one in live if one.mode == RungMode.ENGAGE)
    held = tuple(one for one in live if one.mode == RungMode.HOLD)
    return SurfaceNow(
        surface=surface,
        rung=rung,
        level=level,
        tone=_tone(rung, orders),
        sentence=_sentence(surface, rung, engaged, level, held, orders, moved),
        readers=(
            *_readers_of_orders(surface, orders, told.workers if told else 0, known.book, now=now),
            *_readers(surface, standing, known.book, now=now),
        ),
        steps=tuple(_steps(surface, known, missing, rung, engaged, level, held, orders, told.ids if told else {})),
        triggers=tuple(_triggers(surface, told.readings if told else {})),
        places=tuple(_places(surface, told.reserved if told else {})),
        engaged=engaged,
        held=held,
        orders=orders,
        workers=told.workers if told else 0,
        alone=told.alone if told else 0,
        ids=told.ids if told else {},
        again=None if ended is None or any(_covers(one, ended.activation) for one in engaged) else ended,
    )


# --- who reads what --------------------------------------------------------------------------------------------------
def _standing(live: Sequence[Activation], level: int, *, now: datetime) -> dict[tuple[str, str], Engaged]:
    """What stands by region (_ELSEWHERE: any that nobody named) and tier, by the code that workers run."""
    regions = sorted({region for one in live for region in one.regions})
    return {
        (region, tier): engaged_for(live, level=level, region=region, tier=tier, now=now)
        for region in (*regions, _ELSEWHERE)
        for tier in TIER_NAMES
    }


def _readers(
    surface: Surface, standing: Mapping[tuple[str, str], Engaged], book: CopyBook, *, now: datetime
) -> Iterator[Readers]:
    groups: dict[tuple[int, datetime | None], list[tuple[str, str]]] = {}
    for place, engaged in standing.items():
        groups.setdefault((engaged.rung, engaged.until), []).append(place)
    for (number, until), places in sorted(groups.items(), key=lambda group: -group[0][0]):
        yield readers_of(surface, number, _who(places, {region for region, _ in standing}), book, until=until, now=now)


def readers_of(
    surface: Surface, number: int, who: str, book: CopyBook, *, until: datetime | None, now: datetime
) -> Readers:
    """What some people read on a rung; `until` None: nobody knows when it ends."""
    rung = surface.rungs.get(number)
    if rung is None or rung.copy not in book:
        return Readers(who, number, RUNGS.get(number, "As ever"))
    eta = surface.eta_seconds.value if until is None else max(1.0, (until - now).total_seconds())
    spoken = speak_to_everybody(surface, number, book, accepted=None, eta_seconds=eta)
    return Readers(who, number, rung.name, spoken.words.banner, spoken.words.detail, spoken.locale)


def _readers_of_orders(
    surface: Surface, orders: Sequence[Order], workers: int, book: CopyBook, *, now: datetime
) -> Iterator[Readers]:
    for one in orders:
        if one.rung != OFF:
            who = f"Everybody at {one.workers} of {workers} workers, by order on the host"
            yield readers_of(surface, one.rung, who, book, until=one.until, now=now)


def _who(places: Sequence[tuple[str, str]], regions: Collection[str]) -> str:
    by_tiers: dict[tuple[str, ...], list[str]] = {}
    for region in dict.fromkeys(region for region, _ in places):
        by_tiers.setdefault(tuple(tier for one, tier in places if one == region), []).append(region)
    parts = []
    for tiers, where in by_tiers.items():
        named = sorted(region for region in where if region != _ELSEWHERE)
        if set(where) == set(regions):
            parts.append(tiers_shown(tiers))
        elif _ELSEWHERE in where:
            others = sorted(region for region in regions if region not in where)
            parts.append(f"{tiers_shown(tiers)} outside {listed(others)}")
        else:
            parts.append(scope_shown(named, tiers))
    return capfirst("; ".join(parts))


# --- the steps -------------------------------------------------------------------------------------------------------
def _steps(
    surface: Surface,
    known: SignedWords,
    missing: Mapping[int, list[str]],
    highest: int,
    engaged: Sequence[RungActivation],
    level: int,
    held: Sequence[RungActivation],
    orders: Sequence[Order],
    ids: Mapping[str, int],
) -> Iterator[Step]:
    """From the highest, as on a ladder."""
    for number in range(MAINTENANCE, OFF, -1):
        rung = surface.rungs.get(number)
        if rung is None:
            yield Step(number, RUNGS[number], "absent")
            continue
        why = tuple(_by_hand(one, ids) for one in engaged if one.rung == number)
        if number == level and not any(not one.regions and not one.tiers and one.rung < level for one in held):
            why += (Engagement("by triggers, until it is calm", None),)
        why += tuple(
            Engagement(f"by {one.by} on the host of {one.workers} workers", one.until, reason=one.reason)
            for one in orders
            if one.rung == number
        )
        state = "unsigned" if missing[number] else "engaged" if why else "kept" if number < highest else "signed"
        yield Step(
            number=number,
            name=rung.name,
            state=state,
            engagements=why,
            missing=tuple(missing[number]),
            signers=known.signers[surface.regulated],
            changes=tuple(change for words in rung.words for change in known.changes.get(words, ())),
            words=rung.words,
            url=reverse("ladder-engage", args=[surface.slug, number]),
        )


def _by_hand(row: RungActivation, ids: Mapping[str, int]) -> Engagement:
    said = f"by {row.actor} for {scope_shown(row.regions, row.tiers)}"
    return Engagement(said, row.until, row, row.reason, ids.get(row.name, 0))


def _covers(one: RungActivation, other: RungActivation) -> bool:
    return one.rung >= other.rung and one.is_for(regions=other.regions, tiers=other.tiers)


# --- triggers and places ---------------------------------------------------------------------------------------------
def _triggers(surface: Surface, readings: Mapping[str, float | None]) -> Iterator[TriggerRow]:
    for name, trigger in surface.triggers.items():
        yield trigger_row(trigger, readings.get(name))


def _places(surface: Surface, reserved: Mapping[str, int]) -> Iterator[Places]:
    for tier, name in TIER_NAMES.items():
        promise = surface.promises.get(tier)
        if promise is not None and promise.reserved_concurrency.value:
            yield Places(name, reserved.get(tier, 0), int(promise.reserved_concurrency.value))


def _orders(told: Mapping[str, LadderStanding]) -> dict[str, tuple[Order, ...]]:
    """Orders that workers obey, by surface; one query when there are any."""
    counts = {
        slug: {name: count for name, count in sorted(one.ids.items()) if name.startswith(ID_PREFIX)}
        for slug, one in told.items()
    }
    names = [name for found in counts.values() for name in found]
    if not names:
        return {}
    known = {order.name: order for order in LadderOrder.objects.filter(name__in=names)}
    return {
        slug: tuple(_order(name, count, known.get(name)) for name, count in found.items())
        for slug, found in counts.items()
    }


def _order(name: str, workers: int, known: LadderOrder | None) -> Order:
    if known is None:
        return Order(name, workers)
    return Order(name, workers, known.rung, known.by, known.reason, known.until)


# --- in one line -----------------------------------------------------------------------------------------------------
def _tone(rung: int, orders: Sequence[Any]) -> str:
    if rung == OFF:
        return "watch" if orders else "good"
    return "watch" if rung <= 2 else "bad"


def _sentence(
    surface: Surface,
    rung: int,
    engaged: Sequence[RungActivation],
    level: int,
    held: Sequence[RungActivation],
    orders: Sequence[Order],
    moved: LadderMove | None,
) -> str:
    parts = []
    if rung == OFF:
        parts.append(f"No rung of {surface.title} is engaged")
    else:
        by_hand = max((one for one in engaged if one.rung == rung), key=lambda one: one.until, default=None)
        by = (
            f"engaged by {by_hand.actor} at {clock(by_hand.since)} until {clock(by_hand.until)}"
            if by_hand is not None
            else _by_triggers(moved, level)
            if rung == level
            else "engaged on a host"
        )
        parts.append(f"{surface.title} is on {rung_shown(rung)}, {by}")
    if held:
        lowest = min(held, key=lambda one: one.rung)
        above = "nothing" if lowest.rung == OFF else f"nothing above rung {lowest.rung}"
        parts.append(f"triggers engage {above} until {clock(lowest.until)}")
    elif level and level != rung:
        parts.append(f"triggers alone would have it on rung {level}")
    if orders:
        parts.append(f"{len(orders)} order{'' if len(orders) == 1 else 's'} given on hosts")
    return "; ".join(parts) + "."


def _by_triggers(moved: LadderMove | None, level: int) -> str:
    """What engaged a rung by itself, and since when, where workers told of that step."""
    if moved is None or moved.after != level:
        return "engaged by triggers"
    by = f"trigger {moved.trigger}" if moved.trigger else "triggers"
    return f"{'engaged' if moved.after > moved.before else 'down to there'} by {by} at {clock(moved.at)}"


# --- a moment ago ----------------------------------------------------------------------------------------------------
def newest_moves(surfaces: Collection[str]) -> dict[str, LadderMove]:
    """The last step that each ladder took by itself; one query."""
    return {one.surface: one for one in _newest_moves(*sorted(surfaces))}


@compiled()
def _newest_moves(*surfaces: str) -> QuerySet[LadderMove]:
    moves = LadderMove.objects.filter(surface__in=surfaces)
    return moves.order_by("surface", "-at", "-id").distinct("surface")


def _stood_down_lately(now: datetime) -> dict[str, RungStoodDown]:
    """What was engaged on each surface and stood down a moment ago, before its time; the newest of each, one query."""
    rows = (
        RungStoodDown.objects.filter(at__gt=now - AGAIN_FOR, activation__until__gt=now)
        .filter(activation__mode=RungMode.ENGAGE)
        .select_related("activation")
        .order_by("id")
    )
    return {one.activation.surface: one for one in rows}
