"""What engaging a rung does to callers, said before it is done. Pure; who measured the traffic hands it in."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from dataplane.access import TIERS
from dataplane.ladder import policy
from dataplane.ladder.policy import LATER, MAINTENANCE, SHORTER, Rung, Surface

# As people say them, the most promised first.
TIER_NAMES: Final = {"vip": "VIP", "standard": "Standard", "free": "Free"}


@dataclass(frozen=True, slots=True)
class Effect:
    """What would change for whom.

    Attributes:
        touched: How much of the surface's traffic is in its scope, in words.
        exempt: Which tiers keep how much of it from the rung, in words, one phrase each.
        changes: What a caller gets instead, a sentence for each rung that is then engaged, from the lowest.
    """

    touched: str
    exempt: tuple[str, ...]
    changes: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """In one line, such as '12 % of traffic, VIP exempt up to 40 concurrent'."""
        return ", ".join((self.touched, *self.exempt))


def effect_preview(
    surface: Surface, rung: int, *, regions: Collection[str] = (), tiers: Collection[str] = (), share: float | None
) -> Effect:
    """What engaging a rung of the surface does to callers in these regions and tiers (empty: all).

    Args:
        rung: One that the surface has.
        share: Of the surface's traffic of late, how much was in this scope, 0..1; None: nobody measured it.
    """
    return Effect(
        _touched(surface, regions, tiers, share), tuple(_exempt(surface, rung, tiers)), _changes(surface, rung)
    )


def _touched(surface: Surface, regions: Collection[str], tiers: Collection[str], share: float | None) -> str:
    if share is not None:
        return "under 1 % of traffic" if 0 < share < 0.005 else f"{share:.0%} of traffic".replace("%", " %")
    if not regions and not tiers:
        return f"all traffic of {', '.join(surface.routes)}"
    who = [_listed(TIER_NAMES[tier] for tier in _in_order(tiers))] if tiers else []
    where = [f"in {_listed(sorted(regions))}"] if regions else []
    return f"traffic {' '.join([*(f'of {one}' for one in who), *where])}, of which nobody measured how much it is"


def _exempt(surface: Surface, rung: int, tiers: Collection[str]) -> Iterator[str]:
    if rung >= MAINTENANCE:
        yield "nobody exempt"
        return
    for tier in _in_order(tiers or TIERS):
        promise = surface.promises.get(tier)
        if promise is not None and promise.reserved_concurrency.value:
            yield f"{TIER_NAMES[tier]} exempt up to {promise.reserved_concurrency.value:,.0f} concurrent"


def _changes(surface: Surface, highest: int) -> tuple[str, ...]:
    """Each rung keeps what those below it do, up to where no model answers at once; what is answered later is whole."""
    least = highest if highest >= LATER else SHORTER
    return tuple(
        f"{rung.name}: {_change(rung, surface)}" for number, rung in surface.rungs.items() if least <= number <= highest
    )


def _change(rung: Rung, surface: Surface) -> str:
    match rung.number:
        case policy.SHORTER:
            cap = rung.max_output_tokens
            limit = "" if cap is None else f" and cut off at {cap.value:,.0f} tokens"
            return f"models are told to be brief{limit}; answers in JSON stay whole"
        case policy.NO_TOOLS:
            return "models are offered no tools and told so; a request that must call one is refused"
        case policy.CHEAPER:
            return f"the lanes of route {rung.route} answer, as far as the tenant's pin lets them"
        case policy.LATER:
            return "callers get a job and its place in the queue at once, and the answer by webhook, e-mail or asking"
        case policy.KNOWN_ONLY:
            return f"only signed answers of {rung.answers} are given; whatever else is asked gets the rung's words"
    minutes = max(1, round(surface.eta_seconds.value / 60))
    return f"every request is refused with the rung's words, and told {minutes} min where no end is set"


def _in_order(tiers: Collection[str]) -> list[str]:
    return [tier for tier in TIER_NAMES if tier in tiers]


def _listed(names: Iterator[str] | list[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
