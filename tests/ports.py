"""Ports for the servers that tests start."""

import os

from launcher.ports import pick_free

_given: set[int] = set()


def pick_port() -> int:
    """Return a port nobody listens on, and that no other test of this run is given, even before its server listens."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while (port := pick_free()) in _given or port % workers != worker:
        pass
    _given.add(port)
    return port
