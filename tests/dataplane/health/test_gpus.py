"""From NVML's counters, states and XIDs to findings, and the table of XIDs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dataplane.health.findings import KINDS, Findings
from dataplane.health.gpus import GpuWatch
from dataplane.health.observations import GpuReading, GpuReport, GpuState
from dataplane.health.xids import BLAMES, describe_xid, xid_table
from tests.dataplane.health.health_world import POLICY

GPU = GpuReading("GPU-1", ecc_uncorrected=3, ecc_corrected=10)


def watch(*reports: GpuReport) -> Findings:
    findings = Findings()
    gpus = GpuWatch(POLICY, findings)
    for report in reports:
        gpus.observe(report)
        gpus.expire(now=report.at)
    return findings


def report(at: float, *xids: int, **device) -> GpuReport:
    return GpuReport(at, GpuState.OK, (replace(GPU, **device),), tuple(("GPU-1", xid) for xid in xids))


def codes(findings: Findings) -> set[str]:
    return {one.kind.code for one in findings.standing()}


@pytest.mark.parametrize(
    ("xid", "code"),
    [
        (13, "xid_application"),
        (31, "xid_application"),
        (43, "xid_application"),
        (94, "xid_application"),
        (48, "xid_reset"),
        (95, "xid_reset"),
        (119, "xid_reset"),
        (74, "xid_reset"),
        (79, "gpu_lost"),
        (64, "remap_failed"),
        (63, "xid_noted"),
        (9999, "xid_noted"),
    ],
)
def test_xid_makes_the_finding_that_its_row_says(xid, code):
    """What an application did, a restart ends; what the hardware did, it does not; what is unknown is noted."""
    findings = watch(report(0), report(5, xid))

    assert codes(findings) == {code}
    assert f"XID {xid} on GPU-1" in findings.get(code).detail


def test_table_of_xids_is_whole_and_consistent():
    """Rows blame somebody, and none says both that a restart mends it and that the GPU has to be reset."""
    table = xid_table()

    assert len(table) >= 30
    assert {one.blame for one in table.values()} == BLAMES
    assert [one.xid for one in table.values() if one.restart and one.needs != "nothing"] == []
    assert [one.xid for one in table.values() if one.action == "RESET_GPU" and one.needs == "nothing"] == []
    assert [one.xid for one in table.values() if one.action == "RESTART_APP" and not one.restart] == []
    assert {one.finding for one in table.values()} <= KINDS.keys()
    assert describe_xid(79).blame == "bus"


def test_uncorrected_errors_of_before_are_somebody_elses():
    """The counter runs since the driver was loaded; only what is added counts."""
    assert codes(watch(report(0), report(5), report(20))) == set()


def test_uncorrected_errors_that_nothing_contained_want_a_reset():
    """It is known ten seconds later, for an XID may still say that they were contained."""
    suspected = watch(report(0), report(5, ecc_uncorrected=5))
    confirmed = watch(report(0), report(5, ecc_uncorrected=5), report(15, ecc_uncorrected=5))

    assert codes(suspected) == set()
    assert codes(confirmed) == {"ecc_uncontained"}
    assert confirmed.get("ecc_uncontained").detail == "2 on GPU-1"


@pytest.mark.parametrize("order", ["xid first", "counter first"])
def test_contained_error_is_the_applications(order):
    """XID 94 beside the counter, in either order, is ended by a restart."""
    first, second = (94,), ()
    if order == "counter first":
        first, second = second, first

    findings = watch(
        report(0), report(5, *first, ecc_uncorrected=4), report(10, *second, ecc_uncorrected=4), report(30)
    )

    assert codes(findings) == {"xid_application"}


def test_reset_stays_needed_however_quiet_it_becomes():
    """A driver that answers again proves nothing about memory."""
    findings = watch(report(0), report(5, 95), *(report(at) for at in range(10, 5000, 100)))

    assert codes(findings) == {"xid_reset"}
    assert findings.get("xid_reset").since == 5


def test_applications_xid_is_of_the_moment():
    """Ten minutes later it explains nothing any more."""
    assert codes(watch(report(0), report(5, 31), report(604))) == {"xid_application"}
    assert codes(watch(report(0), report(5, 31), report(606))) == set()


def test_remapping_says_what_it_waits_for():
    """Rows that wait want a reset; none left wants another GPU; pages of older GPUs are the same."""
    found = codes(watch(report(0, remap_pending=True, remap_failed=True, retired_pending=True)))

    assert found == {"remap_pending", "remap_failed", "pages_pending"}


def test_throttling_counts_once_it_lasts():
    """A minute of it is a finding, and it goes when it is over."""
    hot = {"throttle": frozenset({"hw_thermal"}), "temperature_celsius": 93}

    short = watch(report(0, **hot), report(55, **hot))
    lasting = watch(report(0, **hot), report(60, **hot))
    over = watch(report(0, **hot), report(60, **hot), report(65))

    assert (codes(short), codes(lasting), codes(over)) == (set(), {"thermal_throttle"}, set())
    assert lasting.get("thermal_throttle").detail == "GPU-1 at 93 °C"


def test_drivers_own_slowing_is_watched_and_drains_nothing():
    """Power capping is how many GPUs are run; a brake by the power supply is not."""
    soft = watch(*(report(at, throttle=frozenset({"sw_power_cap"})) for at in (0, 70)))
    brake = watch(*(report(at, throttle=frozenset({"power_brake"})) for at in (0, 70)))

    assert [one.kind.drains for one in soft.standing()] == [False]
    assert [one.kind.drains for one in brake.standing()] == [True]


def test_lost_device_and_states_of_nvml_are_findings():
    """No GPU is told and harms nobody; a hang drains."""
    assert codes(watch(report(0, is_lost=True))) == {"gpu_lost"}
    assert codes(watch(GpuReport(0, GpuState.NONE, detail="NVML sees no device"))) == {"no_gpu"}
    assert codes(watch(GpuReport(0, GpuState.ERROR))) == {"nvml_error"}
    assert codes(watch(GpuReport(0, GpuState.HUNG), report(20))) == set()


def test_many_corrected_errors_in_an_hour_are_watched():
    """One or two a day are nothing."""
    findings = watch(report(0), report(1800, ecc_corrected=1011))

    assert codes(findings) == {"ecc_corrected"}
