"""Where the ladder of a surface stood over time: what triggers did, people engaged or held, and hosts were ordered,
joined into one line.

The rung of a step is the highest that stood for anybody: an activation for one tier or region counts like one for all.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import connection
from django.db.models import Max, Min, Q

from controlplane.ladder.models import RungActivation, RungMode
from controlplane.ladder.standing import MAX_ACTIVATION
from controlplane.telemetry.ladder_states import SEEN_SECONDS
from controlplane.telemetry.models import BUCKET, LadderMove, LadderOrder
from controlplane.telemetry.surface_rows import SurfaceReading
from dataplane.ladder.decider import Cause
from dataplane.ladder.policy import OFF

# From so long before a range its steps are read, so that what was on when it began has its beginning.
LOOKED_BACK: Final = timedelta(days=7)
# Workers that cannot hear each other take the same step, each by itself; a fleet that lost its store begins to count
# anew, and takes far longer to come to the same number.
_SAME_STEP: Final = timedelta(hours=1)
_UNSEEN: Final = timedelta(seconds=2 * SEEN_SECONDS)
# What comes first at the same moment: an end before the beginning that replaces it would look like a gap.
_BEGINS, _ENDS = 0, 1

FORGOTTEN: Final = "forgotten"
ENGAGED, STOOD_DOWN, ENDED, REPLACED = "engaged", "stood_down", "ended", "replaced"
HOLD_BEGUN, HOLD_ENDED = "hold_begun", "hold_ended"
ORDERED, ORDER_ENDED = "ordered", "order_ended"


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happened to a ladder.

    Attributes:
        before, rung: The highest rung that stood for anybody, before and after it.
        cause: Of what triggers did, one of `dataplane.ladder.decider.Cause`, or `forgotten`: the fleet lost where the
            ladder stood; of people, engaged, stood_down, ended, replaced, hold_begun, hold_ended; of hosts, ordered,
            order_ended.
        named: The rung that it is about: where triggers went, what somebody engaged, or held them at.
        level, trigger_of_level: Which rung triggers have engaged after it, and what pressed last.
        by, reason: Of people; "" of triggers.
        trigger, reading: What pressed, and what it read.
        regions, tiers: Whom it is for; empty: all.
        name: Of the activation, hold or order.
    """

    at: datetime
    before: int
    rung: int
    cause: str
    named: int
    level: int
    trigger_of_level: str
    by: str = ""
    reason: str = ""
    trigger: str = ""
    reading: float | None = None
    regions: tuple[str, ...] = ()
    tiers: tuple[str, ...] = ()
    name: str = ""

    @property
    def is_by_people(self) -> bool:
        """Whether a person did it; what ended by itself nobody did."""
        return self.cause in {ENGAGED, STOOD_DOWN, REPLACED, HOLD_BEGUN, ORDERED}

    @property
    def sentence(self) -> str:
        """What happened, such as 'Rung 3 engaged by oncall: Black Friday'."""
        match self.cause:
            case Cause.PRESSED:
                read = "" if self.reading is None else f", which read {self.reading:,.4g}"
                return f"Triggers took the ladder up to rung {self.named}: {self.trigger}{read}"
            case Cause.EASED:
                return f"Triggers let the ladder down to rung {self.named}: all was calm"
            case Cause.HELD:
                return f"Triggers went down to rung {self.named}, at which they are held"
            case Cause.UNSIGNED:
                return f"Triggers went to rung {self.named}: words of the rung above it are signed no more"
            case "forgotten":
                return f"The fleet lost where the ladder stood, and went on at rung {self.named}"
            case "engaged":
                return f"Rung {self.named} engaged by {self.by}{self._whom}: {self.reason}"
            case "stood_down":
                return f"Rung {self.named} stood down by {self.by}: {self.reason}"
            case "ended":
                return f"Rung {self.named} of {self.by} ended by itself{self._whom}"
            case "replaced":
                return f"Rung {self.named} of {self.by} replaced{self._whom}"
            case "hold_begun":
                return f"Triggers held at rung {self.named} by {self.by}{self._whom}: {self.reason}"
            case "hold_ended":
                return f"Triggers held at rung {self.named} no more{self._whom}"
            case "ordered":
                return f"Rung {self.named} ordered on a host by {self.by}: {self.reason}"
        return f"Rung {self.named} that was ordered on a host by {self.by} is off"

    @property
    def _whom(self) -> str:
        who = [f"tier {', '.join(self.tiers)}"] if self.tiers else []
        where = [f"in {', '.join(self.regions)}"] if self.regions else []
        return f" for {' '.join([*who, *where])}" if who or where else ""

    def to_json(self) -> dict[str, Any]:
        """Shape: {"at": ISO-8601, "before", "rung": int, "cause": str, "named": int, "by", "reason", "trigger": str,
        "reading": float or null, "regions", "tiers": [str], "name", "sentence": str}.
        """
        return {
            "at": self.at.isoformat(),
            "before": self.before,
            "rung": self.rung,
            "cause": self.cause,
            "named": self.named,
            "by": self.by,
            "reason": self.reason,
            "trigger": self.trigger,
            "reading": self.reading,
            "regions": list(self.regions),
            "tiers": list(self.tiers),
            "name": self.name,
            "sentence": self.sentence,
        }


