"""`/metrics` of a process that is no gateway: its memory, processor and descriptors, whether its loops turn, and what
else it hands in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

Family: TypeAlias = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily
Families: TypeAlias = Callable[[], Iterator[Family]]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class ProcessMetrics(Collector):
    """See the module. Made when somebody looks for the first time: it costs a megabyte of imports."""

    def __init__(self, families: list[Families]) -> None:
        """`families` is read each time, and may grow."""
        self._families = families
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(self)

    def collect(self) -> Iterator[Family]:
        """Yield the families; called by the registry."""
        for families in list(self._families):
            yield from families()

    def render(self) -> bytes:
        """Return Prometheus' text format."""
        return generate_latest(self.registry)


def loop_families(silent_seconds: dict[str, float]) -> Iterator[Family]:
    """Yield for how long each loop of a process has not turned."""
    silent = GaugeMetricFamily(
        "ballast_process_loop_silent_seconds", "For how long a loop of the process has not turned.", labels=["loop"]
    )
    for name, seconds in silent_seconds.items():
        silent.add_metric([name], seconds)
    yield silent
