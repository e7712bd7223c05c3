"""What keeps a process beside a gateway: it always runs, and its child is started again, whatever becomes of it."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from dataplane.__main__ import main
from tests.ports import pick_port

WAIT_SECONDS = 120


MAIN = ("-m", "dataplane", "keep", "shadow")
# What would take it a minute and more.
IMPATIENT = """
from dataplane.keeper import keep
keep("shadow", health=("127.0.0.1", {port}), silent_seconds=3.0, unstarted_seconds=10.0)
"""


@pytest.fixture
def kept(tmp_path, trusted_keys_file, request):
    """A kept shadow process; gives the keeper and the port that its child answers at."""
    port = pick_port()
    environment = {
        "PATH": os.environ["PATH"],
        "BALLAST_DATA_DIR": str(tmp_path),
        "BALLAST_TRUSTED_KEYS_FILE": str(trusted_keys_file),
        "BALLAST_SHADOW_SOCKET": str(tmp_path / "shadow.sock"),
        "BALLAST_HOST_NAME": "kept",
        "BALLAST_HEALTH_PORT": str(port),
    }
    arguments = ("-c", IMPATIENT.format(port=port)) if request.param == "impatient" else MAIN
    process = subprocess.Popen([sys.executable, *arguments], env=environment)
    yield process, port
    process.terminate()
    process.wait()


def is_started(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_SECONDS)
    try:
        connection.request("GET", "/startupz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def wait_until(condition):
    """Poll another process, which offers nothing to wait on."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)


def child_of(process):
    children = psutil.Process(process.pid).children()
    return children[0].pid if children else None


@pytest.mark.end_to_end
@pytest.mark.parametrize("kept", ["as it is"], indirect=True)
def test_kept_process_that_dies_is_started_again_and_stops_with_its_keeper(kept):
    """The keeper runs all the while; SIGTERM ends both in order."""
    keeper, port = kept
    wait_until(lambda: is_started(port))
    first = child_of(keeper)

    os.kill(first, signal.SIGKILL)
    wait_until(lambda: child_of(keeper) not in (first, None) and is_started(port))
    second = child_of(keeper)
    keeper.terminate()

    assert keeper.wait(WAIT_SECONDS) == 0
    assert not psutil.pid_exists(second)


@pytest.mark.end_to_end
@pytest.mark.parametrize("kept", ["impatient"], indirect=True)
def test_kept_process_that_stands_still_is_replaced(kept):
    """It answers nobody: after a while it is killed, and its successor answers at the same port."""
    keeper, port = kept
    wait_until(lambda: is_started(port))
    first = child_of(keeper)

    os.kill(first, signal.SIGSTOP)

    wait_until(lambda: child_of(keeper) not in (first, None) and is_started(port))
    assert keeper.poll() is None


def test_process_is_kept_only_where_it_can_be_asked(capsys):
    """Without a port nobody could tell whether it turns."""
    assert main(["keep", "agent"], {}) == 1
    assert capsys.readouterr().err.startswith("ballast keep: BALLAST_HEALTH_PORT: not set")
