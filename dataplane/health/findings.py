"""What can be wrong, as data: what it means, what to do, and what each may bring about.

`drains`: not ready while it stands. `spares`: nothing is restarted while it stands, since a restart would not mend it
or could not come up again. Liveness ends an engine for `wedged` and `load_stuck` alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Kind:
    """One thing that can be wrong."""

    code: str
    means: str
    advice: str
    drains: bool = False
    spares: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """Something is wrong since `since` (monotonic seconds)."""

    kind: Kind
    since: float
    detail: str

    @property
    def words(self) -> str:
        """One line for whoever asks."""
        told = f"{self.kind.code}: {self.detail or self.kind.means}"
        return f"{told}; {self.kind.advice}" if self.kind.advice else told


NODE: Final = "drain node"
RESET: Final = "drain node, reset GPU"
RMA: Final = "drain node, replace the GPU"

KINDS: Final[dict[str, Kind]] = {
    one.code: one
    for one in (
        Kind("loading", "the engine loads its model", "wait", drains=True),
        Kind(
            "load_late", "loading takes longer than its budget, and goes on", "raise the budget, or look at the mirror"
        ),
        Kind("load_stuck", "loading shows no growth", "look at the engine's log and at the mirror", drains=True),
        Kind("warm_up_failed", "the first forward pass did not succeed", "look at the engine's log", drains=True),
        Kind("engine_gone", "nothing listens at the engine's port", "its container restarts by itself", drains=True),
        Kind("engine_unhealthy", "the engine calls itself unhealthy", "look at its log", drains=True),
        Kind("engine_blind", "the engine's counters cannot be read", "nothing, while canaries are answered"),
        Kind("engine_silent", "requests run, and nothing moves", "wait for the proof", drains=True),
        Kind("canary_failed", "one token was asked for and did not come", "wait for the proof", drains=True),
        Kind("canary_waits", "a canary waits behind requests that run", "nothing, while they get on"),
        Kind("canary_misfit", "the engine refuses the canary itself", "check the model's name and the engine's kind"),
        Kind("wedged", "proven twice that nothing comes out of it", "restart the engine", drains=True),
        Kind("queue_full", "more waits than is soon done", "send less, or add replicas", drains=True),
        Kind("kv_full", "the KV cache is full and requests are thrown out", "send less, or shorter", drains=True),
        Kind("flapping", "readiness was lost too often in an hour", "find out why it comes and goes", drains=True),
        Kind("kill_limit", "it was restarted as often as an hour allows", "a restart does not mend it", spares=True),
        Kind("mirror_away", "the place that weights come from is away", "restore the mirror", spares=True),
        Kind("no_gpu", "no GPU is seen", ""),
        Kind("nvml_error", "NVML answers with an error", "look at the driver"),
        Kind("nvml_hang", "a call of NVML does not return", NODE, drains=True, spares=True),
        Kind("gpu_lost", "a GPU fell off the bus", NODE, drains=True, spares=True),
        Kind("xid_reset", "an XID that only a reset of the GPU ends", RESET, drains=True, spares=True),
        Kind("xid_application", "an XID that a restart of the application ends", "restart, if canaries fail"),
        Kind("xid_noted", "an XID that needs nothing at once", ""),
        Kind("ecc_uncontained", "memory errors that were not contained", RESET, drains=True, spares=True),
        Kind("ecc_corrected", "many memory errors were corrected", "watch it"),
        Kind("remap_pending", "rows of memory wait to be remapped", RESET, drains=True, spares=True),
        Kind("remap_failed", "no row is left to remap to", RMA, drains=True, spares=True),
        Kind("pages_pending", "pages of memory wait to be retired", RESET, drains=True, spares=True),
        Kind("thermal_throttle", "the GPU is slowed down for its heat", "look at cooling", drains=True, spares=True),
        Kind(
            "power_brake",
            "the GPU is slowed down by its power supply",
            "look at the rack's power",
            drains=True,
            spares=True,
        ),
        Kind("soft_throttle", "the driver slows the GPU down for its heat or power", "watch it"),
    )
}


class Findings:
    """What stands now, since when. The one place that remembers."""

    def __init__(self) -> None:
        self._standing: dict[str, Finding] = {}

    def set(self, code: str, *, stands: bool, now: float, detail: str = "") -> None:
        """Let a finding stand or go; `since` is when it began to stand."""
        if not stands:
            self._standing.pop(code, None)
            return
        before = self._standing.get(code)
        self._standing[code] = Finding(KINDS[code], now if before is None else before.since, detail)

    def __contains__(self, code: str) -> bool:
        return code in self._standing

    def get(self, code: str) -> Finding | None:
        """The finding, if it stands."""
        return self._standing.get(code)

    def standing(self) -> tuple[Finding, ...]:
        """All that stand, the oldest first."""
        return tuple(sorted(self._standing.values(), key=lambda one: (one.since, one.kind.code)))

    def draining(self) -> tuple[Finding, ...]:
        """Those that take the engine out of service."""
        return tuple(one for one in self.standing() if one.kind.drains)

    def sparing(self) -> tuple[Finding, ...]:
        """Those for which nothing is restarted."""
        return tuple(one for one in self.standing() if one.kind.spares)
