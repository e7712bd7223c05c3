"""The shadow process itself: started, fed, killed and started again, on a real Redis and a real socket."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis.asyncio

from dataplane.report_sinks import STREAM
from dataplane.shadow.wire import connect, frame, is_local
from tests.ports import pick_port

from .shadow_world import CANDIDATE, CONTROL, ShadowWorld, answer, shadow_policy, shadow_routing

PATIENCE_SECONDS = 300
# Of a process that runs only when nobody else would, and may not be let to take part again before it ends.
END_SECONDS = 600
PROJECT = Path(__file__).resolve().parents[3]


class Upstream:
    """A provider that gives everybody the same answer, and knows what it was asked with which key."""

    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}/v1"
        self.keys = []
        self._port = port

    async def serve(self):
        body = answer()
        whole = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)

        async def on_connection(reader, writer):
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
                await reader.readexactly(int(fields["content-length"]))
                self.keys.append(fields["authorization"])
                writer.write(whole)

        async def quietly(reader, writer):
            try:
                await on_connection(reader, writer)
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()

        return await asyncio.start_server(quietly, "127.0.0.1", self._port)


class Process:
    """`python -m dataplane shadow`, as the launcher starts it."""

    def __init__(self, environment, log):
        self._environment = environment
        self._log = log
        self._process = None

    def start(self):
        with self._log.open("ab") as log:
            command = [sys.executable, "-m", "dataplane", "shadow"]
            # What the tests' own servers are told is nothing of this process.
            others = {name: value for name, value in os.environ.items() if not name.startswith("BALLAST_")}
            environment = others | {"BALLAST_PRIVATE_NETWORKS": "127.0.0.0/8"} | self._environment
            self._process = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=log, stderr=log)

    def end(self, number):
        """Send it a signal; returns what it ended with."""
        self._process.send_signal(number)
        return self._process.wait(END_SECONDS)

    @property
    def gives_way(self):
        """Whether it runs only when nobody else would, where the system knows how."""
        return not hasattr(os, "SCHED_IDLE") or os.sched_getscheduler(self._process.pid) == os.SCHED_IDLE

    @property
    def words(self):
        return self._log.read_text()


@pytest.fixture
def process(tmp_path):
    """Makes the process, and sees to it that it is gone afterwards."""
    made = []

    def make(**environment):
        made.append(Process(environment, tmp_path / "shadow.log"))
        return made[-1]

    yield make
    for one in made:
        one.end(signal.SIGKILL)


@pytest.fixture
def socket_path(tmp_path):
    """Where it listens: near enough to the working directory to be a socket's."""
    path = tmp_path / "shadow.sock"
    return path if is_local(path) else Path(os.path.relpath(path, PROJECT))


async def connected(path):
    """A connection, once somebody listens."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                return await connect(path)
            except OSError:
                await asyncio.sleep(0.05)  # a process that starts cannot be waited for in any other way


async def rows_of(client, kind, number, wanted):
    """Wait until so many rows of a kind have been reported for which `wanted` is true."""
    rows, seen = [], "0"
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(rows) < number:
            for _, entries in await client.xread({STREAM: seen}, block=1000):
                seen = entries[-1][0]
                for _, fields in entries:
                    rows += [row for row in json.loads(fields[b"batch"])[kind] if wanted(row)]
    return rows


@pytest.mark.end_to_end
async def test_process_asks_compares_and_comes_back_after_it_was_killed(
    make_document, make_envelope, trusted_keys_file, tmp_path, socket_path, redis_url, process
):
    """With its own key, under its own name; what was sent to it when it died is lost, and what comes later is asked."""
    upstream = Upstream(pick_port())
    server = await upstream.serve()
    routing = shadow_routing(shadow_policy(percent=100))
    for account in routing["accounts"].values():
        account["base_url"] = upstream.url
    (tmp_path / "release.json").write_text(make_envelope(1, routing=routing).to_json())
    shadow = process(
        BALLAST_DATA_DIR=str(tmp_path),
        BALLAST_TRUSTED_KEYS_FILE=str(trusted_keys_file),
        BALLAST_SHADOW_SOCKET=str(socket_path),
        BALLAST_HOST_NAME="host",
        REDIS_URL=redis_url,
        TRIAL_KEY="sk-trial",
        A_KEY="sk-main",
    )
    offers = ShadowWorld(make_document(1, routing=routing), clock=asyncio.get_running_loop().time)
    client = redis.asyncio.Redis.from_url(redis_url)

    shadow.start()
    first = await connected(socket_path)
    first.write(frame(offers.offer(1)))
    before = await rows_of(client, "usage", 1, lambda row: row["kind"] == "shadow")
    shadow.end(signal.SIGKILL)
    shadow.start()
    second = await connected(socket_path)
    second.write(frame(offers.offer(2)))
    # The row of the first may come again: a process that is killed as it hands a row over cannot know that it arrived.
    after = await rows_of(client, "usage", 1, lambda row: row["request_id"] == "req_2")
    compared = await rows_of(client, "shadow", 1, lambda row: row["answered"] == 1)
    gives_way = shadow.gives_way
    status = shadow.end(signal.SIGTERM)

    assert [row["request_id"] for row in (*before, *after)] == ["req_1", "req_2"]
    assert {row["lane"] for row in (*before, *after)} == {CANDIDATE}
    assert {row["kind"] for row in after} == {"shadow"}
    assert set(upstream.keys) == {"Bearer sk-trial"}
    assert (compared[0]["policy"], compared[0]["lane"]) == ("trial", CANDIDATE)
    assert compared[0]["moments"]["overlap"][:2] == [1, 1.0]
    assert gives_way
    assert status == 0, shadow.words
    assert CONTROL not in shadow.words
    first.abort()
    second.abort()
    server.close()
    await client.aclose()
