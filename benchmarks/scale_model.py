"""What Ballast needs at other sizes, and what gives way first, from the unit costs that were measured here.

    python -m benchmarks.scale_model [--costs FILE] [--set NAME=NUMBER …] [--rates 1000 10000 100000 1000000]

Every load is a product of a unit cost (`benchmarks/unit_costs.json`, made by `python -m benchmarks.unit_costs`) and of
what is asked; every limit is that of one server of a common size, and can be set as all else can (`--list` shows what).
The first table says how much of each part is needed at each rate; the second at what rate one server of a part is full,
in the order in which that happens, and what takes over there; the third follows one release to every worker, worker by
worker, in a simulation: with the broker, without it, and when every agent comes back at once.
"""

from __future__ import annotations

import argparse
import heapq
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks.load import quantile, table

COSTS = Path(__file__).with_name("unit_costs.json")
RATES = (1_000.0, 10_000.0, 100_000.0, 1_000_000.0)
# What is asked, and what one server of each kind takes. None of these is measured: they are yours to set.
ASSUMED = {
    "attempts_per_request": 1.05,
    "share_streamed": 0.5,
    "tokens_per_stream": 200.0,
    "seconds_per_stream": 8.0,
    "share_kept": 0.2,  # of streams: logged in Redis, so that they can be resumed
    "retention_seconds": 600.0,
    "frame_bytes": 180.0,
    "share_keyed": 0.02,
    "series_per_process": 40.0,
    "processes_per_host": 16.0,
    "busy_share": 0.6,  # of a core, so that it can take its neighbour's part
    "reconcile_seconds": 5.0,
    "days_kept": 90.0,
    "redis_cores": 1.0,
    "redis_megabytes_per_second": 400.0,
    "redis_gigabytes": 64.0,
    "redis_calls_per_second": 150_000.0,  # appends to streams
    "postgres_cores": 32.0,
    "postgres_log_megabytes_per_second": 200.0,
    "postgres_terabytes": 16.0,
    "console_cores": 16.0,
    "broker_messages_per_second": 20_000.0,
    "loss_share": 0.001,
}

Numbers = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that can be full.

    Attributes:
        load: What it has to do at so many requests a second, in `unit`.
        limit: What one server does, in `unit`.
        at_once: Whether more of them are simply more of them. The others need what `then` says.
        then: What takes over, and what has to change for that.
    """

    name: str
    unit: str
    load: Callable[[float, Numbers], float]
    limit: Callable[[Numbers], float]
    at_once: bool
    then: str


def processes_at(rate: float, n: Numbers) -> float:
    """How many gateway processes, each on a core of its own, so many requests a second need."""
    return rate * core_seconds(n) / n["busy_share"]


def core_seconds(n: Numbers) -> float:
    """What a request takes of a gateway's core: its own, that of its tokens, and that of its key."""
    tokens = n["share_streamed"] * n["tokens_per_stream"] * n["token_cpu_us"]
    return n["attempts_per_request"] * (n["request_cpu_us"] + tokens + n["share_keyed"] * n["key_gateway_us"]) / 1e6


def hosts_at(rate: float, n: Numbers) -> float:
    """How many hosts these are."""
    return max(processes_at(rate, n) / n["processes_per_host"], 1.0)


def rows_at(rate: float, n: Numbers) -> float:
    """Usage rows a second: one for each attempt."""
    return rate * n["attempts_per_request"]


def beats_at(rate: float, n: Numbers) -> float:
    """Reports a second of workers that say only that they are there: gateways, and the agent of each host."""
    return (processes_at(rate, n) + hosts_at(rate, n)) * n["heartbeats"]


def wire_at(rate: float, n: Numbers) -> float:
    """Megabytes of reports a second."""
    rollups = processes_at(rate, n) * n["series_per_process"] * n["series_wire_bytes"]
    return (rows_at(rate, n) * n["usage_row_wire_bytes"] + rollups + beats_at(rate, n) * n["heartbeat_bytes"]) / 1e6


def log_at(rate: float, n: Numbers) -> float:
    """Megabytes a second of PostgreSQL's log for reports and keys."""
    keyed = rate * n["share_keyed"] * n["key_log_bytes"]
    return (rows_at(rate, n) * n["row_log_bytes"] + beats_at(rate, n) * n["heartbeat_log_bytes"] + keyed) / 1e6


def postgres_at(rate: float, n: Numbers) -> float:
    """Cores of PostgreSQL for reports and keys."""
    keyed = rate * n["share_keyed"] * n["key_postgres_us"]
    return (rows_at(rate, n) * n["postgres_row_us"] + beats_at(rate, n) * n["postgres_heartbeat_us"] + keyed) / 1e6


def ingest_at(rate: float, n: Numbers) -> float:
    """Cores of ingest."""
    return (rows_at(rate, n) * n["ingest_row_us"] + beats_at(rate, n) * n["ingest_heartbeat_us"]) / 1e6


