"""Every process that serves nobody answers probes where it is told to: really started, and really stopped."""

import contextlib
import os
import signal
from types import MappingProxyType

import httpx
import pytest

from tests.end_to_end.stack import ANSWER_SECONDS, Stack
from tests.ports import pick_port

pytestmark = pytest.mark.end_to_end

DATA_PLANE = ("agent", "jobs", "shadow")
CONTROL_PLANE = ("ingest", "capture", "indexer", "worker", "work", "urgent", "beat")
# Longer than any test takes.
GRACE = MappingProxyType({"BALLAST_DRAIN_GRACE": "300"})
PATHS = ("/livez", "/startupz", "/readyz")


@pytest.fixture(scope="module")
def ports():
    """One for each process."""
    return {name: pick_port() for name in (*DATA_PLANE, *CONTROL_PLANE)}


@pytest.fixture(scope="module")
def stack(ports, data_dir):
    """All of them, with a broker that can go by itself, and what they need."""
    with Stack(
        data_dir,
        processes=("console", "gateway", *DATA_PLANE, *CONTROL_PLANE),
        own_broker=True,
        own_variables={name: {"BALLAST_HEALTH_PORT": str(port)} for name, port in ports.items()}
        | dict.fromkeys(("console", "gateway"), GRACE),
    ) as stack:
        stack.wait_ready()
        yield stack


def status(port, path):
    """The answer's status; 0 while nobody answers."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=ANSWER_SECONDS).status_code
    except httpx.TransportError:
        return 0


def await_statuses(stack, ports, names, wanted, what):
    def is_so():
        return all([status(ports[name], path) for path in PATHS] == wanted for name in names)

    stack.wait_for(is_so, what)


@pytest.mark.parametrize("name", [*DATA_PLANE, *CONTROL_PLANE])
def test_process_that_works_is_alive_started_and_ready(stack, ports, name):
    """200 for all three."""
    await_statuses(stack, ports, [name], [200, 200, 200], f"{name} is ready")


def test_loop_that_stands_still_is_told_of_by_no_other(stack, ports):
    """Each says which of its loops turn, by name."""
    loops = {
        name: set(httpx.get(f"http://127.0.0.1:{port}/livez", timeout=ANSWER_SECONDS).json()["loops"])
        for name, port in ports.items()
    }

    assert loops["agent"] == {"consumer", "reconcile", "reports"}
    assert loops["jobs"] == {"consumer", "jobs"}
    assert [loops[name] for name in ("worker", "work", "urgent")] == [{"consumer"}] * 3
    assert (loops["beat"], loops["ingest"], loops["indexer"]) == ({"tick"}, {"ingest"}, {"index"})


def test_without_a_broker_all_live_and_only_who_needs_it_is_not_ready(stack, ports):
    """Agents reconcile and runners look for themselves: docs/failure-modes.md; a restart would mend nothing."""
    stack.stop("broker")

    await_statuses(stack, ports, ("worker", "work", "urgent", "beat"), [200, 200, 503], "Celery's nodes say so")
    await_statuses(stack, ports, (*DATA_PLANE, "ingest", "capture", "indexer"), [200, 200, 200], "the others work on")

    stack.start("broker")
    stack.wait_answering("broker")
    await_statuses(stack, ports, ports, [200, 200, 200], "all are ready again")


def test_without_postgresql_all_live_and_agents_and_shadows_are_ready(stack, ports):
    """What serves callers stands on the release on disk."""
    stack.stop("postgres")

    await_statuses(
        stack, ports, ("jobs", "ingest", "capture", "indexer", "worker", "work"), [200, 200, 503], "they say so"
    )
    await_statuses(stack, ports, ("agent", "shadow", "beat"), [200, 200, 200], "the others work on")

    stack.start("postgres")
    stack.wait_answering("postgres")
    await_statuses(stack, ports, ports, [200, 200, 200], "all are ready again")


def test_thread_that_live_lines_share_is_watched(stack):
    """It turns, and the console says so."""
    body = httpx.get(f"{stack.console_url}/livez", timeout=ANSWER_SECONDS).json()

    assert (body["status"], list(body["loops"])) == ("ok", ["live lines"])


@pytest.mark.parametrize("name", ["console", "gateway"])
def test_server_that_is_told_to_stop_is_not_ready_and_serves_on(stack, name):
    """Every process of it, whichever is asked: 503 at /readyz, alive, and requests are answered as before."""
    url, served = {
        "console": (stack.console_url, "/accounts/login/"),
        "gateway": (stack.gateway_url, "/v1/models"),
    }[name]
    headers = {"authorization": "Bearer bk-demo-acme"}

    def statuses():
        return [
            httpx.get(f"{url}{path}", headers=headers, timeout=ANSWER_SECONDS).status_code
            for path in ("/livez", "/readyz", served)
        ]

    before = statuses()
    os.kill(stack.pid(name), signal.SIGTERM)
    stack.wait_for(lambda: all(statuses() == [200, 503, 200] for _ in range(5)), f"{name} drains")
    children = stack.gateway_pids() if name == "gateway" else []
    stack.kill(name)
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)

    assert before == [200, 200, 200]
