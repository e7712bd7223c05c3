"""Restarts within limits, stopping in order."""

import io
import sys
import time
from pathlib import Path

import pytest

from launcher.errors import LauncherError
from launcher.interrupts import Interrupts
from launcher.progress import Progress, tail
from launcher.record import RunRecord
from launcher.restarts import RestartHistory, RestartPolicy
from launcher.supervisor import Program, Supervisor


def test_waits_double_up_to_the_cap_and_then_the_policy_gives_up() -> None:
    """Five deaths are answered by 0.5, 1, 2, 4 and 8 s; the sixth by giving up."""
    history = RestartHistory(RestartPolicy())

    waits = [history.note_death(now=float(second)) for second in range(6)]

    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, None]


def test_old_deaths_are_forgiven() -> None:
    """A death counts for five minutes."""
    history = RestartHistory(RestartPolicy())
    for second in range(5):
        history.note_death(now=float(second))

    assert history.note_death(now=304.0) == 0.5


def supervise(directory: Path, out: io.StringIO, policy: RestartPolicy | None = None) -> Supervisor:
    """A supervisor that writes its progress to `out`."""
    return Supervisor(
        record=RunRecord.start(console_url=""),
        record_path=directory / "processes.json",
        progress=Progress(out),
        interrupts=Interrupts(),
        policy=policy,
    )


def program(directory: Path, name: str, code: str, *, stop_rank: int = 0, grace_seconds: float = 60.0) -> Program:
    """A Python one-liner as a program."""
    return Program(
        name=name,
        argv=(sys.executable, "-c", code),
        environment={},
        directory=directory,
        log_path=directory / f"{name}.log",
        stop_rank=stop_rank,
        grace_seconds=grace_seconds,
    )


def test_a_program_that_keeps_dying_stops_the_copy_with_its_last_words(tmp_path: Path) -> None:
    """Its log's tail was shown each time, under its name."""
    out = io.StringIO()
    supervisor = supervise(tmp_path, out, RestartPolicy(max_restarts=2, base_seconds=0.01))
    supervisor.start(program(tmp_path, "gateway", "raise SystemExit('no release, no service')"))

    with pytest.raises(LauncherError, match="gateway died 3 times"):
        supervisor.watch(deadline=time.monotonic() + 120)

    assert "gateway | no release, no service" in out.getvalue()
    assert "gateway ended with status 1" in out.getvalue()


def test_programs_stop_rank_by_rank(tmp_path: Path) -> None:
    """A later rank gets its signal only when the earlier one is gone."""
    supervisor = supervise(tmp_path, io.StringIO())
    code = (
        "import signal, sys, time\n"
        "def stop(number, frame):\n"
        "    open('order', 'a').write(NAME + '\\n'); sys.exit()\n"
        "signal.signal(signal.SIGTERM, stop); open(NAME + '.up', 'w').close()\n"
        "while True: signal.pause()\n"
    )
    names = {"postgres": 9, "gateway": 1, "traffic": 0}
    for name, rank in names.items():
        supervisor.start(program(tmp_path, name, f"NAME = {name!r}\n{code}", stop_rank=rank))
    supervisor.watch(
        until=lambda: all((tmp_path / f"{name}.up").exists() for name in names), deadline=time.monotonic() + 120
    )

    supervisor.stop_all()

    assert (tmp_path / "order").read_text().split() == ["traffic", "gateway", "postgres"]


def test_a_program_deaf_to_its_signal_is_killed_after_its_grace(tmp_path: Path) -> None:
    """And the terminal says so."""
    out = io.StringIO()
    supervisor = supervise(tmp_path, out)
    deaf = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nopen('up', 'w').close()\nsignal.pause()"
    supervisor.start(program(tmp_path, "worker", deaf, grace_seconds=0.2))
    supervisor.watch(until=(tmp_path / "up").exists, deadline=time.monotonic() + 120)

    supervisor.stop_all()

    assert not supervisor.is_alive("worker")
    assert "worker did not stop within 0.2 s; killed" in out.getvalue()


def test_a_program_that_is_not_there_is_said_by_name(tmp_path: Path) -> None:
    """No traceback for a missing file."""
    missing = Program(
        name="gateway",
        argv=("/no/such/program",),
        environment={},
        directory=tmp_path,
        log_path=tmp_path / "gateway.log",
        stop_rank=0,
    )

    with pytest.raises(LauncherError, match="gateway cannot be started"):
        supervise(tmp_path, io.StringIO()).start(missing)


def test_a_tail_is_the_last_lines_of_a_log(tmp_path: Path) -> None:
    """Only this run's own where its beginning is known; a log that is not there has none."""
    log = tmp_path / "gateway.log"
    log.write_text("\n".join(str(number) for number in range(100)))

    assert tail(log, lines=2) == ["98", "99"]
    assert tail(log, since_byte=log.stat().st_size - 2) == ["99"]
    assert tail(log, lines=1, since_byte=10**9) == ["99"]
    assert tail(tmp_path / "none.log") == []
