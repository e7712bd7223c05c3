"""Readiness that neither flaps nor floods: lost at once, regained after quiet, and held back when it comes and goes."""

from __future__ import annotations

from collections import deque

from dataplane.health.policy import HOUR_SECONDS, HealthPolicy


class Gate:
    """See the module. `is_open` since `since`."""

    def __init__(self, policy: HealthPolicy, *, now: float) -> None:
        self.is_open = False
        self.since = now
        self._policy = policy
        self._clear_since: float | None = None
        self._losses: deque[float] = deque()
        self._was_open = False

    def step(self, *, is_clear: bool, now: float) -> bool:
        """Let time pass; return whether it is open. `is_clear`: nothing speaks against it now."""
        if not is_clear:
            self._clear_since = None
            if self.is_open:
                self.is_open, self.since = False, now
                self._losses.append(now)
            return False
        if self._clear_since is None:
            self._clear_since = now
        if not self.is_open and now - self._clear_since >= self._quiet_seconds(now):
            self.is_open, self.since, self._was_open = True, now, True
        return self.is_open

    def is_held(self, *, now: float) -> bool:
        """Whether it was lost so often lately that it needs a longer quiet than usual."""
        self._forget(now)
        return not self.is_open and len(self._losses) >= self._policy.flips_per_hour

    def restart(self, *, now: float) -> None:
        """Another process was started: its first readiness is not regained, and waits for nothing."""
        if self.is_open:
            self.is_open, self.since = False, now
        self._clear_since, self._was_open = None, False

    def _quiet_seconds(self, now: float) -> float:
        if self.is_held(now=now):
            return self._policy.flap_hold_seconds
        return self._policy.clear_seconds if self._was_open else 0.0

    def _forget(self, now: float) -> None:
        while self._losses and now - self._losses[0] >= HOUR_SECONDS:
            self._losses.popleft()
