"""An engine that lives and has more than it can do: its queue and its KV cache."""

from __future__ import annotations

from collections import deque

from dataplane.health.findings import Findings
from dataplane.health.observations import EngineReading, Reach
from dataplane.health.policy import HealthPolicy

PREEMPTION_SECONDS = 30.0
# It ends at nine tenths of where it begins, or it would come and go with every request.
RELIEF = 0.9


class Strain:
    """Sets `queue_full` and `kv_full` after they held for a while, and lets them go below a lower mark."""

    def __init__(self, policy: HealthPolicy, findings: Findings) -> None:
        self._policy = policy
        self._findings = findings
        self._since: dict[str, float] = {}
        self._preemptions: deque[tuple[float, float]] = deque()

    def observe(self, reading: EngineReading, *, finished_per_second: float | None) -> None:
        """Take in a look; one that brought no numbers changes nothing."""
        if reading.reach is not Reach.OK:
            return
        self._look_at_queue(reading, finished_per_second)
        self._look_at_cache(reading)

    def clear(self, *, now: float) -> None:
        """Another process has neither."""
        self._since.clear()
        self._preemptions.clear()
        for code in ("queue_full", "kv_full"):
            self._findings.set(code, stands=False, now=now)

    def _look_at_queue(self, reading: EngineReading, rate: float | None) -> None:
        policy, waiting = self._policy, reading.waiting
        mark = RELIEF if "queue_full" in self._findings else 1.0
        wait = None if waiting is None or not rate else waiting / rate
        long = waiting is not None and waiting > policy.queue_limit * mark
        # A handful that waits for long is the length of answers, not a queue.
        slow = wait is not None and wait > policy.queue_wait_seconds * mark and (waiting or 0) > (reading.running or 0)
        detail = f"{waiting or 0:.0f} wait" + ("" if wait is None else f", {wait:.0f} s at this rate")
        self._hold("queue_full", long or slow, detail, now=reading.at)

    def _look_at_cache(self, reading: EngineReading) -> None:
        mark = RELIEF if "kv_full" in self._findings else 1.0
        full = reading.kv_used is not None and reading.kv_used > self._policy.kv_limit * mark
        thrown = self._thrown_out(reading)
        # Without a count of preemptions, somebody who waits for room is the next best sign.
        pressed = (reading.waiting or 0) > 0 if thrown is None else thrown > 0
        detail = f"{(reading.kv_used or 0) * 100:.0f} % in use" + (
            "" if thrown is None else f", {thrown:.0f} thrown out"
        )
        self._hold("kv_full", full and pressed, detail, now=reading.at)

    def _thrown_out(self, reading: EngineReading) -> float | None:
        if reading.preemptions is None:
            return None
        self._preemptions.append((reading.at, reading.preemptions))
        while reading.at - self._preemptions[0][0] > PREEMPTION_SECONDS:
            self._preemptions.popleft()
        return reading.preemptions - self._preemptions[0][1]

    def _hold(self, code: str, holds: bool, detail: str, *, now: float) -> None:
        if not holds:
            self._since.pop(code, None)
            self._findings.set(code, stands=False, now=now)
            return
        since = self._since.setdefault(code, now)
        if now - since >= self._policy.strain_seconds:
            self._findings.set(code, stands=True, now=now, detail=detail)
