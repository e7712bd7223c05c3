"""What a degradation ladder is worth when more is asked than there is capacity for: goodput, waits, and who is served.

    python -m benchmarks.ladder [--loads 1,2,5,10] [--seconds 60] [--quick]

Everything is real and runs on this one machine: a gateway process with its runner of jobs, PostgreSQL, Redis, and the
provider simulator, which answers so many requests at once and no more. That many are asked at once first, and what they
are answered in a second is the capacity. Then callers come at random times, 1, 2, 5 and 10 times as many as that a
second: three in ten of a VIP tenant, five of a standard one, two of a free one. Each asks once, without a retry, and
waits 10 s at most for an answer.

Subjects, by turns:
    without    the account's quota policy alone: callers wait for their turn, and are told when it takes too long
    with       the same, and a ladder of four rungs: shorter answers, no tools, a smaller model of another account, and
               answers that come later, as jobs, which have a fifth of the large model at least, and all of it that
               is free; in each rung's signed words. VIPs are promised three times as many places as the large model
               has, so some wait for it.

Goodput is what models answered in a second: whole or shorter, within those 10 s, and what had been put off. A wait is
from the question to an answer, or to words that say honestly what happens now; whoever got an error, or nothing within
the 10 s, waited in vain and is counted as that.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import orjson
import psycopg
import uvloop

from benchmarks.load import describe_machine, request_bytes, table
from tests.dataplane.conftest import threshold
from tests.end_to_end.gateways import Gateways, Routing, secret_of, two_lanes
from tests.end_to_end.stack import Stack, make_data_dir
from tests.ladders import rung_copy, surface, trigger

AT_ONCE: Final = 6
VIP_PLACES: Final = 3 * AT_ONCE
PATIENCE_SECONDS: Final = 10.0
SETTLING_SECONDS: Final = 25.0
DRAIN_SECONDS: Final = 60.0
SHARES: Final = {"vip": 0.3, "standard": 0.5, "free": 0.2}
KEYS: Final = {f"bk-{tier}": tier for tier in SHARES}
QUESTION: Final = [
    {"role": "system", "content": "You are a help centre. Answer in detail."},
    {"role": "user", "content": "How do I get a refund, and how long does it take?"},
]
SEEDS: Final = 16
LARGE, SMALL = "large", "small"
QUOTA: Final[Mapping[str, float | None]] = {
    "window_seconds": 60,
    "requests": None,
    "tokens": None,
    "input_tokens": None,
    "output_tokens": None,
    "concurrency": AT_ONCE,
    "headroom": 0.001,
    "batch_share": 0.2,
    "vip_concurrency": None,
    "vip_weight": 4,
    "standard_weight": 2,
    "free_weight": 1,
    "spill_seconds": 1,
    "max_wait_seconds": PATIENCE_SECONDS,
    "ramp_seconds": 1,
    "fleet_workers": 1,
}


def routing() -> Routing:
    """The route `chat` at the large model, and `smaller` at the small one, each of an account that answers AT_ONCE."""

    def made(simulator_url: str) -> dict[str, Any]:
        parts = two_lanes(["chat"], policy={})(simulator_url)
        lane, account = parts["lanes"]["chat/primary"], parts["accounts"]["chat-primary"]
        del lane["breaker"]
        models = {LARGE: "gpt-4o", SMALL: "gpt-4o-mini"}
        numbers = {name: None if value is None else threshold(value) for name, value in QUOTA.items()}
        return {
            "providers": parts["providers"],
            "accounts": {name: account | {"secret": f"env:KEY_OF_{name.upper()}"} for name in models},
            "lanes": {
                name: lane | {"account": name, "upstream_model": model, "model": model, "quota": "shared"}
                for name, model in models.items()
            },
            "quotas": {"shared": numbers | {"learn": False}},
            "routes": {
                "chat": {"lanes": [LARGE], "deadline_ms": 60_000},
                "smaller": {"lanes": [SMALL], "deadline_ms": 60_000},
            },
        }

    return made


def ladder() -> dict[str, Any]:
    """The sections of a release that hold a ladder of four rungs, quick to move, so that a minute shows it."""
    four = {
        "1": {
            "copy": "rung-1",
            "instruction": "Answer briefly, in one short sentence.",
            "max_output_tokens": threshold(60),
        },
        "2": {"copy": "rung-2", "instruction": "No tools."},
        "3": {"copy": "rung-3", "route": "smaller"},
        "4": {"copy": "rung-4"},
    }
    triggers = {
        "under-way": trigger(enter=2 * AT_ONCE, leave=AT_ONCE, sustain_seconds=threshold(2)),
        "waiting": trigger(signal="queue_age_seconds", enter=1, leave=0.2, sustain_seconds=threshold(2)),
    }
    names = ("step_seconds", "dwell_seconds", "calm_seconds", "longest_calm_seconds")
    pace = {name: threshold(value) for name, value in zip(names, (3, 10, 10, 60), strict=True)}
    promises = {
        tier: {"reserved_concurrency": threshold(VIP_PLACES if tier == "vip" else 0), "served_share": threshold(0.9)}
        for tier in SHARES
    }
    return {
        "copy": rung_copy(1, 2, 3, 4),
        "ladder": {"web-chat": surface(rungs=four, triggers=triggers, pace=pace, promises=promises)},
    }


@dataclass(slots=True)
class Answer:
    """What became of one question. `kind` is whole, shorter, later, words, refused or late."""

    tier: str
    sent: float
    seconds: float
    kind: str
    job: str = ""


def kind_of(status: int, headers: Mapping[str, str], body: str) -> str:
    """What a caller got."""
    if status == 202:
        return "later"
    if status != 200:
        return "words" if "banner" in body else "refused"
    return "whole" if headers["ballast-rung"] == "0" else "shorter"


async def post(url: str, tier: str, body: bytes) -> tuple[int, dict[str, str], str]:
    """Ask once, on a connection of its own: hundreds of callers wait at once, which a pool would search for each."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        bearer = {"authorization": f"Bearer bk-{tier}", "connection": "close"}
        writer.write(request_bytes(f"{url}/v1/chat/completions", body, bearer))
        head, _, rest = (await reader.read()).decode().partition("\r\n\r\n")
    finally:
        writer.close()
    line, *lines = head.split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in lines)}
    return int(line.split()[1]), headers, rest


