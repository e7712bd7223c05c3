"""What the page of drift shows: what was billed of streams, and how much of that came to their readers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from datetime import date, timedelta
from typing import Any

from controlplane.console.charts import Figure, Series, line_chart
from controlplane.console.stream_content import Bar, bars
from controlplane.console.templatetags.ballast import NO_VALUE, compact, micros
from controlplane.ledger.figures import WORDS, Figures
from controlplane.ledger.stream_rows import StreamDayQuerySet


@dataclass(frozen=True, slots=True)
class Sums:
    """What some streams come to; costs are in millionths of a US dollar."""

    streams: int = 0
    resumed: int = 0
    drifted: int = 0
    figures: Figures = field(default_factory=lambda: Figures(0, 0, 0, 0, 0))
    cost_micros: int = 0
    refund_micros: int = 0

    def __add__(self, other: Sums) -> Sums:
        added = (one + two for one, two in zip(astuple(self.figures), astuple(other.figures), strict=True))
        return Sums(
            self.streams + other.streams,
            self.resumed + other.resumed,
            self.drifted + other.drifted,
            Figures(*added),
            self.cost_micros + other.cost_micros,
            self.refund_micros + other.refund_micros,
        )

    @property
    def bars(self) -> tuple[Bar, ...]:
        return bars(self.figures)

    @property
    def delivered_percent(self) -> float | None:
        """Of what was billed; None where nothing was."""
        return _percent(self.figures.delivered, self.figures.billed)

    @property
    def acked_percent(self) -> float | None:
        """Of what was billed; None where nothing was."""
        return _percent(self.figures.acked, self.figures.billed)


@dataclass(frozen=True, slots=True)
class Group:
    """The streams of one tenant, route or outcome."""

    name: str
    sums: Sums


@dataclass(frozen=True, slots=True)
class Drift:
    """The whole page; tenants and routes with the dearest first."""

    total: Sums
    tenants: tuple[Group, ...]
    routes: tuple[Group, ...]
    outcomes: tuple[Group, ...]
    chart: Figure

    @property
    def sentence(self) -> str:
        """What it comes to, in words."""
        total = self.total
        if not total.streams:
            return "No stream has ended in this period"
        counted = f"{total.drifted:,} of {total.streams:,} streams"
        if total.drifted:
            return f"{counted} {'has' if total.drifted == 1 else 'have'} figures that do not add up: look at them first"
        said = f"The figures of all {total.streams:,} streams add up"
        if total.delivered_percent is not None:
            said += f"; {_words(total.delivered_percent)} of the billed tokens were delivered"
        if total.refund_micros:
            said += f", {micros(total.refund_micros)} of {micros(total.cost_micros)} is given back"
        return said

    @property
    def tone(self) -> str:
        return "off" if not self.total.streams else "bad" if self.total.drifted else "good"

    @property
    def tiles(self) -> list[dict[str, str]]:
        """The figures of the whole period, as `components/_metric.html` takes them."""
        total = self.total
        back = total.resumed
        return [
            {
                "label": "Billed",
                "value": compact(total.figures.billed),
                "unit": "tokens",
                "note": f"{total.streams:,} stream{'' if total.streams == 1 else 's'}, {micros(total.cost_micros)}",
            },
            {
                "label": "Delivered",
                "value": _number(total.delivered_percent),
                "unit": "%",
                "note": f"{compact(total.figures.delivered)} tokens; {back:,} came back to",
            },
            {
                "label": "Acknowledged",
                "value": _number(total.acked_percent),
                "unit": "%",
                "note": f"{compact(total.figures.acked)} tokens",
            },
            {
                "label": "Given back",
                "value": micros(total.refund_micros),
                "unit": "",
                "note": f"of {micros(total.cost_micros)}",
            },
        ]


def drift_of(rows: StreamDayQuerySet, *, first: date, until: date) -> Drift:
    """Read all of it, in four queries.

    Args:
        rows: What the reader may see and asked for, in [first, until).
    """
    outcomes = _groups(rows, "outcome")
    return Drift(
        total=sum((group.sums for group in outcomes), Sums()),
        tenants=_groups(rows, "tenant"),
        routes=_groups(rows, "route"),
        outcomes=outcomes,
        chart=_chart({row["day"]: _sums(row).figures for row in rows.sums_by("day")}, first=first, until=until),
    )


def _groups(rows: StreamDayQuerySet, name: Any) -> tuple[Group, ...]:
    groups = [Group(row[name], _sums(row)) for row in rows.sums_by(name)]
    return tuple(sorted(groups, key=lambda group: (-group.sums.cost_micros, group.name)))


def _sums(row: Mapping[str, Any]) -> Sums:
    return Sums(
        row["streams"],
        row["resumed"],
        row["drifted"],
        Figures(**{name: row[f"{name}_tokens"] for name in WORDS}),
        row["cost_micros"],
        row["refund_micros"],
    )


def _percent(part: int, whole: int) -> float | None:
    return part / whole * 100 if whole else None


def _number(percent: float | None) -> str:
    return NO_VALUE if percent is None else f"{percent:.1f}"


def _words(percent: float) -> str:
    # Never "100 %" of what is not all of it.
    return f"{min(percent, 99.9):.1f} %" if percent < 100 else f"{percent:.0f} %"


def _chart(by_day: Mapping[date, Figures], *, first: date, until: date) -> Figure:
    # Every day has its place, so that one without a stream is a gap and no bridge.
    days = [first + timedelta(days=number) for number in range((until - first).days)]
    found = [by_day.get(day) for day in days]
    return line_chart(
        "Output tokens of streams, per day",
        "tokens",
        [
            Series(word, "other", days, [None if one is None else getattr(one, name) for one in found])
            for name, word in WORDS.items()
        ],
        span=(first, until - timedelta(days=1)),
    )
