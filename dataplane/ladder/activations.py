"""What people decided about a surface for now: a rung engaged until a stated time, or triggers held down. Pure.

A section of the release, and what an emergency order on a host adds to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from dataplane.access import TIERS
from dataplane.documents import Node
from dataplane.ladder.policy import MAINTENANCE, OFF, Ladder

ENGAGE: Final = "engage"
HOLD: Final = "hold"
MODES: Final = frozenset({ENGAGE, HOLD})


@dataclass(frozen=True, slots=True)
class Activation:
    """`engage`: the rung stands, up to `until`, for the callers that it is for, whatever triggers say. `hold`: triggers
    engage nothing above the rung meanwhile; OFF holds them down altogether, and is how people stand down what triggers
    engaged.

    `regions` are those of gateways, `tiers` those of tenants; empty: all of them.
    """

    id: str
    surface: str
    mode: str
    rung: int
    regions: frozenset[str]
    tiers: frozenset[str]
    since: datetime
    until: datetime
    reason: str
    by: str

    def is_for(self, *, region: str, tier: str) -> bool:
        """Whether it is for these callers."""
        return (not self.regions or region in self.regions) and (not self.tiers or tier in self.tiers)

    def holds_all(self, now: datetime) -> bool:
        """Whether it holds triggers down for everybody."""
        return self.mode == HOLD and now < self.until and not self.regions and not self.tiers


def parse_activations(
    section: object, ladder: Ladder, *, path: str = "$.sections.activations"
) -> dict[str, tuple[Activation, ...]]:
    """Read the section `activations`, or raise MalformedRelease; by surface, in the order of their ids.

    A surface that the ladder does not have is no mistake: the policy may have changed since. A rung that cannot be
    engaged is one: nobody reads words that nobody signed.
    Shape: {id: {"surface", "mode": engage | hold, "rung": 0..6, "regions": [str], "tiers": [str], "since", "until":
            ISO-8601, "reason": str, "by": str}}.
    """
    found: dict[str, list[Activation]] = {}
    for key, node in Node(section, path).entries():
        members = node.members("surface", "mode", "rung", "regions", "tiers", "since", "until", "reason", "by")
        one = Activation(
            id=key,
            surface=members["surface"].text(),
            mode=members["mode"].one_of(MODES),
            rung=members["rung"].integer(minimum=OFF, maximum=MAINTENANCE),
            regions=frozenset(members["regions"].texts()),
            tiers=frozenset(members["tiers"].texts()),
            since=members["since"].moment(),
            until=members["until"].moment(),
            reason=members["reason"].text(),
            by=members["by"].text(),
        )
        unknown = sorted(one.tiers - TIERS)
        if unknown:
            members["tiers"].refuse(f"{unknown[0][:20]!r} is no tier; there are {', '.join(sorted(TIERS))}")
        surface = ladder.get(one.surface)
        if surface is None:
            continue
        if one.mode == ENGAGE and one.rung not in surface.engageable:
            members["rung"].refuse(
                f"rung {one.rung} of surface {one.surface!r} has no signed words, so it cannot be engaged"
            )
        found.setdefault(one.surface, []).append(one)
    return {surface: tuple(ones) for surface, ones in found.items()}


@dataclass(frozen=True, slots=True)
class Engaged:
    """Which rung stands for somebody, why, and until when; `until` None: nobody knows. `activation` None: triggers."""

    rung: int
    until: datetime | None = None
    activation: Activation | None = None


NOTHING: Final = Engaged(OFF)


def engaged_for(activations: Iterable[Activation], *, level: int, region: str, tier: str, now: datetime) -> Engaged:
    """Return the rung that stands for callers of a tier at a gateway's region.

    The highest of what people engaged for them and of the level that triggers engaged, which people may hold down.

    Args:
        level: What triggers engaged.
    """
    best, held = NOTHING, level
    for one in activations:
        if now >= one.until or not one.is_for(region=region, tier=tier):
            continue
        if one.mode == HOLD:
            held = min(held, one.rung)
        elif one.rung > best.rung or (one.rung == best.rung and (best.until is None or one.until > best.until)):
            best = Engaged(one.rung, one.until, one)
    return best if best.rung >= held else Engaged(held)