async def ask(url: str, tier: str, answers: list[Answer], *, seed: int) -> None:
    """One question of one caller."""
    sent = time.monotonic()
    body = orjson.dumps({"model": "chat", "messages": QUESTION, "seed": seed, "user": f"u{seed}"})
    kind, job = "late", ""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            status, headers, words = await post(url, tier, body)
        kind, job = kind_of(status, headers, words), headers.get("location", "").rpartition("/")[2]
    except (TimeoutError, OSError):
        pass
    answers.append(Answer(tier, sent, time.monotonic() - sent, kind, job))


async def measure_capacity(url: str, *, seconds: float) -> float:
    """Answers a second, with as many callers as the large model answers at once."""
    answers: list[Answer] = []

    async def on_and_on(number: int) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await ask(url, "standard", answers, seed=number)

    await asyncio.gather(*(on_and_on(number) for number in range(AT_ONCE)))
    return len(answers) / seconds


async def offer(url: str, *, rate: float, seconds: float, rng: random.Random, answers: list[Answer]) -> None:
    """Let callers come at Poisson times; what becomes of each is appended to `answers`."""
    tasks = set()
    due = time.monotonic()
    until = due + seconds
    # By the clock and not by pauses, so that a slow moment of this process makes nobody stay at home.
    while (due := due + rng.expovariate(rate)) < until:
        await asyncio.sleep(due - time.monotonic())
        tier = rng.choices(list(SHARES), weights=list(SHARES.values()))[0]
        task = asyncio.create_task(ask(url, tier, answers, seed=rng.randrange(SEEDS)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)


async def came(database: psycopg.AsyncConnection[Any], answers: Sequence[Answer], *, seconds: float) -> int:
    """How many of the answers that were promised are there, once load has been away for so many seconds."""
    jobs = [UUID(one.job.removeprefix("job_")) for one in answers if one.job]
    found, until = 0, time.monotonic() + seconds
    while found < len(jobs) and time.monotonic() < until:
        await asyncio.sleep(1)
        cursor = await database.execute(
            "SELECT count(*) FROM ledger_job WHERE id = ANY(%s) AND state = 'completed'", [jobs]
        )
        found = next(iter(await cursor.fetchone() or (0,)))
    return found


async def answered_later(database: psycopg.AsyncConnection[Any], *, seconds: float) -> int:
    """How many answers that had been put off were given in the last seconds."""
    cursor = await database.execute(
        "SELECT count(*) FROM ledger_job WHERE state = 'completed' AND ended_at > now() - make_interval(secs => %s)",
        [seconds],
    )
    return next(iter(await cursor.fetchone() or (0,)))


def row(
    load: float, rate: float, name: str, answers: Sequence[Answer], *, seconds: float, later: int, kept: str
) -> tuple[str, ...]:
    """One line of the table."""
    kinds = Counter(one.kind for one in answers)
    good = kinds["whole"] + kinds["shorter"]
    told = sorted(one.seconds for one in answers if one.kind in ("whole", "shorter", "later", "words"))
    vip = [one for one in answers if one.tier == "vip"]
    vip_good = sorted(one.seconds for one in vip if one.kind in ("whole", "shorter"))

    def share(count: int, total: int) -> str:
        return f"{100 * count / max(1, total):.0f} %"

    def quantile(values: Sequence[float], q: float) -> str:
        return f"{values[min(len(values) - 1, int(q * len(values)))]:.2f} s" if values else "-"

    return (
        f"{load:g}x, {rate:.0f}/s",
        name,
        f"{(good + later) / seconds:.1f}/s",
        f"{later / seconds:.1f}/s",
        share(kinds["whole"], len(answers)),
        share(kinds["shorter"], len(answers)),
        f"{share(kinds['later'], len(answers))}{kept}",
        share(kinds["words"] + kinds["refused"] + kinds["late"], len(answers)),
        quantile(told, 0.5),
        quantile(told, 0.99),
        share(len(vip_good), len(vip)),
        quantile(vip_good, 0.99),
    )


HEAD: Final = (
    "load",
    "ladder",
    "goodput",
    "of it later",
    "whole",
    "shorter",
    "later",
    "in vain",
    "p50 wait",
    "p99 wait",
    "VIP answered",
    "VIP p99",
)


async def measure(
    url: str, load: float, capacity: float, *, seconds: float, name: str, database_url: str
) -> tuple[str, ...]:
    """One subject under one load."""
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as database:
        await database.execute("TRUNCATE ledger_job CASCADE")  # what the last subject put off is not this one's
        rate = load * capacity
        rng = random.Random(int(load))  # noqa: S311 - the same callers for both subjects
        answers: list[Answer] = []
        offering = asyncio.create_task(
            offer(url, rate=rate, seconds=SETTLING_SECONDS + seconds, rng=rng, answers=answers)
        )
        await asyncio.sleep(SETTLING_SECONDS + seconds)
        later = await answered_later(database, seconds=seconds)
        await offering
        begun = min(one.sent for one in answers)
        counted = [one for one in answers if one.sent - begun >= SETTLING_SECONDS]
        promised = sum(one.kind == "later" for one in counted)
        there = await came(database, counted, seconds=DRAIN_SECONDS) if promised else 0
        kept = f" ({there} of {promised} came)" if promised else ""
        return row(load, rate, name, counted, seconds=seconds, later=later, kept=kept)


def run(loads: Sequence[float], *, seconds: float, database_url: str) -> list[tuple[str, ...]]:
    """All subjects under all loads, by turns."""
    rows: list[tuple[str, ...]] = []
    capacity = 0.0
    for load in loads:
        for name, sections in (("without", {}), ("with", ladder())):
            with (
                tempfile.TemporaryDirectory() as directory,
                Gateways(
                    Path(directory),
                    routing(),
                    processes=1,
                    runners=1,
                    database_url=database_url,
                    tenants=KEYS,
                    tiers={tier: tier for tier in SHARES},
                    sections=sections,
                ) as gateways,
            ):
                limit = {"kind": "token_bucket", "window_seconds": 60, "concurrency": AT_ONCE}
                for account in (LARGE, SMALL):
                    bound = limit | {"account": secret_of(account)}
                    httpx.post(f"{gateways.simulator_url}/admin/limits", json=bound, timeout=30).raise_for_status()
                url = gateways.urls[0]
                if not capacity:
                    capacity = uvloop.run(_capacity(url))
                    print(
                        f"capacity of the large model: {capacity:.1f} answers a second, {AT_ONCE} at once", flush=True
                    )
                measured = measure(url, load, capacity, seconds=seconds, name=name, database_url=database_url)
                rows.append(uvloop.run(measured))
                print("  ".join(rows[-1]), flush=True)
    return rows


async def _capacity(url: str) -> float:
    await measure_capacity(url, seconds=2)
    return statistics.median([await measure_capacity(url, seconds=5) for _ in range(3)])


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--loads", default="1,2,5,10")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--quick", action="store_true", help="two loads, 10 s: does it work")
    arguments = parser.parse_args()
    loads, seconds = [float(one) for one in arguments.loads.split(",")], arguments.seconds
    if arguments.quick:
        loads, seconds = [1.0, 5.0], 10.0
    logging.getLogger("httpx").setLevel(logging.WARNING)
    print(f"machine: {describe_machine()}")
    home = make_data_dir()
    try:
        with Stack(home, processes=(), durable=True) as stack:
            rows = run(loads, seconds=seconds, database_url=stack.postgres.url)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    print("\n" + table([HEAD, *rows]))


if __name__ == "__main__":
    main()
