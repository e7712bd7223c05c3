"""How a process without a port of its own answers probes."""

from __future__ import annotations

import asyncio
import http.client
import json
import multiprocessing
import threading
import time

import pytest
from prometheus_client.core import GaugeMetricFamily

from dataplane.readiness import Dependency
from dataplane.vitals import Vitals, beat_while_turning

WAIT_SECONDS = 60


@pytest.fixture
def vitals(clock):
    """Vitals of a process that has started, on a clock that stands still."""
    vitals = Vitals(clock=clock.now)
    vitals.begin()
    return vitals


def watch_for(vitals, clock, seconds):
    for _ in range(seconds):
        clock.advance(1)
        vitals.look()


def status(vitals, path):
    return vitals.answer(path)[0].value


def test_loop_that_turns_is_alive(vitals, clock):
    """However long the process lives."""
    pulse = vitals.pulse("loop", within_seconds=5)
    for _ in range(30):
        pulse.beat()
        watch_for(vitals, clock, 1)

    assert status(vitals, "/livez") == 200


def test_loop_that_stands_still_is_wedged_and_named(vitals, clock):
    """503 once it has been silent for longer than it said, and not before; the other loop changes nothing."""
    stuck, fine = vitals.pulse("stuck", within_seconds=5), vitals.pulse("fine", within_seconds=5)
    stuck.beat()
    statuses = []
    for _ in range(8):
        fine.beat()
        watch_for(vitals, clock, 1)
        statuses.append(status(vitals, "/livez"))

    # The first look sees the stamp.
    assert statuses == [200] * 6 + [503] * 2
    assert vitals.answer("/livez")[1]["loops"]["stuck"] == {"silent_seconds": 7.0, "within_seconds": 5}


def test_loop_at_rest_is_not_judged(vitals, clock):
    """A consumer without a broker has nothing to turn; a restart would mend nothing."""
    pulse = vitals.pulse("consumer", within_seconds=5)
    pulse.beat()
    pulse.rest()

    watch_for(vitals, clock, 600)

    assert status(vitals, "/livez") == 200


def test_loop_that_turns_again_is_alive_again(vitals, clock):
    """One stamp is enough."""
    pulse = vitals.pulse("loop", within_seconds=5)
    pulse.beat()
    watch_for(vitals, clock, 60)
    before = status(vitals, "/livez")
    pulse.beat()
    watch_for(vitals, clock, 1)

    assert (before, status(vitals, "/livez")) == (503, 200)


def test_process_that_starts_is_neither_started_nor_ready(clock):
    """And it is alive: whether it comes up in time is for the one who asks /startupz to judge."""
    vitals = Vitals(clock=clock.now)

    before = [status(vitals, path) for path in ("/livez", "/startupz", "/readyz")]
    vitals.begin()

    assert before == [200, 503, 503]
    assert [status(vitals, path) for path in ("/livez", "/startupz", "/readyz")] == [200, 200, 200]


def test_process_that_was_told_to_stop_is_alive_and_not_ready(vitals):
    """What it has under way is its own affair."""
    vitals.drain()

    assert [status(vitals, path) for path in ("/livez", "/startupz", "/readyz")] == [200, 200, 503]
    assert vitals.answer("/readyz")[1]["status"] == "draining"


def test_readiness_names_what_is_away(vitals):
    """503, and why."""
    vitals.depend_on([Dependency("store", lambda: "it does not answer", needed=True, without="nothing is done")])

    code, body = vitals.answer("/readyz")

    assert (code.value, body["status"], body["dependencies"]["store"]["state"]) == (
        503,
        "not ready",
        "it does not answer",
    )


def get(port, path, method="GET"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_SECONDS)
    connection.request(method, path)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


def test_nobody_listens_unless_told():
    """Off by default."""
    assert Vitals().serve(None) is None


def test_answers_over_http():
    """JSON for the three paths, a body for none of HEAD, and nothing else is there."""
    vitals = Vitals()
    vitals.begin()
    port = vitals.serve(("127.0.0.1", 0))

    assert json.loads(get(port, "/readyz?verbose")[1]) == {"status": "ready", "dependencies": {}}
    assert get(port, "/livez", "HEAD") == (200, b"")
    assert get(port, "/other")[0] == 404


def test_address_in_use_is_an_error():
    """Two processes of a host cannot share a port by accident."""
    port = Vitals().serve(("127.0.0.1", 0))

    with pytest.raises(OSError, match=rf"cannot answer probes on 127.0.0.1:{port}"):
        Vitals().serve(("127.0.0.1", port))


def test_forked_child_leaves_the_port_to_its_parent():
    """A child of a pool that outlives its parent does not hold the port of the parent's successor."""
    forking = multiprocessing.get_context("fork")
    vitals, has_left, may_end = Vitals(), forking.Event(), forking.Event()
    port = vitals.serve(("127.0.0.1", 0))

    def live_on():
        vitals.leave_to_parent()
        has_left.set()
        may_end.wait(WAIT_SECONDS)

    child = forking.Process(target=live_on)
    child.start()
    has_left.wait(WAIT_SECONDS)
    vitals._server.shutdown()
    vitals._server.server_close()

    assert Vitals().serve(("127.0.0.1", port)) == port
    may_end.set()
    child.join()


def test_event_loop_that_is_really_blocked_is_found_and_heals():
    """A callback that waits for ever: 200, 503 within the bound, and 200 when it lets go."""
    vitals = Vitals()
    pulse = vitals.pulse("loop", within_seconds=1)
    port = vitals.serve(("127.0.0.1", 0))
    loop, release = asyncio.new_event_loop(), threading.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(beat_while_turning(pulse),), daemon=True)
    thread.start()
    await_status(port, 200, lambda: pulse.beats > 1)

    loop.call_soon_threadsafe(release.wait)
    await_status(port, 503)
    release.set()

    await_status(port, 200)


def await_status(port, wanted, also=lambda: True):
    """Poll a server of another thread, which offers nothing to wait on."""
    deadline = time.monotonic() + WAIT_SECONDS
    while get(port, "/livez")[0] != wanted or not also():
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)


def test_process_is_scraped_where_it_is_probed(vitals, clock):
    """Its memory, for how long its loops are silent, and what it hands in."""
    vitals.pulse("loop", within_seconds=5).beat()
    vitals.pulse("resting").rest()
    watch_for(vitals, clock, 3)
    vitals.expose(lambda: iter([GaugeMetricFamily("ballast_tests", "Of this test.", value=7)]))
    port = vitals.serve(("127.0.0.1", 0))

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_SECONDS)
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    text = answer.read().decode()

    assert answer.status == 200
    assert answer.getheader("content-type") == "text/plain; version=0.0.4; charset=utf-8"
    lines = text.splitlines()
    assert "ballast_tests 7.0" in lines
    assert [line for line in lines if "loop_silent_seconds{" in line] == [
        'ballast_process_loop_silent_seconds{loop="loop"} 2.0'
    ]
    assert any(line.startswith("process_resident_memory_bytes ") for line in lines)
