"""What the gateway costs without sockets: microseconds per request, from the ASGI call to its end.

    python -m benchmarks.in_process [--stream] [--managed] [--bare] [--turns 1500] [--profile]
    python -m dataplane.native benchmarks.in_process …      the same, compiled (make native)

The application is the real one, with the release of `served_release.py`; its server is a loop and its provider answers
at once. What is printed is the mean of the fastest turns, a few requests each: whatever else a shared machine does only
ever makes them slower. So a change of two in a hundred shows, which `gateway_overhead` cannot tell from noise; what it
is worth beside server and network, only that can tell. `--profile` prints where the time goes instead, by function.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import pstats
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.canned_upstream import ANSWER, STREAM
from benchmarks.load import describe_machine
from benchmarks.served_release import KEY, bodies, release_document
from dataplane.aggregation import Aggregation
from dataplane.asgi_reply import Message
from dataplane.assembly import Assembly
from dataplane.environment import Environment, gateway_settings
from dataplane.events import Event
from dataplane.evidence import Evidence
from dataplane.gateway import Gateway
from dataplane.providers.base import UpstreamCall
from dataplane.release import Release, parse_document
from dataplane.transport import Limits
from dataplane.under_way import UnderWay

WARM_UP_REQUESTS = 300
PROFILED_REQUESTS = 5000


class Exchange:
    """An answer that is here already."""

    status = 200

    def __init__(self, chunks: list[bytes]) -> None:
        self._chunks = chunks

    def headers(self) -> Mapping[str, str]:
        """As `Exchange.headers`."""
        return {}

    async def read(self) -> bytes:
        """As `Exchange.read`."""
        return ANSWER

    async def next_chunk(self) -> bytes | None:
        """As `Exchange.next_chunk`."""
        return self._chunks.pop(0) if self._chunks else None

    def finish(self) -> None:
        """As `Exchange.finish`."""

    def close(self) -> None:
        """As `Exchange.close`."""


class Provider:
    """The transport, and all that is behind it."""

    def __init__(self) -> None:
        _, _, body = STREAM.partition(b"\r\n\r\n")
        # Of `size CRLF data CRLF`, again and again, every second part is data.
        self._events = b"".join(body.split(b"\r\n")[1::2])

    async def send(self, call: UpstreamCall, *, lane: str, limits: Limits) -> Exchange:
        """As `Transport.send`."""
        return Exchange([self._events])

    async def close(self) -> None:
        """As `Transport.close`."""


class Watcher:
    """Knows one release."""

    def __init__(self, release: Release) -> None:
        self.current: Release | None = None
        self._release = release
        self._subscribers: list[Callable[[Release], None]] = []

    def subscribe(self, adopted: Callable[[Release], None]) -> None:
        """As `ReleaseWatcher.subscribe`."""
        self._subscribers.append(adopted)

    async def start(self) -> None:
        """As `ReleaseWatcher.start`."""
        self.current = self._release
        for adopted in self._subscribers:
            adopted(self._release)

    async def stop(self) -> None:
        """As `ReleaseWatcher.stop`."""


class Reports:
    """Takes rows and throws them away; attempts under way are guarded as ever, in a file in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.under_way: UnderWay | None = UnderWay()
        self.under_way.open(directory / "attempts.slots")
        self.in_flight = 0
        self.lanes: Callable[[], list[dict[str, Any]]] | None = None
        self.quotas: Callable[[], list[dict[str, Any]]] | None = None
        self.ladders: Callable[[], list[dict[str, Any]]] | None = None

    def add_usage(self, row: Mapping[str, Any]) -> None:
        """As `ReportShipper.add_usage`."""

    def add_event(self, event: Event) -> None:
        """As `ReportShipper.add_event`."""

    def add_stream(self, row: Mapping[str, Any]) -> None:
        """As `ReportShipper.add_stream`."""

    def add_sample(self, row: Mapping[str, Any]) -> None:
        """As `ReportShipper.add_sample`."""

    def add_delivery(self, row: Mapping[str, Any]) -> None:
        """As `ReportShipper.add_delivery`."""

    async def start(self) -> None:
        """As `ReportShipper.start`."""

    async def stop(self) -> None:
        """As `ReportShipper.stop`."""


