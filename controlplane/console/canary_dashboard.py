"""The canary page's comparison: one row and one chart per measure, canary beside its matched control."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from controlplane.console.charts import Figure, Moment, Series, line_chart
from controlplane.releases.models import Release
from controlplane.rollouts.models import Canary
from controlplane.telemetry.feed import CANARY_WINDOW
from controlplane.telemetry.measures import BY_KEY, MEASURES, Measure
from controlplane.telemetry.traffic import ARMS, Comparison, compare

# Minutes on offer. The first is the window of the live messages, so that what they bring fits what the page shows.
RANGES: Final = {int(CANARY_WINDOW.total_seconds() // 60): "15 min", 60: "1 h", 360: "6 h", 1440: "24 h"}
# Figures of a whole arm, not of one answer: canary and control differ by design in how many users they have.
_NOT_COMPARED: Final = frozenset({"requests", "requests_per_second", "attempts", "cost_per_hour_usd"})
# Totals have no line; what says something of lanes, not of words, stands in the table: charts take the page its time.
_NOT_DRAWN: Final = frozenset({"requests", "attempts", "failure_rate", "timeout_rate", "throttle_rate", "drain_tps_p5"})
_DIGITS: Final = {
    "USD/request": 6,
    "USD/h": 2,
    "%": 2,
    "requests/s": 2,
    "ms": 0,
    "requests": 0,
    "attempts": 0,
    "tokens/request": 1,
    "tokens/s": 1,
}
_MOST_RELEASES: Final = 6
# (measure, label, unit, factor on top of the measure's own scale, digits): what decides whether a canary may go on.
_TILES: Final = (
    ("error_rate", "Error rate", "%", 1, 2),
    ("latency_p95_ms", "Latency p95", "ms", 1, 0),
    ("ttft_p95_ms", "Time to first token p95", "ms", 1, 0),
    ("cost_per_request_usd", "Cost per 1,000 requests", "USD", 1000, 2),
    ("schema_pass_rate", "Schema pass rate", "%", 1, 2),
    ("refusal_rate", "Refusal rate", "%", 1, 2),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One measure of both arms, formatted; `scale` and `digits` let the browser format live values the same way."""

    key: str
    label: str
    unit: str
    scale: float
    digits: int
    compared: bool
    canary: str
    control: str
    difference: str
    canary_n: int
    control_n: int


@dataclass(frozen=True, slots=True)
class Tile:
    """One guardrail at a glance, formatted; `points` and `beside` are canary and control over the range."""

    key: str
    label: str
    unit: str
    scale: float
    digits: int
    canary: str
    control: str
    difference: str
    chart_id: str
    points: tuple[float | None, ...]
    beside: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """One measure over time."""

    id: str
    title: str
    unit: str
    figure: Figure


@dataclass(frozen=True, slots=True)
class Dashboard:
    """What the canary page shows of its traffic. `is_live`: the range is the one that live messages cover."""

    tiles: tuple[Tile, ...]
    rows: tuple[Row, ...]
    charts: tuple[Chart, ...]
    is_live: bool
    scope: str


def dashboard(canary: Canary, *, minutes: int, now: datetime) -> Dashboard:
    """Compare the arms of `canary` over the last `minutes`, or over the last that it ran; five queries at most."""
    until = min(canary.ended_at, now) if canary.ended_at else now
    since = until - timedelta(minutes=minutes)
    comparison = compare(canary.slug, since=since, until=until)
    releases = Release.objects.filter(clicked_at__range=(since, until)).only("revision", "clicked_at")
    moments = [Moment(release.clicked_at, f"r{release.revision}") for release in releases[:_MOST_RELEASES]]
    return Dashboard(
        tiles=tuple(_tile(*tile, comparison) for tile in _TILES),
        rows=tuple(_row(measure, comparison) for measure in MEASURES),
        charts=tuple(_chart(measure, comparison, moments) for measure in MEASURES if measure.key not in _NOT_DRAWN),
        is_live=canary.is_running and minutes == next(iter(RANGES)),
        scope=_scope(comparison),
    )


def _tile(key: str, label: str, unit: str, factor: int, digits: int, comparison: Comparison) -> Tile:
    measure = BY_KEY[key]
    scale = measure.scale * factor
    canary, control = (comparison.arms[arm].totals[key].value for arm in ARMS)
    return Tile(
        key=key,
        label=label,
        unit=unit,
        scale=scale,
        digits=digits,
        canary=_plain(canary, scale, digits),
        control=_plain(control, scale, digits),
        difference=_difference(canary, control, scale, digits),
        chart_id=measure.chart_id,
        points=tuple(comparison.values(ARMS[0], key)),
        beside=tuple(comparison.values(ARMS[1], key)),
    )


def _row(measure: Measure, comparison: Comparison) -> Row:
    canary, control = (comparison.arms[arm].totals[measure.key] for arm in ARMS)
    digits = _DIGITS[measure.unit]
    compared = measure.key not in _NOT_COMPARED
    difference = _difference(canary.value, control.value, measure.scale, digits) if compared else "–"
    return Row(
        key=measure.key,
        label=measure.label,
        unit=measure.unit,
        scale=measure.scale,
        digits=digits,
        compared=compared,
        canary=_plain(canary.value, measure.scale, digits),
        control=_plain(control.value, measure.scale, digits),
        difference=difference,
        canary_n=canary.n,
        control_n=control.n,
    )


def _chart(measure: Measure, comparison: Comparison, moments: list[Moment]) -> Chart:
    series = [
        Series(
            arm,
            "canary" if arm == "canary" else "control",
            comparison.times,
            [None if value is None else value * measure.scale for value in comparison.values(arm, measure.key)],
        )
        for arm in ARMS
    ]
    figure = line_chart(measure.label, measure.unit, series, moments=moments, span=(comparison.since, comparison.until))
    return Chart(measure.chart_id, measure.label, measure.unit, figure)


def _scope(comparison: Comparison) -> str:
    """Whom a roll-back touches, as measured."""
    requests = comparison.arms["canary"].totals["requests"].n
    minutes = round((comparison.until - comparison.since).total_seconds() / 60)
    return f"The canary served {requests:,} request{'' if requests == 1 else 's'} in the last {minutes} min."


def _plain(value: float | None, scale: float, digits: int) -> str:
    return "–" if value is None else f"{value * scale:,.{digits}f}"


def _difference(canary: float | None, control: float | None, scale: float, digits: int) -> str:
    return "–" if canary is None or control is None else _signed((canary - control) * scale, digits)


def _signed(value: float, digits: int) -> str:
    text = f"{abs(value):,.{digits}f}"
    if not float(text.replace(",", "")):
        return text
    return f"+{text}" if value > 0 else f"−{text}"
