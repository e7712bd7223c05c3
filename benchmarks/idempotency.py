"""What idempotency keys promise, counted: one call to a provider for each key, whoever asks, and one answer; and cost.

    python -m benchmarks.idempotency [--callers 64] [--keys 500] [--without 25] [--quick]

Everything is real and runs on this one machine: four gateway processes, the provider simulator, Redis, and a PostgreSQL
that writes to disk before it says so.

Duplicates: every key is asked for by as many requests as there are callers, each at a random process, half of the keys
for streams. The requests of a few keys at a time are mixed, so that some are executed, some are waited for, and some
are done. Callers try once. A duplicate joined a stream, waited for an answer in one piece, or got what was done: the
evidence of its request id tells which. Beside it, the same load without keys.

Cost: requests with a new key each, the same requests without, and those of one key again and again, round by round at
one process; processor time of that process, of PostgreSQL and of Redis.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import logging
import random
import shutil
import statistics
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import orjson
import psutil
import psycopg
import uvloop

from benchmarks.load import describe_machine, table
from dataplane.errors import GatewayError
from dataplane.providers.base import UpstreamCall
from dataplane.timers import TimerWheel
from dataplane.transport import Http1Transport, Limits, Transport
from tests.end_to_end.gateways import KEY, Gateways, resumable
from tests.end_to_end.stack import Stack, make_data_dir

PROCESSES = 4
MODEL = "gpt-4o-mini"
# So many keys are asked for at a time.
MIXED = 8
PATIENT = Limits(connect_seconds=10, first_byte_seconds=60, idle_seconds=60)
QUESTION = {"messages": [{"role": "user", "content": "Where is my parcel?"}], "max_tokens": 32}
CONNECTIONS = 16
ROUNDS = 5
REQUESTS_PER_ROUND = 300
FIRST, JOINED, WAITED, REPLAYED, REFUSED = "executed", "joined the stream", "waited", "given again at once", "refused"


@dataclass(slots=True)
class Answer:
    """One request. `digest` is of the body; `code` is empty for an answer."""

    number: int
    stream: bool
    key: str
    process: int
    milliseconds: float = 0.0
    request_id: str = ""
    digest: str = ""
    code: str = ""


# --- load -------------------------------------------------------------------------------------------------------------
async def ask(transport: Transport, url: str, answer: Answer, *, route: str = "fast") -> None:
    """Make one request by the cheapest client at hand, and note what became of it."""
    # Each question is another one: providers answer the same question with the same words.
    body = QUESTION | {"model": route, "stream": answer.stream, "seed": answer.number}
    headers = [("authorization", f"Bearer {KEY}"), ("content-type", "application/json")]
    if answer.key:
        headers.append(("idempotency-key", answer.key))
    started = time.perf_counter()
    try:
        call = UpstreamCall(f"{url}/v1/chat/completions", tuple(headers), orjson.dumps(body))
        exchange = await transport.send(call, lane="gateway", limits=PATIENT)
        try:
            content = await exchange.read()
            said = exchange.headers()
        finally:
            exchange.close()
        answer.request_id = said.get("ballast-request-id", "")
        answer.digest = hashlib.sha256(content).hexdigest()
        if exchange.status != 200:
            answer.code = orjson.loads(content)["error"]["code"]
        elif answer.stream and not content.endswith(b"data: [DONE]\n\n"):
            answer.code = "the stream broke off"
    except GatewayError as exc:
        answer.code = exc.code
    answer.milliseconds = (time.perf_counter() - started) * 1000


def mixed(keys: int, callers: int, rng: random.Random, *, is_keyed: bool) -> Iterator[Answer]:
    """All requests, in an order in which those of `MIXED` keys come in between one another."""
    for first in range(0, keys, MIXED):
        numbers = range(first, min(first + MIXED, keys))
        names = {number: str(uuid.UUID(int=rng.getrandbits(128), version=4)) for number in numbers}
        block = [
            Answer(number, number % 2 == 1, names[number] if is_keyed else "", rng.randrange(PROCESSES))
            for number in numbers
            for _ in range(callers)
        ]
        rng.shuffle(block)
        yield from block


async def drive(urls: Sequence[str], requests: Iterator[Answer], *, callers: int) -> list[Answer]:
    """Have so many callers make the requests, each its next as soon as it has been answered."""
    transport = Http1Transport(timers=TimerWheel())
    answers: list[Answer] = []

    async def call_on_and_on() -> None:
        for answer in requests:
            answers.append(answer)
            await ask(transport, urls[answer.process], answer)

    await asyncio.gather(*(call_on_and_on() for _ in range(callers)))
    await transport.close()
    return answers


def calls_made(gateways: Gateways) -> int:
    """How many requests the provider has had."""
    total: int = httpx.get(f"{gateways.simulator_url}/admin/state", timeout=30).json()["total"]
    return total


# --- duplicates -------------------------------------------------------------------------------------------------------
def kinds_of(answers: Sequence[Answer], database_url: str) -> dict[str, list[Answer]]:
    """The answers, by what the evidence says of their requests."""
    with psycopg.connect(database_url) as database:
        events: dict[str, set[str]] = {}
        for request, event in database.execute("SELECT request_id, event FROM ledger_idempotencyevidence"):
            events.setdefault(request, set()).add(event)
    kinds: dict[str, list[Answer]] = {kind: [] for kind in (FIRST, JOINED, WAITED, REPLAYED, REFUSED)}
    for answer in answers:
        seen = events.get(answer.request_id, set())
        if answer.code:
            kind = REFUSED
        elif seen & {"created", "reopened", "taken_over"}:
            kind = FIRST
        elif "replayed" in seen:
            kind = WAITED if "attached" in seen else REPLAYED
        else:
            kind = JOINED
        kinds[kind].append(answer)
    return kinds


def quantiles(answers: Sequence[Answer]) -> str:
    """Median and 99th percentile of the time to the end."""
    times = sorted(one.milliseconds for one in answers)
    return f"{statistics.median(times):.0f} / {times[int(0.99 * (len(times) - 1))]:.0f}" if times else "none"


def codes_in(answers: Sequence[Answer]) -> str:
    """How many were refused, and why."""
    codes = Counter(one.code for one in answers if one.code)
    return ", ".join(f"{count} {code}" for code, count in sorted(codes.items())) or "0"


def run_duplicates(gateways: Gateways, *, callers: int, keys: int, without: int, seed: int) -> str:
    """The tables of duplicates."""
    columns = []
    for count, is_keyed in ((keys, True), (without, False)):
        rng = random.Random(seed)  # noqa: S311 - an order, no secret
        before, started = calls_made(gateways), time.monotonic()
        requests = mixed(count, callers, rng, is_keyed=is_keyed)
        answers = uvloop.run(drive(gateways.urls, requests, callers=callers))
        seconds = time.monotonic() - started
        digests: dict[int, set[str]] = {}
        for one in answers:
            if not one.code:
                digests.setdefault(one.number, set()).add(one.digest)
        distinct = Counter(map(len, digests.values()))
        columns.append((answers, seconds, calls_made(gateways) - before, distinct))
    (keyed, *_), (plain, *_) = columns

    def row(name: str, pick: Callable[[tuple], str]) -> tuple[str, str, str]:
        return name, *(pick(column) for column in columns)

    kinds = kinds_of(keyed, gateways.database_url)
    head = [
        (f"{callers} callers at a time", f"{keys} keys", f"without, {without} questions"),
        row("requests", lambda one: str(len(one[0]))),
        row("calls that the provider got", lambda one: str(one[2])),
        row("different answers to one key, or question", lambda one: ", ".join(map(str, sorted(one[3])))),
        row("refused, or broken off", lambda one: codes_in(one[0])),
        row("seconds, requests a second", lambda one: f"{one[1]:.0f}, {len(one[0]) / one[1]:.0f}"),
    ]
    rows = [("", "requests", "whole, p50 / p99 ms", "streamed, p50 / p99 ms")]
    for kind, answers in kinds.items():
        by_shape = [quantiles([one for one in answers if one.stream is stream]) for stream in (False, True)]
        rows.append((kind, str(len(answers)), *by_shape))
    plain_times = [quantiles([one for one in plain if one.stream is stream]) for stream in (False, True)]
    rows.append(("without keys", str(len(plain)), *plain_times))
    return f"{table(head)}\n\n{table(rows)}"


# --- cost -------------------------------------------------------------------------------------------------------------
@dataclass
class Costs:
    """Milliseconds of processor time per request, one figure per round; and of the request, to its end."""

    gateway: list[float] = field(default_factory=list)
    postgres: list[float] = field(default_factory=list)
    redis: list[float] = field(default_factory=list)
    latency: list[float] = field(default_factory=list)


class Stopwatch:
    """Processor time that some processes use from now on, in seconds."""

    def __init__(self, *processes: psutil.Process) -> None:
        self._before = {process: self._seconds(process, 0.0) for process in processes}

    def read(self) -> float:
        """What they have used since; of one that has ended meanwhile, such as a vacuum of the database's, nothing."""
        return sum(self._seconds(process, before) - before for process, before in self._before.items())

    def _seconds(self, process: psutil.Process, otherwise: float) -> float:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            return otherwise
        return float(times.user + times.system)


