"""Whether an engine gets on, by the numbers that it shows: a pure state over its readings."""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Final

from dataplane.health.observations import Answer, EngineReading, Reach
from dataplane.health.policy import HealthPolicy

# Fewer tokens than this say nothing about a rate: fixed costs of a request would count as prefill.
LEAST_TOKENS: Final = 256
RATE_SECONDS: Final = 60.0
# So many measurements are remembered: the first pass of an engine, which also compiles, is forgotten in the end.
MEASUREMENTS: Final = 16


class Beat(Enum):
    """What a reading says beside the one before."""

    MOVED = "moved"
    STILL = "still"
    UNKNOWN = "unknown"
    RESTARTED = "restarted"


class Heartbeat:
    """See the module. `moved_at` is when it last got on, or began to be watched."""

    def __init__(self, *, now: float) -> None:
        self.moved_at = now
        self.last: EngineReading | None = None
        self.known: EngineReading | None = None
        self._prefills: deque[float] = deque(maxlen=MEASUREMENTS)
        self._seen: deque[tuple[float, float | None, float | None]] = deque()

    def observe(self, reading: EngineReading) -> Beat:
        """Take a reading in. Its signs are compared with the last ones that could be read, however long ago."""
        self.last = reading
        if reading.reach is not Reach.OK:
            return Beat.UNKNOWN
        before, self.known = self.known, reading
        self._remember(reading)
        if before is None:
            return Beat.UNKNOWN
        if _is_another_process(before, reading):
            self._seen.clear()
            self._remember(reading)
            self.moved_at = reading.at
            return Beat.RESTARTED
        self._measure(before, reading)
        shared = before.signs.keys() & reading.signs.keys()
        if not shared and not reading.signs:
            return Beat.UNKNOWN
        if any(before.signs[name] != reading.signs[name] for name in shared) or reading.signs.keys() - shared:
            self.moved_at = reading.at
            return Beat.MOVED
        return Beat.STILL

    def forget(self) -> None:
        """Another process follows: its first numbers are compared with nothing."""
        self.known = None
        self._seen.clear()

    def answered(self, answer: Answer) -> None:
        """An ask was answered, which is a sign of life, and may tell how fast prompts are read."""
        self.moved_at = max(self.moved_at, answer.at)
        if answer.prompt_tokens is not None and answer.prompt_tokens >= LEAST_TOKENS and answer.seconds > 0:
            self._prefills.append(answer.prompt_tokens / answer.seconds)

    @property
    def slowest_prefill(self) -> float | None:
        """The lowest rate, in prompt tokens per second, among the last measurements; None before the first."""
        return min(self._prefills) if self._prefills else None

    def kill_bound(self, policy: HealthPolicy) -> float:
        """For how many seconds the longest prompt may keep the engine from showing anything."""
        rate = self.slowest_prefill
        if rate is None:
            return policy.kill_unmeasured_seconds
        longest = policy.longest_prompt_tokens / rate * policy.prefill_margin
        return max(policy.kill_floor_seconds, longest)

    def ready_bound(self, policy: HealthPolicy) -> float:
        """After how many seconds of silence nobody is sent there any more: longer where one step takes long."""
        rate = self.slowest_prefill
        step = 0.0 if rate is None else policy.step_tokens / rate * policy.prefill_margin
        return min(max(policy.ready_silence_seconds, step), policy.ready_silence_max_seconds)

    def tokens_per_second(self) -> float | None:
        """Over the last minute; None when the engine does not count tokens."""
        return self._rate(1)

    def finished_per_second(self) -> float | None:
        """Requests that ended, over the last minute; None when the engine does not count them."""
        return self._rate(2)

    def _rate(self, at: int) -> float | None:
        if len(self._seen) < 2:
            return None
        first, last = self._seen[0], self._seen[-1]
        old, new = first[at], last[at]
        if old is None or new is None or last[0] <= first[0]:
            return None
        return max(0.0, new - old) / (last[0] - first[0])

    def _remember(self, reading: EngineReading) -> None:
        self._seen.append((reading.at, reading.tokens, reading.finished))
        while reading.at - self._seen[0][0] > RATE_SECONDS:
            self._seen.popleft()

    def _measure(self, before: EngineReading, after: EngineReading) -> None:
        if None in (before.prompt_tokens, before.prompt_seconds, after.prompt_tokens, after.prompt_seconds):
            return
        tokens = (after.prompt_tokens or 0.0) - (before.prompt_tokens or 0.0)
        seconds = (after.prompt_seconds or 0.0) - (before.prompt_seconds or 0.0)
        if tokens >= LEAST_TOKENS and seconds > 0:
            self._prefills.append(tokens / seconds)


def _is_another_process(before: EngineReading, after: EngineReading) -> bool:
    """Whether the engine was started anew between the two: its start differs, or its totals went backwards."""
    if before.started is not None and after.started is not None:
        return before.started != after.started
    pairs = ((before.tokens, after.tokens), (before.finished, after.finished))
    return any(old is not None and new is not None and new < old for old, new in pairs)
