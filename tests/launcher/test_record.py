"""The process record: what is ours is ended, what merely has the same pid is not touched."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from launcher.record import RUN_ID_VARIABLE, ProcessMark, RunRecord, end_leftovers

WAIT = [sys.executable, "-c", "import signal; signal.pause()"]


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A living process that nobody started for us."""
    process = subprocess.Popen(WAIT)
    yield process
    process.kill()
    process.wait()


def test_a_recycled_pid_is_never_touched(bystander: subprocess.Popen[bytes]) -> None:
    """A record from before the process was created does not mean this process."""
    stale = replace(ProcessMark.of("gateway", bystander.pid), created_at=psutil.boot_time())
    record = RunRecord.start(console_url="").with_process(stale)

    assert end_leftovers(record, term_seconds=1) == []

    assert bystander.poll() is None


def test_a_recorded_process_is_ended(bystander: subprocess.Popen[bytes]) -> None:
    """Same pid, same creation: it is ours, and its name is told."""
    record = RunRecord.start(console_url="").with_process(ProcessMark.of("gateway", bystander.pid))

    assert end_leftovers(record, term_seconds=5) == ["gateway"]

    assert bystander.wait(60) != 0


def test_a_stray_is_known_by_the_run_id() -> None:
    """A grandchild that nobody wrote down is found by the variable that only our children get."""
    record = RunRecord.start(console_url="")
    stray = subprocess.Popen(WAIT, env={**os.environ, RUN_ID_VARIABLE: record.run_id}, start_new_session=True)

    end_leftovers(record, term_seconds=5)

    assert stray.wait(60) != 0


def test_a_record_survives_being_written_and_read(tmp_path: Path) -> None:
    """Each name keeps its latest process."""
    path = tmp_path / "run" / "processes.json"
    record = RunRecord.start(console_url="http://127.0.0.1:8000")
    record = record.with_process(ProcessMark("gateway", 11, 1.0)).with_process(ProcessMark("gateway", 12, 2.0))

    record.write(path)

    assert RunRecord.read(path) == record
    assert [mark.pid for mark in record.processes] == [12]


@pytest.mark.parametrize(
    "damage", ["", "{}", "[1]", '{"run_id": "x", "launcher": {}, "console_url": "", "processes": []}']
)
def test_a_damaged_record_is_nobodys(tmp_path: Path, damage: str) -> None:
    """A file cut short by a power failure stops nothing and kills nobody."""
    path = tmp_path / "processes.json"
    path.write_text(damage)

    assert RunRecord.read(path) is None
