"""What a vendor admits of one account: three ways to count, over requests and tokens, and a bound on requests at once.

Pure: whoever asks says what time it is, in epoch seconds. Admission counts the answer's tokens before there are any, as
vendors do, and is corrected when the answer is over. What is refused is not counted.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from typing import Any, Protocol

RATES: tuple[str, ...] = ("requests", "tokens", "input_tokens", "output_tokens")
CONCURRENCY = "concurrency"
DIMENSIONS: tuple[str, ...] = (*RATES, CONCURRENCY)
NEVER = math.inf

# How many whole windows back the account of what was used goes.
_WINDOWS_KEPT = 60
# An answer is taken to last so long until one has shown how long.
_FIRST_ANSWER_SECONDS = 1.0
_WEIGHT_OF_LAST_ANSWER = 0.1
_SHORTEST_WAIT_SECONDS = 0.001


class LimitKind(Enum):
    """How a vendor counts: a bucket that refills, windows that begin by the clock, or the last window exactly."""

    TOKEN_BUCKET = "token_bucket"  # noqa: S105 - no password
    FIXED_WINDOW = "fixed_window"
    SLIDING_WINDOW = "sliding_window"


@dataclass(frozen=True, slots=True)
class Charge:
    """What one request uses, or is expected to."""

    input_tokens: int
    output_tokens: int

    def units(self, rate: str) -> int:
        """How much of one of RATES that is."""
        match rate:
            case "requests":
                return 1
            case "tokens":
                return self.input_tokens + self.output_tokens
            case "input_tokens":
                return self.input_tokens
            case _:
                return self.output_tokens


@dataclass(slots=True)
class Taken:
    """Units that were admitted at a time; `counted` until the meter has forgotten them."""

    at: float
    units: int
    counted: bool = True


class Meter(Protocol):
    """Counts one rate of one account. `now` never goes back."""

    limit: int

    def left(self, now: float) -> float:
        """How many units are free; below 0 after more was used than had been expected."""

    def wait_seconds(self, units: int, now: float) -> float:
        """How long until so many are free if nothing else is admitted; 0 when they are, NEVER beyond the limit."""

    def reset_seconds(self, now: float) -> float:
        """How long until all are free if nothing else is admitted."""

    def take(self, units: int, now: float) -> Taken:
        """Count units that are free."""

    def correct(self, taken: Taken, units: int, now: float) -> None:
        """Count `units` in place of those that were taken."""


class TokenBucket:
    """Full at first, and refilled evenly: the limit in one window."""

    def __init__(self, limit: int, window_seconds: float) -> None:
        self.limit = limit
        self._per_second = limit / window_seconds
        self._level = float(limit)
        self._at = -math.inf

    def left(self, now: float) -> float:
        """See Meter."""
        if now > self._at:
            self._level = min(float(self.limit), self._level + (now - self._at) * self._per_second)
            self._at = now
        return self._level

    def wait_seconds(self, units: int, now: float) -> float:
        """See Meter."""
        if units > self.limit:
            return NEVER
        return max(0.0, units - self.left(now)) / self._per_second

    def reset_seconds(self, now: float) -> float:
        """See Meter."""
        return (self.limit - self.left(now)) / self._per_second

    def take(self, units: int, now: float) -> Taken:
        """See Meter."""
        self._level = self.left(now) - units
        return Taken(now, units)

    def correct(self, taken: Taken, units: int, now: float) -> None:
        """See Meter."""
        self._level = min(float(self.limit), self.left(now) + taken.units - units)
        taken.units = units


class FixedWindow:
    """Counts from nothing whenever the clock comes to a multiple of the window."""

    def __init__(self, limit: int, window_seconds: float) -> None:
        self.limit = limit
        self._window_seconds = window_seconds
        self._index = 0
        self._used = 0

    def left(self, now: float) -> float:
        """See Meter."""
        index = math.floor(now / self._window_seconds)
        if index != self._index:
            self._index, self._used = index, 0
        return self.limit - self._used

    def wait_seconds(self, units: int, now: float) -> float:
        """See Meter."""
        if units > self.limit:
            return NEVER
        return 0.0 if units <= self.left(now) else self._to_the_next(now)

    def reset_seconds(self, now: float) -> float:
        """See Meter."""
        return self._to_the_next(now) if self.left(now) < self.limit else 0.0

    def take(self, units: int, now: float) -> Taken:
        """See Meter."""
        self.left(now)
        self._used += units
        return Taken(now, units)

    def correct(self, taken: Taken, units: int, now: float) -> None:
        """See Meter."""
        self.left(now)
        if math.floor(taken.at / self._window_seconds) == self._index:
            self._used += units - taken.units
        taken.units = units

    def _to_the_next(self, now: float) -> float:
        return max(0.0, (self._index + 1) * self._window_seconds - now)


class SlidingWindow:
    """Knows when each unit was admitted, and counts those of the last window."""

    def __init__(self, limit: int, window_seconds: float) -> None:
        self.limit = limit
        self._window_seconds = window_seconds
        self._log: deque[Taken] = deque()
        self._used = 0

    def left(self, now: float) -> float:
        """See Meter."""
        # The same sum as in `_leaves_at`, so that what leaves at a time has left at that time.
        while self._log and self._leaves_at(self._log[0]) <= now:
            oldest = self._log.popleft()
            oldest.counted = False
            self._used -= oldest.units
        return self.limit - self._used

    def wait_seconds(self, units: int, now: float) -> float:
        """See Meter."""
        if units > self.limit:
            return NEVER
        missing = units - self.left(now)
        if missing <= 0:
            return 0.0
        for taken in self._log:
            missing -= taken.units
            if missing <= 0:
                return self._leaves_at(taken) - now
        return self.reset_seconds(now)

    def reset_seconds(self, now: float) -> float:
        """See Meter."""
        self.left(now)
        return self._leaves_at(self._log[-1]) - now if self._log else 0.0

    def take(self, units: int, now: float) -> Taken:
        """See Meter."""
        taken = Taken(now, units)
        self._log.append(taken)
        self._used += units
        return taken

    def correct(self, taken: Taken, units: int, now: float) -> None:
        """See Meter."""
        self.left(now)
        if taken.counted:
            self._used += units - taken.units
        taken.units = units

    def _leaves_at(self, taken: Taken) -> float:
        return taken.at + self._window_seconds


_METERS: dict[LimitKind, type[TokenBucket | FixedWindow | SlidingWindow]] = {
    LimitKind.TOKEN_BUCKET: TokenBucket,
    LimitKind.FIXED_WINDOW: FixedWindow,
    LimitKind.SLIDING_WINDOW: SlidingWindow,
}


def make_meter(kind: LimitKind, limit: int, window_seconds: float) -> Meter:
    """Return a meter that has counted nothing."""
    return _METERS[kind](limit, window_seconds)


@dataclass(frozen=True, slots=True)
class Limit:
    """What may be used of each dimension: rates in one window, concurrency at once.

    `account` is an API key, or "*" for each one by itself; `model` a glob, None for all models together.
    """

    account: str
    model: str | None
    kind: LimitKind
    window_seconds: float
    limits: Mapping[str, int]

    def covers(self, account: str, model: str) -> bool:
        """Say whether such a request is counted."""
        return self.account in ("*", account) and (self.model is None or fnmatchcase(model, self.model))

    def to_json(self) -> dict[str, Any]:
        """Return it as an admin call gives it."""
        named = {"account": self.account, "model": self.model, "kind": self.kind.value}
        return {**named, "window_seconds": self.window_seconds, **self.limits}


@dataclass(frozen=True, slots=True)
class Standing:
    """How one dimension of an account stands: whole units left, and seconds until all are."""

    dimension: str
    limit: int
    left: int
    reset_seconds: float


@dataclass(frozen=True, slots=True)
class Shortage:
    """Why a request is refused: the dimension that keeps it waiting longest, and how long; NEVER if it asks for more
    than there ever is.
    """

    dimension: str
    limit: int
    used: int
    asked: int
    window_seconds: float
    wait_seconds: float


@dataclass(slots=True)
class Entry:
    """One admitted request in one account's books."""

    at: float
    charge: Charge
    taken: dict[str, Taken]


