"""What a drill measured: how fast everybody left, what callers saw meanwhile, what other lanes did, and the way back.

Read from what is there anyway: the workers' verdicts on the release, the usage rows, the rollups. Nothing is sampled,
and nothing is asked of the gateways.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.db.models import Count, DateTimeField, DurationField, ExpressionWrapper, F, Max, Min, Q, Value

from controlplane.ledger.models import UNASKED, UsageRow
from controlplane.releases.models import Ack, Worker
from controlplane.routing import drills
from controlplane.routing.models import Drill, DrillResult
from controlplane.telemetry.measures import figures
from controlplane.telemetry.models import BUCKET, MINUTE
from controlplane.telemetry.operations import KEEP_BUCKETS
from controlplane.telemetry.tally import Tally
from controlplane.telemetry.traffic import Tallies, read

# What is compared with: so long before the click, and no longer, so that it is the same traffic.
MAX_BEFORE: Final = timedelta(minutes=30)
# Reports come within a second or two; a worker that was cut off for a moment may deliver late.
SETTLE: Final = timedelta(seconds=20)
# A lane that nobody asks again within this is not waited for: perhaps nobody has a question for it.
MAX_RETURN: Final = timedelta(minutes=2)
# The margin is for a drill that is measured just as its oldest buckets are folded.
_BUCKETS_ARE_THERE: Final = KEEP_BUCKETS - timedelta(minutes=5)
_MEASURES: Final = ("latency_p95_ms", "ttft_p95_ms", "drain_tps_p5")
_PROBE: Final = "probe"
# When an attempt was begun; the row says when it ended.
_BEGUN: Final = ExpressionWrapper(
    F("at") - ExpressionWrapper(F("latency_ms") * Value(timedelta(milliseconds=1)), output_field=DurationField()),
    output_field=DateTimeField(),
)


def measure(drill: Drill, *, now: datetime) -> dict[str, Any]:
    """Everything that the drill shows up to `now`; at most eleven queries, however long it ran.

    Shape: {"held": {"since", "until": ISO-8601, "seconds": float}, "before": the same, "resolution_seconds": int,
            "convergence": {"acked", "expected", "refused": int, "missing": [worker], "p50_ms", "ms": float or null},
            "departure": {"attempts", "late": int, "last_ms": float or null},
            "callers": {"before": C, "during": C}, "lanes": [{"lane": str, "is_left": bool, "before": L, "during": L}],
            "returned": [{"lane": str, "ms": float or null}]}
    C: {"requests", "answerable", "errors", "copy", "elsewhere": int, "cost_usd_per_1000": float or null}.
    L: {"attempts", "failures": int, "share": float or null, "<measure>": {"value": float or null, "n": int}}.
    `ms` of the convergence is null until every worker that was there at the click has acknowledged; `late` counts
    attempts at what was left that were begun after that. Times count from the click, those of `returned` from the end.
    """
    ends = drills.ends_of(drill)
    # Once the first lane is back it is no longer the same drill.
    until = min([now, *ends.values()])
    convergence = _convergence(drill, until=until)
    span = min(drill.until - drill.began_at, MAX_BEFORE)
    step = BUCKET if now - (drill.began_at - span) < _BUCKETS_ARE_THERE else MINUTE
    click, end = _floor(drill.began_at, step), until if until == now else _floor(until, step)
    before = _tallies(click - span, click, step)
    during = _tallies(click, end, step)
    # The bucket of the click is callers' business; what a lane did under the new load begins with the next.
    lanes_during = {key: tally for key, tally in during.items() if key[0] >= (click + step).timestamp()}
    return {
        "held": _period(drill.began_at, until),
        "before": _period(click - span, click),
        "resolution_seconds": int(step.total_seconds()),
        "convergence": convergence,
        "departure": _departure(drill, until=until, converged_ms=convergence["ms"]),
        "callers": {
            "before": _callers(before, since=click - span, until=click),
            "during": _callers(during, since=drill.began_at, until=until),
        },
        "lanes": _lanes(drill, before, lanes_during),
        "returned": _returned(ends, now=now),
    }


def measure_ended(*, now: datetime) -> int:
    """Keep the result of every drill that is over and has come to rest; returns how many."""
    kept = 0
    for drill in Drill.objects.filter(result__isnull=True, began_at__lte=now).order_by("pk"):
        if not may_be_over(drill, now=now):
            continue
        found = measure(drill, now=now)
        if is_at_rest(drill, found, now=now):
            drills.record_result(drill=drill, figures=found, now=now)
            kept += 1
    return kept


def may_be_over(drill: Drill, *, now: datetime) -> bool:
    """Whether its lanes are back for long enough that what they report has arrived; one query."""
    return max(drills.ends_of(drill).values()) + SETTLE <= now


def is_at_rest(drill: Drill, found: Mapping[str, Any], *, now: datetime) -> bool:
    """Whether nothing more is waited for: every lane is used again, or was not for long enough."""
    if all(one["ms"] is not None for one in found["returned"]):
        return True
    return max(drills.ends_of(drill).values()) + MAX_RETURN <= now


def result_or_live(drill: Drill, *, now: datetime) -> Mapping[str, Any]:
    """The figures of its result; those up to now while there is none."""
    result: DrillResult | None = getattr(drill, "result", None)
    return measure(drill, now=now) if result is None else result.figures


# --- everybody leaves ------------------------------------------------------------------------------------------------
def _convergence(drill: Drill, *, until: datetime) -> dict[str, Any]:
    """By the verdicts on the drill's release, or on a later one: a worker that skipped it has left all the same."""
    gateways = Worker.objects.gateways().filter(started_at__lte=drill.began_at)
    # Agents only carry releases, and who started after the click was not there to follow.
    known = set(gateways.values_list("name", flat=True))
    there = set(
        gateways.exclude(status="stopped").filter(last_seen_at__gt=drill.began_at).values_list("name", flat=True)
    )
    verdicts = Ack.objects.filter(revision__gte=drill.revision, at__gte=drill.began_at, at__lte=until)
    acks = (
        verdicts.filter(verdict="ack", latency_ms__isnull=False)
        .order_by()
        .values("worker")
        .annotate(first=Min("at"))
        .values_list("worker", "first")
    )
    times = {worker: _ms(first - drill.began_at) for worker, first in acks if worker in known}
    missing = sorted(there - set(times))
    refused = (
        verdicts.filter(revision=drill.revision, verdict="nack", worker__in=missing)
        .order_by()
        .values("worker")
        .distinct()
        .count()
    )
    ordered = sorted(times.values())
    return {
        "acked": len(times),
        "expected": len(times) + len(missing),
        "refused": refused,
        "missing": missing,
        "p50_ms": ordered[(len(ordered) - 1) // 2] if ordered else None,
        "ms": ordered[-1] if ordered and not missing else None,
    }


def _departure(drill: Drill, *, until: datetime, converged_ms: float | None) -> dict[str, Any]:
    converged_at = None if converged_ms is None else drill.began_at + timedelta(milliseconds=converged_ms)
    late = Q(pk__in=[]) if converged_at is None else Q(begun__gt=converged_at)
    found = (
        UsageRow.objects.between(drill.began_at, until)
        .filter(lane__in=drill.lane_ids)
        .annotate(begun=_BEGUN)
        .filter(begun__gt=drill.began_at)
        .aggregate(attempts=Count("pk"), late=Count("pk", filter=late), last=Max("begun"))
    )
    last = found["last"]
    return {
        "attempts": found["attempts"],
        "late": found["late"],
        "last_ms": None if last is None else _ms(last - drill.began_at),
    }


def _returned(ends: Mapping[str, datetime], *, now: datetime) -> list[dict[str, Any]]:
    """How long after its end each lane was asked again; one query once the first is back."""
    firsts: dict[str, datetime] = {}
    if min(ends.values()) < now:
        own = Q(pk__in=[])
        for lane, end in ends.items():
            own |= Q(lane=lane, begun__gte=end)
        rows = (
            UsageRow.objects.between(min(ends.values()), min(now, max(ends.values()) + 2 * MAX_RETURN))
            .exclude(kind__in=[*UNASKED, _PROBE])
            .annotate(begun=_BEGUN)
            .filter(own)
            .order_by()
            .values("lane")
            .annotate(first=Min("begun"))
        )
        firsts = {row["lane"]: row["first"] for row in rows}
    return [
        {"lane": lane, "ms": _ms(firsts[lane] - end) if lane in firsts else None} for lane, end in sorted(ends.items())
    ]


# --- what callers and the other lanes saw ----------------------------------------------------------------------------
def _tallies(since: datetime, until: datetime, step: timedelta) -> Tallies:
    return read(lambda rows: rows, "lane", since=since, until=until, step=step)


def _callers(tallies: Tallies, *, since: datetime, until: datetime) -> dict[str, Any]:
    total = Tally()
    for tally in tallies.values():
        total.add(tally)
    elsewhere = UsageRow.objects.between(since, until).filter(kind="fallback").count()
    return {
        "requests": total.requests,
        "answerable": total.answerable,
        "errors": total.errors,
        "copy": total.fallbacks,
        "elsewhere": elsewhere,
        "cost_usd_per_1000": total.cost_micros / 1000 / total.requests if total.requests else None,
    }


def _lanes(drill: Drill, before: Tallies, during: Tallies) -> list[dict[str, Any]]:
    """Every lane that was tried in either period, or that the drill left, the busiest of the drill first."""
    left = set(drill.lane_ids)
    periods = {"before": _by_lane(before), "during": _by_lane(during)}
    names = {name for tallies in periods.values() for name, tally in tallies.items() if name and tally.attempts} | left
    rows = [
        {
            "lane": name,
            "is_left": name in left,
            **{period: _lane(tallies.get(name), tallies) for period, tallies in periods.items()},
        }
        for name in names
    ]
    return sorted(rows, key=lambda row: (row["is_left"], -row["during"]["attempts"], row["lane"]))


def _by_lane(tallies: Tallies) -> dict[str, Tally]:
    found: dict[str, Tally] = {}
    for (_, lane), tally in tallies.items():
        found.setdefault(lane, Tally()).add(tally)
    return found


def _lane(tally: Tally | None, everybody: Mapping[str, Tally]) -> dict[str, Any]:
    tally = tally or Tally()
    attempts = sum(one.attempts for one in everybody.values())
    known = figures(tally, seconds=0)
    return {
        "attempts": tally.attempts,
        "failures": tally.failures,
        "share": tally.attempts / attempts if attempts else None,
        **{name: known[name].to_json() for name in _MEASURES},
    }


# --- times -----------------------------------------------------------------------------------------------------------
def _period(since: datetime, until: datetime) -> dict[str, Any]:
    return {
        "since": since.isoformat(),
        "until": until.isoformat(),
        "seconds": (until - since).total_seconds(),
    }


def _ms(span: timedelta) -> float:
    return round(span.total_seconds() * 1000, 1)


def _floor(moment: datetime, step: timedelta) -> datetime:
    seconds = int(step.total_seconds())
    return datetime.fromtimestamp(int(moment.timestamp()) // seconds * seconds, UTC)
