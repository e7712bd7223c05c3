"""How a process without a port of its own is probed, and scraped: `/livez`, `/readyz`, `/startupz` and `/metrics` on
BALLAST_HEALTH_PORT.

A daemon thread answers, with the standard library's server, so that an answer needs none of the loops that it tells of.
One way for every process of both planes that is no server itself: agent, jobs, shadow, ingest, capture, index, Celery's
workers and its beat.
"""

from __future__ import annotations

import asyncio
import http.server
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from dataplane.process_metrics import CONTENT_TYPE, Families, ProcessMetrics, loop_families
from dataplane.pulse import BEAT_SECONDS, LOOK_SECONDS, Pulse, Watch
from dataplane.readiness import Dependencies, Dependency

log = logging.getLogger("ballast.vitals")

# A caller that opens a connection and says nothing holds a thread for so long.
CALLER_SECONDS: Final = 5.0
# A loop that has nothing else to do turns twice a second; one that serves others is not kept waiting for so long.
LOOP_SECONDS: Final = 30.0
LIVE, READY, STARTED, METRICS = "/livez", "/readyz", "/startupz", "/metrics"


class Vitals:
    """What is known of a process: its loops' pulses, what it depends on, and where it stands in its life.

    Without `serve` it costs a counter per turn, and nobody looks.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._loops: dict[str, tuple[Pulse, Watch]] = {}
        self._dependencies = Dependencies((), clock=clock)
        self._lock = threading.Lock()
        self._started = False
        self.is_draining = False
        self._server: _Server | None = None
        self._families: list[Families] = [lambda: loop_families(self._silent_seconds())]
        self._metrics: ProcessMetrics | None = None

    def pulse(self, name: str, *, within_seconds: float = LOOP_SECONDS) -> Pulse:
        """A pulse for a loop of this process, which takes less than `within_seconds` to turn."""
        pulse = Pulse(within_seconds=within_seconds)
        self._loops[name] = (pulse, Watch(now=self._clock()))
        return pulse

    def depend_on(self, dependencies: Sequence[Dependency]) -> None:
        """Say on whom this process depends."""
        self._dependencies = Dependencies(dependencies, clock=self._clock)

    def expose(self, families: Families) -> None:
        """Show these at /metrics as well. They are asked from a thread of their own."""
        self._families.append(families)

    def render(self) -> bytes:
        """What is shown at /metrics, in Prometheus' text format."""
        with self._lock:
            metrics = self._metrics = self._metrics or ProcessMetrics(self._families)
        return metrics.render()

    def _silent_seconds(self) -> dict[str, float]:
        return {
            name: watch.silent_seconds
            for name, (pulse, watch) in list(self._loops.items())
            if pulse.within_seconds is not None
        }

    def begin(self) -> None:
        """The process has started: what it does from now on is judged."""
        self._started = True

    def drain(self) -> None:
        """The process was told to stop; it is alive, and not ready."""
        self.is_draining = True

    def look(self) -> None:
        """Look at every pulse. Called every LOOK_SECONDS, since silence is counted by looks."""
        with self._lock:
            now = self._clock()
            for pulse, watch in list(self._loops.values()):
                watch.look(pulse.beats, now=now)

    def answer(self, path: str) -> tuple[HTTPStatus, Mapping[str, Any]] | None:
        """Status and body for a path; None for one that is not ours.

        Shapes: /livez {"status", "loops": {name: {"silent_seconds", "within_seconds"}}}, where `within_seconds` null is
        a loop at rest; /readyz {"status", "dependencies"} as in `Dependencies.look`; /startupz {"status"}.
        """
        if path == STARTED:
            return _said(self._started, "started", "starting", {})
        if path == LIVE:
            with self._lock:
                loops = {
                    name: {
                        "silent_seconds": round(watch.silent_seconds, 1),
                        "within_seconds": pulse.within_seconds,
                    }
                    for name, (pulse, watch) in self._loops.items()
                }
                is_wedged = any(
                    pulse.within_seconds is not None and watch.silent_seconds > pulse.within_seconds
                    for pulse, watch in self._loops.values()
                )
            return _said(not is_wedged, "alive", "wedged", {"loops": loops})
        if path == READY:
            if not self._started or self.is_draining:
                return _said(False, "", "draining" if self.is_draining else "starting", {"dependencies": {}})
            ready, dependencies = self._dependencies.look()
            return _said(ready, "ready", "not ready", {"dependencies": dependencies})
        return None

    def serve(self, address: tuple[str, int] | None) -> int | None:
        """Answer at an address, host and port, from a thread of its own; None: nobody asks. Returns the port.

        Raises:
            OSError: the address cannot be bound; the message names it.
        """
        if address is None:
            return None
        try:
            self._server = _Server(address, self)
        except OSError as exc:
            raise OSError(exc.errno, f"cannot answer probes on {address[0]}:{address[1]}: {exc.strerror}") from exc
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": LOOK_SECONDS}, name="vitals", daemon=True
        ).start()
        port: int = self._server.server_address[1]
        log.info("probes are answered on %s:%d", address[0], port)
        return port

    def leave_to_parent(self) -> None:
        """In a forked child: let go of the socket, which is the parent's to answer on."""
        if self._server is not None:
            self._server.socket.close()
            self._server = None


async def beat_while_turning(pulse: Pulse) -> None:
    """Stamp for the event loop that this runs on, until cancelled."""
    while True:
        pulse.beat()
        await asyncio.sleep(BEAT_SECONDS)


def _said(fine: bool, good: str, bad: str, more: Mapping[str, Any]) -> tuple[HTTPStatus, Mapping[str, Any]]:
    return HTTPStatus.OK if fine else HTTPStatus.SERVICE_UNAVAILABLE, {"status": good if fine else bad, **more}


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], vitals: Vitals) -> None:
        self.vitals = vitals
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)

    def service_actions(self) -> None:
        """Called between requests, every LOOK_SECONDS if there is none."""
        self.vitals.look()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    timeout = CALLER_SECONDS
    server_version, sys_version = "ballast", ""

    def do_GET(self) -> None:
        """Answer a probe, or a scrape."""
        path = self.path.partition("?")[0]
        if path == METRICS:
            self._send(HTTPStatus.OK, CONTENT_TYPE, self.server.vitals.render())
            return
        answer = self.server.vitals.answer(path)
        if answer is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        status, content = answer
        self._send(status, "application/json", json.dumps(content).encode() + b"\n")

    def _send(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        self.send_header("cache-control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # the standard library's own names

    def log_message(self, format: str, *args: Any) -> None:  # as above
        """Probes are no news."""
