"""Counters and sketches per 10 seconds and series, so that what is shipped depends on series and never on requests."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

from dataplane.sketches import Sketch

BUCKET_SECONDS: Final = 10

Result = Literal["ok", "error", "rejected", "cancelled"]


class Series(NamedTuple):
    """What is told apart in telemetry. Build it once per decision, not per increment; `version` 0 and "" mean none."""

    lane: str
    prompt: str
    version: int
    canary: str
    cohort: str
    tier: str


class Accumulator:
    """What one series counted in one bucket so far."""

    __slots__ = (
        "cancelled",
        "changed",
        "cost_micros",
        "errors",
        "input_tokens",
        "latency_ms",
        "output_tokens",
        "refusals",
        "rejected",
        "requests",
        "schema_checked",
        "schema_passed",
        "ttft_ms",
    )

    def __init__(self) -> None:
        self.requests = 0
        self.errors = 0
        self.rejected = 0
        self.cancelled = 0
        self.input_tokens = 0
        self.output_tokens = 0
        self.cost_micros = 0
        self.schema_checked = 0
        self.schema_passed = 0
        self.refusals = 0
        self.latency_ms = Sketch()
        self.ttft_ms = Sketch()
        self.changed = True

    def to_json(self, bucket: int, series: Series) -> dict[str, Any]:
        """One rollup, cumulative for its bucket. Shape: the bucket, the series' fields, the counts, two sketches."""
        return {
            "bucket": bucket,
            "lane": series.lane,
            "prompt": series.prompt,
            "version": series.version,
            "canary": series.canary,
            "cohort": series.cohort,
            "tier": series.tier,
            "requests": self.requests,
            "errors": self.errors,
            "rejected": self.rejected,
            "cancelled": self.cancelled,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cost_micros": self.cost_micros,
            "schema_checked": self.schema_checked,
            "schema_passed": self.schema_passed,
            "refusals": self.refusals,
            "latency_ms": self.latency_ms.to_json(),
            "ttft_ms": self.ttft_ms.to_json(),
        }


class Aggregation:
    """The accumulators of one worker. Belongs to one event loop: nothing here waits, nothing is locked."""

    __slots__ = ("_buckets", "_current", "_current_ends_at", "_current_start", "_wall")

    def __init__(self, *, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._buckets: dict[int, dict[Series, Accumulator]] = {}
        self._current: dict[Series, Accumulator] = {}
        self._current_start = 0
        self._current_ends_at = 0.0

    def record(
        self,
        series: Series,
        *,
        result: Result,
        latency_ms: float,
        ttft_ms: float | None = None,
        input_tokens: int = 0,
        output_tokens: int = 0,
        cost_micros: int = 0,
        schema_passed: bool | None = None,
        refused: bool = False,
    ) -> None:
        """Count one finished attempt under the bucket of this moment.

        Args:
            result: `error` is the upstream's or the gateway's failure, `rejected` the caller's own mistake, `cancelled`
                a caller who left.
            latency_ms, ttft_ms: Milliseconds from the start of the attempt; `ttft_ms` None when no byte of an answer
                came.
            schema_passed: None when the answer was not checked against a schema.
        """
        at = self._wall()
        if at >= self._current_ends_at:
            self._open(at)
        accumulator = self._current.get(series)
        if accumulator is None:
            accumulator = self._current[series] = Accumulator()
        accumulator.changed = True
        accumulator.requests += 1
        if result != "ok":
            if result == "error":
                accumulator.errors += 1
            elif result == "rejected":
                accumulator.rejected += 1
            else:
                accumulator.cancelled += 1
        accumulator.input_tokens += input_tokens
        accumulator.output_tokens += output_tokens
        accumulator.cost_micros += cost_micros
        if schema_passed is not None:
            accumulator.schema_checked += 1
            accumulator.schema_passed += schema_passed
        if refused:
            accumulator.refusals += 1
        accumulator.latency_ms.add(latency_ms)
        if ttft_ms is not None:
            accumulator.ttft_ms.add(ttft_ms)

    def drain(self, now: float) -> list[dict[str, Any]]:
        """The rollups that changed since the last drain, each cumulative for its bucket; closed buckets are forgotten.

        The caller takes them over: they are in no later drain unless they change again.

        Args:
            now: Epoch seconds.
        """
        # Opening the bucket of `now` first closes the others for good: a record that came later with an older time,
        # after its bucket was forgotten, would start that bucket at zero again and replace what was shipped.
        if now >= self._current_ends_at:
            self._open(now)
        rollups: list[dict[str, Any]] = []
        for bucket, accumulators in list(self._buckets.items()):
            for series, accumulator in accumulators.items():
                if accumulator.changed:
                    accumulator.changed = False
                    rollups.append(accumulator.to_json(bucket, series))
            if bucket != self._current_start:
                del self._buckets[bucket]
        return rollups

    def _open(self, at: float) -> None:
        """Make the bucket of `at` the current one.

        Buckets only move forwards: a clock set back keeps the current one.
        """
        self._current_start = int(at) // BUCKET_SECONDS * BUCKET_SECONDS
        self._current_ends_at = float(self._current_start + BUCKET_SECONDS)
        self._current = self._buckets.setdefault(self._current_start, {})
