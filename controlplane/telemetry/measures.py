"""What a dashboard shows of a series, in one table: name, unit, how it follows from counts, and out of how many.

Two things are counted. Requests are what callers see: each counts once, under the lane of its last attempt, and costs
what all its attempts cost. Attempts are what lanes are judged by: each counts under the lane where it was made, and so
do its latency, its time to the first token and the speed of its stream.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from controlplane.telemetry.tally import Tally
from dataplane.sketches import Sketch

# A rate over less time than this says more about when the report came than about the traffic.
MIN_RATE_SECONDS: Final = 2.0


class Figure(NamedTuple):
    """A value and the number of observations behind it. `value` None means no data, which is not zero."""

    value: float | None
    n: int

    def to_json(self) -> dict[str, Any]:
        """Shape: {"value": float or null, "n": int}."""
        return {"value": self.value, "n": self.n}


Figures = Mapping[str, Figure]
Compute = Callable[[Tally, float], Figure]


@dataclass(frozen=True, slots=True)
class Measure:
    """One line of a dashboard.

    Attributes:
        key: Stable; of figures and JSON.
        label: As a person reads it.
        unit: Of the axis of its chart.
        scale: A figure's value times this is what the axis shows: 100 for shares, which are 0..1.
        compute: From a tally and the seconds that it covers.
    """

    key: str
    label: str
    unit: str
    scale: float
    compute: Compute

    @property
    def chart_id(self) -> str:
        """The id of its chart in pages and live messages: 'error-rate'."""
        return self.key.replace("_", "-")


def _ratio(part: float, whole: int) -> Figure:
    return Figure(part / whole if whole else None, whole)


def _rate(total: float, seconds: float, n: int) -> Figure:
    return Figure(total / seconds if n and seconds >= MIN_RATE_SECONDS else None, n)


def _quantile(sketch: Sketch, q: float) -> Figure:
    return Figure(sketch.quantile(q), sketch.count)


MEASURES: Final[tuple[Measure, ...]] = (
    Measure("requests", "Requests", "requests", 1, lambda t, s: Figure(t.requests or None, t.requests)),
    Measure("requests_per_second", "Traffic", "requests/s", 1, lambda t, s: _rate(t.requests, s, t.requests)),
    # Out of what could have been answered: a caller's own mistakes and hang-ups must not dilute ours.
    Measure("error_rate", "Error rate", "%", 100, lambda t, s: _ratio(t.errors, t.answerable)),
    Measure("fallback_rate", "Answered by signed copy", "%", 100, lambda t, s: _ratio(t.fallbacks, t.answerable)),
    Measure("attempts", "Attempts", "attempts", 1, lambda t, s: Figure(t.attempts or None, t.attempts)),
    # Out of all attempts, as breakers count them.
    Measure("failure_rate", "Failed attempts", "%", 100, lambda t, s: _ratio(t.failures, t.attempts)),
    Measure("timeout_rate", "Timed-out attempts", "%", 100, lambda t, s: _ratio(t.timeouts, t.attempts)),
    Measure("throttle_rate", "Throttled attempts", "%", 100, lambda t, s: _ratio(t.throttled, t.attempts)),
    Measure("latency_p50_ms", "Latency p50", "ms", 1, lambda t, s: _quantile(t.latency_ms, 0.50)),
    Measure("latency_p95_ms", "Latency p95", "ms", 1, lambda t, s: _quantile(t.latency_ms, 0.95)),
    Measure("latency_p99_ms", "Latency p99", "ms", 1, lambda t, s: _quantile(t.latency_ms, 0.99)),
    Measure("ttft_p50_ms", "Time to first token p50", "ms", 1, lambda t, s: _quantile(t.ttft_ms, 0.50)),
    Measure("ttft_p95_ms", "Time to first token p95", "ms", 1, lambda t, s: _quantile(t.ttft_ms, 0.95)),
    # Slow is bad here, so the tail is the lower one: nineteen streams in twenty are faster than this.
    Measure("drain_tps_p5", "Stream speed p5", "tokens/s", 1, lambda t, s: _quantile(t.drain_tps, 0.05)),
    Measure("input_tokens_per_request", "Input", "tokens/request", 1, lambda t, s: _ratio(t.input_tokens, t.reached)),
    Measure(
        "output_tokens_per_request", "Output", "tokens/request", 1, lambda t, s: _ratio(t.output_tokens, t.reached)
    ),
    Measure("cost_per_request_usd", "Cost", "USD/request", 1, lambda t, s: _ratio(t.cost_micros / 1e6, t.reached)),
    Measure("cost_per_hour_usd", "Cost", "USD/h", 1, lambda t, s: _rate(t.cost_micros / 1e6 * 3600, s, t.reached)),
    Measure("schema_pass_rate", "Schema pass rate", "%", 100, lambda t, s: _ratio(t.schema_passed, t.schema_checked)),
    Measure("refusal_rate", "Refusal rate", "%", 100, lambda t, s: _ratio(t.refusals, t.answered)),
)
BY_KEY: Final[Mapping[str, Measure]] = {measure.key: measure for measure in MEASURES}


def figures(tally: Tally, *, seconds: float) -> Figures:
    """Every measure of a tally, by its key; `seconds` is the time that it covers."""
    return {measure.key: measure.compute(tally, seconds) for measure in MEASURES}


def figures_json(values: Figures) -> dict[str, dict[str, Any]]:
    """Shape: {"<measure key>": {"value": float or null, "n": int}}."""
    return {key: figure.to_json() for key, figure in values.items()}
