"""What resumable streams promise, counted: connections reset at any byte, processes killed between frames, and cost.

    python -m benchmarks.streams [--resets 1000] [--kills 5] [--seed 104] [--database URL]

Everything is real and runs on this one machine: gateway processes that share a Redis, and the provider simulator.

Resets: callers on bare sockets hang up with an RST after a random number of bytes, and read on at a random process with
the number of the last frame that came whole, until they have the end. What they pieced together is held against what
the log has, read again from the start, against the digest in the ledger's row, and against the words that the provider
gives when it is asked the same directly. Without an idempotency key a caller who hangs up before its stream has a name
can only ask again, for another stream; those resets are counted apart. With `--database`, where the ledger's tables
are, every request has a key, and they count like any other. Beside them, callers of a route without a stream policy
hang up once, and cannot read on.

Kills: a process is killed with SIGKILL while callers at another one read along; the seconds are from there to the
terminal event, as these callers see it.

Cost: the same requests with and without the log, round by round; processor time of the gateway process, and of Redis.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import httpx
import psutil
import uvloop

from benchmarks.load import describe_machine, request_bytes, saturate, table
from tests.end_to_end.gateways import KEY, Gateways, resumable, secret_of
from tests.end_to_end.raw_streams import (
    Connection,
    Received,
    body_of,
    digest_of,
    is_terminal,
    post,
    read_with_resets,
    resume,
    text_of,
)

PROCESSES = 3
CALLERS = 8
RESETS_PER_STREAM = 5
SPAN_BYTES = 4000
STREAMS_PER_KILL = 20
FRAMES_BEFORE_KILL = 3
ROW_SECONDS = 60.0
PEERS = 60
ROUNDS = 5
ROUND_SECONDS = 3.0
CONNECTIONS = 16
LATE_READERS = 200


@dataclass
class Resets:
    """What came of one stream after resets."""

    received: Received
    is_whole: bool
    is_as_logged: bool
    is_as_generated: bool


@dataclass
class Costs:
    """Milliseconds of processor time per request, by subject, one figure per round."""

    gateway: list[float] = field(default_factory=list)
    redis: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)


# --- resets -----------------------------------------------------------------------------------------------------------
def words_from_provider(http: httpx.Client, gateways: Gateways, route: str, number: int) -> str:
    """What the provider answers to the same question when it is asked directly."""
    body = body_of(route, number) | {"model": "gpt-4o"}
    answer = http.post(
        f"{gateways.simulator_url}/openai/v1/chat/completions",
        json=body,
        headers={"authorization": f"Bearer {secret_of(route)}"},
    )
    lines = [line[6:].encode() for line in answer.text.split("\n") if line.startswith("data: ")]
    return "".join(map(text_of, lines))


def reset_one(gateways: Gateways, http: httpx.Client, number: int, *, seed: int, is_keyed: bool) -> Resets:
    """Read one stream with resets, and hold it against everything else that knows it."""
    rng = Random(f"{seed}-{number}")  # noqa: S311 - where to cut, no secret
    headers = {"idempotency-key": str(uuid.UUID(int=rng.getrandbits(128), version=4))} if is_keyed else {}
    first = post(KEY, body_of("slow", number), **headers)
    received = read_with_resets(gateways.urls, first, key=KEY, rng=rng, resets=RESETS_PER_STREAM, span_bytes=SPAN_BYTES)
    again = Received(stream=received.stream)
    while not again.is_over:
        Connection(rng.choice(gateways.urls), resume(KEY, again), again).read_all()
    numbers = sorted(received.payloads)
    is_whole = numbers == list(range(1, len(numbers) + 1)) and not received.duplicates
    is_whole &= [is_terminal(received.payloads[one]) for one in numbers] == [False] * (len(numbers) - 1) + [True]
    return Resets(
        received,
        is_whole,
        again.payloads == received.payloads,
        received.text == words_from_provider(http, gateways, "slow", number),
    )


def lost_without_log(gateways: Gateways, number: int, *, seed: int) -> float:
    """Which share of an answer's words a caller has not when its connection is reset and it cannot read on."""
    rng = Random(f"{seed}-peer-{number}")  # noqa: S311 - as above
    received, whole = Received(), Received()
    connection = Connection(gateways.urls[0], post(KEY, body_of("plain", number)), received)
    connection.read_bytes(rng.randrange(SPAN_BYTES))
    connection.reset()
    Connection(gateways.urls[0], post(KEY, body_of("plain", number)), whole).read_all()
    return 1 - len(received.text) / len(whole.text)


