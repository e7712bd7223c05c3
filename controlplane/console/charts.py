"""Figures for the console's charts, built on the server and drawn by `static/js/charts.js`.

A figure says what is shown and in which role; how it looks comes from one template per theme, which the browser reads
from `static/js/chart-templates.json`. After a change to `templates()`:
`python -m controlplane.console.charts > static/js/chart-templates.json`.

Plotly's own classes check every value as they are built, which takes 14 ms for one chart and 0.2 s for a canary's page.
So figures are plain dicts here, and `tests/console/test_charts.py` holds each kind of them against those classes.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import groupby
from math import log10
from typing import Any, Literal

Role = Literal["canary", "control", "other"]
Figure = dict[str, Any]

CANARY, CONTROL = "#E69F00", "#0072B2"
MAX_SERIES = 6
# The share of a chart's width on which the words of a moment would stick out, were they centred.
_NEAR_EDGE = 0.15
# After canary and control: the rest of the Okabe-Ito set, safe for colour-blind eyes.
COLORWAY = ["#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8F7EE7", "#7A828E"]


@dataclass(frozen=True, slots=True)
class Series:
    """One line. `ys` holds None where nothing was measured; `lows` and `highs` (as long, or none) bound it. `xs` are
    moments, or whole days, which are the same days in every zone.
    """

    name: str
    role: Role
    xs: Sequence[date]
    ys: Sequence[float | None]
    lows: Sequence[float | None] = ()
    highs: Sequence[float | None] = ()


@dataclass(frozen=True, slots=True)
class Threshold:
    """A horizontal line with its words, such as 'guardrail 2 %'."""

    value: float
    label: str


@dataclass(frozen=True, slots=True)
class Moment:
    """A vertical line with its words, such as a release ('r128') or an incident."""

    at: datetime
    label: str
    kind: Literal["release", "incident"] = "release"


class TooManySeries(ValueError):
    """A chart was asked to show more lines than a reader can tell apart."""

    code = "too_many_series"

    def __init__(self, title: str, count: int) -> None:
        super().__init__(f"chart {title!r} has {count} series, at most {MAX_SERIES}; fold the rest into one")


def line_chart(
    title: str,
    unit: str,
    series: Sequence[Series],
    *,
    thresholds: Sequence[Threshold] = (),
    moments: Sequence[Moment] = (),
    span: tuple[date, date] | None = None,
    log_scale: bool = False,
    minimum_points: int = 2,
) -> Figure:
    """Build a time chart.

    Args:
        unit: Of the y axis, as its title shows it: 'ms', '%', 'requests/s'.
        span: The range of x, the same on every chart of a page; without it the data decide.
        log_scale: For latency only; every other chart starts at zero.
        minimum_points: Below this many measured points in its fullest series the chart says how many are missing.
    Raises:
        TooManySeries: more than six.
    Shape: {"data": [trace], "layout": {…, "meta": {"unit", "title", "empty": str, "minimum_points": int}}}.
        Times are ISO-8601 with their offset, and the browser shows its own zone; days are without.
    """
    if len(series) > MAX_SERIES:
        raise TooManySeries(title, len(series))
    traces: list[dict[str, Any]] = []
    others = iter(COLORWAY)
    written: dict[int, list[str]] = {}  # by the object: series mostly share their times, and writing one takes a while
    for one in series:
        color = {"canary": CANARY, "control": CONTROL}.get(one.role) or next(others)
        if id(one.xs) not in written:
            written[id(one.xs)] = [_iso(at) for at in one.xs]
        xs = written[id(one.xs)]
        if one.lows and one.highs:
            traces += _band(one, xs, color)
        traces.append(
            {
                "type": "scatter",
                "name": one.name,
                "x": xs,
                "y": list(one.ys),
                "mode": "lines",
                "connectgaps": False,
                "line": {"color": color, "width": 2, "dash": "solid"},
                "hovertemplate": f"%{{y}} {unit}<extra>{one.name}</extra>",
                "meta": {"role": one.role},
            }
        )
    edges = span or _edges(series)
    # Without a template: the browser lays the theme's own over it.
    layout: dict[str, Any] = {
        "yaxis": {
            "title": {"text": unit},
            "type": "log" if log_scale else "linear",
            "rangemode": "normal" if log_scale else "tozero",
        },
        "meta": {
            "unit": unit,
            "title": title,
            "empty": _missing(series, minimum_points),
            "minimum_points": minimum_points,
        },
        "shapes": [_horizontal(line) for line in thresholds] + [_vertical(moment) for moment in moments],
        "annotations": [_threshold_words(line, log_scale=log_scale) for line in thresholds]
        + [_moment_words(one, edges) for one in moments],
    }
    x_axis: dict[str, Any] = {}
    if any(not isinstance(at, datetime) for one in series for at in one.xs[:1]):
        x_axis["hoverformat"] = "%-d %b %Y"
    if span:
        x_axis["range"] = [_iso(span[0]), _iso(span[1])]
    if x_axis:
        layout["xaxis"] = x_axis
    return {"data": traces, "layout": layout}


def with_gaps(
    xs: Sequence[datetime], ys: Sequence[float | None], *, step: timedelta
) -> tuple[list[datetime], list[float | None]]:
    """Put a None where neighbours are more than 1.5 steps apart, so that a gap in measuring is a gap in the line."""
    filled_xs: list[datetime] = []
    filled_ys: list[float | None] = []
    for at, value in zip(xs, ys, strict=True):
        if filled_xs and at - filled_xs[-1] > 1.5 * step:
            filled_xs.append(filled_xs[-1] + step)
            filled_ys.append(None)
        filled_xs.append(at)
        filled_ys.append(value)
    return filled_xs, filled_ys


def templates() -> dict[str, dict[str, Any]]:
    """The one Plotly template per theme, by the theme's name; `meta` holds the colours of lines that mark something."""
    return {
        "light": _template(
            ink="#17191e",
            quiet="#5d6470",
            line="#e4e6ea",
            surface="#ffffff",
            threshold="#a3241b",
            release="#5d6470",
            incident="#a3241b",
        ),
        "dark": _template(
            ink="#eceef1",
            quiet="#98a0ac",
            line="#272b31",
            surface="#1b1e23",
            threshold="#ff9a90",
            release="#98a0ac",
            incident="#ff9a90",
        ),
    }


