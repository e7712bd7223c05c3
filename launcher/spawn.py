"""Starting one child so that it cannot outlive us unseen."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


@dataclass(frozen=True, slots=True)
class Account:
    """The operating-system account a child runs as, when that is not our own."""

    name: str
    uid: int
    gid: int


def _die_with_parent(stop_signal: int) -> Callable[[], None]:
    """Return the hook that, in the child, asks Linux for `stop_signal` once the launcher is gone, however it went.

    The request is bound to the thread that forks, so children are started from the main thread only.
    """
    libc = ctypes.CDLL(None, use_errno=True)  # loaded before the fork: the child must not allocate more than it has to
    parent = os.getpid()

    def hook() -> None:
        libc.prctl(PR_SET_PDEATHSIG, stop_signal)
        if os.getppid() != parent:  # it died between the fork and the line above
            os._exit(1)

    return hook


def spawn(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str],
    directory: Path,
    log_path: Path,
    stop_signal: int = signal.SIGTERM,
    account: Account | None = None,
) -> subprocess.Popen[bytes]:
    """Start `argv` in a session of its own, its output appended to `log_path`.

    The child writes the log itself: no pipe to fill, nothing lost if the launcher is killed.

    Raises:
        OSError: the program or the directory is not there, or the account may not use it.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("ab") as log:
        return subprocess.Popen(  # noqa: S603 - the Procfile and our own wheels, never a request
            list(argv),
            env=dict(environment),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            preexec_fn=_die_with_parent(stop_signal) if sys.platform == "linux" else None,
        )


def signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to the child and everything in its process group; one that is already gone is fine."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def stop_child(process: subprocess.Popen[bytes], *, stop_signal: int, grace_seconds: float) -> bool:
    """Ask the child to stop, wait up to `grace_seconds`, then kill its group; True if it went by itself."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            process.send_signal(stop_signal)
    deadline = time.monotonic() + grace_seconds
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    went_by_itself = process.poll() is not None
    signal_group(process, signal.SIGKILL)
    process.wait()
    return went_by_itself
