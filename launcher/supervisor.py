"""Keeps a set of processes running, starts the dead again within limits, and stops all of them in order.

Restarts: at most five within five minutes per process, after waits of 0.5, 1, 2, 4 and 8 s; the sixth death stops
the copy.
"""

import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from launcher.errors import LauncherError
from launcher.interrupts import Interrupts
from launcher.progress import Progress
from launcher.record import ProcessMark, RunRecord
from launcher.restarts import RestartHistory, RestartPolicy
from launcher.spawn import Account, signal_group, spawn

MAX_LOG_BYTES = 20_000_000
POLL_SECONDS = 0.1
LOG_CHECK_SECONDS = 30.0
KILL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Program:
    """One process the supervisor keeps: how it starts, how it stops, and when in the order of stopping.

    `stop_rank`: lower stops earlier; equal ranks stop together. `before_start` runs ahead of every start, restarts too.
    """

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    directory: Path
    log_path: Path
    stop_rank: int
    stop_signal: int = signal.SIGTERM
    grace_seconds: float = 10.0
    account: Account | None = None
    before_start: Callable[[], None] | None = None


class Kept:
    """A program and the process that runs it now, if any."""

    __slots__ = ("history", "log_start", "process", "program", "restart_at")

    def __init__(self, program: Program, policy: RestartPolicy) -> None:
        self.program = program
        self.history = RestartHistory(policy)
        self.process: subprocess.Popen[bytes] | None = None
        self.restart_at: float | None = None
        self.log_start = 0  # where this process's own lines begin; those above are its predecessors'

    @property
    def is_alive(self) -> bool:
        """True while the process runs."""
        return self.process is not None and self.process.poll() is None


