"""A gateway process that is told to stop: whoever reads a stream reads how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket

import httpx
import pytest
import uvicorn

from dataplane.process import DrainingServer, _beating_on


class Status:
    """Stands in for the reports: remembers what the fleet was told."""

    def __init__(self):
        self.said = []

    def set_status(self, status):
        self.said.append(status)


async def test_streams_end_before_their_connections_are_cut():
    """Shortly before the time to drain is over they are told to, and their callers get the last event."""
    interrupted, reports = asyncio.Event(), Status()

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first ", "more_body": True})
        await interrupted.wait()
        await send({"type": "http.response.body", "body": b"and last"})

    # One second to drain, which is less than the last call comes before its end: it comes at once.
    config = uvicorn.Config(app, timeout_graceful_shutdown=1, lifespan="off", log_level="warning", access_log=False)
    server = DrainingServer(config, reports=reports, interrupt=interrupted.set)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with httpx.AsyncClient(timeout=60) as client, client.stream("GET", url) as response:
            pieces = response.aiter_text()
            begun = await anext(pieces)
            server.should_exit = True

            rest = [piece async for piece in pieces]

        await serving

    assert ([begun, *rest], reports.said) == (["first ", "and last"], ["draining"])


class Draining:
    """A server with an application that says whether it is ready, and a signal that tells it to stop."""

    def __init__(self, listener, *, grace_seconds):
        self.is_ready = True
        self.status = Status()
        config = uvicorn.Config(
            self.app,
            interface="asgi3",  # which uvicorn cannot tell of a method
            timeout_graceful_shutdown=1,
            lifespan="off",
            log_level="warning",
            access_log=False,
        )
        self.server = DrainingServer(
            config, reports=self.status, interrupt=lambda: None, announce=self.announce, grace_seconds=grace_seconds
        )
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.serving = asyncio.create_task(self.server.serve(sockets=[listener]))

    def announce(self):
        self.is_ready = False

    async def app(self, scope, receive, send):
        status = 503 if scope["path"] == "/readyz" and not self.is_ready else 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def statuses(self):
        """Of a probe and of a request, each over a connection of its own."""
        async with httpx.AsyncClient(timeout=60) as client:
            return [(await client.get(f"{self.url}{path}")).status_code for path in ("/readyz", "/v1/models")]


async def test_process_that_is_told_to_stop_serves_on_while_it_says_so():
    """Not ready first, and requests are taken as before; a second SIGTERM changes nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        draining = Draining(listener, grace_seconds=3600)
        before = await draining.statuses()

        draining.server.handle_exit(signal.SIGTERM, None)
        draining.server.handle_exit(signal.SIGTERM, None)
        during = await draining.statuses()

        assert (before, during) == ([200, 200], [503, 200])
        assert draining.status.said == ["draining"]
        draining.server.handle_exit(signal.SIGINT, None)
        draining.server._captured_signals.clear()  # else they would end this process too
        await draining.serving


async def test_socket_is_closed_once_the_grace_is_over():
    """Nobody is taken any more, and the server ends by itself, by the signal that it got."""
    ended_by = []
    before = signal.signal(signal.SIGTERM, lambda number, _: ended_by.append(number))
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            draining = Draining(listener, grace_seconds=0.2)
            await draining.statuses()

            draining.server.handle_exit(signal.SIGTERM, None)
            await draining.serving

        with pytest.raises(httpx.ConnectError):
            await draining.statuses()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended_by == [signal.SIGTERM]


async def test_without_a_grace_it_stops_at_once():
    """As the demo and the tests do."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        draining = Draining(listener, grace_seconds=0)
        await draining.statuses()

        draining.server.handle_exit(signal.SIGTERM, None)

        assert draining.server.should_exit
        draining.server._captured_signals.clear()
        await draining.serving


async def test_event_loop_that_turns_stamps_the_pipe():
    """What the supervisor counts."""
    reader, writer = os.pipe()
    config = uvicorn.Config(lambda *_: None, lifespan="off", log_level="warning")
    server = DrainingServer(config, reports=Status(), interrupt=lambda: None, beat=_beating_on(writer))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        stamps = await asyncio.to_thread(os.read, reader, 1)
        server.should_exit = True
        await serving
    os.close(reader)

    _beating_on(writer)()  # a supervisor that is gone is no error
    os.close(writer)

    assert stamps == b"."
