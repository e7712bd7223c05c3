"""How each shadow does: what it was asked over the last 24 h, and what it spent of the UTC day."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from controlplane.shadows.figures import Ratios, figures_of, merged, sides
from controlplane.shadows.standing import ShadowStanding, standings
from controlplane.telemetry.shadow_sums import ShadowTally, Sums, shadow_sums
from dataplane.routing import RoutingTable
from dataplane.shadow.counting import CANDIDATE, NOISE

WINDOW: Final = timedelta(hours=24)


def window(now: datetime) -> tuple[datetime, datetime]:
    """The last 24 h in whole minutes, the minute that runs included."""
    until = now.replace(second=0, microsecond=0) + timedelta(minutes=1)
    return until - WINDOW, until


@dataclass(frozen=True, slots=True)
class ShadowOverview:
    """One policy, as it decides now; what one that decided otherwise counted is no part of it.

    Attributes:
        candidate, noise: Of the last 24 h, by arm; of no lane too, which is what gateways count.
        spent: Of the UTC day, both arms together.
    """

    standing: ShadowStanding
    candidate: ShadowTally
    noise: ShadowTally
    spent: ShadowTally

    @classmethod
    def of(cls, standing: ShadowStanding, sums: Sums, spent: Sums) -> "ShadowOverview":
        """Of one policy among what was counted of all."""
        digest, used = standing.policy.digest, ShadowTally()
        for arm in (CANDIDATE, NOISE):
            used.add(merged(spent, arm=arm, digest=digest))
        return cls(standing, *sides(sums, digest=digest), used)

    def facts(self) -> dict[str, Any]:
        """For programs.

        Shape: {"offered", "asked", "answered": int, "discarded", "failed": {reason: int}, "used": {"calls", "tokens",
                "cost_micros": int}, "limits": the same, "figures": {key: {"candidate", "noise", "difference": see
                `Interval.to_json`}}, "ratios": {"cost", "latency", "length": see `Interval.to_json`}}.
        """
        policy, spent, ratios = self.standing.policy, self.spent.counts, Ratios.of(self.candidate)
        return {
            **{name: self.candidate.counts[name] for name in ("offered", "asked", "answered")},
            "discarded": dict(self.candidate.discarded),
            "failed": dict(self.candidate.failed),
            "used": {
                "calls": spent["asked"],
                "tokens": spent["input_tokens"] + spent["output_tokens"],
                "cost_micros": spent["cost_micros"],
            },
            "limits": {name: int(getattr(policy, name).value) for name in ("calls", "tokens", "cost_micros")},
            "figures": {
                key: {
                    "candidate": one.candidate.to_json(),
                    "noise": one.noise.to_json(),
                    "difference": one.difference.to_json(),
                }
                for key, one in figures_of(self.candidate, self.noise).items()
            },
            "ratios": {name: getattr(ratios, name).to_json() for name in ("cost", "latency", "length")},
        }


def overviews(table: RoutingTable, *, now: datetime, policy: str = "") -> list[ShadowOverview]:
    """Every shadow of a table, or the one that is named; six queries, or none where the table has no shadow."""
    if not table.shadows:
        return []
    begin, end = window(now)
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    sums = shadow_sums(since=begin, until=end, policy=policy)
    spent = shadow_sums(since=midnight, until=end, policy=policy)
    return [
        ShadowOverview.of(standing, sums, spent)
        for standing in standings(table, now=now)
        if policy in ("", standing.policy.slug)
    ]
