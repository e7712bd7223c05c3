"""How much of the time a surface's rungs were on: whether what serves it is large enough."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from controlplane.telemetry.ladder_track import Step, stretches, track
from controlplane.telemetry.models import MINUTE
from controlplane.telemetry.surface_sums import requests_by_hour
from controlplane.telemetry.surface_told import Range, told_stretches
from controlplane.telemetry.surfaces import minute_of
from dataplane.ladder.decider import Cause
from dataplane.ladder.policy import OFF, RUNGS

DAYS: Final = 30
MOST_DAYS: Final = 35
# Of the time that was told of: below the first it fits, below the second it is tight. One in a thousand is some three
# quarters of an hour in 30 days, one in a hundred some seven hours.
FITS_BELOW: Final = 0.001
TIGHT_BELOW: Final = 0.01
VERDICTS: Final = {
    "fits": "the architecture fits",
    "tight": "it is tight",
    "undersized": "the architecture is undersized",
}


# A rush that fills the first hour says nothing of the month.
JUDGED_FROM: Final = timedelta(hours=12)


def verdict_of(share: float) -> str:
    """What it says that a rung was on for so much of the time: fits, tight or undersized."""
    return "fits" if share < FITS_BELOW else "tight" if share < TIGHT_BELOW else "undersized"


@dataclass(frozen=True, slots=True)
class RungUse:
    """How much one rung was on.

    Attributes:
        seconds: For how long it was the highest that stood for anybody.
        on_seconds, share: For how long it was on, alone or below a higher one, which keeps what it does; and how much
            of the time that was told of this is.
        requests, request_share: How many were served on exactly this rung, and how much of all requests these are;
            None: nobody asked anything.
    """

    rung: int
    seconds: float
    on_seconds: float
    share: float
    requests: int
    request_share: float | None

    @property
    def name(self) -> str:
        """What people call it."""
        return RUNGS[self.rung]

    @property
    def verdict(self) -> str:
        """fits, tight or undersized."""
        return verdict_of(self.share)


@dataclass(frozen=True, slots=True)
class TriggerUse:
    """How often a trigger took the ladder up, and for how long it then stood up because of what pressed last."""

    slug: str
    presses: int
    seconds: float


@dataclass(frozen=True, slots=True)
class WorstHour:
    """The hour in which most requests were served on a rung."""

    at: datetime
    requests: int
    touched: int


@dataclass(frozen=True, slots=True)
class Capacity:
    """See `capacity`. `told_seconds` is how much of the range anybody told of; the rest, nothing is said about."""

    surface: str
    since: datetime
    until: datetime
    told_seconds: float
    rungs: tuple[RungUse, ...]
    triggers: tuple[TriggerUse, ...]
    worst: WorstHour | None

    @property
    def days(self) -> int:
        """How many days it is about."""
        return (self.until - self.since).days

    @property
    def untold_seconds(self) -> float:
        """How much of the range nobody told of."""
        return max(0.0, (self.until - self.since).total_seconds() - self.told_seconds)

    @property
    def telling(self) -> RungUse | None:
        """The rung that says most: of those with the worst verdict the highest; None where none was on."""
        on = [one for one in self.rungs if one.on_seconds > 0]
        order = list(VERDICTS)
        return max(on, key=lambda one: (order.index(one.verdict), one.rung), default=None)

    @property
    def verdict(self) -> str:
        """fits, tight or undersized; unknown where less was told of than can be judged."""
        if self.told_seconds < JUDGED_FROM.total_seconds():
            return "unknown"
        return "fits" if self.telling is None else self.telling.verdict

    @property
    def sentence(self) -> str:
        """In one line, such as 'Rung 4 was on 3.1 % of the last 30 days (22 h 19 min): the architecture is
        undersized.'
        """
        if not self.told_seconds:
            return f"Nobody told of this surface in the last {self.days} days."
        if self.untold_seconds < MINUTE.total_seconds():
            whole, rest = f"the last {self.days} days", ""
        else:
            whole = f"the {spoken(self.told_seconds)} that were told of in the last {self.days} days"
            rest = f" Of {spoken(self.untold_seconds)} nobody told anything."
        found = self.telling
        if found is None:
            return f"No rung was on in {whole}: {VERDICTS['fits']}.{rest}"
        share = "under 0.1 %" if found.share < FITS_BELOW else f"{found.share * 100:.1f} %"
        was = f"Rung {found.rung} was on {share} of {whole} ({spoken(found.on_seconds)})"
        if self.verdict == "unknown":
            return f"{was}: less than half a day says nothing about what is needed.{rest}"
        return f"{was}: {VERDICTS[found.verdict]}.{rest}"

    def to_json(self) -> dict[str, Any]:
        """Shape: {"surface": str, "since", "until": ISO-8601, "days": int, "told_seconds", "untold_seconds": float,
        "verdict", "sentence": str, "rungs": [{"rung", "name", "seconds", "on_seconds", "share", "requests",
        "request_share", "verdict"}], "triggers": [{"slug", "presses", "seconds"}], "worst": {"at", "requests",
        "touched"} or null}.
        """
        return {
            "surface": self.surface,
            "since": self.since.isoformat(),
            "until": self.until.isoformat(),
            "days": self.days,
            "told_seconds": self.told_seconds,
            "untold_seconds": self.untold_seconds,
            "verdict": self.verdict,
            "sentence": self.sentence,
            "rungs": [
                {
                    "rung": one.rung,
                    "name": one.name,
                    "seconds": one.seconds,
                    "on_seconds": one.on_seconds,
                    "share": one.share,
                    "requests": one.requests,
                    "request_share": one.request_share,
                    "verdict": one.verdict,
                }
                for one in self.rungs
            ],
            "triggers": [{"slug": one.slug, "presses": one.presses, "seconds": one.seconds} for one in self.triggers],
            "worst": None
            if self.worst is None
            else {
                "at": self.worst.at.isoformat(),
                "requests": self.worst.requests,
                "touched": self.worst.touched,
            },
        }


def capacity(surface: str, *, days: int = DAYS, now: datetime) -> Capacity:
    """How much of the last days each rung of a surface was on, what pressed, and the worst hour; seven queries.

    Shares of time are of that which anybody told of, by the minute: a rung that stood while no worker reported is not
    counted, as the time is not in which it may have been let go.

    Args:
        days: 1 to 35; longer, nothing is kept.
    """
    until = minute_of(now)
    since = until - timedelta(days=days)
    steps = track(surface, since=since, until=until, now=now)
    told = told_stretches(surface, since=since, until=until)
    told_seconds = _told_of(since, until, told)
    by_rung: defaultdict[int, float] = defaultdict(float)
    by_trigger: defaultdict[str, float] = defaultdict(float)
    for step, begun, ended in stretches(steps, since=since, until=until):
        if step is None or (step.rung == OFF and step.level == OFF):
            continue
        seconds = _told_of(begun, ended, told)
        by_rung[step.rung] += seconds
        if step.level > OFF:
            by_trigger[step.trigger_of_level] += seconds
    hours = requests_by_hour(surface, since=since, until=until)
    return Capacity(
        surface=surface,
        since=since,
        until=until,
        told_seconds=told_seconds,
        rungs=tuple(_uses(by_rung, hours.values(), told_seconds)),
        triggers=tuple(_pressed(steps, by_trigger, since=since)),
        worst=_worst(hours),
    )


def capacity_rows(found: Capacity) -> list[list[Any]]:
    """The same as rows of a table, the first its head."""
    rows: list[list[Any]] = [
        ["surface", "since", "until", "rung", "name", "on seconds", "share of time", "requests", "share of requests"]
    ]
    for one in found.rungs:
        share = "" if one.request_share is None else round(one.request_share, 6)
        times = [found.surface, found.since.isoformat(), found.until.isoformat()]
        rows.append([*times, one.rung, one.name, round(one.on_seconds, 1), round(one.share, 6), one.requests, share])
    return rows


def spoken(seconds: float) -> str:
    """A length of time as people say it, to the minute: '22 h 19 min', '3 d 4 h', '40 s'."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


