"""Keeps a host's gateway processes running: one listening socket for all of them, a fresh process for each that dies.

The socket is bound here and inherited, rather than bound once per process with SO_REUSEPORT: connections wait in one
queue, so those that a dying process had not accepted yet are accepted by the others instead of being reset.
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
from typing import Final

LISTEN_BACKLOG: Final = 2048
# On top of the time that children have to drain: for their last reports, and for Python to exit.
STOP_MARGIN_SECONDS: Final = 6.0
MAX_RESTART_SECONDS: Final = 10.0
# A process that lived this long and died is no start-up failure: its successor comes at once again.
HEALTHY_SECONDS: Final = 10.0

log = logging.getLogger("ballast.supervisor")

Spawn = Callable[[int], "subprocess.Popen[bytes]"]


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

    def spawn(slot: int) -> subprocess.Popen[bytes]:
        descriptors = (listener.fileno(), lifeline)
        arguments = ["--slot", str(slot), "--listener", str(descriptors[0]), "--lifeline", str(descriptors[1])]
        return subprocess.Popen([*command, *arguments], pass_fds=descriptors)  # noqa: S603  # our own command

    return spawn


def gateway_command() -> list[str]:
    """The command of one gateway process."""
    return [sys.executable, "-m", "dataplane", "gateway-process"]


class Supervisor:
    """Starts `processes` children, restarts those that die, and stops all of them on SIGTERM or SIGINT."""

    def __init__(
        self,
        *,
        processes: int,
        spawn: Spawn,
        drain_seconds: float,
        restart_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._processes = processes
        self._spawn = spawn
        self._drain_seconds = drain_seconds
        self._restart_seconds = restart_seconds
        self._clock = clock
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._started_at: dict[int, float] = {}
        self._failures: dict[int, int] = {}
        self._due: dict[int, float] = dict.fromkeys(range(processes), 0.0)
        self._stopping = False

    def run(self) -> None:
        """Supervise until a signal says stop; returns when no child is left."""
        with _signals(self._stop_soon) as wake:
            while not self._stopping:
                self.step(now=self._clock())
                due = min(self._due.values(), default=None)
                wake(None if due is None else max(due - self._clock(), 0.0))
            self._stop_children(wake)

    def step(self, *, now: float) -> None:
        """Notice who has died, and start whoever is due."""
        for slot, child in list(self._children.items()):
            status = child.poll()
            if status is None:
                continue
            del self._children[slot]
            lived_seconds = now - self._started_at[slot]
            failures = 0 if lived_seconds >= HEALTHY_SECONDS else self._failures.get(slot, 0) + 1
            self._failures[slot] = failures
            pause = min(self._restart_seconds * 2 ** max(failures - 1, 0), MAX_RESTART_SECONDS) if failures else 0.0
            self._due[slot] = now + pause
            log.error(
                "gateway %d (pid %d) ended with %d after %.1f s; restart in %.1f s",
                slot,
                child.pid,
                status,
                lived_seconds,
                pause,
            )
        for slot, due in list(self._due.items()):
            if due <= now:
                del self._due[slot]
                self._children[slot] = self._spawn(slot)
                self._started_at[slot] = now

    def _stop_soon(self) -> None:
        self._stopping = True

    def _stop_children(self, wake: Callable[[float | None], None]) -> None:
        for child in self._children.values():
            child.terminate()
        deadline = self._clock() + self._drain_seconds + STOP_MARGIN_SECONDS
        while any(child.poll() is None for child in self._children.values()):
            remaining = deadline - self._clock()
            if remaining <= 0:
                break
            wake(remaining)
        for slot, child in self._children.items():
            if child.poll() is None:
                log.error("gateway %d (pid %d) did not drain in time and is killed", slot, child.pid)
                child.kill()
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
