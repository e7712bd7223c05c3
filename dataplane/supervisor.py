"""Keeps a host's gateway processes running: one listening socket for all of them, a fresh process for each that dies.

The socket is bound here and inherited, rather than bound once per process with SO_REUSEPORT: connections wait in one
queue, so those that a dying process had not accepted yet are accepted by the others instead of being reset.

One port for all also means that whoever probes it reaches a process that turns. One that is wedged, alive with an event
loop that does not turn, answers nobody and is noticed here: each process stamps a pipe twice a second. It is told to
say where it is (SIGABRT, which `faulthandler` answers with every thread's traceback), killed, and replaced.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Final, Protocol

from dataplane.pulse import LOOK_SECONDS, Patience, Watch

LISTEN_BACKLOG: Final = 2048
# On top of the time that children have to drain: for their last reports, and for Python to exit.
STOP_MARGIN_SECONDS: Final = 6.0
MAX_RESTART_SECONDS: Final = 10.0
# A process that lived this long and died is no start-up failure: its successor comes at once again.
HEALTHY_SECONDS: Final = 10.0
# An event loop that has not turned for so long is wedged: nothing that requests ask of it holds it for a second.
WEDGED_SECONDS: Final = 15.0
# One that has not turned even once: imports and start-up, on a machine that has little time.
UNSTARTED_SECONDS: Final = 180.0
# To write tracebacks.
ABORT_SECONDS: Final = 5.0

log = logging.getLogger("ballast.supervisor")


class Child(Protocol):
    """One gateway process, such as `Process`."""

    pid: int

    def poll(self) -> int | None:
        """Its exit status; None while it lives."""

    def beats(self) -> int:
        """How often its event loop has stamped so far."""

    def send_signal(self, number: int) -> None:
        """Send it a signal."""

    def wait(self) -> object:
        """Wait for its end."""


Spawn = Callable[[int], Child]


class Process:
    """A child process and the pipe that it stamps."""

    def __init__(self, process: subprocess.Popen[bytes], pulse: int) -> None:
        """`pulse`: the reading end, which is this one's to close."""
        self._process = process
        self._pulse = pulse
        self._beats = 0
        self.pid = process.pid
        self.send_signal = process.send_signal
        os.set_blocking(pulse, False)

    def poll(self) -> int | None:
        """As `Child.poll`."""
        status = self._process.poll()
        if status is not None and self._pulse >= 0:
            os.close(self._pulse)
            self._pulse = -1
        return status

    def beats(self) -> int:
        """As `Child.beats`."""
        with contextlib.suppress(BlockingIOError):
            while self._pulse >= 0 and (stamps := os.read(self._pulse, 4096)):
                self._beats += len(stamps)
        return self._beats

    def wait(self) -> object:
        """As `Child.wait`."""
        self._process.wait()
        return self.poll()


