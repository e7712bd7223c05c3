"""Releases that RabbitMQ carries to agents, which cannot ask the console themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.conftest import data_dir as data_dir
from tests.end_to_end.stack import ANSWER_SECONDS, PROJECT, Stack
from tests.end_to_end.test_convergence import FIVE, HALF, latest_revision, turn_knob
from tests.ports import pick_port
from tests.rabbitmq.broker import Broker

pytestmark = pytest.mark.rabbitmq

NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
def stack(data_dir: Path, rabbitmq: Broker) -> Iterator[Stack]:
    """A console that sends by RabbitMQ."""
    with Stack(data_dir, processes=("console",), variables={"CELERY_BROKER_URL": rabbitmq.url}) as stack:
        stack.wait_ready()
        yield stack


class Agent:
    """An agent on a host of its own, which can reach no console."""

    def __init__(self, stack: Stack, name: str) -> None:
        self.directory = stack.places.data_dir / name
        self.directory.mkdir()
        self._port = pick_port()
        environment = stack.environment | {
            "BALLAST_HOST_NAME": name,
            "BALLAST_RELEASE_FILE": str(self.directory / "release.json"),
            "BALLAST_SPOOL_DIR": str(self.directory / "spool"),
            "BALLAST_CONSOLE_URL": NOWHERE,
            "BALLAST_HEALTH_PORT": str(self._port),
        }
        self.process = subprocess.Popen([sys.executable, "-m", "dataplane", "agent"], cwd=PROJECT, env=environment)

    def is_listening(self) -> bool:
        """Whether it consumes from the broker."""
        try:
            answer = httpx.get(f"http://127.0.0.1:{self._port}/readyz", timeout=ANSWER_SECONDS).json()
        except httpx.TransportError:
            return False
        return answer["dependencies"].get("broker", {}).get("state") == "ok"

    def revision(self) -> int:
        """Of the release on its disk; 0: none."""
        try:
            envelope = json.loads((self.directory / "release.json").read_text())
        except FileNotFoundError:
            return 0
        return int(json.loads(envelope["document"])["revision"])


@pytest.fixture
def agents(stack: Stack) -> Iterator[list[Agent]]:
    """Two of them, listening."""
    agents = [Agent(stack, "host-a"), Agent(stack, "host-b")]
    yield agents
    for agent in agents:
        agent.process.terminate()
        agent.process.wait()


def test_each_release_reaches_every_agent_also_after_the_broker_was_away(
    stack: Stack, agents: list[Agent], rabbitmq: Broker
) -> None:
    """A broadcast, not a queue that they share; a broker that is restarted finds them listening again."""
    owner = stack.sign_in("owner")
    stack.wait_for(lambda: all(agent.is_listening() for agent in agents), "both listen")
    turn_knob(stack, owner, HALF)
    stack.wait_for(lambda: [agent.revision() for agent in agents] == [latest_revision(stack)] * 2, "both have it")

    rabbitmq.stop()
    stack.wait_for(lambda: not any(agent.is_listening() for agent in agents), "neither listens")
    rabbitmq.start()
    stack.wait_for(lambda: all(agent.is_listening() for agent in agents), "both listen again")
    turn_knob(stack, owner, FIVE)

    stack.wait_for(lambda: [agent.revision() for agent in agents] == [latest_revision(stack)] * 2, "both have it")
    owner.close()
    own = {name: kind for name, kind in rabbitmq.server.queues().items() if name.startswith("bcast.")}
    assert list(own.values()) == ["classic", "classic"]


def test_click_waits_no_longer_than_its_time_out_for_a_broker_that_says_nothing(stack: Stack, rabbitmq: Broker) -> None:
    """Stopped where it is, so that connections are taken and nothing is answered: the release is cut all the same."""
    owner = stack.sign_in("owner")
    turn_knob(stack, owner, HALF)
    rabbitmq.suspend()
    try:
        turn_knob(stack, owner, FIVE)
    finally:
        rabbitmq.resume()
    owner.close()
