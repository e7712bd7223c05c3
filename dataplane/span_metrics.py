"""What `/metrics` of any process shows of its traces: whether they arrive."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from dataplane.tracing import SpanCounts


def span_families(counts: SpanCounts) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
    """Yield what is shown of spans."""
    spans = CounterMetricFamily(
        "ballast_trace_spans",
        "Spans by what became of them: exported, failed (not taken by whoever collects), dropped (too many waited).",
        labels=["outcome"],
    )
    for outcome, number in (("exported", counts.exported), ("failed", counts.failed), ("dropped", counts.dropped)):
        spans.add_metric([outcome], number)
    yield spans
    yield GaugeMetricFamily("ballast_trace_spans_waiting", "Spans that wait to be sent.", value=counts.waiting)