def bind(host: str, port: int) -> socket.socket:
    """A listening socket that children inherit.

    Raises:
        OSError: the address is in use or not ours; the message names it.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(LISTEN_BACKLOG)
    except OSError as exc:
        listener.close()
        raise OSError(exc.errno, f"cannot listen on {host}:{port}: {exc.strerror}") from exc
    listener.set_inheritable(True)
    return listener


def spawn_with(command: Sequence[str], *, listener: socket.socket, lifeline: int) -> Spawn:
    """How to start the process of a slot: `command` and the descriptors it inherits, as arguments.

    Args:
        lifeline: The reading end of a pipe whose writing end only the supervisor holds: at its end of file a child
            knows that the supervisor is gone, however it went.
    """

    def spawn(slot: int) -> Process:
        reader, writer = os.pipe()
        try:
            descriptors = {"--listener": listener.fileno(), "--lifeline": lifeline, "--pulse": writer}
            arguments = [word for name, number in descriptors.items() for word in (name, str(number))]
            process = subprocess.Popen(  # noqa: S603  # our own command
                [*command, "--slot", str(slot), *arguments], pass_fds=tuple(descriptors.values())
            )
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        return Process(process, reader)

    return spawn


def gateway_command() -> list[str]:
    """The command of one gateway process."""
    return [sys.executable, "-m", "dataplane", "gateway-process"]


class _Slot:
    """A child, and what is known of its turns."""

    __slots__ = ("aborted_at", "child", "started_at", "watch")

    def __init__(self, child: Child, *, now: float) -> None:
        self.child = child
        self.started_at = now
        self.watch = Watch(now=now)
        self.aborted_at: float | None = None


class Supervisor:
    """Starts `processes` children, restarts those that die, replaces those that are wedged, and stops all of them on
    SIGTERM or SIGINT.
    """

    def __init__(
        self,
        *,
        processes: int,
        spawn: Spawn,
        drain_seconds: float,
        restart_seconds: float,
        wedged_seconds: float = WEDGED_SECONDS,
        unstarted_seconds: float = UNSTARTED_SECONDS,
        kind: str = "gateway",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._processes = processes
        self._spawn = spawn
        self._drain_seconds = drain_seconds
        self._restart_seconds = restart_seconds
        self._clock = clock
        self._wedged_seconds = wedged_seconds
        self._unstarted_seconds = unstarted_seconds
        self._kind = kind
        self._patience = Patience()
        self._slots: dict[int, _Slot] = {}
        self._failures: dict[int, int] = {}
        self._due: dict[int, float] = dict.fromkeys(range(processes), 0.0)
        self._stopping = False

    def run(self) -> None:
        """Supervise until a signal says stop; returns when no child is left."""
        with _signals(self._stop_soon) as wake:
            while not self._stopping:
                self.step(now=self._clock())
                due = min(self._due.values(), default=None)
                wake(LOOK_SECONDS if due is None else min(max(due - self._clock(), 0.0), LOOK_SECONDS))
            self._stop_children(wake)

    def step(self, *, now: float) -> None:
        """Notice who has died or is wedged, and start whoever is due."""
        for slot, one in list(self._slots.items()):
            child = one.child
            status = child.poll()
            if status is None:
                self._look(slot, one, now=now)
                continue
            del self._slots[slot]
            lived_seconds = now - one.started_at
            failures = 0 if lived_seconds >= HEALTHY_SECONDS else self._failures.get(slot, 0) + 1
            self._failures[slot] = failures
            pause = min(self._restart_seconds * 2 ** max(failures - 1, 0), MAX_RESTART_SECONDS) if failures else 0.0
            self._due[slot] = now + pause
            log.error(
                "%s %d (pid %d) ended with %d after %.1f s; restart in %.1f s",
                self._kind,
                slot,
                child.pid,
                status,
                lived_seconds,
                pause,
            )
        for slot, due in list(self._due.items()):
            if due <= now:
                del self._due[slot]
                self._slots[slot] = _Slot(self._spawn(slot), now=now)

    def _look(self, slot: int, one: _Slot, *, now: float) -> None:
        """Replace a process whose event loop does not turn, in two steps."""
        child = one.child
        if one.aborted_at is not None:
            if now - one.aborted_at >= ABORT_SECONDS:
                log.error("%s %d (pid %d) does not end by itself and is killed", self._kind, slot, child.pid)
                child.send_signal(signal.SIGKILL)
                one.aborted_at = now  # once in a while again, should it be in a call that nothing ends
            return
        beats = child.beats()
        silent_seconds = one.watch.look(beats, now=now)
        if silent_seconds < (self._wedged_seconds if beats else self._unstarted_seconds) or not self._patience.is_due(
            now=now
        ):
            return
        self._patience.note(now=now)
        log.error(
            "%s %d (pid %d) is wedged: its event loop has not turned for %.0f s; where it is stands below",
            self._kind,
            slot,
            child.pid,
            silent_seconds,
        )
        one.aborted_at = now
        child.send_signal(signal.SIGABRT)

    def _stop_soon(self) -> None:
        self._stopping = True

    def _stop_children(self, wake: Callable[[float | None], None]) -> None:
        children = {slot: one.child for slot, one in self._slots.items()}
        for child in children.values():
            child.send_signal(signal.SIGTERM)
        deadline = self._clock() + self._drain_seconds + STOP_MARGIN_SECONDS
        while any(child.poll() is None for child in children.values()):
            remaining = deadline - self._clock()
            if remaining <= 0:
                break
            wake(remaining)
        for slot, child in children.items():
            if child.poll() is None:
                log.error("%s %d (pid %d) did not drain in time and is killed", self._kind, slot, child.pid)
                child.send_signal(signal.SIGKILL)
            child.wait()


@contextlib.contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[Callable[[float | None], None]]:
    """Handle SIGTERM, SIGINT and SIGCHLD; gives a function that waits for one of them, or for a number of seconds."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)

    def on_stop(number: int, frame: FrameType | None) -> None:
        stop()

    def on_child(number: int, frame: FrameType | None) -> None:
        """Only its wake-up counts."""

    handlers = {signal.SIGTERM: on_stop, signal.SIGINT: on_stop, signal.SIGCHLD: on_child}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def wait(seconds: float | None) -> None:
        select.select([reader], [], [], seconds)
        with contextlib.suppress(BlockingIOError):
            os.read(reader, 4096)

    try:
        yield wait
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)


def supervise(*, host: str, port: int, processes: int, drain_seconds: float, restart_seconds: float) -> None:
    """Run the gateway processes of this host until SIGTERM or SIGINT.

    Raises:
        OSError: the address cannot be bound.
    """
    with bind(host, port) as listener:
        lifeline, held = os.pipe()
        try:
            spawn = spawn_with(gateway_command(), listener=listener, lifeline=lifeline)
            log.info("gateway on %s:%d, %d processes", host, listener.getsockname()[1], processes)
            Supervisor(
                processes=processes, spawn=spawn, drain_seconds=drain_seconds, restart_seconds=restart_seconds
            ).run()
        finally:
            os.close(held)
            os.close(lifeline)