async def measure_cost(gateways: Gateways, postgres: psutil.Process, *, requests: int) -> dict[tuple[str, bool], Costs]:
    """The same requests at one process, by turns: without a key, with a new one each, and with one that is done."""
    costs = {(kind, stream): Costs() for stream in (False, True) for kind in ("without", "new key", "again")}
    gateway, redis = psutil.Process(gateways.pid(0)), psutil.Process(gateways.redis.pid)
    done = str(uuid.uuid4())
    for number in range(-1, ROUNDS):
        for (kind, stream), cost in costs.items():
            key = {"without": "", "again": f"{done}-{stream}"}.get(kind)
            asked = [Answer(0, stream, str(uuid.uuid4()) if key is None else key, 0) for _ in range(requests)]
            database = (postgres, *postgres.children(recursive=True))
            stopwatches = Stopwatch(gateway), Stopwatch(*database), Stopwatch(redis)
            answers = await drive(gateways.urls, iter(asked), callers=CONNECTIONS)
            used = [stopwatch.read() / requests * 1000 for stopwatch in stopwatches]
            if codes_in(answers) != "0":
                raise SystemExit(f"{kind}: {codes_in(answers)}")
            if number < 0:
                continue  # the first round warms everything up
            for values, value in zip((cost.gateway, cost.postgres, cost.redis), used, strict=True):
                values.append(value)
            cost.latency.append(statistics.median(one.milliseconds for one in answers))
    return costs


