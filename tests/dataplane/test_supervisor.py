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

from dataplane.report_sinks import STREAM
from dataplane.supervisor import (
    ABORT_SECONDS,
    HEALTHY_SECONDS,
    MAX_RESTART_SECONDS,
    UNSTARTED_SECONDS,
    WEDGED_SECONDS,
    Supervisor,
    bind,
    spawn_with,
)
from tests.ports import pick_port

WAIT_SECONDS = 120


class FakeChild:
    """A child process that is as dead as the test says."""

    def __init__(self, pid):
        self.pid = pid
        self.status = None
        self.stamps = 0
        self.is_turning = False
        self.signals = []

    def poll(self):
        return self.status

    def beats(self):
        self.stamps += self.is_turning
        return self.stamps

    def send_signal(self, number):
        self.signals.append(number)


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


def run_for(supervisor, *, start, seconds):
    """Step once a second; returns when the last step was."""
    for second in range(int(seconds)):
        supervisor.step(now=start + second)
    return start + seconds


def turn(children):
    for _, child in children:
        child.is_turning = True


def test_process_whose_loop_stands_still_says_where_it_is_and_is_killed(supervisor, children):
    """SIGABRT after the bound, SIGKILL when that does not end it, a fresh process in its slot; its neighbour stays."""
    supervisor.step(now=0)
    turn(children)
    now = run_for(supervisor, start=1, seconds=60)
    (_, wedged), (_, fine) = children
    wedged.is_turning = False

    now = run_for(supervisor, start=now, seconds=WEDGED_SECONDS - 1)
    patient = list(wedged.signals)
    now = run_for(supervisor, start=now, seconds=2)
    told = list(wedged.signals)
    now = run_for(supervisor, start=now, seconds=ABORT_SECONDS)
    killed = list(wedged.signals)
    wedged.status = -9
    run_for(supervisor, start=now, seconds=1)

    assert (patient, told, killed) == ([], [signal.SIGABRT], [signal.SIGABRT, signal.SIGKILL])
    assert fine.signals == []
    assert [slot for slot, _ in children] == [0, 1, 0]


def test_machine_that_slept_kills_nobody(supervisor, children):
    """A look that comes an hour late finds no stamp of that hour, and counts none of it."""
    supervisor.step(now=0)
    turn(children)
    run_for(supervisor, start=1, seconds=5)
    for _, child in children:
        child.is_turning = False

    supervisor.step(now=3600)
    turn(children)
    run_for(supervisor, start=3601, seconds=60)

    assert [child.signals for _, child in children] == [[], []]


def test_overload_that_holds_up_everybody_is_no_storm(children):
    """Of eight processes that all stand still, for whatever reason, few are replaced in ten minutes."""

    def spawn(slot):
        child = FakeChild(len(children))
        child.stamps = 1  # it turned once
        children.append((slot, child))
        return child

    supervisor = Supervisor(processes=8, spawn=spawn, drain_seconds=1, restart_seconds=0.5)
    now, aborted_at = 0.0, []
    while now < 600:
        supervisor.step(now=now)
        for _, child in children:
            if child.signals and child.status is None:
                child.status = -6
                aborted_at.append(now)
        now += 1

    assert 3 <= len(aborted_at) <= 6
    assert min(later - earlier for earlier, later in pairwise(aborted_at)) >= 10


def test_process_that_takes_long_to_start_is_left_alone(supervisor, children):
    """Imports on a busy machine are no loop that stands still."""
    supervisor.step(now=0)

    now = run_for(supervisor, start=1, seconds=UNSTARTED_SECONDS - 2)
    before = [list(child.signals) for _, child in children]
    run_for(supervisor, start=now, seconds=3)

    assert before == [[], []]
    assert [signal.SIGABRT] in [child.signals for _, child in children]


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
            "BALLAST_DRAIN_GRACE": "0",
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
    await_acknowledged(gateway, redis_url)
    gateway.process.send_signal(signal.SIGTERM)
    gateway.process.wait(WAIT_SECONDS)

    with redis.Redis.from_url(redis_url) as client:
        assert tellers(gateway, client, lambda batch: batch["state"]["status"] == "stopped") == both(gateway)
        client.delete(STREAM)


