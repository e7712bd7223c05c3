"""What `/metrics` shows: few series, counted in plain dicts on the way and turned into Prometheus' types when scraped.

Per lane, prompt and cohort figures travel with the reports instead, where quantiles merge across workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from dataplane.release import Release


class GatewayMetrics(Collector):
    """Counts requests by operation and outcome; an outcome is `ok`, `cancelled` or an error code."""

    def __init__(self, *, release: Callable[[], Release | None]) -> None:
        self.in_flight = 0
        self._release = release
        self._requests: dict[tuple[str, str], int] = {}
        self._seconds: dict[str, float] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def count(self, operation: str, outcome: str, seconds: float) -> None:
        """Count one finished request and the seconds it took."""
        key = (operation, outcome)
        self._requests[key] = self._requests.get(key, 0) + 1
        self._seconds[operation] = self._seconds.get(operation, 0.0) + seconds

    def render(self) -> bytes:
        """Return Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Yield the families; called by the registry."""
        requests = CounterMetricFamily(
            "ballast_gateway_requests", "Finished requests by operation and outcome.", labels=["operation", "outcome"]
        )
        for (operation, outcome), number in list(self._requests.items()):
            requests.add_metric([operation, outcome], number)
        yield requests
        seconds = CounterMetricFamily(
            "ballast_gateway_request_seconds", "Seconds spent on finished requests.", labels=["operation"]
        )
        for operation, total in list(self._seconds.items()):
            seconds.add_metric([operation], total)
        yield seconds
        yield GaugeMetricFamily("ballast_gateway_in_flight", "Requests being served now.", value=self.in_flight)
        release = self._release()
        yield GaugeMetricFamily(
            "ballast_gateway_release_revision",
            "Revision of the release being served; 0 while there is none.",
            value=0 if release is None else release.revision,
        )
