"""Whether one gateway core keeps up with many streams at a model's pace, and what it holds of memory for them.

    python -m benchmarks.many_streams [--streams 1000] [--rate 30] [--seconds 20] [--rounds 3]

The upstream gives every stream its tokens evenly, each in a packet of its own. Lateness is how long after its time a
token arrives, counted from the stream's first token: it grows when somebody falls behind. The same streams are read
straight from the upstream in the same run, which says what of it is the upstream's and the reader's own.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import uvloop

from benchmarks.load import describe_machine, quantile, request_bytes, table
from benchmarks.served_release import KEY, bodies, release_document, write_release
from benchmarks.serving import Processes
from dataplane.native import Native
from launcher.ports import pick_free

MARK = b'"content":"word "'
CONNECT_AT_ONCE = 50
MARGIN_SECONDS = 30.0


class Reader(asyncio.Protocol):
    """Reads one stream, and notes for each token how late it is, in milliseconds."""

    def __init__(self, request: bytes, *, rate: float, done: asyncio.Semaphore) -> None:
        self._request = request
        self._period = 1 / rate
        self._done = done
        self._tail = b""
        self._first_at = 0.0
        self.late_ms: list[float] = []
        self.is_whole = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        data = self._tail + data
        for _ in range(data.count(MARK)):
            if not self.late_ms:
                self._first_at = now
            due = self._first_at + len(self.late_ms) * self._period
            self.late_ms.append((now - due) * 1000)
        if b"[DONE]" in data:
            self.is_whole = True
            self._transport.close()
        self._tail = data[1 - len(MARK) :]

    def connection_lost(self, exc: Exception | None) -> None:
        self._done.release()


@dataclass
class Run:
    """What one round saw."""

    late_ms: list[float]
    last_ms: list[float]
    whole: int
    core_share: float
    megabytes: float


@dataclass
class Subject:
    """Who is read from."""

    name: str
    url: str
    request: bytes
    process: psutil.Process | None = None
    runs: list[Run] = field(default_factory=list)

    def _seconds(self) -> float:
        return 0.0 if self.process is None else sum(self.process.cpu_times()[:2])

    async def read(self, arguments: argparse.Namespace) -> None:
        """Open all streams, read them to their ends, and note what became of them."""
        tokens = int(arguments.rate * arguments.seconds)
        done = asyncio.Semaphore(0)
        readers = [Reader(self.request, rate=arguments.rate, done=done) for _ in range(arguments.streams)]
        parts = urlsplit(self.url)
        loop = asyncio.get_running_loop()
        for start in range(0, len(readers), CONNECT_AT_ONCE):
            batch = readers[start : start + CONNECT_AT_ONCE]
            await asyncio.gather(
                *(loop.create_connection(lambda one=one: one, parts.hostname, parts.port) for one in batch)
            )
        began, used = time.monotonic(), self._seconds()
        await asyncio.sleep(arguments.seconds / 2)
        share = (self._seconds() - used) / (time.monotonic() - began)
        megabytes = 0.0 if self.process is None else self.process.memory_info().rss / 1024**2
        async with asyncio.timeout(arguments.seconds + MARGIN_SECONDS):
            for _ in readers:
                await done.acquire()
        whole = sum(one.is_whole and len(one.late_ms) == tokens for one in readers)
        late = [ms for one in readers for ms in one.late_ms]
        last = [ms for one in readers for ms in one.late_ms[-int(arguments.rate) :]]
        self.runs.append(Run(late, last, whole, share, megabytes))

    def row(self, arguments: argparse.Namespace) -> tuple[str, ...]:
        """Medians over the rounds, and all streams that were whole."""

        def middle(values: list[float]) -> float:
            return statistics.median(values)

        return (
            self.name,
            f"{sum(run.whole for run in self.runs)} of {arguments.streams * len(self.runs)}",
            f"{middle([quantile(run.late_ms, 0.5) for run in self.runs]):.1f}",
            f"{middle([quantile(run.late_ms, 0.99) for run in self.runs]):.1f}",
            f"{middle([quantile(run.last_ms, 0.5) for run in self.runs]):.1f}",
            f"{middle([quantile(run.last_ms, 0.99) for run in self.runs]):.1f}",
            f"{middle([run.core_share for run in self.runs]):.0%}" if self.process else "",
            f"{middle([run.megabytes for run in self.runs]):.0f}" if self.process else "",
        )


HEADING = (
    "",
    "whole streams",
    "late p50 ms",
    "late p99 ms",
    "in the last second p50",
    "p99",
    "of a core",
    "MiB",
)


def start(
    arguments: argparse.Namespace, processes: Processes, home: Path, *, measured: set[int], others: set[int]
) -> list[Subject]:
    """Start the upstream and the gateway."""
    upstream = pick_free()
    tokens = str(int(arguments.rate * arguments.seconds))
    processes.launch(["benchmarks.paced_upstream", str(upstream), str(arguments.rate), tokens], on=others)
    redis_url = processes.launch_redis(on=others)
    base_url = f"http://127.0.0.1:{upstream}/v1"
    write_release(home, release_document(base_url, has_policies=not arguments.bare))
    through, process = processes.launch_gateway(home, on=measured, redis_url=redis_url, native=arguments.native)
    direct = f"{base_url}/chat/completions"
    _, body = bodies(stream=True, managed=False)
    return [
        Subject("direct", direct, request_bytes(direct, body, {})),
        Subject(
            "gateway",
            through,
            request_bytes(through, body, {"authorization": f"Bearer {KEY}", "ballast-user": "ada"}),
            process,
        ),
    ]


async def measure(arguments: argparse.Namespace, subjects: list[Subject]) -> None:
    """Round by round, one after the other."""
    for _ in range(arguments.rounds):
        for subject in subjects:
            await subject.read(arguments)


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=30.0, help="tokens a second, of each stream")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long a stream is")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bare", action="store_true", help="a release without policies")
    parser.add_argument("--native", type=Native, choices=[*Native], default=Native.AUTO, help="see BALLAST_NATIVE")
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("two cores are needed: one for the gateway, one for everything else")
    os.sched_setaffinity(0, set(cores[1:]))
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as name:
        processes = Processes(Path(name))
        try:
            subjects = start(arguments, processes, Path(name), measured={cores[0]}, others=set(cores[1:]))
            uvloop.run(measure(arguments, subjects))
        except SystemExit:
            processes.tell()
            raise
        finally:
            processes.stop()
    print(f"machine: {machine}")
    print(
        f"{arguments.streams} streams of {arguments.rate:g} tokens a second for {arguments.seconds:g} s, "
        f"{'no' if arguments.bare else 'all'} policies; medians of {arguments.rounds} rounds"
    )
    print()
    print(table([HEADING, *(subject.row(arguments) for subject in subjects)]))


if __name__ == "__main__":
    main()