@dataclass(frozen=True, slots=True)
class _Act:
    """Something that happened, before it is known where the ladder stood. `kind`: level, engage or hold."""

    at: datetime
    order: int
    kind: str
    cause: str
    named: int
    facts: dict[str, Any]


def track(surface: str, *, since: datetime, until: datetime, now: datetime) -> list[Step]:
    """Every step of a surface's ladder up to `until`, oldest first, from where the last began that was on at `since`;
    five queries. What people kept on for over a week is told from a week before `since`.
    """
    edge = _edge(surface, since - LOOKED_BACK)
    acts = [
        *_moved(surface, edge),
        *_forgotten(surface, edge),
        *_by_hand(surface, edge, now=now),
        *_ordered(surface, edge, now=now),
    ]
    acts.sort(key=lambda act: (act.at, act.order))
    return list(_joined(act for act in acts if act.at < until))


def _joined(acts: Iterable[_Act]) -> Iterator[Step]:
    level, pressed, rung = OFF, "", OFF
    on: dict[str, dict[str, int]] = {"engage": {}, "hold": {}}
    for act in acts:
        if act.kind == "level":
            level = act.named
            pressed = act.facts.get("trigger", "") if act.cause == Cause.PRESSED else pressed if level else ""
        elif act.order == _BEGINS:
            on[act.kind][act.facts["name"]] = act.named
        elif on[act.kind].pop(act.facts["name"], None) is None:
            continue
        before, held = rung, min((level, *on["hold"].values()))
        rung = max((held, *on["engage"].values()))
        yield Step(act.at, before, rung, act.cause, act.named, level, pressed, **act.facts)


def _edge(surface: str, cutoff: datetime) -> datetime:
    """A moment at which triggers had engaged nothing, or before which nothing is known."""
    moves = LadderMove.objects.filter(surface=surface)
    known = moves.aggregate(zero=Max("at", filter=Q(after=OFF, at__lte=cutoff)), first=Min("at"))
    edge: datetime = known["zero"] or known["first"] or cutoff
    return min(edge, cutoff)


def _moved(surface: str, edge: datetime) -> Iterator[_Act]:
    told: dict[int, datetime] = {}
    for move in LadderMove.objects.filter(surface=surface, at__gte=edge).order_by("at", "id"):
        known = told.get(move.generation)
        if known is not None and move.at - known < _SAME_STEP:
            continue
        told[move.generation] = move.at
        facts = {"trigger": move.trigger, "reading": move.reading}
        yield _Act(move.at, _BEGINS, "level", move.cause, move.after, facts)