def run_cost(gateways: Gateways, stack: Stack, *, requests: int) -> str:
    """The tables of costs."""
    costs = uvloop.run(measure_cost(gateways, psutil.Process(stack.pid("postgres")), requests=requests))
    tables = []
    for stream in (False, True):
        kinds = {kind: costs[kind, stream] for kind in ("without", "new key", "again")}
        shape = "streamed, 32 tokens" if stream else "in one piece"
        rows = [(f"{shape}, {CONNECTIONS} callers", *kinds)]
        for name in ("gateway", "postgres", "redis"):
            values = [f"{statistics.median(getattr(one, name)):.2f} ms" for one in kinds.values()]
            rows.append((f"{name}, processor time per request", *values))
        ratios = []
        for one in kinds.values():
            shares = sorted(a / b for a, b in zip(one.gateway, kinds["without"].gateway, strict=True))
            ratios.append(f"{statistics.median(shares):.2f} ({shares[0]:.2f} to {shares[-1]:.2f})")
        rows.append(("gateway, against without, by rounds", *ratios))
        rows.append(("median to the end", *(f"{statistics.median(one.latency):.1f} ms" for one in kinds.values())))
        tables.append(table(rows))
    return "\n\n".join(tables)


def main() -> None:
    """Run both and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--keys", type=int, default=500)
    parser.add_argument("--without", type=int, default=25, help="questions that are asked without keys beside it")
    parser.add_argument("--seed", type=int, default=105)
    parser.add_argument("--no-cost", action="store_true", help="leave the cost out")
    parser.add_argument("--quick", action="store_true", help="16 callers, 24 keys, 50 requests a round: does it work")
    arguments = parser.parse_args()
    callers, keys, without, requests = arguments.callers, arguments.keys, arguments.without, REQUESTS_PER_ROUND
    if arguments.quick:
        callers, keys, without, requests = 16, 24, 4, 50
    logging.getLogger("httpx").setLevel(logging.WARNING)
    print(f"machine: {describe_machine()}")
    print(f"{PROCESSES} gateway processes, one Redis, one PostgreSQL (durable); model {MODEL}", flush=True)
    home = make_data_dir()
    try:
        with (
            Stack(home, processes=(), durable=True) as stack,
            tempfile.TemporaryDirectory() as directory,
            Gateways(
                Path(directory), resumable(model=MODEL), processes=PROCESSES, database_url=stack.postgres.url
            ) as gateways,
        ):
            sizes = {"callers": callers, "keys": keys, "without": without}
            print("\n" + run_duplicates(gateways, **sizes, seed=arguments.seed), flush=True)
            if not arguments.no_cost:
                print("\n" + run_cost(gateways, stack, requests=requests), flush=True)
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
