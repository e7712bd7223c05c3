"""What a rollup counts: the same of one series in a worker's bucket, and of all that the control plane adds up."""

from __future__ import annotations

from typing import Any

from dataplane.sketches import Sketch


class Counts:
    """The counts of a rollup, each beginning at nothing; `aggregation` says what is counted as what."""

    __slots__ = (
        "attempts",
        "cancelled",
        "cost_micros",
        "drain_tps",
        "errors",
        "failures",
        "fallbacks",
        "input_tokens",
        "latency_ms",
        "output_tokens",
        "outputs",
        "refusals",
        "rejected",
        "requests",
        "schema_checked",
        "schema_passed",
        "throttled",
        "timeouts",
        "ttft_ms",
    )

    def __init__(self) -> None:
        self.requests = 0
        self.errors = 0
        self.rejected = 0
        self.cancelled = 0
        self.fallbacks = 0
        self.attempts = 0
        self.failures = 0
        self.timeouts = 0
        self.throttled = 0
        self.input_tokens = 0
        self.output_tokens = 0
        self.cost_micros = 0
        self.schema_checked = 0
        self.schema_passed = 0
        self.refusals = 0
        self.outputs: dict[str, int] = {}
        self.latency_ms = Sketch()
        self.ttft_ms = Sketch()
        self.drain_tps = Sketch()

    def columns(self) -> dict[str, Any]:
        """The counts by name. Shape: 15 counts, `outputs` (see `aggregation.output_key`), 3 sketches as JSON."""
        return {
            "requests": self.requests,
            "errors": self.errors,
            "rejected": self.rejected,
            "cancelled": self.cancelled,
            "fallbacks": self.fallbacks,
            "attempts": self.attempts,
            "failures": self.failures,
            "timeouts": self.timeouts,
            "throttled": self.throttled,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cost_micros": self.cost_micros,
            "schema_checked": self.schema_checked,
            "schema_passed": self.schema_passed,
            "refusals": self.refusals,
            "outputs": self.outputs,
            "latency_ms": self.latency_ms.to_json(),
            "ttft_ms": self.ttft_ms.to_json(),
            "drain_tps": self.drain_tps.to_json(),
        }
