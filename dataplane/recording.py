"""Counts each request once, when it ends: in the metrics of the process, in telemetry, among what its surface served,
and for or against a canary; and lets it leave the ladder.
"""

from __future__ import annotations

from collections.abc import Callable

from dataplane.aggregation import Aggregation
from dataplane.evidence import Evidence
from dataplane.journey import EVAL, Journey
from dataplane.ladder.counting import SurfaceCounting, outcome_of
from dataplane.ladder.desk import LadderDesk, Stand
from dataplane.metrics import GatewayMetrics


class Recording:
    """See the module. One per process."""

    def __init__(
        self,
        *,
        metrics: GatewayMetrics,
        aggregation: Aggregation,
        evidence: Evidence | None,
        ladder: LadderDesk | None,
        surfaces: SurfaceCounting | None,
        clock: Callable[[], float],
    ) -> None:
        """`clock` is monotonic seconds; without `evidence`, nothing counts for or against canaries; `ladder` is what
        requests have entered, if any, and without `surfaces`, nobody counts what became of them there.
        """
        self._metrics = metrics
        self._aggregation = aggregation
        self._evidence = evidence
        self._ladder = ladder
        self._surfaces = surfaces
        self._clock = clock

    def record(self, operation: str, journey: Journey) -> None:
        """Count a request that has ended; `operation` is what it asked for."""
        # No await in here: a cancelled task still runs it to the end, once.
        if journey.stand is not None and self._ladder is not None:
            self._ladder.leave(journey.stand)
        operation = EVAL if journey.is_eval else operation
        if journey.trace is not None:
            journey.trace.end(operation, journey)
        seconds = self._clock() - journey.inbound.started
        if journey.stand is not None:
            self._record_where_it_stood(journey, journey.stand, seconds)
        self._metrics.count(operation, journey.outcome, seconds)
        release, attempt = journey.release, journey.answering
        # Whatever else a caller wrote there is no route, and no label.
        if release is not None and journey.admission is None and journey.route in release.routing.routes:
            first = None if attempt is None or attempt.ttft_ms is None else attempt.ttft_ms / 1000
            if first is not None and attempt is not None:
                first += attempt.started - journey.inbound.started
            self._metrics.counts.count_request(
                journey.route,
                result=journey.result,
                seconds=seconds,
                first_token=first,
                rung=0 if journey.stand is None else journey.stand.rung,
                queued_seconds=journey.queued_ms / 1000,
            )
        if journey.fallback not in ("none", "alternate"):
            self._metrics.count_fallback(journey.route, journey.fallback)
        lane = journey.lane
        series = journey.series("" if lane is None else lane.id)
        if series is not None:
            self._aggregation.record_request(
                series,
                result=journey.result,
                schema_passed=journey.schema_passed,
                refused=journey.refused,
                fallback=journey.copy is not None,
            )
        if journey.part is not None and self._evidence is not None:
            self._evidence.record(
                journey.part,
                result=journey.result,
                cost_micros=journey.cost_micros,
                milliseconds=seconds * 1000,
                is_copy=journey.copy is not None,
                refused=journey.refused,
                schema_passed=journey.schema_passed,
                blocked=journey.blocked,
                grounded=journey.grounded,
            )

    def _record_where_it_stood(self, journey: Journey, stand: Stand, seconds: float) -> None:
        if self._surfaces is None:
            return
        outcome = outcome_of(
            stand,
            result=journey.result,
            code=journey.outcome,
            is_copy=journey.copy is not None,
            is_asked=bool(journey.attempts),
        )
        self._surfaces.record(
            stand,
            outcome,
            cost_micros=journey.cost_micros,
            latency_ms=seconds * 1000,
            queued_ms=journey.queued_ms if journey.queue_position else None,
        )
