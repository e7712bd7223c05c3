"""What one of everything costs, measured on this machine: what `benchmarks.scale_model` carries to other sizes.

    python -m benchmarks.unit_costs [--out benchmarks/unit_costs.json] [--quick]

Everything is real: a gateway under all policies on a core of its own, Redis, PostgreSQL that writes to disk before it
says so, ingest, console, workers that report. Costs are processor time, bytes and calls, each divided by how many there
were: a shared machine that is busy with something else changes these little, and time on the wall not at all in here.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import redis
import uvloop

from benchmarks.idempotency import Answer, Stopwatch, codes_in, drive
from benchmarks.load import describe_machine, request_bytes, saturate, table
from benchmarks.many_streams import Subject as StreamSubject
from benchmarks.propagation import simulated_workers, verify_cost_ms
from benchmarks.served_release import KEY, bodies, release_document, write_release
from benchmarks.serving import Processes
from dataplane.native import Native
from dataplane.report_sinks import STREAM
from launcher.ports import pick_free
from tests.end_to_end.gateways import Gateways, resumable
from tests.end_to_end.stack import Stack, make_data_dir

OUT = Path(__file__).with_suffix(".json")
FEW_AND_MANY = (20, 200)


@dataclass(frozen=True, slots=True)
class Cost:
    """One figure: of what, in what unit, and how it came about."""

    value: float
    unit: str
    how: str


class Costs:
    """What was found, by name; `docs/scale.md` says what each is for."""

    def __init__(self, *, is_quick: bool) -> None:
        self.found: dict[str, Cost] = {}
        self.is_quick = is_quick

    def add(self, name: str, value: float, unit: str, how: str) -> None:
        """Note a figure."""
        self.found[name] = Cost(float(f"{value:.4g}"), unit, how)
        print(f"{name}: {value:,.4g} {unit}", flush=True)


# --- a gateway, by itself ---------------------------------------------------------------------------------------------
def measure_gateway(costs: Costs, home: Path) -> list[bytes]:
    """Processor time and reports of a gateway under all policies; returns the reports."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("two cores are needed: one for the gateway, one for everything else")
    others = set(cores[1:])
    os.sched_setaffinity(0, others)
    processes = Processes(home)
    try:
        return uvloop.run(_measure_gateway(costs, processes, home, core={cores[0]}, others=others))
    except BaseException:
        processes.tell()
        raise
    finally:
        processes.stop()
        os.sched_setaffinity(0, set(cores))


async def _measure_gateway(
    costs: Costs, processes: Processes, home: Path, *, core: set[int], others: set[int]
) -> list[bytes]:
    canned, paced = pick_free(), pick_free()
    streams, rate, seconds = (100, 30.0, 4.0) if costs.is_quick else (400, 30.0, 10.0)
    processes.launch(["benchmarks.canned_upstream", str(canned)], on=others)
    processes.launch(["benchmarks.paced_upstream", str(paced), str(rate), str(int(rate * seconds))], on=others)
    redis_url = processes.launch_redis(on=others)
    headers = {"authorization": f"Bearer {KEY}", "ballast-user": "ada"}

    async def at(name: str, upstream: int) -> tuple[str, psutil.Process]:
        directory = home / name
        directory.mkdir()
        write_release(directory, release_document(f"http://127.0.0.1:{upstream}/v1"))
        return processes.launch_gateway(directory, on=core, redis_url=redis_url, native=Native.AUTO)

    with contextlib.closing(redis.Redis.from_url(redis_url)) as store:
        url, gateway = await at("plain", canned)
        store.delete(STREAM)
        idle, calls, began = Stopwatch(gateway), _calls(store), time.monotonic()
        await asyncio.sleep(5.0 if costs.is_quick else 20.0)
        seconds_idle = time.monotonic() - began
        costs.add("gateway_idle_core", idle.read() / seconds_idle, "cores per process", "processor time at rest")
        beats = _batches(store)
        costs.add("heartbeats", len(beats) / seconds_idle, "per process and second", "entries of the reports stream")
        costs.add("heartbeat_bytes", statistics.mean(map(len, beats)), "bytes", "the same entries")
        costs.add("redis_calls_idle", (_calls(store) - calls) / seconds_idle, "per process and second", "commandstats")

        store.delete(STREAM)
        micros, asked = [], 0.0
        request = request_bytes(url, bodies(stream=False, managed=False)[1], headers)
        calls, server, began = _calls(store), Stopwatch(_server(store)), time.monotonic()
        for _ in range(3 if costs.is_quick else 12):
            clock = Stopwatch(gateway)
            run = await saturate(url, request, connections=32, seconds=1.0)
            answered = run.rate * (run.warm_up_seconds + run.seconds)
            micros.append(clock.read() / answered * 1e6)
            asked += answered
        costs.add("request_cpu_us", statistics.median(micros), "us of a core", "plain call, all policies, 32 callers")
        await asyncio.sleep(2.5)  # the last reports
        took = time.monotonic() - began
        costs.add("redis_calls_busy", (_calls(store) - calls) / took, "per process and second", "a saturated process")
        costs.add("redis_core_busy", server.read() / took, "cores per process", "Redis, for a saturated process")
        batches = _batches(store)
        rows = sum(len(json.loads(one).get("usage", ())) for one in batches)
        costs.add("usage_row_wire_bytes", sum(map(len, batches)) / max(rows, 1), "bytes", "reports, over usage rows")
        rollups = [rollup for one in batches for rollup in json.loads(one).get("rollups", ())]
        size = statistics.mean(len(json.dumps(one)) for one in rollups)
        costs.add("series_wire_bytes", size, "bytes per series and second", "a rollup whose series changed")

        stream_url, streaming = await at("streams", paced)
        asked_stream = request_bytes(stream_url, bodies(stream=True, managed=False)[1], headers)
        subject = StreamSubject("gateway", stream_url, asked_stream, streaming)
        arguments = argparse.Namespace(streams=streams, rate=rate, seconds=seconds)
        await subject.read(arguments)
        core_share = subject.runs[-1].core_share
        costs.add("token_cpu_us", core_share / (streams * rate) * 1e6, "us of a core", "a token in a packet of its own")
        whole = subject.runs[-1].whole
        if whole != streams:
            raise SystemExit(f"{streams - whole} of {streams} streams were not whole")
    return batches


