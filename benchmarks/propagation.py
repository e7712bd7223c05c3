"""How long a click takes to reach the last worker, and to be known to have done so.

    python -m benchmarks.propagation [--workers 1,10,100] [--rounds 200] [--processes 2]

Everything is real and runs on this one machine: the console takes the click (the knob's form, session and CSRF
included), cuts and signs the release in one durable PostgreSQL transaction, Celery broadcasts it over Redis, an agent
verifies it and writes the file, every worker notices, verifies and acknowledges it, and ingest stores the
acknowledgement. Workers are the gateway's own ReleaseWatcher and ReportShipper, heartbeats included, without the part
that serves requests, many of them in a few processes; in production each has a core's share of its own.

What is timed: from the moment before the client sends the click to the commit of the last worker's ACK, as PostgreSQL
itself recorded it (track_commit_timestamp). All clocks are one clock.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import math
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
import uvloop

from benchmarks.load import describe_machine, table
from dataplane.release import Envelope, parse_trusted_keys, verify
from dataplane.reports import ReportShipper
from dataplane.settings import ReportSettings
from dataplane.watcher import ReleaseWatcher
from tests.end_to_end.stack import Browser, Stack

POLL_DEFAULT_SECONDS = 15.0
ROUND_SECONDS = 30.0
READY_SECONDS = 60.0
# Two stages of the demo's canary, 5 % and 50 %, so that each click changes who is served what.
STAGES = (2, 4)

MOMENTS = """
SELECT extract(epoch FROM pg_xact_commit_timestamp(r.xmin)),
       count(a.*),
       extract(epoch FROM min(a.at)),
       extract(epoch FROM max(a.at)),
       extract(epoch FROM max(pg_xact_commit_timestamp(a.xmin)))
  FROM releases_release r
  LEFT JOIN releases_ack a ON a.revision = r.revision AND a.digest = r.digest AND a.verdict = 'ack'
 WHERE r.revision = (SELECT max(revision) FROM releases_release)
 GROUP BY r.revision, r.xmin
"""

Database = psycopg.Connection[tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class Round:
    """One click, all in epoch seconds: sent, answered, committed, on disk, first and last ACK, last ACK stored."""

    clicked: float
    answered: float
    committed: float
    written: float
    first_ack: float
    last_ack: float
    recorded: float


@dataclass(frozen=True, slots=True)
class Share:
    """Processor time of one series as shares of the machine: of this benchmark and its servers, and of others."""

    ours: float
    others: float


# --- the simulated workers, in processes of their own -----------------------------------------------------------------
async def run_workers(*, first: int, count: int, release_file: Path, keys_file: Path, spool_dir: Path) -> None:
    """Run `count` workers until SIGTERM; says "ready" when all of them serve."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    settings = ReportSettings(redis_url=os.environ["REDIS_URL"], spool_dir=spool_dir)
    shippers, watchers = [], []
    for number in range(first, first + count):
        host = f"bench-{number:03d}"
        shipper = ReportShipper(worker=f"{host}/gateway-0", kind="gateway", host=host, settings=settings)
        watcher = ReleaseWatcher(release_file=release_file, trusted_keys_file=keys_file, acknowledge=shipper.ack)

        def adopted(release: object, shipper: ReportShipper = shipper, watcher: ReleaseWatcher = watcher) -> None:
            shipper.serving = watcher.current
            if shipper.status == "starting":
                shipper.set_status("serving")

        watcher.subscribe(adopted)
        await shipper.start()
        await watcher.start()
        shippers.append(shipper)
        watchers.append(watcher)
        await asyncio.sleep(1 / count)  # heartbeats are spread over the second, as those of processes started apart are
    print("ready", flush=True)
    await stop.wait()
    for one in watchers:
        await one.stop()
    await asyncio.gather(*(one.stop() for one in shippers))


