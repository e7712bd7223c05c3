"""What a drill teaches: another value for each threshold that was guessed and that the drill has measured. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from math import ceil, floor, log10
from typing import Any, Final

from controlplane.routing.leaving import touched_routes
from controlplane.routing.models import Drill
from controlplane.routing.thresholds import BREAKER, ROUTE, Owner, with_thresholds
from controlplane.versioned.numbers import NewValue
from dataplane.documents import MalformedRelease
from dataplane.routing import RoutingTable

# Under so many requests, attempts or streams nothing is concluded.
ENOUGH: Final = 100
# A number that was measured is looked at again after so long: providers change their models.
VALID: Final = timedelta(days=180)
_WHILE_IT_RAN: Final = "while it ran"


@dataclass(frozen=True, slots=True)
class Rule:
    """How a threshold follows from a measure.

    Attributes:
        measure: Key of the figures of a lane.
        words: The measure as people say it, with its unit.
        factor: The measured value times this is the threshold.
        unit: What the measure is divided by to be in the threshold's unit.
        is_floor: The threshold is a lower limit: the slowest lane gives the smallest value, and it is rounded down.
    """

    measure: str
    words: str
    factor: float
    unit: float = 1
    is_floor: bool = False

    @property
    def sentence(self) -> str:
        return f"{self.factor:g} × the {self.words}"


# A breaker's limit has to be beyond what a good lane does under load, and a time-out well beyond it: who is cut off
# has waited for nothing.
RULES: Final[Mapping[tuple[str, str], Rule]] = {
    (BREAKER, "latency_p95_ms"): Rule("latency_p95_ms", "p95 latency", 1.5),
    (BREAKER, "ttft_p95_ms"): Rule("ttft_p95_ms", "p95 time to the first token", 1.5),
    (BREAKER, "drain_tokens_per_second"): Rule("drain_tps_p5", "p5 stream speed", 0.5, is_floor=True),
    (ROUTE, "first_token_seconds"): Rule("ttft_p95_ms", "p95 time to the first token", 3, unit=1000),
    (ROUTE, "whole_answer_seconds"): Rule("latency_p95_ms", "p95 latency", 3, unit=1000),
}


@dataclass(frozen=True, slots=True)
class Observation:
    """What one lane did: `period` is 'while it ran', or 'before it' for a lane that the drill left."""

    lane: str
    value: float
    n: int
    period: str


@dataclass(frozen=True, slots=True)
class Lesson:
    """Another value for one threshold; `worst` is the lane whose figure it follows from."""

    kind: str
    slug: str
    name: str
    before: float
    after: float
    rule: Rule
    worst: Observation
    lanes: int

    def note(self, drill: Drill) -> str:
        """What the provenance says of it."""
        unit = "tokens/s" if self.rule.is_floor else "ms"
        worst, others = self.worst, self.lanes - 1
        slowest = f"the slowest of {self.lanes} lanes" if others else "the only lane with enough traffic"
        return (
            f"{drill}, leaving {drill.subject} for {drill.minutes} min: {self.rule.sentence}, which was "
            f"{worst.value:,.4g} {unit} over {worst.n:,} on {worst.lane} {worst.period}, {slowest}"
        )


def lessons(table: RoutingTable, drill: Drill, figures: Mapping[str, Any]) -> list[Lesson]:
    """What the drill says about guesses of `table`: breaker policies and routes of the lanes that took over.

    A policy is for all its lanes, also for those that were left, so these count with what they did before; a limit that
    only suits the others would open them as soon as they are back.

    Args:
        figures: As `controlplane.telemetry.drills.measure` gives them.
    """
    routes = touched_routes(table, drill.lane_ids)
    touched = {lane.id for route in routes for lane in route.lanes}
    measured = {row["lane"]: row for row in figures["lanes"]}
    took_over = {lane for lane, row in measured.items() if lane in touched and not row["is_left"]}
    found: list[Lesson] = []
    for slug, policy in table.breakers.items():
        users = {lane.id for lane in table.lanes.values() if lane.breaker is not None and lane.breaker.slug == slug}
        if users & took_over:
            found += _lessons_of(BREAKER, slug, policy, [measured[lane] for lane in users if lane in measured])
    for route in routes:
        users = {lane.id for lane in route.lanes}
        if users & took_over:
            found += _lessons_of(ROUTE, route.slug, route, [measured[lane] for lane in users if lane in measured])
    return found


def _lessons_of(kind: str, slug: str, owner: Owner, rows: Iterable[Mapping[str, Any]]) -> Iterator[Lesson]:
    rows = list(rows)
    for name, threshold in owner.thresholds().items():
        rule = RULES.get((kind, name))
        if rule is None or not threshold.provenance.is_guess:
            continue
        observed = [one for row in rows if (one := _observed(row, rule)) is not None]
        if not any(one.period == _WHILE_IT_RAN for one in observed):
            continue
        pick = min if rule.is_floor else max
        worst = pick(observed, key=lambda one: one.value)
        after = _rounded(worst.value * rule.factor / rule.unit, down=rule.is_floor)
        if after != threshold.value:
            yield Lesson(kind, slug, name, threshold.value, after, rule, worst, len(observed))


def _observed(row: Mapping[str, Any], rule: Rule) -> Observation | None:
    figure = row["before" if row["is_left"] else "during"][rule.measure]
    if figure["value"] is None or figure["n"] < ENOUGH:
        return None
    period = "before it" if row["is_left"] else _WHILE_IT_RAN
    return Observation(row["lane"], figure["value"], figure["n"], period)


def _rounded(value: float, *, down: bool) -> float:
    """To two digits, away from what was measured."""
    step = 10.0 ** (floor(log10(value)) - 1) if value > 0 else 1.0
    steps = floor(value / step + 1e-9) if down else ceil(value / step - 1e-9)
    return float(f"{steps * step:.6g}")


def with_lessons(
    document: Mapping[str, Any], learned: Iterable[Lesson], drill: Drill, *, author: str, on: date
) -> dict[str, Any]:
    """A copy of a routing document in which these values stand in the place of the guesses, measured by the drill."""
    changed = dict(document)
    for one in learned:
        new = NewValue(one.after, "load_test", one.note(drill), drill.get_absolute_url(), on + VALID)
        changed = with_thresholds(changed, one.kind, one.slug, {one.name: new.to_json(author=author, on=on)})
    return changed


def servable(document: Mapping[str, Any], learned: Iterable[Lesson], drill: Drill, *, on: date) -> list[Lesson]:
    """Those of the lessons whose value is in range: whatever the workers' parser would refuse is not proposed."""
    kept = []
    for one in learned:
        try:
            RoutingTable.parse(with_lessons(document, [one], drill, author="-", on=on))
        except MalformedRelease:
            continue
        kept.append(one)
    return kept