class AccountLimiter:
    """One limit of one account: all its meters, and the books of what was used."""

    def __init__(self, limit: Limit, account: str, *, now: float) -> None:
        self.limit = limit
        self.account = account
        self.since = now
        self.admitted = 0
        self.refused = 0
        self.in_flight = 0
        self.peak = 0
        self._now = now
        self._answer_seconds = _FIRST_ANSWER_SECONDS
        self._meters = {
            name: make_meter(limit.kind, limit.limits[name], limit.window_seconds)
            for name in RATES
            if name in limit.limits
        }
        self._used: Counter[str] = Counter()
        self._by_window: dict[int, Counter[str]] = {}

    def shortage(self, charge: Charge, *, now: float) -> Shortage | None:
        """Say why a request cannot be admitted now, or None; changes nothing."""
        return max(self._shortages(charge, self._steady(now)), key=lambda one: one.wait_seconds, default=None)

    def _shortages(self, charge: Charge, now: float) -> Iterator[Shortage]:
        seconds = self.limit.window_seconds
        for name, meter in self._meters.items():
            asked = charge.units(name)
            wait = meter.wait_seconds(asked, now)
            if wait > 0:
                yield Shortage(name, meter.limit, math.ceil(meter.limit - meter.left(now)), asked, seconds, wait)
        most = self.limit.limits.get(CONCURRENCY)
        if most is not None and self.in_flight >= most:
            # Nobody knows when the next answer ends; on the average that many end in the time of one.
            wait = max(_SHORTEST_WAIT_SECONDS, self._answer_seconds / self.in_flight)
            yield Shortage(CONCURRENCY, most, self.in_flight, 1, seconds, wait)

    def take(self, charge: Charge, *, now: float) -> Entry:
        """Admit a request that `shortage` has nothing against."""
        now = self._steady(now)
        self.admitted += 1
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        self._book(now, charge, 1)
        return Entry(now, charge, {name: meter.take(charge.units(name), now) for name, meter in self._meters.items()})

    def finish(self, entry: Entry, used: Charge, *, now: float) -> None:
        """Take back what was admitted and not used, and let another one begin."""
        now = self._steady(now)
        self.in_flight -= 1
        self._answer_seconds += _WEIGHT_OF_LAST_ANSWER * (now - entry.at - self._answer_seconds)
        for name, taken in entry.taken.items():
            self._meters[name].correct(taken, used.units(name), now)
        self._book(entry.at, entry.charge, -1)
        self._book(entry.at, used, 1)

    def standings(self, *, now: float) -> list[Standing]:
        """How each rate stands."""
        now = self._steady(now)
        return [
            Standing(name, meter.limit, max(0, math.floor(meter.left(now))), meter.reset_seconds(now))
            for name, meter in self._meters.items()
        ]

    def to_json(self, *, now: float) -> dict[str, Any]:
        """Return the books: units left now, used since the start, and in each whole window since, as the clock divides
        time.
        """
        now = self._steady(now)
        seconds = self.limit.window_seconds
        current = math.floor(now / seconds)
        first = max(math.ceil(self.since / seconds), current - _WINDOWS_KEPT)
        return {
            "model": self.limit.model,
            "kind": self.limit.kind.value,
            "window_seconds": seconds,
            "since": self.since,
            "now": now,
            "admitted": self.admitted,
            "refused": self.refused,
            "in_flight": self.in_flight,
            "peak": self.peak,
            "limits": self.limit.limits,
            "left": {one.dimension: one.left for one in self.standings(now=now)},
            "used": {name: self._used[name] for name in RATES},
            "windows": [
                {"start": index * seconds, **{name: self._by_window.get(index, Counter())[name] for name in RATES}}
                for index in range(first, current)
            ],
        }

    def _book(self, at: float, charge: Charge, sign: int) -> None:
        index = math.floor(at / self.limit.window_seconds)
        window = self._by_window.setdefault(index, Counter())
        for name in RATES:
            units = sign * charge.units(name)
            window[name] += units
            self._used[name] += units
        while len(self._by_window) > 2 * _WINDOWS_KEPT:
            del self._by_window[min(self._by_window)]

    def _steady(self, now: float) -> float:
        # The wall clock may be set back, and a meter's must not be.
        self._now = max(self._now, now)
        return self._now
