"""How much more was tried, and paid, than one attempt for each request. Pure.

Two ratios, both 1 where nothing is repeated:

- attempts per request: all attempts over the requests that made them;
- the cost multiplier: what all attempts cost, over what those cost that did not fail. Every dollar above 1 bought
  nothing. The cost of first attempts is no yardstick: one that was refused costs nothing, and whatever answers in its
  stead would look like a surcharge.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Repetition:
    """What some attempts come to: `retries` went to the lane of the attempt before, `failed` neither answered nor were
    given up by the caller. Costs are in millionths of a US dollar.
    """

    attempts: int = 0
    requests: int = 0
    retries: int = 0
    failed: int = 0
    cost_micros: int = 0
    failed_cost_micros: int = 0

    def __add__(self, other: Repetition) -> Repetition:
        return Repetition(
            self.attempts + other.attempts,
            self.requests + other.requests,
            self.retries + other.retries,
            self.failed + other.failed,
            self.cost_micros + other.cost_micros,
            self.failed_cost_micros + other.failed_cost_micros,
        )

    @property
    def extra(self) -> int:
        """Attempts beyond the first of their request."""
        return self.attempts - self.requests

    @property
    def caught(self) -> int:
        """Attempts that came from another lane."""
        return self.extra - self.retries

    @property
    def arrivals(self) -> int:
        """How often a request came to these lanes, to begin here or from another one."""
        return self.attempts - self.retries

    @property
    def attempts_per_request(self) -> float | None:
        """None where no request began."""
        return self.attempts / self.requests if self.requests else None

    @property
    def attempts_per_arrival(self) -> float | None:
        """The multiplier of one lane. Its requests are no yardstick: one that only catches others' would have none."""
        return self.attempts / self.arrivals if self.arrivals else None

    @property
    def cost_multiplier(self) -> float | None:
        """None where nothing was paid for an attempt that did not fail."""
        unfailed = self.cost_micros - self.failed_cost_micros
        return self.cost_micros / unfailed if unfailed else None
