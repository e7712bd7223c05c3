"""Sum rollups: counts add, sketches merge, and what was never measured stays unknown.

Rows from before attempts were counted are read here, and only here, as what they meant: every request made one attempt.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import orjson

from dataplane.rollups import Counts
from dataplane.sketches import Sketch


class Counted(Protocol):
    """Anything with the columns of a rollup."""

    requests: int
    errors: int
    rejected: int
    cancelled: int
    fallbacks: int
    attempts: int
    failures: int
    timeouts: int
    throttled: int
    input_tokens: int
    output_tokens: int
    cost_micros: int
    schema_checked: int
    schema_passed: int
    refusals: int
    outputs: Any
    latency_ms: Any
    ttft_ms: Any
    drain_tps: Any


class Tally(Counts):
    """What several rollups counted together."""

    __slots__ = ()

    def add(self, row: Counted) -> None:
        """Add a stored row or another tally; it stays as it is."""
        latency_ms = _sketch(row.latency_ms)
        self.requests += row.requests
        self.errors += row.errors
        self.rejected += row.rejected
        self.cancelled += row.cancelled
        self.fallbacks += row.fallbacks
        if not row.attempts and latency_ms.count:
            self._add_uncounted_attempts(row.requests, row.errors)
        self.attempts += row.attempts
        self.failures += row.failures
        self.timeouts += row.timeouts
        self.throttled += row.throttled
        self.input_tokens += row.input_tokens
        self.output_tokens += row.output_tokens
        self.cost_micros += row.cost_micros
        self.schema_checked += row.schema_checked
        self.schema_passed += row.schema_passed
        self.refusals += row.refusals
        self.add_outputs(row.outputs)
        self.latency_ms.merge(latency_ms)
        self.ttft_ms.merge(_sketch(row.ttft_ms))
        self.drain_tps.merge(_sketch(row.drain_tps))

    def add_values(self, counts: Sequence[int], texts: Sequence[str]) -> None:
        """Add a stored row as its bare values: the counts in the order of `COUNTS`, the sketches, as JSON text, in that
        of `TEXTS`.
        """
        requests, errors, rejected, cancelled, fallbacks, attempts, failures, timeouts, throttled, *rest = counts
        tokens_in, tokens_out, cost, checked, passed, refusals = rest
        latency_ms, ttft_ms, drain_tps = map(orjson.loads, texts)
        self.requests += requests
        self.errors += errors
        self.rejected += rejected
        self.cancelled += cancelled
        self.fallbacks += fallbacks
        if not attempts and latency_ms["count"]:
            self._add_uncounted_attempts(requests, errors)
        self.attempts += attempts
        self.failures += failures
        self.timeouts += timeouts
        self.throttled += throttled
        self.input_tokens += tokens_in
        self.output_tokens += tokens_out
        self.cost_micros += cost
        self.schema_checked += checked
        self.schema_passed += passed
        self.refusals += refusals
        _merge_stored(self.latency_ms, latency_ms)
        _merge_stored(self.ttft_ms, ttft_ms)
        _merge_stored(self.drain_tps, drain_tps)

    def add_attempts(self, counts: Sequence[int], texts: Sequence[str]) -> None:
        """Add what a stored row counted of attempts: as for `add_values`, with only the counts in `LANE_COUNTS`."""
        attempts, failures, timeouts, throttled = counts
        latency_ms, ttft_ms, drain_tps = map(orjson.loads, texts)
        self.attempts += attempts
        self.failures += failures
        self.timeouts += timeouts
        self.throttled += throttled
        _merge_stored(self.latency_ms, latency_ms)
        _merge_stored(self.ttft_ms, ttft_ms)
        _merge_stored(self.drain_tps, drain_tps)

    def add_outputs(self, outputs: Mapping[str, int]) -> None:
        """Add what became of checks of answers, key by key."""
        for key, count in outputs.items():
            self.outputs[key] = self.outputs.get(key, 0) + count

    def _add_uncounted_attempts(self, requests: int, errors: int) -> None:
        """Add the attempts of a row that is older than their count.

        It gives itself away by latencies without attempts. Requests without attempts do not: those that reached no lane
        have none, and an attempt may end in the bucket before its request does.
        """
        self.attempts += requests
        self.failures += errors

    @property
    def reached(self) -> int:
        """Requests that were fit to be served: all but those refused for the caller's own mistake."""
        return self.requests - self.rejected

    @property
    def answerable(self) -> int:
        """Requests that could have been answered: nobody's mistake but ours or the provider's if they were not."""
        return max(self.requests - self.rejected - self.cancelled, 0)

    @property
    def answered(self) -> int:
        """Requests that were answered."""
        return max(self.answerable - self.errors, 0)


def _merge_stored(sketch: Sketch, stored: Mapping[str, Any]) -> None:
    """Merge a sketch as it is stored, unchecked: that was done when it came, and pages wait for this."""
    if not stored["count"]:
        return
    found = stored["bins"]
    if sketch.bins:
        bins = sketch.bins
        for index, count in found.items():
            key = int(index)
            bins[key] = bins.get(key, 0) + count
    else:
        sketch.bins = dict(zip(map(int, found), found.values(), strict=True))
    sketch.count += stored["count"]
    sketch.sum += stored["sum"]
    sketch.zero += stored["zero"]
    sketch.min = min(sketch.min, stored["min"])
    sketch.max = max(sketch.max, stored["max"])


def _sketch(value: Sketch | Mapping[str, Any]) -> Sketch:
    return value if isinstance(value, Sketch) else Sketch.from_json(value)