def both(gateway):
    """The names of its two workers."""
    return {f"{gateway.host}/gateway-0", f"{gateway.host}/gateway-1"}


def tellers(gateway, client, condition):
    """Which of its workers have told something of the kind."""
    batches = [json.loads(fields[b"batch"]) for _, fields in client.xrange(STREAM)]
    return {batch["worker"] for batch in batches if batch["worker"] in both(gateway) and condition(batch)}


def await_acknowledged(gateway, redis_url):
    """Return when both processes serve: whichever of them answers, the other may still be starting."""

    def is_acknowledged(batch):
        return any(ack["verdict"] == "ack" for ack in batch["acks"])

    wait_until(lambda: is_up(gateway))
    with redis.Redis.from_url(redis_url) as client:
        wait_until(lambda: tellers(gateway, client, is_acknowledged) == both(gateway))


# A real event loop that stamps the pipe as a gateway's does, and is blocked for good as soon as it is told by a file.
BLOCKED = """
import argparse, asyncio, faulthandler, os, pathlib, time
from dataplane.process import _beating_on

async def main(arguments, told):
    beat = _beating_on(arguments.pulse)
    while True:
        beat()
        await asyncio.sleep(0.05)
        if told.exists():
            told.unlink()
            hold_the_loop_for_ever()

def hold_the_loop_for_ever():
    while True:
        time.sleep(3600)

parser = argparse.ArgumentParser()
parser.add_argument("told")
for name in ("--slot", "--listener", "--lifeline", "--pulse"):
    parser.add_argument(name, type=int)
arguments = parser.parse_args()
faulthandler.enable()
asyncio.run(main(arguments, pathlib.Path(arguments.told)))
"""


@pytest.mark.end_to_end
def test_loop_that_is_really_blocked_is_replaced_with_its_traceback_in_the_log(tmp_path, capfd):
    """The process ends by SIGABRT, its log names the function that held the loop, and the next one turns."""
    told, lifeline = tmp_path / "block", os.pipe()
    spawned, stopping = [], threading.Event()
    with bind("127.0.0.1", 0) as listener:
        spawn = spawn_with([sys.executable, "-c", BLOCKED, str(told)], listener=listener, lifeline=lifeline[0])

        def spawn_and_note(slot):
            spawned.append(spawn(slot))
            return spawned[-1]

        supervisor = Supervisor(
            processes=1, spawn=spawn_and_note, drain_seconds=1, restart_seconds=0.1, wedged_seconds=2
        )

        def supervise():
            while not stopping.wait(0.1):
                supervisor.step(now=time.monotonic())

        thread = threading.Thread(target=supervise)
        thread.start()
        try:
            wait_until(lambda: spawned and spawned[0].beats() > 0)
            told.touch()
            wait_until(lambda: len(spawned) > 1 and spawned[1].beats() > 0)
        finally:
            stopping.set()
            thread.join()
            for child in spawned:
                if child.poll() is None:
                    child.send_signal(signal.SIGKILL)
                child.wait()
            for descriptor in lifeline:
                os.close(descriptor)

    assert spawned[0].poll() == -signal.SIGABRT
    assert "hold_the_loop_for_ever" in capfd.readouterr().err


@pytest.mark.end_to_end
def test_gateway_process_that_stands_still_is_replaced(gateway, redis_url):
    """A real gateway, stopped where it is: nothing but its pulse tells, and its neighbour answers all the while."""
    await_acknowledged(gateway, redis_url)
    victim, other = gateway.children()
    victim.suspend()
    try:
        wait_until(lambda: not victim.is_running() or victim.status() == psutil.STATUS_ZOMBIE)
    finally:
        if victim.is_running():
            victim.kill()

    wait_until(lambda: len({child.pid for child in gateway.children()} - {victim.pid}) == 2)
    assert gateway.status("/readyz") == 200
    assert other.is_running()
