"""When to let Kubernetes restart an engine: proven twice that it is wedged, the node healthy, and not too often."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from dataplane.health.policy import HOUR_SECONDS, HealthPolicy

# A canary that fails while an application's XID stands is the second proof only once readiness is lost too.
UNHEALTHY_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class Silence:
    """What is known of an engine from which nothing comes.

    `seconds` since its last sign of life; `is_busy` None when it does not say; `failures` of canaries in a row since
    then, the first of which `began_idle` if nothing ran before it. `had_xid`: an error of an application since then.
    `unhealthy_seconds`: for how long it has called itself unhealthy.
    """

    seconds: float
    is_busy: bool | None
    running: float | None
    failures: int
    began_idle: bool
    had_xid: bool
    unhealthy_seconds: float


def proof_of_wedge(silence: Silence, policy: HealthPolicy, *, ready_bound: float, kill_bound: float) -> str | None:
    """Return the two proofs in words, or None while one is missing."""
    if silence.seconds <= ready_bound:
        return None
    quiet = f"nothing moved for {silence.seconds:.0f} s"
    late = f"{silence.failures} canaries in a row failed"
    if silence.failures >= 1 and silence.had_xid:
        return f"{quiet} after an XID of the application, and {late}"
    if silence.failures >= 1 and silence.unhealthy_seconds >= UNHEALTHY_SECONDS:
        return f"it calls itself unhealthy for {silence.unhealthy_seconds:.0f} s, and {late}"
    # After a canary that hung, the engine may well say that something runs: the canary.
    is_idle = silence.began_idle and (silence.running is None or silence.running <= silence.failures)
    if is_idle and silence.failures >= policy.canary_failures:
        return f"idle, and {late}"
    if silence.is_busy is not False and silence.seconds > kill_bound:
        if silence.failures >= 1:
            return f"{quiet}, longer than the longest prompt may take ({kill_bound:.0f} s), and {late}"
        if not policy.canary_enabled and silence.seconds > 2 * kill_bound:
            return f"{quiet}, twice as long as the longest prompt may take ({kill_bound:.0f} s)"
    return None


class KillBudget:
    """How often an hour liveness may end the engine, so that no crash loop is made by us."""

    def __init__(self, policy: HealthPolicy) -> None:
        self._policy = policy
        self._kills: deque[float] = deque()
        self.total = 0

    def may(self, *, now: float) -> bool:
        """Whether one more is within the limit."""
        while self._kills and now - self._kills[0] >= HOUR_SECONDS:
            self._kills.popleft()
        return len(self._kills) < self._policy.kills_per_hour

    def spend(self, *, now: float) -> None:
        """Count one."""
        self._kills.append(now)
        self.total += 1