_OF: Final = f"FROM {SurfaceReading._meta.db_table} WHERE surface = %(surface)s AND NOT is_alone"
# Readings of weeks are many, and numbers of steps few. Each number is looked up by itself, when it was read first and
# when last, and only where a higher one was read before a lower one are readings gone through.
_LOST: Final = f"""
WITH RECURSIVE numbers(generation) AS (
    SELECT min(generation) {_OF}
    UNION ALL
    SELECT (SELECT min(generation) {_OF} AND generation > n.generation) FROM numbers n WHERE n.generation IS NOT NULL
), seen AS (
    SELECT generation,
        (SELECT min(bucket_at) {_OF} AND generation = n.generation AND bucket_at >= %(edge)s) AS first,
        (SELECT max(bucket_at) {_OF} AND generation = n.generation AND bucket_at >= %(edge)s) AS last
    FROM numbers n WHERE generation IS NOT NULL
), higher AS (
    SELECT last, min(first) OVER (ORDER BY generation ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING) AS first
    FROM seen WHERE last IS NOT NULL
), mixed AS MATERIALIZED (
    SELECT min(first) AS first, max(last) AS last FROM higher WHERE first < last
)
SELECT bucket_at, level FROM (
    SELECT bucket_at, max(level) AS level, max(generation) AS generation,
        lag(max(generation)) OVER (ORDER BY bucket_at) AS before
    {_OF} AND bucket_at >= (SELECT first FROM mixed) AND bucket_at <= (SELECT last FROM mixed) GROUP BY bucket_at
) t WHERE generation < before ORDER BY bucket_at
"""  # noqa: S608 - every name in it is a constant of ours; the values are parameters


def _forgotten(surface: str, edge: datetime) -> Iterator[_Act]:
    """Where the steps of a fleet began to be counted anew: its store and all its workers were gone."""
    with connection.cursor() as cursor:
        cursor.execute(_LOST, {"surface": surface, "edge": edge})
        for at, level in cursor.fetchall():
            yield _Act(at, _BEGINS, "level", FORGOTTEN, level, {})


def _by_hand(surface: str, edge: datetime, *, now: datetime) -> Iterator[_Act]:
    rows = RungActivation.objects.filter(surface=surface, at__gte=edge - MAX_ACTIVATION)
    newer: dict[tuple[Any, ...], RungActivation] = {}
    for row in rows.select_related("stood_down").order_by("-id"):
        scope = (row.mode, tuple(row.regions), tuple(row.tiers))
        replaced = newer.get(scope)
        newer[scope] = row
        is_hold = row.mode == RungMode.HOLD
        facts = {
            "name": row.name,
            "by": row.actor,
            "reason": row.reason,
            "regions": tuple(row.regions),
            "tiers": tuple(row.tiers),
        }
        # Only a hold for everybody holds the ladder itself; see `dataplane.ladder.activations.Activation.holds_all`.
        named = row.rung
        kind = "engage" if not is_hold else "hold" if not row.regions and not row.tiers else ""
        if not kind:
            continue
        yield _Act(row.since, _BEGINS, kind, HOLD_BEGUN if is_hold else ENGAGED, named, facts)
        ends = [(row.until, HOLD_ENDED if is_hold else ENDED, facts)]
        if row.is_stood_down:
            ended = row.stood_down
            said = facts | {"by": ended.actor, "reason": ended.reason}
            ends.append((ended.at, HOLD_ENDED if is_hold else STOOD_DOWN, said))
        if replaced is not None:
            ends.append((replaced.since, HOLD_ENDED if is_hold else REPLACED, facts))
        at, cause, facts = min(ends, key=lambda one: one[0])
        if at <= now:
            yield _Act(at, _ENDS, kind, cause, named, facts)


def _ordered(surface: str, edge: datetime, *, now: datetime) -> Iterator[_Act]:
    for order in LadderOrder.objects.filter(surface=surface, at__gte=edge - MAX_ACTIVATION).order_by("at", "name"):
        facts = {"name": order.name, "by": order.by, "reason": order.reason}
        yield _Act(order.at, _BEGINS, "engage", ORDERED, order.rung, facts)
        is_seen = order.last_seen_at + _UNSEEN >= now
        ended = order.until if is_seen else min(order.until, order.last_seen_at + BUCKET)
        if ended <= now:
            yield _Act(ended, _ENDS, "engage", ORDER_ENDED, order.rung, facts)


def stretches(
    steps: Iterable[Step], *, since: datetime, until: datetime
) -> Iterator[tuple[Step | None, datetime, datetime]]:
    """The step that led to what stood, from when until when, in [since, until), oldest first; None before the first."""
    last, begun = None, since
    for step in steps:
        if step.at >= until:
            break
        if step.at > begun:
            yield last, begun, step.at
            begun = step.at
        last = step
    if until > begun:
        yield last, begun, until