def _told_of(begun: datetime, ended: datetime, told: Iterable[Range]) -> float:
    """How many seconds of a stretch lie in minutes that were told of."""
    return sum(max(0.0, (min(ended, last) - max(begun, first)).total_seconds()) for first, last in told)


def _uses(by_rung: Mapping[int, float], hours: Iterable[dict[int, int]], told_seconds: float) -> Iterable[RungUse]:
    served: Counter[int] = Counter()
    for hour in hours:
        served.update(hour)
    for rung in RUNGS:
        on = sum(seconds for number, seconds in by_rung.items() if number >= rung)
        yield RungUse(
            rung=rung,
            seconds=by_rung.get(rung, 0.0),
            on_seconds=on,
            share=on / told_seconds if told_seconds else 0.0,
            requests=served[rung],
            request_share=served[rung] / served.total() if served.total() else None,
        )


def _pressed(steps: Iterable[Step], by_trigger: Mapping[str, float], *, since: datetime) -> Iterable[TriggerUse]:
    presses = Counter(step.trigger for step in steps if step.cause == Cause.PRESSED and step.at >= since)
    names = {name for name in (*presses, *by_trigger) if name}
    for name in sorted(names, key=lambda one: (-by_trigger.get(one, 0.0), one)):
        yield TriggerUse(name, presses[name], by_trigger.get(name, 0.0))


def _worst(hours: dict[datetime, dict[int, int]]) -> WorstHour | None:
    touched = {hour: sum(count for rung, count in by_rung.items() if rung > OFF) for hour, by_rung in hours.items()}
    worst = max(touched, key=lambda hour: (touched[hour], -hour.timestamp()), default=None)
    if worst is None or not touched[worst]:
        return None
    return WorstHour(worst, sum(hours[worst].values()), touched[worst])
