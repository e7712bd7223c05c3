"""What one worker counts of a pool of `quota`: what was asked for lately, by which it leases, and what became of it."""

from __future__ import annotations

from bisect import insort
from math import exp
from typing import Any, Final

from dataplane.quota import NOTHING, Amounts

# A lease is asked for somewhat larger than what was used lately.
SPARE: Final = 1.5
DEMAND_MEMORY_MS: Final = 1_000.0
MAX_WAITS_KEPT: Final = 1_000


class Demand:
    """Requests since the last turn, and how many came by the millisecond before. Whoever takes counts it here by hand:
    each request comes by.
    """

    __slots__ = ("_mean", "_rate", "taken", "taken_input", "taken_output")

    def __init__(self) -> None:
        self.taken = 0
        self.taken_input = 0.0
        self.taken_output = 0.0
        self._rate = 0.0  # requests per millisecond, lately
        self._mean: Amounts = NOTHING

    def wants(self, elapsed_ms: float, *, lease_ms: float) -> tuple[Amounts, int]:
        """A lease that would last until the next: what was asked for lately, and somewhat more.

        Args:
            elapsed_ms: Since this was last asked; > 0.
        """
        elapsed = min(DEMAND_MEMORY_MS, elapsed_ms)
        faded = exp(-elapsed / DEMAND_MEMORY_MS)
        self._rate = self._rate * faded + (1.0 - faded) * self.taken / elapsed
        if self.taken:
            input_tokens, output_tokens = self.taken_input / self.taken, self.taken_output / self.taken
            self._mean = (1.0, input_tokens + output_tokens, input_tokens, output_tokens)
        self.taken, self.taken_input, self.taken_output = 0, 0.0, 0.0
        slots = int(self._rate * lease_ms * SPARE + 0.5)
        if not slots:
            return NOTHING, 0
        _, tokens, input_tokens, output_tokens = self._mean
        larger = slots * SPARE
        return (float(slots), tokens * larger, input_tokens * larger, output_tokens * larger), slots


class Granted:
    """How many requests got leave, which is counted here by hand, how long they waited for it, and how many their
    provider refused.
    """

    __slots__ = ("_reported", "_waits", "granted", "throttled")

    def __init__(self) -> None:
        self.granted = 0
        self.throttled = 0
        self._reported = (0, 0)
        self._waits: list[float] = []

    def note_wait(self, waited_ms: float) -> None:
        """One got leave after a while."""
        if len(self._waits) < MAX_WAITS_KEPT:
            insort(self._waits, waited_ms)

    def since_reported(self) -> dict[str, Any]:
        """What happened since this was last asked for.

        Shape: {"granted", "throttled": int, "waited_ms_p50", "waited_ms_p95": float or None}.
        """
        waits, self._waits = self._waits, []
        (granted, throttled), self._reported = self._reported, (self.granted, self.throttled)
        count = self.granted - granted
        return {
            "granted": count,
            "throttled": self.throttled - throttled,
            "waited_ms_p50": _quantile(waits, 0.5, of=count),
            "waited_ms_p95": _quantile(waits, 0.95, of=count),
        }


def _quantile(waits: list[float], share: float, *, of: int) -> float | None:
    """Of so many requests, of which those that waited did so for `waits`, sorted."""
    if not of:
        return None
    place = int(share * of) - (of - len(waits))
    return 0.0 if place < 0 or not waits else round(waits[min(place, len(waits) - 1)], 1)
