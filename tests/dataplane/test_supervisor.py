"""The supervisor: dead processes are replaced, connections survive them, and stopping leaves nobody behind."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise

import psutil
import pytest
import redis

from dataplane.reports import STREAM
from dataplane.supervisor import HEALTHY_SECONDS, MAX_RESTART_SECONDS, Supervisor, bind
from tests.ports import pick_port

WAIT_SECONDS = 120


class FakeChild:
    """A child process that is as dead as the test says."""

    def __init__(self, pid):
        self.pid = pid
        self.status = None

    def poll(self):
        return self.status


@pytest.fixture
def children():
    """Every child that was started, as (slot, child)."""
    return []


@pytest.fixture
def supervisor(children):
    """A supervisor of two fake children."""

    def spawn(slot):
        child = FakeChild(len(children))
        children.append((slot, child))
        return child

    return Supervisor(processes=2, spawn=spawn, drain_seconds=1, restart_seconds=0.5)


def test_every_slot_is_started_once(supervisor, children):
    """One process per slot, and none twice."""
    supervisor.step(now=0)
    supervisor.step(now=1)

    assert [slot for slot, _ in children] == [0, 1]


def test_process_that_dies_after_a_healthy_life_is_replaced_at_once_in_its_slot(supervisor, children):
    """The worker keeps its name, its spool and its place on the fleet page."""
    supervisor.step(now=0)
    children[1][1].status = -9
    supervisor.step(now=HEALTHY_SECONDS)

    assert [slot for slot, _ in children] == [0, 1, 1]


def test_process_that_dies_at_start_is_tried_again_with_growing_pauses(supervisor, children):
    """A host with a broken configuration does not spin."""
    now, starts = 0.0, []
    while now < 60:
        before = len(children)
        supervisor.step(now=now)
        for slot, child in children[before:]:
            if slot == 0:
                starts.append(now)
                child.status = 1
        now += 0.25

    pauses = [later - earlier for earlier, later in pairwise(starts)]
    assert pauses == sorted(pauses)
    assert pauses[0] < 1
    assert max(pauses) == pytest.approx(MAX_RESTART_SECONDS, abs=0.5)
    assert [slot for slot, _ in children].count(1) == 1


def test_address_in_use_is_an_error():
    """Two gateways cannot share a port by accident."""
    with bind("127.0.0.1", 0) as listener, pytest.raises(OSError, match="in use"):
        bind("127.0.0.1", listener.getsockname()[1])


class Gateway:
    """`python -m dataplane serve` with two processes on a free port."""

    def __init__(self, directory, trusted_keys_file, redis_url):
        self.port = pick_port()
        # Its own name: another test's gateways have reported to the same stream.
        self.host = f"supervised-{self.port}"
        environment = {
            "PATH": os.environ["PATH"],
            "REDIS_URL": redis_url,
            "BALLAST_GATEWAY_PORT": str(self.port),
            "BALLAST_GATEWAY_PROCESSES": "2",
            "BALLAST_HOST_NAME": self.host,
            "BALLAST_DATA_DIR": str(directory),
            "BALLAST_TRUSTED_KEYS_FILE": str(trusted_keys_file),
        }
        self.process = subprocess.Popen([sys.executable, "-m", "dataplane", "serve"], env=environment)

    def status(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_SECONDS)
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        connection.close()
        return response.status

    def children(self):
        return psutil.Process(self.process.pid).children()


@pytest.fixture
def gateway(tmp_path, trusted_keys_file, redis_url, make_envelope):
    """A running gateway with a release on disk."""
    (tmp_path / "release.json").write_text(make_envelope(1).to_json())
    gateway = Gateway(tmp_path, trusted_keys_file, redis_url)
    yield gateway
    gateway.process.kill()
    gateway.process.wait()


def wait_until(condition):
    """Poll another process, which offers nothing to wait on."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)


def is_up(gateway):
    try:
        return gateway.status("/readyz") == 200
    except OSError:
        return False


@pytest.mark.end_to_end
def test_gateway_outlives_its_processes_and_leaves_none_behind(gateway):
    """A killed process is replaced without a refused connection; SIGTERM ends all of them in order."""
    wait_until(lambda: is_up(gateway) and len(gateway.children()) == 2)
    victim, other = gateway.children()
    victim.kill()
    for _ in range(50):
        assert gateway.status("/livez") == 200
    wait_until(lambda: len({child.pid for child in gateway.children()} - {victim.pid}) == 2)

    pids = [child.pid for child in gateway.children()]
    gateway.process.send_signal(signal.SIGTERM)

    assert gateway.process.wait(WAIT_SECONDS) == 0
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert other.pid in pids


@pytest.mark.end_to_end
def test_processes_end_when_their_supervisor_is_killed(gateway):
    """kill -9 of the parent leaves nobody to hold the port."""
    wait_until(lambda: is_up(gateway) and len(gateway.children()) == 2)
    pids = [child.pid for child in gateway.children()]
    gateway.process.kill()
    gateway.process.wait()

    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids))


@pytest.mark.end_to_end
def test_every_process_acknowledges_the_release_and_says_stopped_at_the_end(gateway, redis_url):
    """What the fleet page shows of a life, from the first release to an orderly end."""
    wait_until(lambda: is_up(gateway))
    client = redis.Redis.from_url(redis_url)

    def told(condition):
        batches = [json.loads(fields[b"batch"]) for _, fields in client.xrange(STREAM)]
        return {batch["worker"] for batch in batches if batch["worker"] in both and condition(batch)}

    both = {f"{gateway.host}/gateway-0", f"{gateway.host}/gateway-1"}
    wait_until(lambda: told(lambda batch: any(ack["verdict"] == "ack" for ack in batch["acks"])) == both)
    gateway.process.send_signal(signal.SIGTERM)
    gateway.process.wait(WAIT_SECONDS)

    assert told(lambda batch: batch["state"]["status"] == "stopped") == both
    client.delete(STREAM)