@contextlib.contextmanager
def simulated_workers(stack: Stack, *, count: int, processes: int) -> Iterator[None]:
    """Keep `count` workers running in at most `processes` processes."""
    children: list[subprocess.Popen[bytes]] = []
    try:
        bounds = [round(index * count / min(processes, count)) for index in range(min(processes, count) + 1)]
        for first, end in itertools.pairwise(bounds):
            command = [sys.executable, "-m", "benchmarks.propagation", "--serve", f"{first}:{end - first}"]
            children.append(
                subprocess.Popen(  # noqa: S603 - ourselves
                    [*command, "--data-dir", str(stack.places.data_dir)], env=stack.environment, stdout=subprocess.PIPE
                )
            )
        for child in children:
            assert child.stdout is not None  # noqa: S101 - for the type checker
            if child.stdout.readline() != b"ready\n":
                raise SystemExit("the simulated workers do not start")
        yield
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.wait(READY_SECONDS)


# --- the clicks -------------------------------------------------------------------------------------------------------
def click(
    stack: Stack,
    browser: Browser,
    database: psycopg.Connection[tuple[object, ...]],
    *,
    knob: str,
    stage: int,
    workers: int,
) -> Round:
    """Turn the knob once and wait until the control plane holds an ACK of every worker.

    Raises:
        SystemExit: it does not within half a minute.
    """
    clicked = time.time()
    answer = browser.post(knob, {"stage": str(stage)})
    answered = time.time()
    if answer.status_code != 302:
        raise SystemExit(f"the click was refused: {answer.status_code}")
    deadline = time.monotonic() + ROUND_SECONDS
    while time.monotonic() < deadline:
        row = database.execute(MOMENTS).fetchone()
        if row is not None and row[1] == workers:
            committed, _, first_ack, last_ack, recorded = (float(str(value)) for value in row)
            written = (stack.places.data_dir / "release.json").stat().st_mtime
            return Round(clicked, answered, committed, written, first_ack, last_ack, recorded)
        # Rarely, because asking takes the processor from those who are timed; PostgreSQL keeps the times anyway.
        time.sleep(0.1)
    raise SystemExit(f"{workers} workers did not all acknowledge within {ROUND_SECONDS:.0f} s: {row}")


def run_series(
    stack: Stack,
    browser: Browser,
    *,
    knob: str,
    workers: int,
    rounds: int,
    processes: int,
    stages: Iterator[int],
    rng: random.Random,
) -> tuple[list[Round], Share]:
    """Click `rounds` times with so many workers, after five clicks that do not count."""
    with (
        simulated_workers(stack, count=workers, processes=processes),
        psycopg.connect(stack.postgres.url, autocommit=True) as database,
    ):
        stack.wait_for(lambda: _serving(database, workers), f"{workers} workers have reported")
        found: list[Round] = []
        for number in range(-5, rounds):
            if number == 0:
                used, started = _used(stack), time.monotonic()
                busy = _busy()
            one = click(stack, browser, database, knob=knob, stage=next(stages), workers=workers)
            if number >= 0:
                found.append(one)
            # At any moment of the workers' one-second rhythm, not always at the same.
            time.sleep(rng.uniform(0.1, 0.6))
        total = (time.monotonic() - started) * (psutil.cpu_count() or 1)
        ours = _used(stack) - used
        return found, Share(ours / total, max(_busy() - busy - ours, 0.0) / total)


def _serving(database: Database, workers: int) -> bool:
    row = database.execute(
        "SELECT count(*) FROM releases_worker WHERE host LIKE 'bench-%' AND status = 'serving'"
        " AND last_seen_at > now() - interval '3 seconds'"
    ).fetchone()
    return row is not None and row[0] == workers


def _used(stack: Stack) -> float:
    """Processor seconds of every process of the stack and of this one."""
    total = time.process_time()
    for process in stack.processes():
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _busy() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.system + times.nice + getattr(times, "irq", 0.0) + getattr(times, "softirq", 0.0))


# --- figures ----------------------------------------------------------------------------------------------------------
def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(len(ordered) * share), 1) - 1]


def verify_cost_ms(stack: Stack) -> tuple[float, int]:
    """What a worker's first verification takes: median ms of 200; and the size of the file in bytes."""
    data = (stack.places.data_dir / "release.json").read_bytes()
    keys = parse_trusted_keys((stack.places.keys / "trusted-keys.json").read_bytes())
    times = []
    for _ in range(200):
        started = time.perf_counter()
        verify(Envelope.from_json(data), trusted=keys, current=None)
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times), len(data)


