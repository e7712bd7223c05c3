"""A gateway process that is told to stop: whoever reads a stream reads how it ends."""

from __future__ import annotations

import asyncio
import socket

import httpx
import uvicorn

from dataplane.process import DrainingServer


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
