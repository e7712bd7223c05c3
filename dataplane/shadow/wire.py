"""How offers reach the shadow process of their host: frames over a Unix domain socket, which asks for nothing back.

Where there are no such sockets, or the path is longer than they can have, it is a port of the loopback interface: the
process writes the port and a token beside the path, for its own user alone, and a connection begins with the token.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

import orjson

from dataplane.shadow.offers import MAX_OFFER_BYTES

LENGTH_BYTES: Final = 4
# What `sockaddr_un` holds, on every system that has it.
MAX_PATH_BYTES: Final = 100
TOKEN_BYTES: Final = 16


def frame(payload: bytes) -> bytes:
    """A payload as it is sent: its length in 4 bytes, most significant first, and itself."""
    return len(payload).to_bytes(LENGTH_BYTES) + payload


def is_local(path: Path) -> bool:
    """Whether a Unix domain socket can be at `path`."""
    return hasattr(socket, "AF_UNIX") and len(os.fsencode(path)) <= MAX_PATH_BYTES


def port_file(path: Path) -> Path:
    """Where the port is written that takes the place of a socket at `path`."""
    return path.with_name(f"{path.name}.port")


async def connect(path: Path) -> asyncio.WriteTransport:
    """Connect to who listens at `path`.

    Raises:
        OSError: nobody does.
    """
    loop = asyncio.get_running_loop()
    if is_local(path):
        transport, _ = await loop.create_unix_connection(asyncio.Protocol, str(path))
        return transport
    try:
        told = orjson.loads(port_file(path).read_bytes())
        port, token = int(told["port"]), bytes.fromhex(told["token"])
    except (ValueError, KeyError, TypeError) as exc:
        raise OSError(f"{port_file(path)} holds no port: {exc}") from exc
    transport, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", port)
    transport.write(frame(token))
    return transport


async def listen(path: Path, take: Callable[[bytes], None]) -> asyncio.Server:
    """Listen at `path`, and hand every frame to `take`, which must not wait.

    Raises:
        OSError: it cannot be listened there.
    """
    loop = asyncio.get_running_loop()
    if is_local(path):
        return await loop.create_unix_server(lambda: _Receiver(take, token=None), sock=_bind(path))
    token = secrets.token_bytes(TOKEN_BYTES)
    server = await loop.create_server(lambda: _Receiver(take, token=token), "127.0.0.1", 0)
    _tell_port(path, server.sockets[0].getsockname()[1], token)
    return server


def _bind(path: Path) -> socket.socket:
    """A socket at `path` for this user alone. What is there was left by a process that was killed: a living one holds
    its spool, which is opened before this.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o077)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    return listener


def _tell_port(path: Path, port: int, token: bytes) -> None:
    """Write for this user alone where is listened in the place of `path`."""
    file = port_file(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as told:
        told.write(orjson.dumps({"port": port, "token": token.hex()}))


class _Receiver(asyncio.Protocol):
    """One connection. Whoever sends what is no frame of ours is hung up on."""

    def __init__(self, take: Callable[[bytes], None], *, token: bytes | None) -> None:
        self._take = take
        self._token = token
        self._buffer = bytearray()
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        while len(buffer) >= LENGTH_BYTES:
            length = int.from_bytes(buffer[:LENGTH_BYTES])
            if length > (MAX_OFFER_BYTES if self._token is None else TOKEN_BYTES):
                self._hang_up()
                return
            end = LENGTH_BYTES + length
            if len(buffer) < end:
                return
            payload = bytes(buffer[LENGTH_BYTES:end])
            del buffer[:end]
            if self._token is None:
                self._take(payload)
            elif secrets.compare_digest(payload, self._token):
                self._token = None
            else:
                self._hang_up()
                return

    def _hang_up(self) -> None:
        self._buffer.clear()
        if self._transport is not None:
            self._transport.close()
