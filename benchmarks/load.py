"""A small load generator: raw HTTP/1.1 over asyncio, so that measuring costs less than what is measured."""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psutil


@dataclass
class Result:
    """What one run saw: seconds it took, and the latency of each good answer in milliseconds, unsorted.

    `warm_up_seconds`: before that, at the same pace and not counted.
    """

    seconds: float
    warm_up_seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    failures: int = 0

    @property
    def rate(self) -> float:
        """Good answers per second."""
        return len(self.latencies_ms) / self.seconds

    def quantile(self, q: float) -> float:
        """The latency that a share `q` of the answers did not exceed, in milliseconds."""
        return quantile(self.latencies_ms, q)


def quantile(values: list[float], share: float) -> float:
    """The value that a share of all did not exceed; nan of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def request_bytes(url: str, body: bytes, headers: dict[str, str]) -> bytes:
    """One POST, ready to be written again and again."""
    parts = urlsplit(url)
    lines = [f"POST {parts.path}{'?' + parts.query if parts.query else ''} HTTP/1.1", f"host: {parts.netloc}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += ["content-type: application/json", f"content-length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


class Client(asyncio.Protocol):
    """One connection with one request under way at a time. An answer ends by its length, or by its last chunk."""

    def __init__(self, request: bytes, done: Callable[[Client, bool, float], None]) -> None:
        self._request = request
        self._done = done
        self._transport: asyncio.Transport
        self._buffer = b""
        self._due = 0.0
        self.busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    @property
    def is_open(self) -> bool:
        """Whether the other side still listens."""
        return not self._transport.is_closing()

    def send(self, due: float) -> None:
        """Write the request; its latency counts from `due` (perf_counter seconds)."""
        self.busy = True
        self._due = due
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer = self._buffer + data if self._buffer else data
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = buffer[:end].lower()
        mark = head.find(b"content-length: ")
        if mark >= 0:
            line_end = head.find(b"\r\n", mark)
            if len(buffer) < end + 4 + int(head[mark + 16 : line_end if line_end > 0 else end]):
                return
        elif not buffer.endswith(b"\r\n0\r\n\r\n"):
            return
        self._buffer = b""
        self.busy = False
        self._done(self, buffer[9:12] == b"200", (time.perf_counter() - self._due) * 1000)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.busy:
            self._done(self, False, 0.0)

    def close(self) -> None:
        """Hang up."""
        self.busy = False
        self._transport.abort()


async def saturate(url: str, request: bytes, *, connections: int, seconds: float) -> Result:
    """Closed loop: every connection asks again as soon as it has been answered."""
    result = Result(seconds)
    stop_at = float("inf")

    def done(client: Client, good: bool, latency_ms: float) -> None:
        if good:
            result.latencies_ms.append(latency_ms)
        else:
            result.failures += 1
        now = time.perf_counter()
        if now < stop_at and (good or not client._transport.is_closing()):
            client.send(now)

    clients = await _connect(url, request, done, connections)
    for client in clients:
        client.send(time.perf_counter())
    result.warm_up_seconds = min(2.0, seconds / 2)
    await asyncio.sleep(result.warm_up_seconds)  # the first requests warm everything up and are not counted
    result.latencies_ms.clear()
    result.failures = 0
    started = time.perf_counter()
    stop_at = started + seconds
    await asyncio.sleep(seconds)
    result.seconds = time.perf_counter() - started
    for client in clients:
        client.close()
    return result


async def pace(url: str, request: bytes, *, rate: float, seconds: float, connections: int) -> Result:
    """Open loop: requests start on schedule, whatever became of the earlier ones. Latency counts from the schedule."""
    result = Result(seconds)
    idle: list[Client] = []

    def done(client: Client, good: bool, latency_ms: float) -> None:
        if good:
            result.latencies_ms.append(latency_ms)
        else:
            result.failures += 1
        idle.append(client)

    idle.extend(await _connect(url, request, done, connections))
    everyone = list(idle)
    started = time.perf_counter()
    for number in range(int(rate * seconds)):
        due = started + number / rate
        delay = due - time.perf_counter()
        if delay > 0:
            await asyncio.sleep(delay)
        while idle and not idle[-1].is_open:
            idle.pop()
        if idle:
            idle.pop().send(max(due, time.perf_counter() - 0.0005))
        else:
            result.failures += 1
    await asyncio.sleep(0.5)
    result.seconds = time.perf_counter() - started
    for client in everyone:
        client.close()
    return result


async def _connect(
    url: str, request: bytes, done: Callable[[Client, bool, float], None], connections: int
) -> list[Client]:
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    clients = []
    for _ in range(connections):
        _, client = await loop.create_connection(lambda: Client(request, done), parts.hostname, parts.port)
        clients.append(client)
    return clients


def describe_machine() -> str:
    """Processor, cores, memory, system and Python, in one line."""
    model = platform.processor() or "unknown processor"
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    gigabytes = psutil.virtual_memory().total / 1024**3
    load = psutil.getloadavg()[0] if hasattr(psutil, "getloadavg") else 0.0
    return (
        f"{model}, {psutil.cpu_count()} cores, {gigabytes:.0f} GiB, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, load before the run {load:.1f}"
    )


def table(rows: list[tuple[str, ...]]) -> str:
    """Rows as aligned text; the first is the heading, and every column but the first is aligned to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
