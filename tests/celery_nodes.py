"""Celery nodes of a test's own, which it may hold, kill and leave without a broker."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.ports import pick_port


@contextmanager
def celery_node(program: str, *, broker_url: str) -> Iterator[int]:
    """A process that runs `program`, told the broker's address and the port that it is to be asked at, which this
    gives; killed at the end.
    """
    port = pick_port()
    # Celery would take this run's own from the environment.
    environment = {name: value for name, value in os.environ.items() if name != "CELERY_BROKER_URL"}
    process = subprocess.Popen([sys.executable, "-c", program, broker_url, str(port)], env=environment)
    try:
        yield port
    finally:
        process.kill()
        process.wait()
