"""What a breaker policy would have done to a lane's past, minute by minute: the real decider over what was stored.

Pure. Stored minutes say how many attempts there were and how they were spread, not when within the minute each came; so
the answer is good to a minute, not to a second. Where a window is no whole number of minutes, it is taken to have held
its share of the minutes that it touches. A probe stands for the attempts of its minute: it is taken to go well when, by
their share of bad ones, as many in a row as it takes would more likely than not have gone well.

A lane whose breaker was really open had few attempts or none in that time; nothing can be said about what they would
have come to.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

from dataplane.blame import Blame
from dataplane.breaker import (
    ATTEMPTS,
    COUNTED,
    DRAGGING,
    DRAINED,
    FAILURES,
    LATE,
    SLOW,
    STREAMS,
    TIMEOUTS,
    Breaker,
    Counts,
    Move,
    Observation,
    State,
)
from dataplane.policies import BreakerPolicy
from dataplane.sketches import Sketch

MINUTE_SECONDS: Final = 60.0
_GOOD: Final = Observation(Blame.NOBODY, timed_out=False, latency_ms=0.0)
_BAD: Final = Observation(Blame.LANE, timed_out=False, latency_ms=0.0)


class Minute(Protocol):
    """One minute of one lane, summed over the fleet, with its sketches."""

    @property
    def at(self) -> datetime: ...
    @property
    def attempts(self) -> int: ...
    @property
    def failures(self) -> int: ...
    @property
    def timeouts(self) -> int: ...
    @property
    def throttled(self) -> int: ...
    @property
    def latency_ms(self) -> Sketch: ...
    @property
    def ttft_ms(self) -> Sketch: ...
    @property
    def drain_tps(self) -> Sketch: ...


@dataclass(frozen=True, slots=True)
class Opening:
    """One time that the breaker would have opened: when, by which threshold, and how long until it closed for good.

    `seconds` is the time in which nothing but probes would have been let through, all its flaps together.
    """

    at: datetime
    threshold: str
    value: float
    limit: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Backtest:
    """What one policy would have done.

    Attributes:
        minutes: With attempts; `judged` of them had enough for the policy to judge by. None judged: no openings means
            nothing.
        attempts: Of all minutes; `diverted` is how many of them would have gone elsewhere.
    """

    openings: tuple[Opening, ...]
    minutes: int
    judged: int
    attempts: int
    diverted: float

    @property
    def seconds_open(self) -> float:
        """All openings together."""
        return sum(opening.seconds for opening in self.openings)

    @property
    def longest(self) -> Opening | None:
        """The opening that lasted longest; None when there was none."""
        return max(self.openings, key=lambda opening: opening.seconds, default=None)

    @property
    def diverted_share(self) -> float:
        """Share (0..1) of the attempts that would have gone elsewhere."""
        return self.diverted / self.attempts if self.attempts else 0.0


def backtest(policies: Sequence[BreakerPolicy], minutes: Iterable[tuple[datetime, Sequence[Counts]]]) -> list[Backtest]:
    """Run each policy over the same minutes, which are read once.

    Args:
        minutes: Of one lane, ascending; those without attempts may be missing. Each with its counts under every policy,
            in the order of `policies`: what is slow for one is not for another. See `counts_of`.
    """
    runs = [_Run(policy) for policy in policies]
    for at, vectors in minutes:
        for run, counts in zip(runs, vectors, strict=True):
            run.take(at.timestamp(), counts)
    return [run.result() for run in runs]


def counts_of(policy: BreakerPolicy, minute: Minute) -> Counts:
    """A minute as the decider's vector. What was throttled is a matter of quotas, and counts nowhere here."""
    latency, ttft, drain = minute.latency_ms, minute.ttft_ms, minute.drain_tps
    dragging = drain.count - _beyond(drain, policy.drain_tokens_per_second.value)
    return vector(
        attempts=minute.attempts - minute.throttled,
        failures=minute.failures,
        timeouts=minute.timeouts,
        slow=_beyond(latency, policy.latency_p95_ms.value),
        streams=ttft.count,
        late=_beyond(ttft, policy.ttft_p95_ms.value),
        drained=drain.count,
        dragging=dragging,
    )


def vector(
    *, attempts: int, failures: int, timeouts: int, slow: int, streams: int, late: int, drained: int, dragging: int
) -> Counts:
    """The decider's vector; nothing in it is more than what it is a part of, which sums of late reports might be."""
    attempts = max(0, attempts)
    counts = [0] * len(COUNTED)
    counts[ATTEMPTS], counts[FAILURES], counts[TIMEOUTS] = attempts, min(failures, attempts), min(timeouts, attempts)
    counts[SLOW], counts[STREAMS], counts[LATE] = min(slow, attempts), streams, late
    counts[DRAINED], counts[DRAGGING] = drained, dragging
    return counts


