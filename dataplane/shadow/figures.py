"""What `/metrics` shows of shadows: at gateways what they hand over, at the shadow process what becomes of it.

As many series as there are policies, times a few reasons. What is told apart by route, arm and lane travels with the
reports instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily


class ShadowTotals(Protocol):
    """What a process has counted since it started, such as `ShadowCounting`."""

    @property
    def offered_by_policy(self) -> Mapping[str, int]:
        """Requests that were handed over, for every policy that anything was counted of."""

    @property
    def discarded_by_reason(self) -> Mapping[tuple[str, str], int]:
        """Requests that were not asked again, by policy and why."""

    @property
    def calls_by_outcome(self) -> Mapping[tuple[str, str], int]:
        """Calls that were made, by policy and how they ended: ok, or an error's code."""


class ShadowLoad(Protocol):
    """How a shadow process keeps up, such as `ShadowWorker`."""

    @property
    def in_flight(self) -> int:
        """How many calls are under way."""

    @property
    def waiting(self) -> int:
        """How many wait to be made."""

    @property
    def lag_seconds(self) -> float:
        """How long the oldest of them has waited."""


def shadow_families(totals: ShadowTotals) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
    """Yield what is shown of what a process has counted."""
    offered = CounterMetricFamily(
        "ballast_shadow_offered", "Requests that a gateway handed to the shadow process.", labels=["policy"]
    )
    for policy, number in list(totals.offered_by_policy.items()):
        offered.add_metric([policy], number)
    discarded = CounterMetricFamily(
        "ballast_shadow_discarded", "Requests that were drawn and not asked again, by why.", labels=["policy", "reason"]
    )
    for said, number in list(totals.discarded_by_reason.items()):
        discarded.add_metric(said, number)
    calls = CounterMetricFamily(
        "ballast_shadow_calls", "Calls of shadows by how they ended.", labels=["policy", "outcome"]
    )
    for said, number in list(totals.calls_by_outcome.items()):
        calls.add_metric(said, number)
    yield from (offered, discarded, calls)


def load_families(load: ShadowLoad) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
    """Yield how a shadow process keeps up."""
    yield GaugeMetricFamily("ballast_shadow_in_flight", "Calls of shadows under way.", value=load.in_flight)
    yield GaugeMetricFamily("ballast_shadow_waiting", "Calls of shadows that wait.", value=load.waiting)
    yield GaugeMetricFamily(
        "ballast_shadow_lag_seconds", "How long the oldest call that waits has waited.", value=load.lag_seconds
    )
