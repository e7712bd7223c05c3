"""The breaker of one lane: a window of what its attempts came to, three states, and one table of moves between them.

Pure: no await, no I/O, no clock of its own. Everything in the window is a count, also the brownouts: a p95 is above its
limit exactly when more than one attempt in twenty is. So windows of several workers add up, and the whole fleet can
judge by one sum.

What is shared is a `Verdict` (generation, state, how long it stays open, flaps). Verdicts join: the newer generation
wins, within one generation open wins over closed, and the later of two open-until times counts. Joining is commutative,
associative and idempotent, so it does not matter in which order workers hear of each other, or how often.

Source: Nygard, "Release It!", 2nd ed., "Circuit Breaker"; Shapiro et al., "Conflict-free Replicated Data Types", 2011.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, NamedTuple

from dataplane.blame import Blame
from dataplane.errors.admission import BreakerOpen
from dataplane.overrides import FORCED_CLOSED, FORCED_OPEN
from dataplane.policies import BreakerPolicy

SLICES: Final = 10
P95_SHARE: Final = 0.05
# The p95 of fewer values than this is their maximum, and one slow attempt is no brownout.
MIN_FOR_P95: Final = 20
MIN_OVER_P95: Final = 3
# A fleet's sum that is older than this says less than the worker's own window.
FLEET_FRESH_SECONDS: Final = 3.0

LATENCY_THRESHOLDS: Final = frozenset({"latency_p95_ms", "ttft_p95_ms", "dragging_rate"})

# Positions in a vector of counts. STREAMS are attempts that gave a first token, DRAINED those long enough to time.
ATTEMPTS, FAILURES, TIMEOUTS, SLOW, STREAMS, LATE, DRAINED, DRAGGING = range(8)
COUNTED: Final = ("attempts", "failures", "timeouts", "slow", "streams", "late", "drained", "dragging")
Counts = list[int]
_PLAIN: Final = (ATTEMPTS,)
_FAILED: Final = (ATTEMPTS, FAILURES)
_TIMED_OUT: Final = (ATTEMPTS, FAILURES, TIMEOUTS)
# What says something about a lane: that it answered, and that it failed.
_JUDGED: Final = (Blame.NOBODY, Blame.LANE)


class State(StrEnum):
    """Of a breaker: `closed` lets everything through, `open` nothing, `half_open` a few probes."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Cause(StrEnum):
    """Why a breaker moved."""

    TRIPPED = "tripped"
    COOLED_DOWN = "cooled_down"
    PROBE_FAILED = "probe_failed"
    PROBES_PASSED = "probes_passed"
    FLEET_OPENED = "fleet_opened"
    FLEET_CLOSED = "fleet_closed"


TRANSITIONS: Final = {
    (State.CLOSED, Cause.TRIPPED): State.OPEN,
    (State.OPEN, Cause.COOLED_DOWN): State.HALF_OPEN,
    (State.HALF_OPEN, Cause.PROBE_FAILED): State.OPEN,
    (State.HALF_OPEN, Cause.PROBES_PASSED): State.CLOSED,
    (State.CLOSED, Cause.FLEET_OPENED): State.OPEN,
    (State.OPEN, Cause.FLEET_OPENED): State.OPEN,
    (State.HALF_OPEN, Cause.FLEET_OPENED): State.OPEN,
    (State.OPEN, Cause.FLEET_CLOSED): State.CLOSED,
    (State.HALF_OPEN, Cause.FLEET_CLOSED): State.CLOSED,
}


class IllegalTransition(Exception):
    """A move that the table does not have. Always a mistake of this program."""


