"""Quantile sketches that merge without loss: what lets a fleet's p99 be computed from per-worker summaries.

A DDSketch with logarithmic bins at 1 % relative accuracy: a quantile that it gives is within 1 % of the true value, and
the sketch of a union is the merge of the sketches. The mapping is the ddsketch library's; the bins are a plain dict,
because one `add` is on the path of every request and the library's dense store costs several times as much, in time and
in JSON.

Source: Masson, Rim, Lee, "DDSketch: A Fast and Fully-Mergeable Quantile Sketch with Relative-Error Guarantees", VLDB
2019.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from ddsketch.mapping import LogarithmicMapping

RELATIVE_ACCURACY: Final = 0.01
_MAPPING: Final = LogarithmicMapping(RELATIVE_ACCURACY)
_BINS_PER_OCTAVE: Final[float] = 1.0 / math.log2(_MAPPING.gamma)
# Anything smaller counts as zero: a billionth of a millisecond is not a latency.
MIN_VALUE: Final = 1e-9
# One worker cannot be made to hold more bins than this by odd values: 9e15 ms is 285,000 years.
MAX_VALUE: Final = float(2**53)


class Sketch:
    """Counts of non-negative values in logarithmic bins, with exact count, sum, min and max."""

    __slots__ = ("bins", "count", "max", "min", "sum", "zero")

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0.0
        self.min = math.inf
        self.max = -math.inf
        self.zero = 0
        self.bins: dict[int, int] = {}

    def add(self, value: float, _log2: Any = math.log2, _ceil: Any = math.ceil) -> None:
        """Count one value. Negative values count as 0 and values over MAX_VALUE as MAX_VALUE: a clock that jumped.

        Raises:
            ValueError: NaN.
        """
        if value < MIN_VALUE:
            value = max(value, 0.0)
            self.zero += 1
        else:
            if value > MAX_VALUE:
                value = MAX_VALUE
            index = _ceil(_log2(value) * _BINS_PER_OCTAVE)
            bins = self.bins
            bins[index] = bins.get(index, 0) + 1
        self.count += 1
        self.sum += value
        if value < self.min:
            self.min = value
        if value > self.max:
            self.max = value

    def merge(self, other: Sketch) -> None:
        """Add everything that `other` has counted; `other` stays as it is."""
        for index, count in other.bins.items():
            self.bins[index] = self.bins.get(index, 0) + count
        self.zero += other.zero
        self.count += other.count
        self.sum += other.sum
        self.min = min(self.min, other.min)
        self.max = max(self.max, other.max)

    def quantile(self, q: float) -> float | None:
        """The value at quantile `q`, within 1 % of the true one; None when nothing has been counted.

        Raises:
            ValueError: q outside [0, 1].
        """
        if not 0 <= q <= 1:
            raise ValueError(f"quantile {q!r} is outside [0, 1]")
        if self.count == 0:
            return None
        rank = q * (self.count - 1)
        seen = self.zero
        if rank < seen:
            return 0.0
        for index in sorted(self.bins):
            seen += self.bins[index]
            if rank < seen:
                value: float = _MAPPING.value(index)
                return min(max(value, self.min), self.max)
        return self.max

    def share_above(self, value: float) -> float:
        """The share (0..1) of what was counted that is greater than `value`; 0 when nothing has been counted.

        What lies within 1 % of `value` may be taken for greater or not; everything else is told apart for certain.

        Raises:
            ValueError: NaN.
        """
        if math.isnan(value):
            raise ValueError("a share above NaN is asked for")
        if self.count == 0 or value >= self.max:
            return 0.0
        if value < self.min:
            return 1.0
        if value < MIN_VALUE:
            return (self.count - self.zero) / self.count
        first = first_bin_above(value)
        return sum(count for index, count in self.bins.items() if index >= first) / self.count

    def to_json(self) -> dict[str, Any]:
        """Shape: {"count", "sum", "min", "max", "zero": int, "bins": {"<index>": count}}.

        Min and max are null when empty.
        """
        return {
            "count": self.count,
            "sum": self.sum,
            "min": self.min if self.count else None,
            "max": self.max if self.count else None,
            "zero": self.zero,
            "bins": {str(index): count for index, count in self.bins.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Sketch:
        """Read what `to_json` wrote.

        Raises:
            ValueError: a key is missing, a number is no number, or the counts do not add up.
        """
        sketch = cls()
        try:
            sketch.count = int(value["count"])
            sketch.sum = float(value["sum"])
            sketch.zero = int(value["zero"])
            sketch.bins = {int(index): int(count) for index, count in value["bins"].items()}
            if sketch.count:
                sketch.min = float(value["min"])
                sketch.max = float(value["max"])
        except (KeyError, TypeError, AttributeError, OverflowError) as exc:
            raise ValueError(f"not a sketch: {exc!r}") from exc
        if min(sketch.zero, *sketch.bins.values(), 0) < 0 or sketch.zero + sum(sketch.bins.values()) != sketch.count:
            raise ValueError(f"not a sketch: its bins do not add up to its count {sketch.count}")
        return sketch

    def __eq__(self, other: object) -> bool:
        """Equal when the same values were counted; `sum` may differ in its last bits by the order of additions."""
        if not isinstance(other, Sketch):
            return NotImplemented
        return (
            (self.count, self.zero, self.min, self.max, self.bins)
            == (other.count, other.zero, other.min, other.max, other.bins)
        ) and math.isclose(self.sum, other.sum, rel_tol=1e-9, abs_tol=1e-9)

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"Sketch(count={self.count}, min={self.min}, max={self.max}, bins={len(self.bins)})"


def first_bin_above(value: float) -> int:
    """The lowest bin whose values count as greater than `value`; all that is in higher ones does too.

    Args:
        value: At least MIN_VALUE; what is smaller has no bin.
    """
    edge = math.ceil(math.log2(value) * _BINS_PER_OCTAVE)
    # The bin that `value` falls into counts as the one value that stands for it, as in `quantile`.
    return edge if _MAPPING.value(edge) > value else edge + 1
