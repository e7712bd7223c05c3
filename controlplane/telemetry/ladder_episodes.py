"""When rungs were on, and what that did: an episode is a stretch in which one stood for anybody."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from controlplane.telemetry.ladder_track import Step, track
from controlplane.telemetry.surface_sums import Sums, surface_sums
from controlplane.telemetry.surface_told import Range
from controlplane.telemetry.surfaces import tiers_in_order
from dataplane.ladder.counting import ANSWERED, COPIED, JOB, PUT_OFF, REFUSED
from dataplane.ladder.policy import OFF
from dataplane.sketches import Sketch

_LATEST: Final = 32_503_680_000  # the year 3000, in epoch seconds
HOUR: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Episode:
    """One stretch with a rung on, and its traffic, to the minute.

    Attributes:
        id: The epoch second in which it began; unique for its surface.
        until: None: it is still on.
        steps: All that happened to the ladder from its first step to its last.
        measured_until: Up to when its traffic is counted: its end, or now.
        requests: Of callers, on any rung or none.
        touched: Rung -> tier -> how many requests were served on it, and so got less; reserved places are not among
            them.
        outcomes: How many of `requests` came to what.
        wait_p50_ms, wait_p95_ms: How long whoever got an answer at once waited for its end; None: nobody did.
        cost_micros: Of all that was asked for meanwhile, by runners too, in millionths of a US dollar.
        cost_before_micros: The same of the hour before it.
    """

    id: int
    surface: str
    since: datetime
    until: datetime | None
    measured_until: datetime
    steps: tuple[Step, ...]
    requests: int
    touched: Mapping[int, Mapping[str, int]]
    outcomes: Mapping[str, int]
    wait_p50_ms: float | None
    wait_p95_ms: float | None
    cost_micros: int
    cost_before_micros: int

    @property
    def highest(self) -> int:
        """The highest rung that stood for anybody."""
        return max(step.rung for step in self.steps)

    @property
    def duration(self) -> timedelta:
        """How long it lasted, so far."""
        return self.measured_until - self.since

    @property
    def touched_requests(self) -> int:
        """How many requests were served on a rung."""
        return sum(sum(by_tier.values()) for by_tier in self.touched.values())

    @property
    def refused(self) -> int:
        """How many requests were refused, by the ladder or for want of quota."""
        return self.outcomes.get(REFUSED, 0)

    @property
    def later(self) -> int:
        """How many requests were put off."""
        return self.outcomes.get(PUT_OFF, 0)

    @property
    def cost_per_hour_micros(self) -> float | None:
        """None of one that lasted less than a minute, of which minutes say nothing."""
        hours = self.duration / HOUR
        return self.cost_micros / hours if hours >= 1 / 60 else None

    def to_json(self) -> dict[str, Any]:
        """Shape: {"id": int, "surface": str, "since": ISO-8601, "until": ISO-8601 or null, "seconds": float, "highest",
        "requests", "touched_requests", "refused", "later": int, "touched": {"1".."6": {tier: int}}, "outcomes":
        {outcome: int}, "wait_p50_ms", "wait_p95_ms": float or null, "cost_micros", "cost_before_micros": int,
        "cost_per_hour_micros": float or null, "steps": see `Step.to_json`}.
        """
        return {
            "id": self.id,
            "surface": self.surface,
            "since": self.since.isoformat(),
            "until": None if self.until is None else self.until.isoformat(),
            "seconds": self.duration.total_seconds(),
            "highest": self.highest,
            "requests": self.requests,
            "touched_requests": self.touched_requests,
            "refused": self.refused,
            "later": self.later,
            "touched": {str(rung): dict(by_tier) for rung, by_tier in self.touched.items()},
            "outcomes": dict(self.outcomes),
            "wait_p50_ms": self.wait_p50_ms,
            "wait_p95_ms": self.wait_p95_ms,
            "cost_micros": self.cost_micros,
            "cost_before_micros": self.cost_before_micros,
            "cost_per_hour_micros": self.cost_per_hour_micros,
            "steps": [step.to_json() for step in self.steps],
        }


def episodes(
    surface: str, *, since: datetime, until: datetime, now: datetime, most: int | None = None
) -> list[Episode]:
    """The episodes of a surface that were on in [since, until), the newest first; at most eight queries.

    Each is told whole, also what of it lies before `since`. What requests came to is read of the newest `most` alone,
    None: all, and only they are told.
    """
    steps = track(surface, since=since, until=now, now=now)
    found = [one for one in _grouped(steps) if one[0].at < until and _end(one, now) > since]
    found = found if most is None else found[-most:]
    named = {f"{one[0].at.timestamp():.6f}": one for one in found}
    ranges: dict[str, Range] = {key: (one[0].at, _end(one, now)) for key, one in named.items()}
    # Of the hour before, nothing but the cost is told: its sketches are not read.
    hours: dict[str, Range] = {key: (begun - HOUR, begun) for key, (begun, _) in ranges.items()}
    during, before = surface_sums(surface, ranges, sketches=("latency_ms",)), surface_sums(surface, hours)
    made = [_episode(surface, one, during[key], before[key], now=now) for key, one in named.items()]
    return made[::-1]


def episode(surface: str, number: int, *, now: datetime) -> Episode | None:
    """One episode by its id; None where there is none. As many queries as `episodes`."""
    if number > _LATEST:
        return None  # no clock shows that
    begun = datetime.fromtimestamp(number, UTC)
    found = episodes(surface, since=begun, until=begun + timedelta(seconds=1), now=now)
    return next((one for one in found if one.id == number), None)


def _grouped(steps: Iterable[Step]) -> list[list[Step]]:
    """The steps of each stretch in which a rung stood, with the one that ended it."""
    groups: list[list[Step]] = []
    for step in steps:
        if step.before == OFF and step.rung > OFF:
            groups.append([step])
        elif step.before > OFF:
            groups[-1].append(step)
    return groups


def _end(steps: list[Step], now: datetime) -> datetime:
    return steps[-1].at if steps[-1].rung == OFF else now


def _episode(surface: str, steps: list[Step], sums: Sums, before: Sums, *, now: datetime) -> Episode:
    touched: defaultdict[int, Counter[str]] = defaultdict(Counter)
    outcomes: Counter[str] = Counter()
    wait = Sketch()
    for series, tally in sums.items():
        if series.outcome == JOB:
            continue
        outcomes[series.outcome] += tally.requests
        if series.rung > OFF:
            touched[series.rung][series.tier] += tally.requests
        if series.outcome in (ANSWERED, COPIED):
            wait.merge(tally.latency_ms)
    begun = steps[0].at
    return Episode(
        id=int(begun.timestamp()),
        surface=surface,
        since=begun,
        until=steps[-1].at if steps[-1].rung == OFF else None,
        measured_until=_end(steps, now),
        steps=tuple(steps),
        requests=outcomes.total(),
        touched={
            rung: {tier: touched[rung][tier] for tier in tiers_in_order(touched[rung])} for rung in sorted(touched)
        },
        outcomes=outcomes,
        wait_p50_ms=wait.quantile(0.5),
        wait_p95_ms=wait.quantile(0.95),
        cost_micros=sum(tally.cost_micros for tally in sums.values()),
        cost_before_micros=sum(tally.cost_micros for tally in before.values()),
    )