def _template(
    *, ink: str, quiet: str, line: str, surface: str, threshold: str, release: str, incident: str
) -> dict[str, Any]:
    import plotly.graph_objects as go  # heavy, and only the command named at the top of this file comes here

    font = {"family": "Inter Variable, system-ui, sans-serif", "size": 12, "color": quiet}
    axis = {
        "gridcolor": line,
        "linecolor": line,
        "zerolinecolor": line,
        "tickfont": font,
        "automargin": True,
        "ticks": "",
    }
    layout = go.layout.Template(
        layout={
            "font": font,
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "colorway": COLORWAY,
            "showlegend": False,
            "hovermode": "x unified",
            "hoverdistance": 40,
            "hoverlabel": {"bgcolor": surface, "bordercolor": line, "font": {**font, "color": ink}, "align": "left"},
            "margin": {"l": 48, "r": 12, "t": 18, "b": 28},
            "xaxis": {
                **axis,
                "type": "date",
                "showgrid": False,
                "nticks": 6,
                "showspikes": True,
                "spikethickness": 1,
                "spikedash": "solid",
                "spikecolor": quiet,
                "spikemode": "across",
                "ticklabelstandoff": 4,
                "hoverformat": "%H:%M:%S",
            },
            "yaxis": {
                **axis,
                "ticklabelstandoff": 6,
                "nticks": 5,
                "fixedrange": True,
                "title": {"font": font, "standoff": 8},
            },
            "dragmode": "zoom",
            "uirevision": "kept",
            "meta": {"threshold": threshold, "release": release, "incident": incident, "ink": ink},
        }
    )
    shape: dict[str, Any] = json.loads(json.dumps(layout.to_plotly_json(), default=list))
    return shape


