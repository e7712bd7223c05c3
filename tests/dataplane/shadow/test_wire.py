"""How offers reach the shadow process: over a socket that only its own user can use, cut however the network likes."""

from __future__ import annotations

import asyncio
import os
import socket
import stat

import orjson
import pytest

from dataplane.shadow.offers import MAX_OFFER_BYTES
from dataplane.shadow.wire import MAX_PATH_BYTES, connect, frame, is_local, listen, port_file

PATIENCE_SECONDS = 60


class Taken(list):
    """What was taken, and a way to wait for it."""

    def __init__(self):
        super().__init__()
        self._more = asyncio.Event()

    def __call__(self, data):
        self.append(data)
        self._more.set()

    async def wait_for(self, number):
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self) < number:
                self._more.clear()
                await self._more.wait()


@pytest.fixture
def local(tmp_path_factory):
    """A path that a socket can have, however long the names of a run's directories are."""
    path = tmp_path_factory.mktemp("s") / "shadow.sock"
    relative = type(path)(os.path.relpath(path))
    return path if is_local(path) else relative


@pytest.fixture
def remote(tmp_path):
    """A path that is too long for one."""
    return tmp_path / ("d" * MAX_PATH_BYTES) / "shadow.sock"


@pytest.mark.parametrize("kind", ["local", "remote"])
async def test_frames_arrive_as_they_were_sent(request, kind):
    """Several in one write, one in several, and the longest that there can be."""
    path, taken = request.getfixturevalue(kind), Taken()
    server = await listen(path, taken)
    transport = await connect(path)

    payloads = [b"one", b"", b"x" * MAX_OFFER_BYTES]
    data = b"".join(map(frame, payloads))
    transport.write(data[:5])
    transport.write(data[5:])
    await taken.wait_for(3)

    assert list(taken) == payloads
    transport.abort()
    server.close()


async def test_socket_is_its_users_alone(local):
    """Nobody else on the machine can hand anything over."""
    server = await listen(local, Taken())

    mode = stat.S_IMODE(os.stat(local).st_mode)

    assert mode & 0o077 == 0
    server.close()


async def test_port_is_told_to_its_user_alone_with_a_token(remote):
    """Whoever cannot read the file cannot say the token, and is hung up on."""
    taken = Taken()
    server = await listen(remote, taken)
    told = orjson.loads(port_file(remote).read_bytes())
    assert stat.S_IMODE(os.stat(port_file(remote)).st_mode) == 0o600

    reader, writer = await asyncio.open_connection("127.0.0.1", told["port"])
    writer.write(frame(b"0" * 16) + frame(b"an offer"))
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await reader.read() == b""

    assert list(taken) == []
    writer.close()
    server.close()


async def test_what_is_no_frame_is_hung_up_on(local):
    """A length that nothing may have is not waited for."""
    taken = Taken()
    server = await listen(local, taken)
    reader, writer = await asyncio.open_unix_connection(str(local))

    writer.write((MAX_OFFER_BYTES + 1).to_bytes(4) + b"x")
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert await reader.read() == b""

    assert list(taken) == []
    writer.close()
    server.close()


async def test_socket_of_a_killed_process_is_taken_over(local):
    """What it left is in nobody's way."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(local))
    taken = Taken()

    server = await listen(local, taken)
    transport = await connect(local)
    transport.write(frame(b"here"))
    await taken.wait_for(1)

    assert list(taken) == [b"here"]
    transport.abort()
    server.close()


@pytest.mark.parametrize("kind", ["local", "remote"])
async def test_nobody_listening_is_an_os_error(request, kind):
    """Which whoever hands over counts as away."""
    with pytest.raises(FileNotFoundError):
        await connect(request.getfixturevalue(kind))


async def test_port_file_that_cannot_be_read_is_an_os_error(remote):
    """Half written, say."""
    remote.parent.mkdir(parents=True)
    port_file(remote).write_bytes(b'{"port": ')

    with pytest.raises(OSError, match="holds no port"):
        await connect(remote)
