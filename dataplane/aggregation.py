"""Counters and sketches per 10 seconds and series, so that what is shipped depends on series and never on requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple

from dataplane.rollups import Counts

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


@lru_cache(maxsize=8192)
def output_key(system: str, name: str, outcome: str, label: str = "") -> str:
    """Under what the outcome of a check of an answer is counted, such as 'repair:fenced:r1_extract:lossless' or
    'validator:no-card-numbers@3:block:'. The control plane takes it apart again: no part holds a colon.
    """
    return f"{system}:{name}:{outcome}:{label}"


class Accumulator(Counts):
    """What one series counted in one bucket so far."""

    __slots__ = ("changed",)

    def __init__(self) -> None:
        super().__init__()
        self.changed = True

    def to_json(self, bucket: int, series: Series) -> dict[str, Any]:
        """One rollup, cumulative for its bucket. Shape: the bucket, the series' fields, the counts."""
        return {"bucket": bucket, **series._asdict(), **self.columns()}


class Aggregation:
    """The accumulators of one worker. Belongs to one event loop: nothing here waits, nothing is locked."""

    __slots__ = ("_buckets", "_current", "_current_ends_at", "_current_start", "_last", "_last_series", "_wall")

    def __init__(self, *, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._buckets: dict[int, dict[Series, Accumulator]] = {}
        self._current: dict[Series, Accumulator] = {}
        self._current_start = 0
        self._current_ends_at = 0.0
        # A request records several times in a row, each time with the same object.
        self._last_series: Series | None = None
        self._last = Accumulator()

    def record_attempt(
        self,
        series: Series,
        *,
        failed: bool,
        timed_out: bool,
        throttled: bool,
        latency_ms: float,
        ttft_ms: float | None,
        tokens_per_second: float | None,
        input_tokens: int,
        output_tokens: int,
        cost_micros: int,
    ) -> None:
        """Count one finished attempt at the lane of `series` under the bucket of this moment.

        Args:
            failed: The lane is to blame; a caller's mistake, or a caller who left, is no failure.
            timed_out: It failed by not answering in time. Counted only if `failed`, so that it is a part of it.
            throttled: The provider said that this was too much (429), whether or not that counts as a failure.
            latency_ms, ttft_ms: Milliseconds from the start of the attempt; `ttft_ms` None when no byte of an answer
                came.
            tokens_per_second: Of a stream, from its first piece to its last; None when that was not measured.
            input_tokens, output_tokens, cost_micros: Billed, also for an answer that nobody got.
        """
        accumulator = self._accumulator(series)
        accumulator.attempts += 1
        if failed:
            accumulator.failures += 1
            if timed_out:
                accumulator.timeouts += 1
        if throttled:
            accumulator.throttled += 1
        accumulator.input_tokens += input_tokens
        accumulator.output_tokens += output_tokens
        accumulator.cost_micros += cost_micros
        accumulator.latency_ms.add(latency_ms)
        if ttft_ms is not None:
            accumulator.ttft_ms.add(ttft_ms)
        if tokens_per_second is not None:
            accumulator.drain_tps.add(tokens_per_second)

    def record_request(
        self, series: Series, *, result: Result, schema_passed: bool | None, refused: bool, fallback: bool
    ) -> None:
        """Count one finished request, however many attempts it made, under the bucket of this moment.

        Args:
            series: With the lane of its last attempt; "" when it made none.
            result: `error` is the upstream's or the gateway's failure, `rejected` the caller's own mistake, `cancelled`
                a caller who left.
            schema_passed: None when the answer was not checked against a schema.
            fallback: Signed copy answered it instead of a lane.
        """
        accumulator = self._accumulator(series)
        accumulator.requests += 1
        if result != "ok":
            if result == "error":
                accumulator.errors += 1
            elif result == "rejected":
                accumulator.rejected += 1
            else:
                accumulator.cancelled += 1
        if schema_passed is not None:
            accumulator.schema_checked += 1
            accumulator.schema_passed += schema_passed
        if refused:
            accumulator.refusals += 1
        if fallback:
            accumulator.fallbacks += 1

    def record_output(self, series: Series, *, system: str, name: str, outcome: str, label: str = "") -> None:
        """Count what became of one check of an answer, or one part of it: see `output_key`."""
        self.record_outputs(series, (output_key(system, name, outcome, label),))

    def record_outputs(self, series: Series, keys: Iterable[str]) -> None:
        """As `record_output`, for many at once, by their `output_key`."""
        outputs = self._accumulator(series).outputs
        for key in keys:
            outputs[key] = outputs.get(key, 0) + 1

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

    def _accumulator(self, series: Series) -> Accumulator:
        """What `series` has counted in the bucket of this moment, marked as changed."""
        at = self._wall()
        if at >= self._current_ends_at:
            self._open(at)
        if series is self._last_series:
            accumulator = self._last
        else:
            known = self._current.get(series)
            accumulator = self._current[series] = known or Accumulator()
            self._last_series, self._last = series, accumulator
        accumulator.changed = True
        return accumulator

    def _open(self, at: float) -> None:
        """Make the bucket of `at` the current one.

        Buckets only move forwards: a clock set back keeps the current one.
        """
        self._current_start = int(at) // BUCKET_SECONDS * BUCKET_SECONDS
        self._current_ends_at = float(self._current_start + BUCKET_SECONDS)
        self._current = self._buckets.setdefault(self._current_start, {})
        self._last_series = None
