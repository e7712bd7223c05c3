"""A RabbitMQ for the tests is found where it is named, and meets no other node of the machine."""

from pathlib import Path

import pytest

from launcher.errors import LauncherError
from launcher.rabbitmq import RabbitMQ, find_rabbitmq


def test_directory_that_is_named_is_taken(tmp_path: Path) -> None:
    """Whatever else is installed."""
    (tmp_path / "rabbitmq-server").touch()

    assert find_rabbitmq({"BALLAST_RABBITMQ": str(tmp_path)}) == tmp_path


def test_directory_without_the_program_is_an_error(tmp_path: Path) -> None:
    """Another one is not taken in its place: whoever named it would think that it is the one."""
    with pytest.raises(LauncherError, match="BALLAST_RABBITMQ"):
        find_rabbitmq({"BALLAST_RABBITMQ": str(tmp_path)})


def test_node_keeps_to_its_own_directory_and_ports(tmp_path: Path) -> None:
    """Name, port mapper, cookie, data and log: the machine's own node, if it has one, is neither met nor stopped."""
    node = RabbitMQ(Path("/nowhere"), tmp_path, port=1001, distribution_port=1002, mapper_port=1003)

    told = node.environment

    assert told["RABBITMQ_NODENAME"] == "ballast-1001@localhost"
    assert (told["RABBITMQ_NODE_IP_ADDRESS"], told["ERL_EPMD_ADDRESS"], told["ERL_EPMD_PORT"]) == (
        "127.0.0.1",
        "127.0.0.1",
        "1003",
    )
    paths = {name: value for name, value in told.items() if "/" in value and name not in {"PATH", "LANG"}}
    assert all(value.startswith(str(tmp_path)) for value in paths.values())
    assert not node.is_ready()
