"""Subjects of benchmarks: servers pinned to cores, asked as much as they can answer, and their processor time."""

from __future__ import annotations

import math
import os
import signal
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.load import Result, pace, saturate
from dataplane.native import Native
from launcher.ports import pick_free
from launcher.redis import EmbeddedRedis

OURS = (sys.executable, "-m")
STOP_SECONDS = 30.0
# Whoever cannot answer so many more than are paced is not asked at that pace: what would be measured is a queue.
ROOM = 1.5


def start(
    command: Sequence[str], *, cores: set[int], log: Path, program: Sequence[str] = OURS, **environment: str
) -> subprocess.Popen[bytes]:
    """Start a process, pinned to `cores`; its output goes to `log`. `command` is a module of ours and its arguments,
    unless there is another `program`.
    """
    with log.open("wb") as output:
        return subprocess.Popen(  # noqa: S603  # commands of ours
            [*program, *command],
            env=os.environ | environment,
            stdout=output,
            stderr=output,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )


def wait_for(url: str, *, seconds: float = 20.0) -> None:
    """Wait until `url` answers with success, or stop with a clear word."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=1):  # noqa: S310  # loopback
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise SystemExit(f"{url} did not become ready within {seconds:.0f} s")


class Processes:
    """What one benchmark has started; all of it ends with the benchmark. Their logs are in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._started: list[subprocess.Popen[bytes]] = []

    def launch(
        self, command: Sequence[str], *, on: set[int], program: Sequence[str] = OURS, **environment: str
    ) -> psutil.Process:
        """Start a process on the cores `on`."""
        log = self._directory / f"{len(self._started)}.log"
        self._started.append(start(command, cores=on, log=log, program=program, **environment))
        return psutil.Process(self._started[-1].pid)

    def launch_gateway(self, home: Path, *, on: set[int], redis_url: str, native: Native) -> tuple[str, psutil.Process]:
        """Start a gateway of one process with the release that is written to `home`, and wait until it serves. Returns
        where it is asked for chat completions, and the process that serves them.
        """
        port = pick_free()
        supervisor = self.launch(
            ["dataplane", "serve"],
            on=on,
            BALLAST_GATEWAY_PORT=str(port),
            BALLAST_GATEWAY_PROCESSES="1",
            BALLAST_DATA_DIR=str(home),
            BALLAST_HOST_NAME=home.name,
            BALLAST_NATIVE=native,
            BALLAST_PRIVATE_NETWORKS="127.0.0.0/8",
            UP_KEY="sk-benchmark",
            REDIS_URL=redis_url,
        )
        wait_for(f"http://127.0.0.1:{port}/readyz")
        return f"http://127.0.0.1:{port}/v1/chat/completions", supervisor.children()[0]

    def launch_redis(self, *, on: set[int]) -> str:
        """Start a Redis that keeps nothing, and return its address."""
        server = EmbeddedRedis(self._directory / "redis", self._directory / "secrets", pick_free(), durable=False)
        server.secrets.mkdir()
        server.initialise()
        self.launch(server.command, on=on, program=())
        while not server.is_ready():
            time.sleep(0.02)
        return server.url()

    def tell(self) -> None:
        """Print the ends of their logs."""
        for log in sorted(self._directory.glob("*.log")):
            print(log.read_text(errors="replace")[-2000:], file=sys.stderr)

    def stop(self) -> None:
        """End them all, the last first."""
        for process in reversed(self._started):
            process.send_signal(signal.SIGTERM)
        for process in reversed(self._started):
            try:
                process.wait(timeout=STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@dataclass
class Subject:
    """What is measured: where it answers, what it is asked, and the process whose time is counted, with all that it has
    started (None: nobody's).
    """

    name: str
    url: str
    request: bytes
    process: psutil.Process | None = None
    full: list[Result] = field(default_factory=list)
    # By the round: in one in which the machine was too busy for it, a subject is not paced.
    paced: dict[int, Result] = field(default_factory=dict)
    micros: list[float] = field(default_factory=list)

    async def saturate(self, *, seconds: float, connections: int) -> None:
        """Ask as much as it can answer, and note its processor time per request, in microseconds."""
        before = self._processor_seconds()
        full = await saturate(self.url, self.request, connections=connections, seconds=seconds)
        answered = full.rate * (full.warm_up_seconds + full.seconds)
        self.micros.append((self._processor_seconds() - before) / answered * 1e6 if answered else 0.0)
        self.full.append(full)

    async def pace(self, *, seconds: float, connections: int, rate: float) -> None:
        """Ask so many times a second, if it can answer that."""
        if self.full[-1].rate > ROOM * rate:
            self.paced[len(self.full)] = await pace(
                self.url, self.request, rate=rate, seconds=seconds, connections=connections
            )

    def _processor_seconds(self) -> float:
        if self.process is None:
            return 0.0
        times = [one.cpu_times() for one in (self.process, *self.process.children(recursive=True))]
        return float(sum(one.user + one.system for one in times))

    @property
    def typical_micros(self) -> float:
        """Processor time per request, in microseconds: the median over the rounds."""
        return statistics.median(self.micros)

    @property
    def row(self) -> tuple[str, ...]:
        """Medians over the rounds: rate, core's worth, processor time, quantiles full and paced; and all failures."""
        micros = self.typical_micros
        return (
            self.name,
            f"{statistics.median(one.rate for one in self.full):,.0f}",
            f"{1e6 / micros:,.0f}" if micros else "",
            f"{micros:.0f}" if micros else "",
            *(
                f"{statistics.median(one.quantile(q) for one in results):.2f}" if results else ""
                for results in (self.full, self.paced.values())
                for q in (0.5, 0.99)
            ),
            str(sum(one.failures for one in (*self.full, *self.paced.values()))),
        )


def shares(one: Subject, other: Subject) -> list[float]:
    """How many times the processor time of `other` a request costs `one`, round by round."""
    return [a / b for a, b in zip(one.micros, other.micros, strict=True) if b]


def added_ms(one: Subject, other: Subject, quantile: float) -> float:
    """What `one` adds to the latency of `other` at the same pace, in milliseconds: the median over the rounds in which
    both were paced; nan without any.
    """
    rounds = one.paced.keys() & other.paced.keys()
    added = [one.paced[number].quantile(quantile) - other.paced[number].quantile(quantile) for number in rounds]
    return statistics.median(added) if added else math.nan