def _missing(series: Sequence[Series], minimum_points: int) -> str:
    """What the chart says instead of a line that would mean nothing; empty when there is enough."""
    fullest = max((sum(value is not None for value in one.ys) for one in series), default=0)
    if fullest >= minimum_points:
        return ""
    if not fullest:
        needed = "1 point is" if minimum_points == 1 else f"{minimum_points} points are"
        return f"No data yet: {needed} needed to draw a line"
    return f"{fullest} of {minimum_points} points so far: {minimum_points - fullest} more to draw a line"


def _band(one: Series, xs: list[str], color: str) -> list[dict[str, Any]]:
    """The interval of a series: per unbroken run, two invisible edges with the space between them filled."""
    red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    edge = {
        "type": "scatter",
        "mode": "lines",
        "line": {"width": 0, "color": color},
        "hoverinfo": "skip",
        "showlegend": False,
        "meta": {"role": "band"},
    }
    known = [(x, low, high) for x, low, high in zip(xs, one.lows, one.highs, strict=True)]
    traces: list[dict[str, Any]] = []
    # Plotly fills across a None, which would paint certainty over a gap; so each run is a pair of its own.
    for measured, run in groupby(known, key=lambda point: point[1] is not None and point[2] is not None):
        if not measured:
            continue
        run_xs, lows, highs = (list(column) for column in zip(*run, strict=True))
        filled = {"fill": "tonexty", "fillcolor": f"rgba({red},{green},{blue},0.16)"}
        traces.append({**edge, "name": f"{one.name}, low", "x": run_xs, "y": lows})
        traces.append({**edge, **filled, "name": f"{one.name}, high", "x": run_xs, "y": highs})
    return traces


def _iso(at: date) -> str:
    return at.isoformat()


def _horizontal(line: Threshold) -> dict[str, Any]:
    return {
        "type": "line",
        "name": "threshold",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": line.value,
        "y1": line.value,
        "line": {"width": 1, "dash": "dash"},
    }


def _vertical(moment: Moment) -> dict[str, Any]:
    at = _iso(moment.at)
    return {
        "type": "line",
        "name": moment.kind,
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "x0": at,
        "x1": at,
        "line": {"width": 1, "dash": "dot"},
    }


def _threshold_words(line: Threshold, *, log_scale: bool) -> dict[str, Any]:
    # An annotation on a log axis is placed by the exponent, a shape by the value.
    return {
        "name": "threshold",
        "text": line.label,
        "showarrow": False,
        "xref": "paper",
        "x": 1,
        "xanchor": "right",
        "yanchor": "bottom",
        "y": log10(line.value) if log_scale else line.value,
        "font": {"size": 11},
    }


def _moment_words(moment: Moment, edges: tuple[date, date] | None) -> dict[str, Any]:
    return {
        "name": moment.kind,
        "text": moment.label,
        "showarrow": False,
        "yref": "paper",
        "y": 1,
        "yanchor": "bottom",
        "x": _iso(moment.at),
        "xanchor": _side(moment.at, edges),
        "font": {"size": 11},
    }


def _edges(series: Sequence[Series]) -> tuple[date, date] | None:
    """What the data make the range of x; None: there is nothing to draw."""
    ends = [at for one in series if one.xs for at in (one.xs[0], one.xs[-1])]
    return (min(ends, key=_moment), max(ends, key=_moment)) if ends else None


def _side(at: datetime, edges: tuple[date, date] | None) -> Literal["left", "center", "right"]:
    """Which end of a moment's words stands at its line: near an edge of the chart they begin or end there, since what
    sticks out would be cut.
    """
    if edges is None:
        return "center"
    first, last = _moment(edges[0]), _moment(edges[1])
    if at > last - _NEAR_EDGE * (last - first):
        return "right"
    return "left" if at < first + _NEAR_EDGE * (last - first) else "center"


def _moment(at: date) -> datetime:
    """The moment itself, or the beginning of a whole day."""
    return at if isinstance(at, datetime) else datetime.combine(at, time(), UTC)


if __name__ == "__main__":
    print(json.dumps(templates(), indent=1, sort_keys=True))  # the command named at the top of this file
