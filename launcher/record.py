"""Which processes belong to this copy, written down so that a later launcher can clean up after a killed one.

A pid alone proves nothing: the kernel hands it out again. A process is ours when its pid and its time of creation are
the ones on record, or when it carries the run id that only our children are given.
"""

import contextlib
import json
import os
import secrets
import signal
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

RUN_ID_VARIABLE = "BALLAST_RUN_ID"
# Linux counts creation times from boot in ticks of 10 ms; the boot time itself moves with the clock by up to a second.
CREATED_TOLERANCE_SECONDS = 2.0
TERM_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class ProcessMark:
    """What identifies one process: its pid and when it was created, in epoch seconds."""

    name: str
    pid: int
    created_at: float

    @classmethod
    def of(cls, name: str, pid: int) -> "ProcessMark":
        """Mark a process that is alive now.

        Raises:
            psutil.NoSuchProcess: it is not.
        """
        return cls(name=name, pid=pid, created_at=psutil.Process(pid).create_time())

    def find(self) -> psutil.Process | None:
        """Return the marked process if that very one still lives; never another one with its pid."""
        try:
            process = psutil.Process(self.pid)
            created_at = process.create_time()
            if process.status() == psutil.STATUS_ZOMBIE:
                return None
        except psutil.Error:
            return None
        return process if abs(created_at - self.created_at) < CREATED_TOLERANCE_SECONDS else None


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run of a copy: its id, its launcher, where its console is, and the children it started.

    Shape on disk: {"run_id": str, "launcher": MARK, "console_url": str, "processes": [MARK, ...]} with
    MARK = {"name": str, "pid": int, "created_at": epoch seconds}.
    """

    run_id: str
    launcher: ProcessMark
    console_url: str
    processes: tuple[ProcessMark, ...] = ()

    @classmethod
    def start(cls, *, console_url: str) -> "RunRecord":
        """Begin the record of a run led by this process, with a fresh run id."""
        return cls(secrets.token_hex(16), ProcessMark.of("launcher", os.getpid()), console_url)

    def with_process(self, mark: ProcessMark) -> "RunRecord":
        """Return the record with `mark` in place of the earlier process of that name, if any."""
        others = tuple(one for one in self.processes if one.name != mark.name)
        return RunRecord(self.run_id, self.launcher, self.console_url, (*others, mark))

    def write(self, path: Path) -> None:
        """Put the record on disk whole: a reader sees the old one or the new one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(asdict(self), indent=1))
        partial.replace(path)

    @classmethod
    def read(cls, path: Path) -> "RunRecord | None":
        """Return the record in `path`; None when there is none or it makes no sense, which is then nobody's."""
        try:
            stored = json.loads(path.read_text())
            return cls(
                run_id=str(stored["run_id"]),
                launcher=_mark(stored["launcher"]),
                console_url=str(stored["console_url"]),
                processes=tuple(_mark(one) for one in stored["processes"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _mark(stored: dict[str, object]) -> ProcessMark:
    return ProcessMark(str(stored["name"]), int(str(stored["pid"])), float(str(stored["created_at"])))


def find_leftovers(record: RunRecord) -> list[psutil.Process]:
    """Return the living processes of a run, its launcher not included: those on record, their descendants, and any that
    carries its run id. A process that merely has a recorded pid is not among them."""
    found: dict[int, psutil.Process] = {}
    for mark in record.processes:
        process = mark.find()
        if process is not None:
            found[process.pid] = process
            with contextlib.suppress(psutil.Error):
                found.update({child.pid: child for child in process.children(recursive=True)})
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(RUN_ID_VARIABLE) == record.run_id:
                found[process.pid] = process
    found.pop(os.getpid(), None)
    found.pop(record.launcher.pid, None)
    return list(found.values())


def end_leftovers(record: RunRecord, *, term_seconds: float = TERM_SECONDS) -> list[str]:
    """Stop what a run left behind, gently for `term_seconds` and then for good; return the names of what was stopped.

    Databases go last, so that what still writes can finish.
    """
    leftovers = find_leftovers(record)
    databases = {mark.pid for mark in record.processes if mark.name in {"postgres", "redis"}}
    names = {mark.pid: mark.name for mark in record.processes}
    first = [process for process in leftovers if process.pid not in databases and _parent(process) not in databases]
    _end(first, signal.SIGTERM, term_seconds)
    # SIGINT is PostgreSQL's fast shutdown; Redis saves and leaves on it too. Backends follow their postmaster.
    _end([process for process in leftovers if process.pid in databases], signal.SIGINT, term_seconds)
    _end([process for process in leftovers if _is_running(process)], signal.SIGTERM, term_seconds)
    return sorted({names[process.pid] for process in leftovers if process.pid in names})


def _parent(process: psutil.Process) -> int | None:
    try:
        return int(process.ppid())
    except psutil.Error:
        return None


def _end(processes: Iterable[psutil.Process], number: int, term_seconds: float) -> None:
    waiting = list(processes)
    for process in waiting:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)
    alive = wait_gone(waiting, seconds=term_seconds)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    wait_gone(alive, seconds=term_seconds)


def wait_gone(processes: Iterable[psutil.Process], *, seconds: float) -> list[psutil.Process]:
    """Wait up to `seconds` and return the processes that still run.

    One that has ended but was not collected yet counts as gone: in a container nobody may ever collect it.
    """
    deadline = time.monotonic() + seconds
    alive = [process for process in processes if _is_running(process)]
    while alive and time.monotonic() < deadline:
        time.sleep(0.05)
        alive = [process for process in alive if _is_running(process)]
    return alive


def _is_running(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
