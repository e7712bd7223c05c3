"""What triggers look at: the readings of a surface, what each worker tells of them, and how a fleet adds them up. Pure.

A reading that nobody could take is None, never 0: what is not known presses nobody up the ladder, and lets nobody down.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from dataplane.documents import Node
from dataplane.records import record
from dataplane.thresholds import Threshold

IN_FLIGHT: Final = "in_flight"
ARRIVALS: Final = "requests_per_second"
BACKLOG: Final = "backlog_age_seconds"
QUEUE_AGE: Final = "queue_age_seconds"
QUOTA: Final = "quota_utilisation"
BREAKERS: Final = "breakers_open_share"
BURN: Final = "error_budget_burn"
GPU: Final = "gpu_utilisation"
# Each with the highest value that a threshold of it may have.
SIGNALS: Final[Mapping[str, float]] = {
    QUEUE_AGE: 3600.0,
    IN_FLIGHT: 1_000_000.0,
    ARRIVALS: 1_000_000.0,
    BACKLOG: 86_400.0,
    QUOTA: 1.0,
    BREAKERS: 1.0,
    BURN: 1_000.0,
    GPU: 1.0,
}
MIN_ATTEMPTS: Final = 20
MAX_WINDOW_SECONDS: Final = 3600


@dataclass(frozen=True, slots=True)
class Gauge:
    """Where the utilisation of GPUs is read: a metric of a Prometheus endpoint, of which the highest value counts.
    `full` is what the metric says of a GPU that is busy all the time: 100 for DCGM's, 1 for an engine's own.
    """

    url: str
    metric: str
    full: float


@dataclass(frozen=True, slots=True)
class Budget:
    """What the burn of an error budget is measured against: the share of attempts that is to succeed, and over how
    long it is looked at. A burn of 1 spends exactly the budget; 14.4 spends that of 30 days in two.

    Source: Google, "The Site Reliability Workbook", chapter 5, "Alerting on SLOs", 2018.
    """

    objective: Threshold
    window_seconds: Threshold

    def burn(self, *, attempts: int, failures: int) -> float | None:
        """How many times as fast as it may the budget is spent; None below MIN_ATTEMPTS, of which a failure says
        nothing. Where nothing failed, nothing is spent, however few there were: else a ladder on whose rung no lane is
        asked would never be let down.
        """
        if attempts < MIN_ATTEMPTS:
            return None if failures else 0.0
        return failures / attempts / (1.0 - self.objective.value)


@record
class Told:
    """What one worker tells of one surface.

    Attributes:
        in_flight: Requests of customers under way, by tier.
        queue_age_seconds: How long the oldest of those that wait for quota has waited; 0 where none does.
        quota_utilisation: Of the accounts of the surface's lanes, the fullest: 0..1; None where none has a quota.
        breakers_open_share: Of the surface's lanes, how many are held back: 0..1.
        windows: Attempts and failures in the window of each trigger that looks at a budget, by its slug.
        gauges: GPU utilisation by trigger, 0..1, of those that could be read.
        requests_per_second: How many requests came in lately, whatever became of them. It is what no rung makes less,
            so it holds a ladder until a rush is over where the others only show that the ladder helps.
        backlog_age_seconds: How long the oldest question that was put off has waited by now; None where nobody knows.
        attempts, failures: At the surface's lanes since the worker began: what is kept of the load, so that a budget
            can be tried on it that nobody looked at then.
    """

    in_flight: Mapping[str, int]
    queue_age_seconds: float
    quota_utilisation: float | None
    breakers_open_share: float | None
    windows: Mapping[str, tuple[int, int]]
    gauges: Mapping[str, float]
    requests_per_second: float | None = None
    backlog_age_seconds: float | None = None
    attempts: int = 0
    failures: int = 0

    def to_json(self) -> dict[str, Any]:
        """As it goes to the fleet. Shape: the attributes."""
        return {
            "in_flight": dict(self.in_flight),
            "queue_age_seconds": self.queue_age_seconds,
            "quota_utilisation": self.quota_utilisation,
            "breakers_open_share": self.breakers_open_share,
            "windows": {trigger: list(counts) for trigger, counts in self.windows.items()},
            "gauges": dict(self.gauges),
            "requests_per_second": self.requests_per_second,
            "backlog_age_seconds": self.backlog_age_seconds,
            "attempts": self.attempts,
            "failures": self.failures,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Told:
        """Read what `to_json` wrote, here or in a worker of another version: what is not known here is passed over."""
        known = {name: value[name] for name in cls.__dataclass_fields__ if name in value}
        windows = {trigger: (int(counts[0]), int(counts[1])) for trigger, counts in value["windows"].items()}
        return cls(**{**known, "windows": windows})


def gather(signal: str, trigger: str, tellings: Iterable[Told], budget: Budget | None = None) -> float | None:
    """The reading of a whole fleet for one trigger; None where no worker knows it.

    What is under way adds up, as attempts do; of ages and shares the worst counts, since each worker sees its part.
    """
    known = list(tellings)
    if not known:
        return None
    match signal:
        case "in_flight":
            return float(sum(sum(one.in_flight.values()) for one in known))
        case "requests_per_second":
            rates = [one.requests_per_second for one in known if one.requests_per_second is not None]
            return sum(rates) if rates else None
        case "backlog_age_seconds":
            return _highest(one.backlog_age_seconds for one in known)
        case "queue_age_seconds":
            return max(one.queue_age_seconds for one in known)
        case "quota_utilisation":
            return _highest(one.quota_utilisation for one in known)
        case "breakers_open_share":
            return _highest(one.breakers_open_share for one in known)
        case "gpu_utilisation":
            return _highest(one.gauges.get(trigger) for one in known)
    if budget is None:
        raise ValueError(f"trigger {trigger!r} looks at {signal!r}, which needs a budget")
    counted = [one.windows[trigger] for one in known if trigger in one.windows]
    if not counted:
        return None
    return budget.burn(attempts=sum(one for one, _ in counted), failures=sum(one for _, one in counted))


def parse_source(signal: str, members: Mapping[str, Node]) -> Budget | Gauge | None:
    """Read what a trigger of `signal` has beside its thresholds, from members that are there.

    Raises:
        MalformedRelease: naming the JSON path.
    """
    if signal == BURN:
        objective = Threshold.parse(members["objective"], above=0.5, maximum=0.999_999)
        return Budget(
            objective, Threshold.parse_whole(members["window_seconds"], minimum=10, maximum=MAX_WINDOW_SECONDS)
        )
    if signal == GPU:
        url = members["url"].text()
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            members["url"].refuse(f"{url[:80]!r} is no http(s) address of a Prometheus endpoint")
        return Gauge(url, members["metric"].text(), members["full"].number(above=0, maximum=1e9))
    return None


# What a trigger of a signal has beside its thresholds.
SOURCE_MEMBERS: Final[Mapping[str, tuple[str, ...]]] = {
    BURN: ("objective", "window_seconds"),
    GPU: ("url", "metric", "full"),
}


def _highest(values: Iterable[float | None]) -> float | None:
    return max((one for one in values if one is not None), default=None)
