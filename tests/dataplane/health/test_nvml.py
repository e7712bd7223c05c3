"""Asking NVML, by a module that is an argument."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from dataplane.health.nvml import NvmlReader, chosen_gpus, load_nvml
from dataplane.health.observations import GpuReading, GpuState


class FakeNvml:
    """As nvidia-ml-py's `pynvml`: one device, whose calls can be made to fail by name."""

    class NVMLError(Exception):
        def __init__(self, value: int) -> None:
            super().__init__(f"error {value}")
            self.value = value

    def __init__(self, *, devices: int = 1, fails: dict[str, int] | None = None) -> None:
        self.devices = devices
        self.fails = fails or {}
        self.events: list[SimpleNamespace] = []
        self.inits = 0

    def __getattr__(self, name: str):
        if not name.startswith("nvml"):
            raise AttributeError(name)
        answers = {
            "nvmlDeviceGetCount": lambda: self.devices,
            "nvmlDeviceGetHandleByIndex": lambda index: f"handle-{index}",
            "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle[-1]}".encode(),
            "nvmlDeviceGetName": lambda handle: "NVIDIA H100",
            "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(used=70_000, total=80_000),
            "nvmlDeviceGetTemperature": lambda handle, sensor: 71,
            "nvmlDeviceGetTotalEccErrors": lambda handle, kind, counter: {0: 12, 1: 2}[kind],
            "nvmlDeviceGetRemappedRows": lambda handle: [1, 0, 1, 0],
            "nvmlDeviceGetRetiredPagesPendingStatus": lambda handle: 0,
            "nvmlDeviceGetCurrentClocksEventReasons": lambda handle: 0x40 | 0x4,
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda handle: 0x80,
            "nvmlEventSetCreate": lambda: "events",
            "nvmlEventSetFree": lambda events: None,
            "nvmlDeviceRegisterEvents": lambda handle, kinds, events: None,
        }

        def call(*arguments):
            if name in self.fails:
                raise self.NVMLError(self.fails[name])
            if name == "nvmlInit":
                self.inits += 1
                return None
            if name == "nvmlEventSetWait_v2":
                if not self.events:
                    raise self.NVMLError(10)
                return self.events.pop(0)
            return answers[name](*arguments)

        return call

    def happen(self, xid: int, *, kind: int = 0x8) -> None:
        self.events.append(SimpleNamespace(device="handle-0", eventType=kind, eventData=xid))


def test_device_is_read_whole():
    """Memory, temperature, both ECC counts, remapping, pages and reasons to throttle."""
    report = NvmlReader(FakeNvml(), clock=lambda: 7.0).read()

    assert (report.at, report.state, report.memory_used_bytes) == (7.0, GpuState.OK, 70_000)
    assert report.devices == (
        GpuReading(
            "GPU-0",
            name="NVIDIA H100",
            memory_used_bytes=70_000,
            memory_total_bytes=80_000,
            temperature_celsius=71,
            ecc_uncorrected=2,
            ecc_corrected=12,
            remap_pending=True,
            remap_failed=False,
            retired_pending=False,
            throttle=frozenset({"hw_thermal", "sw_power_cap"}),
        ),
    )


def test_xids_are_those_since_the_last_look():
    """Each is told once, with its device; events of other kinds are not XIDs."""
    nvml = FakeNvml()
    reader = NvmlReader(nvml)
    nvml.happen(31)
    nvml.happen(5, kind=0x1)
    nvml.happen(79)

    first, second = reader.read().xids, reader.read().xids

    assert first == (("GPU-0", 31), ("GPU-0", 79))
    assert second == ()
    assert nvml.inits == 1


def test_gpus_of_neighbours_are_not_looked_at():
    """On a node that several engines share, another's XID is another's."""
    nvml = FakeNvml(devices=2)
    reader = NvmlReader(nvml, chosen=chosen_gpus("GPU-1"))
    nvml.happen(79)  # of GPU-0

    report = reader.read()

    assert ([device.uuid for device in report.devices], report.xids) == (["GPU-1"], ())


def test_engines_gpus_are_read_from_where_its_container_wrote_them(tmp_path):
    """As `nvidia-smi -L` lists them; until then nothing is known of any."""
    path = tmp_path / "gpus"
    reader = NvmlReader(FakeNvml(devices=3), chosen=chosen_gpus(str(path)))
    before = reader.read()
    path.write_text("GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-0)\nGPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-2)\n")

    after = reader.read()

    assert (before.state, before.detail) == (GpuState.NONE, "which GPUs are the engine's is not known")
    assert [device.uuid for device in after.devices] == ["GPU-0", "GPU-2"]


def test_what_a_device_does_not_have_is_unknown():
    """A GeForce without ECC and remapping is read for the rest."""
    fails = dict.fromkeys(
        ("nvmlDeviceGetTotalEccErrors", "nvmlDeviceGetRemappedRows", "nvmlDeviceGetRetiredPagesPendingStatus"), 3
    )

    device = NvmlReader(FakeNvml(fails=fails)).read().devices[0]

    assert (device.ecc_uncorrected, device.remap_pending, device.retired_pending) == (None, None, None)
    assert device.memory_used_bytes == 70_000


def test_older_drivers_name_their_reasons_otherwise():
    """Before 535 the function had another name."""
    device = NvmlReader(FakeNvml(fails={"nvmlDeviceGetCurrentClocksEventReasons": 13})).read().devices[0]

    assert device.throttle == {"power_brake"}


@pytest.mark.parametrize("event_error", [10, 15])
def test_gpu_that_is_lost_is_told_from_one_that_errs(event_error):
    """Off the bus, it answers nothing but that; waiting for events may say so too."""
    lost = FakeNvml(fails={"nvmlDeviceGetMemoryInfo": 15, "nvmlEventSetWait_v2": event_error})

    assert NvmlReader(lost).read().devices == (GpuReading("GPU-0", is_lost=True),)


def test_devices_without_events_are_read_all_the_same():
    """Some containers may not register for them."""
    report = NvmlReader(FakeNvml(fails={"nvmlDeviceRegisterEvents": 3})).read()

    assert (report.state, report.xids, len(report.devices)) == (GpuState.OK, (), 1)


@pytest.mark.parametrize(
    ("nvml", "state"),
    [
        (FakeNvml(devices=0), GpuState.NONE),
        (FakeNvml(fails={"nvmlInit": 12}), GpuState.NONE),
        (FakeNvml(fails={"nvmlInit": 9}), GpuState.NONE),
        (FakeNvml(fails={"nvmlInit": 999}), GpuState.ERROR),
        (None, GpuState.NONE),
    ],
    ids=["no device", "no library", "no driver", "an error", "no module"],
)
def test_no_gpu_is_no_error(nvml, state):
    """Neither a machine without a GPU nor one without the module is broken."""
    assert NvmlReader(nvml).read().state is state


def test_after_an_error_it_begins_anew():
    """A driver that was loaded again gets another start."""
    nvml = FakeNvml(fails={"nvmlEventSetWait_v2": 999})
    reader = NvmlReader(nvml)
    broken = reader.read().state
    nvml.fails = {}

    assert (broken, reader.read().state, nvml.inits) == (GpuState.ERROR, GpuState.OK, 2)


def test_this_machine_is_asked_without_harm():
    """With nvidia-ml-py or without it, with a GPU or without one, a report comes."""
    assert NvmlReader(load_nvml()).read().state in set(GpuState) - {GpuState.HUNG}
