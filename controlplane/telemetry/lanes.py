"""What lanes are judged by: how workers hold them now, and what every minute of the past measured."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from django.db.models import Case, Count, DateTimeField, Max, QuerySet, Sum, When

from controlplane.compiled import compiled
from controlplane.telemetry.models import (
    COUNTS,
    LANE_COUNTS,
    LANE_STATES,
    SHUT,
    TEXTS,
    LaneRollup,
    LaneState,
    Rollup,
    sketches_as_text,
)
from controlplane.telemetry.tally import Tally
from controlplane.telemetry.traffic import unfolded_since
from dataplane.sketches import Sketch

_ROWS_PER_FETCH: Final = 2000
NOT_SERVING: Final = frozenset(SHUT)


# --- now -------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class LaneStanding:
    """How the workers that are heard of hold one lane.

    Attributes:
        workers: How many hold it in which state; states that nobody holds it in are left out.
        open_for_seconds: The longest that a worker will still keep it open; None when nobody says for how long.
        probes: In flight, of all workers.
        attempts, failures: In the breaker's window, of the whole fleet, as known by the worker that knows most of it.
        cause: What opened it, as most workers say that hold it in the state `state`.
        wait_ms: What callers waited for lately, the mean of the workers that saw enough; None when none did.
    """

    lane: str
    workers: Mapping[str, int]
    open_for_seconds: float | None
    probes: int
    attempts: int
    failures: int
    cause: str
    wait_ms: float | None

    @property
    def state(self) -> str:
        """The worst state that a worker holds it in: forced_open, open, half_open, forced_closed or closed."""
        return next(state for state in LANE_STATES if self.workers.get(state))

    def to_json(self) -> dict[str, Any]:
        """Shape: {"lane", "state", "cause": str, "workers": {"<state>": int}, "open_for_seconds": float or null,
        "probes", "attempts", "failures": int, "wait_ms": float or null}.
        """
        return {
            "lane": self.lane,
            "state": self.state,
            "workers": dict(self.workers),
            "open_for_seconds": self.open_for_seconds,
            "probes": self.probes,
            "attempts": self.attempts,
            "failures": self.failures,
            "cause": self.cause,
            "wait_ms": self.wait_ms,
        }


def lane_states(now: datetime, lanes: Collection[str] | None = None) -> dict[str, LaneStanding]:
    """How each of these lanes that has a breaker is held now, by lane; one query, and none for no lanes. A lane that no
    fresh worker holds is absent.

    Args:
        lanes: None means all.
    """
    fresh = LaneState.objects.fresh(now)
    groups = (
        (fresh if lanes is None else fresh.filter(lane__in=lanes))
        .values("lane", "state", "cause")
        .annotate(
            workers=Count("pk"),
            until=Max("open_until_at"),
            out=Sum("probes"),
            tried=Max("attempts"),
            failed=Max("failures"),
            waited=Sum("wait_ms"),
            timed=Count("wait_ms"),
        )
        .order_by("lane", "state", "cause")
    )
    return {
        lane: _standing(lane, list(of_lane), now)
        for lane, of_lane in groupby(groups, key=lambda group: str(group["lane"]))
    }


def lane_workers(lane: str, *, now: datetime, most: int) -> list[LaneState]:
    """What each worker that is heard of says of one lane, those first that hold anything back; one query."""
    is_closed = Case(When(state="closed", then=1), default=0)
    return list(LaneState.objects.fresh(now).filter(lane=lane).order_by(is_closed, "worker")[:most])


def open_now(now: datetime) -> list[str]:
    """The lanes that get nothing because a worker's breaker is open, or held so, by name; one query."""
    return _shut(now=now)


@compiled(now=DateTimeField())
def _shut(*, now: datetime) -> QuerySet[LaneState, str]:
    shut = LaneState.objects.fresh(now).filter(state__in=SHUT)
    return shut.order_by("lane").values_list("lane", flat=True).distinct()


def _standing(lane: str, groups: list[Any], now: datetime) -> LaneStanding:
    workers: Counter[str] = Counter()
    for group in groups:
        workers[group["state"]] += group["workers"]
    worst = min(groups, key=lambda group: (LANE_STATES.index(group["state"]), -group["workers"]))
    timed = sum(group["timed"] for group in groups)
    until = max((group["until"] for group in groups if group["until"] is not None), default=None)
    return LaneStanding(
        lane=lane,
        workers=workers,
        open_for_seconds=None if until is None else max((until - now).total_seconds(), 0.0),
        probes=sum(group["out"] for group in groups),
        attempts=max(group["tried"] for group in groups),
        failures=max(group["failed"] for group in groups),
        cause=worst["cause"],
        wait_ms=sum(group["waited"] or 0.0 for group in groups) / timed if timed else None,
    )


# --- the past --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class LaneMinute:
    """What one lane did in one minute, over every worker, prompt, cohort and tier.

    `timeouts` are a part of the failures. The sketches are of attempts, `drain_tps` of streams.
    """

    at: datetime
    attempts: int
    failures: int
    timeouts: int
    throttled: int
    latency_ms: Sketch
    ttft_ms: Sketch
    drain_tps: Sketch


def lane_minutes(lane: str, *, since: datetime, until: datetime) -> Iterator[LaneMinute]:
    """The minutes in which the lane was tried, oldest first, from that of `since` on; three queries.

    An iterator, to be gone through once: rows are fetched as it goes on, since the sketches of 30 days of minutes would
    fill half a gigabyte.

    Args:
        until: Of the minute under way, if it is in this one, only what came before it.
    """
    since = since.replace(second=0, microsecond=0)
    fresh_since = unfolded_since(since)
    folded = LaneRollup.objects.filter(lane=lane, bucket_at__gte=since, bucket_at__lt=min(until, fresh_since))
    for at, parts in groupby(_rows(folded, LANE_COUNTS), key=itemgetter(0)):  # a sealed part, an unsealed one, or both
        tally = Tally()
        for _, *values in parts:
            tally.add_attempts(values[: len(LANE_COUNTS)], values[len(LANE_COUNTS) :])
        yield _minute(at, tally)
    fresh = Rollup.objects.between(fresh_since, until).filter(lane=lane)
    for at, parts in groupby(_rows(fresh, COUNTS), key=lambda row: row[0].replace(second=0, microsecond=0)):
        tally = Tally()
        for _, *values in parts:
            tally.add_values(values[: len(COUNTS)], values[len(COUNTS) :])
        if tally.attempts:
            yield _minute(at, tally)


def _rows(rows: QuerySet[Any], counts: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    values = rows.order_by("bucket_at").annotate(**sketches_as_text()).values_list("bucket_at", *counts, *TEXTS)
    yield from values.iterator(chunk_size=_ROWS_PER_FETCH)


def _minute(at: datetime, tally: Tally) -> LaneMinute:
    return LaneMinute(
        at=at,
        attempts=tally.attempts,
        failures=tally.failures,
        timeouts=tally.timeouts,
        throttled=tally.throttled,
        latency_ms=tally.latency_ms,
        ttft_ms=tally.ttft_ms,
        drain_tps=tally.drain_tps,
    )
