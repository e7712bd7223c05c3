"""The pulse of a Celery node: a consumer whose loop is held in a call is told of, and one without a broker is not."""

from __future__ import annotations

import http.client
import json
import threading
import time

import pytest
from celery import Celery

from dataplane import agent, job_worker
from tests.celery_nodes import celery_node

WAIT_SECONDS = 60
QUEUE = "vitals"

# One thread for everything, as the agent has it: a task that holds it holds the consumer's loop.
NODE = """
import sys, time
from celery import Celery
from dataplane.celery_vitals import watch_consumer
from dataplane.readiness import Dependency
from dataplane.vitals import Vitals

broker, port = sys.argv[1], int(sys.argv[2])
app = Celery("node", broker=broker, set_as_current=False)
app.conf.update(task_default_queue="vitals", task_ignore_result=True, broker_connection_retry_on_startup=True,
                broker_transport_options={"socket_connect_timeout": 1})

@app.task(name="hold")
def hold(seconds):
    time.sleep(seconds)

vitals = Vitals()
consuming = watch_consumer(app, vitals.pulse("consumer", within_seconds=3))
vitals.depend_on([Dependency("broker", consuming.ask, needed=True, without="nothing is heard")])
vitals.serve(("127.0.0.1", port))
vitals.begin()
app.Worker(pool="solo", without_gossip=True, without_mingle=True, without_heartbeat=True, quiet=True).start()
"""


@pytest.fixture
def node(broker):
    """A node on a broker of its own; gives its port and the broker."""
    with celery_node(NODE, broker_url=broker.url) as port:
        yield port, broker


def ask(port, path):
    """Status and body; status 0 while nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    except OSError:
        return 0, {}
    finally:
        connection.close()


def await_status(port, path, wanted):
    """Poll another process, which offers nothing to wait on."""
    deadline = time.monotonic() + WAIT_SECONDS
    while (said := ask(port, path))[0] != wanted:
        assert time.monotonic() < deadline, said
        threading.Event().wait(0.05)


@pytest.mark.end_to_end
def test_consumer_whose_loop_is_held_in_a_call_is_wedged(node):
    """Alive as a process, with a socket that answers: 503, and 200 again when the call ends."""
    port, broker = node
    await_status(port, "/readyz", 200)

    sender = Celery(set_as_current=False)
    with sender.connection_for_write(broker.url) as connection:
        sender.send_task("hold", args=[8], queue=QUEUE, connection=connection)

    await_status(port, "/livez", 503)
    await_status(port, "/livez", 200)


@pytest.mark.end_to_end
def test_consumer_without_a_broker_is_alive_and_not_ready(node):
    """Its loop is at rest and is not judged; when the broker is back it goes on by itself."""
    port, broker = node
    await_status(port, "/readyz", 200)

    broker.stop()
    await_status(port, "/readyz", 503)
    away = ask(port, "/livez")
    broker.start()

    assert (away[0], away[1]["loops"]["consumer"]["within_seconds"]) == (200, None)
    await_status(port, "/readyz", 200)
    await_status(port, "/livez", 200)


def test_nodes_of_the_data_plane_set_no_django_up(monkeypatch):
    """Where its settings are named, as they are for every process of one machine, Celery would do so by itself."""
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "controlplane.settings")
    url = "memory://"

    agent_app = agent.build_app(broker_url=url, receive=lambda _: None, on_connect=lambda: None)
    jobs_app = job_worker.build_app(broker_url=url, run=lambda _: None, on_connect=lambda: None)

    assert [list(app._fixups) for app in (agent_app, jobs_app, job_worker.build_sender(url))] == [[], [], []]
