"""A RabbitMQ that tests stop and start."""

import os
import signal
import subprocess

from launcher.postgres import wait_until
from launcher.rabbitmq import RabbitMQ

READY_SECONDS = 120.0


class Broker:
    """One node, whose data stay while it is away."""

    def __init__(self, server: RabbitMQ) -> None:
        self.server = server
        self._node: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return self.server.url

    def start(self) -> None:
        """Return when it lets clients in."""
        node = self._node = self.server.start()
        if not wait_until(self.server.is_ready, alive=lambda: node.poll() is None, seconds=READY_SECONDS):
            raise AssertionError(f"RabbitMQ does not start: {(self.server.home / 'out.log').read_text()[-2000:]}")

    def stop(self, *, at_once: bool = False) -> None:
        """End it, in order or by SIGKILL; nothing happens when it does not run."""
        if self._node is not None:
            self.server.stop(self._node, at_once=at_once)
            self._node = None

    def suspend(self) -> None:
        """Have it stand still, with its sockets open."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Have it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._node is not None
        os.killpg(self._node.pid, number)