class Observation(NamedTuple):
    """What one attempt came to. A tuple, because one is made per attempt.

    Attributes:
        latency_ms: From its start to its end, however it ended.
        ttft_ms: To the first token; None when the answer came in one piece, or not at all.
        tokens_per_second: How fast the stream drained; None when it was too short to tell.
    """

    blame: Blame
    timed_out: bool
    latency_ms: float
    ttft_ms: float | None = None
    tokens_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class Trip:
    """Why a breaker should open: the threshold that was crossed, and the counts that crossed it."""

    threshold: str
    value: float
    limit: float
    counts: tuple[int, ...]

    @property
    def is_latency(self) -> bool:
        """True when the lane answers, only too slowly."""
        return self.threshold in LATENCY_THRESHOLDS

    def to_json(self) -> dict[str, Any]:
        """Shape: {"threshold": str, "value": float, "limit": float, "attempts": int, "failures": int, ...}."""
        named = dict(zip(COUNTED, self.counts, strict=True))
        return {"threshold": self.threshold, "value": round(self.value, 4), "limit": self.limit, **named}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a fleet shares about one lane. `open_seconds` is what is left; `closed_seconds` how long it has been closed;
    `opened_for` the threshold that opened it, empty while it is closed.

    Durations instead of times, because no two hosts agree on the time.
    """

    generation: int
    is_open: bool
    open_seconds: float
    flaps: int
    closed_seconds: float = 0.0
    opened_for: str = ""

    def join(self, other: Verdict) -> Verdict:
        """The verdict of both; see the module."""
        if other.generation != self.generation:
            return other if other.generation > self.generation else self
        if other.is_open != self.is_open:
            return other if other.is_open else self
        return Verdict(
            self.generation,
            self.is_open,
            max(self.open_seconds, other.open_seconds),
            max(self.flaps, other.flaps),
            max(self.closed_seconds, other.closed_seconds),
            # A failure says more than slowness; beyond that any order will do, as long as all workers have the same.
            min(self.opened_for, other.opened_for, key=lambda name: (name in LATENCY_THRESHOLDS, name)),
        )


@dataclass(frozen=True, slots=True)
class News:
    """What a worker has to tell the fleet about a lane: counts and healthy probes since it last did, of `verdict`'s
    generation.
    """

    counts: tuple[int, ...]
    healthy: int
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Move:
    """One change of state. `trip` says why it opened, where a threshold did it."""

    before: State
    after: State
    cause: Cause
    generation: int
    open_seconds: float
    trip: Trip | None = None


class Permit:
    """Leave to make one attempt. It always comes back, through `record` or `give_back`."""

    __slots__ = ("generation", "is_out", "is_probe", "lane")

    def __init__(self, lane: str, generation: int, *, is_probe: bool) -> None:
        self.lane = lane
        self.generation = generation
        self.is_probe = is_probe
        self.is_out = True


class Breaker:
    """See the module. `now` is monotonic seconds everywhere.

    A breaker never opens by itself: `record` and `hear` return the `Trip` they would open it for, and whoever sees all
    lanes of a route decides whether to call `open`.
    """

    __slots__ = (
        "_closed_at",
        "_current",
        "_flaps",
        "_fleet",
        "_fleet_at",
        "_healthy",
        "_healthy_news",
        "_index",
        "_news",
        "_open_until",
        "_policy",
        "_probes_out",
        "_slice_seconds",
        "_slices",
        "_totals",
        "forced",
        "generation",
        "lane",
        "opened_for",
        "state",
    )

    def __init__(self, lane: str, policy: BreakerPolicy, *, now: float) -> None:
        self.lane = lane
        self.state = State.CLOSED
        self.generation = 0
        self.forced: str | None = None
        self.opened_for = ""
        self._open_until = 0.0
        self._flaps = 0
        self._closed_at = now
        self._probes_out = 0
        self._healthy = 0
        self._healthy_news = 0
        self._news: Counts = []
        self._fleet: Counts = []
        self.adopt(policy, now=now)

    def adopt(self, policy: BreakerPolicy, *, now: float) -> None:
        """Judge by `policy` from now on; state and generation stay, the window begins anew."""
        self._policy = policy
        self._slice_seconds = policy.window_seconds.value / SLICES
        self._clear(now)

    @property
    def policy(self) -> BreakerPolicy:
        """What it judges by."""
        return self._policy

    @property
    def slice_seconds(self) -> float:
        """The length of one of the window's `SLICES`."""
        return self._slice_seconds

    @property
    def opened_by_latency(self) -> bool:
        """True while it is not closed, and slowness alone did it."""
        return self.opened_for in LATENCY_THRESHOLDS

    @property
    def probes_out(self) -> int:
        """Probes of this process that are under way."""
        return self._probes_out

    @property
    def open_until(self) -> float:
        """When probes are let through, in monotonic seconds; long past for a breaker that never opened."""
        return self._open_until

    def open_for(self, *, now: float) -> float:
        """Seconds until probes are let through; 0 when they are, or everything is."""
        return max(0.0, self._open_until - now) if self.state is State.OPEN else 0.0

    def counts(self, *, now: float) -> tuple[int, ...]:
        """The window as it is judged: the fleet's sum while that is fresh, else this worker's own."""
        self._roll(now)
        if now - self._fleet_at > FLEET_FRESH_SECONDS:
            return tuple(self._totals)
        return tuple(map(sum, zip(self._fleet, self._news, strict=True)))

    def let_through(self) -> Permit | None:
        """Return leave to make an attempt at any time: the breaker is closed, or held closed. None: see `acquire`."""
        if self.forced == FORCED_CLOSED or (self.forced is None and self.state is State.CLOSED):
            return Permit(self.lane, self.generation, is_probe=False)
        return None

    def acquire(self, *, now: float) -> tuple[Permit, Move | None]:
        """Return leave to make an attempt now, and the move to half-open if this made it.

        Raises:
            BreakerOpen: not now; it says for how long.
        """
        permit = self.let_through()
        if permit is not None:
            return permit, None
        if self.forced is not None:
            raise BreakerOpen(self.lane, open_seconds=None, forced=True)
        move = None
        if self.state is State.OPEN:
            if now < self._open_until:
                raise BreakerOpen(self.lane, open_seconds=self._open_until - now)
            move = self._move(Cause.COOLED_DOWN, now=now)
        if self._probes_out >= self._policy.probes.value:
            raise BreakerOpen(self.lane, open_seconds=0.0)
        self._probes_out += 1
        return Permit(self.lane, self.generation, is_probe=True), move

    def give_back(self, permit: Permit) -> None:
        """Take a permit back whose attempt says nothing about the lane. Idempotent."""
        if not permit.is_out:
            return
        permit.is_out = False
        if permit.is_probe and permit.generation == self.generation:
            self._probes_out = max(0, self._probes_out - 1)

    def record(self, permit: Permit, seen: Observation, *, now: float) -> Trip | Move | None:
        """Take a permit back with what its attempt came to.

        Returns:
            The trip that the window now asks for, the move that a probe's end made, or nothing. What was permitted in
            an older generation changes nothing.
        """
        if not permit.is_out:
            return None
        self.give_back(permit)
        if permit.generation != self.generation or seen.blame not in _JUDGED:
            return None
        bad = self._count(seen, now=now)
        if self.state is State.HALF_OPEN:
            if bad:
                return self._move(Cause.PROBE_FAILED, now=now)
            self._healthy += 1
            self._healthy_news += 1
            return self._close_if_healthy(now=now)
        if bad and self.state is State.CLOSED and self.forced is None:
            return self.judge(now=now)
        return None

    def judge(self, *, now: float) -> Trip | None:
        """Return the first threshold that the window crosses, or None. Only a closed, unforced breaker trips."""
        if self.state is not State.CLOSED or self.forced is not None:
            return None
        counts = self.counts(now=now)
        return judge(self._policy, counts)

    def open(self, trip: Trip, *, now: float) -> Move:
        """Open for `trip`."""
        self.opened_for = trip.threshold
        calm = int((now - self._closed_at) / self._policy.calm_seconds.value)
        self._flaps = max(0, self._flaps - calm)
        return self._move(Cause.TRIPPED, now=now, trip=trip)

    def hear(self, verdict: Verdict, *, counts: Counts, healthy: int, now: float) -> Move | None:
        """Take in what the fleet says: its verdict, and its sums for that generation, which contain all that this
        worker has told. Returns the move that this makes, if any.
        """
        mine = self.verdict(now=now)
        joined = mine.join(verdict)
        move = None
        if joined.generation > self.generation or joined.is_open != mine.is_open:
            self._flaps = joined.flaps
            self.opened_for = joined.opened_for
            self._closed_at = now - joined.closed_seconds
            move = self._move(
                Cause.FLEET_OPENED if joined.is_open else Cause.FLEET_CLOSED,
                now=now,
                generation=joined.generation,
                open_seconds=joined.open_seconds,
            )
        elif joined.is_open and self.state is State.OPEN:
            self._open_until = max(self._open_until, now + joined.open_seconds)
            self._flaps = joined.flaps
        if verdict.generation == self.generation:
            self._fleet = counts
            self._fleet_at = now
            self._healthy = max(self._healthy, healthy + self._healthy_news)
            if move is None and self.state is State.HALF_OPEN:
                move = self._close_if_healthy(now=now)
        return move

    def take_news(self, *, now: float) -> News:
        """Hand over what the fleet has not been told yet. It is the fleet's from here on; see `again`."""
        news = News(tuple(self._news), self._healthy_news, self.verdict(now=now))
        self._fleet = [a + b for a, b in zip(self._fleet, self._news, strict=True)]
        self._news = [0] * len(COUNTED)
        self._healthy_news = 0
        return news

    def again(self, news: News, *, now: float) -> News:
        """`news` as it is told once more, since nobody knows whether it arrived: what it counted, unless that was in an
        older generation, and the verdict as it is now.
        """
        if news.verdict.generation != self.generation:
            return News((0,) * len(COUNTED), 0, self.verdict(now=now))
        return replace(news, verdict=self.verdict(now=now))

    def verdict(self, *, now: float) -> Verdict:
        """What this worker holds of the lane."""
        is_open = self.state is not State.CLOSED
        return Verdict(
            self.generation,
            is_open,
            self.open_for(now=now),
            self._flaps,
            0.0 if is_open else now - self._closed_at,
            self.opened_for,
        )

    def force(self, mode: str | None) -> None:
        """Hold it open or closed (`overrides.MODES`), or let it go (None). Its own state goes on underneath."""
        if mode not in (None, FORCED_OPEN, FORCED_CLOSED):
            raise ValueError(f"{mode!r} is no way to hold a breaker")
        self.forced = mode

    def _close_if_healthy(self, *, now: float) -> Move | None:
        if self._healthy < self._policy.healthy_probes.value:
            return None
        self._closed_at = now
        self.opened_for = ""
        return self._move(Cause.PROBES_PASSED, now=now)

    def _move(
        self,
        cause: Cause,
        *,
        now: float,
        trip: Trip | None = None,
        generation: int | None = None,
        open_seconds: float | None = None,
    ) -> Move:
        """Take the one legal step. Only this method assigns `state`; an illegal cause raises and changes nothing."""
        before = self.state
        if (before, cause) not in TRANSITIONS:
            raise IllegalTransition(f"lane {self.lane!r}: {cause} while {before}")
        after = TRANSITIONS[before, cause]
        self.state = after
        # Cooling down is no news: every worker sees the same time pass, and the verdict stays that it is open.
        if cause is not Cause.COOLED_DOWN:
            self.generation = self.generation + 1 if generation is None else generation
            self._probes_out = 0
            self._clear(now)
        opened = 0.0
        if after is State.OPEN:
            if open_seconds is None:
                policy = self._policy
                opened = policy.open_seconds.value * policy.flap_factor.value**self._flaps
                opened = min(opened, policy.max_open_seconds.value)
                self._flaps += 1
            else:
                opened = open_seconds
            self._open_until = now + opened
        return Move(before, after, cause, self.generation, opened, trip)

    def _count(self, seen: Observation, *, now: float) -> bool:
        """Add one attempt to the window; True when it was bad in any way."""
        self._roll(now)
        policy = self._policy
        places: tuple[int, ...] = _PLAIN
        bad = False
        if seen.blame is Blame.LANE:
            places = _TIMED_OUT if seen.timed_out else _FAILED
            bad = True
        if seen.latency_ms > policy.latency_p95_ms.value:
            places = (*places, SLOW)
            bad = True
        if seen.ttft_ms is not None:
            is_late = seen.ttft_ms > policy.ttft_p95_ms.value
            places = (*places, STREAMS, LATE) if is_late else (*places, STREAMS)
            bad = bad or is_late
        if seen.tokens_per_second is not None:
            is_dragging = seen.tokens_per_second < policy.drain_tokens_per_second.value
            places = (*places, DRAINED, DRAGGING) if is_dragging else (*places, DRAINED)
            bad = bad or is_dragging
        current, totals, news = self._current, self._totals, self._news
        for place in places:
            current[place] += 1
            totals[place] += 1
            news[place] += 1
        return bad

    def _clear(self, now: float) -> None:
        self._index = int(now / self._slice_seconds)
        self._current: Counts = [0] * len(COUNTED)
        self._slices: deque[tuple[int, Counts]] = deque([(self._index, self._current)])
        self._totals: Counts = [0] * len(COUNTED)
        self._news = [0] * len(COUNTED)
        self._fleet = [0] * len(COUNTED)
        self._fleet_at = float("-inf")
        self._healthy = 0
        self._healthy_news = 0

    def _roll(self, now: float) -> None:
        """Make the slice of `now` the current one, and forget those that have left the window."""
        index = int(now / self._slice_seconds)
        if index <= self._index:
            return
        self._index = index
        self._current = [0] * len(COUNTED)
        slices = self._slices
        slices.append((index, self._current))
        while slices[0][0] <= index - SLICES:
            _, old = slices.popleft()
            for place, count in enumerate(old):
                self._totals[place] -= count