def _batches(store: Any) -> list[bytes]:
    return [fields[b"batch"] for _, fields in store.xrange(STREAM)]


def _calls(store: Any) -> int:
    return sum(one["calls"] for one in store.info("commandstats").values())


def _server(store: Any) -> psutil.Process:
    return psutil.Process(store.info("server")["process_id"])


# --- what takes reports in --------------------------------------------------------------------------------------------
class Database:
    """PostgreSQL of a stack: its processor time, what it logs for itself, and how large a table is."""

    def __init__(self, stack: Stack) -> None:
        self._url = stack.postgres.url
        self._root = psutil.Process(stack.pid("postgres"))

    def clock(self) -> Stopwatch:
        """Processor time from now on, of all its processes."""
        return Stopwatch(self._root, *self._root.children(recursive=True))

    def ask(self, sql: str) -> Any:
        """One value."""
        with psycopg.connect(self._url, autocommit=True) as connection:
            row = connection.execute(sql.encode()).fetchone()
        return None if row is None else row[0]

    def written(self) -> int:
        """Bytes of its log so far."""
        return int(self.ask("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')"))


def measure_ingest(costs: Costs, stack: Stack, batches: list[bytes]) -> None:
    """What ingest and PostgreSQL take for reports of a gateway, and for workers that have nothing to say."""
    database, ingest = Database(stack), psutil.Process(stack.pid("ingest"))
    rows = sum(len(json.loads(one).get("usage", ())) for one in batches)
    with contextlib.closing(redis.Redis.from_url(stack.redis.url())) as store:
        size = int(database.ask("SELECT pg_total_relation_size('ledger_usagerow')"))
        stored, log = int(database.ask("SELECT count(*) FROM ledger_usagerow")), database.written()
        clocks = Stopwatch(ingest), database.clock()
        for batch in batches:
            store.xadd(STREAM, {"batch": batch})
        stack.wait_for(lambda: store.xlen(STREAM) == 0, "reports are taken in", needs="ingest", seconds=600)
        taken = int(database.ask("SELECT count(*) FROM ledger_usagerow")) - stored
        if taken < rows:
            raise SystemExit(f"{rows} usage rows were reported, {taken} are stored")
        costs.add("ingest_row_us", clocks[0].read() / taken * 1e6, "us of a core", f"{taken:,} usage rows taken in")
        costs.add("postgres_row_us", clocks[1].read() / taken * 1e6, "us of a core", "the same, PostgreSQL's part")
        costs.add("row_log_bytes", (database.written() - log) / taken, "bytes", "the same, PostgreSQL's log")
        grown = int(database.ask("SELECT pg_total_relation_size('ledger_usagerow')")) - size
        costs.add("row_stored_bytes", grown / taken, "bytes", "the table of usage rows with its indexes")
    measure_heartbeats(costs, stack)