def _beyond(sketch: Sketch, limit: float) -> int:
    return round(sketch.share_above(limit) * sketch.count)


class _Run:
    """One policy on its way through the minutes. Time is epoch seconds; the breaker takes any clock that grows."""

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self._length = max(1, math.ceil(policy.window_seconds.value / MINUTE_SECONDS))
        self._scale = policy.window_seconds.value / (self._length * MINUTE_SECONDS)
        self._minimum = policy.minimum_attempts.value
        self._window: deque[tuple[float, Counts]] = deque()
        self._breaker: Breaker | None = None
        self._openings: list[Opening] = []
        self._minutes = self._judged = self._attempts = 0
        self._diverted = 0.0

    def take(self, start: float, counts: Counts) -> None:
        """Go through one minute: let an open breaker cool down and probe, then judge what the minute came to."""
        if self._breaker is None:
            self._breaker = Breaker("", self._policy, now=start)
        breaker = self._breaker
        if not counts[ATTEMPTS]:
            return
        self._minutes += 1
        self._attempts += counts[ATTEMPTS]
        if breaker.state is State.CLOSED:
            self._judge(counts, start)
        else:
            self._diverted += counts[ATTEMPTS] * self._closed_to_callers(counts, start) / MINUTE_SECONDS

    def result(self) -> Backtest:
        """What it came to."""
        return Backtest(tuple(self._openings), self._minutes, self._judged, self._attempts, self._diverted)

    def _judge(self, counts: Counts, start: float) -> None:
        end = start + MINUTE_SECONDS
        window = self._window
        window.append((start, counts))
        while window[0][0] < end - (self._length + 0.5) * MINUTE_SECONDS:
            window.popleft()
        attempts = sum([one[ATTEMPTS] for _, one in window])
        if round(self._scale * attempts) >= self._minimum:
            self._judged += 1
        if any(one[FAILURES] or one[SLOW] or one[LATE] or one[DRAGGING] for _, one in window):
            self._ask(end)
        # Else nothing could trip it, as in nearly every minute of a month.

    def _ask(self, end: float) -> None:
        """Let the decider judge the window."""
        breaker, window = self._breaker, self._window
        assert breaker is not None  # noqa: S101 - narrows the type; `take` has made it
        summed = [round(self._scale * sum(place)) for place in zip(*(one for _, one in window), strict=True)]
        # Handed to the decider as what a fleet of other workers has counted, so that it judges exactly as they would.
        breaker.hear(breaker.verdict(now=end), counts=summed, healthy=0, now=end)
        trip = breaker.judge(now=end)
        if trip is None:
            return
        move = breaker.open(trip, now=end)
        window.clear()  # as the decider's own: what was before an opening does not count after it
        at = datetime.fromtimestamp(end, UTC)
        self._openings.append(Opening(at, trip.threshold, trip.value, trip.limit, move.open_seconds))

    def _closed_to_callers(self, counts: Counts, start: float) -> float:
        """Seconds of the minute in which the breaker was open; where it cools down in it, probes are let through."""
        breaker = self._breaker
        assert breaker is not None  # noqa: S101 - as above
        end, now, closed = start + MINUTE_SECONDS, start, 0.0
        while breaker.state is not State.CLOSED:
            wait = breaker.open_for(now=now)
            if now + wait >= end:
                return closed + end - now
            now, closed = now + wait, closed + wait
            for move in self._probe(counts, now):
                if move.after is State.OPEN:
                    last = self._openings[-1]
                    self._openings[-1] = Opening(
                        last.at, last.threshold, last.value, last.limit, last.seconds + move.open_seconds
                    )
        return closed

    def _probe(self, counts: Counts, now: float) -> Iterator[Move]:
        """Let probes through as the decider asks for them, all as good or bad as their minute, until one moves it."""
        breaker = self._breaker
        assert breaker is not None  # noqa: S101 - as above
        seen = _GOOD if (1 - _bad_share(counts)) ** self._policy.healthy_probes.value >= 0.5 else _BAD
        while breaker.state is not State.CLOSED:
            permit, _ = breaker.acquire(now=now)
            moved = breaker.record(permit, seen, now=now)
            if isinstance(moved, Move):
                yield moved
                return


def _bad_share(counts: Counts) -> float:
    """Share of the attempts that a breaker would hold against the lane: by its worst reason, since they overlap."""
    parts = ((FAILURES, ATTEMPTS), (SLOW, ATTEMPTS), (LATE, STREAMS), (DRAGGING, DRAINED))
    return max(counts[part] / counts[whole] if counts[whole] else 0.0 for part, whole in parts)
