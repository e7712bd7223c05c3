"""Sum rollups: counts add, sketches merge, and what was never measured stays unknown."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import orjson

from dataplane.sketches import Sketch


class Counted(Protocol):
    """Anything with the columns of a rollup."""

    requests: int
    errors: int
    rejected: int
    cancelled: int
    input_tokens: int
    output_tokens: int
    cost_micros: int
    schema_checked: int
    schema_passed: int
    refusals: int
    latency_ms: Any
    ttft_ms: Any


class Tally:
    """What several rollups counted together."""

    __slots__ = (
        "cancelled",
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

    def add(self, row: Counted) -> None:
        """Add a stored row or another tally; it stays as it is."""
        self.requests += row.requests
        self.errors += row.errors
        self.rejected += row.rejected
        self.cancelled += row.cancelled
        self.input_tokens += row.input_tokens
        self.output_tokens += row.output_tokens
        self.cost_micros += row.cost_micros
        self.schema_checked += row.schema_checked
        self.schema_passed += row.schema_passed
        self.refusals += row.refusals
        self.latency_ms.merge(_sketch(row.latency_ms))
        self.ttft_ms.merge(_sketch(row.ttft_ms))

    def add_values(self, counts: Sequence[int], latency_ms: str, ttft_ms: str) -> None:
        """Add a stored row as its bare values: the counts in the order of `COUNTS`, the sketches as JSON text."""
        requests, errors, rejected, cancelled, tokens_in, tokens_out, cost, checked, passed, refusals = counts
        self.requests += requests
        self.errors += errors
        self.rejected += rejected
        self.cancelled += cancelled
        self.input_tokens += tokens_in
        self.output_tokens += tokens_out
        self.cost_micros += cost
        self.schema_checked += checked
        self.schema_passed += passed
        self.refusals += refusals
        _merge_stored(self.latency_ms, orjson.loads(latency_ms))
        _merge_stored(self.ttft_ms, orjson.loads(ttft_ms))

    @property
    def reached(self) -> int:
        """Attempts that reached a lane: all but those refused for the caller's own mistake."""
        return self.requests - self.rejected

    @property
    def answerable(self) -> int:
        """Attempts that could have been answered: nobody's mistake but ours or the provider's if they were not."""
        return max(self.requests - self.rejected - self.cancelled, 0)

    @property
    def answered(self) -> int:
        """Attempts that were answered."""
        return max(self.answerable - self.errors, 0)

    def columns(self) -> dict[str, Any]:
        """The columns of a stored rollup."""
        return {
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


def _merge_stored(sketch: Sketch, stored: Mapping[str, Any]) -> None:
    """Merge a sketch as it is stored, unchecked: that was done when it came, and pages wait for this."""
    if not stored["count"]:
        return
    bins = sketch.bins
    for index, count in stored["bins"].items():
        key = int(index)
        bins[key] = bins.get(key, 0) + count
    sketch.count += stored["count"]
    sketch.sum += stored["sum"]
    sketch.zero += stored["zero"]
    sketch.min = min(sketch.min, stored["min"])
    sketch.max = max(sketch.max, stored["max"])


def _sketch(value: Sketch | Mapping[str, Any]) -> Sketch:
    return value if isinstance(value, Sketch) else Sketch.from_json(value)
