"""Doing to a world what a row says, and undoing it."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterable

import psutil

from benchmarks.chaos.rows import Fault, How
from benchmarks.chaos.world import World
from launcher.record import wait_gone

GONE_SECONDS = 20.0
Heal = Callable[[], None]


def strike(world: World, fault: Fault) -> Heal:
    """Do it, and return what undoes it."""
    match fault.how:
        case How.KILL:
            _send(world.family(fault.target)[:1], signal.SIGKILL)
            return lambda: None
        case How.AWAY:
            return _take_away(world, fault.target)
        case How.STOP:
            stopped = world.family(fault.target)
            _send(stopped, signal.SIGSTOP)
            return lambda: _send(stopped, signal.SIGCONT)
        case How.FILL:
            return _fill(world)
        case How.FILL_AWAY:
            bring_back, empty = _take_away(world, "redis"), _fill(world)
            return lambda: (empty(), bring_back())[1]
        case How.CLOCK:
            _require_faketime(world.family(fault.target))
            clock = world.clock_of(fault.target)
            clock.write_text(f"{fault.offset_seconds:+d}\n")
            return lambda: _set_back(world, fault.target)


def _take_away(world: World, name: str) -> Heal:
    if name == "broker":  # ours to keep, as a deployment's would be somebody else's
        world.kill(name)
        return lambda: world.start(name)
    # Its supervisor would start it again: it looks away until it is time.
    supervisor = psutil.Process(world.pid("launcher"))
    supervisor.suspend()
    family = world.family(name)
    _send(family, signal.SIGKILL)
    wait_gone(family, seconds=GONE_SECONDS)
    return supervisor.resume


def _fill(world: World) -> Heal:
    world.disk.fill([*(psutil.Process(pid) for pid in world.gateway_pids()), *world.family("agent")])
    return world.disk.empty


def _require_faketime(family: Iterable[psutil.Process]) -> None:
    """Raise RuntimeError unless the clock of each process is ours to set."""
    for process in family:
        if not any("libfaketime" in mapped.path for mapped in process.memory_maps()):
            raise RuntimeError(f"{' '.join(process.cmdline())} has not loaded libfaketime: its clock cannot be set")


def _set_back(world: World, name: str) -> None:
    world.clock_of(name).write_text("+0\n")


def _send(processes: Iterable[psutil.Process], number: int) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
