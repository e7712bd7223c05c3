"""What a worker shows of its tasks: how long each took and how it failed, told by a real one whose processes die."""

from __future__ import annotations

import http.client
import threading
import time

import pytest
from celery import Celery
from prometheus_client.parser import text_string_to_metric_families

from tests.celery_nodes import celery_node
from tests.dataplane.conftest import RedisProcess

WAIT_SECONDS = 30

NODE = """
import os, signal, sys, time
from celery import Celery
from celery.exceptions import Ignore
from controlplane.task_metrics import TASKS
from dataplane.vitals import Vitals

broker, port = sys.argv[1], int(sys.argv[2])
app = Celery("node", broker=broker, set_as_current=False)
app.conf.update(task_default_queue="counted", task_ignore_result=True, broker_connection_retry_on_startup=True)
app.Task.Request = "controlplane.task_metrics:CountedRequest"

@app.task(name="fine")
def fine():
    pass

@app.task(name="given-up")
def give_up():
    raise Ignore

@app.task(name="raises")
def fail():
    raise ValueError("no")

@app.task(name="dies")
def die():
    os.kill(os.getpid(), signal.SIGKILL)

@app.task(name="hangs", time_limit=1)
def hang():
    time.sleep(3600)

vitals = Vitals()
vitals.expose(TASKS.families)
vitals.serve(("127.0.0.1", port))
vitals.begin()
app.Worker(pool="prefork", concurrency=1, without_gossip=True, without_mingle=True, without_heartbeat=True,
           quiet=True, loglevel="CRITICAL").start()
"""
TASKS = ("fine", "fine", "given-up", "raises", "raises", "dies", "hangs", "fine")


@pytest.fixture
def broker(tmp_path):
    """A Redis of this test's own."""
    process = RedisProcess(tmp_path)
    process.start()
    yield process
    process.stop()


@pytest.fixture
def node(broker):
    """A worker on a broker of its own; gives its port and the broker."""
    with celery_node(NODE, broker_url=broker.url) as port:
        yield port, broker


def shown(port):
    """What the worker shows of tasks: values by name and labels; nothing while nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_SECONDS)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    except OSError:
        return {}
    finally:
        connection.close()
    return {
        (sample.name, sample.labels["task"], sample.labels.get("how", "")): sample.value
        for family in text_string_to_metric_families(text)
        if family.name.startswith("ballast_worker_task_")
        for sample in family.samples
        if not sample.name.endswith("_bucket")
    }


@pytest.mark.end_to_end
def test_each_task_is_counted_however_it_ended(node):
    """Well, given up on purpose, by raising, by the death of its process, by its time limit; one after the other."""
    port, broker = node
    sender = Celery("sender", set_as_current=False)
    with sender.connection(broker.url) as connection:
        for name in TASKS:
            sender.send_task(name, queue="counted", connection=connection)

    took, failed = "ballast_worker_task_seconds_count", "ballast_worker_task_failures_total"
    deadline = time.monotonic() + WAIT_SECONDS
    while (found := shown(port)).get((took, "fine", "")) != TASKS.count("fine"):
        assert time.monotonic() < deadline, found
        threading.Event().wait(0.05)  # another process, which offers nothing to wait on

    assert {key[1:]: value for key, value in found.items() if key[0] == failed} == {
        ("raises", "raised"): 2,
        ("dies", "lost"): 1,
        ("hangs", "overdue"): 1,
    }
    assert {key[1]: value for key, value in found.items() if key[0] == took} == {"fine": 3}
