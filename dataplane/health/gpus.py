"""From what NVML says to findings."""

from __future__ import annotations

from collections import deque

from dataplane.health.findings import Findings
from dataplane.health.observations import GpuReading, GpuReport, GpuState
from dataplane.health.policy import HOUR_SECONDS, HealthPolicy
from dataplane.health.xids import describe_xid

# A contained error (XID 94) is counted by ECC too, and may be seen a look before or after it.
CONTAINED_SECONDS = 60.0
CONFIRM_SECONDS = 10.0
CONTAINED = 94
SOFT = frozenset({"sw_thermal", "sw_power_cap"})


class GpuWatch:
    """Keeps what one report does not tell: what was counted before, and since when a GPU is throttled.

    What only a reset or another GPU ends stands until this process ends: a driver that answers again proves nothing.
    """

    def __init__(self, policy: HealthPolicy, findings: Findings) -> None:
        self.application_xid_at: float | None = None
        self.last: GpuReport | None = None
        self.xids: deque[tuple[float, str, int]] = deque(maxlen=100)
        self._policy = policy
        self._findings = findings
        self._uncorrected: dict[str, int] = {}
        self._suspected: dict[str, tuple[float, int]] = {}
        self._corrected: dict[str, deque[tuple[float, int]]] = {}
        self._throttled_since: dict[str, float] = {}
        self._contained_at: float | None = None

    def observe(self, report: GpuReport) -> None:
        """Take a report in."""
        now, findings = report.at, self._findings
        self.last = report
        findings.set("nvml_hang", stands=report.state is GpuState.HUNG, now=now, detail=report.detail)
        findings.set("nvml_error", stands=report.state is GpuState.ERROR, now=now, detail=report.detail)
        findings.set("no_gpu", stands=report.state is GpuState.NONE, now=now, detail=report.detail)
        for uuid, xid in report.xids:
            self._count_xid(uuid, xid, now=now)
        if report.state is not GpuState.OK:
            return
        for device in report.devices:
            if device.is_lost:
                findings.set("gpu_lost", stands=True, now=now, detail=f"{device.uuid} does not answer")
                continue
            self._look_at_memory(device, now=now)
            self._look_at_ecc(device, now=now)
        self._look_at_throttling(report.devices, now=now)

    def expire(self, *, now: float) -> None:
        """Let go of XIDs that were of the moment."""
        for code in ("xid_application", "xid_noted"):
            finding = self._findings.get(code)
            if finding is not None and now - finding.since > self._policy.xid_seconds:
                self._findings.set(code, stands=False, now=now)

    def _count_xid(self, uuid: str, number: int, *, now: float) -> None:
        self.xids.append((now, uuid, number))
        row = describe_xid(number)
        if number == CONTAINED:
            self._contained_at = now
        if row.finding == "xid_application":
            self.application_xid_at = now
            self._findings.set("xid_application", stands=False, now=now)  # the latest is what counts
        detail = f"XID {number} on {uuid} ({row.name}): {row.means}"
        self._findings.set(row.finding, stands=True, now=now, detail=detail)

    def _look_at_memory(self, device: GpuReading, *, now: float) -> None:
        if device.remap_failed:
            self._findings.set("remap_failed", stands=True, now=now, detail=device.uuid)
        if device.remap_pending:
            self._findings.set("remap_pending", stands=True, now=now, detail=device.uuid)
        if device.retired_pending:
            self._findings.set("pages_pending", stands=True, now=now, detail=device.uuid)

    def _look_at_ecc(self, device: GpuReading, *, now: float) -> None:
        if device.ecc_uncorrected is not None:
            # What was counted before we came was somebody's who is gone, and remapping tells whether it still matters.
            before = self._uncorrected.setdefault(device.uuid, device.ecc_uncorrected)
            if device.ecc_uncorrected > before:
                self._uncorrected[device.uuid] = device.ecc_uncorrected
                self._suspected.setdefault(device.uuid, (now, device.ecc_uncorrected - before))
            self._confirm(device.uuid, now=now)
        if device.ecc_corrected is not None:
            seen = self._corrected.setdefault(device.uuid, deque())
            seen.append((now, device.ecc_corrected))
            while now - seen[0][0] > HOUR_SECONDS:
                seen.popleft()
            more = device.ecc_corrected - seen[0][1]
            if more > self._policy.corrected_per_hour:
                self._findings.set("ecc_corrected", stands=True, now=now, detail=f"{more} on {device.uuid} in an hour")

    def _confirm(self, uuid: str, *, now: float) -> None:
        """Errors that no XID called contained, a moment after they were counted, were not."""
        if uuid not in self._suspected:
            return
        counted_at, number = self._suspected[uuid]
        if self._contained_at is not None and abs(counted_at - self._contained_at) <= CONTAINED_SECONDS:
            del self._suspected[uuid]
        elif now - counted_at >= CONFIRM_SECONDS:
            del self._suspected[uuid]
            self._findings.set("ecc_uncontained", stands=True, now=now, detail=f"{number} on {uuid}")

    def _look_at_throttling(self, devices: tuple[GpuReading, ...], *, now: float) -> None:
        for code, names in (
            ("thermal_throttle", frozenset({"hw_thermal"})),
            ("power_brake", frozenset({"power_brake"})),
            ("soft_throttle", SOFT),
        ):
            slowed = [device for device in devices if device.throttle & names]
            if not slowed:
                self._throttled_since.pop(code, None)
                self._findings.set(code, stands=False, now=now)
                continue
            since = self._throttled_since.setdefault(code, now)
            if now - since >= self._policy.throttle_seconds:
                detail = ", ".join(
                    one.uuid + (f" at {one.temperature_celsius} °C" if one.temperature_celsius is not None else "")
                    for one in slowed
                )
                self._findings.set(code, stands=True, now=now, detail=detail)
