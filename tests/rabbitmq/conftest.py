"""A real RabbitMQ for a module's tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.rabbitmq import RabbitMQ, find_or_install_rabbitmq
from tests.ports import pick_port
from tests.rabbitmq.broker import Broker


@pytest.fixture(scope="module")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A node of this module's own, which lets clients in."""
    home: Path = tmp_path_factory.mktemp("rabbitmq")
    scripts = find_or_install_rabbitmq(os.environ)
    broker = Broker(RabbitMQ(scripts, home, pick_port(), pick_port(), pick_port()))
    broker.start()
    yield broker
    broker.stop()
