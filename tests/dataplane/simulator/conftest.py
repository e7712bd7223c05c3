"""A live simulator on a free port, and the vendors' own clients against it."""

from __future__ import annotations

import socket
import threading

import anthropic
import httpx
import openai
import pytest
import uvicorn

from dataplane.simulator.server import SimulatorSettings, build_config


@pytest.fixture(scope="session")
def simulator_url():
    """Serve one simulator in a thread; the socket listens before the thread starts, so no client can come too early."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        server = uvicorn.Server(build_config(SimulatorSettings(seed=7)))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def _sessions(simulator_url):
    """Hold the clients of all tests: making one loads the system's certificates each time, most of a test's time."""
    with (
        httpx.Client(base_url=simulator_url, timeout=90) as http,
        openai.OpenAI(base_url=f"{simulator_url}/openai/v1", api_key="sk-main", max_retries=0, timeout=90) as one,
        openai.AzureOpenAI(
            azure_endpoint=f"{simulator_url}/azure",
            api_key="az-main",
            api_version="2024-10-21",
            max_retries=0,
            timeout=90,
        ) as two,
        anthropic.Anthropic(
            base_url=f"{simulator_url}/anthropic", api_key="ant-main", max_retries=0, timeout=90
        ) as three,
    ):
        yield http, one, two, three


@pytest.fixture
def http(_sessions):
    """Return a bare HTTP client, with no rule or count left from before."""
    _sessions[0].post("/admin/reset")
    return _sessions[0]


@pytest.fixture
def openai_client(_sessions, http):
    """Return OpenAI's client, which tries once."""
    return _sessions[1]


@pytest.fixture
def azure_client(_sessions, http):
    """Return Azure OpenAI's client, which tries once."""
    return _sessions[2]


@pytest.fixture
def anthropic_client(_sessions, http):
    """Return Anthropic's client, which tries once."""
    return _sessions[3]
