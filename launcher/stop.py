"""`make stop` and `make clean`: end a running copy from outside, and remove what it kept."""

import contextlib
import shutil
import signal
from pathlib import Path
from typing import TextIO

import psutil

from launcher.errors import LauncherError
from launcher.places import Places
from launcher.postgres import RELOCATED_ROOT, relocated_home
from launcher.record import RunRecord, end_leftovers, wait_gone

STOP_SECONDS = 90.0


def stop(*, places: Places, out: TextIO) -> None:
    """Stop the copy whose data lie in `places`, its launcher first, and say what was stopped."""
    launchers = []
    record = RunRecord.read(places.record)
    for mark in (places.holder(), record.launcher if record else None):
        process = mark.find() if mark else None
        if process is not None and process not in launchers:
            launchers.append(process)
    for process in launchers:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGTERM)
    for process in wait_gone(launchers, seconds=STOP_SECONDS):
        with contextlib.suppress(psutil.Error):
            process.kill()
    left = end_leftovers(record) if record else []
    places.record.unlink(missing_ok=True)
    if launchers:
        names = [mark.name for mark in record.processes] if record else []
        out.write(f"Stopped the copy in {places.data_dir}{': ' + ', '.join(names) if names else ''}\n")
    elif left:
        out.write(f"Stopped what a killed run left in {places.data_dir}: {', '.join(left)}\n")
    else:
        out.write(f"Nothing is running in {places.data_dir}\n")


def clean(*, places: Places, project: Path, out: TextIO) -> None:
    """Stop the copy, then remove its data directory and say so.

    Raises:
        LauncherError: the directory was not made by the launcher, so there may be other things in it.
    """
    if not places.data_dir.exists():
        out.write(f"Nothing to remove: {places.data_dir} is not there\n")
        return
    if not places.marker.exists() and places.data_dir != (project / "var").resolve():
        raise LauncherError(
            f"BALLAST_DATA_DIR is {str(places.data_dir)!r}, which held other things before Ballast used it; "
            f"remove by hand what you do not need"
        )
    stop(places=places, out=out)
    relocated = relocated_home(places.postgres)
    for directory in (relocated, places.data_dir):
        if directory.exists():
            shutil.rmtree(directory)
            out.write(f"Removed {directory}\n")
    clusters = RELOCATED_ROOT / "clusters"
    if clusters.exists() and not any(clusters.iterdir()):
        shutil.rmtree(RELOCATED_ROOT)
        out.write(f"Removed {RELOCATED_ROOT}\n")
