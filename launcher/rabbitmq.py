"""A RabbitMQ for the tests: found or installed, and started on loopback with nothing of its own left behind."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from launcher.errors import LauncherError

HOST: Final = "127.0.0.1"
# The package's own scripts: the one on PATH becomes another account, and keeps to the package's directories.
PLACES: Final = ("/usr/lib/rabbitmq/bin", "/opt/homebrew/opt/rabbitmq/sbin", "/usr/local/opt/rabbitmq/sbin")
INSTALL: Final = (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", "rabbitmq-server"])
INSTALL_SECONDS: Final = 900
STOP_SECONDS: Final = 60
# Alarms at these would stop every publisher: a machine that runs tests has little to spare.
CONFIGURATION: Final = "vm_memory_high_watermark.absolute = 512MB\ndisk_free_limit.absolute = 50MB\n"


def find_rabbitmq(environ: Mapping[str, str]) -> Path | None:
    """Return the directory of RabbitMQ's scripts, or None: what BALLAST_RABBITMQ names, else where packages put them.

    Raises:
        LauncherError: BALLAST_RABBITMQ names a directory without them.
    """
    named = environ.get("BALLAST_RABBITMQ", "").strip()
    if named:
        if not (Path(named) / "rabbitmq-server").exists():
            raise LauncherError(f"BALLAST_RABBITMQ is {named!r}, where there is no rabbitmq-server")
        return Path(named)
    return next((Path(place) for place in PLACES if (Path(place) / "rabbitmq-server").exists()), None)


def find_or_install_rabbitmq(environ: Mapping[str, str]) -> Path:
    """Return the directory of RabbitMQ's scripts, installing the package by apt-get, as root, if there is none.

    Raises:
        LauncherError: none could be found or installed.
    """
    found = find_rabbitmq(environ)
    if found:
        return found
    if os.geteuid() == 0 and shutil.which("apt-get"):
        for command in INSTALL:
            print(f"Installing RabbitMQ: {' '.join(command)}", file=sys.stderr)
            subprocess.run(  # noqa: S603 - the commands above
                command,
                env={**environ, "DEBIAN_FRONTEND": "noninteractive"},
                stdout=sys.stderr,
                timeout=INSTALL_SECONDS,
                check=False,
            )
        found = find_rabbitmq(environ)
        if found:
            return found
    raise LauncherError(
        "no RabbitMQ was found and none could be installed; install one, or name the directory of its "
        "scripts in BALLAST_RABBITMQ"
    )


@dataclass(frozen=True, slots=True)
class RabbitMQ:
    """One node with its data in `home`, which stop and start keep. It has a name, a port mapper and a cookie of its
    own, so that it meets no other node of the machine.
    """

    scripts: Path
    home: Path
    port: int
    distribution_port: int
    mapper_port: int

    @property
    def url(self) -> str:
        """The broker's address: the account that RabbitMQ lets in from loopback only."""
        return f"amqp://guest:guest@{HOST}:{self.port}//"

    @property
    def environment(self) -> dict[str, str]:
        """What the node and its tools are told."""
        home = str(self.home)
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": home,  # where the cookie is
            "RABBITMQ_NODENAME": f"ballast-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": HOST,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self.distribution_port),
            "RABBITMQ_MNESIA_BASE": f"{home}/mnesia",
            "RABBITMQ_LOG_BASE": f"{home}/log",
            "RABBITMQ_PID_FILE": f"{home}/pid",
            "RABBITMQ_CONFIG_FILE": f"{home}/rabbitmq",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{home}/advanced",
            "RABBITMQ_CONF_ENV_FILE": f"{home}/environment",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{home}/plugins",
            "ERL_EPMD_PORT": str(self.mapper_port),
            "ERL_EPMD_ADDRESS": HOST,
        }

    def start(self) -> "subprocess.Popen[bytes]":
        """Start the node; it does not let anybody in yet."""
        self.home.mkdir(parents=True, exist_ok=True)
        (self.home / "rabbitmq.conf").write_text(CONFIGURATION)
        (self.home / "plugins").write_text("[].\n")
        with (self.home / "out.log").open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - the program that was found
                [str(self.scripts / "rabbitmq-server")],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def is_ready(self) -> bool:
        """True once it lets clients connect."""
        try:
            socket.create_connection((HOST, self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def stop(self, node: "subprocess.Popen[bytes]", *, at_once: bool = False) -> None:
        """End the node, in order or by SIGKILL, and its port mapper, which would stay."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGKILL if at_once else signal.SIGTERM)
        try:
            node.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)
            node.wait()
        self._run("epmd", "-kill")

    def queues(self) -> dict[str, str]:
        """The type of each queue, by its name."""
        said = self._run(
            str(self.scripts / "rabbitmqctl"), "list_queues", "name", "type", "--silent", "--no-table-headers"
        )
        return dict(line.split("\t") for line in said.splitlines() if "\t" in line)

    def _run(self, *command: str) -> str:
        done = subprocess.run(  # noqa: S603 - Erlang's tools
            command, env=self.environment, capture_output=True, text=True, timeout=STOP_SECONDS, check=False
        )
        return done.stdout
