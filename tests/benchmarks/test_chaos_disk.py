"""The disk of `make chaos` really has no room when it is full, whichever way it can be filled up here."""

import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from benchmarks.chaos.disk import Disk

# Writes a page to a new file for each line that it is sent, and says what came of it.
WRITER = """
import sys
for line in sys.stdin:
    try:
        with open(line.strip(), "wb", buffering=0) as file:
            print("wrote" if file.write(bytes(4096)) == 4096 else "not all", flush=True)
    except OSError as exc:
        print("no room", flush=True)
"""


@pytest.fixture
def writer() -> Iterator[subprocess.Popen[str]]:
    """A process that writes when it is told to."""
    command = [sys.executable, "-c", WRITER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("may_mount", [True, False])
def test_a_full_disk_takes_nothing_until_it_is_emptied(tmp_path, writer, may_mount):
    """By a mount of its own where that is allowed, and by a limit on the writers where it is not."""
    disk = Disk(tmp_path / "disk", may_mount=may_mount)
    disk.open()
    try:
        said = []
        for number, act in enumerate((None, lambda: disk.fill([psutil.Process(writer.pid)]), disk.empty)):
            if act is not None:
                act()
            writer.stdin.write(f"{disk.directory / str(number)}\n")
            writer.stdin.flush()
            said.append(writer.stdout.readline().strip())
    finally:
        disk.close()

    assert (said[0], said[2]) == ("wrote", "wrote")
    assert said[1] in {"no room", "not all"}


def test_a_disk_that_cannot_be_mounted_says_how_it_is_full(tmp_path):
    """So that the report never claims a disk that was not there."""
    disk = Disk(tmp_path / "disk", may_mount=False)
    disk.open()

    assert "RLIMIT_FSIZE" in disk.how
