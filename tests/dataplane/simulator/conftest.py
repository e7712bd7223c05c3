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


@pytest.fixture
def http(simulator_url):
    """Return a bare HTTP client, and leave no rule or count behind."""
    with httpx.Client(base_url=simulator_url, timeout=10) as client:
        client.post("/admin/reset")
        yield client
        client.post("/admin/reset")


@pytest.fixture
def openai_client(simulator_url, http):
    """Return OpenAI's client, which tries once."""
    with openai.OpenAI(base_url=f"{simulator_url}/openai/v1", api_key="sk-main", max_retries=0, timeout=10) as client:
        yield client


@pytest.fixture
def azure_client(simulator_url, http):
    """Return Azure OpenAI's client, which tries once."""
    with openai.AzureOpenAI(
        azure_endpoint=f"{simulator_url}/azure", api_key="az-main", api_version="2024-10-21", max_retries=0, timeout=10
    ) as client:
        yield client


@pytest.fixture
def anthropic_client(simulator_url, http):
    """Return Anthropic's client, which tries once."""
    with anthropic.Anthropic(
        base_url=f"{simulator_url}/anthropic", api_key="ant-main", max_retries=0, timeout=10
    ) as client:
        yield client