class Supervisor:
    """Starts programs, writes each into the record before anything else happens, watches and stops them.

    Single-threaded on purpose: children are bound to the thread that forks them.
    """

    def __init__(
        self,
        *,
        record: RunRecord,
        record_path: Path,
        progress: Progress,
        interrupts: Interrupts,
        policy: RestartPolicy | None = None,
    ) -> None:
        self._record = record
        self._record_path = record_path
        self._progress = progress
        self._interrupts = interrupts
        self._policy = policy or RestartPolicy()
        self._kept: dict[str, Kept] = {}
        self._logs_checked_at = 0.0
        record.write(record_path)

    def start(self, program: Program) -> None:
        """Start a program and keep it running from now on.

        Raises:
            LauncherError: it cannot be started at all.
        """
        kept = self._kept[program.name] = Kept(program, self._policy)
        _shorten_log(program.log_path)
        self._launch(kept)

    def _launch(self, kept: Kept) -> None:
        program = kept.program
        if program.before_start is not None:
            program.before_start()
        with contextlib.suppress(OSError):
            kept.log_start = program.log_path.stat().st_size
        try:
            kept.process = spawn(
                program.argv,
                environment=program.environment,
                directory=program.directory,
                log_path=program.log_path,
                stop_signal=program.stop_signal,
                account=program.account,
            )
        except (OSError, subprocess.SubprocessError) as exc:
            raise LauncherError(f"{program.name} cannot be started: {exc}") from exc
        kept.restart_at = None
        with contextlib.suppress(psutil.NoSuchProcess):  # it is gone already; the next look notices
            self._record = self._record.with_process(ProcessMark.of(program.name, kept.process.pid))
            self._record.write(self._record_path)

    def is_alive(self, name: str) -> bool:
        """Say whether the named program runs right now."""
        return name in self._kept and self._kept[name].is_alive

    def log_path(self, name: str) -> Path:
        """Where the named program writes its log."""
        return self._kept[name].program.log_path

    def look(self, *, now: float) -> None:
        """Notice deaths, start again what is due; `now` in monotonic seconds.

        Raises:
            LauncherError: a program died once too often; its last lines have been shown.
        """
        for kept in self._kept.values():
            if kept.restart_at is not None:
                if now >= kept.restart_at:
                    self._launch(kept)
            elif not kept.is_alive and kept.process is not None:
                self._note_death(kept, now=now)
        if now - self._logs_checked_at >= LOG_CHECK_SECONDS:
            self._logs_checked_at = now
            for kept in self._kept.values():
                _shorten_log(kept.program.log_path)

    def _note_death(self, kept: Kept, *, now: float) -> None:
        assert kept.process is not None  # noqa: S101 - for the type checker; the caller looked
        program = kept.program
        signal_group(kept.process, signal.SIGKILL)  # what it left in its group must not hold its port
        self._progress.say(f"  {program.name} {_ending(kept.process.returncode)}; its last lines:")
        self._progress.show_tail(program.name, program.log_path, since_byte=kept.log_start)
        wait_seconds = kept.history.note_death(now=now)
        if wait_seconds is None:
            raise LauncherError(
                f"{program.name} died {self._policy.max_restarts + 1} times within "
                f"{self._policy.window_seconds:.0f} s; its log is {program.log_path}"
            )
        self._progress.say(f"  {program.name} starts again in {wait_seconds:g} s")
        kept.restart_at = now + wait_seconds

    def watch(self, *, until: Callable[[], bool] | None = None, deadline: float | None = None) -> bool:
        """Keep everything running until `until` says so (True), `deadline` passes or a stop is asked for (False).

        `deadline` is in monotonic seconds.

        Raises:
            LauncherError: a program died once too often.
        """
        while not self._interrupts.requested:
            now = time.monotonic()
            self.look(now=now)
            if until is not None and until():
                return True
            if deadline is not None and now >= deadline:
                return False
            time.sleep(POLL_SECONDS)
        return False

    def run_to_end(self, program: Program) -> int:
        """Run a program once, keeping the others alive meanwhile, and return its exit status; -1 when told to stop.

        Raises:
            LauncherError: it cannot be started, or another program died once too often.
        """
        _shorten_log(program.log_path)
        kept = Kept(program, self._policy)
        self._launch(kept)
        assert kept.process is not None  # noqa: S101 - for the type checker; _launch set it
        self.watch(until=lambda: not kept.is_alive)
        if kept.is_alive:
            self._stop_together([kept])
            return -1
        return kept.process.returncode

    def stop_all(self) -> None:
        """Stop everything, rank by rank, each program within its grace; a second signal makes it immediate."""
        ranks = sorted({kept.program.stop_rank for kept in self._kept.values()})
        for rank in ranks:
            self._stop_together([kept for kept in self._kept.values() if kept.program.stop_rank == rank])
        self._kept.clear()

    def _stop_together(self, stopping: Iterable[Kept]) -> None:
        waiting = [kept for kept in stopping if kept.process is not None]
        started = time.monotonic()
        for kept in waiting:
            if kept.is_alive:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    _process(kept).send_signal(kept.program.stop_signal)
        while alive := [kept for kept in waiting if kept.is_alive]:
            elapsed = time.monotonic() - started
            late = [kept for kept in alive if self._interrupts.impatient or elapsed >= kept.program.grace_seconds]
            for kept in late:
                if not self._interrupts.impatient:
                    self._progress.say(
                        f"  {kept.program.name} did not stop within {kept.program.grace_seconds:g} s; killed"
                    )
                signal_group(_process(kept), signal.SIGKILL)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    _process(kept).wait(KILL_SECONDS)
            time.sleep(0.02)
        for kept in waiting:
            signal_group(_process(kept), signal.SIGKILL)  # stragglers of its group


def _process(kept: Kept) -> subprocess.Popen[bytes]:
    assert kept.process is not None  # noqa: S101 - for the type checker; callers filter
    return kept.process


def _ending(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


def _shorten_log(log_path: Path) -> None:
    """Keep a log from filling the disk: beyond 20 MB it moves to `<name>.log.1`, the one before that is dropped.

    Copied and cut in place, because its writer has it open for appending.
    """
    with contextlib.suppress(OSError):
        if log_path.stat().st_size > MAX_LOG_BYTES:
            shutil.copyfile(log_path, log_path.with_suffix(".log.1"))
            with log_path.open("r+b") as log:
                log.truncate(0)
