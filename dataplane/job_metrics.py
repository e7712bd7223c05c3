"""What `/metrics` shows of jobs: how the queue stands, for the whole fleet, as its database tells it."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily

from dataplane.jobs import OVER, RATE_SECONDS, Figures


def job_families(figures: Figures) -> Iterator[GaugeMetricFamily]:
    """Yield what is shown of jobs."""
    yield GaugeMetricFamily("ballast_jobs_queued", "Jobs of the fleet that wait for a runner.", value=figures.queued)
    yield GaugeMetricFamily("ballast_jobs_running", "Jobs of the fleet that a runner has.", value=figures.running)
    ended = GaugeMetricFamily(
        "ballast_jobs_ended_lately",
        f"Jobs of the fleet that were over in the last {RATE_SECONDS:.0f} s, by status.",
        labels=["status"],
    )
    for state in sorted(OVER):
        ended.add_metric([state], figures.ended.get(state, 0))
    yield ended
