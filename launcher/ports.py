"""Which TCP ports are free, who holds the ones that are not, and which ones this copy used last time."""

import errno
import json
import secrets
import socket
from pathlib import Path

import psutil

from launcher.errors import LauncherError

FIRST_PICKED = 15_000
LAST_PICKED = 32_000
TRIES = 100


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def is_free(host: str, port: int) -> bool:
    """Say whether a server could listen on `host`:`port` now.

    Raises:
        OSError: for any reason but the port being taken: no such address here, or a port below 1024 without the right.
    """
    with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free for a server
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                return False
            raise
    return True


def pick_free(host: str = "127.0.0.1") -> int:
    """Return a port nobody listens on at this moment.

    It is none of those that kernels give to outgoing connections, of which any could take it before a server does.
    """
    for _ in range(TRIES):
        port = FIRST_PICKED + secrets.randbelow(LAST_PICKED - FIRST_PICKED)
        if is_free(host, port):
            return port
    with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        chosen: int = probe.getsockname()[1]
        return chosen


def holder_of(port: int) -> str:
    """Name the process that listens on `port`, as far as we may look; empty when we may not."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f"{psutil.Process(connection.pid).name()!r}, pid {connection.pid}"
    except (psutil.Error, OSError):
        return ""
    return ""


def require_free(host: str, port: int, *, variable: str) -> None:
    """Return when a server may listen on `host`:`port`.

    Raises:
        LauncherError: it may not; names the port, the variable that moves it, and the holder where it can be seen.
    """
    try:
        if is_free(host, port):
            return
    except OSError as exc:
        raise LauncherError(
            f"cannot listen on {host}:{port} ({variable}={port}): {exc.strerror or exc}; set {variable} to another port"
        ) from exc
    holder = holder_of(port)
    by = f" by {holder}" if holder else ""
    raise LauncherError(f"port {port} is in use{by}; stop it, or set {variable} to a free port")


def recall_port(memory: Path, name: str) -> int:
    """Return the port `name` had last time if it is still free, else a free one, and remember it in `memory`.

    Shape of the file: {"postgres": 40123, "redis": 40124}. A damaged file is the same as none.
    """
    ports = _read(memory)
    port = ports.get(name)
    if port is None or not is_free("127.0.0.1", port):
        port = pick_free()
        # Two servers of one copy must not be handed the same port while neither listens yet.
        while port in ports.values():
            port = pick_free()
        memory.parent.mkdir(parents=True, exist_ok=True)
        memory.write_text(json.dumps({**ports, name: port}))
    return port


def port_in_use(memory: Path, name: str) -> int:
    """Return the port that `name` listens on, of the copy that runs.

    Raises:
        LauncherError: it does not run.
    """
    port = _read(memory).get(name)
    if port is None or is_free("127.0.0.1", port):
        raise LauncherError(f"{name} of this copy does not run; `make run` starts it")
    return port


def _read(memory: Path) -> dict[str, int]:
    try:
        stored = json.loads(memory.read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(stored, dict):
        return {}
    return {str(name): port for name, port in stored.items() if isinstance(port, int) and 0 < port < 65536}
