"""Figures follow the chart rules before a browser ever sees them."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import plotly.graph_objects as go
import pytest

from controlplane.console import charts

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
STEP = timedelta(seconds=10)
MANY = [START + STEP * at for at in range(40)]


def line(name: str = "canary v13", role: charts.Role = "canary", count: int = 40) -> charts.Series:
    return charts.Series(name, role, MANY[:count], [1.0] * count)


def test_canary_and_control_keep_their_colours():
    """Orange is the canary and blue is control, whatever else is in the chart."""
    figure = charts.line_chart("Errors", "%", [line(), line("control v12", "control"), line("other", "other")])

    assert [trace["line"]["color"] for trace in figure["data"][:2]] == ["#E69F00", "#0072B2"]


def test_axis_starts_at_zero_and_names_its_unit():
    """No chart exaggerates by cutting the axis, and each says what it counts."""
    axis = charts.line_chart("Latency p95", "ms", [line()])["layout"]["yaxis"]

    assert (axis["rangemode"], axis["title"]["text"]) == ("tozero", "ms")


def test_more_than_six_series_are_refused():
    """Seven lines are refused by name, not drawn."""
    with pytest.raises(charts.TooManySeries, match="has 7 series, at most 6"):
        charts.line_chart("Lanes", "%", [line(str(at), "other") for at in range(7)])


def test_missing_bucket_becomes_a_gap():
    """A bucket nobody measured breaks the line instead of being bridged."""
    xs, ys = charts.with_gaps([START, START + STEP, START + 5 * STEP], [1.0, 2.0, 3.0], step=STEP)

    assert ys == [1.0, 2.0, None, 3.0]
    assert xs[2] == START + 2 * STEP


def test_interval_band_does_not_span_a_gap():
    """Each unbroken run has a band of its own, so that no certainty is painted over a gap."""
    lows, highs = [0.0, 0.0, None, 0.0, 0.0], [2.0, 2.0, None, 2.0, 2.0]

    figure = charts.line_chart(
        "Errors", "%", [charts.Series("canary", "canary", MANY[:5], [1, 1, None, 1, 1], lows, highs)]
    )

    bands = [trace for trace in figure["data"] if trace["meta"]["role"] == "band"]
    assert [len(band["x"]) for band in bands] == [2, 2, 2, 2]


def test_chart_with_too_little_data_says_how_much_is_missing():
    """Three points of thirty are no trend; the chart counts what is left."""
    figure = charts.line_chart("Schema", "%", [line(count=3)], minimum_points=30)

    assert figure["layout"]["meta"]["empty"] == "3 of 30 points so far: 27 more to draw a line"


def test_threshold_on_a_log_axis_is_labelled_where_its_line_is():
    """Plotly places an annotation on a log axis by exponent; label and line must agree."""
    figure = charts.line_chart(
        "Latency", "ms", [line()], thresholds=[charts.Threshold(1000, "limit 1 s")], log_scale=True
    )

    assert figure["layout"]["shapes"][0]["y0"] == 1000
    assert figure["layout"]["annotations"][0]["y"] == pytest.approx(3)


@pytest.mark.parametrize("span", [(START, START + timedelta(minutes=100)), None])
def test_words_of_a_moment_near_an_edge_stand_inside(span):
    """They end at the line of what just happened, and begin at that of what is about to leave the picture."""
    whole = charts.Series("all of it", "other", [START, START + timedelta(minutes=100)], [1.0, 1.0])
    marks = [charts.Moment(START + timedelta(minutes=at), str(at)) for at in (1, 50, 99)]

    figure = charts.line_chart("Lag", "s", [whole], moments=marks, span=span)

    sides = {one["text"]: one["xanchor"] for one in figure["layout"]["annotations"]}
    assert sides == {"1": "left", "50": "center", "99": "right"}


@pytest.mark.parametrize("log_scale", [False, True])
def test_plotly_knows_every_property_of_a_figure(log_scale):
    """A figure of plain dicts is what Plotly's own classes make of it: no misspelt name, no wrong value."""
    lows, highs = [0.5, None, 0.5, 0.5], [2.0, None, 2.0, 2.0]
    measured = charts.Series("canary v13", "canary", MANY[:4], [1, None, 2, 1.5], lows, highs)
    days = charts.Series("days", "other", [START.date(), START.date() + timedelta(days=1)], [1.0, None])
    marks = [charts.Moment(START, "r128"), charts.Moment(MANY[3], "INC-7", "incident")]

    for series, span in (([measured, line("control v12", "control")], (START, MANY[-1])), ([days], None), ([], None)):
        figure = charts.line_chart(
            "Latency",
            "ms",
            series,
            thresholds=[charts.Threshold(2.5, "limit")],
            moments=marks,
            span=span,
            log_scale=log_scale,
        )

        made = go.Figure(figure).to_plotly_json()
        made["layout"].pop("template")
        assert json.loads(json.dumps(made, default=list)) == figure


def test_figures_are_plain_json():
    """What goes into the page survives JSON unchanged."""
    figure = charts.line_chart("Errors", "%", [line()], moments=[charts.Moment(START, "r128")], span=(START, MANY[-1]))

    assert json.loads(json.dumps(figure)) == figure


def test_stored_templates_are_those_of_the_code():
    """The browser's copy of the two themes is the one that `templates()` builds."""
    stored = Path(__file__).parents[2] / "static" / "js" / "chart-templates.json"

    assert json.loads(stored.read_text()) == charts.templates()
