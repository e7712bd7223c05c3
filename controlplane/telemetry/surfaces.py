"""What surfaces' requests were served, and who stands where on their ladders; by rollups, never by requests.

Beside it: `surface_load` (how loaded they were), `ladder_episodes` (when rungs were on, and what that did),
`ladder_capacity` (how much of the time), `ladder_simulation` (what another policy would have done) and
`ladder_postmortem` (an episode as a document).
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Final

from django.db.models import Count, DateTimeField, Max, Q, QuerySet

from controlplane.compiled import compiled
from controlplane.evals.agreement import Share, wilson
from controlplane.ladder.models import RungActivation
from controlplane.releases.models import SILENT_AFTER, Release, Worker
from controlplane.telemetry.models import LadderState
from controlplane.telemetry.surface_sums import surface_sums
from dataplane.ladder.counting import (
    ANSWERED,
    CANCELLED,
    COPIED,
    FAILED,
    JOB,
    OUTCOMES,
    PUT_OFF,
    REFUSED,
    REJECTED,
)
from dataplane.ladder.policy import Promise

TRAFFIC_WINDOW: Final = timedelta(minutes=15)
# As people say them, the most promised first.
TIERS_IN_ORDER: Final = ("vip", "standard", "free")
WORDS: Final = ("engaged", "not_yet", "silent", "refused")


# --- what was served -------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class TierServed:
    """What became of what one tier asked.

    Shares are of the answerable, with Wilson's 95 % interval. `answered` is what a model said at once, so what the
    promise is about; `later` is counted beside it, since a promise to answer is no answer.

    Attributes:
        requests: Of callers; those of runners, who work off what was put off, are not among them.
        reserved: How many of these were served in a place that the tier is promised.
        outcomes: How many came to what: each of `dataplane.ladder.counting.OUTCOMES` but runners'.
        promise: What the policy promises the tier; None: nothing.
    """

    tier: str
    requests: int
    reserved: int
    outcomes: Mapping[str, int]
    promise: Promise | None

    @property
    def answerable(self) -> int:
        """The requests that could be answered: not callers' own mistakes, nor of callers who left."""
        return self.requests - self.outcomes[CANCELLED] - self.outcomes[REJECTED]

    def share(self, outcome: str) -> Share:
        """How much of the answerable came to `outcome`."""
        return wilson(self.outcomes[outcome], self.answerable)

    @property
    def answered(self) -> Share:
        return self.share(ANSWERED)

    @property
    def later(self) -> Share:
        return self.share(PUT_OFF)

    @property
    def copied(self) -> Share:
        return self.share(COPIED)

    @property
    def refused(self) -> Share:
        return self.share(REFUSED)

    @property
    def failed(self) -> Share:
        return self.share(FAILED)

    @property
    def reserved_share(self) -> float | None:
        """Of all requests; None where there were none."""
        return self.reserved / self.requests if self.requests else None

    @property
    def is_kept(self) -> bool | None:
        """Whether the share that was answered is what is promised; None where nothing was asked, or is promised."""
        if self.promise is None or self.answered.value is None:
            return None
        return self.answered.value >= self.promise.served_share.value


def served(
    surface: str, *, since: datetime, until: datetime, promises: Mapping[str, Promise] | None = None
) -> list[TierServed]:
    """What every tier that asked, or is promised something, was served in [since, until), VIP first; one query.

    Args:
        since, until: To the minute.
        promises: By tier, of the policy that they are held against.
    """
    promised = promises or {}
    outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    reserved: Counter[str] = Counter()
    for series, tally in surface_sums(surface, {"": (since, until)})[""].items():
        if series.outcome != JOB:
            outcomes[series.tier][series.outcome] += tally.requests
            reserved[series.tier] += tally.reserved
    return [
        TierServed(
            tier=tier,
            requests=outcomes[tier].total(),
            reserved=reserved[tier],
            outcomes={name: outcomes[tier][name] for name in OUTCOMES if name != JOB},
            promise=promised.get(tier),
        )
        for tier in tiers_in_order({*outcomes, *promised})
    ]


def tiers_in_order(tiers: Collection[str]) -> list[str]:
    """As people say them; one that nobody knows any more comes last."""
    return sorted(tiers, key=lambda tier: (TIERS_IN_ORDER.index(tier) if tier in TIERS_IN_ORDER else 9, tier))


# --- whom a scope would touch ----------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class TrafficShare:
    """How much of a surface's traffic of the last 15 minutes a scope has.

    Attributes:
        requests, of: In the scope, and in all; callers' only.
        reserved: Tier -> the share of its requests in the scope that held reserved places, of tiers that asked.
    """

    requests: int
    of: int
    reserved: Mapping[str, float]

    @property
    def share(self) -> float | None:
        """None where nobody asked anything."""
        return self.requests / self.of if self.of else None


def traffic_share(surface: str, *, regions: Collection[str], tiers: Collection[str], now: datetime) -> TrafficShare:
    """What is of callers in these regions and tiers (empty: all); one query."""
    asked: Counter[str] = Counter()
    reserved: Counter[str] = Counter()
    of = 0
    for series, tally in surface_sums(surface, {"": (now - TRAFFIC_WINDOW, now)})[""].items():
        if series.outcome == JOB:
            continue
        of += tally.requests
        if (not regions or series.region in regions) and (not tiers or series.tier in tiers):
            asked[series.tier] += tally.requests
            reserved[series.tier] += tally.reserved
    shares = {tier: reserved[tier] / asked[tier] for tier in tiers_in_order(asked) if asked[tier]}
    return TrafficShare(requests=asked.total(), of=of, reserved=shares)