def judge(policy: BreakerPolicy, counts: tuple[int, ...] | Counts) -> Trip | None:
    """Return the first threshold of `policy` that `counts` cross, or None.

    Failures come before slowness: they say more, and a latency trip is bounded by how many lanes may be open for it.
    """
    minimum = int(policy.minimum_attempts.value)
    attempts = counts[ATTEMPTS]
    if attempts >= minimum:
        for name, part in (("failure_rate", FAILURES), ("timeout_rate", TIMEOUTS)):
            limit: float = getattr(policy, name).value
            if counts[part] and counts[part] / attempts >= limit:
                return Trip(name, counts[part] / attempts, limit, tuple(counts))
    for name, part, whole in (("latency_p95_ms", SLOW, ATTEMPTS), ("ttft_p95_ms", LATE, STREAMS)):
        if (
            counts[whole] >= max(minimum, MIN_FOR_P95)
            and counts[part] >= MIN_OVER_P95
            and counts[part] > P95_SHARE * counts[whole]
        ):
            return Trip(name, counts[part] / counts[whole], P95_SHARE, tuple(counts))
    if counts[DRAINED] >= minimum and counts[DRAGGING] / counts[DRAINED] >= policy.dragging_rate.value:
        return Trip("dragging_rate", counts[DRAGGING] / counts[DRAINED], policy.dragging_rate.value, tuple(counts))
    return None