def report(series: dict[int, tuple[list[Round], Share]], *, rounds: int) -> str:
    """The tables."""
    heads = ("", "p50 ms", "p99 ms", "max ms", "CPU ours", "CPU others")
    rows: list[tuple[str, ...]] = [heads]
    for workers, (found, share) in series.items():
        times = [(one.recorded - one.clicked) * 1000 for one in found]
        rows.append(
            (
                f"{workers} worker{'s' if workers > 1 else ''}: click to last ACK recorded",
                f"{quantile(times, 0.5):.1f}",
                f"{quantile(times, 0.99):.1f}",
                f"{max(times):.1f}",
                f"{share.ours:.0%}",
                f"{share.others:.0%}",
            )
        )
    poll_ms = POLL_DEFAULT_SECONDS * 1000
    poll = (
        "one client that polls every 15 s (uniform wait)",
        f"{poll_ms / 2:.1f}",
        f"{poll_ms * 0.99:.1f}",
        f"{poll_ms:.1f}",
    )
    rows.append((*poll, "", ""))
    parts: list[tuple[str, ...]] = [("median ms", *(f"{workers}" for workers in series))]
    stretches: tuple[tuple[str, Callable[[Round], float]], ...] = (
        ("click to commit (request, transaction, signature)", lambda one: one.committed - one.clicked),
        ("commit to file (broadcast, agent verifies, writes)", lambda one: one.written - one.committed),
        ("file to first ACK (notice, verify)", lambda one: one.first_ack - one.written),
        ("first to last ACK (the other workers' turns)", lambda one: one.last_ack - one.first_ack),
        ("last ACK to its commit (Redis, ingest)", lambda one: one.recorded - one.last_ack),
        ("beside: click to the browser's answer", lambda one: one.answered - one.clicked),
    )
    for name, of in stretches:
        medians = (statistics.median([of(one) * 1000 for one in found]) for found, _ in series.values())
        parts.append((name, *(f"{value:.1f}" for value in medians)))
    return f"{table(rows)}\n\n{rounds} clicks each; where the time goes, by number of workers:\n\n{table(parts)}"


def main() -> None:
    """Run the series and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="1,10,100", help="series, with commas between")
    parser.add_argument("--rounds", type=int, default=200, help="clicks per series")
    parser.add_argument("--processes", type=int, default=2, help="processes that the workers share")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--data-dir", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        first, count = map(int, arguments.serve.split(":"))
        data_dir: Path = arguments.data_dir
        uvloop.run(
            run_workers(
                first=first,
                count=count,
                release_file=data_dir / "release.json",
                keys_file=data_dir / "keys" / "trusted-keys.json",
                spool_dir=data_dir / "spool",
            )
        )
        return
    machine = describe_machine()
    stages = itertools.cycle(STAGES)
    rng = random.Random(arguments.seed)  # noqa: S311 - when to click, not a secret
    data_dir = Path(tempfile.mkdtemp(prefix="ballast-propagation-"))
    data_dir.chmod(0o711)
    stack = Stack(
        data_dir,
        processes=("console", "ingest", "agent"),
        durable=True,
        postgres_settings={"track_commit_timestamp": "on"},
    )
    try:
        with stack:
            stack.wait_ready()
            stack.wait_for(lambda: (data_dir / "release.json").exists(), "the agent has the release", needs="agent")
            cost_ms, size = verify_cost_ms(stack)
            print(machine)
            print(
                f"release of {size / 1000:.1f} kB; a worker's first verification takes {cost_ms:.2f} ms",
                flush=True,
            )
            browser = stack.sign_in("owner")
            ((slug,),) = stack.query("SELECT slug FROM rollouts_canary WHERE state = 'running'")
            series = {}
            for workers in map(int, arguments.workers.split(",")):
                series[workers] = run_series(
                    stack,
                    browser,
                    knob=f"/canaries/{slug}/knob/",
                    workers=workers,
                    rounds=arguments.rounds,
                    processes=arguments.processes,
                    stages=stages,
                    rng=rng,
                )
            browser.close()
            print(report(series, rounds=arguments.rounds))
    finally:
        shutil.rmtree(data_dir, ignore_errors=True)


if __name__ == "__main__":
    main()
