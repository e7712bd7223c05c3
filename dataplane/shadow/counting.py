"""What is counted of shadows, per 10 seconds: what is shipped grows with policies and lanes, never with requests.

Gateways count what they offer, the shadow process what it asks, each under the bucket of the moment; rows are
cumulative for their bucket, like rollups, so that one that comes twice changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from math import log2
from typing import Any, Final, NamedTuple

from dataplane.aggregation import BUCKET_SECONDS
from dataplane.shadow.compare import Comparison
from dataplane.sketches import Sketch

CANDIDATE: Final = "candidate"
NOISE: Final = "noise"
# Counts of a row, in this order.
COUNTS: Final = (
    "offered",  # requests that a gateway handed to the shadow process
    "asked",  # calls that were made
    "answered",  # of these: answers that came whole, and were compared
    "input_tokens",  # what the calls took, answered or not
    "output_tokens",
    "cost_micros",  # in millionths of a US dollar
    "control_cost_micros",  # what control's answers to the answered cost
    "schema_both",
    "schema_control",
    "schema_shadow",
    "schema_neither",
    "tools_agree",
    "tools_differ",
    "verdicts_agree",
    "verdicts_differ",
    "refused_control",
    "refused_shadow",
)
# How many, their sum and the sum of their squares, each over the answers that have it.
MOMENTS: Final = (
    "overlap",
    "citations",
    "tool_arguments",
    "log2_length",  # binary logarithms: of the shadow's words to control's,
    "log2_latency",  # of its milliseconds,
    "log2_cost",  # and of its cost
)
# By rule there are five times five things to say, of which few are said.
MAX_RULES: Final = 400


class ShadowSeries(NamedTuple):
    """What is told apart. `lane` is empty where none was chosen, as at gateways, which know of none."""

    policy: str
    digest: str
    route: str
    arm: str
    lane: str


class _Row:
    """What one series counted in one bucket so far. `changed` since it was told of."""

    __slots__ = ("changed", "control_latency_ms", "counts", "discarded", "failed", "latency_ms", "moments", "rules")

    def __init__(self) -> None:
        self.changed = True
        self.counts = dict.fromkeys(COUNTS, 0)
        self.discarded: dict[str, int] = {}
        self.failed: dict[str, int] = {}
        self.rules: dict[str, int] = {}
        self.moments = {name: [0, 0.0, 0.0] for name in MOMENTS}
        self.latency_ms = Sketch()
        self.control_latency_ms = Sketch()

    def add(self, name: str, value: float | None) -> None:
        """Add to one of MOMENTS; None is nothing to add."""
        if value is None:
            return
        moments = self.moments[name]
        moments[0] += 1
        moments[1] += value
        moments[2] += value * value

    def to_json(self, bucket: int, series: ShadowSeries) -> dict[str, Any]:
        """Shape: see `ShadowCounting.drain`."""
        return {
            "bucket": bucket,
            **series._asdict(),
            **self.counts,
            "discarded": self.discarded,
            "failed": self.failed,
            "rules": self.rules,
            "moments": {name: [one[0], round(one[1], 6), round(one[2], 6)] for name, one in self.moments.items()},
            "latency_ms": self.latency_ms.to_json(),
            "control_latency_ms": self.control_latency_ms.to_json(),
        }


class ShadowCounting:
    """The rows of one process, and its totals: see `figures.ShadowTotals`. Belongs to one event loop: nothing here
    waits, nothing is locked.
    """

    __slots__ = ("_buckets", "_current", "_wall", "calls_by_outcome", "discarded_by_reason", "offered_by_policy")

    def __init__(self, *, wall: Callable[[], float] = time.time) -> None:
        """`wall` is epoch seconds."""
        self._wall = wall
        self._buckets: dict[int, dict[ShadowSeries, _Row]] = {}
        self._current = 0
        self.offered_by_policy: dict[str, int] = {}
        self.discarded_by_reason: dict[tuple[str, str], int] = {}
        self.calls_by_outcome: dict[tuple[str, str], int] = {}

    def offer(self, series: ShadowSeries) -> None:
        """Count a request that was handed to the shadow process."""
        self._row(series).counts["offered"] += 1
        self.offered_by_policy[series.policy] = self.offered_by_policy.get(series.policy, 0) + 1

    def discard(self, series: ShadowSeries, reason: str) -> None:
        """Count a request that was not asked, and why."""
        discarded = self._row(series).discarded
        discarded[reason] = discarded.get(reason, 0) + 1
        key = (series.policy, reason)
        self.discarded_by_reason[key] = self.discarded_by_reason.get(key, 0) + 1
        # Who discards all that there is has offered nothing, which is a share of it.
        self.offered_by_policy.setdefault(series.policy, 0)

    def ask(
        self, series: ShadowSeries, *, input_tokens: int, output_tokens: int, cost_micros: int, failure: str
    ) -> None:
        """Count a call that has ended; `failure` is the code of what it failed with, empty for an answer."""
        row = self._row(series)
        row.counts["asked"] += 1
        row.counts["input_tokens"] += input_tokens
        row.counts["output_tokens"] += output_tokens
        row.counts["cost_micros"] += cost_micros
        if failure:
            row.failed[failure] = row.failed.get(failure, 0) + 1
        key = (series.policy, failure or "ok")
        self.calls_by_outcome[key] = self.calls_by_outcome.get(key, 0) + 1

    def compare(self, series: ShadowSeries, found: Comparison) -> None:
        """Count how an answer compares with control's."""
        row, counts = self._row(series), self._row(series).counts
        counts["answered"] += 1
        counts["control_cost_micros"] += found.cost_micros[0]
        if found.schema is not None:
            counts[f"schema_{found.schema}"] += 1
        if found.tools is not None:
            counts["tools_agree" if found.tools.agree else "tools_differ"] += 1
            row.add("tool_arguments", found.tools.arguments)
        if found.verdicts_agree is not None:
            counts["verdicts_agree" if found.verdicts_agree else "verdicts_differ"] += 1
        counts["refused_control"] += found.refused[0]
        counts["refused_shadow"] += found.refused[1]
        for rule, control, shadow in found.rules:
            key = f"{rule}:{control}:{shadow}"
            if key in row.rules or len(row.rules) < MAX_RULES:
                row.rules[key] = row.rules.get(key, 0) + 1
        row.add("overlap", found.overlap)
        row.add("citations", found.citations)
        row.add("log2_length", None if not found.length_ratio else log2(found.length_ratio))
        row.add("log2_latency", _log2_ratio(*found.latency_ms))
        row.add("log2_cost", _log2_ratio(*found.cost_micros))
        row.control_latency_ms.add(found.latency_ms[0])
        row.latency_ms.add(found.latency_ms[1])

    def drain(self, now: float) -> list[Mapping[str, Any]]:
        """The rows that changed since the last drain, each cumulative for its bucket; closed buckets are forgotten.

        Shape: [{"bucket": epoch seconds, "policy", "digest", "route", "arm": candidate or noise, "lane", each of
                COUNTS: int, "discarded": {reason: int}, "failed": {error code: int}, "rules":
                {"rule@version:control's verdict:shadow's": int}, "moments": {each of MOMENTS: [how many, sum, sum of
                squares]}, "latency_ms", "control_latency_ms": see `Sketch.to_json`}].

        Args:
            now: Epoch seconds.
        """
        self._open(now)
        rows: list[Mapping[str, Any]] = []
        for bucket, series in list(self._buckets.items()):
            for one, row in series.items():
                if row.changed:
                    row.changed = False
                    rows.append(row.to_json(bucket, one))
            if bucket != self._current:
                del self._buckets[bucket]
        return rows

    def _row(self, series: ShadowSeries) -> _Row:
        self._open(self._wall())
        rows = self._buckets.setdefault(self._current, {})
        row = rows.get(series)
        if row is None:
            row = rows[series] = _Row()
        row.changed = True
        return row

    def _open(self, at: float) -> None:
        """Buckets only move forwards: one that was forgotten would begin at zero again, and replace what was told."""
        self._current = max(self._current, int(at) // BUCKET_SECONDS * BUCKET_SECONDS)


def _log2_ratio(control: float, shadow: float) -> float | None:
    return log2(shadow / control) if control > 0 and shadow > 0 else None
