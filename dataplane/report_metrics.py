"""What `/metrics` of a process shows of its reports: whether what it tells the control plane arrives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily


class GuardCounts(Protocol):
    """What a process can say of what outlives it, such as `Outliving`."""

    @property
    def unguarded_rows(self) -> int:
        """How many usage rows would have been lost with the process, had it died before they left."""

    @property
    def unguarded_attempts(self) -> int:
        """How many attempts would have been on no bill, had the process died before they ended."""

    @property
    def unread_rings(self) -> int:
        """How many files of usage rows were set aside, because nobody could read them."""


class ReportCounts(Protocol):
    """What a process can say of its reports, such as `ReportShipper`."""

    @property
    def spooled_bytes(self) -> int:
        """How much waits on disk."""

    @property
    def spool_max_bytes(self) -> int:
        """How much may."""

    @property
    def is_delayed(self) -> bool:
        """Whether they cannot be delivered now."""

    @property
    def dropped_batches(self) -> int:
        """How many were dropped, because the spool was full."""

    @property
    def outliving(self) -> GuardCounts:
        """What is guarded against the death of the process."""


def report_families(counts: ReportCounts) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
    """Yield what is shown of reports."""
    yield GaugeMetricFamily(
        "ballast_reports_spool_bytes", "Reports that wait on disk to be delivered.", value=counts.spooled_bytes
    )
    yield GaugeMetricFamily(
        "ballast_reports_spool_limit_bytes",
        "How much may wait before the oldest are dropped.",
        value=counts.spool_max_bytes,
    )
    yield GaugeMetricFamily(
        "ballast_reports_delayed", "1 while reports cannot be delivered.", value=int(counts.is_delayed)
    )
    yield CounterMetricFamily(
        "ballast_reports_dropped_batches", "Batches that are lost: the spool was full.", value=counts.dropped_batches
    )
    yield CounterMetricFamily(
        "ballast_reports_unguarded_rows",
        "Usage rows that waited in memory alone: no room in the file that outlives the process, or no file.",
        value=counts.outliving.unguarded_rows,
    )
    yield CounterMetricFamily(
        "ballast_reports_unread_rings",
        "Files of usage rows that were set aside at the start: of another format or size.",
        value=counts.outliving.unread_rings,
    )
    yield CounterMetricFamily(
        "ballast_reports_unguarded_attempts",
        "Attempts that a death of the process would have taken off the bill: too many were under way, or no file.",
        value=counts.outliving.unguarded_attempts,
    )