def kept_at(rate: float, n: Numbers) -> float:
    """Gigabytes of streams that can still be read again."""
    alive = rate * n["share_streamed"] * n["share_kept"] * (n["seconds_per_stream"] + n["retention_seconds"])
    return alive * n["tokens_per_stream"] * n["frame_bytes"] / 1e9


def frames_at(rate: float, n: Numbers) -> float:
    """Frames of such streams a second, each of which is a call."""
    return rate * n["share_streamed"] * n["share_kept"] * n["tokens_per_stream"]


def stored_at(rate: float, n: Numbers) -> float:
    """Terabytes of usage rows, over all days that are kept."""
    return rows_at(rate, n) * n["row_stored_bytes"] * 86_400 * n["days_kept"] / 1e12


PARTS: Sequence[Part] = (
    Part(
        "gateway processes",
        "processes",
        processes_at,
        lambda n: n["processes_per_host"],
        True,
        "more hosts: a gateway knows of no other but through Redis",
    ),
    Part(
        "ingest",
        "cores",
        ingest_at,
        lambda n: n["busy_share"],
        True,
        "more ingest processes: any number share the reports stream",
    ),
    Part(
        "PostgreSQL, processors",
        "cores",
        postgres_at,
        lambda n: n["postgres_cores"] * n["busy_share"],
        False,
        "usage rows and keys on Citus, distributed by tenant; whoever asks of all tenants asks all nodes",
    ),
    Part(
        "PostgreSQL, its log",
        "MB/s",
        log_at,
        lambda n: n["postgres_log_megabytes_per_second"],
        False,
        "Citus as above; each of its nodes writes a log of its own",
    ),
    Part(
        "PostgreSQL, usage rows kept",
        "TB",
        stored_at,
        lambda n: n["postgres_terabytes"],
        False,
        "fewer days; then partitions by day whose old ones go to S3. Totals by day stay, and pages read those",
    ),
    Part(
        "Redis, reports stream",
        "MB/s",
        wire_at,
        lambda n: n["redis_megabytes_per_second"],
        False,
        "a stream for each group of hosts, on Redis Cluster: ingest takes any, and knows batches by their worker",
    ),
    Part(
        "Redis, breakers, quotas, ladder",
        "cores",
        lambda rate, n: processes_at(rate, n) * n["redis_core_busy"],
        lambda n: n["redis_cores"] * n["busy_share"],
        False,
        "Redis Cluster: a turn at a quota touches one pool's keys, which share a hash tag; a turn at breakers is to be "
        "cut by lane",
    ),
    Part(
        "Redis, streams that can be resumed: memory",
        "GB",
        kept_at,
        lambda n: n["redis_gigabytes"],
        False,
        "a shorter retention; then Redis Cluster by stream",
    ),
    Part(
        "Redis, streams that can be resumed: frames",
        "calls/s",
        frames_at,
        lambda n: n["redis_calls_per_second"],
        False,
        "frames written several at a time; then Redis Cluster, once the two sets of all streams are cut as well",
    ),
    Part(
        "console, agents that ask",
        "cores",
        lambda rate, n: hosts_at(rate, n) / n["reconcile_seconds"] * n["reconcile_cpu_ms"] / 1e3,
        lambda n: n["console_cores"] * n["busy_share"],
        True,
        "more console processes, or a longer interval: pushes carry releases, asking only repairs",
    ),
    Part(
        "broker, messages of a release",
        "messages",
        lambda rate, n: hosts_at(rate, n),
        lambda n: n["broker_messages_per_second"],
        False,
        "RabbitMQ quorum queues, a fan-out exchange for each region; the delay is what grows, nothing is lost",
    ),
)


# --- one release, worker by worker ------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Spread:
    """Seconds from the commit of a release until hosts had it, and until all of a host's workers were known to."""

    has: list[float]
    known: list[float]


class Queue:
    """Servers that take so many seconds for each, first come, first served."""

    def __init__(self, servers: int, seconds: float) -> None:
        self._free = [0.0] * max(servers, 1)
        self._seconds = seconds

    def serve(self, at: float) -> float:
        """When whoever comes at `at` has been served; callers come in the order of their times."""
        begun = max(at, heapq.heappop(self._free))
        heapq.heappush(self._free, begun + self._seconds)
        return begun + self._seconds


