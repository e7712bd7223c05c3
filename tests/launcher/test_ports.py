"""Ports: taken ones are named, used ones are remembered."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.errors import LauncherError
from launcher.ports import is_free, pick_free, port_in_use, recall_port, require_free


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A loopback port somebody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_taken_port_is_refused_by_number_and_variable(taken_port: int) -> None:
    """The line also names who holds it: here, this very process."""
    with pytest.raises(LauncherError, match=rf"port {taken_port} is in use by .* BALLAST_CONSOLE_PORT"):
        require_free("127.0.0.1", taken_port, variable="BALLAST_CONSOLE_PORT")


def test_a_port_taken_on_another_address_of_ours_is_taken(taken_port: int) -> None:
    """Listening everywhere is impossible while somebody listens on loopback."""
    assert not is_free("0.0.0.0", taken_port)  # noqa: S104 - the question, not a server


def test_an_address_that_is_not_here_is_said_with_the_variable() -> None:
    """An address of another machine cannot be bound (192.0.2.0/24 is for documentation)."""
    with pytest.raises(LauncherError, match="BALLAST_GATEWAY_PORT"):
        require_free("192.0.2.1", 8080, variable="BALLAST_GATEWAY_PORT")


def test_a_free_port_is_kept_for_the_next_start(tmp_path: Path) -> None:
    """The same name gets the same port, another name another one."""
    memory = tmp_path / "ports.json"

    first = recall_port(memory, "postgres")

    assert recall_port(memory, "postgres") == first
    assert recall_port(memory, "redis") != first


def test_a_remembered_port_that_was_taken_meanwhile_is_replaced(tmp_path: Path, taken_port: int) -> None:
    """An embedded server moves out of the way instead of failing."""
    memory = tmp_path / "ports.json"
    memory.write_text(f'{{"postgres": {taken_port}}}')

    assert recall_port(memory, "postgres") != taken_port


@pytest.mark.parametrize("damage", ["", "[]", '{"postgres": "x"}', '{"postgres": 99999}'])
def test_a_damaged_memory_is_the_same_as_none(tmp_path: Path, damage: str) -> None:
    """It is written anew."""
    memory = tmp_path / "ports.json"
    memory.write_text(damage)

    assert is_free("127.0.0.1", recall_port(memory, "postgres"))


def test_a_picked_port_is_free() -> None:
    """Nobody listens on it at that moment."""
    assert is_free("127.0.0.1", pick_free())


def test_port_of_a_server_that_runs_is_told_and_stays(tmp_path: Path) -> None:
    """Whoever asks where it listens must not be given another port, nor move it."""
    memory = tmp_path / "ports.json"
    port = recall_port(memory, "postgres")

    with pytest.raises(LauncherError, match="postgres of this copy does not run"):
        port_in_use(memory, "postgres")
    with socket.create_server(("127.0.0.1", port)):
        assert port_in_use(memory, "postgres") == port
        assert port_in_use(memory, "postgres") == port


def test_server_that_never_ran_is_said_not_to_run(tmp_path: Path) -> None:
    """A copy that was never started."""
    with pytest.raises(LauncherError, match="redis of this copy does not run"):
        port_in_use(tmp_path / "ports.json", "redis")
