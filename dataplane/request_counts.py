"""What became of requests by route, and of attempts by lane: counted in plain numbers on the way, for `/metrics`.

As many series as a release has routes and lanes, times a few: nothing grows with tenants, prompts or traffic.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

# Seconds, from a cached answer to one that takes as long as callers wait. Their types stand there in full, or the
# compiler would take each for a tuple of its own length.
WHOLE: Final[tuple[float, ...]] = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
FIRST_TOKEN: Final[tuple[float, ...]] = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


class Histogram:
    """How many observations are at most each bound, and their sum."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Note one."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def buckets(self) -> tuple[list[tuple[str, float]], float]:
        """As `HistogramMetricFamily.add_metric` takes them: cumulative, the last without a bound; and the sum."""
        total, found = 0, []
        for bound, count in zip((*map(str, self._bounds), "+Inf"), list(self._counts), strict=True):
            total += count
            found.append((bound, float(total)))
        return found, self._sum


class LaneCounts:
    """Of one lane."""

    __slots__ = ("cost_micros", "input_tokens", "outcomes", "output_tokens", "seconds")

    def __init__(self) -> None:
        self.outcomes: dict[tuple[str, str], int] = {}
        self.seconds = Histogram(WHOLE)
        self.input_tokens = 0
        self.output_tokens = 0
        self.cost_micros = 0


class RouteCounts:
    """Of one route."""

    __slots__ = ("first_token", "queued_seconds", "results", "rungs", "seconds")

    def __init__(self) -> None:
        self.results: dict[str, int] = {}
        self.rungs: dict[int, int] = {}
        self.seconds = Histogram(WHOLE)
        self.first_token = Histogram(FIRST_TOKEN)
        self.queued_seconds = 0.0


class RequestCounts:
    """See the module. One per process."""

    def __init__(self) -> None:
        self._lanes: dict[str, LaneCounts] = {}
        self._routes: dict[str, RouteCounts] = {}

    def count_attempt(
        self,
        lane: str,
        *,
        kind: str,
        outcome: str,
        seconds: float,
        input_tokens: int,
        output_tokens: int,
        cost_micros: int,
    ) -> None:
        """Count one attempt that has ended. `kind` is primary, retry, fallback …; `outcome` ok, cancelled or a code."""
        counts = self._lanes.get(lane)
        if counts is None:
            counts = self._lanes[lane] = LaneCounts()
        key = (kind, outcome)
        counts.outcomes[key] = counts.outcomes.get(key, 0) + 1
        counts.seconds.observe(seconds)
        counts.input_tokens += input_tokens
        counts.output_tokens += output_tokens
        counts.cost_micros += cost_micros

    def count_request(
        self, route: str, *, result: str, seconds: float, first_token: float | None, rung: int, queued_seconds: float
    ) -> None:
        """Count one request to a route of the release. `result` is ok, rejected (the caller's own mistake), error or
        cancelled; `first_token` seconds until one came, of streams.
        """
        counts = self._routes.get(route)
        if counts is None:
            counts = self._routes[route] = RouteCounts()
        counts.results[result] = counts.results.get(result, 0) + 1
        counts.seconds.observe(seconds)
        if first_token is not None:
            counts.first_token.observe(first_token)
        if rung:
            counts.rungs[rung] = counts.rungs.get(rung, 0) + 1
        counts.queued_seconds += queued_seconds

    def families(self) -> Iterator[CounterMetricFamily | HistogramMetricFamily]:
        """Yield what is shown of them."""
        yield from self._of_routes()
        yield from self._of_lanes()

    def _of_routes(self) -> Iterator[CounterMetricFamily | HistogramMetricFamily]:
        results = CounterMetricFamily(
            "ballast_gateway_route_requests",
            "Requests by route and result: ok, rejected (the caller's own mistake), error or cancelled.",
            labels=["route", "result"],
        )
        seconds = HistogramMetricFamily(
            "ballast_gateway_route_seconds", "Seconds from a request to the end of its answer.", labels=["route"]
        )
        first = HistogramMetricFamily(
            "ballast_gateway_first_token_seconds",
            "Seconds from a request to the first token of its stream.",
            labels=["route"],
        )
        rungs = CounterMetricFamily(
            "ballast_gateway_rung_requests", "Requests served on a rung of the ladder.", labels=["route", "rung"]
        )
        queued = CounterMetricFamily(
            "ballast_gateway_quota_wait_seconds", "Seconds that requests waited for quota.", labels=["route"]
        )
        for route, counts in list(self._routes.items()):
            for result, number in list(counts.results.items()):
                results.add_metric([route, result], number)
            seconds.add_metric([route], *counts.seconds.buckets())
            first.add_metric([route], *counts.first_token.buckets())
            for rung, number in list(counts.rungs.items()):
                rungs.add_metric([route, str(rung)], number)
            queued.add_metric([route], counts.queued_seconds)
        yield from (results, seconds, first, rungs, queued)

    def _of_lanes(self) -> Iterator[CounterMetricFamily | HistogramMetricFamily]:
        attempts = CounterMetricFamily(
            "ballast_gateway_attempts",
            "Attempts by lane, kind (primary, retry, fallback …) and outcome: ok, cancelled or an error's code.",
            labels=["lane", "kind", "outcome"],
        )
        seconds = HistogramMetricFamily("ballast_gateway_attempt_seconds", "Seconds of attempts.", labels=["lane"])
        tokens = CounterMetricFamily(
            "ballast_gateway_tokens",
            "Tokens billed, by lane and direction: input or output.",
            labels=["lane", "direction"],
        )
        cost = CounterMetricFamily(
            "ballast_gateway_cost_micros", "What attempts cost, in millionths of a US dollar.", labels=["lane"]
        )
        for lane, counts in list(self._lanes.items()):
            for (kind, outcome), number in list(counts.outcomes.items()):
                attempts.add_metric([lane, kind, outcome], number)
            seconds.add_metric([lane], *counts.seconds.buckets())
            tokens.add_metric([lane, "input"], counts.input_tokens)
            tokens.add_metric([lane, "output"], counts.output_tokens)
            cost.add_metric([lane], counts.cost_micros)
        yield from (attempts, seconds, tokens, cost)