def spread_release(hosts: int, n: Numbers, *, push: bool, together: bool, rng: Random) -> Spread:
    """Follow a release to every host and every acknowledgement back.

    Args:
        push: Whether the broker is there; without it, hosts hear of it when they ask next.
        together: Whether all of them ask at the same moment, as after an outage of the console.
    """
    console = Queue(int(n["console_cores"]), n["reconcile_cpu_ms"] / 1e3)
    broker = Queue(1, 1.0 / n["broker_messages_per_second"])
    heard: list[float] = []
    asking: list[float] = []
    for _ in range(hosts):
        if push and rng.random() >= n["loss_share"]:
            heard.append(broker.serve(0.0))
        else:
            asking.append(0.0 if together else rng.uniform(0.0, n["reconcile_seconds"] * 1.2))
    heard += [console.serve(at) for at in sorted(asking)]
    verify = n["release_verify_ms"] / 1e3
    has = [at + verify for at in heard]
    # Each process verifies it too, side by side with the others of its host, and reports at once.
    acks = sorted(at + verify + rng.uniform(0.0, 0.020) for at in has for _ in range(int(n["processes_per_host"])))
    cores = max(1, round(n["ingest_processes"]))
    ingest = Queue(cores, (n["ingest_heartbeat_us"] + n["postgres_heartbeat_us"]) / 1e6)
    return Spread(sorted(has), [ingest.serve(at) for at in acks])


# --- the tables -------------------------------------------------------------------------------------------------------
def needs(n: Numbers, rates: Sequence[float]) -> str:
    """How much of each part every rate needs, and how many servers that is."""
    rows = [("", *(f"{rate:,.0f} requests/s" for rate in rates), "one server")]
    for part in PARTS:
        limit = part.limit(n)
        cells = []
        for rate in rates:
            load = part.load(rate, n)
            cells.append(f"{_short(load)} ({load / limit:,.2f})")
        rows.append((f"{part.name}, {part.unit}", *cells, _short(limit)))
    return table(rows)


def order(n: Numbers) -> list[tuple[float, Part]]:
    """At what rate one server of each part is full, the first to be so first."""
    return sorted(((full_at(part, n), part) for part in PARTS), key=lambda found: found[0])


def full_at(part: Part, n: Numbers, *, most: float = 1e9) -> float:
    """The rate at which one server is full, in requests a second: loads grow with rates, so it is found by halving."""
    low, high = 0.0, most
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if part.load(middle, n) < part.limit(n) else (low, middle)
    return high


def saturation(n: Numbers) -> str:
    """What gives way first, and what takes over."""
    rows = [("one server is full at", "requests/s", "more of them do", "then")]
    rows += [(part.name, _short(rate), "yes" if part.at_once else "no", part.then) for rate, part in order(n)]
    return table(rows)


def convergence(n: Numbers, hosts: int, *, seed: int) -> str:
    """How a release spreads over so many hosts."""
    workers = hosts * int(n["processes_per_host"])
    rows = [(f"{hosts:,} hosts, {workers:,} workers", "has it p50 s", "p99 s", "last s", "known p99 s", "known last s")]
    for name, push, together in (
        ("pushed by the broker", True, False),
        ("broker away: by asking", False, False),
        ("console back: all ask at once", False, True),
    ):
        spread = spread_release(hosts, n, push=push, together=together, rng=Random(seed))  # noqa: S311 - a simulation
        has, known = spread.has, spread.known
        cells = (quantile(has, 0.5), quantile(has, 0.99), has[-1], quantile(known, 0.99), known[-1])
        rows.append((name, *(f"{one:.2f}" for one in cells)))
    return table(rows)


def _short(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if unit == 'k' else size):,.3g}{unit}"
    return f"{value:,.3g}"


def read_numbers(costs: Path, settings: Sequence[str]) -> dict[str, float]:
    """All numbers: measured, assumed, and as they were set.

    Raises:
        SystemExit: one is set that there is not, or to what is no number above zero.
    """
    measured = json.loads(costs.read_text())["costs"]
    numbers = ASSUMED | {name: float(one["value"]) for name, one in measured.items()}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name not in numbers:
            raise SystemExit(f"there is no {name!r}; known: {', '.join(sorted(numbers))}")
        try:
            numbers[name] = float(value)
        except ValueError:
            raise SystemExit(f"{name} is to be a number, not {value!r}") from None
        if numbers[name] < 0:
            raise SystemExit(f"{name} is below zero")
    return numbers


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--costs", type=Path, default=COSTS)
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="NAME=NUMBER")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--workers", type=int, default=10_000, help="gateway processes that a release is followed to")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--list", action="store_true", help="print every number that can be set")
    arguments = parser.parse_args()
    numbers = read_numbers(arguments.costs, arguments.settings)
    if arguments.list:
        measured = json.loads(arguments.costs.read_text())["costs"]
        rows = [("", "", "")]
        rows += [(name, f"{value:,.6g}", "measured" if name in measured else "") for name, value in numbers.items()]
        print(table(rows))
        return
    hosts = max(1, round(arguments.workers / numbers["processes_per_host"]))
    top = max(arguments.rates)
    numbers["ingest_processes"] = max(1.0, ingest_at(top, numbers) / numbers["busy_share"])
    print(f"costs measured on: {json.loads(arguments.costs.read_text())['machine']}\n")
    print(needs(numbers, arguments.rates) + "\n\nin brackets: of one server\n")
    print(saturation(numbers) + "\n")
    print(convergence(numbers, hosts, seed=arguments.seed))


if __name__ == "__main__":
    main()
