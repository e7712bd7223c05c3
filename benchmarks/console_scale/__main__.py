"""What the console costs when much is stored: server time and queries of every page, list and polled part, by scale.

    python -m benchmarks.console_scale [--scale full] [--beside small] [--rounds 10] [--keep DIR] [--only TEXT]

A real PostgreSQL of its own is migrated and gets the demo, with something on every page; each of its rows is then
copied many times over, spread over 90 days (`rows.py`): at full scale 10,000,000 usage rows, 1,000,000 streams,
100,000 prompt versions of 2,000 prompts, 500,000 events of audit, 1,000 hosts with 4,000 processes, each of which has
acknowledged 1,000 releases. `small` is a hundredth of that, `medium` a tenth.

Every address is then asked for in process, through all middleware, by somebody who is signed in: once to warm up, and
`rounds` times more, with the collector of garbage settled as the console's server settles it. Server time is the
processor time of this process and what it waited for PostgreSQL, so that others on the machine do not count; the wall's
time stands beside it. A row is marked, and the exit status is 1, if a page takes more than 50 ms, needs other queries
than at the smaller scale, or answers anything but 200.

`--keep DIR` leaves the databases there, for the next run to use; after a few hours their newest hour is empty.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.load import describe_machine, table

SCALES = {"small": 0.01, "medium": 0.1, "full": 1.0}
LIMIT_MS = 50.0
# What happens behind the pages may take longer, but not because more is stored.
GROWTH, GROWTH_MS = 2.0, 50.0
TRAFFIC_SECONDS = 60
SLOW_SECONDS = 2.0
LOADED = "loaded"
DEMO = ("simulator", "embedder", "console", "ingest", "agent", "gateway", "jobs", "shadow")
LOADING = {"max_wal_size": "8GB", "checkpoint_timeout": "30min"}


@dataclass(slots=True)
class Cost:
    """What asking cost, once per round, in milliseconds; `queries` is a number that all rounds agree on, or -1."""

    name: str
    path: str = ""
    status: int = 200
    size_bytes: int = 0
    queries: int = -1
    server_ms: list[float] = field(default_factory=list)
    wall_ms: list[float] = field(default_factory=list)
    database_ms: list[float] = field(default_factory=list)
    slowest_ms: float = 0.0
    slowest: str = ""

    @property
    def p50(self) -> float:
        """Server time."""
        return statistics.median(self.server_ms)


@dataclass(slots=True)
class Meter:
    """Counts queries while it is installed, and how long each was waited for without using the processor."""

    count: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    slowest: tuple[float, str] = (0.0, "")

    def __call__(self, execute: Any, sql: Any, params: Any, many: Any, context: Any) -> Any:
        began, used = time.perf_counter(), time.thread_time()
        try:
            return execute(sql, params, many, context)
        finally:
            took = time.perf_counter() - began
            self.count += 1
            self.seconds += took
            self.waited += max(took - (time.thread_time() - used), 0.0)
            self.slowest = max(self.slowest, (took, str(sql)))


# --- in a process of its own, with Django -----------------------------------------------------------------------------
def measure(target: Path, *, rounds: int, only: str) -> None:
    """Ask for everything and write what it cost."""
    from django.db import transaction

    from benchmarks.console_scale.load import freshen
    from benchmarks.console_scale.pages import addresses, background
    from controlplane.api import limits
    from controlplane.serve import settle

    limits.CALLS = limits.STRANGERS = 10**9  # thousands of requests from one address
    freshen()
    asked_for = list(addresses())
    settle()  # as the console's server does
    costs = []
    clients: dict[str, Any] = {}
    for asked in asked_for:
        if only in asked.name:
            client = clients.setdefault(asked.who, _signed_in(asked.who))
            costs.append(_cost(asked.name, lambda c=client, a=asked: _get(c, a.path), rounds=rounds, path=asked.path))  # type: ignore[misc]
    for work in background():
        if only in work.name:

            def undone(run: Callable[[], object] = work.run) -> tuple[int, int]:
                with transaction.atomic():
                    run()
                    transaction.set_rollback(True)
                return 200, 0

            costs.append(_cost(work.name, undone, rounds=rounds))
    target.write_text(json.dumps([asdict(cost) for cost in costs]))


def _signed_in(who: str) -> Any:
    from django.conf import settings
    from django.test import Client

    from controlplane.accounts.models import Operator

    client = Client(
        SERVER_NAME="127.0.0.1", raise_request_exception=False, HTTP_HOST=f"127.0.0.1:{settings.CONSOLE_PORT}"
    )
    if who:
        client.force_login(Operator.objects.get(username=who), backend="controlplane.accounts.backends.OperatorBackend")
    return client


def _get(client: Any, path: str) -> tuple[int, int]:
    answer = client.get(path)
    body = b"".join(answer.streaming_content) if answer.streaming else answer.content
    return answer.status_code, len(body)


def _cost(name: str, ask: Callable[[], tuple[int, int]], *, rounds: int, path: str = "") -> Cost:
    cost = Cost(name, path)
    counts = set()
    began = time.perf_counter()
    cost.status, cost.size_bytes = ask()
    # What takes seconds is wrong by any measure, and need not be waited for so often.
    rounds = min(rounds, 2) if time.perf_counter() - began > SLOW_SECONDS else rounds
    gc.collect()
    for _ in range(rounds):
        with _metered() as meter:
            began, used = time.perf_counter(), time.process_time()
            ask()
            cost.server_ms.append((time.process_time() - used + meter.waited) * 1000)
            cost.wall_ms.append((time.perf_counter() - began) * 1000)
        cost.database_ms.append(meter.seconds * 1000)
        counts.add(meter.count)
        if meter.slowest[0] * 1000 > cost.slowest_ms:
            cost.slowest_ms, cost.slowest = meter.slowest[0] * 1000, meter.slowest[1]
    cost.queries = counts.pop() if len(counts) == 1 else -1
    if cost.p50 > LIMIT_MS:
        print(f"  {cost.name}: {cost.p50:.0f} ms, {cost.queries} queries", flush=True)
    return cost


@contextmanager
def _metered() -> Iterator[Meter]:
    from django.db import connection

    meter = Meter()
    with connection.execute_wrapper(meter):
        yield meter


# --- around it --------------------------------------------------------------------------------------------------------
def costs_at(name: str, home: Path, *, rounds: int, only: str) -> dict[str, Cost]:
    """What everything costs at one scale; its database is made if it is not in `home`."""
    from tests.end_to_end.stack import Stack

    data_dir = home / name
    if not (data_dir / LOADED).exists():
        _make(name, data_dir)
    target = data_dir / "costs.json"
    with Stack(data_dir, processes=(), postgres_settings=LOADING) as stack:
        _run(stack.environment, "--measure", str(target), "--rounds", str(rounds), "--only", only)
    return {cost["name"]: Cost(**cost) for cost in json.loads(target.read_text())}


def _make(name: str, data_dir: Path) -> None:
    from tests.browser.conftest import REPLAY_ONCE
    from tests.browser.furnishing import furnish
    from tests.end_to_end.stack import Stack

    shutil.rmtree(data_dir, ignore_errors=True)
    data_dir.mkdir(parents=True)
    data_dir.chmod(0o711)
    print(f"{name}: the demo, and {TRAFFIC_SECONDS} s of its traffic", flush=True)
    stack = Stack(data_dir, processes=DEMO)
    stack.manage("collectstatic", "--noinput")
    with stack:
        stack.wait_ready()
        stack.manage("shell", "-c", REPLAY_ONCE)
        furnish(stack)
        stack.begin("traffic")
        time.sleep(TRAFFIC_SECONDS)
        stack.stop("traffic")
    began = time.monotonic()
    with Stack(data_dir, processes=(), postgres_settings=LOADING) as stack:
        _run(stack.environment, "--fill", name)
    (data_dir / LOADED).touch()
    print(f"{name}: loaded in {time.monotonic() - began:.0f} s", flush=True)


def _run(environment: dict[str, str], *arguments: str) -> None:
    variables = {**environment, "DJANGO_SETTINGS_MODULE": "controlplane.settings", "BALLAST_LOG_LEVEL": "ERROR"}
    command = [sys.executable, "-m", "benchmarks.console_scale", *arguments]
    subprocess.run(command, env=variables, check=True)  # noqa: S603 - ourselves


def report(small: dict[str, Cost], full: dict[str, Cost], names: tuple[str, str]) -> tuple[str, list[str]]:
    """The table, and what is wrong."""
    head = (
        "",
        *(f"{name}: {what}" for name in names for what in ("p50", "max", "wall", "queries")),
        "slowest query",
        "kB",
        "",
    )
    rows: list[tuple[str, ...]] = [head]
    wrong = []
    for name, cost in full.items():
        before = small[name]
        marks = _marks(before, cost)
        if marks:
            wrong.append(
                f"{name}: {', '.join(marks)}\n    {cost.path}\n    {cost.slowest_ms:.1f} ms: {cost.slowest[:400]}"
            )
        cells = [
            cell
            for one in (before, cost)
            for cell in (
                f"{one.p50:.1f}",
                f"{max(one.server_ms):.0f}",
                f"{statistics.median(one.wall_ms):.0f}",
                "?" if one.queries < 0 else str(one.queries),
            )
        ]
        rows.append((name, *cells, f"{cost.slowest_ms:.1f}", f"{cost.size_bytes / 1000:.0f}", "!" if marks else ""))
    return table(rows), wrong


def _marks(small: Cost, full: Cost) -> list[str]:
    found = []
    if full.status != 200:
        found.append(f"answers {full.status}")
    if full.path and full.p50 > LIMIT_MS:
        found.append(f"{full.p50:.0f} ms")
    if not full.path and full.p50 > GROWTH * small.p50 + GROWTH_MS:
        found.append(f"grows from {small.p50:.0f} to {full.p50:.0f} ms")
    if full.path and (full.queries != small.queries or full.queries < 0):
        found.append(f"{small.queries} queries, then {full.queries}")
    return found


def main() -> None:
    """Load what is missing, measure both scales, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, default="full")
    parser.add_argument("--beside", choices=SCALES, default="small")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--keep", type=Path, help="where the databases stay; empty, or of a run before")
    parser.add_argument("--only", default="", help="only what has this in its name")
    parser.add_argument("--fill", choices=SCALES, help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.fill or arguments.measure:
        import django

        django.setup()
        if arguments.fill:
            from benchmarks.console_scale.load import fill
            from benchmarks.console_scale.rows import Sizes

            fill(Sizes.at(SCALES[arguments.fill]))
        else:
            measure(arguments.measure, rounds=arguments.rounds, only=arguments.only)
        return
    machine = describe_machine()
    home = arguments.keep or Path(tempfile.mkdtemp(prefix="ballast-console-scale-"))
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o711)
    try:
        names = (arguments.beside, arguments.scale)
        small, full = (costs_at(name, home, rounds=arguments.rounds, only=arguments.only) for name in names)
    finally:
        if not arguments.keep:
            shutil.rmtree(home, ignore_errors=True)
    text, wrong = report(small, full, names)
    print(f"{machine}\n\n{text}\n")
    within = sum(cost.p50 <= LIMIT_MS for cost in full.values() if cost.path)
    print(f"{within} of {sum(bool(cost.path) for cost in full.values())} answers within {LIMIT_MS:.0f} ms")
    if wrong:
        sys.exit("\n".join(["", *wrong]))


if __name__ == "__main__":
    main()
