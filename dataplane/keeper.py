"""`python -m dataplane keep agent|shadow`: a process that runs beside gateways, started again whenever it ends.

For places where one that dies beside a gateway would take the gateway out of service: of a Kubernetes pod, a container
that is not running makes the whole pod not ready. Gateways serve on without an agent and without shadows, so what keeps
those is a process that always runs, and its child is what may fail. It asks the child's own `/livez` whether it turns.
"""

from __future__ import annotations

import http.client
import subprocess
import sys
from typing import Final

from dataplane.supervisor import Supervisor

# In which a child that was told to stop ships its last reports.
STOP_SECONDS: Final = 10.0
RESTART_SECONDS: Final = 0.5
# What it says of itself is patient already.
SILENT_SECONDS: Final = 15.0
# It answers before it does anything else.
UNSTARTED_SECONDS: Final = 60.0
ASK_SECONDS: Final = 2.0


class KeptProcess:
    """A child of the supervisor's kind, whose pulse is what it answers at `/livez`."""

    def __init__(self, process: subprocess.Popen[bytes], health: tuple[str, int]) -> None:
        self._process = process
        self._health = health
        self._beats = 0
        self.pid = process.pid
        self.poll = process.poll
        self.send_signal = process.send_signal
        self.wait = process.wait

    def beats(self) -> int:
        """One more each time that it says it is alive."""
        host, port = self._health
        connection = http.client.HTTPConnection(_reachable(host), port, timeout=ASK_SECONDS)
        try:
            connection.request("GET", "/livez")
            self._beats += connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        return self._beats


def keep(
    name: str,
    *,
    health: tuple[str, int],
    silent_seconds: float = SILENT_SECONDS,
    unstarted_seconds: float = UNSTARTED_SECONDS,
) -> None:
    """Keep one process running until SIGTERM or SIGINT.

    Args:
        health: Where it answers probes.
        silent_seconds, unstarted_seconds: After so long without an answer it is replaced: once it has given one, and
            before.
    """

    def spawn(_: int) -> KeptProcess:
        return KeptProcess(subprocess.Popen([sys.executable, "-m", "dataplane", name]), health)  # noqa: S603  # ours

    Supervisor(
        processes=1,
        spawn=spawn,
        drain_seconds=STOP_SECONDS,
        restart_seconds=RESTART_SECONDS,
        wedged_seconds=silent_seconds,
        unstarted_seconds=unstarted_seconds,
        kind=name,
    ).run()


def _reachable(host: str) -> str:
    """An address at which a server bound to `host` is reached from here."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # compared, not bound