# --- who engaged it --------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class WorkerWord:
    """What one gateway process says of an activation: engaged, not_yet, silent, or refused, the release that has it."""

    worker: str
    region: str
    word: str


@dataclass(frozen=True)
class Confirmation:
    """Of an activation that stands: what each process that it is for says, by name."""

    workers: tuple[WorkerWord, ...]

    @cached_property
    def counts(self) -> Mapping[str, int]:
        """How many say what; every word is there."""
        said = Counter(one.word for one in self.workers)
        return {word: said[word] for word in WORDS}

    @property
    def is_complete(self) -> bool:
        """Whether every process that is heard of engaged it, and there is one."""
        return self.counts["engaged"] > 0 and self.counts["not_yet"] == self.counts["refused"] == 0


def confirmation(activation: RungActivation, *, now: datetime) -> Confirmation:
    """Which gateway processes act on an activation or hold already; three queries."""
    expected = Worker.objects.expected(now)
    if activation.regions:
        expected = expected.filter(region__in=activation.regions)
    current = Release.objects.only("revision", "digest").first()
    states = LadderState.objects.fresh(now).filter(surface=activation.surface)
    acting = {worker for worker, ids in states.values_list("worker", "ids") if activation.name in ids}
    return Confirmation(
        tuple(
            WorkerWord(worker.name, worker.region, _word(worker, worker.name in acting, current, now=now))
            for worker in expected
        )
    )


def _word(worker: Worker, is_acting: bool, current: Release | None, *, now: datetime) -> str:
    if worker.last_seen_at <= now - SILENT_AFTER:
        return "silent"
    if is_acting:
        return "engaged"
    return "refused" if current is not None and worker.refused_digest == current.digest else "not_yet"


# --- how ladders stand -----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class LadderStanding:
    """How the workers that are heard of hold the ladder of one surface.

    Attributes:
        level: The highest rung that triggers engaged at any of them.
        engaged: Tier -> the highest rung that stands for it at any of them.
        ids: Activations, holds and orders in force -> at how many workers.
        readings: Trigger -> the highest reading that any of them knows; None: nobody could take it.
        reserved: Tier -> how many reserved places are in use, of all of them.
        generation: The highest.
        workers, alone: How many tell of it, and how many of these cannot hear the others.
    """

    surface: str
    level: int
    engaged: Mapping[str, int]
    ids: Mapping[str, int]
    readings: Mapping[str, float | None]
    reserved: Mapping[str, int]
    generation: int
    workers: int
    alone: int

    def to_json(self) -> dict[str, Any]:
        """Shape: the attributes."""
        return {
            "surface": self.surface,
            "level": self.level,
            "engaged": dict(self.engaged),
            "ids": dict(self.ids),
            "readings": dict(self.readings),
            "reserved": dict(self.reserved),
            "generation": self.generation,
            "workers": self.workers,
            "alone": self.alone,
        }


@dataclass(frozen=True, slots=True)
class _Alike:
    """Workers that tell the same of one surface."""

    level: int
    engaged: Mapping[str, int]
    ids: Sequence[str]
    readings: Mapping[str, float | None]
    reserved: Mapping[str, int]
    workers: int
    alone: int
    newest: int


def ladder_standings(now: datetime) -> dict[str, LadderStanding]:
    """Every surface that a worker which is heard of tells of, by its slug; one query.

    Workers hear the same of one another, so that thousands of them say but a few different things.
    """
    alike = (
        LadderState.objects.fresh(now)
        .order_by("surface")
        .values_list("surface", "level", "engaged", "ids", "readings", "reserved")
        .annotate(workers=Count("pk"), alone=Count("pk", filter=Q(is_alone=True)), newest=Max("generation"))
    )
    by_surface: defaultdict[str, list[_Alike]] = defaultdict(list)
    for surface, *told in alike:
        by_surface[surface].append(_Alike(*told))
    return {slug: _standing(slug, found) for slug, found in by_surface.items()}


def highest_rungs(now: datetime) -> dict[str, int]:
    """The highest rung that stands for anybody on each surface, as workers tell, where one does; one query, a light
    one: every page asks this.
    """
    rungs: dict[str, int] = {}
    for surface, engaged in _engaged(now=now):
        rungs[surface] = max(rungs.get(surface, 0), *engaged.values(), 0)
    return rungs


@compiled(now=DateTimeField())
def _engaged(*, now: datetime) -> QuerySet[LadderState, tuple[str, dict[str, int]]]:
    engaged_here = LadderState.objects.fresh(now).filter(is_engaged=True)
    return engaged_here.order_by().values_list("surface", "engaged").distinct()


def _standing(surface: str, told: list[_Alike]) -> LadderStanding:
    engaged: dict[str, int] = {}
    readings: dict[str, float | None] = {}
    ids: Counter[str] = Counter()
    reserved: Counter[str] = Counter()
    for one in told:
        for tier, rung in one.engaged.items():
            engaged[tier] = max(engaged.get(tier, 0), rung)
        for trigger, value in one.readings.items():
            known = readings.get(trigger)
            readings[trigger] = known if value is None else value if known is None else max(known, value)
        reserved.update({tier: places * one.workers for tier, places in one.reserved.items()})
        ids.update(dict.fromkeys(one.ids, one.workers))
    return LadderStanding(
        surface=surface,
        level=max(one.level for one in told),
        engaged={tier: engaged[tier] for tier in tiers_in_order(engaged)},
        ids=ids,
        readings=readings,
        reserved=reserved,
        generation=max(one.newest for one in told),
        workers=sum(one.workers for one in told),
        alone=sum(one.alone for one in told),
    )


def minute_of(moment: datetime) -> datetime:
    """The minute that a moment lies in."""
    return moment.astimezone(UTC).replace(second=0, microsecond=0)
