"""Asking NVIDIA's management library. Every call here may block for ever, so all of it runs in the watchdog's thread.

The module (nvidia-ml-py's `pynvml`) is an argument: there may be none, and tests give one of their own.
Source: https://docs.nvidia.com/deploy/nvml-api/, groups *Device Queries*, *Event Handling* and *Clocks Event Reasons*.
"""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from dataplane.health.observations import GpuReading, GpuReport, GpuState

# Bits of the clocks' event reasons (nvml.h) by the names that findings use.
THROTTLES: Final[dict[str, int]] = {
    "sw_power_cap": 0x4,
    "hw_slowdown": 0x8,
    "sw_thermal": 0x20,
    "hw_thermal": 0x40,
    "power_brake": 0x80,
}
VOLATILE: Final = 0
CORRECTED: Final = 0
UNCORRECTED: Final = 1
XID_EVENT: Final = 0x8
GPU_TEMPERATURE: Final = 0
GPU_IS_LOST: Final = 15
NOTHING_THERE: Final = frozenset({9, 12})  # NVML_ERROR_DRIVER_NOT_LOADED, NVML_ERROR_LIBRARY_NOT_FOUND
TIMED_OUT: Final = 10
MOST_EVENTS: Final = 100
UNKNOWN_DEVICE: Final = "unknown device"
GPU_UUID: Final = re.compile(r"GPU-[0-9a-fA-F][0-9a-fA-F-]*")


def load_nvml() -> Any:
    """Return nvidia-ml-py's module, or None where it is not installed."""
    try:
        return importlib.import_module("pynvml")
    except ImportError:
        return None


def chosen_gpus(text: str) -> Callable[[], frozenset[str]]:
    """Return what says which devices are the engine's: UUIDs with commas between, or the path of a file that holds
    them, as `nvidia-smi -L` writes it. While that file is not there, nothing is chosen.
    """
    if GPU_UUID.search(text):
        named = frozenset(GPU_UUID.findall(text))
        return lambda: named

    def read() -> frozenset[str]:
        try:
            return frozenset(GPU_UUID.findall(Path(text).read_text(encoding="utf-8", errors="replace")))
        except OSError:
            return frozenset()

    return read


class NvmlReader:
    """Reads the engine's devices and their XIDs since the last look. Used from one thread."""

    def __init__(
        self,
        module: Any,
        *,
        chosen: Callable[[], frozenset[str]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`module` None: every report says that there is no GPU. `chosen` None: all devices that are seen."""
        self._nvml = module
        self._chosen = chosen
        self._clock = clock
        self._is_open = False
        self._events: Any = None
        self._uuids: list[str] = []
        self._handles: list[Any] = []

    def read(self) -> GpuReport:
        """Return a report; never raises for what NVML says."""
        if self._nvml is None:
            return GpuReport(self._clock(), GpuState.NONE, detail="nvidia-ml-py is not installed")
        try:
            if not self._is_open:
                self._open()
            if not self._handles:
                return GpuReport(self._clock(), GpuState.NONE, detail="NVML sees no device")
            # XIDs first: what they say explains what the counters of the same look show.
            xids = self._read_events()
            ours = frozenset(self._uuids) if self._chosen is None else self._chosen()
            if not ours & frozenset(self._uuids):
                return GpuReport(self._clock(), GpuState.NONE, detail="which GPUs are the engine's is not known")
            # A neighbour's GPU on the same node may burn: it is no fault of ours.
            xids = tuple((uuid, xid) for uuid, xid in xids if uuid in ours or uuid == UNKNOWN_DEVICE)
            devices = tuple(
                self._read_device(handle, uuid)
                for handle, uuid in zip(self._handles, self._uuids, strict=True)
                if uuid in ours
            )
        except self._nvml.NVMLError as exc:
            self._is_open = False
            state = GpuState.NONE if _code(exc) in NOTHING_THERE else GpuState.ERROR
            return GpuReport(self._clock(), state, detail=str(exc))
        return GpuReport(self._clock(), GpuState.OK, devices, xids)

    def _open(self) -> None:
        nvml = self._nvml
        nvml.nvmlInit()
        self._handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        self._uuids = [_text(nvml.nvmlDeviceGetUUID(handle)) for handle in self._handles]
        self._events = None
        if self._handles:
            events = nvml.nvmlEventSetCreate()
            try:
                for handle in self._handles:
                    nvml.nvmlDeviceRegisterEvents(handle, XID_EVENT, events)
                self._events = events
            except nvml.NVMLError:  # old devices and some containers have no events; the counters are left
                nvml.nvmlEventSetFree(events)
        self._is_open = True

    def _read_events(self) -> tuple[tuple[str, int], ...]:
        if self._events is None:
            return ()
        found: list[tuple[str, int]] = []
        while len(found) < MOST_EVENTS:
            try:
                event = self._nvml.nvmlEventSetWait_v2(self._events, 0)
            except self._nvml.NVMLError as exc:
                if _code(exc) == TIMED_OUT:  # nothing more has happened
                    break
                if _code(exc) == GPU_IS_LOST:  # the device fell off the bus, which its own reading tells
                    break
                raise
            if event.eventType == XID_EVENT:
                found.append((self._uuid_of(event.device), int(event.eventData)))
        return tuple(found)

    def _uuid_of(self, handle: Any) -> str:
        try:
            return _text(self._nvml.nvmlDeviceGetUUID(handle))
        except self._nvml.NVMLError:
            return UNKNOWN_DEVICE

    def _read_device(self, handle: Any, uuid: str) -> GpuReading:
        nvml = self._nvml
        try:
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        except nvml.NVMLError as exc:
            if _code(exc) == GPU_IS_LOST:
                return GpuReading(uuid, is_lost=True)
            memory = None
        remapped = self._optional(nvml.nvmlDeviceGetRemappedRows, handle)
        pages = self._optional(nvml.nvmlDeviceGetRetiredPagesPendingStatus, handle)
        reasons = self._reasons(handle)
        return GpuReading(
            uuid,
            name=_text(self._optional(nvml.nvmlDeviceGetName, handle) or ""),
            memory_used_bytes=None if memory is None else int(memory.used),
            memory_total_bytes=None if memory is None else int(memory.total),
            temperature_celsius=self._optional(nvml.nvmlDeviceGetTemperature, handle, GPU_TEMPERATURE),
            ecc_uncorrected=self._optional(nvml.nvmlDeviceGetTotalEccErrors, handle, UNCORRECTED, VOLATILE),
            ecc_corrected=self._optional(nvml.nvmlDeviceGetTotalEccErrors, handle, CORRECTED, VOLATILE),
            # (corrected, uncorrected, is pending, a failure has occurred)
            remap_pending=None if remapped is None else bool(remapped[2]),
            remap_failed=None if remapped is None else bool(remapped[3]),
            retired_pending=None if pages is None else bool(pages),
            throttle=frozenset(name for name, bit in THROTTLES.items() if reasons & bit),
        )

    def _reasons(self, handle: Any) -> int:
        nvml = self._nvml
        # The older name is what drivers before 535 know.
        for name in ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"):
            function = getattr(nvml, name, None)
            reasons = None if function is None else self._optional(function, handle)
            if reasons is not None:
                return int(reasons)
        return 0

    def _optional(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a device may not have is None: a GeForce has no ECC, a Volta remaps no rows."""
        try:
            return function(*arguments)
        except self._nvml.NVMLError:
            return None


def _code(error: Any) -> int | None:
    """The number that NVML returned; nvidia-ml-py keeps it in `value`."""
    value = getattr(error, "value", None)
    return value if isinstance(value, int) else None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