def measure_heartbeats(costs: Costs, stack: Stack) -> None:
    """What one more worker costs that has nothing to say: a turn of ingest costs the same for any number of them."""
    database, ingest = Database(stack), psutil.Process(stack.pid("ingest"))
    seconds = 8.0 if costs.is_quick else 20.0
    found = []
    for workers in FEW_AND_MANY:
        with simulated_workers(stack, count=workers, processes=1):
            time.sleep(2.0)  # they have said who they are
            clocks, log = (Stopwatch(ingest), database.clock()), database.written()
            time.sleep(seconds)
            found.append([clock.read() / seconds for clock in clocks] + [(database.written() - log) / seconds])
    more = FEW_AND_MANY[1] - FEW_AND_MANY[0]
    taken, stored, logged = (max(many - few, 0.0) / more for few, many in zip(*found, strict=True))
    of = f"one more idle worker a second, {FEW_AND_MANY[0]} to {FEW_AND_MANY[1]}"
    costs.add("ingest_heartbeat_us", taken * 1e6, "us of a core", of)
    costs.add("postgres_heartbeat_us", stored * 1e6, "us of a core", "the same, PostgreSQL's part")
    costs.add("heartbeat_log_bytes", logged, "bytes", "the same, PostgreSQL's log")


def measure_releases(costs: Costs, stack: Stack) -> None:
    """How large a release is, what it takes to verify it, and what an agent that asks for it costs the console."""
    milliseconds, size = verify_cost_ms(stack)
    costs.add("release_verify_ms", milliseconds, "ms of a core", "the demo's release, signature and schema")
    costs.add("release_bytes", size, "bytes", "the demo's release")
    variables = stack.environment
    agent = {"authorization": f"Bearer {variables['BALLAST_AGENT_TOKEN']}"}
    url = f"{stack.console_url}/api/v1/releases/current"
    asked = 100 if costs.is_quick else 500
    with httpx.Client(headers=agent) as client:
        tag = client.get(url).raise_for_status().headers["etag"]
        console = psutil.Process(stack.pid("console"))
        clock = Stopwatch(console, *console.children(recursive=True))
        for _ in range(asked):
            if client.get(url, headers={"if-none-match": tag}).status_code != 304:
                raise SystemExit("an agent was not told that it has the newest release")
        costs.add("reconcile_cpu_ms", clock.read() / asked * 1e3, "ms of a core", "an agent's question, answered 304")


# --- idempotency keys -------------------------------------------------------------------------------------------------
def measure_keys(costs: Costs, stack: Stack, directory: Path) -> None:
    """What a key adds to a request, at the gateway and in PostgreSQL."""
    requests = 200 if costs.is_quick else 1500
    with Gateways(directory, resumable(model="gpt-4o-instant"), processes=1, database_url=stack.postgres.url) as fleet:
        database, gateway = Database(stack), psutil.Process(fleet.pid(0))
        found = {}
        for kind in ("warm", "without", "key"):
            asked = [Answer(one, False, str(uuid.uuid4()) if kind == "key" else "", 0) for one in range(requests)]
            clocks, log = (Stopwatch(gateway), database.clock()), database.written()
            answers = uvloop.run(drive(fleet.urls, iter(asked), callers=16))
            if (codes := codes_in(answers)) != "0":
                raise SystemExit(f"{kind}: {codes}")
            found[kind] = [clock.read() / requests * 1e6 for clock in clocks], (database.written() - log) / requests
    (plain, _), (keyed, logged) = found["without"], found["key"]
    costs.add("key_gateway_us", max(keyed[0] - plain[0], 0.0), "us of a core", "a new key, over the same without one")
    costs.add("key_postgres_us", keyed[1], "us of a core", "PostgreSQL, for one new key")
    costs.add("key_log_bytes", logged, "bytes", "the same, PostgreSQL's log")


@contextlib.contextmanager
def kept_apart() -> Iterator[tuple[Path, Path]]:
    """A directory for a stack, and one for the rest."""
    home = make_data_dir()
    try:
        with tempfile.TemporaryDirectory() as other:
            yield home, Path(other)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--quick", action="store_true", help="whether it works; the figures are rough")
    arguments = parser.parse_args()
    machine = describe_machine()
    costs = Costs(is_quick=arguments.quick)
    with kept_apart() as (home, other):
        for name in ("gateway", "keys"):
            (other / name).mkdir()
        batches = measure_gateway(costs, other / "gateway")
        with Stack(home, processes=("console", "ingest", "agent"), durable=True, own_broker=True) as stack:
            stack.wait_ready()
            release = stack.places.data_dir / "release.json"
            stack.wait_for(release.exists, "the agent has the release", needs="agent")
            measure_releases(costs, stack)
            measure_ingest(costs, stack, batches)
            measure_keys(costs, stack, other / "keys")
    found = {name: asdict(cost) for name, cost in costs.found.items()}
    measured = {"machine": machine, "on": time.strftime("%Y-%m-%d"), "costs": found}
    arguments.out.write_text(json.dumps(measured, indent=2) + "\n")
    print(f"\nmachine: {machine}\nwritten to {arguments.out}\n")
    print(
        table([("", "", "", "of"), *((name, f"{one.value:,}", one.unit, one.how) for name, one in costs.found.items())])
    )


if __name__ == "__main__":
    main()
