"""Whether a gateway's memory stays what it is, hour after hour.

    python -m benchmarks.steady_memory [--minutes 60] [--rate 300] [--streams 30]

One gateway process under all policies is asked for plain answers at an even pace, for managed prompts under a canary
with ever new users, and for streams, while somebody takes its reports as ingest would. Its memory is read every few
seconds. After a warm-up the line that fits these best should be flat: its slope is printed in MiB an hour, with the
least and the most that was seen, and beside it that of the relay, which keeps nothing. What failed found no connection
free at its time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import psutil
import redis
import uvloop

from benchmarks.load import Result, describe_machine, pace, request_bytes, table
from benchmarks.served_release import KEY, bodies, release_document, write_release
from benchmarks.serving import Processes, wait_for
from dataplane.native import Native
from dataplane.report_sinks import STREAM
from launcher.ports import pick_free

WARM_UP_SHARE = 0.1
LOOK_SECONDS = 5.0
TURN_SECONDS = 30.0


class Watched:
    """A process, and what its memory was: seconds from the start, and MiB."""

    def __init__(self, name: str, process: psutil.Process) -> None:
        self.name = name
        self._process = process
        self.seen: list[tuple[float, float]] = []

    def look(self, at: float) -> None:
        """Read it."""
        self.seen.append((at, self._process.memory_info().rss / 1024**2))

    def row(self, *, warm_up: float) -> tuple[str, ...]:
        """What is printed of it."""
        warm = [(at, size) for at, size in self.seen if at >= warm_up]
        sizes = [size for _, size in warm]
        slope = statistics.linear_regression([at / 3600 for at, _ in warm], sizes).slope
        first, last = statistics.median(sizes[:12]), statistics.median(sizes[-12:])
        return (self.name, *(f"{one:.1f}" for one in (first, last, min(sizes), max(sizes))), f"{slope:+.2f}")


async def run(arguments: argparse.Namespace, processes: Processes, home: Path) -> str:
    """Start, ask, look, and return the table."""
    cores = sorted(os.sched_getaffinity(0))
    upstream, relay_port = pick_free(), pick_free()
    processes.launch(["benchmarks.canned_upstream", str(upstream)], on=set(cores))
    redis_url = processes.launch_redis(on=set(cores))
    base_url = f"http://127.0.0.1:{upstream}/v1"
    write_release(home, release_document(base_url))
    url, gateway = processes.launch_gateway(home, on=set(cores), redis_url=redis_url, native=arguments.native)
    direct = f"{base_url}/chat/completions"
    relay = processes.launch(["benchmarks.bare_relay", str(relay_port), direct], on=set(cores))
    relay_url = f"http://127.0.0.1:{relay_port}/"
    wait_for(relay_url)
    watched = [Watched("gateway, all policies", gateway), Watched("relay", relay)]
    began, seconds = time.monotonic(), arguments.minutes * 60
    results: list[Result] = []

    def asked(number: int, *, stream: bool, managed: bool) -> bytes:
        headers = {"authorization": f"Bearer {KEY}", "ballast-user": f"user-{number}"}
        return request_bytes(url, bodies(stream=stream, managed=managed)[1], headers)

    async def ask() -> None:
        number = 0
        to_relay = request_bytes(relay_url, bodies(stream=False, managed=False)[0], {})
        while (left := seconds - (time.monotonic() - began)) > 1:
            number += 1
            turn = min(TURN_SECONDS, left)
            kinds: Sequence[Coroutine[Any, Any, Result]] = (
                pace(
                    url, asked(number, stream=False, managed=False), rate=arguments.rate, seconds=turn, connections=16
                ),
                pace(
                    url, asked(number, stream=False, managed=True), rate=arguments.rate / 3, seconds=turn, connections=8
                ),
                pace(
                    url, asked(number, stream=True, managed=False), rate=arguments.streams, seconds=turn, connections=8
                ),
                pace(relay_url, to_relay, rate=arguments.rate, seconds=turn, connections=8),
            )
            results.extend(await asyncio.gather(*kinds))

    async def look() -> None:
        with contextlib.closing(redis.Redis.from_url(redis_url)) as store:
            while True:
                store.delete(STREAM)  # as if ingest had taken them
                for one in watched:
                    one.look(time.monotonic() - began)
                await asyncio.sleep(LOOK_SECONDS)

    looking = asyncio.create_task(look())
    await ask()
    looking.cancel()
    failed = sum(one.failures for one in results)
    answered = sum(round(one.rate * one.seconds) for one in results)
    heading = ("MiB", "first minute", "last minute", "least", "most", "slope an hour")
    rows = [one.row(warm_up=WARM_UP_SHARE * seconds) for one in watched]
    return f"{table([heading, *rows])}\n\n{answered:,} answers in {arguments.minutes:g} minutes, {failed} failed"


def main() -> None:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=300.0, help="plain answers a second; a third of it managed")
    parser.add_argument("--streams", type=float, default=30.0, help="streams a second")
    parser.add_argument("--native", type=Native, choices=[*Native], default=Native.AUTO, help="see BALLAST_NATIVE")
    arguments = parser.parse_args()
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as name:
        processes = Processes(Path(name))
        try:
            found = uvloop.run(run(arguments, processes, Path(name)))
        except BaseException:
            processes.tell()
            raise
        finally:
            processes.stop()
    print(f"machine: {machine}\n\n{found}")


if __name__ == "__main__":
    main()