class Secrets:
    """Every reference is the same key."""

    def resolve(self, reference: str, *, now: float) -> str:
        """As `Secrets.resolve`."""
        return "sk-benchmark"


class Server:
    """Asks the application one thing again and again, one request at a time."""

    def __init__(self, app: Gateway, body: bytes) -> None:
        headers = {"host": "127.0.0.1", "authorization": f"Bearer {KEY}", "ballast-user": "ada"}
        headers |= {"content-type": "application/json", "content-length": str(len(body))}
        self._app = app
        self._message: Message = {"type": "http.request", "body": body, "more_body": False}
        self._unread: list[Message] = []
        self._scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/chat/completions",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }

    async def ask(self, requests: int) -> None:
        """Make so many requests."""
        for _ in range(requests):
            self._unread = [self._message]
            await self._app(self._scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if self._unread:
            return self._unread.pop()
        # The caller stays: on a loaded machine a request takes long enough for the gateway to ask whether it does.
        return await asyncio.get_running_loop().create_future()

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] != 200:
            raise SystemExit(f"the gateway answered {message['status']}")


async def start(app: Gateway) -> asyncio.Task[None]:
    """Let the application start, and return its lifespan, which lives as long as it is held."""
    ready = asyncio.Event()
    messages = [{"type": "lifespan.startup"}]

    async def receive() -> Message:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop()

    async def send(message: Message) -> None:
        if message["type"] != "lifespan.startup.complete":
            raise SystemExit(f"the gateway did not start: {message}")
        ready.set()

    lifespan = asyncio.create_task(app({"type": "lifespan"}, receive, send), name="lifespan")
    await ready.wait()
    return lifespan


async def run(arguments: argparse.Namespace) -> None:
    """Start the gateway, and measure or profile it."""
    with tempfile.TemporaryDirectory() as directory:
        await _run(arguments, Path(directory))


async def _run(arguments: argparse.Namespace, directory: Path) -> None:
    document = release_document("http://127.0.0.1:9/v1", has_policies=not arguments.bare)
    release = parse_document(document, digest="0" * 64)
    settings = gateway_settings(Environment({}), slot=0)
    parts = Assembly(
        settings=settings,
        watcher=Watcher(release),
        reports=Reports(directory),
        aggregation=Aggregation(),
        evidence=Evidence(),
        secrets=Secrets(),
        transport=Provider(),
    )
    app = Gateway(parts, limit_bytes=settings.max_body_bytes)
    lifespan = await start(app)
    server = Server(app, bodies(stream=arguments.stream, managed=arguments.managed)[1])
    await server.ask(WARM_UP_REQUESTS)
    if arguments.profile:
        profile = cProfile.Profile()
        profile.enable()
        await server.ask(PROFILED_REQUESTS)
        profile.disable()
        pstats.Stats(profile).strip_dirs().sort_stats("tottime").print_stats(40)
    else:
        await measure(server, arguments)
    lifespan.cancel()


async def measure(server: Server, arguments: argparse.Namespace) -> None:
    """Print how long one request takes."""
    gc.collect()
    requests = 5 if arguments.stream else 15
    micros = []
    for _ in range(arguments.turns):
        started = time.perf_counter()
        await server.ask(requests)
        micros.append((time.perf_counter() - started) / requests * 1e6)
    micros.sort()
    fastest = micros[: max(1, len(micros) // 100)]
    print(f"machine: {describe_machine()}")
    print(
        f"per request: {statistics.mean(fastest):.1f} us in the fastest 1 % of {arguments.turns} turns, "
        f"{statistics.median(micros):.1f} us in half of them"
    )


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=1500)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--managed", action="store_true", help="ask for a managed prompt under a running canary")
    parser.add_argument("--bare", action="store_true", help="a release without policies")
    parser.add_argument("--profile", action="store_true")
    uvloop.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
