"""What the page of retries shows: how often requests were tried and what that cost, whose, where, when and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final

from controlplane.console.charts import Figure, Series, line_chart
from controlplane.console.templatetags.ballast import NO_VALUE, micros
from controlplane.ledger.multipliers import Repetition
from controlplane.ledger.totals import Counted

# Where a worker of an older version did not tell what an attempt was made for.
NOT_TOLD: Final = "not told"


@dataclass(frozen=True, slots=True)
class Line:
    """One tenant or lane, set against its requests, or its arrivals: see `multipliers.Repetition`."""

    name: str
    figures: Repetition
    by_arrival: bool

    @property
    def base(self) -> int:
        return self.figures.arrivals if self.by_arrival else self.figures.requests

    @property
    def multiplier(self) -> float | None:
        return _multiplier(self.figures, by_arrival=self.by_arrival)


@dataclass(frozen=True, slots=True)
class Cause:
    """What extra attempts were made for: their number, and their share of all of them in percent."""

    name: str
    extra: int
    percent: float


@dataclass(frozen=True, slots=True)
class Retries:
    """The whole page; tenants and lanes with the dearest first.

    `by_arrival`: attempts are set against arrivals, because they are those of one lane, where few requests begin.
    """

    total: Repetition
    by_arrival: bool
    tenants: tuple[Line, ...]
    lanes: tuple[Line, ...]
    causes: tuple[Cause, ...]
    chart: Figure

    @property
    def unit(self) -> str:
        return _unit(self.by_arrival)

    @property
    def sentence(self) -> str:
        """What it comes to, in words."""
        total = self.total
        if not total.attempts:
            return "No attempts in this period"
        if not total.extra:
            return "No request needed a second attempt in this period"
        first = self.causes[0]
        said = f"{_percent(total.extra / total.attempts * 100)} of all attempts were not the first of their request"
        if first.name != NOT_TOLD:
            said += f", {_percent(first.percent)} of those because of {first.name}"
        if total.failed_cost_micros:
            said += (
                f"; {micros(total.failed_cost_micros)} of {micros(total.cost_micros)} was paid for attempts that failed"
            )
        return said

    @property
    def tone(self) -> str:
        return "off" if not self.total.attempts else "watch" if self.total.extra else "good"

    @property
    def tiles(self) -> list[dict[str, str]]:
        """The figures of the whole period, as `components/_metric.html` takes them."""
        total = self.total
        base = total.arrivals if self.by_arrival else total.requests
        return [
            {
                "label": f"Attempts per {self.unit}",
                "value": ratio(_multiplier(total, by_arrival=self.by_arrival)),
                "unit": "×",
                "note": f"{total.attempts:,} for {base:,} {self.unit}s",
            },
            {
                "label": "Cost multiplier",
                "value": ratio(total.cost_multiplier),
                "unit": "×",
                "note": f"{micros(total.cost_micros)} for all attempts",
            },
            {
                "label": "Same lane again",
                "value": f"{total.retries:,}",
                "unit": "",
                "note": f"{total.caught:,} more on another lane",
            },
            {
                "label": "Paid for failures",
                "value": micros(total.failed_cost_micros),
                "unit": "",
                "note": f"for {total.failed:,} attempts that failed",
            },
        ]


def retries_of(counted: Counted, *, first: date, until: date, by_arrival: bool) -> Retries:
    """Read all of it, in four queries.

    Args:
        counted: What the reader may see and asked for, in [first, until).
        by_arrival: They are those of one lane.
    """
    tenants = _lines(counted.tenants.repetition_by("tenant"), "tenant", by_arrival=by_arrival)
    total = sum((line.figures for line in tenants), Repetition())
    by_day = {row["day"]: _repetition(row) for row in counted.days.repetition_by("day")}
    return Retries(
        total=total,
        by_arrival=by_arrival,
        tenants=tenants,
        lanes=_lines(counted.lanes.repetition_by("lane"), "lane", by_arrival=True),
        causes=_causes(list(counted.lanes.extra_by_cause())),
        chart=_chart(by_day, first=first, until=until, by_arrival=by_arrival),
    )


def ratio(value: float | None) -> str:
    """A multiplier for reading."""
    return NO_VALUE if value is None else f"{value:,.2f}"


def _repetition(row: Mapping[str, Any]) -> Repetition:
    return Repetition(**{name: row[name] for name in Repetition.__dataclass_fields__})


def _multiplier(figures: Repetition, *, by_arrival: bool) -> float | None:
    return figures.attempts_per_arrival if by_arrival else figures.attempts_per_request


def _unit(by_arrival: bool) -> str:
    return "arrival" if by_arrival else "request"


def _lines(rows: Any, name: str, *, by_arrival: bool) -> tuple[Line, ...]:
    lines = [Line(row[name], _repetition(row), by_arrival) for row in rows]
    return tuple(sorted(lines, key=lambda line: (-line.figures.cost_micros, line.name)))


def _causes(rows: Sequence[Mapping[str, Any]]) -> tuple[Cause, ...]:
    extra = sum(row["extra"] for row in rows)
    return tuple(Cause(row["cause"] or NOT_TOLD, row["extra"], row["extra"] / extra * 100) for row in rows)


def _percent(value: float) -> str:
    return f"{value:.0f} %" if value >= 10 else f"{value:.1f} %"


def _chart(by_day: Mapping[date, Repetition], *, first: date, until: date, by_arrival: bool) -> Figure:
    # Every day has its place, so that one without an attempt is a gap and no bridge.
    days = [first + timedelta(days=number) for number in range((until - first).days)]
    found = [by_day.get(day, Repetition()) for day in days]
    return line_chart(
        "Attempts and cost, per day",
        "×",
        [
            Series(
                f"attempts per {_unit(by_arrival)}",
                "other",
                days,
                [_rounded(_multiplier(one, by_arrival=by_arrival)) for one in found],
            ),
            Series("cost multiplier", "other", days, [_rounded(one.cost_multiplier) for one in found]),
        ],
        span=(first, until - timedelta(days=1)),
    )


def _rounded(value: float | None) -> float | None:
    """To four digits, as the chart's table shows it; None stays a gap."""
    return None if value is None else round(value, 4)