def run_resets(gateways: Gateways, count: int, *, seed: int, is_keyed: bool) -> str:
    """The table of resets."""
    started = time.monotonic()
    results: list[Resets] = []
    with httpx.Client(timeout=60) as http, ThreadPoolExecutor(CALLERS) as threads:
        numbers = iter(range(10**6))
        while sum(one.received.resets - one.received.nameless for one in results) < count:
            missing = count - sum(one.received.resets - one.received.nameless for one in results)
            batch = [next(numbers) for _ in range(-(-missing // RESETS_PER_STREAM))]
            results += threads.map(
                lambda number: reset_one(gateways, http, number, seed=seed, is_keyed=is_keyed), batch
            )
        peers = list(threads.map(lambda number: lost_without_log(gateways, number, seed=seed), range(PEERS)))
    rows = wait_for_rows(gateways, {one.received.stream for one in results})
    resets = sum(one.received.resets - one.received.nameless for one in results)
    frames = sum(len(one.received.payloads) for one in results)
    tokens = sum(rows[one.received.stream]["billed_tokens"] for one in results)
    bad = [one for one in results if not (one.is_whole and one.is_as_logged and one.is_as_generated)]
    unlike = [one for one in results if rows[one.received.stream]["digest"] != digest_of(one.received)]
    refused = [body for one in results for _, body in one.received.refusals]
    codes = {json.loads(body)["error"]["code"] for body in refused}
    lost = sum(one.received.text == "" or not one.is_whole for one in results)
    facts = [
        ("resets at random bytes", f"{resets} in {time.monotonic() - started:.0f} s"),
        ("streams, frames, tokens", f"{len(results)}, {frames}, {tokens}"),
        ("resets before the stream had a name, asked again", str(sum(one.received.nameless for one in results))),
        ("streams with a frame lost, twice or out of order", f"{lost} of {len(results)}"),
        ("resets after which anything was lost", f"{len(bad)} of {resets} (95 % bound {3 / resets:.2%})"),
        (
            "hash(delivered) = hash(log), frame by frame",
            f"{sum(one.is_as_logged for one in results)} of {len(results)}",
        ),
        ("hash(delivered) = digest in the ledger's row", f"{len(results) - len(unlike)} of {len(results)}"),
        ("words = the provider's, asked directly", f"{sum(one.is_as_generated for one in results)} of {len(results)}"),
        ("answers that were errors, asked again", f"{len(refused)} {', '.join(sorted(codes))}"),
        (f"without a log: words lost to one reset, {PEERS} streams", f"{statistics.mean(peers):.0%}"),
    ]
    return table([("resets", ""), *facts])


def wait_for_rows(gateways: Gateways, streams: set[str]) -> dict[str, dict]:
    """The ledger's rows of these streams, once all are reported."""
    deadline = time.monotonic() + ROW_SECONDS
    while True:
        rows = {row["stream_id"]: row for row in gateways.reported("streams")}
        if streams <= rows.keys():
            return rows
        if time.monotonic() > deadline:
            raise SystemExit(f"{len(streams - rows.keys())} of {len(streams)} streams have no row in the ledger")
        time.sleep(0.5)


# --- kills ------------------------------------------------------------------------------------------------------------
def kill_once(gateways: Gateways, victim: int, first: int, threads: ThreadPoolExecutor) -> list[tuple[Received, float]]:
    """Kill a process while it generates streams; returns them as callers elsewhere have them, and the seconds to the
    end of each.
    """
    elsewhere = gateways.urls[(victim + 1) % PROCESSES]
    running = threading.Barrier(STREAMS_PER_KILL + 1)
    ended_at: dict[str, float] = {}

    def read_along(number: int) -> Received:
        at_victim = Received()
        connection = Connection(gateways.urls[victim], post(KEY, body_of("drip", number)), at_victim)
        while at_victim.after < FRAMES_BEFORE_KILL:
            connection.read_bytes(1)
        received = Received(stream=at_victim.stream)
        along = Connection(elsewhere, resume(KEY, received), received)
        while received.after < FRAMES_BEFORE_KILL:
            along.read_bytes(1)
        running.wait()
        along.read_all()
        while not received.is_over:
            Connection(elsewhere, resume(KEY, received), received).read_all()
        ended_at[received.stream] = time.monotonic()
        return received

    reading = [threads.submit(read_along, first + number) for number in range(STREAMS_PER_KILL)]
    running.wait()
    time.sleep(Random(first).random() / 4)  # noqa: S311 - anywhere between two frames
    killed_at = time.monotonic()
    gateways.kill(victim)
    received = [one.result() for one in reading]
    gateways.restart(victim)
    return [(one, ended_at[one.stream] - killed_at) for one in received]


def run_kills(gateways: Gateways, count: int) -> str:
    """The table of kills."""
    ended: list[tuple[Received, float]] = []
    with ThreadPoolExecutor(STREAMS_PER_KILL) as threads:
        for kill in range(count):
            ended += kill_once(gateways, kill % PROCESSES, 1000 * (kill + 1), threads)
    rows = wait_for_rows(gateways, {one.stream for one, _ in ended})
    good, codes = 0, set()
    for received, _ in ended:
        again = Received()
        again.stream = received.stream
        Connection(gateways.urls[0], resume(KEY, again), again).read_all()
        ends = [number for number, payload in again.payloads.items() if is_terminal(payload)]
        codes.add(json.loads(again.payloads[max(again.payloads)])["error"]["reason"])
        good += ends == [max(again.payloads)] and again.payloads == received.payloads
    in_order = sum(
        row["billed_tokens"] >= row["generated_tokens"] >= row["buffered_tokens"] >= row["delivered_tokens"]
        for row in (rows[one.stream] for one, _ in ended)
    )
    seconds = [one for _, one in ended]
    share = f"{good} of {len(ended)} (95 % bound of others {3 / len(ended):.1%})"
    facts = [
        ("kills, streams under way at each", f"{count}, {STREAMS_PER_KILL}"),
        ("ended with exactly one terminal event", share if good == len(ended) else f"{good} of {len(ended)}"),
        ("its reason", ", ".join(sorted(codes))),
        ("with a ledger row whose figures keep their order", f"{in_order} of {len(ended)}"),
        ("seconds from SIGKILL to the end, median", f"{statistics.median(seconds):.1f}"),
        ("the same, at worst", f"{max(seconds):.1f}"),
    ]
    return table([("kills", ""), *facts])


# --- cost -------------------------------------------------------------------------------------------------------------
def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


async def measure_cost(gateways: Gateways) -> dict[str, Costs]:
    """Saturate one process with streams, by turns without and with the log."""
    costs = {"plain": Costs(), "fast": Costs()}
    url = f"{gateways.urls[0]}/v1/chat/completions"
    for _ in range(ROUNDS):
        for route, cost in costs.items():
            body = json.dumps({"model": route, "stream": True, "max_tokens": 32, "messages": [
                {"role": "user", "content": "Where is my parcel?"}]}).encode()  # fmt: skip
            request = request_bytes(url, body, {"authorization": f"Bearer {KEY}"})
            before = cpu_seconds(gateways.pid(0)), cpu_seconds(gateways.redis.pid)
            result = await saturate(url, request, connections=CONNECTIONS, seconds=ROUND_SECONDS)
            after = cpu_seconds(gateways.pid(0)), cpu_seconds(gateways.redis.pid)
            # The warm-up is at the same pace, so it is taken out in proportion.
            served = len(result.latencies_ms) * (1 + result.warm_up_seconds / result.seconds)
            if result.failures or not served:
                raise SystemExit(f"{result.failures} requests failed, {served:.0f} did not")
            cost.gateway.append((after[0] - before[0]) / served * 1000)
            cost.redis.append((after[1] - before[1]) / served * 1000)
            cost.rate.append(result.rate)
    return costs


def resume_latencies(gateways: Gateways) -> tuple[list[float], list[float]]:
    """Milliseconds from asking for a stream that another process generated, to the first event and to the last."""
    first, last = [], []
    for number in range(LATE_READERS):
        asked = Received()
        Connection(gateways.urls[0], post(KEY, body_of("fast", number)), asked).read_all()
        received = Received(stream=asked.stream)
        started = time.perf_counter()
        connection = Connection(gateways.urls[1], resume(KEY, received), received)
        while not received.resumed:
            connection.read_bytes(1)
        first.append((time.perf_counter() - started) * 1000)
        connection.read_all()
        last.append((time.perf_counter() - started) * 1000)
    return first, last


def quantiles(values: Sequence[float]) -> str:
    """Median and 99th percentile."""
    ordered = sorted(values)
    return f"{statistics.median(ordered):.1f} / {ordered[int(0.99 * (len(ordered) - 1))]:.1f} ms"


def run_cost(gateways: Gateways) -> str:
    """The table of costs."""
    costs = uvloop.run(measure_cost(gateways))
    plain, kept = costs["plain"], costs["fast"]
    ratios = sorted(one / other for one, other in zip(kept.gateway, plain.gateway, strict=True))

    def row(name: str, pick: Callable[[Costs], list[float]], unit: str, digits: int = 2) -> tuple[str, str, str]:
        values = [f"{statistics.median(pick(one)):.{digits}f} {unit}" for one in (plain, kept)]
        return name, *values

    first, last = resume_latencies(gateways)
    return "\n\n".join(
        [
            table(
                [
                    (f"streamed, 32 tokens, {CONNECTIONS} connections", "without a log", "with"),
                    row("gateway, processor time per request", lambda one: one.gateway, "ms"),
                    row("Redis, processor time per request", lambda one: one.redis, "ms"),
                    row("requests a second, one process", lambda one: one.rate, "/s", 0),
                    (
                        "gateway, with against without, by rounds",
                        "",
                        f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
                    ),
                ]
            ),
            table(
                [
                    (f"{LATE_READERS} streams read at another process", "median / p99"),
                    ("to the first event", quantiles(first)),
                    ("to the last", quantiles(last)),
                ]
            ),
        ]
    )


def main() -> None:
    """Run all three and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resets", type=int, default=1000, help="0: skip")
    parser.add_argument("--kills", type=int, default=5, help="0: skip")
    parser.add_argument("--seed", type=int, default=104)
    parser.add_argument("--database", help="a PostgreSQL with the ledger's tables: requests have idempotency keys then")
    parser.add_argument("--no-cost", action="store_true", help="leave the cost out")
    arguments = parser.parse_args()
    print(f"machine: {describe_machine()}")
    print(f"{PROCESSES} gateway processes, one Redis, {CALLERS} callers at a time; seed {arguments.seed}", flush=True)
    with (
        tempfile.TemporaryDirectory() as directory,
        Gateways(Path(directory), resumable(), processes=PROCESSES, database_url=arguments.database) as gateways,
    ):
        if arguments.resets:
            is_keyed = arguments.database is not None
            print("\n" + run_resets(gateways, arguments.resets, seed=arguments.seed, is_keyed=is_keyed), flush=True)
        if not arguments.no_cost:
            print("\n" + run_cost(gateways), flush=True)
        if arguments.kills:
            gateways.strike("drip", "slow_drip:ms=250")
            print("\n" + run_kills(gateways, arguments.kills), flush=True)


if __name__ == "__main__":
    main()
